"""What the leader tells the other ranks: which methods of a cache are changes, and what goes along of a sequence."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from helpers import request

from tinyinfer import kv_cache
from tinyinfer.kv_cache.base import Cache
from tinyinfer.parallel.orders import CHANGES, Known, Mirrored, Pass, known

READS = {  # a layer's part of a pass, which each rank does by itself, and what is asked without a change
    "append", "block_ids", "block_table", "blocks_in_use", "can_chunk", "counting", "cure", "expected", "float_bytes",
    "forget_workspace", "held_bytes", "holders", "kernel_sizes", "length", "missing", "next_blocks", "no_room",
    "num_blocks", "pools", "pools_of", "read", "reads", "record_written", "rotation_set", "split", "storage",
    "wasted_bytes", "wasted_float_bytes",
}  # fmt: skip


def kinds(kind: type) -> Iterator[type]:
    """A class, and all that are made from it."""
    yield kind
    for more in kind.__subclasses__():
        yield from kinds(more)


def test_each_method_of_a_cache_is_a_change_or_is_none() -> None:
    """Catches a new method that changes a cache, and of which the other ranks never hear."""
    for module in iter_modules(kv_cache.__path__, "tinyinfer.kv_cache."):
        import_module(module.name)
    caches = [kind for kind in kinds(Cache) if kind.__module__.startswith("tinyinfer.")]
    assert {name for kind in caches for name in dir(kind) if not name.startswith("_")} == CHANGES | READS


def test_a_change_is_noted_and_done_and_a_question_only_asked() -> None:
    """Catches a change that is noted after the sequence has grown: its length is that of the moment."""

    class Counted:
        """A cache that counts."""

        reserved = 0

        def reserve(self, seq: object, n: int) -> int:
            self.reserved += n
            return self.reserved

        def length(self, seq: object) -> int:
            return self.reserved

    cache, seq = Mirrored(Counted()), request([5, 6, 7])  # type: ignore[arg-type]
    assert (cache.reserve(seq, 3), cache.reserve(seq, 1), cache.length(seq)) == (3, 4, 4)
    seq.tokens.append(8)
    assert [(name, arguments[0].length, arguments[1]) for name, arguments in cache.changes] == [
        ("reserve", 3, 3), ("reserve", 3, 1),
    ]  # fmt: skip


def test_an_order_carries_lengths_and_no_tokens() -> None:
    """An order of a sequence of 10,000 tokens is as long as one of 10 tokens. Catches a sequence that goes whole."""
    sizes = []
    for length in (10, 10_000):
        seq = known(request(list(range(length))))
        assert isinstance(seq, Known)
        assert len(seq.tokens) == length
        order = Pass(1, [("reserve", (seq, 1))], [5], [length], [0], [(seq, 0, 1, length)], [None])
        sizes.append(len(pickle.dumps(order)))
    assert sizes[1] - sizes[0] < 50
    assert sizes[1] < 500
