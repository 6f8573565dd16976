"""A recording: what it says of each step is what the engine did, and stays as it was."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pytest

from tinyinfer import SamplingParams
from tinyinfer.engine.trace import StepTrace
from tinyinfer.views.player import StepPlayer
from tinyinfer.views.recording import RunRecorder, Step, record
from tinyinfer.views.seats import Seats

PAGED = {"kv_cache": "paged", "block_size": 4}
SMALL_POOL = PAGED | {"num_blocks": 12, "max_num_seqs": 3, "max_num_batched_tokens": 12}
SETTINGS: dict[str, dict[str, Any]] = {
    "none": {"kv_cache": "none"},
    "contiguous": {},
    "paged": PAGED,
    "preemption": SMALL_POOL,
    "prefixes": PAGED | {"prefix_cache": True, "num_blocks": 16},
    "packed": PAGED | {"kv_bits": 8, "kv_group_size": 8},
    "drafts": PAGED | {"speculative": "prompt-lookup"},
    "candidates": PAGED | {"speculative": "prompt-lookup", "num_draft_candidates": 2, "prefix_cache": True},
    "static": {"batching": "static", "max_num_seqs": 2},
    "dynamic": {"batching": "dynamic", "max_num_seqs": 2},
}
PROMPTS = ["The cat sat", "On a mat it", "ababababa", "Four dogs"]


def lengths(*most: int) -> list[SamplingParams]:
    """Greedy answers of exactly these lengths."""
    return [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True) for n in most]


@pytest.mark.parametrize("switches", SETTINGS.values(), ids=SETTINGS)
def test_a_recording_says_what_the_traces_say(tiny, switches):
    """Catches a number that is copied from another step, and a setting that cannot be recorded or drawn."""
    llm, params = tiny(**switches), lengths(9, 12, 6, 8)
    sequences = llm.sequences(PROMPTS, params)
    first = sequences[0].id
    traces = list(llm.run(sequences, watch=True))
    recording = record(tiny(**switches), PROMPTS, params)
    assert len(recording.steps) == len(traces)
    for step, trace in zip(recording.steps, traces, strict=True):
        assert step.turns == tuple(turn._replace(id=turn.id - first) for turn in trace.turns)
        assert step.ledger == trace.ledger
        assert [id + first for id in step.joined] == [seq.id for seq in trace.joined]
        assert [id + first for id in step.left] == [seq.id for seq in trace.left]
        assert [id + first for id in step.preempted] == [seq.id for seq in trace.preempted]
        assert tuple(id + first for id in step.waiting) == trace.waiting
        assert step.end - step.begin == pytest.approx(trace.seconds)
        assert step.rows == len(trace.batch)
        if trace.pool and not step.left:  # else blocks were freed behind the step
            used = {block.number for block in step.blocks}
            released = trace.pool[1] - trace.pool[0] - len(used)
            assert step.num_blocks == trace.pool[1]
            assert released == 0 or any(turn.drafts for turn in step.turns)
    assert StepPlayer(recording)._repr_html_()
    assert list(recording.answers) == [llm.output(seq).text for seq in sequences]
    assert recording.prompts == tuple(PROMPTS)
    assert recording.switches == switches


@pytest.mark.parametrize("switches", SETTINGS.values(), ids=SETTINGS)
def test_each_sequence_has_one_seat_and_each_block_the_owners_whose_tables_name_it(tiny, switches):
    """Catches a sequence on two seats, a seat that changes hands under its sequence, and a block without its owner."""
    recording = record(tiny(**switches), PROMPTS, lengths(9, 12, 6, 8))
    for step in recording.steps:
        seated = [id for id in step.seats if id is not None]
        assert sorted(seated) == sorted({turn.id for turn in step.turns} | set(step.idle))
        assert not set(seated) & set(step.waiting)
        owners = {block.number: set(block.owners) for block in step.blocks}
        for turn in step.turns:
            assert all(turn.id in owners[block.number] for block in turn.blocks)
        assert all(block.owners or block.kept for block in step.blocks)
        assert {block.number for block in step.blocks if block.kept} == {node.block for node in step.tree}
    for before, step in pairwise(recording.steps):
        for id in {*before.seats} & {*step.seats} - {None}:
            assert id in step.joined or before.seats.index(id) == step.seats.index(id)


def test_a_recording_is_plain_data(tiny):
    """Catches something of the engine inside: it would change with the next run, and could not be saved."""
    llm = tiny(**SETTINGS["prefixes"])
    recording = record(llm, PROMPTS, lengths(3, 3, 3, 3))
    saved = json.dumps(asdict(recording))
    record(llm, ["Something else"], lengths(5))
    assert json.dumps(asdict(recording)) == saved


def test_sequences_are_called_by_the_place_of_their_prompt(tiny):
    """Catches ids of an engine that has served others before: the same run would look different each time."""
    llm = tiny()
    recordings = [record(llm, PROMPTS, lengths(3, 4, 5, 6)) for _ in range(2)]
    assert [turn.id for turn in recordings[1].steps[0].turns] == [0, 1, 2, 3]
    assert recordings[0].steps[-1].turns == recordings[1].steps[-1].turns
    assert recordings[1].steps[0].begin == 0.0


def test_a_block_is_new_filled_and_shared_as_by_hand(tiny):
    """Seven bytes in blocks of four: one full block and one with three; the answer's first token fills it."""
    steps = record(tiny(**PAGED, num_blocks=8), ["seven b"], lengths(3)).steps
    shown = [[(block.number, block.owners, block.filled, block.new) for block in step.blocks] for step in steps]
    assert shown == [
        [(0, (0,), 4, True), (1, (0,), 3, True)],
        [(0, (0,), 4, False), (1, (0,), 4, False)],
        [(0, (0,), 4, False), (1, (0,), 4, False), (2, (0,), 1, True)],
    ]
    assert [step.num_blocks for step in steps] == [8, 8, 8]


def test_the_tree_grows_and_says_who_uses_it(tiny):
    """Two prompts that part in their second block; blocks stay after their sequences, and new ones are new once."""
    llm = tiny(**PAGED, prefix_cache=True, num_blocks=16, max_num_seqs=1)
    steps = record(llm, ["same one!", "same two!"], lengths(1, 1)).steps
    shown = [[(node.depth, node.text, node.users, node.new) for node in step.tree] for step in steps]
    assert shown == [
        [(0, "same", (0,), True), (1, " one", (0,), True)],
        [(0, "same", (1,), False), (1, " one", (), False), (1, " two", (1,), True)],
    ]


def test_a_block_of_the_tree_that_is_evicted_is_gone(tiny):
    """Catches a tree that only grows."""
    llm = tiny(**PAGED, prefix_cache=True, num_blocks=4, max_num_seqs=1)
    steps = record(llm, ["first of all", "then another"], lengths(1, 1)).steps
    assert [node.text for node in steps[1].tree][-3:] == ["then", " ano", "ther"]
    assert len(steps[1].tree) == 4
    assert steps[1].ledger.blocks_evicted == 2


def test_a_preempted_sequence_gives_its_seat_away(tiny):
    """Catches a seat that stays taken: the next sequence would find none."""
    steps = record(tiny(**SMALL_POOL), PROMPTS, lengths(9, 12, 6, 8)).steps
    preempted = [(i, id) for i, step in enumerate(steps) for id in step.preempted]
    assert preempted
    for i, id in preempted:
        assert id in steps[i].waiting
        assert id not in steps[i].seats
        assert id in steps[i - 1].seats


def test_a_finished_sequence_of_a_static_batch_keeps_its_seat(tiny):
    """Catches a seat that looks free while it is padded."""
    steps = record(tiny(batching="static", max_num_seqs=2), PROMPTS[:3], lengths(2, 5, 2)).steps
    assert [step.seats for step in steps[:5]] == [(0, 1)] * 5
    assert [step.turns[-1].phase for step in steps[2:5]] == ["padding"] * 3
    assert steps[5].seats == (2, None)


def test_a_sequence_without_rows_keeps_its_seat_and_its_blocks(tiny):
    """Two rows a step: a finished sequence of a static batch gets none while another one needs both."""
    llm = tiny(**PAGED, num_blocks=12, batching="static", max_num_seqs=3, max_num_batched_tokens=2)
    recording = record(llm, ["abcdef", "abc", "abcdefghi"], lengths(2, 6, 4))
    idle = [step for step in recording.steps if 0 in step.idle]
    assert idle
    for step in idle:
        assert step.seats[0] == 0
        filled = [(block.filled, block.size) for block in step.blocks if block.owners == (0,)]
        assert filled == [(4, 4), (3, 4)]  # six of the prompt, and the first of two new ones
    assert Seats(recording).count("idle") == sum(len(step.idle) for step in recording.steps)
    rest = sum(len(step.turns) - sum(turn.phase == "padding" for turn in step.turns) for step in recording.steps)
    assert f" {rest} of " in Seats(recording).summary()


def test_requests_that_arrive_later_wait_only_from_then_on(tiny):
    """The last one arrives after the others are done, and time goes on without a step until then."""
    steps = record(tiny(max_num_seqs=1), PROMPTS[:3], lengths(4, 4, 4), arrivals=[0, 0, 1.0]).steps
    assert [step.waiting for step in steps] == [(1,)] * 4 + [()] * 8
    assert steps[8].begin == pytest.approx(1.0)
    with pytest.raises(ValueError, match="2 prompts but 1 arrivals"):
        record(tiny(), PROMPTS[:2], arrivals=[0.0])


def test_words_of_tokens(tiny):
    """Half a character is no text: such a token is its number; so is one that no step mentions."""
    recording = record(tiny(speculative="prompt-lookup"), ["aaaaaaaaaa"], lengths(6))
    [byte] = tiny().tokenizer.encode("a")
    assert recording.word(byte) == "a"
    recording = record(tiny(), ["The cat sat"], lengths(9))
    assert "\ufffd" in recording.answers[0]  # bytes of random weights
    assert all("\ufffd" not in word for word in recording.words.values())
    assert recording.word(10**6) == "<1000000>"


def test_an_interrupt_between_two_steps_leaves_the_engine_idle(tiny, monkeypatch):
    """Catches a run that goes on waiting: a notebook keeps the traceback, and with it whatever the traceback holds."""
    llm, taken = tiny(**SETTINGS["prefixes"]), []
    step = RunRecorder.step

    def interrupted(self: RunRecorder, trace: StepTrace) -> Step:
        taken.append(trace)
        if len(taken) == 3:
            raise KeyboardInterrupt
        return step(self, trace)

    monkeypatch.setattr(RunRecorder, "step", interrupted)
    with pytest.raises(KeyboardInterrupt) as kept:
        record(llm, PROMPTS, lengths(9, 9, 9, 9))
    assert not llm.engine.scheduler.busy
    assert kept.tb
