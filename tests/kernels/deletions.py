"""Leaves out one line of a kernel and asks its tests: a line that no test misses is a hole in the tests, or not needed.

    python tests/kernels/deletions.py decode.cuh --tests test_attention_kernels.py --keyword decode --count 10

The tests run with the detector of races, in a process of their own, on a copy of the kernels' folder. A line that the
compiler misses is passed over, and so is one that only makes the kernel faster, which must be judged by eye.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import tinyinfer

PACKAGE = Path(tinyinfer.__file__).parent.resolve()
FOLDER = PACKAGE / "backends" / "kernels"
TESTS = Path(__file__).parent
NEEDED = "constexpr|using|struct|extern|template|return|const|float|int|bool|double|unsigned|auto|__shared__"
DECLARED = re.compile(rf"({NEEDED})\b|[A-Z]\w+\*? \w|}}")  # what the compiler would miss
LEFT_OUT = "not cuda and not gpu"  # by default only the tests of the default run are asked


def statements(text: str) -> list[int]:
    """Numbers, from 0, of the lines that are one statement by themselves."""
    lines = [line.partition("//")[0].strip() for line in text.splitlines()]
    whole = [number for number, line in enumerate(lines) if line.endswith(";") and number and is_end(lines[number - 1])]
    return [number for number in whole if not DECLARED.match(lines[number])]


def is_end(line: str) -> bool:
    """Whether the next line begins a statement."""
    return not line or line[-1] in ";{}" or line.startswith("#")


def without(text: str, number: int) -> str:
    """The text, one line empty: the others keep their numbers."""
    lines = text.splitlines()
    lines[number] = ""
    return "\n".join(lines) + "\n"


def copy_with(folder: Path, file: str, text: str) -> None:
    """A package in `folder` that is the real one, but for one file of the kernels."""
    inner = folder / "tinyinfer"
    for real, copied in ((PACKAGE, inner), (PACKAGE / "backends", inner / "backends"),
                         (FOLDER, inner / "backends" / "kernels")):  # fmt: skip
        copied.mkdir(exist_ok=True)
        for path in real.iterdir():
            if path.name not in ("backends", "kernels", "__pycache__", file):
                (copied / path.name).symlink_to(path)
    (inner / "backends" / "kernels" / file).write_text(text, encoding="utf-8")


def failing(file: str, text: str, tests: Sequence[str], keyword: str = "", marks: str = LEFT_OUT) -> str | None:
    """The first test that fails when a kernels' file has another text, or "a crash"; None if all pass."""
    with tempfile.TemporaryDirectory() as name:
        copy_with(Path(name), file, text)
        paths = [str(TESTS / test) for test in tests]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-m", marks,
                   "--rootdir", str(TESTS.parents[1]), *(["-k", keyword] if keyword else []), *paths]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": name, "TINYINFER_RACES": "1"}
        done = subprocess.run(command, cwd=name, env=environment, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        return "a crash"  # a kernel that writes anywhere may end the whole process
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout}{done.stderr}")
    if "BuildError" in done.stdout:
        return "the compiler"
    found = re.search(r"^FAILED .*?(\w+\.py::\S+)", done.stdout, re.MULTILINE)
    return found[1] if found else None


def spread(numbers: list[int], count: int) -> Iterator[int]:
    """All numbers, those first that divide the file into `count` parts."""
    step = max(1, len(numbers) // count)
    yield from numbers[::step]
    yield from (number for at, number in enumerate(numbers) if at % step)


def main() -> None:
    """Prints a line's fate as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", help="a .cu or .cuh of the kernels' folder")
    parser.add_argument("--tests", nargs="+", required=True, help="test files of tests/kernels")
    parser.add_argument("--keyword", default="", help="as pytest's -k")
    parser.add_argument("--marks", default=LEFT_OUT, help="as pytest's -m")
    parser.add_argument("--count", type=int, default=10, help="lines to leave out that the compiler does not miss")
    options = parser.parse_args()
    text, tried = (FOLDER / options.file).read_text(encoding="utf-8"), 0
    for number in spread(statements(text), options.count):
        fate = failing(options.file, without(text, number), options.tests, options.keyword, options.marks)
        print(f"{options.file}:{number + 1}: {text.splitlines()[number].strip()}")
        print(f"    {fate or 'NOT MISSED'}", flush=True)
        tried += fate != "the compiler"
        if tried == options.count:
            break


if __name__ == "__main__":
    main()
