"""Attacks on the grader, graded: as root and as a user, each in a process of its own that tells what came of it.

    python tests/course/attacked.py FOLDER UID      grades all attacks as this user, one line of JSON for each
    python tests/course/attacked.py --page          writes docs/course_attacks.md

An attack is a file tests/attacks/NN_name.py: the code that is put behind the text of an assignment's solution or
skeleton, under lines of a header, "# key: value" (a key may have several lines):

    base     what it stands on: "solution of sampling" or "skeleton of kv_cache"
    tests    the tests that are graded; hidden ones are run with a secret of their own
    named    a regular expression for what the report says of it
    lost     tests that the attack itself makes fail, with the points that are left if any are: "test_x, test_y 2"
    why      why these tests are lost
    limits   limits that are shorter than usual, so that an endless loop ends soon
    also     further files of the submission; each prints BROKEN when it is executed

Code that comes through prints a line with BROKEN.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import tinyinfer
from tinyinfer.course.assignment import Assignment, assignment
from tinyinfer.course.cut import skeleton, solution
from tinyinfer.course.grading.children import PipedChildren
from tinyinfer.course.grading.classroom50 import test as classroom_test
from tinyinfer.course.grading.grade import grade
from tinyinfer.course.grading.gradescope import results as gradescope_results
from tinyinfer.course.grading.report import Report, as_json, as_text
from tinyinfer.course.hidden import write_secret
from tinyinfer.course.sandbox import processes
from tinyinfer.course.sandbox.sandbox import Limits

ATTACKS = Path(__file__).parents[1] / "attacks"
PAGE = Path(__file__).parents[2] / "docs" / "course_attacks.md"
PACKAGE = Path(tinyinfer.__file__).parent
MARK = "tinyinfer_attack"  # in the name of every file that an attack tries to write
PAYLOAD = 'print("BROKEN: a file of the submission was executed")\n'
STUDENT = "mallory"
READ_ALL = 2  # CAP_DAC_READ_SEARCH
OLD = "old kernel"


@dataclass(frozen=True)
class Attack:
    """One attack: its name ("03_exit"), its code, and what its header says."""

    name: str
    code: str
    base: str
    assignment: str
    tests: tuple[str, ...]
    named: str
    lost: tuple[tuple[str, float], ...] = ()
    why: str = ""
    limits: tuple[tuple[str, float], ...] = ()
    also: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        return int(self.name[:2])

    def source(self, with_attack: bool = True) -> str:
        a = assignment(self.assignment)
        text = solution(a) if self.base == "solution" else skeleton(a)
        return f"{text}\n\n{self.code}" if with_attack else text


def read(path: Path) -> Attack:
    """The attack in a file. Raises ValueError, KeyError for a header that is not whole."""
    code = path.read_text(encoding="utf-8")
    header: dict[str, str] = {}
    for key, value in re.findall(r"^# (\w+): *(.*)$", code.partition("\n\n")[0], re.MULTILINE):
        header[key] = f"{header[key]}, {value}" if key in header else value
    base, _, name = header["base"].partition(" of ")
    limits = tuple((key, float(value)) for key, value in re.findall(r"(\w+)=([\d.]+)", header.get("limits", "")))
    lost = tuple((key, float(left or 0)) for key, left in re.findall(r"(\w+) ?([\d.]*)", header.get("lost", "")))
    tests, also = (tuple(re.findall(r"[^\s,]+", header.get(key, ""))) for key in ("tests", "also"))
    return Attack(path.stem, code, base, name, tests, header["named"], lost, header.get("why", ""), limits, also)


@cache
def attacks() -> dict[str, Attack]:
    """All attacks by name, in order."""
    return {path.stem: read(path) for path in sorted(ATTACKS.glob("[0-9][0-9]_*.py"))}


# What one grading gave.


@dataclass
class Found:
    """What came of an attack. base: the tests' scores without the attack. left: processes and files behind it."""

    attack: str
    scores: dict[str, float]
    base: dict[str, float]
    of_grader: list[str]
    told: str  # all that the teacher's report says
    shown: str  # all that the student may see
    statuses: dict[str, str]
    limits: list[str]
    seconds: float
    megabytes: int  # that the grader has taken at most, since it began
    left: list[str] = field(default_factory=list)


def graded(desk: Path, attack: Attack, with_attack: bool = True) -> Report:
    """The report of an attack, or of its base; its results are written as a grader on a platform writes them."""
    a, folder = assignment(attack.assignment), desk / "submission"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / a.file).write_text(attack.source(with_attack), encoding="utf-8")
    (folder / "assignment.toml").write_text(f'name = "{a.name}"\nversion = "{a.version}"\n', encoding="utf-8")
    if with_attack:
        for name in attack.also:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(PAYLOAD, encoding="utf-8")
        SUBMISSIONS.get(attack.name, lambda folder, a: None)(folder, a)
    limits = Limits(**{key: int(value) if key == "cpu_seconds" else value for key, value in attack.limits})
    results = desk / "results.json"
    return grade(
        folder, a.name, student=STUDENT, hidden=desk / "hidden", only=attack.tests,
        runner=partial(PipedChildren, bounds=limits),
        told=lambda report: results.write_text(as_json(report), encoding="utf-8"),
    )  # fmt: skip


def found(desk: Path, attack: Attack, base: dict[str, float]) -> Found:
    """Grades an attack and looks for what it has left behind."""
    start = time.perf_counter()
    report = graded(desk, attack)
    seconds = round(time.perf_counter() - start, 2)
    shown = "\n".join([as_text(report), json.dumps(visible(gradescope_results(report))),
                       *(json.dumps(classroom_test(result)) for result in report.asked)])  # fmt: skip
    return Found(
        attack.name, {r.name: r.score for r in report.results if r.status != "not run"}, base,
        [r.name for r in report.results if r.of_grader], told(report), shown,
        {r.name: r.status for r in report.results}, list(report.limits), seconds,
        peak_megabytes(), list(left(desk, report)),
    )  # fmt: skip


def peak_megabytes() -> int:
    """The grader's own: getrusage would count the size of the tests that started it, too, which exec keeps."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) >> 10


def told(report: Report) -> str:
    """The lines of a report that are about the submission: its fault, its notes, what is said of each test."""
    lines = [report.fault, *report.notes]
    for r in report.results:
        lines += [f"{r.name}: {r.status}", r.sentence, r.hint, r.output]
    return "\n".join(line for line in lines if line)


def visible(results: dict[str, Any]) -> dict[str, Any]:
    """What a student can see of Gradescope's results.json."""
    tests = [test for test in results["tests"] if test["visibility"] != "hidden"]
    return {"output": results["output"], "tests": tests}


def left(desk: Path, report: Report) -> Iterator[str]:
    """Processes of the student's, and files that an attack has written."""
    found = re.search(r"another user: uid (\d+)", "\n".join(report.limits))
    user = int(found[1]) if found else os.getuid()
    for process in processes.running():
        if process.uid == user != 0 and process.pid != os.getpid():
            yield f"process {process.pid} of uid {process.uid}"
    if (desk / "results.json").read_text(encoding="utf-8") != as_json(report):
        yield "results.json was changed"
    for name in {entry.name for entry in desk.iterdir()} - {"submission", "hidden", "results.json", "engine", "home"}:
        yield f"the file {name} in the grader's folder for temporary files"
    for place in (desk, desk / "home", Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), PACKAGE, Path.cwd()):
        for path in place.glob(f"*{MARK}*") if place.is_dir() else ():
            if path.lstat().st_uid == user:
                yield f"the file {path.name} in {place}"


# Submissions that are more than one file.


def tampered(folder: Path, a: Assignment) -> None:
    """The public tests pass by themselves, and are worth all points."""
    (folder / f"test_{a.name}.py").write_text("def test_top_k(student): pass\n", encoding="utf-8")
    text = (a.folder / "assignment.toml").read_text(encoding="utf-8").replace("points = 6", "points = 100")
    (folder / "assignment.toml").write_text(f'name = "{a.name}"\n{text}', encoding="utf-8")


def another_marker(folder: Path, a: Assignment) -> None:
    (folder / "assignment.toml").write_text('name = "transformer_operations"\nversion = "1"\n', encoding="utf-8")


def links(folder: Path, a: Assignment) -> None:
    """Links to all that is outside, things that make a reader wait, and names that a terminal or a path obeys."""
    (folder / "README.md").symlink_to("/etc/passwd")
    (folder / "up").symlink_to("..")
    (folder / "round").symlink_to(".")
    (folder / "zero").symlink_to("/dev/zero")
    os.link(folder / a.file, folder / "twice.py")
    os.mkfifo(folder / "fifo.py")
    own = os.fsdecode(b"\xff.py")
    names = "new\nscore: 100", "\u202egpj.py", "\x1b[2J.py", "..hidden", "-rf", "=1+1", "n" * 250, own
    for name in names:
        (folder / name).write_text(PAYLOAD, encoding="utf-8")
    with suppress(OSError):  # only root makes a device
        os.mknod(folder / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    deep = folder
    for _ in range(30):
        deep = deep / "deep"
        deep.mkdir()


def linked(folder: Path, a: Assignment) -> None:
    """The file is a link to the work of another student."""
    other = folder / "other"
    other.write_text(solution(a), encoding="utf-8")
    (folder / a.file).unlink()
    (folder / a.file).symlink_to(other)


def waiting(folder: Path, a: Assignment) -> None:
    """The file is a FIFO, that is never written to."""
    (folder / a.file).unlink()
    os.mkfifo(folder / a.file)


def not_utf8(folder: Path, a: Assignment) -> None:
    (folder / a.file).write_bytes((folder / a.file).read_bytes() + b"\n# \xff\xfe\x1b[2J\n")


def dotted(folder: Path, a: Assignment) -> None:
    """Python's parser takes memory that grows with the square of the number of dots."""
    with open(folder / a.file, "a", encoding="utf-8") as file:
        file.write("\nif False:\n    import a" + ".a" * 45_000 + "\n")


def folders(folder: Path, a: Assignment) -> None:
    """More files than a grader should look at."""
    for outer in range(120):
        (folder / f"{outer}").mkdir()
        for inner in range(100):
            (folder / f"{outer}" / f"{inner}.py").touch()


SUBMISSIONS: dict[str, Callable[[Path, Assignment], None]] = {
    "12_dotted_name": dotted, "13_many_files": folders,
    "19_links": links, "19_linked_file": linked, "19_waiting_file": waiting, "19_not_utf8": not_utf8,
    "23_tampers_with_tests": tampered, "23_another_marker": another_marker,
}  # fmt: skip


# Who grades.


def desk_at(folder: Path) -> Path:
    """A grader's folder: for temporary files, with hidden tests that only the grader may read."""
    (folder / "home").mkdir()
    hidden = folder / "hidden"
    hidden.mkdir(mode=0o700)
    for name in sorted({attack.assignment for attack in attacks().values()}):
        shutil.copyfile(assignment(name).folder / f"hidden_{name}.py", hidden / f"hidden_{name}.py")
    write_secret(hidden / "secret")
    return folder


def main(folder: Path, wanted: list[str]) -> None:
    """Grades the attacks, and tells each as one line of JSON."""
    desk = desk_at(folder)
    chosen = [attack for attack in attacks().values() if not wanted or attack.name in wanted]
    known: dict[tuple[str, str], dict[str, float]] = {}
    for key in dict.fromkeys((one.base, one.assignment) for one in chosen):
        tests = dict.fromkeys(test for one in chosen if (one.base, one.assignment) == key for test in one.tests)
        report = graded(desk, Attack("", "", *key, tuple(tests), ""), with_attack=False)
        known[key] = {result.name: result.score for result in report.results}
    for attack in chosen:
        scores = known[attack.base, attack.assignment]
        print(json.dumps(asdict(found(desk, attack, {test: scores[test] for test in attack.tests}))), flush=True)


class Grader:
    """A process that grades all attacks, or those that are wanted; its lines are read while it goes on.

    user: whether not as root. old: whether as on a kernel without Landlock, seccomp and namespaces.
    """

    def __init__(self, user: bool, wanted: tuple[str, ...] = (), old: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tinyinfer-attacks-"))
        self.folder.chmod(0o711)
        drop = user and os.geteuid() == 0
        uid = processes.free_uid() if drop else os.geteuid()
        os.chown(self.folder, uid, uid)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(self.folder),
                       "HOME": str(self.folder / "home"), "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder), str(uid), OLD * old, *wanted], cwd=self.folder,
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._told: dict[str, Found] = {}

    def found(self, name: str) -> Found:
        """What came of an attack; waits for it. Raises RuntimeError when the grader has ended before."""
        assert self.process.stdout is not None
        while name not in self._told:
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError(f"the grader ended before {name}: {self.process.communicate()[1]}")
            one = Found(**json.loads(line))
            self._told[one.attack] = one
        return self._told[name]

    def end(self) -> list[str]:
        """Ends the grader; what is left behind a while after all attacks."""
        self.process.kill()
        self.process.communicate()
        still = [name for name in (entry.name for entry in self.folder.iterdir()) if MARK in name]
        shutil.rmtree(self.folder, ignore_errors=True)
        return still


def can_become() -> bool:
    """Whether this process is a user's, or root's with the right to read all files, which a container may lack."""
    if os.geteuid():
        return True
    status = Path("/proc/self/status").read_text(encoding="utf-8") if Path("/proc/self/status").is_file() else ""
    return any(int(bits, 16) >> READ_ALL & 1 for bits in re.findall(r"CapEff:\s*(\w+)", status))


def become(uid: int) -> None:
    """Makes this process, which is root's, that of a user who may read all files: an installation may be root's own.

    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    os.setgroups([])
    os.setgid(uid)
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setuid(uid)
    sets = struct.pack("6I", *[1 << READ_ALL] * 3, 0, 0, 0)  # effective, permitted, inheritable
    if libc.capset(struct.pack("Ii", 0x20080522, 0), sets) or libc.prctl(47, 2, READ_ALL, 0, 0):  # PR_CAP_AMBIENT
        raise OSError(ctypes.get_errno(), "this container's root cannot read all files")
    libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: as a process is that has always been this user's


def forget_new_kernels() -> None:
    """Makes this process and its children find no Landlock, no seccomp and no namespace, as in many containers.

    Raises OSError. x86_64 only, and only for root: a filter of system calls refuses them.
    """
    missing = {444: errno.ENOSYS, 317: errno.ENOSYS, 272: errno.EPERM}  # landlock_create_ruleset, seccomp, unshare
    load, equal, give, refuse, allow = 0x20, 0x15, 0x06, 0x00050000, 0x7FFF0000
    program = [(load, 0, 0, 0)]
    for number, error in missing.items():
        program += [(equal, 0, 1, number), (give, 0, 0, refuse | error)]
    program += [(equal, 0, 3, 157), (load, 0, 0, 16), (equal, 0, 1, 22), (give, 0, 0, refuse | errno.EINVAL)]  # prctl
    program.append((give, 0, 0, allow))
    buffer = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
    filters = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, ctypes.c_char_p(filters), 0, 0):
        raise OSError(ctypes.get_errno(), "this root cannot filter system calls")


# The page.

HEAD = """# The attacks on the grader

Each row is a submission under `tests/attacks`, graded by `tests/course/test_attacks.py`: by a grader that is root, so
that the student's code has a user of its own, and by one that is a user. The points must be those of the same
submission without the attack; where the attack ends its own process, or answers wrongly, those of the tests that it
does not touch. Beside the points, the tests look for processes, files and changed results that an attack has left
behind. What a report names is a line of the attack's own report, as the teacher reads it.

This page is written by `python tests/course/attacked.py --page`.

Limits in force, where root graded: {root}

Limits in force, where a user graded: {user}

| attack | without it | as root | as a user | points lost by the attack itself | the report names |
|---|---:|---:|---:|---|---|
"""


def page_of(root: dict[str, Found], user: dict[str, Found]) -> str:
    """The page, with a row for each attack that was graded."""
    first = [next(iter(found.values()), None) for found in (root, user)]
    said = [re.sub(r"uid \d+", "one of its own", "; ".join(one.limits)) + "." if one else "" for one in first]
    rows = [row(attacks()[name], root[name], user[name]) for name in root]
    return HEAD.format(root=said[0], user=said[1]) + "".join(rows)


def row(attack: Attack, root: Found, user: Found) -> str:
    """A row of the page: points without the attack and with it, and a line of the report."""
    points = [f"{sum(scores.values()):g}" for scores in (root.base, root.scores, user.scores)]
    match = re.search(attack.named, root.told)
    start = root.told.rfind("\n", 0, match.end()) + 1 if match else 0
    line = re.sub(r"([\\|`*_<>\[\]])", r"\\\1", root.told[start:].partition("\n")[0][:160])
    return f"| {attack.name} | {' | '.join(points)} | {attack.why or 'none'} | {line} |\n"


def write_page() -> None:
    """Grades all attacks twice, side by side, and writes docs/course_attacks.md."""
    graders = [Grader(user=False), Grader(user=True)]
    try:
        both = {name: [grader.found(name) for grader in graders] for name in attacks()}  # in turn: neither waits
        root, user = ({name: found[i] for name, found in both.items()} for i in (0, 1))
        PAGE.write_text(page_of(root, user), encoding="utf-8")
    finally:
        for grader in graders:
            grader.end()


if __name__ == "__main__":
    if sys.argv[1:] == ["--page"]:
        sys.exit(write_page())
    if os.geteuid() != int(sys.argv[2]):
        become(int(sys.argv[2]))
    if OLD in sys.argv[3:]:
        forget_new_kernels()
    main(Path(sys.argv[1]), [name for name in sys.argv[3:] if name in attacks()])
