"""Several processes that mpiexec starts: they say what one says, and end together whatever ends one of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any

import pytest

from tinyinfer.cli import main

TINYINFER = [sys.executable, "-m", "tinyinfer"]


@pytest.fixture(scope="module")
def model(golden_folder: Any) -> str:
    """A model of 9 query heads that share 3 key/value heads."""
    return str(golden_folder("smollm2"))


def command(model: str, *words: str) -> list[str]:
    """A greedy run of some sixty tokens."""
    return ["generate", "-m", model, "--raw", "--ignore-eos", "-n", "60", "--json", *words, "the in er an on"]


def answers(*words: str) -> list[list[int]]:
    """The tokens that a command gives, as JSON."""
    done = subprocess.run([*TINYINFER, *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["token_ids"] for line in done.stdout.splitlines()]


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, of which nothing is left."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | {"text": True}
    process = subprocess.Popen([*TINYINFER, *words], start_new_session=True, **pipes)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def alive(process: int) -> bool:
    """Whether there is a process of this number."""
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def check_gone(ranks: list[int]) -> None:
    """Asserts that all ranks end soon."""
    for _ in range(100):
        if not any(map(alive, ranks)):
            return
        time.sleep(0.1)
    raise AssertionError("a rank is left")


def ranks_of(model: str, command: str = "chat") -> list[int]:
    """The process ids of the two ranks that run a command with a model, once they are there."""
    for _ in range(200):
        found = subprocess.run(["ps", "-wweo", "pid,args"], capture_output=True, text=True, check=True).stdout
        lines = [line for line in found.splitlines() if model in line and f"tinyinfer {command}" in line]
        ranks = [int(line.split()[0]) for line in lines if not re.search("mpiexec|hydra|launch", line)]
        if len(ranks) == 2:
            return ranks
        time.sleep(0.1)
    raise AssertionError("the ranks did not start")


@pytest.mark.mpi
@pytest.mark.parametrize("more", [(), ("--kv-cache", "paged", "--prefix-cache", "on"), ("--temp", "1", "--seed", "3")])
@pytest.mark.parametrize("flags", [("-tp", "2"), ("-tp", "4"), ("-pp", "2"), ("-tp", "2", "-pp", "2")])
def test_processes_say_what_one_says(model: str, flags: tuple[str, ...], more: tuple[str, ...]) -> None:
    """Four ranks share three key/value heads. Catches ranks that load another part than the one they compute."""
    words, ranks = command(model, *more), prod(map(int, flags[1::2]))
    assert answers("launch", "-n", str(ranks), "--", *words, *flags) == answers(*words)


@pytest.mark.mpi
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("flag", ["-tp", "-pp"])
def test_a_rank_that_is_killed_ends_the_others(model: str, rank: int, flag: str) -> None:
    """Catches processes that wait for ever for one that is gone."""
    with running("launch", "-n", "2", "--", "chat", "-m", model, flag, "2") as process:
        time.sleep(2)  # one waits for what is typed, the other for an order
        os.kill(ranks_of(model)[rank], signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert re.search(rf"(rank {rank} of 2|a process) was ended by SIGKILL, so that the others have ended, too", errors)


@pytest.mark.mpi
@pytest.mark.parametrize("flag", ["-tp", "-pp"])
def test_a_rank_that_hangs_is_named_and_all_end(model: str, flag: str) -> None:
    """Catches ranks that wait for ever, and one that is stopped and stays."""
    words = [word for word in command(model, flag, "2", "--rank-timeout", "2") if word != "--json"]
    with running("launch", "-n", "2", "--", *words, *["-p", "a the in"] * 400) as process:
        assert process.stdout
        assert process.stdout.read(20)
        ranks = ranks_of(model, "generate")
        os.kill(ranks[1], signal.SIGSTOP)
        _, errors = process.communicate(timeout=40)
    assert process.returncode != 0
    assert "rank 0 has waited for rank 1 for 2 seconds; it hangs" in errors
    check_gone(ranks)


@pytest.mark.mpi
@pytest.mark.parametrize("busy", [False, True])
def test_a_first_rank_that_is_stopped_is_named_and_all_end(model: str, busy: bool) -> None:
    """While it waits for what is typed, and while it computes. Catches ranks that wait for an order for ever, and ones
    that do not wait for a user who thinks.
    """
    flags = ["-tp", "2", "--rank-timeout", "2"]
    words = ["generate", "-m", model, "--raw", "--ignore-eos", *flags, *["-p", "a the in"] * 400]
    with running("launch", "-n", "2", "--", *(words if busy else ["chat", "-m", model, *flags])) as process:
        ranks = ranks_of(model, "generate" if busy else "chat")
        time.sleep(6)
        assert process.poll() is None
        os.kill(ranks[0], signal.SIGSTOP)
        _, errors = process.communicate(timeout=40)
    assert process.returncode != 0
    assert "rank 1 has waited for rank 0 for 2 seconds; it hangs" in errors
    check_gone(ranks)


@pytest.mark.mpi
@pytest.mark.parametrize("flag", ["-tp", "-pp"])
def test_ctrl_c_ends_all_ranks(model: str, flag: str) -> None:
    """Catches a leader that leaves the others in the middle of a pass."""
    words = [word for word in command(model, flag, "2") if word != "--json"]
    with running("launch", "-n", "2", "--", *words, *["-p", "a the in"] * 400) as process:
        assert process.stdout
        assert process.stdout.read(20)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.search("Generation: |interrupted", errors)


@pytest.mark.mpi
def test_a_launch_that_is_ended_leaves_no_rank(model: str) -> None:
    """SIGTERM, as of a container that stops. Catches ranks that go on without a parent."""
    with running("launch", "-n", "2", "--", "chat", "-m", model, "-tp", "2") as process:
        ranks = ranks_of(model)
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 143
    time.sleep(0.5)
    for rank in ranks:
        with pytest.raises(ProcessLookupError):
            os.kill(rank, 0)


@pytest.mark.mpi
def test_ctrl_c_in_the_middle_of_an_evaluation_ends_all_ranks(model: str, tmp_path: Path) -> None:
    """The engine computes in a thread of its own there. Catches a leader that ends while its thread has given an order.
    """
    text = tmp_path / "text.txt"
    text.write_text("the in er an on " * 20_000, encoding="utf-8")
    words = ["eval", "-m", model, "--text", str(text), "--window", "64", "--max-tokens", "100000", "-tp", "2"]
    for wait in (3.0, 3.5):
        with running("launch", "-n", "2", "--", *words) as process:
            time.sleep(wait)
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=60)
        assert process.returncode == 130


@pytest.mark.mpi
def test_ranks_that_were_given_something_else_are_told_so(model: str) -> None:
    """With its number, once. Catches ranks that compute different things and wait for each other."""
    one, other = command(model, "-tp", "2"), command(model, "-tp", "2", "--kv-cache", "paged")
    both = ["mpiexec", "-n", "1", *TINYINFER, *one, ":", "-n", "1", *TINYINFER, *other]
    done = subprocess.run(both, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert re.findall(r"rank 1 got other switches or another version than rank 0", done.stderr) != []
    assert done.stderr.count("error") == 1


@pytest.mark.mpi
def test_a_second_model_is_refused(model: str, tmp_path: Path) -> None:
    """`eval --compare` opens several, one after the other. Catches ranks that wait for each other in two models."""
    text = tmp_path / "text.txt"
    text.write_text("the in er an on " * 30, encoding="utf-8")
    words = ["eval", "-m", model, "--text", str(text), "--window", "16", "--compare", "float32,int8", "-tp", "2"]
    both = [*TINYINFER, "launch", "-n", "2", "--", *words]
    done = subprocess.run(both, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "this one has opened a model before; open one model a command" in done.stderr


@pytest.mark.mpi
def test_another_number_of_ranks_is_refused(model: str) -> None:
    words = ["mpiexec", "-n", "3", *TINYINFER, *command(model, "-tp", "2")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.count("--tensor-parallel-size=2 needs 2 processes, and 3 are there; start them with") == 1


def test_what_launch_needs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tinyinfer.cli.launch.scripts", lambda: str(tmp_path))
    for words, sentence in (
        (["-n", "0", "--", "inspect"], "-n 0 starts no process; give 1 or more"),
        (["-n", "2"], "launch needs a command behind --"),
        (["-n", "2", "--", "generate", "Hi"], "each of 2 processes would do the whole of the command; add -tp 2,"),
        (["-n", "2", "--", "chat", "-tp", "2"], "launch needs mpiexec, which is not installed; pip install 'tinyinfer"),
    ):
        assert main(["launch", *words]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.cuda
@pytest.mark.parametrize("flag", ["-tp", "-pp"])
def test_processes_on_a_gpu_say_what_one_process_says(model: str, flag: str) -> None:
    """Two that share the fake one. Catches a way from the command line to ranks on GPUs that leaves something out, and
    a note that each rank gives, or none.
    """
    program = ["mpiexec", "-n", "2", sys.executable, str(Path(__file__).parent / "on_fake_gpu.py")]
    words = command(model, "-n", "6", "--backend", "cupy", flag, "2")
    done = subprocess.run([*program, *words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["token_ids"] for line in done.stdout.splitlines()] == answers(*command(model, "-n", "6"))
    assert done.stderr.count("2 ranks share 1 GPU, so their arrays go through the host's memory") == 1
