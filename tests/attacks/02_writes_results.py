# base: solution of sampling
# tests: test_top_k, test_ties_and_left_out_tokens
# named: imports threading

import atexit
import os
import threading
import time

_PLACES = ("../../results.json", "../../../results.json", "/autograder/results/results.json", "results.json",
            "../../tinyinfer_attack.json", "/tmp/tinyinfer_attack.json", "/dev/shm/tinyinfer_attack.json")


def _forge():
    for path in _PLACES:
        try:
            with open(path, "w") as file:
                file.write('{"score": 100}')
            print(f"BROKEN: wrote {path}")
        except OSError:
            pass


def _late():
    time.sleep(0.5)
    _forge()


def _twice():
    """The classic: a grandchild in a session of its own, which writes when the grader has ended."""
    try:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for _ in range(20):
                    time.sleep(0.5)
                    _forge()
            os._exit(0)
        print("BROKEN: a new process")
    except OSError:
        pass


_forge()
atexit.register(_forge)
threading.Thread(target=_late, daemon=True).start()
_twice()
