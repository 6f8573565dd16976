"""What bars tokens on ranks and replicas: the leader alone knows it, a replica makes it anew from the request."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from divided import together
from guided_steps import guided, in_step
from helpers import ALWAYS_DRAFT, ends_of_two, finish, make_engine, small_config
from replicated import MODEL as REPLICATED
from replicated import Threads

from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine
from tinyinfer.errors import GrammarError
from tinyinfer.sequence import Sequence

MODEL = small_config()
DRAFTS = {"speculative": "prompt-lookup", "cost": ALWAYS_DRAFT}
PAGED = {"kv_cache": "paged", "block_size": 3, "prefix_cache": True, "max_num_batched_tokens": 6}
PROMPTS = [[3, 4, 5, 6] * 3, [1, 2], [9, 8, 7, 9, 8, 7]]


def asked(size: int, **params: Any) -> list[Sequence]:
    limits = [{"most": 7}, {"least": 3}, {"most": 30}]
    biased = guided([5, 6], 6, size, [3], min_tokens=3, logit_bias={3: 50.0}, seed=4, **params)
    return [biased] + [guided(prompt, 10, size, [size] if n == 1 else [], limits[n], seed=n, **params)
                       for n, prompt in enumerate(PROMPTS)]  # fmt: skip


def answers(engine: Engine, **params: Any) -> list[tuple[list[int], str | None]]:
    """The tokens and ends; every matcher stands where its sequence does, at the end."""
    sequences = asked(engine.model.config.vocab_size - 2, **params)
    for _ in engine.run(sequences):
        continue
    assert all(map(in_step, sequences[1:]))
    return [(seq.new_tokens, seq.progress.finish_reason) for seq in sequences]


@pytest.mark.parametrize(("ranks", "stages"), [(2, 1), (1, 2)], ids=["tensor", "pipeline"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("switches", [{}, DRAFTS], ids=["plain", "drafts"])
def test_ranks_say_what_one_process_says(ranks: int, stages: int, temperature: float, switches: dict[str, Any]) -> None:
    """Catches a rank that chooses by its own logits, which know of no grammar."""
    plain = answers(make_engine(MODEL), temperature=temperature)
    work = partial(answers, temperature=temperature)
    assert together(ranks, MODEL, work, stages=stages, **switches) == plain
    assert (len(plain[0][0]), plain[0][0][-1]) == (4, 3)


@pytest.mark.parametrize(("ranks", "stages"), [(2, 1), (1, 2), (2, 2)], ids=["tensor", "pipeline", "both"])
@pytest.mark.parametrize("switches", [{}, DRAFTS, PAGED], ids=["plain", "drafts", "paged"])
def test_a_dead_end_on_ranks_ends_its_request_alone(ranks: int, stages: int, switches: dict[str, Any]) -> None:
    """And the ranks stay in step: the next requests say the same again. Catches a step that is rolled back for one
    request, and a rank that keeps rows which the leader's cache has given back."""

    def requests() -> list[Any]:
        stuck = [guided(prompt, 9, MODEL.vocab_size - 2, [], {"fails_at": n}) for n, prompt in enumerate(PROMPTS)]
        return [*asked(MODEL.vocab_size - 2), *stuck]

    def work(engine: Engine) -> list[Any]:
        return ends_of_two(engine, requests)

    plain = work(make_engine(MODEL))
    assert [(len(tokens), ended) for tokens, ended, _ in plain[4:7]] == [(n, "abort") for n in range(3)]
    assert all("too large" in why for _, _, why in plain[4:7])
    assert plain[-1] == 0
    assert together(ranks, MODEL, work, stages=stages, **switches) == plain


def test_replicas_say_what_one_process_says() -> None:
    """A replica gets what bars tokens by its name, and makes it anew. Catches one that chooses among all tokens."""
    plain = answers(make_engine(REPLICATED), temperature=1.0)
    threads = Threads(2)
    _, engine = threads.start(EngineConfig(data_parallel_size=2))
    try:
        assert answers(engine, temperature=1.0) == plain
        assert all(ledger.tokens_computed for ledger in threads.ledgers)
        others = asked(20)
        with pytest.raises(GrammarError, match="too large"):
            finish(engine, guided([1, 2], 9, 20, [], {"fails_at": 2}), *others)
        assert all(seq.progress.preemptions == 0 for seq in others)
        assert all(ledger.preemptions == 0 for ledger in threads.ledgers)
    finally:
        threads.end()
