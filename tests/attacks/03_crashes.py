# base: solution of sampling
# tests: test_top_k, test_top_p, test_min_p, test_softmax
# lost: test_top_k, test_top_p, test_min_p
# why: the process is gone, so that nothing answers; test_softmax does not call these functions
# named: ended by SIGSEGV(.|\n)*ended by SIGABRT(.|\n)*ended by SIGKILL

import ctypes
import faulthandler
import os

faulthandler.enable()


def keep_top_k(s, k):
    ctypes.string_at(0)


def keep_top_p(s, p):
    os.abort()


def keep_min_p(s, p):
    os.kill(os.getpid(), 9)
