"""A model for runs to look at: the lessons' tiny one, in which a token is a byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tinyinfer import LLM
from tinyinfer.engine.config import EngineConfig
from tinyinfer.lessons.tiny_model import write_tiny_model
from tinyinfer.measure.bench import simulated
from tinyinfer.measure.roofline import parse_machine


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LLM]:
    """A function from switches to the tiny model under such an engine, with a simulated clock."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_model(folder)
    llm = LLM(str(folder))

    def open_tiny(**switches: Any) -> LLM:
        engine = llm.with_engine(EngineConfig.from_switches(**switches))
        return simulated(engine, parse_machine("37GB/s,200GFLOP/s"))

    return open_tiny
