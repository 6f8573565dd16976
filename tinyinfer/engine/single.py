"""One replica: the model is loaded, and its engine built, for this process. Null object of replicas/start.py."""

from __future__ import annotations

from tinyinfer.engine.clock import Clock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine, build_engine
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import Progress
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.model.draft_head import DraftHead
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.switches import LOADERS, RANKS
from tinyinfer.switches import resolve


class Single:
    """What an LLM is opened by, where there is one replica of its model. comms: its ranks, where there are several."""

    def __init__(self, c: EngineConfig, ledger: Ledger) -> None:
        self.config, self.comms = c, self.find_ranks(c, ledger)

    def find_ranks(self, c: EngineConfig, ledger: Ledger) -> tuple[Comm, ...]:
        """The ranks of this replica. On GPUs each takes its own here, before the backend looks at its memory."""
        found: tuple[Comm, ...] = resolve(RANKS, c.ranks)(c, ledger)
        return found

    def load(self, checkpoint: Checkpoint, ops: Ops, c: EngineConfig, on_load: Progress) -> tuple[Model, Ops]:
        """The model, or this rank's part of it, and the operations that run it."""
        found: tuple[Model, Ops] = resolve(LOADERS, c.ranks)(checkpoint, ops, c, on_load, *self.comms)
        return found

    def build(
        self, model: Model, ops: Ops, c: EngineConfig, clock: Clock, second: Model | DraftHead | None = None
    ) -> Engine:
        """The engine; see `build_engine`."""
        return build_engine(model, ops, c, clock, second)


def no_others(c: EngineConfig, ledger: Ledger) -> tuple[Comm, ...]:
    """The null answer of a process that runs its model alone."""
    return ()
