"""One replica: the model is loaded, and its engine built, for this process. Null object of replicas/start.py."""

from __future__ import annotations

from typing import Any

from tinyinfer.engine.clock import Clock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine, build_engine
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import Progress
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.model.draft_head import DraftHead
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model
from tinyinfer.parallel.switches import LOADERS
from tinyinfer.switches import resolve


class Single:
    """What an LLM is opened by, where there is one replica of its model."""

    def __init__(self, c: EngineConfig, ledger: Ledger) -> None:
        self.config = c

    def load(self, checkpoint: Checkpoint, ops: Ops, c: EngineConfig, on_load: Progress) -> tuple[Model, Ops]:
        """The model, or this rank's part of it, and the operations that run it."""
        found: tuple[Model, Ops] = resolve(LOADERS, c.ranks)(checkpoint, ops, c, on_load, *self.comms)
        return found

    @property
    def comms(self) -> tuple[Any, ...]:
        """The ranks of this replica, where they are fewer than all."""
        return ()

    def build(
        self, model: Model, ops: Ops, c: EngineConfig, clock: Clock, second: Model | DraftHead | None = None
    ) -> Engine:
        """The engine; see `build_engine`."""
        return build_engine(model, ops, c, clock, second)
