"""What the leader tells the other ranks: orders, and in them the changes of its caches.

A cache is a function of its changes: two that began empty and were changed alike have the same lengths and the same
block tables, each for its own layers and heads. So the leader's cache notes what is done to it (`Mirrored`), an order
carries that to the others, and they do it to theirs. Of a sequence only its number and its lengths go along (`Known`).

Wins: an order is some hundred bytes, whatever the caches hold. Loses: a change that is not in CHANGES would be missed,
so tests/parallel/test_orders.py holds that list against the caches' methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from tinyinfer.kv_cache.base import Cache, CacheSpec
from tinyinfer.parallel.choose import Draw
from tinyinfer.sequence import Sequence

# All that changes a cache, or a paged one's blocks for the prefix cache.
CHANGES = frozenset({
    "prepare", "shrink", "grow", "extend", "reserve", "commit", "truncate", "fork", "free", "clear", "adopt", "hold",
    "release",
})  # fmt: skip


class Known(NamedTuple):
    """What a cache must know of a sequence: the other ranks have no more of it."""

    id: int
    length: int
    most_positions: int

    @property
    def tokens(self) -> range:
        """As many tokens as the sequence has; a cache asks for no more than their number."""
        return range(self.length)


Change = tuple[str, tuple[Any, ...]]  # a method of the cache, and its arguments


@dataclass(frozen=True)
class Begin:
    """An order: make a cache of this kind and number, of your own heads. gone: caches that no engine has any more."""

    number: int
    kind: type[Cache]
    spec: CacheSpec
    gone: list[int]


class Pass(NamedTuple):
    """An order: make these changes to the cache of this number, compute these rows with it, and choose tokens.

    draws: of each row of logits; None for a row whose logits are asked for.
    """

    number: int
    changes: list[Change]
    tokens: list[int]  # (T,)
    positions: list[int]  # (T,)
    logit_rows: list[int]  # (R,)
    spans: list[tuple[Any, ...]]  # Spans of Known sequences
    draws: list[Draw | None]


@dataclass(frozen=True)
class Search:
    """An order: look with all ranks where the numbers of these whole sequences overflow."""

    tokens: np.ndarray  # (T,) int
    positions: np.ndarray  # (T,) int
    logit_rows: np.ndarray  # (R,) int
    spans: list[tuple[Any, ...]]  # Spans of Known sequences


@dataclass(frozen=True)
class Alive:
    """No order: the leader has none, and has not stopped."""


@dataclass(frozen=True)
class End:
    """The last order: the leader has closed."""


def known(value: Any) -> Any:
    """An argument of a change, without what only the leader needs of a sequence."""
    if isinstance(value, Sequence):
        return Known(value.id, len(value.tokens), value.most_positions)
    if isinstance(value, list | tuple | set | frozenset | dict):
        return [known(one) for one in value]
    return value


class Mirrored:
    """A cache whose changes are noted, for the caches of the other ranks."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.changes: list[Change] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.cache, name)
        if name not in CHANGES:
            return found

        def noted(*arguments: Any) -> Any:
            self.changes.append((name, tuple(map(known, arguments))))
            return found(*arguments)

        return noted


def mirrored(cache: Cache) -> Cache:
    """The cache, its changes noted; what a leading engine is built with."""
    return cast(Cache, Mirrored(cache))
