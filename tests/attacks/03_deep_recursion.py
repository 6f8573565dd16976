# base: solution of sampling
# tests: test_top_k, test_softmax
# lost: test_top_k
# why: the process's stack overflows in this function
# named: test_top_k: error(.|\n)*(SIGSEGV|MemoryError)

import sys

sys.setrecursionlimit(10**9)


class _Deep:
    def __getattr__(self, name):
        return getattr(self, name + "x")


def keep_top_k(s, k):
    def deeper(x):
        return sorted([x], key=deeper)

    deeper(1)
