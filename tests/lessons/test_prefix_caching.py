"""What lesson 11 says to a student's walk through the tree, formula and puzzles."""

from __future__ import annotations

import math
import random
from itertools import permutations

import numpy as np
import pytest

from tinyinfer import SamplingParams
from tinyinfer.lessons import prefix_caching, prefix_puzzles
from tinyinfer.lessons.models import Models
from tinyinfer.lessons.prefix_caching import (
    DOCUMENT,
    EXERCISES,
    OTHER,
    STAIRS,
    SYSTEM,
    cases,
    judge_match,
    judge_rows_left,
    rows_left,
    tree_of,
)
from tinyinfer.lessons.prefix_puzzles import (
    BEST_ORDER,
    PARTS,
    QUEUE,
    REQUESTS,
    draw_order,
    draw_template,
    judge_order,
    judge_template,
    order_by_prefix,
    part_value,
    run_order,
    run_template,
)
from tinyinfer.lessons.prefix_walk import answered, compared, insert, match, random_prompts, walked

BY_NAME = {exercise.name: exercise for exercise in EXERCISES}
ONE = SamplingParams(max_tokens=1, ignore_eos=True)


@pytest.fixture(scope="module")
def models():
    return Models()


@pytest.mark.parametrize("size", [1, 4, 16])
def test_the_walk_finds_what_the_library_finds(models, size):
    """The claim of the lesson, over seeded prompts that begin alike in many ways."""
    llm = models.open(models.tiny_path(), None, threads=1, kv_cache="paged", block_size=size, prefix_cache=True)
    pairs = compared(llm, random_prompts(60, seed=size), match)
    assert all(library == mine for library, mine in pairs)
    assert sum(mine for _, mine in pairs) > 100, "else nothing was compared"


def test_an_engine_that_asks_the_walk_finds_the_same_and_answers_the_same(models):
    """Catches an engine of ours that goes on asking the library's walk: one that finds nothing must find nothing."""
    llm = models.open(models.tiny_path(), None, threads=1, kv_cache="paged", block_size=4, prefix_cache=True)
    prompts = random_prompts(12, seed=5)
    texts, found = answered(llm, llm.engine, prompts, 8)
    assert answered(llm, walked(llm, match), prompts, 8) == (texts, found)
    assert sum(found) > 50
    assert answered(llm, walked(llm, lambda tree, tokens, size: 0), prompts, 8) == (texts, [0] * len(prompts))


def test_the_walk_by_hand():
    """Blocks of two: a path, a fork, another beginning, and the last token that never matches."""
    tree = tree_of([[5, 6, 7, 8], [9, 9, 7, 8]], 2)
    found = {(5, 6, 7, 8): 2, (5, 6, 7, 8, 1): 4, (5, 6, 9, 9, 1): 2, (9, 9, 1): 2, (7, 8, 1): 0, (5, 6): 0, (5,): 0}
    assert {tokens: match(tree, tokens, 2) for tokens in found} == found


def grows(tree, tokens, size):
    insert(tree, tokens, size)
    return match(tree, tokens, size)


PLANTED = {
    **{rule: why.hint for rule, why in prefix_caching.USUAL.items()},
    grows: "a look-up adds nothing",
    (lambda tree, tokens, size: 0): "go down the tree block by block",
    (lambda tree, tokens, size: None): "go down the tree block by block",
    (lambda tree, tokens, size: math.nan): "go down the tree block by block",
}


@pytest.mark.parametrize("walk", PLANTED)
def test_each_usual_bug_of_a_walk_is_named(walk):
    """Catches a judge that lets a bug through, or gives a hint that leads elsewhere."""
    wrong = judge_match(walk)
    assert wrong
    assert PLANTED[walk] in wrong.hint


def test_no_two_usual_bugs_find_the_same():
    """Catches cases too few to tell the bugs apart, from each other and from the right walk."""
    rules = [match, *prefix_caching.USUAL]
    found = {tuple(rule(tree_of(prompts, size), tokens, size) for prompts, tokens, size in cases()) for rule in rules}
    assert len(found) == len(rules)


@pytest.mark.parametrize("place", [0, 1, 15, 16, 17, 40, 47, 48])
def test_the_staircase_is_the_library_s(models, place):
    """The formula beside the rows that an engine computes; 48 is the same prompt again."""
    llm = models.open(models.tiny_path(), None, threads=1, kv_cache="paged", prefix_cache=True)
    prompt = list(range(10, 58))
    other = [*prompt[:place], *(token + 100 for token in prompt[place : place + 1]), *prompt[place + 1 :]]
    list(llm.steps([prompt], ONE))
    before = llm.ledger.copy()
    list(llm.steps([other], ONE))
    assert (llm.ledger - before).tokens_computed == rows_left(place, 48, 16)


@pytest.mark.parametrize("rule", STAIRS, ids=lambda rule: rule.__name__)
def test_each_usual_staircase_is_named(rule):
    """Catches a wrong formula that passes because no place tells it apart."""
    assert judge_rows_left(rule) == STAIRS[rule]


# Puzzles


def test_the_template_s_score_is_what_the_library_finds(models):
    """Catches a puzzle that is scored by rules of its own."""
    llm = models.open(models.tiny_path(), None, threads=1, kv_cache="paged", prefix_cache=True, max_num_seqs=1)
    for order in (BEST_ORDER, ["system", "date", "tools", "document", "question"]):
        prompts = [
            [3 + hash_of(part, part_value(part, request), i) for part in order for i in range(PARTS[part])]
            for request in range(REQUESTS)
        ]
        sequences = llm.sequences(prompts, ONE)
        for _ in llm.run(sequences):
            continue
        assert [seq.progress.cached_tokens for seq in sequences] == run_template(order)
        llm.engine.scheduler.prefixes.evict_all()


def hash_of(part: str, value: int, i: int) -> int:
    """A token id for a place of a text, other texts having other ones."""
    return (17 * list(PARTS).index(part) + 29 * value + 7 * i + value * i) % 250


def test_no_order_of_the_parts_is_better_than_ours():
    """All 24 with the question at the end; it is never found, and so is nothing behind it."""
    orders = [(*order, "question") for order in permutations(part for part in PARTS if part != "question")]
    assert max(sum(run_template(order)) for order in orders) == sum(run_template(BEST_ORDER))


@pytest.mark.parametrize(
    ("order", "hint"),
    [
        ("date system tools document question", "the system prompt included"),
        ("system date tools document question", "what a new date makes new"),
        ("system tools date document question", "what a new date makes new"),
        ("document system tools date question", "behind several others"),
        ("question system tools document date", "behind the question"),
        ("system tools question document date", "behind the question"),
    ],
)
def test_each_worse_order_gets_a_hint_that_fits(order, hint):
    """The date at the top, the date before what is long, a document first, the question before what repeats."""
    wrong = judge_template(order.split())
    assert wrong
    assert hint in wrong.hint


@pytest.mark.parametrize("rule", prefix_puzzles.USUAL, ids=lambda rule: rule.__name__)
def test_a_usual_order_of_requests_is_named(rule):
    """Catches a pool so large that every order is as good."""
    wrong = judge_order(rule)
    assert wrong
    assert wrong.hint == prefix_puzzles.USUAL[rule]


def test_no_shuffled_order_of_requests_is_better_than_ours():
    """Eight shuffles; and each distinct beginning is computed once in ours, which no order can beat."""
    best, draw = sum(run_order(order_by_prefix(list(QUEUE)))), random.Random(0)
    orders = [draw.sample(range(len(QUEUE)), len(QUEUE)) for _ in range(8)]
    assert max(sum(run_order(order)) for order in orders) < best
    distinct = {request[:n] for request in QUEUE for n in (1, 2)}
    assert best == len(QUEUE) * 80 - sum(32 if len(beginning) == 1 else 48 for beginning in distinct)


def test_attempts_are_drawn():
    """A bar for each request, and the count below."""
    assert str(draw_template(BEST_ORDER)).endswith("4,784 of 6,936 tokens are found in the cache")
    assert draw_template(BEST_ORDER)._repr_html_().count('class="request"') == REQUESTS
    assert draw_order(order_by_prefix)._repr_html_().count('class="request"') == len(QUEUE)


@pytest.mark.parametrize(
    ("answer", "said"),
    [(SYSTEM + OTHER, "the other document"), (DOCUMENT, "the document alone"), (SYSTEM + DOCUMENT, "document, too")],
)
def test_each_wrong_substring_has_a_hint_of_its_own(answer, said):
    """Catches lengths for which two mistakes are one number: the hint would name the other one."""
    assert said in BY_NAME["substring"].judged(answer).sentence


@pytest.mark.parametrize("kind", [iter, np.array, tuple])
def test_an_order_is_right_in_any_row(kind):
    """Catches a judge that refuses the right order because it is no list."""
    assert judge_order(lambda requests: kind(order_by_prefix(requests))) is None


@pytest.mark.parametrize("kind", [str, float])
def test_an_order_of_texts_names_no_requests(kind):
    """Catches a judge that stops inside the library with a text as an index."""
    wrong = judge_order(lambda requests: list(map(kind, order_by_prefix(requests))))
    assert "does not name each request once" in wrong.sentence
    assert draw_order(lambda requests: None) is None


def test_equal_heads_in_the_order_they_came_are_told_what_is_lost():
    """Catches the hint "requests that begin alike follow each other" for an order in which documents do."""
    heads = list(dict.fromkeys(request[:2] for request in QUEUE))
    wrong = judge_order(lambda requests: sorted(range(len(QUEUE)), key=lambda i: heads.index(requests[i][:2])))
    assert "system prompts still take turns" in wrong.hint


def test_a_walk_that_gives_floats_works_in_the_engine(models):
    """Catches a walk that `check` takes and the claim's engine stops at."""
    llm = models.open(models.tiny_path(), None, threads=1, kv_cache="paged", block_size=4)
    prompts = [[3, 4, 5, 6, 7, 8], [3, 4, 5, 6, 9]]
    float_walk = walked(llm, lambda *case: float(match(*case)))
    assert judge_match(lambda *case: float(match(*case))) is None
    assert answered(llm, float_walk, prompts, 2)[1] == [0, 4]
