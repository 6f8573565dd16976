# base: skeleton of sampling
# tests: test_top_k, test_ties_and_left_out_tokens
# named: uses open

import ctypes
import gc
import glob
import os
import sys

_FILES = ["../../hidden/secret", "../../hidden/hidden_sampling.py", "../../../hidden/secret", "/autograder/source",
          f"/proc/{os.getppid()}/cwd/hidden/secret", *glob.glob("/tmp/*/hidden/*"), *glob.glob("/autograder/**")]
for _path in _FILES:
    try:
        with open(_path, "rb") as _file:
            _file.read(10)
        print(f"BROKEN: read {_path}")
    except OSError:
        pass
try:
    with open("/proc/self/mem", "rb") as _file:
        print("BROKEN: read its own memory by path")
except OSError:
    pass
if any("hidden_" in str(_found)[:200] and "function test" in str(_found)[:200] for _found in gc.get_objects()[:20000]):
    print("BROKEN: a hidden test lies in the memory")
if any("test_ties" in _name or "hidden_sampling" in _name for _name in sys.modules):
    print("BROKEN: hidden tests are imported")
for _fd in range(3, 64):
    try:
        _flags = os.get_blocking(_fd)
    except OSError:
        continue
    _name = ctypes.create_string_buffer(200)
