"""Mutated model files, a million of them: `python benchmarks/fuzz.py [--inputs 1000000] [--state FOLDER]`.

Each input is a small whole model of which a stranger has changed a file (fuzzing/__init__.py). It is loaded and used as
a user would (fuzzing/trial.py). A finding is an exception that is not promised, a crash of the interpreter, more than 5
s of processor time, or memory of 20 times the files' size.

    python benchmarks/fuzz.py                            goes on where the state's folder says
    python benchmarks/fuzz.py --report                   the table so far, and the findings
    python benchmarks/fuzz.py --kind gguf --only 12345   one input, in this process, with its traceback
    python benchmarks/fuzz.py --replay                   the findings once more; those that are mended are dropped
    python benchmarks/fuzz.py --state B --first 5000000  a second process beside the first, with inputs of its own

Some hundred inputs run one after another in a forked child, so that an input costs milliseconds and not the start of
Python. The child writes a line for each; the parent knows by them which input a dead or silent child was at. Linux only
(fork, /proc/self/clear_refs).
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["RUST_BACKTRACE"] = "0"  # a panic of the tokenizers library is an exception here, and its trace costs time
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fuzzing.kinds import KINDS, made, whole
from fuzzing.trial import Outcome, limit_memory, tried

BATCH = 1000  # inputs of a child: what one leaves behind, others do not carry for long
SILENCE = 90  # seconds without a line after which a child counts as hung; other programs may slow it down
UNJUDGED = ("chat template",)  # a template may take time and memory
SHOWN = 40  # findings of a kind that are kept with their traceback; of the others, the first line


@dataclass
class Tally:
    """What became of the inputs of one kind. first: the number of the first one; next: of the first not yet run."""

    first: int = 0
    next: int = 0
    endings: dict[str, int] = field(default_factory=dict)
    longest: float = 0.0
    megabytes: float = 0.0
    times: float = 0.0
    findings: int = 0

    @property
    def count(self) -> int:
        """How many inputs were run."""
        return self.next - self.first

    def add(self, outcome: Outcome) -> None:
        """Counts one outcome."""
        self.next += 1
        self.endings[outcome.ending] = self.endings.get(outcome.ending, 0) + 1
        self.longest = max(self.longest, outcome.seconds)
        self.megabytes = max(self.megabytes, outcome.megabytes)
        self.times = max(self.times, outcome.times)
        self.findings += bool(outcome.fault)


class State:
    """Tallies and findings in a folder: tallies.json, findings.jsonl. first: of each kind in a new folder."""

    def __init__(self, folder: Path, first: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.findings = folder / "tallies.json", folder / "findings.jsonl"
        kept = json.loads(self.path.read_text()) if self.path.exists() else {}
        new = {"first": first, "next": first}
        self.tallies = {kind: Tally(**kept.get(kind, new)) for kind in KINDS}

    def save(self) -> None:
        """Writes the tallies, whole or not at all."""
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({kind: asdict(tally) for kind, tally in self.tallies.items()}, indent=1))
        part.replace(self.path)

    def add(self, kind: str, outcome: Outcome) -> None:
        """Counts an outcome, and writes it down if it is a finding."""
        tally = self.tallies[kind]
        if outcome.fault:
            fault = outcome.fault if tally.findings < SHOWN else outcome.fault.partition("\n")[0]
            with open(self.findings, "a") as file:
                file.write(json.dumps({"kind": kind, "number": tally.next, "fault": fault}) + "\n")
        tally.add(outcome)

    def listed(self) -> list[dict]:
        """The findings that are kept."""
        return [json.loads(line) for line in self.findings.read_text().splitlines()] if self.findings.exists() else []


class Scratch:
    """A folder in memory in which each seed is written once; an input's changed files are put in it and taken out."""

    def __init__(self, place: Path) -> None:
        self.place, self.folders, self.rendered = place, dict[str, Path](), set[tuple[str, ...]]()

    def run(self, kind: str, number: int) -> Outcome:
        """Makes an input, runs it and puts its seed back in order."""
        seed, changed = made(kind, number)
        folder = self.folders.get(seed.name)
        if folder is None:
            folder = self.folders[seed.name] = self.place / str(len(self.folders))
            folder.mkdir()
            for name, data in seed.files.items():
                (folder / name).write_bytes(data)
        for name, data in changed.items():
            (folder / name).write_bytes(data)
        try:
            return tried(folder, whole(seed, changed), self.rendered, kind not in UNJUDGED)
        finally:
            for name in changed:
                if name in seed.files:
                    (folder / name).write_bytes(seed.files[name])
                else:
                    (folder / name).unlink()


def in_memory() -> str | None:
    """A folder whose files are in memory, where the system has one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def outcomes(kind: str, numbers: range) -> Iterator[Outcome]:
    """What becomes of these inputs in a child. A child that dies or hangs ends them, with a finding as the last one."""
    place = Path(tempfile.mkdtemp(prefix="tinyinfer-fuzz-", dir=in_memory()))
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _work(kind, numbers, place, writing)
    os.close(writing)
    done = 0
    try:
        for line in _lines(reading):
            yield Outcome(**json.loads(line))
            done += 1
    finally:
        os.close(reading)
        ended = _end(child)
        shutil.rmtree(place, ignore_errors=True)
    if done < len(numbers):
        yield Outcome("crashed", 0.0, 0.0, 0.0, f"the interpreter ended: {ended}")


def _work(kind: str, numbers: range, place: Path, writing: int) -> None:
    """The child: runs the inputs and writes a line for each."""
    limit_memory()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    try:
        scratch = Scratch(place)
        for number in numbers:
            os.write(writing, json.dumps(asdict(scratch.run(kind, number))).encode() + b"\n")
        os._exit(0)
    finally:
        os._exit(1)


def _lines(reading: int) -> Iterator[bytes]:
    """The lines of a pipe, until it ends or is silent for too long."""
    rest = b""
    while select.select([reading], [], [], SILENCE)[0]:
        data = os.read(reading, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def _end(child: int) -> str:
    """How the child ended; one that still runs is killed."""
    for _ in range(50):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"no answer in {SILENCE} s"


def run(state: State, wanted: int) -> None:
    """Runs inputs of all kinds, each kind by its share, until there are as many as wanted."""
    for kind in KINDS:
        KINDS[kind].seeds()  # before the first fork
    start, before = time.monotonic(), sum(tally.count for tally in state.tallies.values())
    while (done := sum(tally.count for tally in state.tallies.values())) < wanted:
        kind = min(KINDS, key=lambda kind: state.tallies[kind].count / KINDS[kind].share)
        first = state.tallies[kind].next
        for outcome in outcomes(kind, range(first, first + min(BATCH, KINDS[kind].share // 20, wanted - done))):
            state.add(kind, outcome)
        state.save()
        rate = (done - before) / (time.monotonic() - start)
        faults = sum(tally.findings for tally in state.tallies.values())
        print(f"{time.strftime('%H:%M:%S')} {done} inputs, {rate:.0f} a second, {faults} findings", flush=True)


def joined(tallies: Iterable[Tally]) -> Tally:
    """The tally of all inputs of several."""
    total = Tally()
    for tally in tallies:
        total.next += tally.count
        total.endings = dict(Counter(total.endings) + Counter(tally.endings))
        total.findings += tally.findings
        total.longest, total.megabytes = max(total.longest, tally.longest), max(total.megabytes, tally.megabytes)
        total.times = max(total.times, tally.times)
    return total


def report(states: list[State]) -> None:
    """Prints the table of all states together and the findings, those of one place together."""
    row = "{:26}{:>10}{:>10}{:>10}{:>10}{:>10}{:>9}{:>8}{:>10}"
    print(row.format("kind", "inputs", "refused", "declined", "loaded", "longest", "memory", "x size", "findings"))
    rows = [(kind, joined(state.tallies[kind] for state in states)) for kind in KINDS]
    for kind, tally in [*rows, ("all", joined(tally for _, tally in rows))]:
        counts = [f"{tally.endings.get(ending, 0):,}" for ending in ("refused", "declined", "loaded")]
        most = f"{tally.longest:.1f} s", f"{tally.megabytes:.0f} MB", f"{tally.times:.0f}"
        print(row.format(kind, f"{tally.count:,}", *counts, *most, tally.findings))
    groups: dict[tuple[str, str], list[int]] = {}
    for found in [found for state in states for found in state.listed()]:
        lines = found["fault"].strip().splitlines()
        groups.setdefault((found["kind"], f"{lines[0][:150]} {lines[-3:-1]}"), []).append(found["number"])
    for (kind, fault), numbers in groups.items():
        print(f"\n{kind} {numbers[:8]}: {fault}")


def replay(state: State) -> None:
    """Runs the kept findings once more and drops those that are none any longer."""
    left, found = [], state.listed()
    for finding in found:
        kind, number = finding["kind"], finding["number"]
        *_, last = outcomes(kind, range(number, number + 1))
        if last.fault:
            left.append(finding | {"fault": last.fault})
        state.tallies[kind].findings -= not last.fault
    state.findings.write_text("".join(json.dumps(finding) + "\n" for finding in left))
    state.save()
    print(f"{len(left)} of {len(found)} findings remain")


def main() -> None:
    """Runs, replays or reports."""
    parser = argparse.ArgumentParser(description="mutated model files, a million of them")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many in all, those of earlier runs included")
    parser.add_argument("--state", type=Path, nargs="+", default=[Path("fuzz")], help="folder of tallies and findings")
    parser.add_argument("--first", type=int, default=0, help="in a new state: the number of each kind's first input")
    parser.add_argument("--report", action="store_true", help="print the table so far")
    parser.add_argument("--replay", action="store_true", help="run the findings once more")
    parser.add_argument("--kind", choices=list(KINDS), help="with --only: the kind of one input")
    parser.add_argument("--only", type=int, help="the number of one input, which runs in this process")
    parser.add_argument("--keep", type=Path, help="with --only: a new folder for the input's files")
    args = parser.parse_args()
    if args.only is not None:
        _one(args.kind, args.only, args.keep)
        return
    state = State(args.state[0], args.first)
    if args.report:
        report([State(folder) for folder in args.state])
    elif args.replay:
        replay(state)
    else:
        run(state, args.inputs)
        report([state])


def _one(kind: str, number: int, keep: Path | None) -> None:
    """Runs one input here and prints what became of it; its files may be kept."""
    if keep:
        seed = whole(*made(kind, number))
        keep.mkdir(parents=True)
        for name, data in seed.files.items():
            (keep / name).write_bytes(data)
        print(f"{keep / seed.opened}: {seed.name}, changed {', '.join(made(kind, number)[1])}")
    with tempfile.TemporaryDirectory(dir=in_memory()) as place:
        outcome = Scratch(Path(place)).run(kind, number)
    print(f"{outcome.ending}, {outcome.seconds:.2f} s, {outcome.megabytes:.0f} MB, {outcome.times:.0f} times its size")
    print(outcome.fault or "no finding")


if __name__ == "__main__":
    main()
