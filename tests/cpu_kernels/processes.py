"""Processes of their own for tests of compiled kernels: what a process does to its threads, it does there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
BEGIN = f"""
import os, sys, threading, time
sys.path.insert(0, {str(TESTS)!r})
import numpy as np
from helpers import finish, make_engine, request, small_config
from tinyinfer.backends.numba_ops import NumbaOps
from tinyinfer.ledger import Ledger
def engine(threads=2, **switches):
    return make_engine(small_config(), ops=NumbaOps(Ledger(), threads=threads), **switches)
def answer(one, first=1):
    return finish(one, request([first, 2, 3, 4, 5, 6, 7], 12))
RIGHT = finish(make_engine(small_config()), request([1, 2, 3, 4, 5, 6, 7], 12))
"""


def started(program: str, **environ: str) -> subprocess.Popen[str]:
    """A process that runs a program behind BEGIN."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", BEGIN + program], text=True, env=os.environ | environ, **pipes)


def ended(process: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str, str]:
    """Status, output and errors of a process; one that hangs is killed, which fails the test."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the process hangs: {out} {err[-2000:]}") from None
    return process.returncode, out, err


def printed(code: str, **environ: str) -> str:
    """What code prints that must end well, without BEGIN, and with the modules of this folder."""
    path = os.pathsep.join(map(str, (TESTS.parent, TESTS, Path(__file__).parent)))
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=os.environ | environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def run(program: str, **environ: str) -> str:
    """What a program prints that must end well."""
    status, out, err = ended(started(program, **environ))
    assert status == 0, f"status {status} {err[-3000:]}"
    return out
