"""`tinyinfer generate --use DIR`: a model answers through students' files, and then through the engine's own code.

The first run is a process of its own, whose package has the students' code in it (course/cut.py); its text streams as
usual. The second run is in this process, shows nothing, and has the same arguments. Then the tokens are compared prompt
by prompt, and the ledgers. One run follows the other, so that two models are never in memory. The exit status is 1
where a token differs.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tinyinfer.cli.arguments import UsageError, engine_config, flag, sampling_params
from tinyinfer.cli.as_student import LINES, RECORD, REQUEST
from tinyinfer.cli.comparison import Comparison, Generation, compare_runs
from tinyinfer.cli.console import progress_bar, say, show_json
from tinyinfer.course.assignment import Assignment, check_needed, marked
from tinyinfer.course.cut import merged_package
from tinyinfer.course.errors import CourseError
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import ModelError

Generate = Callable[..., Generation]
INTERRUPTED = 130
TOLD = (2, INTERRUPTED, 129, 141, 143)  # exit statuses of the command line that say why it ended (cli/__init__.py)
PATIENCE = 1.0  # seconds in which a process that was told to end may do so
STDERR = 2
NOT_PASSED_ON = ("run", "opener", "use", "as_student")  # of the arguments: what the other process has itself
ENGINE = [one.name for one in fields(EngineConfig)]


@dataclass(frozen=True)
class Used:
    """A student's file, and its assignment."""

    assignment: Assignment
    path: Path

    @property
    def folder(self) -> Path:
        return self.path.parent


def run(args: argparse.Namespace, prompts: list[str], generate: Generate) -> int:
    """Both runs and their comparison; 1 where a token differs, 130 after Ctrl-C.

    generate: generate.py's function, for the run in this process. Raises CourseError for a folder that cannot be used,
    SwitchError, UsageError for switches under which the students' code would not run.
    """
    students = read_students(args.use)
    args = with_switches(args, students)
    engine_config(args), sampling_params(args)  # a mistake is told before any work
    with tempfile.TemporaryDirectory(prefix="tinyinfer-use-") as name:
        folder = Path(name)
        write_package(folder, students)
        write_request(folder, args, prompts, students)
        status = run_students(folder, args.json)
        lines, answered = read_json(folder / LINES), read_json(folder / RECORD)
    if status or answered is None:
        write_lines(lines or [])
        return status_of(status, lines is not None, students)
    return compared(args, prompts, generate, answered, lines)


def compared(
    args: argparse.Namespace, prompts: list[str], generate: Generate, answered: dict[str, Any], lines: list[Any]
) -> int:
    """The run of the engine's own code, and the comparison; 1 where a token differs, 130 after Ctrl-C.

    It is a run of the model that answered, whatever the network does by now.
    """
    same = {"model": answered["model"], "given": args.given | {"model"}}
    quiet = argparse.Namespace(**vars(args) | same | {"quiet": True, "verify": False})
    total, result = sum(map(len, answered["token_ids"])), None
    try:
        with progress_bar("the engine's own code", shown=not args.quiet) as bar:
            reference = generate(quiet, prompts, silent=lambda done: bar(done, max(done, total)))
        result = compare_runs(answered, reference) if reference.finished else None
    finally:
        write_lines(lines, result)
    if result is None:
        say("interrupted: not compared with the engine's own code")
        return INTERRUPTED
    say("\n".join(result.lines()))
    return 0 if result.identical else 1


def write_lines(lines: list[dict[str, Any]], result: Comparison | None = None) -> None:
    """Shows lines of --json, with what the comparison says of each."""
    for i, line in enumerate(lines):
        show_json(line | {"reference": result and result.as_dict(i)})


# The students' folders.


def read_students(folders: list[str]) -> list[Used]:
    """The assignments and files of students' folders. Raises CourseError for a folder that cannot be used."""
    found: dict[str, Used] = {}
    for folder in map(Path, folders):
        a = marked(folder)
        check_needed(a)
        if not a.generates:
            raise CourseError(f"{folder}: no answer runs the code of {a.name}; `pytest {folder}` gives its score")
        if a.name in found:
            raise CourseError(f"{found[a.name].folder} and {folder} are both folders of {a.name}; use one of them")
        found[a.name] = Used(a, folder / a.file)
        check_source(found[a.name].path)
    return list(found.values())


def check_source(path: Path) -> None:
    """Raises CourseError for a student's file that is missing, or is no Python source."""
    if not path.is_file():
        raise CourseError(f"{path}: is missing; `course start` writes it")
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise CourseError(f"{path}:{error.lineno or 1}: is no Python: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise CourseError(f"{path}: is no Python: {error or type(error).__name__}") from None


def with_switches(args: argparse.Namespace, students: list[Used]) -> argparse.Namespace:
    """The arguments with the switches of the assignments where the user gave none, and with a seed for drawn tokens.

    Says what it adds. Raises UsageError for a switch of the engine that two assignments, or assignment and user, want
    to be different.
    """
    values, added = dict(vars(args)), []
    for name, value in wanted_switches(students).items():
        if name not in args.given:
            added += [spelled(name, value)] * (values[name] != value)
            values[name] = value
        elif name in ENGINE:
            for one in students:
                check_serves(one, name, values[name])
    if values["temperature"] and values["seed"] in (None, -1):
        values["seed"] = secrets.randbits(31)
        added.append(spelled("seed", values["seed"]))
    if added and not args.quiet:
        say(f"with {' '.join(added)}, for --use")
    return argparse.Namespace(**values)


def check_serves(one: Used, name: str, value: Any) -> None:
    """Raises UsageError for a switch of the user's under which a student's code would not run."""
    serves = one.assignment.also_serves.get(name, (value,))
    if value not in serves:
        wanted = " or ".join(spelled(name, each) for each in serves)
        raise UsageError(
            f"the code of {one.folder} runs under {wanted}, not under {spelled(name, value)}; leave it out"
        )


def wanted_switches(students: list[Used]) -> dict[str, Any]:
    """The switches of all assignments. Raises UsageError where two want different values."""
    wanted: dict[str, tuple[Any, Path]] = {}
    for one in students:
        for name, value in one.assignment.switches.items():
            other, folder = wanted.setdefault(name, (value, one.folder))
            if other != value:
                sides = f"{folder} runs under {spelled(name, other)}, and {one.folder} under {spelled(name, value)}"
                raise UsageError(f"{sides}; use one of them at a time")
    return {name: value for name, (value, _) in wanted.items()}


def spelled(name: str, value: object) -> str:
    """A switch as the command line has it."""
    return f"{flag(name)} {'on' if value is True else 'off' if value is False else value}"


# The other process.


def write_package(folder: Path, students: list[Used]) -> None:
    """Writes the package with the students' code, and the models that come with it, some MB beside it.

    Raises CourseError, also for a disk that is full.
    """
    from tinyinfer.loading.hub import SHIPPED, shipped

    try:
        merged_package(folder, {one.assignment.name: one.path for one in students}, whole=True)
        for name in SHIPPED:
            with suppress(ModelError):  # an installation without it, which is told where it is needed
                shutil.copytree(shipped(name), folder / "weights" / name, copy_function=shutil.copyfile)
    except OSError as error:
        reason = error.strerror or error
        raise CourseError(f"{folder}: takes no copy of the package ({reason}); set TMPDIR to another folder") from None


def write_request(folder: Path, args: argparse.Namespace, prompts: list[str], students: list[Used]) -> None:
    """Writes what the other process has to do into `folder`."""
    request = {
        "students": {str(one.path.absolute()): str(one.path) for one in students},
        "prompts": prompts,
        "args": {name: value for name, value in vars(args).items() if name not in NOT_PASSED_ON}
        | {"given": sorted(args.given)},
    }
    (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")


def run_students(folder: Path, as_json: bool) -> int:
    """Runs the students' code in a process of its own; its exit status.

    folder: where the package with their code is, and the request. as_json: what their code prints goes to stderr.
    Ctrl-C ends the process before this function returns.
    """
    from tinyinfer.loading.hub import weights_folder

    environ = dict(os.environ)
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), environ.get("PYTHONPATH")]))
    with suppress(ModelError):  # a user without a home folder may have a model of his own
        environ["TINYINFER_HOME"] = weights_folder()
    command = [sys.executable, "-P", "-m", "tinyinfer", "generate", "--as-student", str(folder)]
    output = None if not as_json else subprocess.DEVNULL if sys.stderr is None else STDERR
    process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=output)
    try:
        process.wait()
    except KeyboardInterrupt:  # a terminal has sent it to both
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        if process.poll() is None and os.name == "posix":
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        if process.poll() is None:
            raise  # code that holds Ctrl-C back has nothing to tell
    finally:
        end(process)
    return process.returncode


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that still runs: politely, then at once."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        process.kill()
    process.wait()


def read_json(path: Path) -> Any:
    """What the other process has recorded at its end, or None."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def status_of(status: int, told: bool, students: list[Used]) -> int:
    """The exit status after a run without a comparison. told: the process has come as far as to write its lines.

    Raises CourseError where the process ended otherwise than by a mistake that it has told, or by a signal to both.
    """
    if told and status in TOLD:
        return status
    if status in (INTERRUPTED, -signal.SIGINT):
        return INTERRUPTED
    files = " and ".join(str(one.path) for one in students)
    how = f"by signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"with exit status {status}"
    raise CourseError(f"the process that ran {files} ended {how}, before all answers were there")
