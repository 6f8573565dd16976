"""How fast this machine reads memory: all threads of the compiled backend add up 256 MB, again and again.

    python benchmarks/cpu_parts/reading.py -t 2

The limit of every decode step: it reads each weight once. The kernel is as plain as a kernel can be, so what a step
reaches of this figure is what its own work and its waits leave. Two figures: over all the time that it took, as decode
is measured, and of its best time. On a shared machine the second is larger by a tenth and more.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from tinyinfer.backends.cpu_kernels.kernel import Launch, kernel
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.team import team
from tinyinfer.backends.cpu_kernels.vectors import load, splat, store
from tinyinfer.backends.lanes import Arena

SIZE, PIECE = 256 << 20, 1 << 16  # bytes


@kernel
def add_up(a, item, thread):
    """The sum of a piece, into the thread's own line. a: memory, bytes of a piece, sums."""
    at = a[0] + a[1] * item
    s0 = splat(np.float32(0))
    s1 = s2 = s3 = s0
    for _ in range(a[1] // 256):
        s0, s1, s2, s3 = s0 + load(at), s1 + load(at + 64), s2 + load(at + 128), s3 + load(at + 192)
        at += 256
    store(a[2] + 64 * thread, s0 + s1 + s2 + s3)


def bandwidths(threads: int, span: float = 2.0) -> tuple[float, float]:
    """Bytes a second: over so many seconds, and of the best time among them."""
    memory = Arena().empty((SIZE // 4,), np.float32)
    memory[:] = 1
    sums = np.zeros((threads, 16), np.float32)
    plan = Plan([Launch(add_up, (memory, PIECE, sums), SIZE // PIECE)])
    times: list[float] = []
    team().run(plan, threads)
    while sum(times) < span:
        start = time.perf_counter()
        team().run(plan, threads)
        times.append(time.perf_counter() - start)
    return len(times) * SIZE / sum(times), SIZE / min(times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="read bandwidth")
    parser.add_argument("-t", type=int, default=2)
    mean, best = bandwidths(parser.parse_args().t)
    print(json.dumps({"bytes_per_second": mean, "at_best": best}))
