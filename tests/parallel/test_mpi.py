"""Ranks as processes that MPI starts: the same contract, and what is said where MPI is not installed."""

from __future__ import annotations

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
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_processes_keep_the_contract(size: int) -> None:
    """Catches a result that is left in another array, a count of bytes that is MPI's and not the ring's, and a wait."""
    command = ["mpiexec", "-n", str(size), sys.executable, str(CONTRACT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    content = re.findall(rf"rank (\d) of {size} is content", done.stdout)  # lines of ranks may run into one another
    assert sorted(map(int, content)) == list(range(size))


def test_without_mpi_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(SwitchError, match=r"ranks talk by MPI, which is not installed \(.*\); pip install 'tiny"):
        mpi_comm(Ledger())
