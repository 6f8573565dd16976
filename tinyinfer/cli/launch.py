"""`tinyinfer launch -n N -- generate -tp N ...`: the same command in N processes that find each other by MPI.

It calls mpiexec (extra `parallel`), which ends all of them when one dies, and passes Ctrl-C on. On several machines
mpiexec itself is called, with its own flags for hosts.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import sysconfig

from tinyinfer.cli.arguments import UsageError

FLAGS = "-tp", "--tensor-parallel-size", "-pp", "--pipeline-parallel-size"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's parser."""
    parser = commands.add_parser(
        "launch", help="start a command in several processes that run one model",
        description="Starts a command in N processes, each with a part of the model: tinyinfer launch -n 2 -- generate "
        "-tp 2 TEXT. Needs pip install 'tinyinfer[parallel]'.",
    )  # fmt: skip
    parser.add_argument("-n", type=int, required=True, metavar="N", help="how many processes")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="a command of tinyinfer")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The exit status of the first process."""
    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    if args.n < 1:
        raise UsageError(f"-n {args.n} starts no process; give 1 or more")
    if not words:
        raise UsageError("launch needs a command behind --, as in: tinyinfer launch -n 2 -- generate -tp 2 TEXT")
    if not any(word.partition("=")[0] in FLAGS for word in words):
        cure = f"add -tp {args.n} or -pp {args.n} to it"
        raise UsageError(f"each of {args.n} processes would do the whole of the command; {cure}")
    mpiexec = shutil.which("mpiexec") or shutil.which("mpiexec", path=scripts())
    if mpiexec is None:
        raise UsageError("launch needs mpiexec, which is not installed; pip install 'tinyinfer[parallel]'")
    process = subprocess.Popen([mpiexec, "-n", str(args.n), sys.executable, "-m", "tinyinfer", *words])
    try:
        status = ended(process)
    finally:  # SIGTERM, too: mpiexec ends its processes
        if process.poll() is None:
            process.terminate()
            process.wait()
    if status in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
        name = signal.Signals(status).name
        raise UsageError(f"one of the {args.n} processes was ended by {name}, so that mpiexec has ended the others")
    return status


def ended(process: subprocess.Popen[bytes]) -> int:
    """The exit status of mpiexec, which has Ctrl-C, too, and ends when its processes have."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def scripts() -> str:
    """Where pip puts commands beside this Python, which may not be on the PATH."""
    return sysconfig.get_path("scripts")
