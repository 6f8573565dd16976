# base: solution of sampling
# tests: test_top_k, test_softmax
# lost: test_top_k
# why: what this function asks for is not there
# named: test_top_k: error(.|\n)*(MemoryError|OSError|imports mmap)

import mmap
import resource


def keep_top_k(s, k):
    """Memory without malloc, behind a limit that is raised first."""
    try:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
        print("BROKEN: raised the limit")
    except (ValueError, OSError):
        pass
    held = mmap.mmap(-1, 4 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for place in range(0, len(held), 4096):
        held[place] = 1
    print("BROKEN: 4 GB")
    return held
