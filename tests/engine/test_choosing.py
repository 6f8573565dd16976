"""Tokens that the backend chose count as if the host had chosen them; what only the host can choose is left to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import ALWAYS_DRAFT, finish, make_engine, request, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.engine import Engine
from tinyinfer.ledger import Ledger
from tinyinfer.model.interfaces import HOST, Sampled
from tinyinfer.sampling import choose
from tinyinfer.sequence import Draft, make_batch

CONFIG = small_config()


class Chooses(NumpyOps):
    """A backend that chooses every token by itself, but for rows with penalties or log-probabilities."""

    left: list[int]  # how many rows of each step were left to the host
    copied: list[tuple[int, ...]]  # the shapes of what the host asked for

    def sample(self, logits, wanted):
        plain = [params.logprobs is None and params.frequency_penalty == 0 for params, *_ in wanted]
        tokens = [
            choose(row, *one).token if mine else HOST for row, one, mine in zip(logits, wanted, plain, strict=True)
        ]
        self.left.append(plain.count(False))
        low, high = logits.min(axis=1), logits.max(axis=1)
        return Sampled(np.array(tokens, dtype=np.int64), low, high)

    def to_host(self, array):
        self.copied.append(array.shape)
        return super().to_host(array)


def on_device(switches: dict[str, Any]) -> tuple[Engine, Chooses]:
    ops = Chooses(Ledger())
    ops.left, ops.copied = [], []
    return make_engine(CONFIG, ops=ops, draft_cost=ALWAYS_DRAFT, **switches), ops


def work() -> list:
    repeated = [3, 4, 5, 6] * 3
    return [
        request(repeated, 9), request([7, 8, 9], 6, temperature=0.8, seed=3), request(repeated, 5, logprobs=2),
        request([5] * 9, 7, frequency_penalty=0.5), request([1, 2] * 4, 8, temperature=0.3, seed=1, top_k=4),
    ]  # fmt: skip


PAGED = {"kv_cache": "paged", "block_size": 4}
SWITCHES: list[dict[str, Any]] = [
    {}, {"max_num_batched_tokens": 5}, {"speculative": "prompt-lookup"}, {"speculative": "self", "draft_layers": 1},
    PAGED | {"speculative": "self", "draft_layers": 1, "num_draft_candidates": 3},
    {"speculative": "self", "draft_layers": 1, "verification": "best-coupling"},
]  # fmt: skip


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_who_chooses_changes_no_token(switches):
    """Catches drafts that are accepted behind a rejected one, rows of one span read for another's, and a token of the
    backend where drafts were drawn by themselves."""
    engine, _ = on_device(switches)
    assert finish(engine, *work()) == finish(make_engine(CONFIG, draft_cost=ALWAYS_DRAFT, **switches), *work())


def test_only_what_the_host_must_choose_from_is_copied():
    """Catches a copy of all logits for one row with log-probabilities, and several copies in a step."""
    engine, ops = on_device({})
    finish(engine, *work())
    rows = [shape[0] for shape in ops.copied if shape[1:] == (CONFIG.vocab_size,)]
    assert rows == [left for left in ops.left if left]
    assert sum(rows) == 5 + 7


def test_a_row_is_wanted_as_if_the_drafts_before_it_were_accepted():
    """Catches a penalty that does not see a draft, and noise of the wrong position."""
    seq, other = request([3, 4, 5], 9, temperature=1.0, seed=7), request([6], 9)
    seq.set_drafts([Draft(8), Draft(9)])
    batch = make_batch([(seq, 1, 4), (other, 0, 1)])
    assert [new for _, _, new, _ in batch.wanted] == [[], [8], [8, 9], []]
    assert [seed for *_, seed in batch.wanted] == [7, 7, 7, other.request.seed]
    assert len(batch.wanted) == len(batch.logit_rows)
