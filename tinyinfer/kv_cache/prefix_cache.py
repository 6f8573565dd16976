"""Prefix caching: the common beginning of prompts is computed and stored once (RadixAttention; Zheng et al. 2024, 3).

A tree over blocks: an edge is the tokens of one whole block, and a path from the root spells a prefix whose keys and
values lie in the blocks along the path. A new sequence walks down as far as its own tokens go (compared as tokens, not
by a hash) and begins with those blocks; its last token must still be computed, for the logits. Blocks enter the tree
when the step that fills them is put together, so sequences of the same step share them already: a layer's keys and
values are appended for the whole batch before any sequence reads them. Each set of a model's rotations has a root of
its own (rotation_sets.py): equal tokens have other keys there. So has each salt (`SamplingParams.cache_salt`): callers
with different salts cannot measure, by the time to a first token, what the others asked (CVE-2025-46570). Wins: system
prompts, conversations, several answers to one prompt. Loses: a walk for each sequence where nothing is shared. Blocks
stay in the tree until the memory is needed; then the least recently used one is evicted first, and leaves before their
parents.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

from tinyinfer.kv_cache.base import Prefixes
from tinyinfer.kv_cache.blocks import BlockCache
from tinyinfer.ledger import Ledger
from tinyinfer.sequence import Sequence


@dataclass(eq=False)
class Node:
    """One block of the tree. users: sequences whose path leads through it; used: the step of its newest user.

    tokens: those of the block; of a root, its place among the roots.
    freed: orders nodes by when they were without users for the last time; queued: whether the heap of leaves has it.
    """

    tokens: tuple[Any, ...]
    block: int
    parent: Node | None
    children: dict[tuple[int, ...], Node] = field(default_factory=dict)
    users: int = 0
    used: int = 0
    freed: int = 0
    queued: bool = False


class PrefixCache(Prefixes):
    """The tree, which is one holder of each of its blocks: blocks outlive the sequences that computed them."""

    def __init__(self, cache: BlockCache, ledger: Ledger) -> None:
        super().__init__(cache, ledger)
        self.cache = cache
        self.roots: dict[tuple[int, str | None], Node] = {}  # (set of rotations, salt) -> where such paths begin
        for place in ((0, None), (1, None)):  # of short sequences and of long ones, without a salt
            self.roots[place] = Node(place, -1, None)
        self.evictable = 0  # nodes without users; the nodes below such a node have none either
        self._paths: dict[int, list[Node]] = {}  # sequence id -> the nodes along its tokens
        self._new: list[Node] = []  # registered in the step that is put together
        self._sealed: deque[list[Node]] = deque()  # registered in each step that is computed now
        self._leaves: list[tuple[int, int, Node]] = []  # a heap of (used, freed, node), one for each node at most
        self._order = count()
        self._now = 0  # steps so far

    def match(self, seq: Sequence) -> int:
        """Finds the longest cached prefix, gives its blocks to the sequence, and returns its length.

        Only full blocks match. The last token never matches, because its logits must be computed. A sequence that has
        as many positions already (a fork) keeps its own blocks.
        """
        size, path, node = self.cache.block_size, [], self._root(seq)
        for start in range(0, len(seq.tokens) - size, size):
            child = node.children.get(tuple(seq.tokens[start : start + size]))
            if child is None:
                break
            self._use(child)
            path.append(child)
            node = child
        self._paths[seq.id] = path
        if len(path) * size > self.cache.length(seq):
            self.cache.free(seq)
            self.cache.adopt(seq, [node.block for node in path], len(path) * size)
        return len(path) * size

    def register(self, seq: Sequence, stop: int) -> None:
        """Adds the full blocks before position `stop` to the tree.

        Where the tree has a block of these tokens already, tree and sequence each keep their own block.
        """
        size, path = self.cache.block_size, self._paths[seq.id]
        while (len(path) + 1) * size <= stop:
            i, parent = len(path), path[-1] if path else self._known_root(seq)
            tokens = tuple(seq.tokens[i * size : (i + 1) * size])
            if tokens not in parent.children:
                parent.children[tokens] = self._add(tokens, self.cache.block_table(seq)[i], parent)
            self._use(parent.children[tokens])
            path.append(parent.children[tokens])

    def seal(self) -> None:
        self._sealed.append(self._new)  # a step that is interrupted here loses blocks, and keeps none too many
        self._new = []

    def commit(self) -> None:
        if self._sealed:
            self._sealed.popleft()
        else:
            self._new = []
        self._now += 1

    def withdraw(self, seq: Sequence) -> bool:
        path, new = self._paths[seq.id], self._sealed[0]
        bad = [node for node in path if node in new]  # the end of the path: what follows a new block is new
        if any(node.users > 1 for node in bad):
            return False
        for _ in bad:
            node = path.pop()
            node.users, self.evictable = 0, self.evictable + 1
            self._remove(node)
        self._sealed[0] = [node for node in new if node not in bad]
        return True

    def rebuild(self) -> list[int]:
        for node in chain(self._new, *self._sealed):  # each is noted before it enters the tree
            siblings = node.parent.children if node.parent else {}
            if siblings.get(node.tokens) is node:
                del siblings[node.tokens]
        self._new, self._sealed, self._paths, self._leaves = [], deque(), {}, []
        self.roots = {place: root for place, root in self.roots.items() if root.children or not has_salt(root)}
        nodes = [node for root in self.roots.values() for node in root.children.values()]
        for node in nodes:  # the list grows by the nodes below
            nodes += node.children.values()
            node.users, node.queued = 0, False
            self._make_evictable(node)
        self.evictable = len(nodes)
        return [node.block for node in nodes]

    def evict(self) -> bool:
        """Removes the leaf whose last use is the oldest (least recently used).

        The heap is not updated when a leaf is used again: when its entry is popped, it goes back to its new place.
        """
        while self._leaves:
            used, freed, node = heapq.heappop(self._leaves)
            node.queued = False
            if node.users or node.children:
                continue  # it comes back when it is a leaf without users
            if (used, freed) != (node.used, node.freed):
                self._queue(node)
                continue
            self._remove(node)
            self.ledger.blocks_evicted += 1
            return True
        return False

    def free(self, seq: Sequence) -> None:
        for node in reversed(self._paths.pop(seq.id, [])):
            node.users -= 1
            if not node.users:
                self.evictable += 1
                self._make_evictable(node)

    def _root(self, seq: Sequence) -> Node:
        """Where the sequence's path begins; for a salt that the tree does not know, a root without children."""
        place = self.cache.rotation_set(seq), seq.request.params.cache_salt
        return self.roots.get(place) or Node(place, -1, None)

    def _known_root(self, seq: Sequence) -> Node:
        """Where the sequence's path begins, in the tree from now on: the root is about to get a child."""
        root = self._root(seq)
        return self.roots.setdefault((root.tokens[0], root.tokens[1]), root)

    def _add(self, tokens: tuple[int, ...], block: int, parent: Node) -> Node:
        """Adds a node without users to the tree's new ones, and holds its block. The caller puts it into `parent`."""
        self.cache.hold(block)
        node = Node(tokens, block, parent)
        self._new.append(node)
        self.evictable += 1
        return node

    def _use(self, node: Node) -> None:
        """Counts one more sequence whose path leads through the node, and marks the node as used in this step."""
        self.evictable -= not node.users  # its first user
        node.users += 1
        node.used = self._now

    def _make_evictable(self, node: Node) -> None:
        """Puts a node that has no users any longer into the heap if it is a leaf, unless the heap has it."""
        node.freed = next(self._order)
        if not node.children and not node.queued:
            self._queue(node)

    def _queue(self, node: Node) -> None:
        node.queued = True
        heapq.heappush(self._leaves, (node.used, node.freed, node))

    def _remove(self, node: Node) -> None:
        """Removes a leaf without users; its parent may be the next."""
        assert node.parent is not None
        del node.parent.children[node.tokens]
        self.cache.release(node.block)
        self.evictable -= 1
        root = node.parent.parent is None
        if not (root or node.parent.users):
            self._make_evictable(node.parent)
        elif root and has_salt(node.parent) and not node.parent.children:
            del self.roots[node.parent.tokens[0], node.parent.tokens[1]]  # a salt may never come again


def has_salt(root: Node) -> bool:
    """Whether a root is of sequences with a salt; it stays only while it has children, since salts are many."""
    return root.tokens[1] is not None
