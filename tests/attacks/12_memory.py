# base: solution of sampling
# tests: test_top_k, test_softmax, test_top_p, test_noise_of_a_seed
# lost: test_top_k, test_softmax, test_top_p
# why: what these functions ask for is not there
# limits: request_seconds=20, cpu_seconds=20
# named: test_softmax: error\n.*(MemoryError|memory)(.|\n)*MemoryError(.|\n)*RecursionError


def keep_top_k(s, k):
    big = np.ones(10 * (1 << 30), dtype=np.uint8)
    print("BROKEN: 10 GB")
    return big


def softmax(s):
    many = [[n] for n in range(10_000_000)]
    print("BROKEN: ten million objects")
    return many


def keep_top_p(s, p):
    return keep_top_p(s, p)
