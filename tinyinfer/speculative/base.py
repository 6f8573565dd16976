"""What the engine asks of a drafter and of its extra candidates, and the null objects: no drafts, no candidates.

With speculation off nothing else of this folder is imported, so that its other files may be deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from tinyinfer.kv_cache.base import Cache, Prefixes
from tinyinfer.ledger import Ledger
from tinyinfer.model.draft_head import DraftHead
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Batch, Sequence, Span


class Target(NamedTuple):
    """What a drafter proposes drafts for: the model, its cache, and the prefixes that may be evicted from it."""

    model: Model
    cache: Cache
    prefixes: Prefixes


class DraftSettings(Protocol):
    """The switches that a drafter is built from; engine/config.py's EngineConfig has them and more."""

    @property
    def draft_model(self) -> str | None:
        """The name of the second model, for speculative=draft."""

    @property
    def draft_layers(self) -> int | None:
        """Of speculative=self: how many of the model's layers; None: see draft_model.self_draft."""

    @property
    def draft_quantize(self) -> str:
        """Of speculative=self: "off", or the bits of the copy that proposes drafts, with the next two fields."""

    @property
    def group_size(self) -> int | str:
        """Inputs of an output that share a scale."""

    @property
    def symmetric(self) -> bool | None:
        """Whether zero stays zero; None: only at 8 bits."""

    @property
    def num_draft_tokens(self) -> int | None:
        """The largest number of drafts of a sequence in one step; None: the drafter's own default."""

    @property
    def second_model(self) -> str | None:
        """The name of the draft model, where there is one."""

    @property
    def num_draft_candidates(self) -> int:
        """How many different drafts of one position are verified side by side."""

    @property
    def verification(self) -> str:
        """What a sampled draft of a model is accepted by: "same-text" or "best-coupling"."""

    @property
    def max_num_batched_tokens(self) -> int:
        """The largest number of rows of one step."""


class Drafter(Protocol):
    """Proposes drafts and verifies them."""

    @property
    def most(self) -> int:
        """How many drafts it proposes for a sequence at most."""

    def propose(self, sequences: list[Sequence]) -> None:
        """Sets the drafts of each of the sequences: at most as many as the sequence may still generate, less one.

        A sequence that still has drafts keeps them: they were not verified yet.
        """

    def verify(self, logits: np.ndarray, seq: Sequence) -> list[Choice]:  # (R, V) ->
        """The next tokens of a sequence with drafts, from the logits of its last token and of each draft.

        No tokens without logits: the step computed only a chunk of the sequence.
        """

    def observe(self, batch: Batch) -> None:
        """Told at the end of a step what the step computed: what drafts cost can be learnt from its time."""

    def free(self, seq: Sequence) -> None:
        """Frees what is kept for a sequence that has left or was preempted."""

    def keep(self, sequences: Collection[Sequence]) -> None:
        """After an interrupt: frees all room, and keeps what was learnt of these sequences alone."""


class Candidates(Protocol):
    """Adds the other candidates of a sequence to a step, and keeps the one whose drafts were accepted furthest."""

    def add(self, sequences: Iterable[Sequence], rows_left: int) -> list[tuple[Sequence, int]]:
        """Pairs (candidate, rows) for the sequences of a step, with room for them in the cache."""

    def best(self, spans: Seq[Span], choices: list[list[Choice]]) -> dict[Span, list[Choice]]:
        """For each sequence the one span that counts, with its new tokens, in the order of the spans."""

    def adopt(self, seq: Sequence) -> None:
        """If `seq` is a candidate, what the cache holds for it becomes its owner's."""

    def free(self) -> None:
        """Frees all candidates at the end of a step."""


class Costs(Protocol):
    """What drafts cost, in forward passes of one row: fixed (DraftCost) or measured (costs.py)."""

    @property
    def draft(self) -> float:
        """The cost of one draft: of a pass of the draft model."""

    def rows(self, n: int, /) -> float:
        """The cost of a pass of n rows."""

    def affordable(self, n: int, behind: int, left: int) -> int:
        """How many of n drafts may be proposed for a sequence with so many tokens to come.

        behind: its tokens that the draft model has not computed.
        """

    def part(self, behind: int) -> int:
        """How many of the tokens that it is behind the draft model computes in this step."""

    def proposing(self, sequences: int) -> AbstractContextManager[None]:
        """Wraps the proposal of drafts for so many sequences."""

    def draft_pass(self, rows: int) -> AbstractContextManager[None]:
        """Wraps a forward pass of the draft model."""

    def observe(self, batch: Batch) -> None:
        """Told at the end of a step what the step computed."""


@dataclass(frozen=True)
class DraftCost:
    """Fixed costs, in forward passes of one row, from which nothing is learnt: all drafts that pay are proposed.

    rows(n): a pass of n rows. draft: to propose one draft.
    """

    rows: Callable[[int], float]
    draft: float = 0.0

    def affordable(self, n: int, behind: int, left: int) -> int:
        return n

    def part(self, behind: int) -> int:
        return behind

    def proposing(self, sequences: int) -> AbstractContextManager[None]:
        return nullcontext()

    def draft_pass(self, rows: int) -> AbstractContextManager[None]:
        return nullcontext()

    def observe(self, batch: Batch) -> None:
        pass


def count_drafts(seq: Sequence, proposed: int, accepted: int, ledger: Ledger) -> None:
    """Counts verified drafts. Drafts of rejected candidates do not count: they are only rows of the step."""
    seq.record_verification(proposed, accepted)
    ledger.drafts_proposed += proposed
    ledger.drafts_accepted += accepted


# The null objects.


class NoDrafter:
    """Null object: proposes no drafts, so there are none to verify."""

    most = 0

    def propose(self, sequences: list[Sequence]) -> None:
        pass

    def verify(self, logits: np.ndarray, seq: Sequence) -> list[Choice]:  # (R, V) ->
        return []

    def observe(self, batch: Batch) -> None:
        pass

    def free(self, seq: Sequence) -> None:
        pass

    def keep(self, sequences: Collection[Sequence]) -> None:
        pass


class NoCandidates:
    """Null object: adds no candidates, so every span counts."""

    def __init__(self, cache: Cache, ledger: Ledger) -> None:
        """Takes the parts that ForkedCandidates takes, and needs none of them."""

    def add(self, sequences: Iterable[Sequence], rows_left: int) -> list[tuple[Sequence, int]]:
        return []

    def best(self, spans: Seq[Span], choices: list[list[Choice]]) -> dict[Span, list[Choice]]:
        return dict(zip(spans, choices, strict=True))

    def adopt(self, seq: Sequence) -> None:
        pass

    def free(self) -> None:
        pass


def no_drafter(
    target: Target, second: Model | DraftHead | None, ops: Ops, c: DraftSettings, clock: Callable[[], float],
    cost: DraftCost | None,
) -> NoDrafter:  # fmt: skip
    """Builds the drafter of speculative=off."""
    return NoDrafter()
