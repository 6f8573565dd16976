"""The puzzles of the lesson about paging: which free block a sequence gets, and when a shared block is copied.

Both are scored by counts: block reads that had to be gathered, and rows that were copied. `Strips` draws an attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from html import escape
from typing import Any

from tinyinfer.kv_cache.blocks import BlockPool
from tinyinfer.lessons.exercise import Wrong
from tinyinfer.units import show
from tinyinfer.views.page import View, hue

BLOCKS = 32  # of the pool of the first puzzle
ARRIVALS = ((0, 2, 9), (0, 2, 6), (0, 1, 7), (3, 3, 8), (6, 2, 9), (8, 2, 7), (10, 1, 6))  # step, blocks first and last
ALLOWED = 0.1  # share of block reads that may be gathers
PROMPT, NEW, SAMPLES, SIZE = 22, 6, 4, 4  # of the second puzzle: rows of the prompt, of an answer; answers; block size
FEWEST = (SAMPLES - 1) * (PROMPT % SIZE)  # rows that must be copied: the answer that writes last owns the block already
Place = Callable[[list[int], list[int]], int]
Strip = list[tuple[int, ...]]  # for each block of a pool the sequences that hold it


class Strips(View):
    """The pool as a strip of coloured blocks, one strip below the other. lines: (words, strip)."""

    style = """
.tinyinfer-view .moment { display: flex; align-items: center; margin: 1px 0; }
.tinyinfer-view .moment span { flex: 0 0 9em; font-size: 12px; }
.tinyinfer-view .moment b { flex: 1 1 0; min-width: 0; max-width: 26px; height: 18px; margin-right: 1px;
  font-size: 11px; font-weight: 400; line-height: 18px; text-align: center; overflow: hidden; }
.tinyinfer-view .moment b.free { background: var(--soft); }
"""

    def __init__(self, title: str, lines: Seq[tuple[str, Strip]], note: str) -> None:
        self.title, self.lines, self.note = title, lines, note

    def body(self) -> str:
        """A line for each strip; a block shows the number of its sequence, or `+` when several hold it."""
        rows = "".join(
            f'<div class="moment"><span>{escape(words)}</span>{"".join(map(self._cell, strip))}</div>'
            for words, strip in self.lines
        )
        return f"{rows}<p>{escape(self.note)}</p>"

    def text(self) -> str:
        """The same with a letter for each block; a dot is free."""
        width = max((len(words) for words, _ in self.lines), default=0)
        lines = (f"{words.ljust(width)} {''.join(map(_letter, strip))}" for words, strip in self.lines)
        return "\n".join([*lines, self.note])

    def _cell(self, holders: tuple[int, ...]) -> str:
        if not holders:
            return '<b class="free"></b>'
        return f'<b class="fill" style="{hue(holders[0])}">{_letter(holders)}</b>'


def _letter(holders: tuple[int, ...]) -> str:
    return "." if not holders else str(holders[0]) if len(holders) == 1 else "+"


# Where a sequence gets its next block.


@dataclass
class Run:
    """An attempt. gathered, read: blocks read by attention, over all steps; strips: the pool after each step."""

    gathered: int = 0
    read: int = 0
    downwards: int = 0  # a growing sequence got the block before its last one
    missed: int = 0  # it got another block, although the one behind its last one was free
    crowded: int = 0  # a new sequence began right behind another sequence's block
    strips: list[Strip] = field(default_factory=list)
    fault: Wrong | None = None


def run_placement(choose: Place, num_blocks: int = BLOCKS) -> Run:
    """Serves the arrivals: each sequence gets the blocks of its prompt at once, then one block in each step."""
    run, free, tables = Run(), list(range(num_blocks)), dict[int, list[int]]()
    for step in range(max(begin + last for begin, _, last in ARRIVALS)):
        for seq, (begin, first, last) in enumerate(ARRIVALS):
            missing = 0 if step < begin else first if step == begin else min(1, last - len(tables.get(seq, [])))
            for _ in range(missing if seq in tables or step == begin else 0):
                table = tables.setdefault(seq, [])
                block = choose(list(free), list(table))
                if block not in free or isinstance(block, bool):
                    run.fault = _not_free(block, free)
                    return run
                _count_habits(run, free, table, block)
                free.remove(block)
                table.append(block)
        run.read += sum(map(len, tables.values()))
        run.gathered += sum(len(table) for table in tables.values() if not side_by_side(table))
        run.strips.append(_strip(tables, num_blocks))
        for seq in [seq for seq in tables if len(tables[seq]) == ARRIVALS[seq][2]]:
            free = sorted([*free, *tables.pop(seq)])
    return run


def _count_habits(run: Run, free: list[int], table: list[int], block: int) -> None:
    if table:
        run.downwards += block == table[-1] - 1
        run.missed += block != table[-1] + 1 and table[-1] + 1 in free
    else:
        run.crowded += block > 0 and block - 1 not in free


def side_by_side(table: list[int]) -> bool:
    """Whether the blocks lie in the pool in the order of the table, without gaps: attention reads them in place."""
    return table == list(range(table[0], table[0] + len(table)))


def _not_free(block: object, free: list[int]) -> Wrong:
    if block is None:
        return Wrong("Your function returned None.", "end it with `return` and a block of the list `free`")
    return Wrong(f"Your function chose {show(block)}, which is not among the free blocks {free}.",
                 "check whether a block is in `free` before you return it")  # fmt: skip


def _strip(tables: dict[int, list[int]], num_blocks: int) -> Strip:
    owner = {block: (seq,) for seq, table in tables.items() for block in table}
    return [owner.get(block, ()) for block in range(num_blocks)]


def place(free: list[int], blocks: list[int]) -> int:
    """The block behind the sequence's last one; a new sequence begins in the middle of the longest gap."""
    if blocks and blocks[-1] + 1 in free:
        return blocks[-1] + 1
    gaps: list[list[int]] = []
    for block in free:
        if gaps and gaps[-1][-1] + 1 == block:
            gaps[-1].append(block)
        else:
            gaps.append([block])
    longest = max(gaps, key=len)
    return longest[len(longest) // 2]


HABITS = {
    "downwards": "from the top downwards a sequence's blocks lie in reverse order, which no slice of the pool reads",
    "missed": "other free blocks lie behind another sequence's block as soon as two sequences grow; look first at the "
    "block behind the sequence's own last one",
    "crowded": "growing sequences are served well, but a new one begins right behind a neighbour and takes the "
    "neighbour's next block; leave room behind the neighbour",
}


def judge_placement(answer: Any) -> Wrong | None:
    """Few enough gathers; the usual rules are known by what they do."""
    run = run_placement(answer)
    if run.fault:
        return run.fault
    if run.gathered <= ALLOWED * run.read:
        return None
    habit = max(HABITS, key=lambda habit: getattr(run, habit))
    hint = HABITS[habit] if getattr(run, habit) else "keep room for who will grow, however many blocks it will need"
    return Wrong(f"{run.gathered} of {run.read} block reads were gathers; at most {ALLOWED * run.read:.0f} pass.", hint)


def draw_placement(answer: Any) -> View | None:
    """The pool after each step of the attempt; None for an attempt that cannot run."""
    try:
        run = run_placement(answer)
    except Exception:  # the judge says what went wrong
        return None
    lines = [(f"step {step}", strip) for step, strip in enumerate(run.strips)]
    note = f"{run.gathered} of {run.read} block reads were gathers"
    return Strips("The pool, step by step", lines, note) if lines else None


# Copy on write.


class SharedPool:
    """A pool whose blocks may be shared. holders: how many tables hold each block; copied: rows copied so far."""

    def __init__(self, num_blocks: int, size: int) -> None:
        self.size, self.copied = size, 0
        self.rows: list[list[str]] = [[""] * size for _ in range(num_blocks)]
        self._blocks = BlockPool(num_blocks)

    @property
    def holders(self) -> list[int]:
        return self._blocks.holders

    def allocate(self) -> int:
        """The number of a free block, which then has one holder."""
        return self._blocks.allocate()

    def used(self, n: int) -> list[int]:
        """The numbers of n blocks, in no order: the place of a block in a table is not its number."""
        blocks = [self.allocate() for _ in range(n + 2)]
        for block in (blocks.pop(0), blocks.pop(2)):
            self.release(block)
        return blocks[::-1]

    def hold(self, block: int) -> None:
        """Adds a holder to a block."""
        self._blocks.hold(block)

    def release(self, block: int) -> None:
        """Removes a holder from a block; a block without holders is free."""
        self._blocks.release(block)

    def copy(self, old: int, new: int, rows: int) -> None:
        """Copies the first `rows` rows of a block into another block."""
        self.rows[new][:rows] = self.rows[old][:rows]
        self.copied += rows


@dataclass
class Fork:
    """Answers that began with the same blocks, after all of them wrote their rows."""

    pool: SharedPool
    tables: list[list[int]]
    wanted: list[list[str]]

    def found(self) -> Iterator[list[str]]:
        """The rows that each answer reads through its table."""
        for table, rows in zip(self.tables, self.wanted, strict=True):
            yield [row for block in table for row in self.pool.rows[block]][: len(rows)]


def run_fork(before_write: Callable[[SharedPool, list[int], int], object]) -> Fork:
    """One prompt, several answers on its blocks; each writes a row in turn."""
    pool = SharedPool(BLOCKS, SIZE)
    prompt = [f"p{position}" for position in range(PROMPT)]
    first = pool.used(-(-PROMPT // SIZE))
    for position, row in enumerate(prompt):
        pool.rows[first[position // SIZE]][position % SIZE] = row
    for _ in range(SAMPLES - 1):
        for block in first:
            pool.hold(block)
    fork = Fork(pool, [list(first) for _ in range(SAMPLES)], [list(prompt) for _ in range(SAMPLES)])
    for position in range(PROMPT, PROMPT + NEW):
        for answer, (table, wanted) in enumerate(zip(fork.tables, fork.wanted, strict=True)):
            if position == len(table) * SIZE:
                table.append(pool.allocate())
            before_write(pool, table, position)
            wanted.append(f"{answer}:{position}")
            pool.rows[table[position // SIZE]][position % SIZE] = wanted[-1]
    return fork


def before_write(pool: SharedPool, blocks: list[int], position: int) -> None:
    """Gives the table a block of its own for a position that lies in a shared one."""
    i, rows = divmod(position, pool.size)
    old = blocks[i]
    if pool.holders[old] > 1:
        blocks[i] = pool.allocate()
        pool.copy(old, blocks[i], rows)
        pool.release(old)


def judge_fork(answer: Any) -> Wrong | None:
    """All rows are right, no holder is too many or too few, and no row more than needed was copied."""
    fork = run_fork(answer)
    pool, mixed = fork.pool, [i for i, rows in enumerate(fork.found()) if rows != fork.wanted[i]]
    if mixed and len({table[PROMPT // SIZE] for table in fork.tables}) == 1:
        return Wrong("All answers wrote into the same block, so each reads the words of the last one.",
                     "`pool.holders` tells which block several tables hold: nothing may be written there")  # fmt: skip
    if mixed:
        return Wrong(f"Answer {mixed[0]} does not read its own rows.",
                     "the new block must hold the rows below `position` before the table points to it")  # fmt: skip
    held = [sum(table.count(block) for table in fork.tables) for block in range(BLOCKS)]
    if held != list(pool.holders):
        return Wrong(f"{sum(pool.holders)} holders are counted, but the tables hold {sum(held)} blocks.",
                     "a table that points to a copy no longer holds the old block: release it")  # fmt: skip
    return _copies(pool.copied)


def _copies(copied: int) -> Wrong | None:
    if copied == FEWEST:
        return None
    each = copied / (SAMPLES - 1)
    hint = "the last holder of a block may write into it: it needs no copy"
    if copied < FEWEST:
        hint = "copy by `pool.copy(old, new, rows)`, which counts the rows"
    elif each in range(PROMPT % SIZE + 1, SIZE + 1):
        hint = "only the rows below `position` are filled: copy no more than those"
    elif each in range(PROMPT, PROMPT + SIZE):
        hint = "only the block of `position` is written; the other shared blocks stay shared"
    return Wrong(f"All rows are right, but {copied} rows were copied, where {FEWEST} are enough.", hint)


def draw_fork(answer: Any) -> View:
    """Who holds which block at the end."""
    fork = run_fork(answer)
    strip = [tuple(i for i, table in enumerate(fork.tables) if block in table) for block in range(BLOCKS)]
    used = max((block + 1 for block, holders in enumerate(strip) if holders), default=0)
    note = f"{fork.pool.copied} rows were copied; + marks a block that several answers share"
    return Strips("The pool at the end", [("blocks", strip[:used])], note)
