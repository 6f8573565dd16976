"""A search for the part of a model in which numbers overflow: an Ops that looks at what each part hands on.

Wins: names one layer's attention or MLP, whatever backend computes. Loses: waits for the device after each part, so the
search runs only when an overflow was found already.
"""

from __future__ import annotations

from tinyinfer.arrays import Array
from tinyinfer.backends.delegate import DelegatingOps
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.weights import Embedding

PARTS = "attention", "MLP"  # of a layer, in the order in which each adds its change
EMBEDDING = -1  # the place before the first change


class OverflowSearch(DelegatingOps):
    """Wraps a backend. place: the first change of the rows that gave a number whose square is not finite; None: none.

    The next norm squares every number. A layer adds the change of its attention, then that of its MLP.
    """

    def __init__(self, ops: Ops) -> None:
        super().__init__(ops)
        self.place: int | None = None
        self.changes = 0  # so far

    def embed(self, tokens: Array, positions: Array, embedding: Embedding) -> Array:  # (T,), (T,) -> (T, D)
        return self._checked(self.inner.embed(tokens, positions, embedding), EMBEDDING)

    def add(self, x: Array, change: Array, scale: float) -> Array:  # (T, D), (T, D) -> (T, D)
        self.changes += 1
        return self._checked(self.inner.add(x, change, scale), self.changes - 1)

    def look_at(self, logits: Array) -> None:  # (R, V) ->
        """Looks at the end of the model, too: its place is that behind all changes."""
        if self.place is None and not self.to_host(self.xp.isfinite(logits).all()):
            self.place = self.changes

    def _checked(self, x: Array, place: int) -> Array:  # (T, D) -> (T, D)
        if self.place is None and not self.to_host(self.xp.isfinite((x * x).sum(axis=-1))).all():
            self.place = place
        return x


def name_of(place: int | None, changes: int) -> str:
    """A place in words, "" for none. changes: of all layers."""
    if place is None:
        return ""
    if place == EMBEDDING:
        return "in the embedding"
    layer, part = divmod(place, len(PARTS))
    return f"in layer {layer}'s {PARTS[part]}" if place < changes else "in the output head"
