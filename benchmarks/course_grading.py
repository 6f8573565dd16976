"""What grading a class costs: `python benchmarks/course_grading.py [-n 200] [--assignment kv_cache] [--jobs 2]`.

The submissions are our solution, the skeleton, a file with a syntax error and the planted bugs of tests/, in turn. The
class is graded with hidden tests by `course grade --all` in a process of its own. The grading process of every
hundredth student is killed (SIGKILL), and once, half-way, the whole run, which the same command then goes on with.
Students with the same file must have the same score.

Printed are minutes, the peak of the memory of all processes together, and of one submission the most CPU time and
memory. Memory is proportional set size: a page that n processes share counts 1/n for each. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from planted_bugs import bugs

from tinyinfer.course.assignment import assignment
from tinyinfer.course.cut import skeleton, solution
from tinyinfer.course.hidden import write_secret

PAUSE = 0.1  # seconds between two looks at the processes
TICKS = os.sysconf("SC_CLK_TCK")


def make_class(folder: Path, name: str, students: int) -> dict[str, str]:
    """Writes a class of so many students; the kind of each one's file by student."""
    a = assignment(name)
    right = solution(a)
    files = {"solution": right, "skeleton": skeleton(a), "syntax error": right + "\ndef"}
    files |= {f"bug: {bug.name}": bug.wrong(right) for bug in bugs(name)}
    kinds = {}
    for i in range(students):
        kind = list(files)[i % len(files)]
        place = folder / f"student{i:03}"
        place.mkdir(parents=True)
        (place / a.file).write_text(files[kind], encoding="utf-8")
        kinds[place.name] = kind
    return kinds


def hidden_folder(folder: Path, name: str) -> Path:
    """A folder of hidden tests with a new secret."""
    a = assignment(name)
    folder.mkdir()
    (folder / f"hidden_{name}.py").write_bytes((a.folder / f"hidden_{name}.py").read_bytes())
    write_secret(folder / "secret")
    return folder


@dataclass
class Watch:
    """The processes of a run, looked at again and again. students: of each grading process, its CPU time and memory."""

    peak: int = 0
    cpu: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    memory: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    killed: set[int] = field(default_factory=set)

    def look(self, root: int) -> list[int]:
        """Counts the processes below a root, and returns the grading processes among them."""
        children = defaultdict(list)
        for pid, parent in parents():
            children[parent].append(pid)
        own = pss(root)
        for worker in children[root]:
            used = sum(pss(pid) for pid in below(worker, children))
            own += used
            self.memory[worker] = max(self.memory[worker], used)
            self.cpu[worker] = max(self.cpu[worker], cpu_time(worker))
        self.peak = max(self.peak, own)
        return children[root]


def parents() -> list[tuple[int, int]]:
    """(process, parent) of every process."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            found.append((int(pid), int(stat_fields(int(pid))[1])))
        except OSError:
            continue
    return found


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, which may hold blanks: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def below(pid: int, children: dict[int, list[int]]) -> list[int]:
    """A process with all of its descendants."""
    return [pid, *(found for child in children[pid] for found in below(child, children))]


def pss(pid: int) -> int:
    """The proportional set size of a process in bytes; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def cpu_time(pid: int) -> float:
    """Seconds of CPU time of a process and of its children that have ended."""
    try:
        return sum(map(int, stat_fields(pid)[11:15])) / TICKS
    except OSError:
        return 0.0


def run(command: list[str], watch: Watch, records: Path, kill_at: int, kills: int) -> int:
    """Runs the command to its end, or kills it when so many records are there; kills so many workers on the way."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        workers, done = watch.look(process.pid), len(list(records.glob("*.json")))
        if done >= kill_at:
            process.send_signal(signal.SIGKILL)
        due = kills * done // max(1, kill_at) - len(watch.killed)
        for worker in [pid for pid in workers if watch.cpu[pid] > 1.0 and pid not in watch.killed][: max(0, due)]:
            os.kill(worker, signal.SIGKILL)
            watch.killed.add(worker)
        time.sleep(PAUSE)
    return process.wait()


def read_rows(table: Path) -> list[dict[str, str]]:
    """The rows of a table of grades."""
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check(rows: list[dict[str, str]], kinds: dict[str, str]) -> dict[str, str]:
    """The score of each kind of file; an AssertionError where two students with the same file differ."""
    assert [row["student"] for row in rows] == sorted(kinds), "a student is missing"
    scores: dict[str, str] = {}
    for row in rows:
        kind = kinds[row["student"]]
        assert row["status"] != "grader fault", row
        assert scores.setdefault(kind, row["score"]) == row["score"], (kind, row)
    assert (scores["solution"], scores["skeleton"], scores["syntax error"]) == ("100", "0", "0"), scores
    return scores


def main() -> None:
    """Grades a class and prints what that cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=200, help="students")
    parser.add_argument("--assignment", default="kv_cache")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        kinds = make_class(place / "class", args.assignment, args.n)
        hidden, table, watch = hidden_folder(place / "hidden", args.assignment), place / "grades.csv", Watch()
        command = [
            sys.executable, "-m", "tinyinfer", "course", "grade", "--all", str(place / "class"), "-o", str(table),
            "--assignment", args.assignment, "--hidden", str(hidden), "--jobs", str(args.jobs), "-q",
        ]  # fmt: skip
        begin = time.perf_counter()
        assert run(command, watch, place / "grades", args.n // 2, max(1, args.n // 100)) == -signal.SIGKILL
        first = time.perf_counter() - begin
        assert run(command, watch, place / "grades", args.n + 1, 0) == 0
        seconds = time.perf_counter() - begin
        again = time.perf_counter()
        assert run(command, watch, place / "grades", args.n + 1, 0) == 0
        again = time.perf_counter() - again
        rows = read_rows(table)
    print(f"{args.n} submissions of {args.assignment}, {args.jobs} at a time: {seconds / 60:.1f} minutes")
    print(f"  the run was killed after {first / 60:.1f} minutes and went on; {len(watch.killed)} graders were killed")
    print(f"  nothing changed, graded once more: {again:.1f} s")
    print(f"  memory of all processes: {watch.peak / 1e6:.0f} MB at most")
    cpu, memory = max(watch.cpu.values()), max(watch.memory.values())
    print(f"  one submission: {cpu:.1f} s of CPU and {memory / 1e6:.0f} MB at most")
    for kind, score in check(rows, kinds).items():
        print(f"  {score:>5}  {kind}")


if __name__ == "__main__":
    main()
