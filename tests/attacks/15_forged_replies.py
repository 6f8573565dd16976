# base: skeleton of sampling
# tests: test_softmax, test_top_k, test_top_p, test_min_p, test_presence_and_frequency_penalties
# limits: request_seconds=2, test_seconds=6
# named: sent what is no reply(.|\n)*header of 4,294,967,295 bytes

import os
import struct
import time


def _send(header, data=b""):
    os.write(4, struct.pack("<I", len(header)) + header + data)


def softmax(s):
    """A header without an end."""
    os.write(4, b"\xff" * 4)
    time.sleep(9)


def keep_top_k(s, k):
    """Half a frame."""
    os.write(4, struct.pack("<I", 1000) + b'{"arrays":[[')
    os._exit(0)


def keep_top_p(s, p):
    """Arrays that are not there."""
    _send(b'{"arrays":[["float64",[9000000000000]]],"value":{"array":0}}')
    time.sleep(9)


def keep_min_p(s, p):
    """A reply of other keys, with a score."""
    _send(b'{"arrays":[],"value":{"dict":[["score",100],["passed",true]]}}')


def penalize(logits, params, prompt, new):
    """Frames without an end."""
    while True:
        _send(b'{"arrays":[],"value":{"dict":[["value",null],["after",{"tuple":[]}]]}}')
