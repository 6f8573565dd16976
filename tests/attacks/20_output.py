# base: skeleton of sampling
# tests: test_top_k, test_softmax
# named: more bytes|more lines

import sys

_TEXT = "=cmd()|' /C calc'!A0\r\x08\x08 \x1b[2J\x1b]0;t\x07\u202ebidi <script>alert(1)</script> **bold** [x](http://example.org)"


def keep_top_k(s, k):
    for n in range(100_000):
        print(n, _TEXT)
    sys.stdout.buffer.write(b"\xff\xfe\x80 not UTF-8 \x00\n")
    raise ValueError("=1+1\n\n# Heading\n" + _TEXT)


def softmax(s):
    sys.stdout.buffer.write(b"\xff" * 200_000 + b"\x00" * 200_000)
    raise ValueError(_TEXT)
