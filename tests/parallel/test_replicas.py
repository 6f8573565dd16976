"""Replicas as processes: they say what one says, and go on, or end together, whatever ends one of them."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest

from tinyinfer.cli import main
from tinyinfer.cli.launch import sizes_of

TINYINFER = [sys.executable, "-m", "tinyinfer"]
LAUNCH = [*TINYINFER, "launch", "-n"]
MPIEXEC = ["mpiexec", "-n"]
FEW = ["-p", "the", "-p", "in er", "-p", "an", "-p", "on a the"]


@pytest.fixture(scope="module")
def model(golden_folder: Any) -> str:
    """A model of 9 query heads that share 3 key/value heads."""
    return str(golden_folder("smollm2"))


def command(model: str, *words: str) -> list[str]:
    """A greedy run; of each prompt sixty tokens."""
    return ["generate", "-m", model, "--raw", "--ignore-eos", "-n", "60", *words]


def load() -> list[str]:
    """64 prompts, by a seed."""
    rng = random.Random(5)
    prompts = [" ".join(rng.choices(["the", "in", "er", "an", "on", "a"], k=rng.randint(1, 20))) for _ in range(64)]
    return [word for prompt in prompts for word in ("-p", prompt)]


def said(*words: str) -> bytes:
    """What a command writes to stdout."""
    done = subprocess.run(words, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rest_of(process: subprocess.Popen[bytes]) -> bytes:
    """What is left of a process's stdout."""
    assert process.stdout
    return b"".join(iter(lambda: process.stdout.read(1_000_000), b""))  # type: ignore[union-attr]


def begun(process: subprocess.Popen[bytes]) -> bytes:
    """The first bytes of a process's stdout: a title, and some text below it, which comes while it computes."""
    assert process.stdout
    return process.stdout.readline() + process.stdout.read(20)


@contextmanager
def running(*words: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A command in a process group of its own, of which nothing is left; and where its stderr goes."""
    with NamedTemporaryFile() as file:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": file}
        process = subprocess.Popen(words, start_new_session=True, bufsize=0, **pipes)
        try:
            yield process, Path(file.name)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def processes(model: str, replica: int | None = None) -> list[int]:
    """The ids of the processes that run a model, of one replica or of all, without those that start them."""
    found = subprocess.run(["ps", "-wweo", "pid,args"], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in found.splitlines() if model in line and not re.search("mpiexec|hydra", line)]
    ids = [int(words[0]) for words in lines if "launch" not in words and "ps" not in words]
    return [one for one in ids if replica is None or f"TINYINFER_REPLICA={replica}\0" in environment(one)]


def environment(process: int) -> str:
    """What a process was started with; nothing of one that is gone."""
    try:
        return Path(f"/proc/{process}/environ").read_text(encoding="utf-8", errors="replace") + "\0"
    except OSError:
        return ""


def gone(model: str) -> bool:
    """Whether no process of a model is left, within a moment."""
    until = time.monotonic() + 10
    while processes(model) and time.monotonic() < until:
        time.sleep(0.05)
    return not processes(model)


@pytest.mark.mpi
@pytest.mark.parametrize("more", [(), ("--kv-cache", "paged", "--prefix-cache", "on"), ("--temp", "1", "--seed", "3")])
@pytest.mark.parametrize(
    "start",
    [[*LAUNCH, "2", "--"], [*MPIEXEC, "2", *TINYINFER], [*LAUNCH, "4", "--"], [*MPIEXEC, "4", *TINYINFER]],
    ids=["launch 2", "mpiexec 2", "launch 4", "mpiexec 4"],
)
def test_replicas_say_what_one_process_says(model: str, start: list[str], more: tuple[str, ...]) -> None:
    """Of one process each, and of two that share a model. Catches ranks that are counted in another order than MPI's,
    and a prompt that each replica answers.
    """
    words = command(model, "-q", *FEW, *more)
    sizes = ["-dp", "2", *(["-tp", "2"] if "4" in start else [])]
    assert said(*start, *words, *sizes) == said(*TINYINFER, *words)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_replica_that_is_killed_under_load_loses_nothing(model: str, ranks: int) -> None:
    """64 requests; at once after the first text. Catches a request that is lost or answered twice, an orphan, and ranks
    of the same replica that wait for their first one.
    """
    words = command(model, *load())
    sizes = ["-dp", "2", *(["-tp", "2"] if ranks == 2 else [])]
    with running(*LAUNCH, str(2 * ranks), "--", *words, *sizes) as (process, errors):
        first = begun(process)
        os.kill(processes(model, 1)[0], signal.SIGKILL)
        rest = rest_of(process)
        assert process.wait(30) == 0
        assert re.search(r"tinyinfer: replica 1 has ended; \d+ unfinished requests go", errors.read_text())
    assert first + rest == said(*TINYINFER, *words, "-q")
    assert gone(model)


@pytest.mark.mpi
def test_a_replica_that_is_stopped_under_load_counts_as_dead(model: str) -> None:
    """Catches a front that waits for it, and a stopped process that stays when all is done."""
    words = command(model, *load())
    with running(*LAUNCH, "2", "--", *words, "-dp", "2", "--rank-timeout", "1") as (process, errors):
        first = begun(process)
        os.kill(processes(model, 1)[0], signal.SIGSTOP)
        rest = rest_of(process)
        assert process.wait(60) == 0
        assert "tinyinfer: replica 1 has reported nothing for 1 s; " in errors.read_text()
    assert first + rest == said(*TINYINFER, *words, "-q")
    assert gone(model)


HANGS = """
import os, sys, threading, time

def hang(*arguments):
    time.sleep(1000)

def thread():
    while not hasattr(sys.modules.get("tinyinfer.loading.build"), "with_rest"):
        time.sleep(0.001)
    sys.modules["tinyinfer.loading.build"].load_model = hang

if os.environ.get("TINYINFER_REPLICA", "1") + os.environ.get("PMI_RANK", "1") == "11":
    threading.Thread(target=thread, daemon=True).start()
"""


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (("2", "-dp", "2"), "replica 1 has not loaded the model within 2 s"),
        (("4", "-dp", "2", "-tp", "2"), "(replica 1|rank 0 has waited for rank 1 for 2 seconds)"),
        (("2", "-tp", "2"), "rank 0 has waited for rank 1 for 2 seconds; it hangs"),
    ],
)  # fmt: skip
def test_one_that_hangs_while_it_loads_is_named_and_all_end(
    model: str, sizes: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica, a rank of one, and a rank. Catches a wait for ever, and a process that stays."""
    (tmp_path / "sitecustomize.py").write_text(HANGS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    n, *flags = sizes
    with running(*LAUNCH, n, "--", *command(model, *FEW), *flags, "--rank-timeout", "2") as (process, errors):
        assert process.wait(60) != 0
        assert re.search(words, errors.read_text())
        assert "Traceback" not in errors.read_text()
    assert gone(model)


@pytest.mark.mpi
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_replicas(model: str, number: signal.Signals, status: int) -> None:
    """Ctrl-C comes to all processes of a terminal, SIGTERM to the launcher alone. Catches orphans, and a Ctrl-C that
    ends without the statistics so far.
    """
    with running(*LAUNCH, "2", "--", *command(model, *load() * 8), "-dp", "2") as (process, errors):
        assert begun(process)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.terminate()
        rest_of(process)
        assert process.wait(30) == status
        assert number != signal.SIGINT or "Generation: " in errors.read_text()
    assert gone(model)


@pytest.mark.mpi
def test_replicas_end_when_the_front_is_killed(model: str) -> None:
    """Catches replicas that wait for ever for a front that is gone."""
    with running(*LAUNCH, "3", "--", "chat", "-m", model, "-dp", "3") as (process, errors):
        until = time.monotonic() + 60
        while len(processes(model, 0)) < 1 and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(processes(model, 0)[0], signal.SIGKILL)
        assert process.wait(30) == 2
        assert "the first process was ended by SIGKILL" in errors.read_text()
    assert gone(model)


@pytest.mark.mpi
def test_replicas_that_were_given_something_else_are_told_so(model: str) -> None:
    """Catches replicas that give one request another answer than the front would."""
    one, other = command(model, "-dp", "2"), command(model, "-dp", "2", "--kv-cache", "paged")
    both = ["mpiexec", "-n", "1", *TINYINFER, *one, ":", "-n", "1", *TINYINFER, *other]
    done = subprocess.run(both, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "replica 1 got other switches or another version than replica 0; give all of them the same" in done.stderr


@pytest.mark.mpi
@pytest.mark.parametrize("sizes", [("3", "-dp", "3"), ("2", "-tp", "2"), ("4", "-dp", "2", "-tp", "2")])
def test_what_is_wrong_for_all_processes_is_said_once(model: str, sizes: tuple[str, ...]) -> None:
    """By the first of them. Catches one line for each process, and a replica's number for what concerns all."""
    n, *flags = sizes
    for words, sentence in (
        (["-m", "no/such/folder"], "no/such/folder"),
        (["--kv-bits", "5"], "--kv-bits"),
        (["-m", model, "--max-model-len", "100000"], "more than the"),
    ):
        done = subprocess.run(
            [*LAUNCH, n, "--", "generate", "hello", *words, *flags], capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == 2
        [line] = done.stderr.splitlines()
        assert line.startswith("tinyinfer: error: ")
        assert sentence in line
        assert not re.search("replica|rank", line)


@pytest.mark.mpi
def test_stdin_is_the_fronts(model: str) -> None:
    """Catches replicas that find no prompt there, and end before any work."""
    words = [*LAUNCH, "2", "--", *command(model, "-q", "-", "-dp", "2")]
    done = subprocess.run(words, input=b"the in er", capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == said(*TINYINFER, *command(model, "-q", "the in er"))


@pytest.mark.mpi
def test_one_process_is_not_several(model: str) -> None:
    """Without launch. Catches a wait for replicas that will never come."""
    words = [*TINYINFER, *command(model, "-dp", "2")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "-size=2 needs 2 processes, and this is one; start them with `tinyinfer launch -n 2 -- ...`" in done.stderr


def test_how_many_processes_launch_has_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a flag in its other spelling, and numbers that leave replicas without a process."""
    assert sizes_of(["generate", "-tp", "2", "--data-parallel-size=3", "Hi"]) == {"-tp": 2, "-dp": 3}
    assert sizes_of(["bench", "-p", "32", "-pp=2", "--tensor-parallel-size", "4"]) == {"-tp": 4, "-pp": 2}
    for words, sentence in (
        (["-n", "3", "--", "chat", "-dp", "2"], "-dp 2 needs 2 processes, and -n 3 starts 3; give -n 2"),
        (["-n", "4", "--", "chat", "-tp", "2", "-dp", "4"], "-tp 2 -dp 4 needs 8 processes, and -n 4 starts 4; give"),
    ):
        assert main(["launch", *words]) == 2
        assert sentence in capsys.readouterr().err
