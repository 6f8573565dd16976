"""Several guesses at once: branches of a sequence share its blocks, ride in the same batch, and the best one stays."""

from __future__ import annotations

import pytest
from helpers import always_guess, finish, make_engine, request, small_config

from tinyinfer.config import EngineConfig
from tinyinfer.sequence import Draft, Sequence
from tinyinfer.speculative import verify

CONFIG = small_config(windows=(7, None))
SECOND = small_config(num_layers=1, num_heads=2, num_kv_heads=1)
PROMPT = [3, 4, 5, 6, 7, 8, 9]


class Told:
    """A drafter that guesses what it is told: a function from a sequence to its candidates."""

    verify = staticmethod(verify)

    def __init__(self, guess) -> None:
        self.guess = guess

    def propose(self, sequences: list[Sequence]) -> None:
        for seq in sequences:
            seq.drafts, *seq.rivals = [[Draft(token) for token in tokens] for tokens in self.guess(seq)]

    def free(self, seq: Sequence) -> None:
        """Nothing is kept."""


def told(guess, **switches):
    engine = make_engine(CONFIG, kv_cache="paged", **{"block_size": 4, "num_blocks": 16} | switches)
    engine.drafter = engine.scheduler.drafter = Told(guess)
    return engine


def truth(new: int = 12) -> list[int]:
    return finish(make_engine(CONFIG, kv_cache="none"), request(PROMPT, new))[0]


def test_the_branch_that_was_right_stays_and_the_others_are_freed():
    """7 prompt tokens, then steps of 1 + 3 right guesses out of a rival. Catches the main branch's keys being kept."""
    right = truth()

    def guess(seq: Sequence) -> list[list[int]]:
        rest = right[len(seq.new_tokens) :][: min(3, seq.max_tokens - len(seq.new_tokens) - 1)]
        return [[(token + 1) % 31 for token in rest], rest, [(token + 2) % 31 for token in rest]]

    engine, seq = told(guess), request(PROMPT, 12)
    assert finish(engine, seq) == [right]
    assert engine.ledger.steps == 1 + 3  # 1 token, then 4 + 4 + 3
    assert (engine.ledger.drafts_proposed, engine.ledger.drafts_accepted) == (8, 8)
    assert (seq.proposed, seq.accepted) == (8, 8)
    assert engine.ledger.tokens_computed == 7 + 3 * (4 + 4 + 3)
    assert engine.cache.held_bytes == 0


def test_without_room_or_rows_rivals_are_left_out_and_nobody_is_preempted():
    """Two blocks of eight: the prompt and the answer fill them. Catches a preemption or an error for a guess's sake."""
    right = truth(8)

    def guess(seq: Sequence) -> list[list[int]]:
        rest = right[len(seq.new_tokens) :][: min(2, seq.max_tokens - len(seq.new_tokens) - 1)]
        return [rest[:1], [(token + 1) % 31 for token in rest]]

    for switches in ({"num_blocks": 2, "block_size": 8}, {"max_num_batched_tokens": 2}):
        engine = told(guess, **switches)
        assert finish(engine, request(PROMPT, 8)) == [right]
        assert engine.ledger.preemptions == 0
        assert engine.cache.held_bytes == 0


def test_a_failed_step_queues_no_branch():
    """Catches a branch that is put into the queue as if it were a request, and blocks that it keeps."""
    right = truth()
    engine = told(lambda seq: [[1], right[len(seq.new_tokens) :][:1], [2]])
    broken, forward = [3], engine.forward

    def failing(batch):
        logits = forward(batch)
        broken[0] -= 1
        if not broken[0]:
            raise MemoryError("no room")
        return logits

    engine.forward = failing
    seq = request(PROMPT, 12)
    with pytest.raises(MemoryError):
        finish(engine, seq)
    assert not engine.scheduler.busy
    assert engine.cache.held_bytes == 0
    assert finish(engine, request(PROMPT, 12)) == [right]


@pytest.mark.parametrize("batching", ["continuous", "static"])
@pytest.mark.parametrize("num_blocks", [10, 40])
@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("speculative", ["prompt-lookup", "draft", "self"])
def test_candidates_change_no_token(speculative, prefix_cache, num_blocks, batching):
    """Greedy and drawn, in batches, with a pool that forces preemption, against the plain engine alone."""
    prompts = [[1, 2, 3, 1, 2, 4, 1, 2], [1, 2, 3, 1, 2, 4, 5], [5] * 8, [1, 2, 3, 1, 2, 4, 1, 2]]

    def requests() -> list[Sequence]:
        drawn = {"temperature": 1.0}
        return [request(p, 14, seed=9, **(drawn if i % 2 else {})) for i, p in enumerate(prompts)]

    plain = make_engine(CONFIG, kv_cache="none", max_num_seqs=1)
    expected = [finish(plain, one)[0] for one in requests()]
    more = {"draft_model": "second"} if speculative == "draft" else {}
    engine = make_engine(
        CONFIG, second=SECOND if speculative == "draft" else None, kv_cache="paged", block_size=4,
        num_blocks=num_blocks, prefix_cache=prefix_cache, batching=batching, speculative=speculative,
        num_draft_candidates=3, max_num_batched_tokens=24, **more,
    )  # fmt: skip
    always_guess(engine)
    assert finish(engine, *requests()) == expected
    assert engine.ledger.drafts_proposed > 0
    assert num_blocks == 40 or engine.ledger.preemptions > 0
    held = engine.cache.held_bytes
    while engine.scheduler.prefixes.evict():
        held = engine.cache.held_bytes
    assert held == 0


@pytest.mark.parametrize(("switches", "cure"), [({"kv_cache": "paged"}, "choose prompt-lookup"),
                                                ({"speculative": "self"}, "add kv_cache=paged")])  # fmt: skip
def test_what_candidates_need_is_said(switches, cure):
    """Both halves of the switch alone make no sense."""
    with pytest.raises(ValueError, match=cure):
        EngineConfig(num_draft_candidates=2, **switches)
