"""launch --ray: replicas as tasks on a cluster of two nodes of this machine, and what is refused without one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from on_nodes import two_nodes
from test_replicas import FEW, LAUNCH, TINYINFER, begun, command, gone, load, processes, rest_of, running, said

from tinyinfer.cli import main
from tinyinfer.replicas.on_ray import run_command
from tinyinfer.replicas.start import address_of


@pytest.fixture(scope="module")
def model(golden_folder: Any) -> str:
    """A model of 9 query heads that share 3 key/value heads."""
    return str(golden_folder("smollm2"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, each with room for two replicas."""
    with two_nodes() as nodes:
        yield nodes


@pytest.mark.ray
@pytest.mark.parametrize("more", [(), ("--kv-cache", "paged", "--prefix-cache", "on", "--temp", "1", "--seed", "3")])
def test_replicas_on_ray_say_what_one_process_says(model: str, cluster: Any, more: tuple[str, ...]) -> None:
    """Catches what Ray prints in the middle of the answers, and a prompt that each replica answers."""
    words = command(model, "-q", *FEW, *more)
    assert said(*LAUNCH, "3", "--ray", cluster.address, "--", *words, "-dp", "3") == said(*TINYINFER, *words)
    assert gone(model)


@pytest.mark.ray
def test_a_replica_of_two_ranks_is_on_one_node(model: str, cluster: Any) -> None:
    """Its task needs two CPUs, and starts mpiexec. Catches ranks that are counted as replicas."""
    pytest.importorskip("mpi4py")
    words = command(model, "-q", *FEW)
    start = [*LAUNCH, "4", "--ray", cluster.address, "--"]
    assert said(*start, *words, "-dp", "2", "-tp", "2") == said(*TINYINFER, *words)
    assert gone(model)


@pytest.mark.ray
def test_launch_starts_a_cluster_where_there_is_none(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a cluster of the machine that is too small, and one that stays when the command has ended."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    words = command(model, "-q", *FEW)
    assert said(*LAUNCH, "4", "--ray", "--", *words, "-dp", "4") == said(*TINYINFER, *words)
    assert gone(model)


@pytest.mark.ray
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_replicas_on_ray(model: str, cluster: Any, number: signal.Signals, status: int) -> None:
    """Catches orphans on the nodes, and the handler of SIGTERM that Ray sets."""
    words = command(model, *load() * 8)
    with running(*LAUNCH, "2", "--ray", cluster.address, "--", *words, "-dp", "2") as (process, errors):
        assert begun(process)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.terminate()
        rest_of(process)
        assert process.wait(30) == status, errors.read_text()
    assert gone(model)


@pytest.mark.ray
def test_replicas_on_ray_end_with_the_front(model: str, cluster: Any) -> None:
    """Catches tasks that keep the CPUs of their nodes."""
    words = command(model, *load() * 8)
    with running(*LAUNCH, "3", "--ray", cluster.address, "--", *words, "-dp", "3") as (process, errors):
        assert begun(process)
        os.kill(processes(model, 0)[0], signal.SIGKILL)
        assert process.wait(30) == 2
        assert "the first process was ended by SIGKILL" in errors.read_text()
    assert gone(model)


@pytest.mark.ray
def test_a_cluster_that_is_too_small_or_not_there_is_refused(model: str, cluster: Any) -> None:
    """Catches replicas that wait two minutes for CPUs that no node has."""
    for address, n, sentence in (
        (cluster.address, 6, "the Ray cluster has 4 CPUs, and 5 replicas beside the front need 1 each; give it more"),
        ("127.0.0.1:1", 2, "no Ray cluster answers at 127.0.0.1:1 ("),
        ("here", 2, "no Ray cluster answers at here ("),
    ):
        words = [*LAUNCH, str(n), "--ray", address, "--", *command(model, *FEW), "-dp", str(n)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.ray
def test_a_node_that_is_killed_loses_no_request_of_launch(model: str, cluster: Any) -> None:
    """64 requests; at once after the first text. The last test of this cluster. Catches replicas that are all on one
    node, a request that is lost or answered twice, and an orphan.
    """
    words = command(model, *load())
    with running(*LAUNCH, "4", "--ray", cluster.address, "--", *words, "-dp", "4") as (process, errors):
        first = begun(process)
        before = len(processes(model))
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        rest = rest_of(process)
        assert process.wait(30) == 0, errors.read_text()
        assert before == 4
        assert re.search(r"tinyinfer: replica \d has ended", errors.read_text())
    assert first + rest == said(*TINYINFER, *words, "-q")
    assert gone(model)


def test_without_ray_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback, and a launch that goes on without Ray."""
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["launch", "--ray", "-n", "2", "--", "generate", "-dp", "2", "Hi"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("tinyinfer: error: Ray is not installed (")
    assert line.endswith("; pip install 'tinyinfer[ray]'")


def test_ray_places_replicas_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Ranks of one model are not placed by Ray. Catches a flag that does nothing."""
    assert main(["launch", "-n", "2", "--ray", "--", "generate", "-tp", "2", "Hi"]) == 2
    sentence = "--ray places replicas, and this command has one; add -dp to it, or leave --ray out"
    assert sentence in capsys.readouterr().err


def test_the_address_of_the_front() -> None:
    """Catches a path with a colon that is read as a host."""
    assert address_of("10.0.0.1:4000") == ("10.0.0.1", 4000)
    assert address_of("node-1:4000") == ("node-1", 4000)
    assert address_of("folder/front") == "folder/front"
    assert address_of("a:b/front") == "a:b/front"


def test_a_command_that_fails_on_a_node_is_heard() -> None:
    """Without Ray. Catches the words of a replica that are lost on another machine, and one that cannot start there."""
    status, words = run_command([sys.executable, "-c", "import sys; sys.exit('no such file')"], dict(os.environ), ".")
    assert (status, words) == (1, "no such file")
    assert run_command([sys.executable, "-c", "print('fine')"], dict(os.environ), ".") == (0, "")
    status, words = run_command(["no-such-command"], dict(os.environ), ".")
    assert status == 2
    assert re.fullmatch(r"tinyinfer: error: a replica cannot be started on \S+: .*no-such-command.*", words)
