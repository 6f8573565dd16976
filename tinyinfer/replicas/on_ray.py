"""Replicas on the nodes of a Ray cluster: each is a task of Ray that runs the command of a replica (extra `ray`).

Ray finds a node with enough free CPUs, and the task starts the process there. The process connects to the front by a
socket (start.py), as one that launch starts on the front's own machine. So a node that dies is a replica that dies, and
the front knows what to do then; Ray itself runs nothing again. All nodes need the same Python, files and version.

Wins: launch needs no list of hosts. Loses: some seconds until the tasks have begun.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from tempfile import TemporaryFile
from typing import Any

from tinyinfer.errors import SwitchError

GRACE = 5.0  # seconds that a process has to end when it is asked to
REACH = 10.0  # seconds in which a cluster has to answer
SHOWN = 2000  # bytes of what a replica has written to stderr that are shown where it has failed
Environment = dict[str, str]


def find_ray() -> Any:
    """The package `ray`. Raises SwitchError where it is not installed."""
    try:
        import ray
    except ImportError as error:
        reason = "Ray is not installed ({words})"
        raise SwitchError("", None, reason, "pip install 'tinyinfer[ray]'", words=str(error)) from error
    return ray


class Task:
    """A replica's process on some node, with those methods of a subprocess.Popen that launch calls."""

    def __init__(self, ray: Any, task: Any) -> None:
        self.ray, self.task = ray, task
        self.status: int | None = None
        self._thread = threading.Thread(target=self._follow, name="a replica on Ray", daemon=True)
        self._thread.start()

    def poll(self) -> int | None:
        """The exit status, None while the process runs."""
        return self.status

    def wait(self) -> int:
        """The exit status, when the process has ended."""
        self._thread.join()
        return self.status or 0

    def terminate(self) -> None:
        """Asks the process to end; a task that has not begun never will."""
        self.ray.cancel(self.task, force=False)

    def kill(self) -> None:
        """Ends the task's worker, and its process with it."""
        self.ray.cancel(self.task, force=True)

    def _follow(self) -> None:
        try:
            status, words = self.ray.get(self.task)
        except Exception:  # its node or worker is gone, or the task was cancelled; the front knows by the connection
            status, words = 1, ""
        if words:
            print(words, file=sys.stderr, flush=True)
        self.status = status


@contextmanager
def cluster(address: str, tasks: int, cpus: int) -> Iterator[tuple[str, Callable[[list[str], Environment], Task]]]:
    """The front's own address, and what starts a command on a node. Tasks that are left end with the block.

    address: of the cluster, "" for the one of this machine, which is started where there is none. tasks: how many will
    be started; cpus: that each of them needs. Raises SwitchError where Ray or the cluster is missing, or too small.
    """
    ray = find_ray()
    handler = signal.getsignal(signal.SIGTERM)
    with redirect_stdout(sys.stderr):  # stdout is the front's
        try:
            connect(ray, address, tasks * cpus)
            signal.signal(signal.SIGTERM, handler)  # Ray has set its own
            there = ray.cluster_resources().get("CPU", 0)
            if there < tasks * cpus:
                reason = "the Ray cluster has {there:g} CPUs, and {tasks} replicas beside the front need {cpus} each"
                raise SwitchError("", None, reason, "give it more nodes", there=there, tasks=tasks, cpus=cpus)
            host = os.environ.get("TINYINFER_HOST") or ray.util.get_node_ip_address()
            remote = ray.remote(num_cpus=cpus, max_retries=0, scheduling_strategy="SPREAD")(run_command)
            yield f"{host}:{free_port(host)}", partial(start, ray, remote)
        finally:
            ray.shutdown()


def connect(ray: Any, address: str, cpus: int) -> None:
    """Joins a cluster, or starts one of this machine alone."""
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        reach(address)
        ray.init(address or "auto", **quiet)
    except (OSError, ValueError) as error:  # a ConnectionError is an OSError
        if address:
            reason, words = "no Ray cluster answers at {address} ({words})", str(error)
            cure = "start one with `ray start --head`, which says its HOST:PORT"
            raise SwitchError("", None, reason, cure, address=address, words=words) from error
        ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)


def reach(address: str) -> None:
    """Raises OSError where nothing listens at a HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=REACH).close()


def free_port(host: str) -> int:
    """A port of this machine that nothing listens at."""
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


def start(ray: Any, remote: Any, command: list[str], told: Environment) -> Task:
    """A task that runs a command with these environment variables, in this process's folder."""
    return Task(ray, remote.remote(command, told, os.getcwd()))


def run_command(command: list[str], told: Environment, folder: str) -> tuple[int, str]:
    """What the task does on its node: the exit status of a command, and what it says where it has failed."""
    with TemporaryFile() as errors:
        try:
            nothing = subprocess.DEVNULL
            process = subprocess.Popen(command, env=told, cwd=folder, stdin=nothing, stdout=nothing, stderr=errors)
        except OSError as error:
            return 2, f"tinyinfer: error: a replica cannot be started on {socket.gethostname()}: {error}"
        try:
            while process.poll() is None:  # a wait would not notice that the task is cancelled
                time.sleep(0.05)
        finally:
            end(process)
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - SHOWN))
        words = errors.read().decode(errors="replace").strip() if process.returncode else ""
        return process.returncode, words


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that may be there."""
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
