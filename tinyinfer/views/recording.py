"""A run to look at again: plain data of each of its steps, copied while the run goes on.

>>> recording = record(llm, ["One", "Two"], SamplingParams(max_tokens=8))           # doctest: +SKIP
>>> recording.steps[3].blocks[0]                                                    # doctest: +SKIP

A trace (engine/trace.py) says what the sequences of a batch did. A recording adds what lies beside the batch: the seat
of each sequence, the whole pool with the owners of each block, and the prefix tree. Everything is a number, a text or a
tuple of these, so nothing changes when the engine goes on. Sequences are called by the place of their prompt, from 0.

Loses: a copy of the pool and of the tree in each step, so a run is recorded to be looked at, not to be timed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from collections.abc import Sequence as Seq
from contextlib import closing
from dataclasses import dataclass, fields, replace
from typing import cast

from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.trace import StepTrace, Turn
from tinyinfer.kv_cache.base import Cache, Prefixes
from tinyinfer.kv_cache.prefix_cache import Node, PrefixCache
from tinyinfer.ledger import Ledger
from tinyinfer.llm import LLM
from tinyinfer.prompts import Params, Prompts
from tinyinfer.sequence import Sequence

BROKEN = "\ufffd"  # what a tokenizer writes for bytes that are no character


@dataclass(frozen=True)
class PoolBlock:
    """A block in use while a step runs. Blocks of the pool that are not listed are free.

    owners: the sequences whose block tables hold it. filled: how many of its `size` positions are computed then, drafts
    included. kept: whether the prefix tree holds it, too. new: whether it was allocated for this step.
    """

    number: int
    owners: tuple[int, ...]
    filled: int
    size: int
    kept: bool
    new: bool


@dataclass(frozen=True)
class TreeNode:
    """A block of the prefix tree after a step. depth: 0 for a block that begins a prompt.

    users: the sequences whose block tables held it in the step. new: whether it entered the tree in the step.
    """

    block: int
    depth: int
    tokens: tuple[int, ...]
    text: str
    users: tuple[int, ...]
    new: bool


@dataclass(frozen=True)
class Step:
    """What one engine step did, and what it found.

    turns: what each sequence of the batch did. seats: for each seat the sequence that sat there while the step ran.
    waiting: the sequences that had arrived and had no seat. joined, left, preempted: the sequences that were admitted,
    finished or preempted. blocks: the blocks in use, of num_blocks (0 for a cache without blocks). tree: the prefix
    tree, each parent before its children, siblings in order of entry. ledger: what the step counted. begin, end: of the
    step, in seconds from the first step's begin.
    """

    turns: tuple[Turn, ...]
    seats: tuple[int | None, ...]
    waiting: tuple[int, ...]
    joined: tuple[int, ...]
    left: tuple[int, ...]
    preempted: tuple[int, ...]
    blocks: tuple[PoolBlock, ...]
    num_blocks: int
    tree: tuple[TreeNode, ...]
    ledger: Ledger
    begin: float
    end: float

    @property
    def rows(self) -> int:
        """Rows of the batch, which are the positions that the step computed."""
        return sum(turn.rows for turn in self.turns)

    @property
    def idle(self) -> tuple[int, ...]:
        """The sequences that sat in a seat and had no rows."""
        ran = {turn.id for turn in self.turns}
        return tuple(id for id in self.seats if id is not None and id not in ran)


@dataclass(frozen=True)
class Recording:
    """A run. prompts, answers: the texts by sequence. switches: those that are not the default, name -> value.

    block_size: positions of a block. words: token id -> its text, for each token that the steps mention.
    """

    steps: tuple[Step, ...]
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    switches: dict[str, object]
    block_size: int
    words: dict[int, str]

    def word(self, token: int) -> str:
        """The text of a token."""
        return self.words.get(token, f"<{token}>")


def record(llm: LLM, prompts: Prompts, params: Params = None, arrivals: Iterable[float] | None = None) -> Recording:
    """Runs the prompts to their end and returns what each step did.

    arrivals: how many seconds after the beginning each request arrives, on the engine's clock; None: all at once.
    Raises ValueError where `LLM.generate` does, and for another number of arrivals than of prompts.
    """
    sequences = llm.sequences(prompts, params)
    delays = [0.0] * len(sequences) if arrivals is None else list(arrivals)
    if len(delays) != len(sequences):
        raise ValueError(f"{len(sequences)} prompts but {len(delays)} arrivals; give one each")
    for seq, delay in zip(sequences, delays, strict=True):
        seq.delay_by(delay)
    recorder = RunRecorder(llm, sequences)
    with closing(cast("Generator[StepTrace]", llm.run(sequences, watch=True))) as traces:  # after Ctrl-C, too
        steps = tuple(recorder.step(trace) for trace in traces)
    tokens = {token for step in steps for turn in step.turns for token in (*turn.tokens, *turn.drafts)}
    return Recording(
        steps=tuple(after(step, steps[0].begin) for step in steps),
        prompts=tuple(llm.tokenizer.decode(seq.prompt) for seq in sequences),
        answers=tuple(llm.output(seq).text for seq in sequences),
        switches=changed_switches(llm.engine_config),
        block_size=llm.engine_config.block_size,
        words={token: spelled(llm, token) for token in sorted(tokens)},
    )


class RunRecorder:
    """Copies what lies beside each trace of a run: seats, pool and prefix tree."""

    def __init__(self, llm: LLM, sequences: Seq[Sequence]) -> None:
        self.llm, self.sequences = llm, sequences
        self.places = {seq.id: place for place, seq in enumerate(sequences)}
        self.seats: list[int | None] = [None] * llm.engine_config.max_num_seqs
        self.known: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()  # of the tree before: path, tokens

    def step(self, trace: StepTrace) -> Step:
        """The step that a trace tells of, before the next step begins."""
        turns = tuple(turn._replace(id=self.places[turn.id]) for turn in trace.turns if turn.id in self.places)
        idle = self._of(trace.idle)
        cache = self.llm.engine.cache
        nodes = list(tree_nodes(self.llm.engine.scheduler.prefixes))
        blocks = pool_blocks(turns, {id: self.sequences[id] for id in idle}, cache, {path[-1] for path, _ in nodes})
        owners = {block.number: block.owners for block in blocks}
        tree = tuple(self._tree_node(path, node, owners) for path, node in nodes)
        self.known = {(path, node.tokens) for path, node in nodes}
        return Step(
            turns=turns,
            seats=self._seated([*(turn.id for turn in turns if turn.phase != "candidate"), *idle]),
            waiting=self._of(trace.waiting),
            joined=self._of(seq.id for seq in trace.joined),
            left=self._of(seq.id for seq in trace.left),
            preempted=self._of(seq.id for seq in trace.preempted),
            blocks=blocks,
            num_blocks=cache.num_blocks,
            tree=tree,
            ledger=trace.ledger,
            begin=trace.times[0],
            end=trace.times[2],
        )

    def _of(self, ids: Iterable[int]) -> tuple[int, ...]:
        """The places of the run's own sequences among these ids."""
        return tuple(self.places[id] for id in ids if id in self.places)

    def _seated(self, present: list[int]) -> tuple[int | None, ...]:
        """The seats of a step: who stays keeps its seat, and who comes takes the first free one."""
        self.seats = [id if id in present else None for id in self.seats]
        for id in present:
            if id not in self.seats:
                self.seats[self.seats.index(None)] = id
        return tuple(self.seats)

    def _tree_node(self, path: tuple[int, ...], node: Node, owners: dict[int, tuple[int, ...]]) -> TreeNode:
        new = (path, node.tokens) not in self.known
        text = self.llm.tokenizer.decode(node.tokens)
        return TreeNode(node.block, len(path) - 1, node.tokens, text, owners.get(node.block, ()), new)


def tree_nodes(prefixes: Prefixes) -> Iterable[tuple[tuple[int, ...], Node]]:
    """The path of blocks to each node of the prefix tree, and the node, parents first; none without a prefix cache."""
    roots = reversed(prefixes.roots.values()) if isinstance(prefixes, PrefixCache) else ()
    left: list[tuple[tuple[int, ...], Node]] = [((), root) for root in roots]
    while left:
        path, node = left.pop()
        if path:
            yield path, node
        left += [((*path, child.block), child) for child in reversed(node.children.values())]


def pool_blocks(
    turns: Iterable[Turn], idle: dict[int, Sequence], cache: Cache, kept: set[int]
) -> tuple[PoolBlock, ...]:
    """The blocks in use while a step runs: of its turns, of sequences without rows, and of the prefix tree."""
    size = cache.spec.block_size
    owners: dict[int, list[int]] = {number: [] for number in kept}
    filled, new = dict.fromkeys(kept, size), set()
    for turn in turns:
        for block in turn.blocks:
            owners.setdefault(block.number, []).append(turn.id)
            filled[block.number] = block.filled
            new |= {block.number} if block.new else set()
    for id, seq in idle.items():
        for i, number in enumerate(cache.block_table(seq) if cache.num_blocks else ()):
            owners.setdefault(number, []).append(id)
            filled[number] = min(size, cache.length(seq) - i * size)
    return tuple(
        PoolBlock(number, tuple(sorted(set(ids))), filled[number], size, number in kept, number in new)
        for number, ids in sorted(owners.items())
    )


def spelled(llm: LLM, token: int) -> str:
    """The text of one token; the name of a control token; the number of one that is only a part of a character."""
    text = llm.tokenizer.decode([token]) or llm.tokenizer.stream().name(token)
    return f"<{token}>" if not text or BROKEN in text else text


def after(step: Step, begin: float) -> Step:
    """The step with its times counted from the begin of the run."""
    return replace(step, begin=step.begin - begin, end=step.end - begin)


def changed_switches(config: EngineConfig) -> dict[str, object]:
    """The switches that are not the default, name -> value."""
    default = EngineConfig()
    pairs = {one.name: getattr(config, one.name) for one in fields(config)}
    return {name: value for name, value in pairs.items() if value != getattr(default, name)}
