"""Every notebook runs: untouched, with each right and each wrong answer, twice, interrupted, and on the tiny model.

A kernel of the running Python executes the cells, so a new environment made by notebooks/README.md's command proves
that command. Answers come from notebooks/answers. All faults of a notebook are told at once.

    python -m pytest -m notebooks tests/notebooks -k 03_kv_cache
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from lesson_source import ANSWERABLE, NAMES, NOTEBOOKS, Cell, Source, answered, builder, read, too_early

pytestmark = pytest.mark.notebooks
INSTALL = 1  # the place of the cell that build.py puts in front
OPEN, WRONG = "not answered yet", ("not yet.", "Not this time.")
BEGIN = """
from tinyinfer import SamplingParams as _Params
_llm = lesson.model()
def _tokens(llm, count):
    return len(llm.generate("Once", _Params(max_tokens=count, ignore_eos=True))[0].token_ids)
"""
PEAK = "from tinyinfer.engine.metrics import peak_memory_bytes as _peak\nprint(_peak())"
LONG = "while True: _tokens(_llm, 100)"
AFTER = "print(_tokens(_llm, 3), _tokens(lesson.model(), 3))"


@dataclass
class Result:
    """What a cell showed, as text; stderr; the error that ended it; seconds."""

    text: str
    stderr: str
    raised: str
    seconds: float


@dataclass
class Session:
    """A notebook in a running kernel, and the faults found so far. places: the code cells of the source, by number."""

    source: Source
    client: Any
    places: list[int]
    faults: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, number: int, text: str | None = None) -> Result:
        """Executes a code cell of the source, or in its place another text."""
        from nbclient.exceptions import CellExecutionError

        place = self.places[number]
        cell, raised, begun = self.client.nb.cells[place], "", time.perf_counter()
        cell.source = self.source.code[number].text if text is None else text
        try:
            self.client.execute_cell(cell, place)
        except CellExecutionError as error:
            raised = f"{error.ename}: {error.evalue}"
        out = [one.get("text") or one.get("data", {}).get("text/plain", "") for one in cell.outputs]
        errors = [one.get("text", "") for one in cell.outputs if one.get("name") == "stderr"]
        return Result("\n".join(out), "".join(errors), raised, time.perf_counter() - begun)

    def run_all(self, round_: str) -> list[Result]:
        """Executes every code cell in order; each must pass."""
        results = []
        for number, cell in enumerate(self.source.code):
            result = self.run(number)
            results.append(result)
            name = f"cell {number} ({cell.text.strip().partition(chr(10))[0]})"
            self.expect(not result.raised, f"{round_}: {name} failed with {result.raised}")
            self.expect("Traceback" not in result.stderr, f"{round_}: {name} wrote {result.stderr}")
            self.seconds[name] = result.seconds
        return results

    def expect(self, fine: bool, fault: str) -> None:
        """Keeps the fault unless all is fine."""
        if not fine:
            self.faults.append(f"{self.source.name}: {fault}")

    def number(self, tag: str, checked: str = "") -> int:
        """The code cell of that tag, or the one that checks that name."""
        return next(
            i for i, cell in enumerate(self.source.code) if (cell.checked == checked if checked else tag in cell.tags)
        )


@contextmanager
def session(name: str, **environ: str) -> Iterator[Session]:
    """A lesson's notebook in a kernel with these environment variables besides ours; ends with its faults."""
    nbformat = pytest.importorskip("nbformat", reason="needs the notebooks extra")
    pytest.importorskip("nbclient", reason="needs the notebooks extra")
    from tinyinfer.cli.notebook_pages import running

    source, build = read(name), builder()
    text = (NOTEBOOKS / "src" / f"{name}.py").read_text(encoding="utf-8")
    notebook = nbformat.reads(build.built(name, text, build.repository()), as_version=4)
    places = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"][1:]
    with running(notebook, NOTEBOOKS, **environ) as client:
        client.execute_cell(notebook.cells[INSTALL], INSTALL)
        found = Session(source, client, places)
        yield found
    if found.faults:
        pytest.fail("\n".join(found.faults), pytrace=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_untouched_answered_interrupted_and_again(name: str, capsys) -> None:
    """Catches a cell that fails, an exercise that takes a wrong answer or refuses the right one, a hint that no wrong
    answer gets, a cell that works only once, and an interrupt that leaves the engine unusable. Tells the times."""
    with session(name) as lesson:
        results = lesson.run_all("untouched")
        tell_times(lesson, capsys)
        for number, cell in enumerate(lesson.source.code):
            if cell.tag in ANSWERABLE:
                shown = results[number + (cell.tag == "prediction")]
                lesson.expect(OPEN in shown.text, f"untouched: {cell.checked or cell.tag} does not say {OPEN!r}")
        for cell in lesson.source.tagged(*ANSWERABLE):
            give_answers(lesson, cell)
        interrupt(lesson)
        lesson.run_all("again")


def tell_times(lesson: Session, capsys) -> None:
    """Prints the time of a notebook, the largest memory of its kernel and the slowest cells."""
    slowest = sorted(lesson.seconds.items(), key=lambda one: -one[1])[:4]
    gigabytes = float(lesson.run(0, PEAK).text) / 1e9
    with capsys.disabled():
        print(f"\n{lesson.source.name}: {sum(lesson.seconds.values()):.1f} s untouched, {gigabytes:.2f} GB")
        print("".join(f"    {seconds:6.2f} s  {name}\n" for name, seconds in slowest), end="")


def give_answers(lesson: Session, cell: Cell) -> None:
    """Gives all wrong answers and then the right one, and compares what is said."""
    name, entry = cell.checked or cell.tag, lesson.source.answer(cell.checked or cell.tag)
    right_words = f"{cell.checked}: right." if cell.checked else "Right."
    said = {}
    for wrong in entry["wrong"]:
        result = give(lesson, cell, wrong["answer"])
        said[wrong["says"]] = result.text
        told = f"{name}, wrong answer {wrong['answer']!r}"
        lesson.expect(not result.raised, f"{told} ended with {result.raised}")
        lesson.expect(wrong["says"] in result.text, f"{told} does not say {wrong['says']!r} but {result.text!r}")
        lesson.expect(any(word in result.text for word in WRONG), f"{told} is taken: {result.text!r}")
    result = give(lesson, cell, entry["right"])
    lesson.expect(not result.raised, f"{name}: the right answer ended with {result.raised}")
    lesson.expect(right_words in result.text, f"{name}: the right answer is not taken but told {result.text!r}")
    says = entry.get("says", "")
    lesson.expect(says in result.text, f"{name}: the right answer does not say {says!r} but {result.text!r}")
    for says in said:
        others = [text for other, text in said.items() if other != says] + [result.text]
        lesson.expect(not any(says in text for text in others), f"{name}: another answer is told {says!r}, too")
    if cell.tag == "yours":
        result = lesson.run(lesson.number("", cell.checked) + 1)
        lesson.expect(not result.raised, f"{name}: the claim with the right answer ended with {result.raised}")
        lesson.expect(f"uses your {name}" in result.text, f"{name}: the claim does not use the student's")


def give(lesson: Session, cell: Cell, answer: str) -> Result:
    """Runs a cell with an answer in the place of its dots; of a prediction, the cell that reveals the truth, too."""
    number = lesson.number(cell.tag, cell.checked)
    result = lesson.run(number, answered(cell.text, answer))
    if cell.tag == "prediction" and not result.raised:
        return lesson.run(number + 1)
    return result


def expect_told(lesson: Session, shown: list[Result], words: str) -> None:
    """A lesson that uses the real model says which other one it has."""
    uses = any(cell.calls("model") for cell in lesson.source.code) or "lesson.real" in str(lesson.source.cells)
    told = any(words in result.text for result in shown)
    lesson.expect(told or not uses, f"does not say that it {words}")


def interrupt(lesson: Session) -> None:
    """The stop button in the middle of a long answer: the engine goes on with the next one."""
    started = lesson.run(0, BEGIN)
    lesson.expect(not started.raised, f"interrupt: no engine: {started.raised}")
    stop = Timer(0.7, os.kill, (lesson.client.km.provisioner.pid, signal.SIGINT))
    stop.start()
    stopped, after = lesson.run(0, LONG), lesson.run(0, AFTER)
    stop.cancel()
    lesson.expect(stopped.raised.startswith("KeyboardInterrupt"), f"interrupt: {stopped.raised!r}")
    lesson.expect(after.text.split() == ["3", "3"], f"after an interrupt: {after.raised} {after.text!r}")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_on_the_tiny_model_and_names_the_cell_that_is_missing(name: str, tmp_path: Path) -> None:
    """Catches a lesson that needs the real weights, or that keeps silent about not having them; and a cell run too
    early that says no more than NameError."""
    with session(name, TINYINFER_LESSON_MODEL="tiny", TINYINFER_HOME=str(tmp_path)) as lesson:
        shown = [lesson.run(0)]
        for number in (too_early(lesson.source), lesson.number("reveal")):
            result = lesson.run(number)
            told = "first run the cell under" in result.text and result.raised.startswith("NameError")
            lesson.expect(told, f"cell {number} after the first alone: {result.raised} {result.text!r}")
        shown += lesson.run_all("tiny model")
        expect_told(lesson, shown, "runs on a tiny model")
        lesson.expect(not list(tmp_path.iterdir()), "fetched something")


@pytest.mark.parametrize("name", NAMES)
def test_without_a_network_a_notebook_runs_on_the_story_teller(name: str, tmp_path: Path) -> None:
    """Catches a lesson that needs what only SmolLM2 has: its context, its widths, its template, weights in floats."""
    with session(name, TINYINFER_LESSON_MODEL="", TINYINFER_HOME=str(tmp_path), PIP_NO_INDEX="1") as lesson:
        shown = lesson.run_all("story-teller")
        expect_told(lesson, shown, "runs on story-teller")
