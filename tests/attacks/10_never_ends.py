# base: solution of sampling
# tests: test_top_k, test_top_p, test_min_p, test_softmax
# lost: test_top_k, test_top_p, test_min_p
# why: no answer came in time; test_softmax does not call these functions
# limits: request_seconds=1, test_seconds=5
# named: test_top_k: timeout(.|\n)*did not answer within 1 seconds(.|\n)*test_min_p: timeout

import re
import signal
import time


def keep_top_k(s, k):
    while True:
        pass


def keep_top_p(s, p):
    """Signals do not stop it."""
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    while True:
        time.sleep(100)


def keep_min_p(s, p):
    """Python does not come back from this match."""
    re.match("(a*)*b", "a" * 50)
