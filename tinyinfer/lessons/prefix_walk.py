"""A walk through the prefix tree that fits on a page, and a student's walk inside the real engine.

The tree is a dictionary: the tokens of a block lead to the tree behind that block. The library's tree has the same
shape, with blocks, users and times at its nodes (kv_cache/prefix_cache.py).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import partial

import numpy as np

from tinyinfer.engine.engine import Engine, build_cache
from tinyinfer.kv_cache.blocks import BlockCache
from tinyinfer.kv_cache.prefix_cache import Node, PrefixCache
from tinyinfer.ledger import Ledger
from tinyinfer.lessons.own_part import own_engine
from tinyinfer.llm import LLM
from tinyinfer.prompts import Prompt
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import Sequence

Tree = dict[tuple[int, ...], "Tree"]  # the tokens of a block -> what is known behind that block
Match = Callable[[Tree, list[int], int], int]


def match(tree: Tree, tokens: Seq[int], block_size: int) -> int:
    """How many of the first tokens are known: whole blocks along one path, and never the last token."""
    found = 0
    while found + block_size < len(tokens):
        block = tuple(tokens[found : found + block_size])
        if block not in tree:
            break
        tree = tree[block]
        found += block_size
    return found


def insert(tree: Tree, tokens: Seq[int], block_size: int) -> None:
    """Adds the whole blocks of a computed prompt to the tree."""
    for stop in range(block_size, len(tokens) + 1, block_size):
        tree = tree.setdefault(tuple(tokens[stop - block_size : stop]), {})


def known(node: Node) -> Tree:
    """The library's tree below a node, as dictionaries."""
    return {child.tokens: known(child) for child in node.children.values()}


def random_prompts(n: int, seed: int, longest: int = 40) -> list[list[int]]:
    """Prompts of two different tokens in a few stretches, so that many of them begin alike."""
    rng = np.random.default_rng(seed)
    stretches = [rng.integers(1, 3, 8).tolist() for _ in range(3)]
    chosen = [[token for i in rng.integers(0, 3, 5) for token in stretches[i]] for _ in range(n)]
    return [prompt[: rng.integers(1, longest + 1)] for prompt in chosen]


def compared(llm: LLM, prompts: Seq[list[int]], mine: Match) -> list[tuple[int, int]]:
    """For each prompt, one after the other: what the library's prefix cache finds, and what the walk finds before."""
    prefixes, pairs = llm.engine.scheduler.prefixes, []
    assert isinstance(prefixes, PrefixCache)
    for prompt in prompts:
        found = mine(known(prefixes.roots[0, None]), list(prompt), llm.engine_config.block_size)
        [seq] = llm.sequences([prompt], SamplingParams(max_tokens=1, ignore_eos=True))
        for _ in llm.run([seq]):
            continue
        pairs.append((seq.progress.cached_tokens, found))
    return pairs


class WalkedPrefixes(PrefixCache):
    """The library's prefix cache, but what a new sequence finds is what the student's walk says."""

    def __init__(self, walk: Match, cache: BlockCache, ledger: Ledger) -> None:
        super().__init__(cache, ledger)
        self._walk = walk

    def match(self, seq: Sequence) -> int:
        """Gives the blocks along the found tokens to the sequence. Raises KeyError for tokens that are not there."""
        size, node, path = self.cache.block_size, self._root(seq), list[Node]()
        found = int(self._walk(known(node), list(seq.tokens), size))
        for start in range(0, found, size):
            node = node.children[tuple(seq.tokens[start : start + size])]
            self._use(node)
            path.append(node)
        self._paths[seq.id] = path
        if path:
            self.cache.adopt(seq, [node.block for node in path], found)
        return found


def walked(llm: LLM, walk: Match) -> Engine:
    """An engine like that of a model with a paged cache, whose prefixes are found by the student's walk."""
    cache = build_cache(llm.config, llm.ops, llm.engine_config)
    return own_engine(llm, cache, prefixes=partial(WalkedPrefixes, walk))


def answered(llm: LLM, engine: Engine, prompts: Seq[Prompt], n: int) -> tuple[list[list[int]], list[int]]:
    """The first n new tokens of each prompt, one prompt after the other, and how many tokens of each were found."""
    sequences = llm.sequences(list(prompts), SamplingParams(max_tokens=n, ignore_eos=True))
    for seq in sequences:
        for _ in engine.run([seq]):
            continue
    return [seq.new_tokens for seq in sequences], [seq.progress.cached_tokens for seq in sequences]
