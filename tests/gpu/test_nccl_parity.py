"""Ranks on real GPUs: the contract, NCCL itself with one rank, and a model that two ranks divide.

One GPU is enough: two ranks share it, and their arrays go through the host's memory. On two they go by NCCL.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fake_nccl import TYPES, Fabric, Library
from parity import Device

from tinyinfer.arrays import to_host
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.local import run_ranks
from tinyinfer.parallel.nccl import NCCLComm, find_nccl

CONTRACT = Path(__file__).parents[1] / "parallel" / "contract.py"
FUNCTIONS = "get_unique_id", "NcclCommunicator", "groupStart", "groupEnd", "NcclError", "available"
METHODS = "allReduce", "broadcast", "bcast", "send", "recv", "check_async_error"
pytestmark = pytest.mark.gpu


def ran(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_every_name_of_the_fake_is_one_of_nccl_s() -> None:
    """And its numbers of types and of sums are the same: else a test on the fake could pass where NCCL would fail."""
    real = find_nccl(Device("gpu").xp)
    assert not [name for name in FUNCTIONS if not hasattr(real, name)]
    assert not [name for name in METHODS if not hasattr(real.NcclCommunicator, name)]
    assert real.NCCL_SUM == Library.NCCL_SUM
    for number, kind in enumerate(TYPES):
        assert getattr(real, f"NCCL_{np.dtype(kind).name.upper()}") == number
    assert len(real.get_unique_id()) == len(Fabric().of(run_ranks(1, lambda comm: comm)[0]).get_unique_id())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int32, np.uint8])
def test_nccl_with_one_rank_sends_to_itself(dtype: Any) -> None:
    """Each call with its arguments in their order, on a stream of its own. A Comm of one rank would call nothing, so
    its methods below the count are called.
    """
    xp = Device("gpu").xp

    def work(host: Comm) -> None:
        one = NCCLComm(host, xp, find_nccl(xp))
        one.communicator = one.connected()
        given = np.arange(12).astype(dtype)
        with xp.cuda.Stream(non_blocking=True) as stream:
            x, y = xp.asarray(given), xp.zeros(12, dtype)
            sent = one._exchange(x, 0, y, 0)
            for found in (one._all_reduce(x), *one._all_gather(x, [12]), one._broadcast(x, 0), sent):
                stream.synchronize()
                np.testing.assert_array_equal(to_host(found), given)
        assert one.calls.waited() == 0
        one.communicator.check_async_error()

    run_ranks(1, work)


@pytest.mark.parametrize("size", [1, 2])
def test_processes_on_gpus_keep_the_contract(size: int) -> None:
    """Catches a function, a type or an order of arguments that only the fakes have."""
    gpus = Device("gpu").xp.cuda.runtime.getDeviceCount()
    done = ran("mpiexec", "-n", str(size), sys.executable, str(CONTRACT), "gpu")
    kind = "MPIComm" if size == 1 else "NCCLComm" if gpus > 1 else "StagedComm"
    assert len(re.findall(rf"rank \d of {size} is content by {kind}", done.stdout)) == size


@pytest.mark.parametrize("split", [("-tp", "2"), ("-pp", "2")])
def test_two_ranks_on_gpus_say_what_one_process_says(split: tuple[str, str], golden_folder: Any) -> None:
    """A small model, greedy and drawn. Catches what no fake has: processes, two of them on one GPU."""
    asked = ["-m", str(golden_folder("smollm2")), "--raw", "--ignore-eos", "-n", "20", "--json", "--backend", "cupy"]
    tinyinfer = [sys.executable, "-m", "tinyinfer"]
    assert Device("gpu").xp
    for drawn in ([], ["--temp", "1", "-s", "3"]):
        words = [*asked, *drawn, "the in er"]
        one = ran(*tinyinfer, "generate", *words)
        two = ran(*tinyinfer, "launch", "-n", "2", "--", "generate", *split, *words)
        assert json.loads(one.stdout)["token_ids"] == json.loads(two.stdout)["token_ids"]
