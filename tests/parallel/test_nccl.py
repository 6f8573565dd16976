"""Ranks on GPUs: the contract by the fake NCCL and through the hosts' memory, and what the fake would not let pass."""

from __future__ import annotations

from collections import deque
from functools import partial
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from contract import check, check_halves, same
from fake_cupy import DeviceArray, fake_cupy
from fake_nccl import Fabric, Library, NcclError

from tinyinfer.errors import SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.parallel.comm import Comm, CommError
from tinyinfer.parallel.devices import take_gpu
from tinyinfer.parallel.local import run_ranks
from tinyinfer.parallel.nccl import Calls, NCCLComm, find_nccl
from tinyinfer.parallel.staged import StagedComm

HALVES = [np.float16, ml_dtypes.bfloat16]


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many devices as the tests have ranks."""
    monkeypatch.setattr(fake_cupy.cuda.runtime, "devices", 8)


def by_nccl(comm: Comm, fabric: Fabric) -> NCCLComm:
    """The rank with a device of its own."""
    take_gpu(fake_cupy, comm.rank)
    return NCCLComm(comm, fake_cupy, fabric.of(comm))


def numbers(comm: Comm, *shape: int) -> Any:
    """An array on the rank's device."""
    return fake_cupy.asarray(np.full(shape, comm.rank + 1, np.float32))


# The contract


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("xp", [fake_cupy, np], ids=["gpu", "host"])
def test_from_gpu_to_gpu_the_contract_is_kept(size: int, xp: Any) -> None:
    """Catches an argument in another's place, a length that one rank takes from its own array, and arrays of the host
    that NCCL is given.
    """
    fabric = Fabric()
    found = run_ranks(size, lambda comm: check(by_nccl(comm, fabric), xp), seed=size)
    assert found == [f"rank {rank} of {size} is content" for rank in range(size)]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("xp", [fake_cupy, np], ids=["gpu", "host"])
def test_through_the_hosts_memory_the_contract_is_kept(size: int, xp: Any) -> None:
    """Catches a result that stays on the host, and one that is the wrong rank's."""
    assert len(run_ranks(size, lambda comm: check(StagedComm(comm, fake_cupy), xp), seed=size)) == size


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("xp", [fake_cupy, np], ids=["gpu", "host"])
def test_halves_are_sent_and_added_up(dtype: Any, xp: Any) -> None:
    """Catches bits that are added up as whole numbers, and a type that NCCL or MPI does not know."""
    fabric = Fabric()

    def both(comm: Comm) -> None:
        check_halves(by_nccl(comm, fabric), xp, dtype)
        check_halves(StagedComm(comm, fake_cupy), xp, dtype)

    run_ranks(3, both)


def test_a_sum_of_gpus_comes_to_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a copy on the way, for which the host would have to wait; and bytes that are not the ring's."""
    fabric, ledgers, copied = Fabric(), [Ledger(), Ledger()], list[str]()

    def work(comm: Comm) -> Any:
        one, x = by_nccl(comm, fabric), numbers(comm, 3, 4)
        one.ledger.bytes_sent = 0
        assert one.all_reduce(x) is x
        return x

    with monkeypatch.context() as patched:
        for name in ("get", "set"):
            patched.setattr(DeviceArray, name, lambda *args, name=name: copied.append(name))
        run_ranks(2, work, ledgers=ledgers)
    assert copied == []
    assert [ledger.bytes_sent for ledger in ledgers] == [12 * 4] * 2


@pytest.mark.parametrize("seed", range(3))
def test_calls_are_made_on_the_current_stream(seed: int) -> None:
    """What is on the stream before is read, what comes behind waits. Catches a call on the default stream, which reads
    before the sum is there, and a stream in the place of an operation.
    """
    fabric = Fabric()

    def work(comm: Comm) -> None:
        one = by_nccl(comm, fabric)
        with fake_cupy.cuda.Stream(non_blocking=True):
            x = numbers(comm, 5) * 10
            one.all_reduce(x)
            x += 1
            if comm.rank == 0:
                one.post(x, 1)
            else:
                x = one.receive(fake_cupy.empty(5, np.float32), 0)
            same(x, np.full(5, 31, np.float32))

    run_ranks(2, work, seed)


# What NCCL would not do, and what would never end


def test_two_ranks_on_one_device_are_refused() -> None:
    """Else `placed` would not be proved right."""
    fabric = Fabric()
    with pytest.raises(NcclError, match="Duplicate GPU"):
        run_ranks(2, lambda comm: NCCLComm(comm, fake_cupy, fabric.of(comm)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda nccl, at: nccl.allReduce(at, at, 7, 4, 0, 0), "are not in the device's memory"),  # type and count
        (lambda nccl, at: nccl.allReduce(at, at, 4, 7, 1000, 0), "the operation 1000"),
        (lambda nccl, at: nccl.allReduce(at, at, 4, 7, 0, 12), "no stream 12"),
        (lambda nccl, at: nccl.allReduce(at, at, 4, 700, 0, 0), "type 700"),
        (lambda nccl, at: nccl.bcast(at, 999, 7, 0, 0), "999 of float32 are not in"),
        (lambda nccl, at: nccl.bcast(np.zeros(4, np.float32).ctypes.data, 4, 7, 0, 0), "are not in the device's"),
        (lambda nccl, at: nccl.bcast(at, 4, 7, 2, 0), "rank 2 of 2"),
        (lambda nccl, at: nccl.bcast(at, 4, 7, nccl.rank, 0), "ranks do not call the same"),
        (lambda nccl, at: nccl.allReduce(at, at, 4 - nccl.rank, 7, 0, 0), "ranks do not call the same"),
        (lambda nccl, at: nccl.send(at, 3, 7, 0, 0) if nccl.rank else nccl.recv(at, 4, 7, 1, 0), "receives 4 of type"),
    ],
)
def test_what_nccl_takes_amiss_the_fake_refuses(call: Any, words: str) -> None:
    """Else the tests above would prove nothing: a wrong order of arguments, sizes, types, roots, memory of the host."""
    fabric = Fabric()

    def work(comm: Comm) -> None:
        x = numbers(comm, 4) if take_gpu(fake_cupy, comm.rank) else None
        call(by_nccl(comm, fabric).communicator, x.data.ptr)

    with pytest.raises(NcclError, match=words):
        run_ranks(2, work)


def test_memory_of_another_device_is_refused() -> None:
    fabric = Fabric()

    def work(comm: Comm) -> None:
        elsewhere = numbers(comm, 4)  # on device 0
        by_nccl(comm, fabric).communicator.bcast(elsewhere.data.ptr, 4, 7, 0, 0)  # type: ignore[union-attr]

    with pytest.raises(NcclError, match="are not in the device's memory"):
        run_ranks(2, work)


def test_arrays_that_nccl_cannot_read_are_refused() -> None:
    """Numbers that do not lie side by side, and a type without a number of NCCL's."""
    fabric = Fabric()
    for make in (lambda x: x[:, ::2], lambda x: x > 0):
        with pytest.raises(ValueError, match=r"NCCL sends no (float32|bool) with strides"):
            run_ranks(2, lambda comm, make=make: by_nccl(comm, fabric).all_reduce(make(numbers(comm, 4, 4))))


def test_two_ranks_that_post_to_each_other_first_wait_for_ever() -> None:
    """As nccl.py says. Catches a fake that has room for what is on its way, as no stream has."""
    fabric = Fabric()

    def work(comm: Comm) -> None:
        one, x = by_nccl(comm, fabric), numbers(comm, 4)
        one.post(x, 1 - comm.rank)
        one.receive(x, 1 - comm.rank)

    with pytest.raises(CommError, match=r"no rank can go on: rank 0 waits for rank 1 of its clique to receive; rank 1"):
        run_ranks(2, work)


def test_orders_have_left_before_a_call() -> None:
    """MPI sends a long order only while its rank asks it to. Catches a rank that waits for its GPU, and its GPU for a
    rank that waits for the order.
    """
    fabric, log = Fabric(), list[str]()

    def work(comm: Comm) -> None:
        one, left = by_nccl(comm, fabric), deque([True, True, False])
        with pytest.MonkeyPatch.context() as patched:
            if comm.rank == 0:
                patched.setattr(comm, "under_way", lambda: log.append("asked") or left.popleft())
                start = partial(Library.groupStart, one.library)
                patched.setattr(one.library, "groupStart", lambda: log.append("begun") or start())
            one.all_reduce(numbers(comm, 2))

    run_ranks(2, work)
    assert log == ["asked", "asked", "asked", "begun"]


# A rank that hangs, or is lost


class Event:
    """An event of a stream, over when a test says so."""

    def __init__(self, disable_timing: bool = False) -> None:
        self.done = False

    def record(self) -> None: ...


@pytest.fixture
def calls() -> Calls:
    """Calls whose events are over when the test says so."""
    return Calls(SimpleNamespace(cuda=SimpleNamespace(Event=Event)))  # type: ignore[arg-type]


def test_the_oldest_call_that_is_not_over_counts(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host makes many calls while the first one waits. Catches one that hangs behind others that are over, and
    calls that are kept for ever.
    """
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    assert calls.waited() == 0
    for now[0] in (1.0, 2.0, 3.0):
        calls.note()
    now[0] = 10.0
    assert calls.waited() == 9
    calls.begun[0][0].done = True
    assert calls.waited() == 8
    calls.begun[1][0].done = True
    calls.note()
    assert len(calls.begun) == 2
    for event, _ in calls.begun:
        event.done = True
    assert calls.waited() == 0


def test_a_call_that_does_not_end_ends_all_ranks(calls: Calls) -> None:
    """And one that is over does not. Catches a dead rank that is waited for by a GPU alone."""
    told: list[str] = []
    calls.note()
    calls.limit(0.01, told.append)
    [words] = told
    assert words.startswith("the GPU of this rank has waited for another one's for 0.01 seconds; it hangs, or a step")


def test_a_rank_that_nccl_has_lost_ends_all_ranks(calls: Calls) -> None:
    """NCCL knows it by its own wires. Catches an error that nothing asks for."""

    def lost() -> None:
        raise NcclError("NCCL_ERROR_SYSTEM_ERROR: unhandled system error")

    calls.communicators.append(SimpleNamespace(check_async_error=lost))
    told: list[str] = []
    calls.limit(0.4, told.append)
    assert told == ["NCCL has lost another rank: NCCL_ERROR_SYSTEM_ERROR: unhandled system error"]


def test_one_thread_watches_all_communicators_of_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of groups, too. Catches a stage whose own ranks nothing watches, a call that is not remembered, and an end
    that names no rank.
    """
    fabric, threads, said = Fabric(), list[Any](), list[str]()
    started = SimpleNamespace(Thread=lambda **of: threads.append(of) or SimpleNamespace(start=lambda: None))
    monkeypatch.setattr("tinyinfer.parallel.nccl.threading", started)

    def work(comm: Comm) -> None:
        one = by_nccl(comm, fabric)
        pair = one.split(comm.rank // 2)
        assert pair.calls is one.calls
        assert len(one.calls.communicators) == 2
        pair.all_reduce(numbers(comm, 2))
        assert len(one.calls.begun) == 1
        one.limit_waits(5.0)
        [seconds, end] = threads[-1]["args"]
        assert seconds == 5
        with pytest.raises(CommError) as caught:
            end("it waits")
        said.append(str(caught.value))

    run_ranks(4, work)
    assert sorted(said) == [f"rank {rank} of 4: it waits" for rank in range(4)]


# The library


def test_without_nccl_one_line_says_what_to_install() -> None:
    """CuPy's wheel has the functions and not the library behind them."""

    def gone(name: str) -> Any:
        raise ImportError("libnccl.so.2: cannot open shared object file")

    for load, words in (
        (lambda name: SimpleNamespace(available=False), "CuPy does not find libnccl"),
        (gone, "libnccl.so.2: cannot open shared object file"),
    ):
        with pytest.raises(SwitchError) as caught:
            find_nccl(fake_cupy, load)  # type: ignore[arg-type]
        wanted = f"backend=cupy on several ranks needs NCCL, which is not there: {words}; install it: pip install "
        assert str(caught.value) == wanted + "'nvidia-nccl-cu12<3'"
    names: list[str] = []
    found = SimpleNamespace(available=True)
    assert find_nccl(fake_cupy, lambda name: names.append(name) or found) is found
    assert names == ["fake_cupy_module.cuda.nccl"]
