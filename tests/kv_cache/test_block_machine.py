"""Blocks, tables and the tree of prefixes driven at random, against a model that only knows tokens.

The pool has its size from the start, or grows up to that size, on a system that at times refuses memory.

The model: what each living sequence's tokens are, and which prefixes (in whole blocks) were computed, when each was
last used and by which sequences. Everything else must follow: what is found,
which block has which holders, what lies in it, what may be evicted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from helpers import request, tree
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from served import Served, mark

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.sequence import Sequence

SIZE, BLOCKS = 4, 9
Prefix = tuple[int, ...]
token = st.integers(0, 1)  # so few that prefixes meet
prompts = st.lists(token, min_size=1, max_size=14)


class Refusing(NumpyOps):
    """A system that refuses memory while it is `full`."""

    full = False

    def reserve(self, shape, dtype=np.float32):
        if self.full:
            raise MemoryError
        return super().reserve(shape, dtype)


@dataclass(eq=False)
class Living:
    """A sequence as the model knows it; forked: a fork, which the tree is not told of."""

    seq: Sequence
    length: int = 0
    forked: bool = False
    path: list[Prefix] = field(default_factory=list)  # the prefixes that it uses


class Blocks(RuleBasedStateMachine):
    """One rule for each thing that may happen to a block."""

    @initialize(grows=st.booleans())
    def begin(self, grows):
        self.served, self.grows = Served(BLOCKS, reserve_all=not grows, ops=Refusing), grows
        self.cache, self.prefixes = self.served.cache, self.served.prefixes
        self.living: list[Living] = []
        self.known: dict[Prefix, int] = {}  # prefix -> the step in which it was last used
        self.promised: set[Prefix] = set()  # became known in the step at hand: not computed yet
        self.now = 0

    # What may happen.

    @rule(prompt=prompts)
    def admit(self, prompt):
        """A new sequence finds the longest known prefix that leaves it a token to compute."""
        new = Living(request(prompt))
        for stop in range(SIZE, len(prompt), SIZE):
            if tuple(prompt[:stop]) not in self.known:
                break
            self.use(new, tuple(prompt[:stop]))
        new.length = len(new.path) * SIZE
        assert self.prefixes.match(new.seq) == new.length
        self.living.append(new)

    @precondition(lambda self: self.living)
    @rule(data=st.data(), fails=st.sampled_from([None, None, None, "before", "after"]))
    def step(self, data, fails):
        """Some sequences compute some rows, maybe with drafts, of which maybe some are accepted; or the step fails."""
        chosen = data.draw(st.lists(st.sampled_from(self.living), unique_by=id, min_size=1, max_size=3))
        plans: list[tuple[Living, int, list[int]]] = []
        self.promised.clear()
        for one in chosen:
            pending = len(one.seq.tokens) - one.length
            rows = data.draw(st.integers(1, pending))
            drafts = data.draw(st.lists(token, max_size=5)) if rows == pending else []
            if self.reserve(one, rows + len(drafts)):
                plans.append((one, rows, drafts))
                self.register(one, one.length + rows)
        if fails:
            self.fail(plans, written=fails == "after")
        elif plans:
            self.write(plans)
            self.prefixes.commit()
            self.now += 1
            for one, rows, drafts in plans:
                self.commit(one, rows, drafts, data.draw(st.integers(0, len(drafts))), data.draw(token))

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def fork(self, data):
        """A fork begins with everything that is computed."""
        one = data.draw(st.sampled_from(self.living))
        child = Living(request(one.seq.tokens), one.length, forked=True)
        self.cache.fork(one.seq, child.seq)
        self.living.append(child)

    @rule(full=st.booleans())
    def memory(self, full):
        """The system begins to refuse memory, or has some again."""
        self.served.ops.full = full

    @precondition(lambda self: self.living)
    @rule(data=st.data(), first=st.booleans())
    def grow(self, data, first):
        """The pool grows where it may, and what lies in it stays; bytes copied are counted, and none of an idle pool.
        """
        one = data.draw(st.sampled_from(self.living))
        rows = data.draw(st.integers(1, max(1, min(20, BLOCKS * SIZE - one.length))))
        before, used, copied = self.cache.num_blocks, self.cache.blocks_in_use, self.served.ledger.kv_copied_bytes
        lacking = self.cache.missing(one.seq, rows)
        if first:
            self.cache.prepare([other.seq for other in self.living])
            grown = self.cache.num_blocks > before
            assert not (grown and used)
        else:
            grown = self.cache.grow(one.seq, rows)
            assert grown == (self.grows and before < BLOCKS and not self.served.ops.full)
        copied = self.served.ledger.kv_copied_bytes - copied
        if grown:
            assert min(BLOCKS, before + (1 if first else max(1, lacking))) <= self.cache.num_blocks <= BLOCKS
            assert not used or self.cache.num_blocks >= min(BLOCKS, 2 * before)
            block = SIZE * self.cache.position_bytes
            assert used * block <= copied <= (before if used else 0) * block
        else:
            assert copied == 0
            assert self.cache.num_blocks in ((before,) if used else (before, 0))

    @precondition(lambda self: self.living)
    @rule(data=st.data(), new=token)
    def truncate(self, data, new):
        """Back to any position (one that the tree knows of: not into what is known of it), and on with other tokens."""
        one = data.draw(st.sampled_from(self.living))
        n = data.draw(st.integers(len(one.path) * SIZE, one.length))
        self.cache.truncate(one.seq, n)
        one.seq.tokens[n:] = [new]
        one.length = n

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def free(self, data):
        """A sequence ends or is preempted."""
        self.end(data.draw(st.sampled_from(self.living)))

    @rule()
    def evict(self):
        """The least recently used leaf without users is evicted; nothing when there is none."""
        leaves = [p for p in self.unused() if not any(q[:-SIZE] == p for q in self.known)]
        before = {self.tokens_of(node) for node in tree(self.prefixes.roots[0, None])}
        assert self.prefixes.evict() == bool(leaves)
        gone = before - {self.tokens_of(node) for node in tree(self.prefixes.roots[0, None])}
        assert len(gone) == bool(leaves)
        for prefix in gone:
            assert prefix in leaves
            assert self.known[prefix] == min(self.known[leaf] for leaf in leaves)
            del self.known[prefix]

    # The model's part of it.

    def use(self, one: Living, prefix: Prefix) -> None:
        one.path.append(prefix)
        self.known[prefix] = self.now

    def unused(self) -> list[Prefix]:
        used = {prefix for one in self.living for prefix in one.path}
        return [prefix for prefix in self.known if prefix not in used]

    def reserve(self, one: Living, rows: int) -> bool:
        """Makes room by growth, then by eviction; False when there is none (a scheduler would preempt a sequence)."""
        while self.cache.missing(one.seq, rows):
            if self.cache.grow(one.seq, rows):
                continue
            if not self.unused():
                return False
            self.evict()
        if one.length + rows > self.cache.capacity:
            return False
        self.cache.reserve(one.seq, rows)
        return True

    def register(self, one: Living, stop: int) -> None:
        if one.forked:
            return
        self.prefixes.register(one.seq, stop)
        for end in range((len(one.path) + 1) * SIZE, stop + 1, SIZE):
            prefix = tuple(one.seq.tokens[:end])
            if prefix not in self.known:  # also one that was known and had to go for an earlier sequence of this step
                self.promised.add(prefix)
            self.use(one, prefix)

    def write(self, plans: list[tuple[Living, int, list[int]]]) -> None:
        for one, _, drafts in plans:
            one.seq.tokens.extend(drafts)
        self.served.write(*((one.seq, rows + len(drafts)) for one, rows, drafts in plans))

    def commit(self, one: Living, rows: int, drafts: list[int], accepted: int, new: int) -> None:
        """The first `accepted` drafts stay, and a new token comes if the sequence is up to date."""
        self.cache.commit(one.seq, rows + accepted)
        one.length += rows + accepted
        del one.seq.tokens[len(one.seq.tokens) - len(drafts) + accepted :]
        if one.length == len(one.seq.tokens):
            one.seq.tokens.append(new)

    def fail(self, plans: list[tuple[Living, int, list[int]]], written: bool) -> None:
        """All sequences are freed, and the prefixes that the step promised are removed."""
        if written and plans:
            self.write(plans)
        self.living.clear()
        self.cache.clear(self.prefixes.rebuild())
        self.known = {prefix: used for prefix, used in self.known.items() if prefix not in self.promised}

    def end(self, one: Living) -> None:
        self.served.end(one.seq)
        self.living.remove(one)

    def tokens_of(self, node) -> Prefix:
        return (*self.tokens_of(node.parent), *node.tokens) if node.parent else ()

    # What must always hold.

    @invariant()
    def every_block_is_held_by_those_who_say_so(self):
        """No leak, no double free: tables and tree together account for every holder, and the rest is free."""
        held = Counter(block for one in self.living for block in self.cache.block_table(one.seq))
        held.update(node.block for node in tree(self.prefixes.roots[0, None]))
        blocks = range(BLOCKS if not self.grows else self.cache.num_blocks)
        assert self.cache.blocks.holders == [held[block] for block in blocks]
        assert sorted(self.cache.blocks.free) == [block for block in blocks if not held[block]]
        assert len(self.cache.pools[0].keys[0] if self.cache.pools else ()) == len(blocks) * SIZE

    @invariant()
    def every_sequence_reads_its_own_tokens(self):
        """So no sequence writes into a block that another one reads."""
        for one in self.living:
            assert self.cache.length(one.seq) == one.length
            assert len(self.cache.block_table(one.seq)) == -(-one.length // SIZE)
            if one.length:
                self.served.check(one.seq)

    @invariant()
    def the_tree_knows_what_was_computed(self):
        """Exactly the model's prefixes, each in a block that holds its tokens' keys, with the right number of users."""
        nodes = {self.tokens_of(node): node for node in tree(self.prefixes.roots[0, None])}
        assert nodes.keys() == self.known.keys()
        users = Counter(prefix for one in self.living for prefix in one.path)
        for prefix, node in nodes.items():
            assert node.users == users[prefix]
            stored = self.cache.pools[0].keys[0, node.block * SIZE : (node.block + 1) * SIZE, 0].tolist()
            assert stored == [mark(prefix[: i + 1]) for i in range(len(prefix) - SIZE, len(prefix))]
        assert self.prefixes.evictable == len(self.unused())

    @invariant()
    def waste_is_what_is_empty(self):
        """Rows of held blocks that hold nothing; a block of the tree is full."""
        filled = {node.block: SIZE for node in tree(self.prefixes.roots[0, None])}
        for one in self.living:
            for i, block in enumerate(self.cache.block_table(one.seq)):
                filled[block] = max(filled.get(block, 0), min(SIZE, one.length - i * SIZE))
        empty = len(filled) * SIZE - sum(filled.values())
        assert self.cache.held_bytes == len(filled) * SIZE * self.cache.position_bytes
        assert self.cache.wasted_bytes == empty * self.cache.position_bytes

    def teardown(self):
        """When all sequences are freed and the tree is emptied, every block is free."""
        for one in list(self.living):
            self.end(one)
        while self.prefixes.evict():
            continue
        assert sorted(self.cache.blocks.free) == list(range(self.cache.num_blocks))


Blocks.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestBlocks = Blocks.TestCase
