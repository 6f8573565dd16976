# base: skeleton of sampling
# tests: test_softmax, test_top_k, test_top_p, test_min_p, test_noise_of_a_seed
# limits: request_seconds=3, test_seconds=9
# named: sent what is no reply(.|\n)*sent what is no reply(.|\n)*sent what is no reply(.|\n)*sent what is no reply

import os
import struct


def _send(value, arrays=b"[]", data=b""):
    header = b'{"arrays":' + arrays + b',"value":{"dict":[["value",' + value + b'],["after",[]]]}}'
    frame = struct.pack("<I", len(header)) + header + data
    while frame:
        frame = frame[os.write(4, frame):]


def softmax(s):
    """Negative sizes, sizes that are no numbers, an object of Python's."""
    _send(b'{"array":0}', b'[["float64",[-3]]]')


def keep_top_k(s, k):
    _send(b'{"array":0}', b'[["object",[1]]]', b"x" * 8)


def keep_top_p(s, p):
    _send(b'{"array":0}', b'[["float64",[NaN]]]')


def keep_min_p(s, p):
    """Nested a hundred thousand deep."""
    _send(b"[" * 100_000 + b"]" * 100_000)


def draw(s, seed, position, stream=0):
    """A whole number of a million digits."""
    _send(b"9" * 900_000)


add_noise = draw
