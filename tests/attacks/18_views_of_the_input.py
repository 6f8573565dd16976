# base: solution of sampling
# tests: test_top_k, test_ties_and_left_out_tokens, test_inputs_stay_as_they_are
# lost: test_inputs_stay_as_they_are 3.5
# why: the caller's array is the result: it was written into
# named: keep_top_k writes into the array of its caller

_top_k, _views = keep_top_k, []


def keep_top_k(s, k):
    """The result is the caller's own memory, which is changed once more behind the reply."""
    s[:] = _top_k(s, k)
    _views.append(s)
    for view in _views[:-1]:
        view[:] = 7.0
    return s[:]
