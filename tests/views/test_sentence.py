"""A step in one sentence: what a screen reader says of it."""

from __future__ import annotations

from typing import Any

from tinyinfer.engine.trace import Turn
from tinyinfer.ledger import Ledger
from tinyinfer.views.recording import PoolBlock, Recording, Step
from tinyinfer.views.sentence import described, sentence


def turn(id: int, phase: str = "decode", rows: int = 1, **more: Any) -> Turn:
    """What a sequence did, with the fields that a sentence reads."""
    return Turn(**{"id": id, "phase": phase, "first": 0, "rows": rows, "again": 0, "cached": 0, "drafts": ()} | more)


def step(*turns: Turn, **more: Any) -> Step:
    """A step of these turns in which nothing else happened."""
    fields: dict[str, Any] = dict.fromkeys(["waiting", "joined", "left", "preempted", "blocks", "tree"], ())
    seats = tuple(turn.id for turn in turns)
    return Step(**fields | {"turns": turns, "seats": seats, "num_blocks": 0, "ledger": Ledger(), "begin": 0.0,
                            "end": 1.0} | more)  # fmt: skip


def test_the_step_of_a_full_engine():
    """Catches a step that is counted from 0, and a verb that does not fit its subject."""
    blocks = tuple(PoolBlock(i, (0,), 4, 4, kept=False, new=False) for i in range(7))
    one = step(turn(0), turn(1), turn(2, "prefill", 16), joined=(2,), blocks=blocks, num_blocks=12)
    recording = Recording((one,) * 12, (), (), {}, 4, {})
    assert sentence(recording, 4) == (
        "Step 5 of 12: sequences 0 and 1 decode; sequence 2 joins with 16 rows of its prompt; 7 of 12 blocks in use."
    )


def test_each_thing_that_can_happen_has_words():
    """Catches an event that a step's sentence leaves out."""
    assert described(step(turn(3))) == "sequence 3 decodes."
    assert described(step(turn(0), turn(1), turn(2))) == "sequences 0, 1 and 2 decode."
    assert described(step(turn(0, "prefill", 1, cached=1), joined=(0,))) == (
        "sequence 0 joins with 1 row of its prompt and 1 position from the prefix cache."
    )
    assert described(step(turn(0, "prefill", 8))) == "sequence 0 computes 8 rows more of its prompt."
    assert described(step(turn(0, "recompute", 8), joined=(0,))) == "sequence 0 joins again and computes 8 rows again."
    assert described(step(turn(0, "recompute", 2))) == "sequence 0 computes 2 rows again."
    assert described(step(turn(1), turn(0, "padding"))) == "sequence 1 decodes; sequence 0 is padding."
    assert described(step(turn(1), seats=(0, 1))) == "sequence 1 decodes; sequence 0 has no rows."
    assert described(step(turn(1), left=(1,), waiting=(2, 3), preempted=(3,), ledger=Ledger(blocks_evicted=1))) == (
        "sequence 3 is preempted; sequence 1 decodes; sequence 1 leaves; sequences 2 and 3 wait; "
        "the prefix cache evicts 1 block."
    )


def test_drafts_and_candidates():
    """Catches accepted drafts that are counted among other sequences' drafts."""
    drafted = turn(0, drafts=(5, 6, 7), tokens=(5, 6, 9), rows=4)
    other = turn(0, "candidate", rows=4, drafts=(8, 6, 7))
    assert described(step(drafted, turn(1), other, seats=(0, 1))) == (
        "sequence 1 decodes; sequence 0 decodes with 2 of 3 drafts accepted; 1 more candidate is verified."
    )
    assert "2 more candidates are verified" in described(step(drafted, other, other, seats=(0,)))


def test_many_sequences_are_counted():
    """Catches a sentence of a whole paragraph, for a batch of sixteen."""
    plain = [turn(id) for id in range(7)]
    drafted = [turn(id, drafts=(5, 6), tokens=(5, 9)) for id in range(10, 17)]
    prompts = [turn(id, "prefill", 10, cached=4) for id in range(20, 27)]
    again = [turn(id, "recompute", 3) for id in range(30, 37)]
    assert described(step(*plain, *drafted, *prompts, *again)) == (
        "7 sequences decode; 7 sequences decode with 7 of 14 drafts accepted; 7 sequences compute 70 rows of their "
        "prompts and 28 positions from the prefix cache; 7 sequences compute 21 rows again."
    )
