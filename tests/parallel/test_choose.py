"""All ranks together choose the token that one process would, and tell each other four numbers of a row for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from divided import together
from helpers import ALWAYS_DRAFT, finish, make_engine, request, small_config

from tinyinfer.engine.engine import Engine
from tinyinfer.ledger import Ledger
from tinyinfer.model.interfaces import HOST, Sampled
from tinyinfer.noise import gumbel
from tinyinfer.parallel.choose import Draw, choose_together, draw_of
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.local import run_ranks
from tinyinfer.parallel.shards import division
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.speculative.base import DraftCost

MODEL = small_config(num_layers=3)
PROMPTS = [4, 5, 6, 7, 4, 5, 6, 9, 4, 5], [1, 2] * 6
GREEDY = Draw(0.0, 4, 7)


def chosen(
    logits: np.ndarray, draws: list[Draw | None], ranks: int, ledgers: list[Ledger] | None = None
) -> list[Sampled]:  # (R, V) ->
    """What each rank has chosen, of which each has the logits of its own tokens."""
    vocabulary = logits.shape[1]

    def work(comm: Comm) -> Sampled:
        own = division(vocabulary, comm.size)[comm.rank]
        return choose_together(logits[:, own.start : own.stop], draws, comm, vocabulary)

    return run_ranks(ranks, work, ledgers=ledgers)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_the_best_of_the_ranks_is_the_best_of_all_tokens(ranks: int) -> None:
    """Greedy, and at temperatures. Catches noise of other token ids, a rank's scores that begin at its own largest
    logit, and token ids that are counted from the rank's first.
    """
    logits = np.random.default_rng(2).standard_normal((40, 23)).astype(np.float32) * 3
    draws: list[Draw | None] = [Draw((0.0, 0.3, 1.0, 2.5)[row % 4], row, 5 + row) for row in range(40)]
    truth = []
    for row, draw in zip(logits.astype(np.float64), draws, strict=True):
        assert draw
        drawn = row / (draw.temperature or 1) + gumbel(draw.seed, draw.position, 23)
        truth.append(np.argmax(drawn if draw.temperature else row))
    for found in chosen(logits, draws, ranks):
        assert found.tokens.tolist() == truth
        assert found.rows is None
        np.testing.assert_array_equal(found.low, logits.min(axis=1))
        np.testing.assert_array_equal(found.high, logits.max(axis=1))


@pytest.mark.parametrize("ranks", [2, 3])
def test_of_equal_logits_the_first_token_is_chosen(ranks: int) -> None:
    """As one process does. Catches the best token of the last rank, or of the one that came first."""
    logits = np.array([[0, 5, 1, 5, 5, 2, 5]], np.float32)
    assert [found.tokens.tolist() for found in chosen(logits, [GREEDY], ranks)] == [[1]] * ranks


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_logit_that_is_no_number_is_told_of_whichever_rank_has_it(rank: int) -> None:
    """The engine refuses such a row by its smallest and largest logit. Catches Python's min and max: they keep NaN only
    if it comes first.
    """
    logits = np.arange(9, dtype=np.float32)[None]
    logits[0, 3 * rank + 1] = np.nan
    for found in chosen(logits, [GREEDY], 3):
        assert np.isnan([found.low[0], found.high[0]]).all()


def test_only_rows_that_the_host_chooses_from_are_gathered() -> None:
    """Catches logits of other rows on the wire, ranks in another order, and a row that two choose from."""
    logits = np.random.default_rng(3).standard_normal((4, 23)).astype(np.float32)
    ledgers = [Ledger() for _ in range(3)]
    for found in chosen(logits, [GREEDY, None, GREEDY, None], 3, ledgers):
        assert (found.tokens == HOST).tolist() == [False, True, False, True]
        assert found.rows is not None
        np.testing.assert_array_equal(found.rows, logits * np.array([[0], [1], [0], [1]]))
    told, gathered = 4 * 4 * 8, 2 * 23 * 4  # four float64 of each row from each rank; the logits of two rows
    assert sum(one.bytes_sent for one in ledgers) == 2 * (3 * told + gathered)


def test_no_rank_sends_its_logits() -> None:
    """Catches bytes that grow with the vocabulary."""
    for vocabulary in (23, 2300):
        ledgers = [Ledger() for _ in range(3)]
        chosen(np.ones((5, vocabulary), np.float32), [GREEDY] * 5, 3, ledgers)
        assert [one.bytes_sent for one in ledgers] == [2 * 5 * 4 * 8] * 3


def test_all_ranks_choose_where_a_maximum_is_enough() -> None:
    """Catches a filter that no rank applies, since it sees its own logits alone."""
    assert draw_of(SamplingParams(temperature=0.5), [1, 2], [3], 9) == Draw(0.5, 9, 3)
    assert draw_of(SamplingParams(temperature=0), [1, 2], [3], 9) == Draw(0, 9, 3)
    for left in ({"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.1}, {"repetition_penalty": 1.1}, {"logprobs": 1}):
        assert draw_of(SamplingParams(temperature=0.5, **left), [1, 2], [3], 9) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("cost", [ALWAYS_DRAFT, None], ids=["free drafts", "as estimated"])
@pytest.mark.parametrize(("ranks", "stages"), [(2, 1), (1, 3)])
def test_drafts_that_were_drawn_by_themselves_are_judged_by_all_logits(
    ranks: int, stages: int, cost: DraftCost | None
) -> None:
    """Catches rows of which only the best token is known where verification=best-coupling needs all of them, and
    a number of drafts, on which its text depends, that follows from the first rank's part of the weights.
    """
    second = small_config(num_layers=1, hidden_size=12, intermediate_size=16)
    switches: dict[str, Any] = {"speculative": "draft", "draft_model": "x", "verification": "best-coupling"}

    def work(engine: Engine) -> list[list[int]]:
        return finish(engine, *(request(prompt, 12, temperature=1.0, seed=4) for prompt in PROMPTS))

    truth = work(make_engine(MODEL, second=second, draft_cost=cost, **switches))
    assert together(ranks, MODEL, work, stages=stages, second=second, cost=cost, **switches) == truth


def test_logits_that_are_all_the_same_are_no_overflow() -> None:
    """A head of zeros gives them. Catches a suspicion that is taken for a finding."""
    config = small_config(logit_scale=0.0)
    assert together(2, config, lambda engine: finish(engine, request(PROMPTS[0], 3))) == [[0, 0, 0]]
