"""What every Comm promises, checked by each rank: as threads, and by `mpiexec -n N python contract.py`.

With `gpu` or `fake` behind it, the ranks have GPUs, or think so (fake_cupy.py). xp: the module of the arrays that are
sent: NumPy, or that of a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinyinfer.arrays import to_host
from tinyinfer.ledger import Ledger
from tinyinfer.parallel.collectives import ring_all_reduce, tree_all_reduce
from tinyinfer.parallel.comm import Comm


def of(rank: int, shape: tuple[int, ...]) -> np.ndarray:  # -> shape
    """Whole numbers that are another rank's alone, so that sums are exact in any order."""
    return np.random.default_rng(rank).integers(-1000, 1000, shape).astype(np.float32)


def same(x: Any, wanted: np.ndarray) -> None:
    """Asserts that an array, wherever it lies, has these numbers, in this type."""
    assert x.dtype == wanted.dtype
    np.testing.assert_array_equal(to_host(x), wanted)


def check(comm: Comm, xp: Any = np) -> str:
    """All promises; returns a word that the test looks for. Raises AssertionError."""
    n, me = comm.size, comm.rank
    for shape in ((7,), (2, 576), (1, 1), (0, 4), (50, 576), ()):  # (50, 576) is too large for shared memory
        total = sum((of(rank, shape) for rank in range(n)), np.zeros(shape, np.float32))
        for way in (comm.all_reduce, lambda x: ring_all_reduce(x, comm), lambda x: tree_all_reduce(x, comm)):
            x = xp.asarray(of(me, shape))
            summed = way(x)
            same(summed, total)
        for root in range(n):
            same(comm.broadcast(xp.asarray(of(me, shape)), root), of(root, shape))
    for shape in ((3, 2), (300, 200)):
        for rank, x in enumerate(comm.all_gather(xp.asarray(of(me, shape)))):
            same(x, of(rank, shape))
    kept = comm.all_gather(xp.asarray(of(me, (3, 2))))
    for _ in range(3):
        comm.all_gather(xp.zeros((3, 2), np.float32))
    for rank, x in enumerate(kept):  # is not overwritten by the next ones
        same(x, of(rank, (3, 2)))
    lengths = [9000 * (rank % 2) + 1 for rank in range(n)]  # too large for shared memory on some ranks alone
    for rank, x in enumerate(comm.all_gather(xp.asarray(of(me, (lengths[me], 2))), lengths)):
        same(x, of(rank, (lengths[rank], 2)))
    lengths = [rank % 3 for rank in range(n)]
    for rank, x in enumerate(comm.all_gather(xp.asarray(of(me, (lengths[me], 5))), lengths)):
        same(x, of(rank, (rank % 3, 5)))
    assert comm.share({"rank": me}, n - 1) == {"rank": n - 1}
    check_all_to_all(comm, xp)
    check_messages(comm, xp)
    check_posts(comm)
    check_chain(comm, xp)
    check_progress(comm, xp)
    check_counts(comm, xp)
    check_split(comm, xp)
    comm.barrier()
    return f"rank {me} of {n} is content"


def check_all_to_all(comm: Comm, xp: Any) -> None:
    """Each rank has other rows for each, of some it has none, and the last one has none at all; then no rank has any.

    Rows that a rank keeps are not counted, and no message goes without rows.
    """
    n, me = comm.size, comm.rank
    for full in (n - 1, 0):  # ranks that have rows
        counts = [[(rank + 2 * to) % 4 if rank < full else 0 for to in range(n)] for rank in range(n)]
        sent, received = counts[me], [counts[rank][me] for rank in range(n)]
        given = [[of(10 * rank + to, (counts[rank][to], 5, 2)) for to in range(n)] for rank in range(n)]
        before = comm.ledger.copy()
        found = comm.all_to_all(xp.asarray(np.concatenate(given[me])), sent, received)
        work = comm.ledger - before
        same(found, np.concatenate([given[rank][me] for rank in range(n)]))
        leaving = [rows for to, rows in enumerate(sent) if to != me and rows]
        assert (work.messages_sent, work.bytes_sent) == (len(leaving), sum(leaving) * 5 * 2 * 4)


def check_messages(comm: Comm, xp: Any) -> None:
    """From rank to rank, in both directions, and in a ring."""
    n, me = comm.size, comm.rank
    for source in range(n):
        for to in range(n):
            if source == to:
                continue
            if me == source:
                comm.send(xp.asarray(of(source, (4,))), to)
            if me == to:
                same(comm.receive(xp.empty(4, np.float32), source), of(source, (4,)))
    if n > 1:
        y = comm.exchange(xp.asarray(of(me, (6, 2))), (me + 1) % n, xp.empty((6, 2), np.float32), (me - 1) % n)
        same(y, of((me - 1) % n, (6, 2)))


def check_chain(comm: Comm, xp: Any) -> None:
    """Rows that go from stage to stage: posts one way, of which the next rank takes each before it posts its own."""
    n, me = comm.size, comm.rank
    for step in range(3):
        x = xp.asarray(of(step, (5, 8)))
        if me:
            comm.receive(x, me - 1)
        x += 1
        if me < n - 1:
            comm.post(x, me + 1)
            x += 100  # the other one gets a copy
    same(x, of(2, (5, 8)) + me + 1 + 100 * (me < n - 1))


def check_halves(comm: Comm, xp: Any, dtype: Any) -> None:
    """Floats of 16 bits, of small whole numbers, so that sums are exact in any order."""
    n, me = comm.size, comm.rank
    mine = [(np.arange(6) + rank).astype(dtype) for rank in range(n)]
    total = np.sum(np.float32(mine), axis=0).astype(dtype)
    same(comm.all_reduce(xp.asarray(mine[me].copy())), total)
    same(comm.broadcast(xp.asarray(mine[me].copy()), n - 1), mine[n - 1])
    for rank, x in enumerate(comm.all_gather(xp.asarray(mine[me]))):
        same(x, mine[rank])
    same(comm.exchange(xp.asarray(mine[me]), (me + 1) % n, xp.empty(6, dtype), (me - 1) % n), mine[(me - 1) % n])


def check_posts(comm: Comm) -> None:
    """What does not wait: all ranks send at first, and receive then; objects and arrays in the order of their sending.

    Arrays of the host: a GPU's go one way (check_chain).
    """
    n, me = comm.size, comm.rank
    for to in range(n):
        if to != me:
            x = of(me, (3, 50_000))  # more than a library keeps for itself
            comm.tell({"from": me, "to": to, "long": "x" * 100_000}, to)
            comm.post(x, to)
            x[:] = 0  # a copy is on its way
            comm.tell("and", to)
    for source in range(n):
        if source != me:
            told = comm.hear(source)
            assert (told["from"], told["to"], len(told["long"])) == (source, me, 100_000)
            found = comm.receive(np.empty((3, 50_000), np.float32), source)
            np.testing.assert_array_equal(found, of(source, (3, 50_000)))
            assert comm.hear(source) == "and"


def check_progress(comm: Comm, xp: Any) -> None:
    """A large object that waits to be asked for travels while its sender waits in a small sum. Catches a wait in which
    the sender moves no messages: the other one would never come.
    """
    if comm.rank == 0 and comm.size > 1:
        comm.tell("x" * 3_000_000, comm.size - 1)
    if comm.rank == comm.size - 1 and comm.size > 1:
        assert len(comm.hear(0)) == 3_000_000
    same(comm.all_reduce(xp.ones(3, np.float32)), np.full(3, comm.size, np.float32))


def check_split(comm: Comm, xp: Any) -> None:
    """Groups of ranks by themselves, twice of the same ranks, and groups of groups."""
    n, me = comm.size, comm.rank
    for groups in (2, 2, n):
        own = comm.split(me % groups)
        mine = [rank for rank in range(n) if rank % groups == me % groups]
        assert (own.rank, own.size) == (mine.index(me), len(mine))
        total = np.sum([of(rank, (7,)) for rank in mine], axis=0)
        same(own.all_reduce(xp.asarray(of(me, (7,)))), total)
        assert own.share(me, own.size - 1) == mine[-1]
        pair = own.split(own.rank // 2)
        assert pair.size in (1, 2)
        assert pair.share(me) == mine[own.rank // 2 * 2]
        assert own.ledger is comm.ledger


def check_counts(comm: Comm, xp: Any) -> None:
    """An all-reduce counts what the ring sends, and over all ranks 2(n-1)/n of the array each. So does an all-gather,
    also in a rank that has no rows itself: it passes on those of others.
    """
    n = comm.size
    for size in (576, 5, 1):
        counted = []
        for way in (comm.all_reduce, lambda x: ring_all_reduce(x, comm)):
            before = comm.ledger.copy()
            way(xp.asarray(of(comm.rank, (size,))))
            work = comm.ledger - before
            counted.append((work.messages_sent, work.bytes_sent))
        assert counted[0] == counted[1] if n > 1 else counted == [(0, 0), (0, 0)], counted
        assert sum(comm.share(counted[0][1], rank) for rank in range(n)) == 2 * (n - 1) * size * 4
    before, lengths = comm.ledger.copy(), [4] + [0] * (n - 1)
    comm.all_gather(of(comm.rank, (lengths[comm.rank], 3)), lengths)
    sent = (comm.ledger - before).bytes_sent
    assert sent == (4 * 3 * 4 if comm.rank < n - 1 else 0)


if __name__ == "__main__":
    import sys

    import ml_dtypes

    from tinyinfer.parallel.devices import gpu_module, placed
    from tinyinfer.parallel.mpi import mpi_comm

    comm, xp = mpi_comm(Ledger()), np  # type: Comm, Any
    assert comm.one_machine
    if sys.argv[1:]:
        sys.path.append(str(Path(__file__).parents[1]))
        from fake_cupy import fake_cupy

        xp = gpu_module("cupy") if sys.argv[1] == "gpu" else fake_cupy
        comm = placed(comm, "cupy", 0, lambda backend: xp)
        for dtype in (np.float16, ml_dtypes.bfloat16):
            check_halves(comm, xp, dtype)
    print(f"{check(comm, xp)} by {type(comm).__name__}\n", end="", flush=True)
