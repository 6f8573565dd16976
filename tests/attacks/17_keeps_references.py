# base: solution of sampling
# tests: test_top_k, test_min_p, test_inputs_stay_as_they_are
# lost: test_inputs_stay_as_they_are 3.5
# why: a function that writes into its inputs is what this test is for
# named: keep_top_k writes into the array of its caller

_kept = []
_top_k, _min_p = keep_top_k, keep_min_p


def keep_top_k(s, k):
    """Later calls change what was given before, and what was returned."""
    for old in _kept:
        old[:] = np.nan
    result = _top_k(s, k)
    _kept.extend([s, result])
    s[:] = result
    return result


def keep_min_p(s, p):
    result = _min_p(s, p)
    _kept.append(result)
    return result
