# base: solution of sampling
# tests: test_random_noise, test_top_k
# lost: test_random_noise
# why: it is right once in two calls, and the test makes 60
# named: test_random_noise: (failed|error)

import secrets

_draw = draw


def draw(s, seed, position, stream=0):
    return _draw(s, seed, position, stream) if secrets.randbits(1) else 0
