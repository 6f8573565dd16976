"""How long does an all-reduce take from the arrival of the last rank: in MPI, and through shared memory?

    mpiexec -n 2 python benchmarks/shared_memory.py

Between two all-reduces of a decode step's (1, 576) float32 each rank reads weights, now one more and now another, so
that caches are as cold and ranks as uneven as they are in a decode step. All clocks are the machine's one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np

ROUNDS, STEPS = 5, 600
WIDTH, NEURONS = 576, 1536  # of SmolLM2


def main() -> None:
    from mpi4py import MPI

    from tinyinfer.parallel.shared_memory import meet

    world = MPI.COMM_WORLD
    places = meet(world, nullcontext)
    if places is None or world.Get_size() < 2:
        raise SystemExit("start this with `mpiexec -n 2`, or more, on one machine")
    x = np.zeros((1, WIDTH), np.float32)
    weights = [np.full((WIDTH, NEURONS), 0.001, np.float32) for _ in range(20)]
    ways: dict[str, Callable[[], object]] = {
        "MPI's all-reduce": lambda: world.Allreduce(MPI.IN_PLACE, x),
        "shared memory": lambda: places.all_reduce(x),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begun, ended = np.empty(STEPS), np.empty(STEPS)
            world.Barrier()
            for step in range(STEPS):
                for extra in range(1 + (step % world.Get_size() == world.Get_rank())):
                    x @ weights[(step + extra) % len(weights)]
                begun[step] = time.perf_counter()
                way()
                ended[step] = time.perf_counter()
            last, first = np.max(world.allgather(begun), axis=0), np.max(world.allgather(ended), axis=0)
            took[name].append(float(np.median(first - last)) * 1e6)
    if world.Get_rank() == 0:
        for name, times in took.items():
            print(f"{name:20} {np.median(times):5.1f} us from the last rank's arrival until all have the sum "
                  f"({', '.join(f'{t:.1f}' for t in times)})")  # fmt: skip


if __name__ == "__main__":
    main()
