"""The models of a lesson: weights are loaded once, and each setting is an engine over them.

A lesson about quality or speed opens SmolLM2. Where its weights are not here and cannot be fetched, the lesson goes on
with the story-teller that comes along, and says so: every cell runs, texts are texts, only the figures are others. It
comes in codes, and a lesson may want to make its own: so its weights become floats again. Any other model that a
teacher has chosen and that is not there is replaced by the tiny one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from collections.abc import Sequence as Seq
from contextlib import suppress
from pathlib import Path
from typing import Any

from tinyinfer.backends.switches import make_ops
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import DownloadError, ModelError
from tinyinfer.ledger import Ledger
from tinyinfer.lessons.messages import Message, show
from tinyinfer.lessons.tiny_model import write_tiny_model
from tinyinfer.llm import LLM
from tinyinfer.loading import load
from tinyinfer.loading.build import build_model
from tinyinfer.loading.hub import STORY_TELLER, find
from tinyinfer.loading.plain_folder import save_plain
from tinyinfer.measure.bench import Round, Setting, run_round, simulated
from tinyinfer.measure.roofline import parse_machine
from tinyinfer.measure.workload import Request

REAL = "smollm2-135m"
CHOICE = "TINYINFER_LESSON_MODEL"  # the environment variable that names another model, or `tiny` or `story-teller`


class Models:
    """Opens the models of one lesson. Two settings that need the same weights share them."""

    def __init__(self) -> None:
        self._opened: dict[str, list[LLM]] = {}
        self._folders: dict[str, tempfile.TemporaryDirectory[str]] = {}
        self._real: str | None = None

    @property
    def real(self) -> bool:
        """Whether the lesson's model is the one that its figures are about."""
        return str(Path(self.real_path()).parent) not in [folder.name for folder in self._folders.values()]

    def real_path(self) -> str:
        """The path of the real model, fetched on first use; another model's where that is impossible."""
        if self._real is None:
            chosen = os.environ.get(CHOICE) or REAL
            if chosen in ("tiny", STORY_TELLER):
                self._real = self._smaller(chosen, f"{CHOICE} asks for it")
            else:
                self._real = self._found(chosen)
        return self._real

    def tiny_path(self) -> str:
        """The path of the tiny model, written on first use into a folder that goes with the lesson."""
        return self._written("tiny", write_tiny_model)

    def story_path(self) -> str:
        """The path of the story-teller in floats, written in the same way."""
        return self._written(STORY_TELLER, write_story_teller)

    def _written(self, name: str, write: Callable[[Path], object]) -> str:
        if name not in self._folders:
            folder = tempfile.TemporaryDirectory(prefix="tinyinfer-lesson-")
            write(Path(folder.name, name))
            self._folders[name] = folder  # only now: a cell may be interrupted before
        return str(Path(self._folders[name].name, name))

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
                self._real = self._smaller("tiny", str(error))
                return self.open(self._real, machine, **switches)
            opened.append(same)
        llm = same.with_engine(config)
        return simulated(llm, parse_machine(machine)) if machine else llm

    def _found(self, name: str) -> str:
        try:
            return find(name)
        except DownloadError as error:
            return self._smaller(STORY_TELLER, str(error))
        except (ModelError, OSError) as error:
            return self._smaller("tiny", str(error))

    def _smaller(self, name: str, reason: str) -> str:
        """The path of the story-teller, or of the tiny model where that is asked for or is all that there is."""
        path = None
        if name == STORY_TELLER:
            with suppress(ModelError, OSError):
                path = self.story_path()
        _tell(SMALL if path else TINY, reason)
        return path or self.tiny_path()


def write_story_teller(folder: Path) -> None:
    """Writes the story-teller with weights that are floats; the folder must not be there."""
    source = load(find(STORY_TELLER))
    save_plain(folder, build_model(source, make_ops(EngineConfig(), Ledger())), source)


def served(llm: LLM, requests: Seq[Request]) -> Round:
    """Drawn requests (measure/workload.py) run to their end: the steps, their times and counts.

    Raises KeyboardInterrupt when the run was stopped: the numbers of half a run would be wrong, not few.
    """
    run = run_round(Setting("", "", llm, list(requests)))
    if not run.complete:
        raise KeyboardInterrupt
    return run


TINY = "a tiny model with random weights", "texts, perplexities and times say nothing about a real model"
SMALL = f"{STORY_TELLER}, a small model that comes along", "texts, perplexities and times are not those of the lesson"


def _tell(instead: tuple[str, str], reason: str) -> None:
    model, means = instead
    show(Message("note", f"This lesson runs on {model}: {reason}.", hint=f"every cell runs, but {means}"))
