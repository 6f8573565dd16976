"""Ranks as processes that MPI starts: the same contract, and what is said where MPI is not installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinyinfer.errors import SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.parallel.comm import CommError
from tinyinfer.parallel.mpi import MPIComm, Watch, mpi_comm

CONTRACT = Path(__file__).parent / "contract.py"


def content(size: int, *words: str, reaches: str) -> tuple[set[str], str]:
    """By which Comms so many processes keep the contract, and what they say beside it."""
    command = ["mpiexec", "-n", str(size), sys.executable, str(CONTRACT), *words]
    env = os.environ | {"MPIR_CVAR_CH4_CMA_ENABLE": reaches}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)
    assert done.returncode == 0, done.stderr
    found = re.findall(rf"rank (\d) of {size} is content by (\w+)", done.stdout)  # lines may run into one another
    assert sorted(int(rank) for rank, _ in found) == list(range(size))
    return {kind for _, kind in found}, done.stderr


@pytest.mark.mpi
@pytest.mark.parametrize(("size", "reaches"), [(1, "1"), (2, "1"), (3, "1"), (4, "1"), (2, "0")])
def test_processes_keep_the_contract(size: int, reaches: str) -> None:
    """Catches a result that is left in another array, a count of bytes that is MPI's and not the ring's, and a wait.

    reaches: whether MPI may read another process's memory, as some containers forbid: then a large message moves only
    while its sender is in MPI.
    """
    assert content(size, reaches=reaches) == ({"MPIComm"}, "")


@pytest.mark.mpi
@pytest.mark.parametrize("reaches", ["1", "0"])
def test_processes_that_share_a_gpu_keep_the_contract(reaches: str) -> None:
    """Catches a type that MPI does not know, a buffer that it cannot see, and ranks that do not know that they are on
    one machine.
    """
    kinds, said = content(3, "fake", reaches=reaches)
    assert kinds == {"StagedComm"}
    assert said.count("3 ranks share 1 GPU, so their arrays go through the host's memory") == 1


class World:
    """What a watch ends: the ranks of a test, by an error."""

    def Get_rank(self) -> int:
        return 1

    def Abort(self, status: int) -> None:
        raise CommError("ended")


def test_a_watch_ends_the_ranks_after_one_long_wait_and_not_after_many_short_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 8 seconds, in which it looks every second. Catches waits that add up, and time that counts although this
    process was stopped, so that Ctrl-Z would end the ranks.
    """
    watch, looks, clock = Watch(World()), count(), [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += 1000.0 if (look := next(looks)) == 24 else seconds  # stopped for a while
        if look < 20:
            watch.of([0])  # a new wait between two looks
        elif look == 20:
            watch.of([2])
        assert look < 40

    monkeypatch.setattr("tinyinfer.parallel.mpi.time.sleep", sleep)
    monkeypatch.setattr("tinyinfer.parallel.mpi.time.monotonic", lambda: clock[0])
    with pytest.raises(CommError):
        watch.limit(8.0)
    assert 28 <= next(looks) <= 30
    assert "rank 1 has waited for rank 2 for 8 seconds" in capsys.readouterr().err


def test_without_mpi_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(SwitchError, match=r"ranks talk by MPI, which is not installed \(.*\); pip install 'tiny"):
        mpi_comm(Ledger())


def test_what_is_told_is_under_way_until_it_has_left() -> None:
    """Not so an array, which the other rank may take after its own next call (nccl.py). Catches two ranks of which each
    waits until the other one takes what it sends; and arrays that nothing helps to leave.
    """
    asked: list[str] = []

    def request(name: str, times: int) -> Any:
        return SimpleNamespace(Test=lambda: asked.append(name) or asked.count(name) > times)

    world = SimpleNamespace(Get_rank=lambda: 0, Get_size=lambda: 2)
    world.isend, world.Isend = lambda words, to: request("told", 2), lambda x, to: request("posted", 4)
    comm = MPIComm(world, None, Ledger())
    comm.post(np.zeros(3), 1)
    assert not comm.under_way()
    comm.tell("go on", 1)
    assert [comm.under_way() for _ in range(3)] == [True, True, False]
    assert asked.count("posted") == 5
