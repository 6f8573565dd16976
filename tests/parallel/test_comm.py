"""Every Comm keeps one contract; LocalComm finds programs that are right only by luck."""

from __future__ import annotations

import numpy as np
import pytest
from contract import check

from tinyinfer.ledger import Ledger
from tinyinfer.measure.roofline import Machine
from tinyinfer.measure.timed_ranks import Wire, timed
from tinyinfer.parallel.comm import Comm, CommError, children, sizes, split
from tinyinfer.parallel.local import run_ranks


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("seed", range(3))
def test_threads_keep_the_contract(size: int, seed: int) -> None:
    """In any order of ranks. Catches a collective that one rank leaves early, and parts that are not alike."""
    assert run_ranks(size, check, seed) == [f"rank {rank} of {size} is content" for rank in range(size)]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_in_simulated_time_keep_the_contract(size: int) -> None:
    """Catches times that are taken for arrays, and messages that count twice."""
    assert len(run_ranks(size, lambda comm: check(timed(comm, Machine(1e9, 1e9), Wire(1.0, 1e6))))) == size


def test_the_same_seed_gives_the_same_order() -> None:
    """Catches an order that the system's threads decide."""

    def order(seed: int) -> list[int]:
        seen: list[int] = []

        def work(comm: Comm) -> None:
            for _ in range(5):
                seen.append(comm.rank)
                comm.barrier()

        run_ranks(4, work, seed)
        return seen

    assert order(3) == order(3)
    assert order(3) != order(4)


def test_ranks_get_arrays_of_their_own() -> None:
    """Catches an array that two ranks share, which no two processes could."""

    def work(comm: Comm) -> list[np.ndarray]:
        mine = np.full(2, comm.rank, np.float32)
        gathered = [*comm.all_gather(mine), comm.all_to_all(mine, [1, 1], [1, 1])]
        summed = comm.all_reduce(np.ones(2, np.float32))
        if comm.rank == 0:
            comm.send(mine, 1)
        else:
            gathered.append(comm.receive(np.empty(2, np.float32), 0))
        return [*gathered, summed]

    first, second = run_ranks(2, work)
    assert not any(np.shares_memory(a, b) for a in first for b in second)


@pytest.mark.parametrize("seed", range(6))
def test_two_ranks_that_both_send_first_wait_for_each_other(seed: int) -> None:
    """Catches a program that leans on the room a library has for small messages."""

    def work(comm: Comm) -> None:
        comm.send(np.zeros(3), 1 - comm.rank)
        comm.receive(np.zeros(3), 1 - comm.rank)

    with pytest.raises(CommError, match=r"no rank can go on: rank 0 waits for rank 1 to receive; rank 1 waits"):
        run_ranks(2, work, seed)


@pytest.mark.parametrize("seed", range(6))
def test_ranks_that_do_not_call_the_same_are_told_so(seed: int) -> None:
    """Another collective, another shape, another root, other rows, one collective too few."""

    def other(comm: Comm) -> None:
        comm.barrier()
        (comm.all_reduce if comm.rank else comm.broadcast)(np.zeros(3))

    def shape(comm: Comm) -> None:
        comm.all_reduce(np.zeros(3 + comm.rank))

    def root(comm: Comm) -> None:
        comm.share(1, comm.rank)

    def rows(comm: Comm) -> None:
        comm.all_to_all(np.zeros((2, 3)), [1, 1], [1, 1] if comm.rank else [1, 4])

    def fewer(comm: Comm) -> None:
        if comm.rank:
            comm.barrier()

    for work, words in (
        (other, r"calls broadcast\(float64\[3\], root 0\).* all_reduce\(float64\[3\]\)|calls all_reduce.* broadcast"),
        (shape, r"all_reduce\(float64\[[34]\]\), and rank [01] all_reduce\(float64\[[34]\]\); all ranks must call"),
        (root, r"share\(root [01]\), and rank [01] share\(root [01]\)"),
        (rows, r"rank 1 sends 1 rows, and rank 0 receives 4"),
        (fewer, r"no rank can go on: rank 1 waits for barrier\(\); rank 2 waits for barrier\(\); rank 0 has ended"),
    ):
        with pytest.raises(CommError, match=words):
            run_ranks(3 if work is fewer else 2, work, seed)


def test_a_receive_of_another_shape_is_refused() -> None:
    def work(comm: Comm) -> None:
        if comm.rank:
            comm.send(np.zeros((2, 3), np.float32), 0)
        else:
            comm.receive(np.zeros(6, np.float32), 1)

    with pytest.raises(CommError, match=r"rank 1 sends float32\[2, 3\], and rank 0 receives float32\[6\]"):
        run_ranks(2, work)


@pytest.mark.parametrize("seed", range(4))
def test_a_rank_that_fails_ends_the_others_with_its_error(seed: int) -> None:
    """Catches a run that hangs, and an error that is buried under those of the ranks that waited."""

    def work(comm: Comm) -> None:
        if comm.rank == 1:
            raise ZeroDivisionError("no such luck")
        comm.barrier()

    with pytest.raises(ZeroDivisionError, match="no such luck") as caught:
        run_ranks(3, work, seed)
    assert caught.value.__notes__ == ["on rank 1 of 3"]


def test_ranks_that_are_not_there() -> None:
    for call in (
        lambda comm: comm.send(np.zeros(1), comm.rank), lambda comm: comm.send(np.zeros(1), 2),
        lambda comm: comm.broadcast(np.zeros(1), -1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"rank \d of 2 has no rank -?\d to talk to"):
            run_ranks(2, call)
    with pytest.raises(ValueError, match="0 ranks cannot run"):
        run_ranks(0, lambda comm: None)
    with pytest.raises(ValueError, match=r"rank \d of 2 gives 3 rows, and the lengths are \[1, 1\]"):
        run_ranks(2, lambda comm: comm.all_gather(np.zeros((3, 1)), [1, 1]))
    for sent, received in (([1, 1], [1, 1]), ([1, 2], [2, 2]), ([3], [3])):
        with pytest.raises(ValueError, match=r"rank \d of 2 gives 3 rows, \[.*\] for the ranks, and is to get \["):
            run_ranks(2, lambda comm, sent=sent, received=received: comm.all_to_all(np.zeros((3, 1)), sent, received))


def test_one_rank_sends_nothing() -> None:
    ledger = Ledger()
    run_ranks(1, check, ledgers=[ledger])
    assert (ledger.messages_sent, ledger.bytes_sent) == (0, 0)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 9])
def test_a_tree_reaches_all_ranks_once(size: int) -> None:
    """Whatever its root. Catches a broadcast whose bytes are counted twice or not at all."""
    for root in range(size):
        assert sum(children(rank, root, size) for rank in range(size)) == size - 1
        assert children(root, root, size) == (size - 1).bit_length()


def test_parts_are_as_even_as_they_can_be() -> None:
    assert [sizes(10, n) for n in (1, 3, 4)] == [[10], [4, 3, 3], [3, 3, 2, 2]]
    x = np.arange(10).reshape(2, 5)
    parts = split(x, 3)
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert all(np.shares_memory(part, x) for part in parts)
