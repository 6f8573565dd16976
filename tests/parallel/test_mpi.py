"""Ranks as processes that MPI starts: the same contract, and what is said where MPI is not installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tinyinfer.errors import SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.parallel.mpi import mpi_comm

CONTRACT = Path(__file__).parent / "contract.py"


@pytest.mark.mpi
@pytest.mark.parametrize(("size", "reaches"), [(1, "1"), (2, "1"), (3, "1"), (4, "1"), (2, "0")])
def test_processes_keep_the_contract(size: int, reaches: str) -> None:
    """Catches a result that is left in another array, a count of bytes that is MPI's and not the ring's, and a wait.

    reaches: whether MPI may read another process's memory, as some containers forbid: then a large message moves only
    while its sender is in MPI.
    """
    command = ["mpiexec", "-n", str(size), sys.executable, str(CONTRACT)]
    env = os.environ | {"MPIR_CVAR_CH4_CMA_ENABLE": reaches}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)
    assert done.returncode == 0, done.stderr
    content = re.findall(rf"rank (\d) of {size} is content", done.stdout)  # lines of ranks may run into one another
    assert sorted(map(int, content)) == list(range(size))


def test_without_mpi_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(SwitchError, match=r"ranks talk by MPI, which is not installed \(.*\); pip install 'tiny"):
        mpi_comm(Ledger())
