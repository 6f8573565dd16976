"""The tasks are true: each worked example runs against our solution, and each name in a text is a name of the code."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from planted_bugs import RUN, right_text

from tinyinfer.cli import parse
from tinyinfer.course.assignment import assignments
from tinyinfer.course.cut import asked, skeleton
from tinyinfer.course.source import closure
from tinyinfer.course.start import readme
from tinyinfer.sampling_params import SamplingParams

ASSIGNMENTS = assignments()
each = pytest.mark.parametrize("name", ASSIGNMENTS)
each_run = pytest.mark.parametrize("name", RUN)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAME = re.compile(r"`([A-Za-z_][\w.]*)`")
SAMPLING = {one.name for one in fields(SamplingParams)}


def task(name: str) -> str:
    """The text of an assignment's task."""
    return (ASSIGNMENTS[name].folder / "task.md").read_text(encoding="utf-8")


@each_run
def test_the_examples_run_against_our_solution(name, tmp_path, monkeypatch):
    """Catches an example that is wrong, that asserts nothing, or that needs what a student's folder does not have."""
    blocks = BLOCK.findall(task(name))
    (tmp_path / ASSIGNMENTS[name].file).write_text(right_text(name), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    shared: dict[str, object] = {}
    try:
        for block in blocks:
            exec(compile(block, f"{name}/task.md", "exec"), shared)
        imported = sys.modules[name].__file__
    finally:
        sys.modules.pop(name, None)
    assert Path(imported or "") == tmp_path / ASSIGNMENTS[name].file
    assert any("assert " in block for block in blocks)


@each_run
def test_the_examples_need_the_students_work(name, tmp_path, monkeypatch):
    """Catches an example that a skeleton would pass, too."""
    (tmp_path / ASSIGNMENTS[name].file).write_text(skeleton(ASSIGNMENTS[name]), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    try:
        with pytest.raises(NotImplementedError, match=f"{name}, task"):
            exec(compile("\n".join(BLOCK.findall(task(name))), f"{name}/task.md", "exec"), {})
    finally:
        sys.modules.pop(name, None)


@each
def test_names_are_the_same_in_text_skeleton_and_tests(name):
    """Catches an old name in a task, a task that leaves out a function, and a test that the table does not explain."""
    a, text = ASSIGNMENTS[name], task(name)
    file = skeleton(a)
    used = closure(re.findall(r"^from (tinyinfer[\w.]*) import", file, re.MULTILINE))
    codes = [file, *(path.read_text(encoding="utf-8") for path in used.values()), *BLOCK.findall(text)]
    codes += [(a.folder / f"test_{a.file}").read_text(encoding="utf-8")]
    known = {word for code in codes for word in re.findall(r"\w+", code)} | {a.name}
    plain = BLOCK.sub("", text)
    assert {word for found in NAME.findall(plain) for word in found.split(".")} <= known
    mentioned = set(re.findall(r"\w+", plain))
    assert {asked_for.rpartition(".")[2] for asked_for in asked(a)} <= mentioned


@each
def test_tasks_have_the_numbers_that_the_file_gives_them(name):
    """Catches a failure "task 3: append" that sends a student to the third task of the text, where that is another."""
    in_file = re.findall(rf'NotImplementedError\("{name}, task (\d+): (?:\w+\.)*(\w+)"\)', skeleton(ASSIGNMENTS[name]))
    in_text = re.findall(r"^(\d+)\. `(?:\w+\.)*(\w+)", task(name), re.MULTILINE)
    assert in_text == in_file


@each
def test_the_commands_are_commands(name):
    """Catches a flag that does not exist, and `--use` under a switch that it refuses for this assignment."""
    a = ASSIGNMENTS[name]
    lines = re.findall(r"^(?: {4})?python -m tinyinfer (.+)$", readme(a), re.MULTILINE)
    commands = [parse(shlex.split(line, comments=True)) for line in lines]
    served, unset = [args for args in commands if getattr(args, "use", None)], vars(parse(["generate"]))
    assert len(served) >= 2 if a.generates else not served
    for args in served:
        for switch in a.switches:
            if switch in SAMPLING:  # a student's own choice
                continue
            assert getattr(args, switch) in (unset[switch], *a.also_serves[switch])
