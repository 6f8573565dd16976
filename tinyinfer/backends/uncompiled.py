"""No compiled pass: operations that are called one after another.

Wins: every operation can be read, counted and replaced by itself. Loses: the host has something to say between any two
of them.
"""

from __future__ import annotations

from tinyinfer.model.draft_head import DraftHead
from tinyinfer.model.interfaces import Compiled, CompiledHead, KVCache
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import Embedding
from tinyinfer.sequence import Batch


class Uncompiled:
    """The null answers of Ops: `transformer`, and a head, run as they are."""

    def compile(self, model: Model, cache: KVCache, rows: int = 1) -> Compiled | None:
        """None: there is no faster pass."""
        return None

    def search_together(self, batch: Batch) -> str | None:
        """None: there is no other process to search with."""
        return None

    def compile_head(self, head: DraftHead, embedding: Embedding) -> CompiledHead | None:
        """None: there is no faster pass."""
        return None
