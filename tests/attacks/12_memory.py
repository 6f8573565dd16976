# base: solution of sampling
# tests: test_top_k, test_top_p, test_min_p, test_softmax
# lost: test_top_k, test_top_p, test_min_p
# why: what these functions ask for is not there
# limits: request_seconds=20, cpu_seconds=20
# named: MemoryError(.|\n)*MemoryError(.|\n)*RecursionError


def keep_top_k(s, k):
    big = np.ones(10 * (1 << 30), dtype=np.uint8)
    print("BROKEN: 10 GB")
    return big


def keep_top_p(s, p):
    many = [[n] for n in range(10_000_000)]
    print("BROKEN: ten million objects")
    return many


def keep_min_p(s, p):
    return keep_min_p(s, p)
