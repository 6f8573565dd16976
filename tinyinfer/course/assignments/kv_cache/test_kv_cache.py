"""The public tests of the KV cache: whatever was stored comes back, bit by bit, and nothing else.

Keys and values are random numbers that the test made, so only a cache that keeps them can give them back. Each `read`
is compared at once with what the test itself remembers. The usual mistakes are caches, too: the test keeps what each of
them would hold (`MISTAKES`), and names the one that the student's cache agrees with.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np

from tinyinfer.course.compare import Failure, equal, same_array, same_value
from tinyinfer.course.sandbox.stand_ins import DeviceView, SequenceView
from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.lessons.cache_judge import OnePass, forward, one_pass
from tinyinfer.lessons.models import Models
from tinyinfer.llm import LLM
from tinyinfer.model.config import Rows
from tinyinfer.sequence import Batch, Sequence, Span

pytest_plugins = ["tinyinfer.course.pytest_plugin"]

FLOAT = 4  # bytes of a float32
PLACES = 128  # positions of what a usual mistake would hold: more than any test stores
MEMORY = (Rows(2, 6, 4),) * 3  # L = 3 layers of K = 2 heads, keys of 6 numbers and values of 4


# What is asked: one whole claim a test.


def test_rows_come_back(student: Any, part: Any, rng: Any) -> None:
    """Catches rows stored over earlier ones, and a prompt of which only the last row is stored."""
    with part("a prompt"):
        mine = Remembering(student, rng, MEMORY, 24)
        mine.step((mine.new(9), 9))
    with part("one token at a time"):
        mine = Remembering(student, rng, MEMORY, 24)
        seq = mine.new(5)
        for _ in range(5):
            mine.step((seq, 1))
    with part("a prompt, then tokens"):
        mine = Remembering(student, rng, MEMORY, 24)
        seq = mine.new(12)
        for rows in (6, 1, 1, 1, 3):
            mine.step((seq, rows))


def test_every_split_of_a_prompt(student: Any, rng: Any) -> None:
    """Catches a second chunk whose place is counted twice: the first decode step goes from 6 to 12."""
    for split in range(1, 11):
        mine = Remembering(student, rng, MEMORY[:2], 24)
        seq = mine.new(12)
        for rows in (split, 11 - split, 1):
            mine.step((seq, rows))


def test_every_layer_has_its_own(student: Any, rng: Any) -> None:
    """Catches one array for all layers: then each layer reads the rows of the last one."""
    mine = Remembering(student, rng, MEMORY, 16)
    seq = mine.new(7)
    mine.step((seq, 7))
    for layer in (1, 2, 0):
        mine.read(layer, seq, 0, 7)


def test_sequences_share_a_batch(student: Any, part: Any, rng: Any) -> None:
    """Catches rows of the batch that are stored for the wrong sequence, or at their place in the batch."""
    with part("two prompts in one batch"):
        mine = Remembering(student, rng, MEMORY[:2], 16)
        mine.step((mine.new(4), 4), (mine.new(7), 7))
    with part("a chunk, a token and a new prompt in one batch"):
        mine = Remembering(student, rng, MEMORY[:2], 16)
        a, b, c = mine.new(9), mine.new(9), mine.new(9)
        mine.step((a, 3), (b, 5))
        mine.step((b, 1), (c, 4), (a, 3))
        mine.step((a, 1), (c, 1), (b, 1))


def test_windows_read_what_they_ask_for(student: Any, part: Any, rng: Any) -> None:
    """Catches a start that is ignored or taken from the end, and a stop that is ignored."""
    mine = Remembering(student, rng, MEMORY[:2], 16)
    seq = mine.new(11)
    mine.step((seq, 11), read=False)
    with part("from a start on"):
        for start in (4, 10):
            mine.read(1, seq, start, 11)
    with part("up to a stop"):
        for start, stop in ((0, 5), (3, 8)):
            mine.read(1, seq, start, stop)


def test_the_running_step_can_be_read(student: Any, rng: Any) -> None:
    """Catches a read without a stop that ends at `length`: a query must see the keys of its own step."""
    mine = Remembering(student, rng, MEMORY[:2], 16)
    seq = mine.new(10)
    mine.reserve(seq, 7)
    for layer in range(2):
        mine.append_random(layer, batch_of([(seq, 0, 7)]))
        mine.read(layer, seq, 0)


def test_rolled_back_rows_are_gone(student: Any, part: Any, rng: Any) -> None:
    """Catches rows appended behind those that were rolled back, which then come back as stale rows."""
    with part("truncate, then append"):
        mine = Remembering(student, rng, MEMORY[:2], 32)
        seq = mine.new(12)
        mine.step((seq, 9), read=False)
        mine.truncate(seq, 5)
        mine.step((seq, 3))
        mine.step((seq, 1))
    with part("a step that failed is run again"):
        mine = Remembering(student, rng, MEMORY[:2], 32)
        seq = mine.new(12)
        mine.step((seq, 4), read=False)
        mine.step((seq, 4), read=False, commit=0)
        mine.step((seq, 2))
    with part("of four drafts one is kept"):
        mine = Remembering(student, rng, MEMORY[:2], 32)
        seq = mine.new(12)
        mine.step((seq, 6), read=False)
        mine.step((seq, 5), read=False, commit=2)
        mine.step((seq, 2))


def test_a_fork_is_independent(student: Any, part: Any, rng: Any) -> None:
    """Catches a fork that shares the array: what one sequence appends, the other one reads."""
    with part("the child has all rows"):
        mine, seq, child = forked(student, rng)
        for layer in range(2):
            mine.read(layer, child, 0, 6)
    with part("the child's rows are its own"):
        mine, seq, child = forked(student, rng)
        mine.step((seq, 2), read=False)
        mine.step((child, 3))
    with part("the parent keeps its rows"):
        mine, seq, child = forked(student, rng)
        mine.step((seq, 2), read=False)
        mine.step((child, 3), read=False)
        for layer in range(2):
            mine.read(layer, seq, 0, 8)


def test_growth_keeps_the_rows(student: Any, part: Any, rng: Any) -> None:
    """Catches a larger array into which not all rows of all layers were copied, and growth by one position a step."""
    with part("rows are there after growth"):
        mine = Remembering(student, rng, MEMORY, 40, reserve_all=False)
        seq = mine.new(5)
        mine.step((seq, 5), read=False)
        for more in (2, 9, 30):
            mine.reserve(seq, more)
            for layer in range(len(MEMORY)):
                mine.read(layer, seq, 0, 5)
        same_value(mine.cache.grow(mine.new(5), 3), True, "grow, where there is memory")
    with part("room for the whole answer at once, then twice as much"):
        mine = Remembering(student, rng, MEMORY[:1], 40, reserve_all=False)
        seq = mine.new(9)
        for rows, room in ((5, 9), (4, 9), (1, 18), (9, 36), (18, 40)):
            mine.step((seq, rows), read=False)
            same_value(mine.cache.held_bytes, room * mine.position_bytes, f"held_bytes at {mine.length(seq)} positions",
                       usual=growth_hints(mine, seq, room))  # fmt: skip


def test_free_makes_room(student: Any, part: Any, rng: Any) -> None:
    """Catches arrays that stay after `free` or `clear`, and a free that takes another sequence's rows."""
    mine = Remembering(student, rng, MEMORY[:2], 16)
    a, b = mine.new(6), mine.new(8)
    with part("free"):
        mine.step((a, 5), (b, 6), read=False)
        mine.free(a)
        same_value(mine.cache.held_bytes, 16 * mine.position_bytes, "held_bytes after one of two was freed",
                   usual=[(32 * mine.position_bytes, "the array of the freed sequence is still held"),
                          (6 * mine.position_bytes, "these are the rows in use: all that is allocated is held"),
                          (16 * mine.position_bytes // 2, "this is one layer: all of them take room")])  # fmt: skip
        mine.free(a)
        mine.read(1, b, 0, 6)
    with part("clear"):
        mine.clear()
        mine.check_length(b, "clear")
        same_value(mine.cache.held_bytes, 0, "held_bytes after `clear`",
                   usual=[(16 * mine.position_bytes, "the arrays are still held")])  # fmt: skip


def test_bytes_are_counted(student: Any, part: Any, rng: Any) -> None:
    """Catches bytes of used rows in place of allocated ones, keys without values, and one layer in place of all."""
    mine = Remembering(student, rng, MEMORY, 16)
    a, b = mine.new(6), mine.new(9)
    with part("nothing is held before the first step"):
        same_value(mine.cache.held_bytes, 0, "held_bytes of a new cache")
        same_value(mine.cache.missing(a, 6), 6, "missing(seq, 6) of a new sequence")
    mine.step((a, 6), (b, 8), read=False)
    with part("held"):
        same_value(mine.cache.held_bytes, 2 * 16 * mine.position_bytes, "held_bytes of two sequences in a cache of 16",
                   usual=byte_hints(mine, 16, 14))  # fmt: skip
    with part("wasted"):
        same_value(mine.cache.wasted_bytes, (2 * 16 - 14) * mine.position_bytes, "wasted_bytes with 14 of 32 used")
    with part("missing"):
        same_value(mine.cache.missing(a, 10), 0, "missing(seq, 10) with 6 of 16 positions used")
        same_value(mine.cache.missing(a, 13), 3, "missing(seq, 13) with 6 of 16 positions used",
                   usual=[(13, "`missing` is what is lacking beyond the room that the array still has")])  # fmt: skip


def test_cached_logits_equal_uncached_ones(student: Any, rng: Any) -> None:
    """Catches what no single call shows: 16 tokens of a transformer, every split, then token by token."""
    llm, tokens, truth = tiny_model(rng, 16)
    for split in range(1, 16):
        check_model(student, rng, llm, tokens, truth, (split, 16 - split))
    check_model(student, rng, llm, tokens, truth, (4,) + 12 * (1,))


# What the tests remember.


class Remembering:
    """A student's cache, and beside it the rows that it was given.

    memory, room: what each layer remembers of a position, and the positions of the longest sequence.
    """

    def __init__(self, student, rng, memory: tuple[Rows, ...], room: int, reserve_all: bool = True) -> None:
        self.rng, self.memory, self.room = rng, memory, room
        self.cache = student.ContiguousCache(CacheSpec(memory, room, reserve_all=reserve_all), DeviceView())
        self.position_bytes = FLOAT * sum(rows.heads * (rows.key_size + rows.value_size) for rows in memory)
        self.rows: dict[tuple[int, int, int], np.ndarray] = {}  # (sequence, layer, 0 keys or 1 values) -> (S, K, E)
        self.mistaken: dict[tuple[str, int, int, int], np.ndarray] = {}  # (hint, ...) -> what that mistake would hold
        self.lengths: dict[int, int] = {}  # sequence -> positions committed
        self.first: dict[int, int] = {}  # sequence -> positions before the running step
        self.fresh: set[int] = set()  # sequences that were written to since they last asked for room
        self.inherited: dict[int, int] = {}  # forked sequence -> positions that it began with
        self.ids = count()

    def new(self, most_positions: int) -> Any:
        """A new sequence, which can come to so many positions."""
        return SequenceView(next(self.ids), [], [], [], most_positions, None, 0)

    def length(self, seq: Sequence) -> int:
        """How many positions are committed."""
        return self.lengths.get(seq.id, 0)

    def step(self, *work: tuple[Sequence, int], read: bool = True, commit: int | None = None) -> None:
        """A step of the engine with so many new, random rows of each sequence, of which `commit` (None: all) count."""
        for seq, rows in work:
            self.reserve(seq, rows)
        batch = batch_of([(seq, self.length(seq), rows) for seq, rows in work])
        for layer in range(len(self.memory)):
            self.append_random(layer, batch)
            for span in batch.spans if read else ():
                self.read(layer, span.seq, 0, span.first + span.rows)
        for seq, rows in work:
            self.commit(seq, rows if commit is None else commit)

    def append_random(self, layer: int, batch: Batch) -> None:
        """Appends random keys and values for all rows of a batch."""
        m = self.memory[layer]
        k = self.rng.standard_normal((len(batch), m.heads, m.key_size)).astype(np.float32)
        v = self.rng.standard_normal((len(batch), m.heads, m.value_size)).astype(np.float32)
        self.append(layer, k, v, batch)

    # The calls of a cache, each made of the student's cache and remembered.

    def reserve(self, seq: Sequence, n: int) -> None:
        """Room for n more positions."""
        self.fresh.discard(seq.id)
        self.cache.reserve(seq, n)

    def append(self, layer: int, k: Any, v: Any, batch: Batch) -> None:
        """Keys and values go to the student's cache, to the test's memory, and to each usual mistake."""
        self.cache.append(layer, k, v, batch)
        for i, new in enumerate((k, v)):
            for span in batch.spans:
                place = span.seq.id, layer, i
                old = self.rows.get(place, np.empty((0, *new.shape[1:]), np.float32))
                self.rows[place] = np.concatenate((old[: span.first], new[span.start : span.stop]))
                self.first[span.seq.id] = span.first
                self.fresh.add(span.seq.id)
                for hint, mistake in MISTAKES.items():
                    empty = np.full((PLACES, *new.shape[1:]), np.nan, np.float32)
                    mistake(self.mistaken.setdefault((hint, *place), empty), new, span)

    def read(self, layer: int, seq: Sequence, start: int, stop: int | None = None) -> tuple[Any, Any]:
        """What the student's cache gives, when it is right. Raises Failure where it first differs."""
        got = self.cache.read(layer, seq, start, stop)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Failure("`read` gave no pair.", "return two arrays: the keys and the values")
        for i, name in enumerate(("keys", "values")):
            right = self.rows[seq.id, layer, i][start:stop]
            shown = f"layer {layer}, {name} of sequence {seq.id}, positions {start} ... {start + len(right)}"
            axes = ("token" if start == 0 else "row", "head", "number")
            usual = [*self.usual(layer, seq, i, start, start + len(right)), unwritten(got[i], right)]
            wrong = [(rows, hint) for rows, hint in usual if not np.array_equal(rows, right)]
            same_array(got[i], right, shown, axes=axes, usual=wrong)
        return got[0], got[1]

    def commit(self, seq: Sequence, n: int) -> None:
        """The first n new positions count."""
        self.cache.commit(seq, n)
        self.lengths[seq.id] = self.length(seq) + n
        self.check_length(seq, "commit")

    def truncate(self, seq: Sequence, n: int) -> None:
        """The sequence is rolled back to n positions."""
        self.cache.truncate(seq, n)
        self.lengths[seq.id] = n
        self.check_length(seq, "truncate")

    def fork(self, seq: Sequence, child: Sequence) -> None:
        """The child begins with all positions of a sequence."""
        self.cache.fork(seq, child)
        self.lengths[child.id] = self.inherited[child.id] = n = self.length(seq)
        for (owner, layer, i), rows in list(self.rows.items()):
            if owner == seq.id:
                self.rows[child.id, layer, i] = rows[:n]
                for hint in MISTAKES:
                    self.mistaken[hint, child.id, layer, i] = self.mistaken[hint, seq.id, layer, i].copy()
        self.check_length(child, "fork")

    def free(self, seq: Sequence) -> None:
        """The sequence has no positions any more."""
        self.cache.free(seq)
        self.lengths.pop(seq.id, None)
        self.check_length(seq, "free")

    def clear(self) -> None:
        """No sequence has any positions."""
        self.cache.clear()
        self.lengths.clear()

    def check_length(self, seq: Sequence, after: str) -> None:
        """Raises Failure unless the student's cache counts as many positions as the test."""
        found, right = self.cache.length(seq), self.length(seq)
        if not equal(found, right):
            sentence = f"length(sequence {seq.id}) after `{after}`: the result is {found}, and {right} is expected."
            raise Failure(sentence, "Cache counts positions: is `super()` called where one of its methods is replaced?")

    def usual(self, layer: int, seq: Sequence, i: int, start: int, stop: int) -> Iterator[tuple[Any, str]]:
        """What `read` would give after each usual mistake, and the hint to it."""
        rows, first = self.rows[seq.id, layer, i], self.first.get(seq.id, 0)
        right, names = rows[start:stop], ("keys", "values")
        if seq.id in self.fresh and not first:
            hint = "nothing was stored here: each layer has its own array, and a new sequence begins at position 0"
            yield np.full_like(right, np.nan), hint
        yield self.rows[seq.id, layer, 1 - i][start:stop], f"{names[1 - i]} stand where {names[i]} belong"
        if seq.id in self.inherited:
            hint = "the rows of its parent are missing: a fork copies the keys and values of every layer"
            yield emptied(rows, self.inherited[seq.id])[start:stop], hint
        for (hint, owner, at, which), held in self.mistaken.items():
            if (owner, at, which) == (seq.id, layer, i):
                yield held[start:stop], hint
        if stop == len(rows):
            behind_all = filled(rows, min(self.room, PLACES))
            yield behind_all[start:], "rows behind the newest one were read: `_written` tells where a read ends"
            twice = "the rows of a step are counted once for each layer: `_written` is where the span ends"
            yield from ((filled(rows, len(rows) + n * (len(rows) - first))[start:], twice) for n in (1, 2))
        yield rows[:stop], "the start is ignored: a window must read only from there on"
        yield rows[start:], "the stop is ignored: more rows came back than were asked for"
        yield rows[-start:] if start else rows, "the start is taken from the end: `rows[-start:]` is not `rows[start:]`"
        yield rows[start:first], "the newest rows are missing: a query must see the keys of its own step, too"
        for (owner, at, which), other in self.rows.items():
            if which == i and owner == seq.id and at != layer and other.shape[1:] == rows.shape[1:]:
                hint = f"the rows of layer {at} are in here: every layer needs rows of its own"
                yield other[start:stop], hint
                yield np.concatenate((other[:first], rows[first:]))[start:stop], hint
            if which == i and owner != seq.id and at == layer:
                hint = f"the rows of sequence {owner} are in here: do two sequences share an array?"
                yield other[start:stop], hint
                yield np.concatenate((rows[:first], other[first:]))[start:stop], hint
                yield np.concatenate((other[: len(right)], rows[len(other) :]))[start:stop], hint
        gone = "the rows of earlier steps are gone: a larger array must get all of them, keys and values"
        yield emptied(rows, first)[start:stop], gone
        yield emptied(rows, len(rows))[start:stop], gone


class InModel(Remembering):
    """The same, where a transformer asks for a cache."""

    def split(self, span: Span) -> tuple[Span, ...]:
        """A span as it is: all its rows see the same keys."""
        return (span,)


def batch_of(work: list[tuple[Sequence, int, int]]) -> Batch:
    """The batch of each (sequence, first position, rows)."""
    spans, start = [], 0
    for seq, first, rows in work:
        spans.append(Span(seq, start, start + rows, first))
        start += rows
    positions = np.concatenate([np.arange(first, first + rows) for _, first, rows in work])
    return Batch(np.ones(start, np.int64), positions, np.arange(start), tuple(spans))


def emptied(rows: Any, n: int) -> Any:
    """The rows, of which the first n are NaN: what the test's device gives where nothing was written."""
    return np.concatenate((np.full_like(rows[:n], np.nan), rows[n:]))


def filled(rows: Any, n: int) -> Any:
    """The rows, and NaN behind them up to n rows."""
    return np.concatenate((rows, np.full_like(rows, np.nan, shape=(max(0, n - len(rows)), *rows.shape[1:]))))


def unwritten(mine: Any, right: Any) -> tuple[Any, str]:
    """What `read` gives when all is right but rows that were never written."""
    holes = mine if isinstance(mine, np.ndarray) and mine.shape == right.shape else right
    return np.where(np.isnan(holes), np.nan, right), "NaN stands where nothing was ever written: these rows are missing"


def put(held: Any, at: int, new: Any) -> None:
    """Writes rows into an array of a mistaken cache, as far as there is room."""
    held[at : at + len(new)] = new[: max(0, len(held) - at)]


def behind(held: Any, new: Any) -> None:
    """Appends rows behind all that were ever written."""
    written = int(np.flatnonzero(~np.isnan(held[:, 0, 0])).max(initial=-1)) + 1
    put(held, written, new)


# Hint -> what a cache with that mistake does with the rows of a batch: (its array (P, K, E), rows (T, K, E), span).
MISTAKES = {
    "stale rows: the new rows stand behind rows that were rolled back or never committed":
        lambda held, new, span: behind(held, new[span.start : span.stop]),
    "the new rows were stored over the first ones, from position 0 on, not behind the earlier rows":
        lambda held, new, span: put(held, 0, new[span.start : span.stop]),
    "the place is counted twice: a span's `first` is its first position already, so that 6 becomes 12":
        lambda held, new, span: put(held, 2 * span.first, new[span.start : span.stop]),
    "of the rows of one call only the last was stored: a prompt brings many rows at once":
        lambda held, new, span: put(held, span.first + span.rows - 1, new[span.stop - 1 : span.stop]),
    "off by one: every row stands one position late":
        lambda held, new, span: put(held, span.first + 1, new[span.start : span.stop]),
    "position 0 was never written: the first row of a prompt belongs there":
        lambda held, new, span: put(held, max(1, span.first), new[span.start + (span.first == 0) : span.stop]),
    "the first rows of the batch were stored: a span's own rows are start ... stop":
        lambda held, new, span: put(held, span.first, new[: span.rows]),
    "all rows of the batch were stored for each sequence: a span's own rows are start ... stop":
        lambda held, new, span: put(held, span.first, new),
    "the rows stand at their place in the batch, not at their position in the sequence":
        lambda held, new, span: put(held, span.start, new[span.start : span.stop]),
}  # fmt: skip


def forked(student, rng) -> tuple[Remembering, Sequence, Sequence]:
    """A cache in which a sequence of 6 positions was forked, the sequence, and its child."""
    mine = Remembering(student, rng, MEMORY[:2], 16)
    seq, child = mine.new(12), mine.new(12)
    mine.step((seq, 6), read=False)
    mine.fork(seq, child)
    return mine, seq, child


def growth_hints(mine: Remembering, seq: Sequence, room: int) -> list[tuple[int, str]]:
    """What a sequence's array would take after the usual mistakes of growth."""
    length, position = mine.length(seq), mine.position_bytes
    return [
        (length * position, "the array is as long as the rows in it: then every step copies all of them"),
        (mine.room * position, "all of the capacity is taken at once: a sequence gets room for what it can come to"),
        (2 * room * position, "the array is larger than the cache's capacity, or it doubled too early"),
    ]


def byte_hints(mine: Remembering, room: int, used: int) -> list[tuple[int, str]]:
    """What two sequences in arrays of `room` positions would count after the usual mistakes."""
    rows, layers, one = mine.memory[0], len(mine.memory), 2 * room * FLOAT
    keys = rows.heads * rows.key_size
    return [
        (used * mine.position_bytes, "these are the rows in use: all that is allocated is held, used or not"),
        (layers * keys * one, "these are the keys: values take room, too"),
        (mine.position_bytes // layers * 2 * room, "this is one layer: all of them take room"),
        (mine.position_bytes * room, "this is one sequence: all of them take room"),
        (mine.position_bytes // FLOAT * 2 * room, "these are numbers: a float32 has 4 bytes"),
    ]


def tiny_model(rng: Any, n: int) -> tuple[LLM, list[int], OnePass]:
    """A model of two layers and grouped queries, n random tokens, and what one pass computes of them."""
    models = Models()
    llm = models.open(models.tiny_path(), None)
    tokens = rng.integers(3, llm.config.vocab_size, n).tolist()
    return llm, tokens, one_pass(llm, tokens)


def check_model(student: Any, rng: Any, llm: LLM, tokens: list[int], truth: OnePass, pieces: tuple[int, ...]) -> None:
    """Raises Failure unless the logits of the tokens, given in such pieces, are those of one pass."""
    mine, first, rows = InModel(student, rng, llm.config.memory, 32), 0, []
    [seq] = llm.sequences([tokens])
    for piece in pieces:
        mine.reserve(seq, piece)
        rows.append(forward(llm, mine, seq, tokens, first, first + piece))
        mine.commit(seq, piece)
        first += piece
    # Products of one row and of many are rounded differently in float32: 1e-4 of the largest logit is the project's
    # promise, and a hundred times what these two layers of sums over 64 numbers or fewer are off.
    atol = 1e-4 * float(np.abs(truth.logits).max())
    same_array(np.concatenate(rows), truth.logits, f"logits of pieces {pieces}", atol=atol, axes=("token", "id"))
