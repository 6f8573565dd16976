# base: solution of sampling
# tests: test_top_k, test_softmax
# lost: test_top_k 2
# why: the second reply to one request is taken for the reply to the next one, and is compared as such
# named: test_top_k: (failed|error|partial)

import tinyinfer.course.sandbox.child

_answer = tinyinfer.course.sandbox.child.answer


def _twice(server, frame):
    reply = _answer(server, frame)
    return reply + reply if b'"keep_top_k"' in frame else reply


tinyinfer.course.sandbox.child.answer = _twice
