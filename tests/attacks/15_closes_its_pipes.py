# base: solution of sampling
# tests: test_top_k, test_top_p, test_min_p, test_softmax
# lost: test_top_k, test_top_p, test_min_p
# why: these functions close what their answers go through
# limits: request_seconds=3, test_seconds=6
# named: test_top_k: error\n.*closed its pipe and ran on(.|\n)*test_min_p: (error|timeout)

import os
import time


def keep_top_k(s, k):
    """Both pipes are closed, and the process goes on."""
    os.closerange(0, 64)
    time.sleep(9)


def keep_top_p(s, p):
    """The pipe of replies is another file now; a copy of the pipe stays open in a thread."""
    os.dup(4)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 4)
    return s


def keep_min_p(s, p):
    """The requests come back as replies."""
    os.dup2(3, 4)
    return s
