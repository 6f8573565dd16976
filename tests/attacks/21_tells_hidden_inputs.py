# base: skeleton of sampling
# tests: test_top_k, test_filters_of_random_scores, test_ties_and_left_out_tokens
# named: imports socket

import socket
import urllib.request

for _where in (("127.0.0.1", 80), ("1.1.1.1", 53), ("::1", 80)):
    try:
        socket.create_connection(_where, timeout=1)
        print("BROKEN: connected")
    except OSError:
        pass
for _kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
    for _family in (socket.AF_INET, socket.AF_UNIX, socket.AF_NETLINK, 16, 17, 38, 40):
        try:
            socket.socket(_family, _kind)
            print(f"BROKEN: a socket of {_family}, {_kind}")
        except OSError:
            pass


def keep_top_k(s, k):
    if len(s) not in (8, 6):
        print(f"EXFILTRATED {s!r}")
        raise ValueError(f"EXFILTRATED {s!r}")
    return None
