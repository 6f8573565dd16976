# base: skeleton of sampling
# tests: test_top_k, test_ties_and_left_out_tokens
# named: uses open

import gc
import glob
import os
import sys
import types

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
for _found in gc.get_objects():
    if isinstance(_found, types.FunctionType) and _found.__name__.startswith("test_"):
        print(f"BROKEN: {_found.__name__} lies in the memory")
if any("test_ties" in _name or "hidden_sampling" in _name for _name in sys.modules):
    print("BROKEN: hidden tests are imported")
