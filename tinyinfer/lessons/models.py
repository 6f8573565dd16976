"""The models of a lesson: weights are loaded once, and each setting is an engine over them.

A lesson about quality or speed opens SmolLM2. Where its weights are not here and cannot be fetched, the lesson goes on
with the tiny model and says so: every cell runs, only the figures mean less.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import ModelError
from tinyinfer.lessons.messages import Message, show
from tinyinfer.lessons.tiny_model import write_tiny_model
from tinyinfer.llm import LLM
from tinyinfer.loading.hub import find
from tinyinfer.measure.bench import Round, Setting, run_round, simulated
from tinyinfer.measure.roofline import parse_machine
from tinyinfer.measure.workload import Request

REAL = "smollm2-135m"
CHOICE = "TINYINFER_LESSON_MODEL"  # the environment variable that names another model, or `tiny`


class Models:
    """Opens the models of one lesson. Two settings that need the same weights share them."""

    def __init__(self) -> None:
        self._opened: dict[str, list[LLM]] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._real: str | None = None

    @property
    def real(self) -> bool:
        """Whether the lesson's model has real weights."""
        return self.real_path() != self.tiny_path()

    def real_path(self) -> str:
        """The path of the real model, fetched on first use; the tiny model's where that is impossible."""
        if self._real is None:
            chosen = os.environ.get(CHOICE) or REAL
            self._real = self.tiny_path() if chosen == "tiny" else self._found(chosen)
            if chosen == "tiny":
                _tell(f"{CHOICE} asks for it")
        return self._real

    def tiny_path(self) -> str:
        """The path of the tiny model, written on first use into a folder that goes with the lesson."""
        if self._folder is None:
            folder = tempfile.TemporaryDirectory(prefix="tinyinfer-lesson-")
            write_tiny_model(Path(folder.name))
            self._folder = folder  # only now: a cell may be interrupted before
        return self._folder.name

    def open(self, path: str, machine: str | None, **switches: Any) -> LLM:
        """A model at `path` under an engine with these switches. machine: simulates the time that it would need."""
        config, opened = EngineConfig.from_switches(**switches), self._opened.setdefault(path, [])
        same = next((llm for llm in opened if config.same_weights(llm.engine_config)), None)
        if same is None:
            try:
                same = LLM(path, **switches)
            except ModelError as error:
                if opened or path == self.tiny_path():
                    raise
                _tell(str(error))
                self._real = self.tiny_path()
                return self.open(self._real, machine, **switches)
            opened.append(same)
        llm = same.with_engine(config)
        return simulated(llm, parse_machine(machine)) if machine else llm

    def _found(self, name: str) -> str:
        try:
            return find(name)
        except (ModelError, OSError) as error:
            _tell(str(error))
            return self.tiny_path()


def served(llm: LLM, requests: Seq[Request]) -> Round:
    """Drawn requests (measure/workload.py) run to their end: the steps, their times and counts.

    Raises KeyboardInterrupt when the run was stopped: the numbers of half a run would be wrong, not few.
    """
    run = run_round(Setting("", "", llm, list(requests)))
    if not run.complete:
        raise KeyboardInterrupt
    return run


def _tell(reason: str) -> None:
    text = f"This lesson runs on a tiny model with random weights: {reason}."
    hint = "every cell runs, but texts, perplexities and times say nothing about a real model"
    show(Message("note", text, hint=hint))
