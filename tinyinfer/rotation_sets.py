"""Which set of rotations the rows of a sequence get: longrope's frequencies change with the sequence's length.

A model with longrope (Ding et al. 2024, LongRoPE) has two sets of rotary frequencies. While the known tokens of a
sequence, prompt and new ones together, number at most `boundary`, the short set rotates all its rows. From then on the
long set rotates all of them, early positions included. So a prompt beyond the boundary is long from its first chunk.
Three things follow, wherever rows are computed:

    a cached key counts only with keys of its own set: at the crossing a sequence is computed again from its first row
    drafts of a short sequence end at the boundary: those behind it would need other rows before them
    a prefix is shared only among sequences of one set

Every other model has one set and no boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class RotationSets:
    """The sets of a model. boundary: most tokens of a sequence that is short; None: there is one set for all."""

    boundary: int | None = None

    @property
    def count(self) -> int:
        """Z: how many sets there are."""
        return 1 if self.boundary is None else 2

    def of(self, tokens: int) -> int:
        """The set that rotates the rows of a sequence of so many tokens: 0, or 1 where it is long."""
        return int(self.boundary is not None and tokens > self.boundary)

    def most_drafts(self, tokens: int) -> float:
        """How many drafts may follow so many tokens, so that no draft changes the set."""
        return inf if self.boundary is None or tokens > self.boundary else self.boundary - tokens


ONE_SET = RotationSets()  # of nearly every model
