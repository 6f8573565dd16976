"""`tinyinfer launch -n N -- generate -tp N ...`: the same command in N processes that find each other.

Ranks of one model are started by mpiexec (extra `parallel`), which ends all of them when one dies, and passes Ctrl-C
on. Replicas (`-dp`) are started one by one, each by itself or, if several ranks share its model, by an mpiexec of its
own: so one that dies takes no other along. The first process has stdin, stdout and the exit status. On several machines
mpiexec itself is called, with its own flags for hosts; or --ray places replicas on the nodes of a Ray cluster.
"""

from __future__ import annotations

import argparse
import math
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from tinyinfer.cli.arguments import UsageError
from tinyinfer.cli.place import FOLDER
from tinyinfer.replicas.on_ray import Task, cluster, free_port

SIZES = {"-tp": "--tensor-parallel-size", "-pp": "--pipeline-parallel-size", "-dp": "--data-parallel-size"}
GRACE = 5.0  # seconds that processes have to end when the first one has ended, and again when they are asked to
LONG = 90  # letters of a path from which on it is too long for a socket
HERE = "127.0.0.1"
FATAL = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)
Process = subprocess.Popen[bytes] | Task
Start = Callable[[list[str], dict[str, str]], Process]  # a command, and its environment variables


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's parser."""
    parser = commands.add_parser(
        "launch", help="start a command in several processes that run one model",
        description="Starts a command in N processes, each with a part of the model (-tp) or with a replica of it "
        "(-dp): tinyinfer launch -n 2 -- generate -tp 2 TEXT. Needs pip install 'tinyinfer[parallel]', but for "
        "replicas of one process.",
    )  # fmt: skip
    parser.add_argument("-n", type=int, required=True, metavar="N", help="how many processes")
    parser.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS",
        help="replicas on a Ray cluster: the one at this address, else the one of this machine, which is started where "
        "there is none; needs pip install 'tinyinfer[ray]'",
    )  # fmt: skip
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="a command of tinyinfer")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The exit status of the first process."""
    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    if args.n < 1:
        raise UsageError(f"-n {args.n} starts no process; give 1 or more")
    if not words:
        raise UsageError("launch needs a command behind --, as in: tinyinfer launch -n 2 -- generate -tp 2 TEXT")
    sizes = sizes_of(words)
    if not sizes:
        cure = f"add -tp {args.n}, -pp {args.n} or -dp {args.n} to it"
        raise UsageError(f"each of {args.n} processes would do the whole of the command; {cure}")
    needed = math.prod(sizes.values())
    if needed != args.n:
        asked = " ".join(f"{flag} {size}" for flag, size in sizes.items())
        raise UsageError(f"{asked} needs {needed} processes, and -n {args.n} starts {args.n}; give -n {needed}")
    replicas = sizes.get("-dp", 1)
    if args.ray is not None and replicas == 1:
        raise UsageError("--ray places replicas, and this command has one; add -dp to it, or leave --ray out")
    ranks = args.n // replicas
    with tempfile.TemporaryDirectory(prefix="tinyinfer-") as name, ctrl_c_is_theirs():
        folder = Path(name)
        place = this_machine(folder) if args.ray is None else cluster(args.ray, replicas - 1, ranks)
        with started(command(ranks, words), replicas, place, folder) as processes:
            first = FirstEnded(folder, ranks)
            status = ended(processes, folder)
        if abs(status) in FATAL:
            cause = signal.Signals(abs(status)).name
            raise UsageError(f"{first.name} was ended by {cause}, so that the others have ended, too")
    return status


class FirstEnded:
    """Which rank of the first replica ends first. A thread waits for it: mpiexec ends the others at once.

    Each rank writes its process's number into the folder (parallel/mpi.py).
    """

    def __init__(self, folder: Path, ranks: int) -> None:
        self.folder, self.ranks, self.name = folder, ranks, "a process" if ranks > 1 else "the first process"
        if ranks > 1 and hasattr(os, "pidfd_open"):  # Linux
            threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        files = [self.folder / f"rank{rank}" for rank in range(self.ranks)]
        with suppress(OSError, ValueError):  # a rank, or the folder, is gone already
            while not all(file.exists() for file in files):
                self.folder.stat()
                time.sleep(0.05)
            handles = [os.pidfd_open(int(file.read_text())) for file in files]
            ready, _, _ = select.select(handles, [], [])
            if len(ready) == 1:  # else this thread came late, and does not know
                self.name = f"rank {handles.index(ready[0])} of {self.ranks}"


def sizes_of(words: list[str]) -> dict[str, int]:
    """Flag -> number of what a command line divides or copies the model by. What is no number is the command's error.
    """
    found = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        short = flag if flag in SIZES else next((one for one, long in SIZES.items() if long == flag), None)
        size = value if equals else following
        if short and size.isdecimal() and int(size):
            found[short] = int(size)
    return dict(sorted(found.items(), key=lambda pair: list(SIZES).index(pair[0])))


def command(ranks: int, words: list[str]) -> list[str]:
    """The command of a replica: of one process, or of several that mpiexec starts."""
    own = [sys.executable, "-m", "tinyinfer", *words]
    if ranks == 1:
        return own
    mpiexec = shutil.which("mpiexec") or shutil.which("mpiexec", path=scripts())
    if mpiexec is None:
        raise UsageError("launch needs mpiexec, which is not installed; pip install 'tinyinfer[parallel]'")
    return [mpiexec, "-n", str(ranks), *own]


@contextmanager
def started(
    each: list[str], replicas: int, place: AbstractContextManager[tuple[str, Start]], folder: Path
) -> Iterator[list[Process]]:
    """The processes of all replicas; at the end of the block all of them end, whatever has ended it.

    place: the address of the first one, and what starts another one. folder: where ranks and replicas leave word.
    """
    processes: list[Process] = []
    with place as (address, start):
        key = secrets.token_hex(32)
        try:
            for number in range(replicas):
                told = os.environ | {FOLDER: str(folder)}
                told |= environment(number, address, key) if replicas > 1 else {}
                if number:
                    processes.append(start(each, told))
                else:
                    processes.append(subprocess.Popen(each, env=told | {"TINYINFER_RANKS": str(folder)}))
            yield processes
        finally:
            end(processes)


def environment(number: int, address: str, key: str) -> dict[str, str]:
    """What the process of a replica is told: its number, and the way to the first one."""
    told = dict.fromkeys(("TINYINFER_REPLICA", "TINYINFER_PLACE"), str(number))
    told |= {"TINYINFER_FRONT": address, "TINYINFER_KEY": key}
    return told | ({"TERM": "dumb"} if number else {})  # one progress bar is enough


@contextmanager
def this_machine(folder: Path) -> Iterator[tuple[str, Start]]:
    """Where replicas are without --ray. Only the first one has stdin and stdout."""
    path = str(folder / "front")
    yield path if len(path) < LONG else f"{HERE}:{free_port(HERE)}", lambda each, told: subprocess.Popen(
        each, env=told, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


@contextmanager
def ctrl_c_is_theirs() -> Iterator[None]:
    """Ctrl-C reaches all processes, which end in their own time; this one waits for them."""
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ended(processes: list[Process], folder: Path) -> int:
    """The exit status of the first process. A replica that ends before it leaves a file, which the front looks for."""
    first = processes[0]
    assert isinstance(first, subprocess.Popen)
    while True:
        with suppress(subprocess.TimeoutExpired):
            return first.wait(0.2 if len(processes) > 1 else None)
        for number, process in enumerate(processes):
            if process.poll() is not None:
                (folder / f"ended{number}").touch()


def end(processes: list[Process]) -> None:
    """Waits for processes, asks those that are left to end, and then ends them. Replicas end when the first one has."""
    if processes and processes[0].poll() is None:  # SIGTERM
        ask(processes)
    left = waited(processes)
    ask(left)
    for process in waited(left):
        process.kill()
        process.wait()


def ask(processes: list[Process]) -> None:
    """Asks processes to end; mpiexec ends its own."""
    for process in processes:
        process.terminate()
        if isinstance(process, subprocess.Popen):
            process.send_signal(signal.SIGCONT)  # one that is stopped would not hear it


def waited(processes: list[Process]) -> list[Process]:
    """The processes that have not ended after a while."""
    until = time.monotonic() + GRACE
    while (left := [one for one in processes if one.poll() is None]) and time.monotonic() < until:
        time.sleep(0.02)
    return left


def scripts() -> str:
    """Where pip puts commands beside this Python, which may not be on the PATH."""
    return sysconfig.get_path("scripts")
