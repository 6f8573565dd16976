"""The one object that a notebook talks to: it judges answers, reveals what was predicted and opens models.

>>> lesson = Lesson("03_kv_cache")                                                  # doctest: +SKIP
>>> lesson.check("rows", 95)                                                        # doctest: +SKIP
"""

from __future__ import annotations

import inspect
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tinyinfer.lessons.cell_order import explain_missing_names
from tinyinfer.lessons.exercise import PACKAGE, Exercise, written
from tinyinfer.lessons.messages import Message, Prose, show
from tinyinfer.lessons.models import Models
from tinyinfer.lessons.prediction import revealed
from tinyinfer.llm import LLM

PATIENCE = 2  # wrong attempts before the solution is offered


class Lesson:
    """A lesson under way: the student's right answers so far, and the models that are open.

    name: as the notebook is called, such as "03_kv_cache"; its exercises are EXERCISES of lessons.kv_cache. Raises
    ValueError for a lesson that does not exist.
    """

    def __init__(self, name: str) -> None:
        module = f"tinyinfer.lessons.{name.partition('_')[2]}"
        if not name[:2].isdigit() or find_spec(module) is None:
            raise ValueError(f"there is no lesson {name!r}; a lesson is called as its notebook, such as 03_kv_cache")
        self.name = name
        self._exercises: dict[str, Exercise] = {one.name: one for one in import_module(module).EXERCISES}
        self._right: dict[str, Any] = {}
        self._wrong: Counter[str] = Counter()
        self._models = Models()
        explain_missing_names(name)

    def check(self, name: str, answer: object) -> None:
        """Says whether the answer to the exercise is right; a wrong one gets a sentence and a hint.

        An answer that is still `...` is not answered yet. The second wrong one offers our solution to unfold.
        """
        exercise = self._exercise(name)
        self._right.pop(name, None)
        if not written(answer):
            show(Message("open", f"{name}: not answered yet. Replace `...` by your answer, and run the cell again."))
            return
        wrong = exercise.judged(answer)
        if (picture := exercise.drawn(answer)) is not None:
            show(picture)
        if wrong is None:
            self._right[name] = answer
            show(Message("right", f"{name}: right. {exercise.why}".strip()))
            return
        self._wrong[name] += 1
        folded = ("show our solution", exercise.solution_text(answer)) if self._wrong[name] >= PATIENCE else None
        show(Message("wrong", f"{name}: not yet. {wrong.sentence}", wrong.hint, folded))

    def use(self, name: str) -> Any:
        """The student's answer if it was right when it was last checked, else our solution; says which."""
        exercise = self._exercise(name)
        if name in self._right:
            show(Message("note", f"From here on the notebook uses your {name}."))
            return self._right[name]
        show(Message("note", f"From here on the notebook uses our {name}, until yours is right."))
        return exercise.solution

    def reveal(
        self, guess: object, truth: float | str, unit: str = "", misconceptions: Mapping[Any, str] | None = None
    ) -> None:
        """Shows a prediction beside the truth, and names the misconception whose value it is. unit: "%" for shares."""
        show(revealed(guess, truth, unit, misconceptions or {}))

    def model(self, machine: str | None = None, **switches: Any) -> LLM:
        """SmolLM2 under an engine with these switches; all engines of a lesson share the weights.

        machine: such as "37GB/s,200GFLOP/s", for an engine whose clock is simulated by the roofline. Raises ValueError
        for switches that cannot work.
        """
        return self._models.open(self._models.real_path(), machine, **switches)

    def tiny(self, machine: str | None = None, **switches: Any) -> LLM:
        """The tiny model of random weights under an engine with these switches; else as `model`."""
        return self._models.open(self._models.tiny_path(), machine, **switches)

    @property
    def real(self) -> bool:
        """Whether `model` is the one of the lesson's figures; without it and without a network it is a smaller one."""
        return self._models.real

    def say(self, text: str) -> None:
        """Shows Markdown whose numbers a cell computed."""
        show(Prose(text))

    def table(self, headings: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
        """Shows rows of cells under their headings; the cells are texts already, or anything with a short one."""
        lines = [list(headings), *([str(cell) for cell in row] for row in rows)]
        lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
        show(Prose("\n".join(f"| {' | '.join(line)} |" for line in lines)))

    def source(self, thing: Any) -> None:
        """Shows the source of a function, class or module of the package, with the file that it stands in.

        Of a function that numba has compiled, the function that it was made of.
        """
        thing = inspect.unwrap(thing) if callable(thing) else thing
        file = Path(inspect.getsourcefile(thing) or "").relative_to(PACKAGE.parent)
        show(Prose(f"`{file.as_posix()}`\n```python\n{inspect.getsource(thing).rstrip()}\n```"))

    def seconds(self, work: Callable[[], object], rounds: int = 3) -> float:
        """The median duration of `work` over some rounds, in seconds."""
        times = []
        for _ in range(rounds):
            begun = time.perf_counter()
            work()
            times.append(time.perf_counter() - begun)
        return statistics.median(times)

    def _exercise(self, name: str) -> Exercise:
        if name not in self._exercises:
            raise ValueError(f"this lesson has no exercise {name!r}; it has {', '.join(map(repr, self._exercises))}")
        return self._exercises[name]
