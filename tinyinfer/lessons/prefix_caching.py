"""Lesson 11, prefix caching: the exercises, their judges and our solutions.

The student writes the walk through the prefix tree. The judge knows the usual wrong walks by what they find in seeded
random prompts. Our walk is in prefix_walk.py, the puzzles are in prefix_puzzles.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from collections.abc import Sequence as Seq
from itertools import takewhile
from typing import Any

from tinyinfer.lessons.exercise import Exercise, Wrong, judge_choice, judge_number
from tinyinfer.lessons.prefix_puzzles import (
    BEST_ORDER,
    draw_order,
    draw_template,
    judge_order,
    judge_template,
    order_by_prefix,
)
from tinyinfer.lessons.prefix_walk import Match, Tree, insert, match, random_prompts
from tinyinfer.units import show

Case = tuple[list[list[int]], list[int], int]  # the prompts in the tree, a new prompt, the size of a block


# The student's walk.


def cases() -> list[Case]:
    """Seeded prompts beside what is cached, in three sizes of blocks; the last one repeats a cached prompt."""
    found: list[Case] = []
    for size in (1, 2, 4):
        prompts = random_prompts(120, size)
        found += [(prompts[i : i + 5], prompts[i + 5], size) for i in range(0, 114, 6)]
        found.append((prompts[:5], prompts[0][: len(prompts[0]) // size * size] or [1] * size, size))
    return found


def tree_of(prompts: Seq[list[int]], size: int) -> Tree:
    """The tree after these prompts."""
    tree: Tree = {}
    for prompt in prompts:
        insert(tree, prompt, size)
    return tree


def _with_last_token(tree: Tree, tokens: Seq[int], block_size: int) -> int:
    return match(tree, [*tokens, -1], block_size)


def _common(one: Seq[int], other: Seq[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _partial_blocks(tree: Tree, tokens: Seq[int], block_size: int) -> int:
    found, left = 0, list(tokens[:-1])
    while left:
        found += (most := max((_common(left, key) for key in tree), default=0))
        if most < block_size:
            break
        tree, left = tree[tuple(left[:block_size])], left[block_size:]
    return found


def _anywhere(tree: Tree, tokens: Seq[int], block_size: int) -> int:
    blocks, left = set(tree), list(tree.values())
    while left:
        blocks |= (below := left.pop()).keys()
        left += below.values()
    starts = range(0, len(tokens) - block_size, block_size)
    return block_size * sum(tuple(tokens[start : start + block_size]) in blocks for start in starts)


def _root_only(tree: Tree, tokens: Seq[int], block_size: int) -> int:
    starts = range(0, len(tokens) - block_size, block_size)
    hits = takewhile(lambda start: tuple(tokens[start : start + block_size]) in tree, starts)
    return block_size * sum(1 for _ in hits)


def _in_blocks(tree: Tree, tokens: Seq[int], block_size: int) -> int:
    return match(tree, tokens, block_size) // block_size


USUAL: dict[Match, Wrong] = {
    _with_last_token: Wrong("Your walk finds whole prompts, with their last token.",
                            "which row gives the logits of the first new token, if nothing is computed?"),
    _partial_blocks: Wrong("Your walk counts tokens of a block that differs further on.",
                           "a block is shared whole or not at all: compare tuples of `block_size` tokens"),
    _anywhere: Wrong("Your walk counts blocks that are known from another place.",
                     "keys and values depend on every token before them: stop at the first unknown block"),
    _root_only: Wrong("Your walk looks for every block among those that begin a prompt.",
                      "behind a block that is found, go on in the tree below it"),
    _in_blocks: Wrong("Your walk returns blocks.", "the answer is a number of tokens"),
}  # fmt: skip


def judge_match(answer: Any) -> Wrong | None:
    """The walk over seeded prompts; a usual mistake is known by what it finds in all of them."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", "write the walk inside `def match`, and check the function")
    given = cases()
    found = []
    for prompts, tokens, size in given:
        tree = tree_of(prompts, size)
        before = copy.deepcopy(tree)
        found.append(answer(tree, list(tokens), size))
        if tree != before:
            return Wrong("Your walk changed the tree.", "a look-up adds nothing: use `in`, not `setdefault`")
    for i, (prompts, tokens, size) in enumerate(given):
        right = match(tree_of(prompts, size), tokens, size)
        if isinstance(found[i], bool) or found[i] != right:
            return _usual(given, found) or Wrong(
                f"For {len(tokens)} tokens and blocks of {size} your walk finds {show(found[i])}, not {right}.",
                "go down the tree block by block, from the first one, and stop before the last token")  # fmt: skip
    return None


def _usual(given: list[Case], found: list[Any]) -> Wrong | None:
    for rule, why in USUAL.items():
        if found == [rule(tree_of(prompts, size), tokens, size) for prompts, tokens, size in given]:
            return why
    return None


# Exercises.

FOUND = "the prompt is found, and another text is generated"
SAME_TEXT = "the first text comes back, and no row is computed"
NOT_FOUND = "nothing is found, and another text is generated"
REPEATED = judge_choice(
    FOUND,
    {
        FOUND: None,
        SAME_TEXT: Wrong("That would be a cache of answers.",
                         "the tree holds keys and values of tokens; who chooses the next token, and when?"),
        NOT_FOUND: Wrong("The prompts are equal, token by token.",
                         "temperature and seed act on logits: do keys and values know of them?"),
    },
)  # fmt: skip

SYSTEM, OTHER, DOCUMENT = 64, 48, 96  # tokens of the parts of two prompts
SUBSTRING = judge_number(
    SYSTEM, "tokens",
    {
        SYSTEM + DOCUMENT: Wrong("That counts the document, too.",
                                 "its tokens are the same; its keys and values also depend on what stands before it"),
        DOCUMENT: Wrong("That is the document alone.", "where do the two prompts begin to differ?"),
        SYSTEM + OTHER: Wrong("That counts the other document, which the first prompt does not have.",
                              "compare from the first token on"),
        0: Wrong("The prompts differ, but not from their first token on.",
                 "what is equal before the difference is found"),
    },
    "compare the prompts from the first token on, in blocks of 16",
)  # fmt: skip


def rows_left(place: int, length: int, block_size: int) -> int:
    """Rows that are computed of a prompt which differs from a cached one of its length first at `place`."""
    return length - min(place, length - 1) // block_size * block_size


def _by_tokens(place: int, length: int, block_size: int) -> int:
    return length - min(place, length - 1)


def _whole_hit(place: int, length: int, block_size: int) -> int:
    return length - place // block_size * block_size


def _rounded_up(place: int, length: int, block_size: int) -> int:
    return length - min(-(-place // block_size) * block_size, length - 1)


def _one_row(place: int, length: int, block_size: int) -> int:
    return max(1, length - place // block_size * block_size)


def _found(place: int, length: int, block_size: int) -> int:
    return min(place, length - 1) // block_size * block_size


def _last_row(place: int, length: int, block_size: int) -> int:
    return 1 if place == length else length - place // block_size * block_size


def _last_block(place: int, length: int, block_size: int) -> int:
    return block_size if place == length else length - place // block_size * block_size


STAIRS: dict[Callable[[int, int, int], int], Wrong] = {
    _by_tokens: Wrong("Your staircase has a step at every token.", "a block of which one token differs is not shared"),
    _whole_hit: Wrong("A prompt that is found as a whole would be computed with no row at all.",
                      "its last token must be computed, so at most `length - 1` tokens can match, in whole blocks"),
    _one_row: Wrong("For a whole hit you compute one row, where the last block is not whole without its last token.",
                    "at most `length - 1` tokens can match, and only whole blocks of them"),
    _last_row: Wrong("For a prompt that is found as a whole you compute one row.",
                     "a block is found whole or not at all, and the last token never matches: what of the last block?"),
    _last_block: Wrong("For a prompt that is found as a whole you compute a whole block.",
                       "where `length` is no multiple of `block_size`, how long is what stands behind whole blocks?"),
    _found: Wrong("Your function returns the tokens that are found.", "asked are the rows that are left"),
    _rounded_up: Wrong("Your function shares the block in which the difference lies.", "round down to whole blocks"),
}  # fmt: skip
PLACES = [(place, length, size) for size in (4, 16) for length in (48, 53) for place in range(length + 1)]


def judge_rows_left(answer: Any) -> Wrong | None:
    """The staircase at every place of two prompts, in two sizes of blocks."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", "complete `def rows_left`, and check the function")
    found = [answer(*case) for case in PLACES]
    wanted = [rows_left(*case) for case in PLACES]
    if found == wanted:
        return None
    usual = (why for rule, why in STAIRS.items() if found == [rule(*case) for case in PLACES])
    i = next(i for i, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1])
    other = Wrong(f"For (place, length, block_size) = {PLACES[i]} you give {show(found[i])}, not {wanted[i]}.",
                  "how many whole blocks lie before the difference?")  # fmt: skip
    return next(usual, other)


EXERCISES: tuple[Exercise, ...] = (
    Exercise("match", judge_match, match, "Your walk finds what is cached in every one of the seeded prompts."),
    Exercise("repeated", REPEATED, FOUND, "Keys and values of the prompt are kept; the text is drawn anew."),
    Exercise("substring", SUBSTRING, SYSTEM, "Only a common beginning counts: behind the first difference all is new."),
    Exercise("rows_left", judge_rows_left, rows_left, "This is the staircase of the figure, with its last landing."),
    Exercise("template", judge_template, BEST_ORDER,
             "Whatever changes makes all that stands behind it new, so what is short and changes goes to the end.",
             draw_template),
    Exercise("order", judge_order, order_by_prefix,
             "Requests with a common beginning one after the other: blocks are used again before they are evicted.",
             draw_order),
)  # fmt: skip
