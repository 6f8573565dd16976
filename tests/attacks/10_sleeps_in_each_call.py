# base: solution of sampling
# tests: test_draws_follow_the_law, test_softmax
# lost: test_draws_follow_the_law
# why: each call stays below its limit, and all calls of the test do not
# limits: request_seconds=1, test_seconds=2.5
# named: test_draws_follow_the_law: timeout

import time

_draw = draw


def draw(s, seed, position, stream=0):
    time.sleep(0.9)
    return _draw(s, seed, position, stream)
