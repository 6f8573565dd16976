"""What stands in the place of an optimization that is off: a memory of no prefixes, a drafter without guesses, floats.

The engine, its scheduler and the loader always talk to something and never ask whether it is there, so prefix_cache.py,
speculative.py and quantization/ can each be deleted, and everything but their own switch still works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from tinyinfer.sampling import Choice, choose

if TYPE_CHECKING:
    from tinyinfer.backends.numpy_ops import NumpyOps
    from tinyinfer.loading.checkpoint import LazyTensor
    from tinyinfer.sequence import Sequence
    from tinyinfer.weights import Dense, Experts, QuantizedExperts, Weight


class Prefixes(Protocol):
    """What a scheduler asks of the memory of prefixes."""

    evictable: int  # blocks that nobody uses

    def match(self, seq: Sequence) -> int:
        """Lets a new sequence begin with what is known of its tokens; how many positions that are."""

    def register(self, seq: Sequence, stop: int) -> None:
        """The whole blocks of its positions below `stop` are computed, at the latest in this step."""

    def settle(self) -> None:
        """The step succeeded."""

    def revoke(self) -> None:
        """The step failed: forgets what it registered. Nobody may use it any longer."""

    def evict(self) -> bool:
        """Gives one block back; False if all are in use."""

    def free(self, seq: Sequence) -> None:
        """The sequence is gone; what it registered stays until it is evicted."""


class NoPrefixes:
    """Remembers no prefix."""

    evictable = 0

    def __init__(self, *parts: object) -> None:
        """Needs nothing of what a prefix cache is made of."""

    def match(self, seq: Sequence) -> int:
        """None is known."""
        return 0

    def register(self, seq: Sequence, stop: int) -> None:
        """Nothing to remember."""

    def settle(self) -> None:
        """Nothing to confirm."""

    def revoke(self) -> None:
        """Nothing to forget."""

    def evict(self) -> bool:
        """Nothing to give back."""
        return False

    def free(self, seq: Sequence) -> None:
        """Nothing to let go."""


class Drafter(Protocol):
    """What the engine asks of whoever makes guesses."""

    def propose(self, sequences: list[Sequence]) -> None:
        """Gives each of the sequences, which want their next token, `drafts`: at most what it may still generate."""

    def verify(self, logits: np.ndarray, seq: Sequence) -> list[Choice]:  # (R, V) ->
        """The next tokens of a sequence, from the logits of its last known token and of each guess; none of none."""

    def free(self, seq: Sequence) -> None:
        """The sequence is gone or preempted: forgets it."""


class NoDrafter:
    """Guesses nothing."""

    def __init__(self, *parts: object) -> None:
        """Needs nothing of what a drafter is made of."""

    def propose(self, sequences: list[Sequence]) -> None:
        """No guesses."""

    def verify(self, logits: np.ndarray, seq: Sequence) -> list[Choice]:  # (R, V) ->
        """Plain decoding: one token from one row of logits."""
        return [choose(row, seq.params, seq.prompt, seq.new_tokens, seq.seed) for row in logits]

    def free(self, seq: Sequence) -> None:
        """Nothing to forget."""


class WeightTaker(Protocol):
    """What assemble.py asks of whoever takes matrices out of a file; `name` is what quantization/recipe.py calls it."""

    def matrix(self, name: str, *parts: LazyTensor) -> Weight:
        """The parts, each (N_i, M), below one another as one weight."""

    def experts(self, name: str, *parts: LazyTensor) -> Experts | QuantizedExperts:
        """The parts, each (X, N_i, M), below one another in each expert."""


class FloatTaker:
    """Quantizes nothing."""

    def __init__(self, ops: NumpyOps, *parts: object) -> None:
        self.ops = ops

    def matrix(self, name: str, *parts: LazyTensor) -> Dense:
        """The parts as the backend keeps floats."""
        return self.ops.take(*parts)

    def experts(self, name: str, *parts: LazyTensor) -> Experts:
        """The parts as the backend keeps floats."""
        return self.ops.take_experts(*parts)
