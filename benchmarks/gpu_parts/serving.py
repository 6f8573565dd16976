"""An engine over a case's weights, and its sequences: what measured.py times and eager.py counts. No text is made."""

from __future__ import annotations

from typing import Any

from tinyinfer.backends.switches import make_ops
from tinyinfer.engine.clock import WallClock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine, build_engine
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import load_model
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import RequestSpec, Sequence


class NoText:
    """Null object: the text of a sequence of which only the tokens are wanted."""

    text = reasoning = ""

    def push(self, token: int) -> bool:
        """Adds nothing; no stop string is ever complete."""
        return False

    def finish(self) -> None:
        """Nothing was held back."""


def open_engine(checkpoint: Checkpoint, config: EngineConfig, ops: Any = None) -> Engine:
    """The engine that LLM would build for these switches. ops: its backend, if it is not the switches' own."""
    ops = ops or make_ops(config, Ledger())
    return build_engine(load_model(checkpoint, ops, config), ops, config, WallClock())


def sequences(prompts: list[list[int]], new: int) -> list[Sequence]:
    """Greedy sequences of so many new tokens each, which no token ends."""
    params = SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
    return [
        Sequence(RequestSpec(i, prompt, params, seed=0, max_tokens=new, eos=frozenset()), NoText)  # type: ignore[arg-type]
        for i, prompt in enumerate(prompts)
    ]
