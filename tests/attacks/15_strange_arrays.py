# base: skeleton of sampling
# tests: test_softmax, test_top_k, test_top_p, test_min_p, test_order_of_filters
# named: wrong byte order(.|\n)*dtype object(.|\n)*dtype

_count = 0


def softmax(s):
    return s.astype(">f8")


def keep_top_k(s, k):
    return s.astype(object)


def keep_top_p(s, p):
    return np.zeros(len(s), dtype=np.dtype("f8", metadata={"score": 100}))[::-1]


def keep_min_p(s, p):
    return np.array(0.0)


def filtered(*a):
    global _count
    _count += 1
    kinds = [np.zeros((2, 0, 3)), np.zeros(3, "S5"), np.zeros(3, "datetime64[s]"), np.zeros(3, [("a", "f8")]),
             np.zeros(3, complex), np.full((1, 8), np.nan), np.lib.stride_tricks.as_strided(np.zeros(1), (8,), (0,))]
    return kinds[_count % len(kinds)]
