# base: skeleton of sampling
# tests: test_top_k, test_ties_and_left_out_tokens
# named: ignored: test_sampling.py \(it differs from the tests

import os

_PATHS = ("test_sampling.py", "../../submission/assignment.toml", "../package/tinyinfer/course/sandbox/child.py")
for _path in (*_PATHS, __file__):
    try:
        os.open(_path, os.O_RDWR)
        print(f"BROKEN: opened {_path}")
    except OSError:
        pass
