"""Prefix caching: what two prompts begin with alike is computed and stored once (RadixAttention; Zheng et al. 2024, 3).

A tree over blocks: an edge is the tokens of one whole block, and a path from the root spells a prefix whose keys and
values lie in the blocks along it. A new sequence walks down as far as its own tokens go (compared as tokens, not by a
hash) and begins with those blocks; it must still compute its last token, for its logits. Blocks enter the tree when
the step that fills them is put together, so sequences of the same step share them already: a layer's keys and values
are appended for the whole batch before anybody reads them. Wins: system prompts, conversations, several answers to one
prompt. Loses: a walk per sequence where nothing is shared, and blocks stay taken until somebody needs them: then the
one least recently used goes first, leaves before what they grow from.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count

from tinyinfer.kv_cache.paged import PagedCache
from tinyinfer.ledger import Ledger
from tinyinfer.sequence import Sequence


@dataclass(eq=False)
class Node:
    """One block of the tree. users: sequences whose tokens lead through it; used: when one last did, in steps."""

    tokens: tuple[int, ...]
    block: int
    parent: Node | None
    children: dict[tuple[int, ...], Node] = field(default_factory=dict)
    users: int = 0
    used: int = 0


class PrefixCache:
    """The tree. It holds its blocks as a sequence does, so that they outlive the sequences that computed them."""

    def __init__(self, cache: PagedCache, ledger: Ledger) -> None:
        self.cache, self.ledger = cache, ledger
        self.root = Node((), -1, None)
        self.evictable = 0  # nodes without users; whatever lies below one has none either
        self._ends: dict[int, list[Node]] = {}  # sequence id -> the path of its tokens
        self._new: list[Node] = []  # registered by the step that is being computed
        self._leaves: list[tuple[int, int, Node]] = []  # a heap of (used, who came first, node)
        self._offers = count()
        self._now = 0

    def match(self, seq: Sequence) -> int:
        """The longest known prefix in whole blocks, but never all tokens: the last one's logits are wanted."""
        size, path, node = self.cache.block_size, [], self.root
        for start in range(0, len(seq.tokens) - size, size):
            child = node.children.get(tuple(seq.tokens[start : start + size]))
            if child is None:
                break
            self._use(child)
            path.append(child)
            node = child
        self._ends[seq.id] = path
        if path:
            self.cache.adopt(seq, [step.block for step in path], len(path) * size)
        return len(path) * size

    def register(self, seq: Sequence, stop: int) -> None:
        """Adds the sequence's blocks that the tree does not know; of those that it knows, it keeps its own."""
        size, path = self.cache.block_size, self._ends[seq.id]
        while (len(path) + 1) * size <= stop:
            i, parent = len(path), path[-1] if path else self.root
            tokens = tuple(seq.tokens[i * size : (i + 1) * size])
            if tokens not in parent.children:
                parent.children[tokens] = self._grow(tokens, self.cache.block_table(seq)[i], parent)
            self._use(parent.children[tokens])
            path.append(parent.children[tokens])

    def commit(self) -> None:
        """What was registered is computed."""
        self._new = []
        self._now += 1

    def rollback(self) -> None:
        """Removes what was registered and never computed, the youngest first."""
        for node in reversed(self._new):
            self._remove(node)
        self._new = []

    def evict(self) -> bool:
        """Removes the leaf that was used longest ago."""
        while self._leaves:
            used, _, node = heapq.heappop(self._leaves)
            known = node.parent is not None and node.parent.children.get(node.tokens) is node
            if known and not node.users and not node.children and node.used == used:
                self._remove(node)
                self.ledger.blocks_evicted += 1
                return True
        return False

    def free(self, seq: Sequence) -> None:
        """Its path is used by one less."""
        for node in reversed(self._ends.pop(seq.id, [])):
            node.users -= 1
            if not node.users:
                self.evictable += 1
                self._offer(node)

    def _grow(self, tokens: tuple[int, ...], block: int, parent: Node) -> Node:
        """A new node, not used yet."""
        self.cache.blocks.hold(block)
        node = Node(tokens, block, parent)
        self._new.append(node)
        self.evictable += 1
        return node

    def _use(self, node: Node) -> None:
        """One more sequence leads through it."""
        self.evictable -= not node.users
        node.users += 1
        node.used = self._now

    def _offer(self, node: Node) -> None:
        """It may be evicted if it is a leaf."""
        if not node.children:
            heapq.heappush(self._leaves, (node.used, next(self._offers), node))

    def _remove(self, node: Node) -> None:
        """Takes a leaf that nobody uses out of the tree; its parent may be the next."""
        assert node.parent is not None
        del node.parent.children[node.tokens]
        self.cache.blocks.release(node.block)
        self.evictable -= 1
        if node.parent is not self.root and not node.parent.users:
            self._offer(node.parent)
