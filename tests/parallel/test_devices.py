"""Which GPU each rank takes, and which way its arrays go: by what is there, and alike on all ranks."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from multiprocessing import Pipe
from threading import Thread, current_thread
from types import SimpleNamespace
from typing import Any

import pytest
from fake_cupy import fake_cupy
from fake_nccl import Fabric

from tinyinfer import LLM, SamplingParams
from tinyinfer.backends.cupy_ops import CupyOps
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import ModelWarning, SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.parallel import devices, start
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.devices import gpu_module, placed, take_gpu
from tinyinfer.parallel.local import run_ranks
from tinyinfer.parallel.nccl import NCCLComm
from tinyinfer.replicas import start as replicas
from tinyinfer.replicas.start import Place, Replicas

Found = tuple[str, int]  # the kind of a rank's Comm, and its GPU


@pytest.fixture(autouse=True)
def nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake NCCL, for ranks that ask for it."""
    fabric = Fabric()
    monkeypatch.setattr(devices, "find_nccl", lambda xp: SimpleNamespace(of=fabric.of))
    monkeypatch.setattr(devices, "NCCLComm", lambda comm, xp, library: NCCLComm(comm, xp, library.of(comm)))


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A process that follows ignores Ctrl-C from then on; this one must not, or later tests wait for their own."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def found(size: int, gpus: int, monkeypatch: pytest.MonkeyPatch, before: int = 0) -> list[Found]:
    """What each of so many ranks of one machine gets that has so many GPUs."""
    monkeypatch.setattr(fake_cupy.cuda.runtime, "devices", gpus)

    def rank(comm: Comm) -> Found:
        other = placed(comm, "cupy", before, lambda backend: fake_cupy)
        return type(other).__name__, fake_cupy.cuda.Device().id

    return run_ranks(size, rank)


def test_ranks_that_have_a_gpu_each_talk_from_gpu_to_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word. Catches ranks that all compute on the first one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found(3, 4, monkeypatch) == [("NCCLComm", 0), ("NCCLComm", 1), ("NCCLComm", 2)]


def test_ranks_that_share_a_gpu_go_through_the_host_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, of the first rank. Catches a run that NCCL ends, and ranks of which some take the one way, some the
    other.
    """
    with pytest.warns(ModelWarning) as said:
        assert found(3, 2, monkeypatch) == [("StagedComm", 0), ("StagedComm", 1), ("StagedComm", 0)]
    words = "3 ranks share 2 GPUs, so their arrays go through the host's memory; a GPU for each is faster"
    assert [str(one.message) for one in said] == [words]
    with pytest.warns(ModelWarning, match="2 ranks share 1 GPU, so their"):
        found(2, 1, monkeypatch)


def test_a_later_replica_takes_the_gpus_behind_those_of_the_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replica 1 of three, of two ranks each, on four GPUs. Catches replicas that all compute on the same ones."""
    assert [gpu for _, gpu in found(2, 4, monkeypatch, before=2)] == [2, 3]
    assert [gpu for _, gpu in found(2, 4, monkeypatch, before=4)] == [0, 1]


def test_gpus_of_two_machines_are_not_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines of two ranks and two GPUs each: numbers and places are the same on both. And a process that sees
    one GPU alone has another one than its neighbour, though both call it 0.
    """
    monkeypatch.setattr(fake_cupy.cuda.runtime, "devices", 4)
    for real in (lambda rank: (rank // 2 * 2, rank % 2), lambda rank: (0, rank)):

        def rank(comm: Comm, real: Any = real) -> str:
            comm.machine = lambda: real(comm.rank)  # type: ignore[method-assign]
            return type(placed(comm, "cupy", 0, lambda backend: fake_cupy)).__name__

        with pytest.MonkeyPatch.context() as patched:  # the fake NCCL has one machine
            patched.setattr(devices, "NCCLComm", lambda comm, xp, library: SimpleNamespace())
            assert run_ranks(4, rank) == ["SimpleNamespace"] * 4


def test_without_a_gpu_nothing_changes() -> None:
    """Catches ranks on a CPU that ask for CuPy, and one rank alone that asks for NCCL."""
    assert all(run_ranks(2, lambda comm: placed(comm, "numpy") is comm))
    assert run_ranks(1, lambda comm: placed(comm, "cupy", 0, lambda backend: fake_cupy) is comm) == [True]
    assert gpu_module("numba") is gpu_module("numpy") is gpu_module("reference") is None


def told(find: Any) -> list[str]:
    """What three ranks are told where one of them cannot compute as the others do."""

    def rank(comm: Comm) -> str:
        try:
            placed(comm, "auto", 0, lambda backend: find(comm.rank))
        except SwitchError as error:
            return str(error)
        return "placed"

    return run_ranks(3, rank)


def test_ranks_of_which_some_have_no_gpu_are_refused_by_all() -> None:
    """`auto` takes what a machine has. Catches sums of NumPy arrays that wait for those of GPUs."""
    assert set(told(lambda rank: fake_cupy if rank != 1 else None)) == {
        "backend=auto finds no GPU for rank 1, and one for others; name what all of them have"
    }


def test_a_rank_whose_gpu_cannot_be_used_is_named_by_all() -> None:
    """Catches ranks that wait for the one that has said what is wrong."""

    def find(rank: int) -> Any:
        if rank == 2:
            raise SwitchError("backend", "cupy", "{field}={value} finds no driver")
        return fake_cupy

    first, second, third = told(find)
    assert third == "backend=cupy finds no driver"
    assert first == second
    assert "rank 2 of 3 could not load its part (SwitchError: backend=cupy finds no driver" in first


# Where processes begin


def test_processes_take_their_gpus_before_their_backends_look_at_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks, of one replica or of several, and replicas without ranks. Catches the memory of another rank's GPU that
    is compared with this one's weights, and a second look-up of ranks by a replica that has its own.
    """
    asked: list[tuple[str, int]] = []
    for module in (start, replicas):
        monkeypatch.setattr(module, "placed", lambda comm, backend, before=0: asked.append((backend, before)) or comm)
    monkeypatch.setattr(start, "mpi_comm", lambda ledger: "ranks")
    monkeypatch.setattr(fake_cupy.cuda.runtime, "devices", 4)
    c = EngineConfig(backend="cupy", tensor_parallel_size=2)
    assert start.find_ranks(c, Ledger()) == ("ranks",)
    several = EngineConfig(backend="cupy", tensor_parallel_size=2, data_parallel_size=3)
    pair: Any = SimpleNamespace(rank=1)  # which has no way to the front
    assert Replicas(several, Ledger(), Place(2, pair, "", b"")).comms == (pair,)
    assert asked == [("cupy", 0), ("cupy", 4)]
    alone = EngineConfig(backend="cupy", data_parallel_size=3)
    monkeypatch.setattr("tinyinfer.replicas.start.gpu_module", {"cupy": fake_cupy}.get)
    monkeypatch.setattr("tinyinfer.replicas.start.connected", lambda place: Pipe()[0])
    with fake_cupy.cuda.Device(0):
        assert Replicas(alone, Ledger(), Place(2, None, "", b"")).comms == ()
        assert fake_cupy.cuda.Device().id == 2


def test_a_machine_s_gpus_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_cupy.cuda.runtime, "devices", 3)
    with fake_cupy.cuda.Device(0):
        assert [take_gpu(fake_cupy, number).id for number in range(5)] == [0, 1, 2, 0, 1]
        assert fake_cupy.cuda.Device().id == 1


def test_a_thread_that_computes_takes_the_gpu_of_the_weights(
    golden_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread begins on the machine's first GPU. Catches an engine whose thread computes there,
    while its weights are on the GPU of the rank.
    """
    monkeypatch.setattr(fake_cupy.cuda.runtime, "devices", 2)
    with fake_cupy.cuda.Device(1):
        ops = CupyOps(Ledger(), xp=fake_cupy)
    seen: list[int] = []

    def compute() -> None:
        seen.append(fake_cupy.cuda.runtime.getDevice())
        ops.on_this_thread()
        seen.append(fake_cupy.cuda.runtime.getDevice())

    thread = Thread(target=compute)
    thread.start()
    thread.join()
    assert seen == [0, 1]
    said: list[str] = []
    monkeypatch.setattr(NumpyOps, "on_this_thread", lambda self: said.append(current_thread().name))
    LLM(str(golden_folder("llama"))).submit([1, 2], SamplingParams(max_tokens=2, ignore_eos=True)).result()
    assert set(said) == {"tinyinfer engine"}
