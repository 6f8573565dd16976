"""Scoring: a prompt's own log-probabilities are those of `score`, the prompt is computed once, and others go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyinfer import LLM, SamplingParams
from tinyinfer.engine import scoring
from tinyinfer.errors import SwitchError
from tinyinfer.request import Request, TokenLogprob

PROMPT = [5 + 7 * i % 40 for i in range(30)]
PAGED: dict[str, Any] = {"kv_cache": "paged", "block_size": 4}
SWITCHES: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "no cache": {"kv_cache": "none"},
    "paged": PAGED,
    "prefixes": {**PAGED, "prefix_cache": True},
    "chunks": {**PAGED, "max_num_batched_tokens": 3},
    "static": {"batching": "static"},
    "lookup": {"speculative": "prompt-lookup"},
}


@pytest.fixture(autouse=True)
def pieces_of_8(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompts here are short, and shall have several pieces."""
    monkeypatch.setattr(scoring, "ROWS", 8)


@pytest.fixture(scope="module")
def llm(golden_folder: Callable[[str], Path]) -> LLM:
    return LLM(str(golden_folder("llama")))


def under(llm: LLM, **switches: Any) -> LLM:
    """The same weights under another engine."""
    return llm.with_engine(llm.engine_config.__class__(**switches))


def asked(max_tokens: int, **more: Any) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, prompt_logprobs=2, ignore_eos=True, **more)


def numbers(found: list[TokenLogprob | None] | None) -> list[float]:
    """The log-probabilities of all tokens but the first, which has none."""
    assert found is not None
    assert found[0] is None
    return [one.logprob for one in found[1:] if one is not None]


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_the_scores_are_those_of_score_and_the_answer_is_the_same(llm: LLM, switches: dict[str, Any]) -> None:
    """Also of a prompt that is known already: the tree has keys and values, and no logits. Catches scores that are a
    token off, and pieces that lose what lies between them.
    """
    other, wanted = under(llm, **switches), llm.score(PROMPT)
    [answer] = llm.generate([PROMPT], SamplingParams(max_tokens=6, ignore_eos=True))
    for _ in range(2):
        [out] = other.generate([PROMPT], asked(6))
        assert numbers(out.prompt_logprobs) == pytest.approx(wanted, abs=1e-4)
        assert [one.token for one in out.prompt_logprobs or [] if one] == PROMPT[1:]
        assert out.token_ids == answer.token_ids


def test_the_best_stand_beside_each_token(llm: LLM) -> None:
    rows = llm.logits(PROMPT)  # (30, V)
    [out] = llm.generate([PROMPT], asked(1))
    best = [list(np.argsort(-row, kind="stable")[:2]) for row in rows[:-1]]
    assert [list(one.top) for one in out.prompt_logprobs or [] if one] == best
    assert llm.generate([PROMPT], SamplingParams(max_tokens=1))[0].prompt_logprobs is None


def test_the_prompt_is_computed_once_and_no_more_logits_are_held_than_a_piece_has(llm: LLM) -> None:
    """By the ledger. The head's rows: all but the last in pieces of 8, and one for each new token. Catches a prompt
    that is scored and then computed for its answer.
    """
    other = under(llm, **PAGED)
    before = other.ledger.copy()
    other.generate([PROMPT], asked(6))
    spent = other.ledger - before
    assert (spent.tokens_computed, spent.tokens_recomputed, spent.tokens_cached) == (30 + 5, 0, 0)
    assert (spent.logit_rows, spent.steps) == (30 + 5, 4 + 6)


@pytest.mark.parametrize("n", [1, 3])
def test_without_an_answer_only_the_scores_are_computed(llm: LLM, n: int) -> None:
    """max_tokens=0. Catches a token that was not asked for, and blocks that stay behind."""
    other = under(llm, **PAGED)
    before = other.ledger.copy()
    [out] = other.generate([PROMPT], asked(0, n=n))
    assert [(one.token_ids, one.text, one.finish_reason) for one in out.outputs] == [([], "", "length")] * n
    assert [numbers(one.prompt_logprobs) for one in out.outputs] == [numbers(out.prompt_logprobs)] * n
    assert (other.ledger - before).tokens_computed == 29
    assert other.engine.cache.blocks_in_use == 0
    assert other.generate([[7]], asked(0))[0].prompt_logprobs == [None]


def test_a_prompt_as_long_as_the_context_can_be_scored(llm: LLM) -> None:
    """No token needs room behind it. Catches the last token of a text that is left out."""
    whole = [5 + i % 40 for i in range(llm.max_model_len)]
    [out] = llm.generate([whole], asked(0))
    assert numbers(out.prompt_logprobs) == pytest.approx(llm.score(whole), abs=1e-4)


def test_branches_share_the_scores_and_the_prompt(llm: LLM) -> None:
    other = under(llm, **PAGED)
    before = other.ledger.copy()
    [out] = other.generate([PROMPT], asked(4, n=3, temperature=1.0, seed=3))
    assert (other.ledger - before).tokens_computed == 30 + 2 + 3 * 3
    assert all(numbers(one.prompt_logprobs) == numbers(out.prompt_logprobs) for one in out.outputs)
    single = [llm.generate([PROMPT], SamplingParams(max_tokens=4, ignore_eos=True, temperature=1.0, seed=3 + i))
              for i in range(3)]  # fmt: skip
    assert [one.token_ids for one in out.outputs] == [one.token_ids for [one] in single]


@pytest.mark.parametrize("switches", [{}, PAGED], ids=["contiguous", "paged"])
def test_branches_of_one_token_compute_the_prompt_once(llm: LLM, switches: dict[str, Any]) -> None:
    """Catches branches that join one a step: each has ended before the next comes, and the prompt is computed n times.
    """
    other = under(llm, **switches)
    before = other.ledger.copy()
    other.generate([PROMPT], asked(1, n=4))
    spent = other.ledger - before
    assert (spent.tokens_computed, spent.steps) == (30 + 3, 4 + 1)


def test_others_go_on_between_two_pieces(llm: LLM) -> None:
    """A turn is a piece and a step. Catches a long prompt whose scores hold up all callers."""
    other = under(llm, **PAGED)
    [talking] = other.sequences([[3, 4]], SamplingParams(max_tokens=20, ignore_eos=True))
    [scored] = other.sequences([PROMPT], asked(0))
    known = [(len(talking.new_tokens), len(scored.progress.scores)) for _ in other.run([talking, scored])]
    assert known[:4] == [(1, 8), (2, 16), (3, 24), (4, 29)]


def test_a_prompt_is_scored_while_a_request_is_not_yet_due(llm: LLM) -> None:
    """Catches an engine that scores a piece and then waits for the other request to arrive."""
    other = under(llm, **PAGED)
    [late] = other.sequences([[3, 4]], SamplingParams(max_tokens=2))
    late.delay_by(20.0)
    due = Request(late, other._loop)
    other._loop.submit([due])
    assert len(numbers(other.submit(PROMPT, asked(0)).result().prompt_logprobs)) == 29
    assert not late.new_tokens
    due.cancel()


def test_a_prompt_whose_room_is_needed_is_computed_again_with_the_same_scores(llm: LLM) -> None:
    """A pool of 12 blocks: between two pieces an answer grows into the scored prompt's. Catches scores that are lost,
    given twice, or of a prompt without its beginning.
    """
    other, wanted = under(llm, **PAGED, num_blocks=12), llm.score(PROMPT)
    plain = [SamplingParams(max_tokens=n, ignore_eos=True) for n in (36, 3)]
    alone = [llm.generate([prompt], one)[0].token_ids for prompt, one in zip(([3, 4], PROMPT), plain, strict=True)]
    found = other.generate([[3, 4], PROMPT], [plain[0], asked(3)])
    assert numbers(found[1].prompt_logprobs) == pytest.approx(wanted, abs=1e-4)
    assert [out.token_ids for out in found] == alone
    assert other.engine.cache.blocks_in_use == 0


@pytest.mark.parametrize("pieces", range(6))
def test_a_scored_request_that_is_cancelled_leaves_nothing(llm: LLM, pieces: int) -> None:
    """Before, between and behind its pieces. Catches blocks of a prompt that no request has any more."""
    other = under(llm, **PAGED)
    [talking] = other.sequences([[3, 4]], SamplingParams(max_tokens=12, ignore_eos=True))
    run, request = other.run([talking]), other.submit(PROMPT, asked(50))
    for _ in range(pieces):
        next(run)
    request.cancel()
    assert request.result().finish_reason == "abort"
    for _ in run:
        continue
    assert other.engine.cache.blocks_in_use == 0
    assert not other.engine.scheduler.kept


def test_an_error_in_a_piece_ends_that_request_alone(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an engine that dies of it, and a request that waits for ever."""
    other = under(llm, **PAGED)

    def failing(*more: Any) -> Any:
        raise RuntimeError("no logits")

    with monkeypatch.context() as patch:
        patch.setattr(other.engine, "logits", failing)
        with pytest.raises(RuntimeError, match="no logits"):
            other.submit(PROMPT, asked(3)).result()
        assert len(other.generate([PROMPT], SamplingParams(max_tokens=3, ignore_eos=True))[0].token_ids) == 3
    assert numbers(other.generate([PROMPT], asked(0))[0].prompt_logprobs) == pytest.approx(llm.score(PROMPT), abs=1e-4)


@pytest.mark.parametrize("more", [{"prompt_logprobs": 101}, {"prompt_logprobs": True}, {"max_tokens": 0}])
def test_what_cannot_be_scored_is_refused(more: dict[str, Any]) -> None:
    """No answer at all is for scores alone."""
    with pytest.raises(SwitchError, match="must be a whole number"):
        SamplingParams(**more)
