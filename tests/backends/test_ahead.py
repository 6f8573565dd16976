"""Running ahead is never wrong: whatever comes in between, the tokens and the ledger are the reference's.

A forgotten step has written keys and values already. Each test makes another reason to forget one, checks that steps
were forgotten at all, and compares the whole text with NumPy's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import check_blocks, finish, longrope, remade, request, small_config
from on_device import agree, ask, counted, cpu_engine, gpu_engine

from tinyinfer.backends.kernels.ahead import MOST
from tinyinfer.engine.engine import Engine
from tinyinfer.measure.roofline import Machine
from tinyinfer.measure.simulated_clock import SimulatedClock
from tinyinfer.sequence import Sequence as Request

MODEL = small_config(windows=(5, None))
A, B, C = ([(step * i + i // 3) % 31 for i in range(24)] for step in (7, 11, 5))
PAGED: dict[str, Any] = {"kv_cache": "paged", "block_size": 4}
SHARED = PAGED | {"prefix_cache": True}
WORK = [(A[:9], 14), (B[:6], 12), (A[:9], 9), (C[:3], 13)]


def forgotten(engine: Engine) -> list[int]:
    """A list that grows by the number of steps which were launched in vain, whenever some were."""
    found, step = [], engine.compiled.forward  # type: ignore[union-attr]

    def forward(batch: Any) -> Any:
        before = engine.compiled.ahead  # type: ignore[union-attr]
        logits = step(batch)
        if before is not None and before.steps and engine.compiled.ahead is not before:  # type: ignore[union-attr]
            found.append(len(before.steps))
        return logits

    engine.compiled.forward = forward  # type: ignore[union-attr,method-assign]
    return found


def both(*work: Any, during: Callable[[Engine, int, list[Request]], None], params: Any = (), **switches: Any) -> Engine:
    """Runs the work on both devices, step by step, with something done after each step; asserts equal texts."""
    texts, engines = [], []
    for build in (cpu_engine, gpu_engine):
        engine = build(MODEL, **switches)
        lost = forgotten(engine) if engine.compiled else []
        sequences = ask(work, *params)
        for n, _ in enumerate(engine.run(sequences)):
            during(engine, n, sequences)
        texts.append([(seq.new_tokens, seq.progress.finish_reason) for seq in sequences])
        engines.append(engine)
    assert texts[1] == texts[0]
    assert counted(engines[1].ledger) == counted(engines[0].ledger)
    assert lost, "no step was forgotten, so the test says nothing"
    return engines[1]


def nothing(engine: Engine, step: int, sequences: list[Request]) -> None:
    """Leaves the engine alone."""


@pytest.mark.parametrize("switches", [{}, pytest.param(PAGED, marks=pytest.mark.cuda)], ids=["contiguous", "paged"])
def test_trust_grows_with_each_step_that_was_foreseen(switches):
    """From none after a prompt up to MOST; blocks are foreseen, so their edges end nothing."""
    engine = gpu_engine(MODEL, **switches)
    lengths = [len(engine.compiled.ahead.steps) for _ in engine.run(ask([(A[:4], 30)])) if engine.compiled.ahead]
    assert lengths[:6] == [0, 1, 2, 4, 8, 8]
    assert max(lengths) == MOST


@pytest.mark.cuda
def test_most_steps_of_many_sequences_are_foreseen():
    """Seven lengths, so that one sequence or another needs a block in every step: catches tables that stay behind."""
    work = [(A[: 3 + n], 25) for n in range(7)]
    engine = gpu_engine(MODEL, **PAGED, max_num_seqs=8)
    steps, forward = [], engine.compiled.forward

    def watch(batch: Any) -> Any:
        before = engine.compiled.ahead
        logits = forward(batch)
        steps.append(before is not None and engine.compiled.ahead is before)
        return logits

    engine.compiled.forward = watch
    assert finish(engine, *ask(work)) == finish(cpu_engine(MODEL, **PAGED), *ask(work))
    assert sum(steps) >= len(steps) - 3


def test_no_step_is_launched_behind_the_last_token():
    """Catches a step for a sequence that is over: the launches are as many as the steps that were asked for."""
    engine = gpu_engine(MODEL, decode="kernels")
    finish(engine, *ask([(A[:4], 12)]))
    [bucket] = engine.compiled.buckets.values()
    assert engine.ledger.steps == 12
    assert bucket.results.fetched == 11


@pytest.mark.cuda
def test_a_sequence_ends_by_a_stop_string():
    """The host alone sees that the text is over; the steps behind are for nothing, and for the others still right."""
    [plain] = finish(cpu_engine(MODEL), *ask([(A[:9], 14)]))
    stop = {"stop": [f" {plain[5]} "]}
    both((A[:9], 14), (B[:6], 14), (C[:5], 3), (B[:4], 9), params=[stop, {}], during=nothing, max_num_seqs=2)


@pytest.mark.cuda
def test_preempted():
    """A sequence loses its blocks while steps that write into them are on their way."""
    engine = both(*WORK, during=nothing, **SHARED, num_blocks=12)
    assert engine.ledger.preemptions > 0


@pytest.mark.cuda
def test_aborted():
    """A sequence is aborted, its blocks go to one that joins, and the others go on."""

    def during(engine: Engine, step: int, sequences: list[Request]) -> None:
        if step == 5:
            engine.abort(sequences[0])

    both((A[:9], 20), (B[:6], 20), (C[:7], 20), during=during, **PAGED, num_blocks=14, max_num_seqs=2)


@pytest.mark.cuda
def test_the_pools_grow():
    """A pool made for one sequence grows for the next: from then on, nothing may be written into the old arrays."""

    def during(engine: Engine, step: int, sequences: list[Request]) -> None:
        pools.add(engine.cache.num_blocks)
        if step == 6:
            engine.add(sequences[1], 0.0)

    pools: set[int] = set()
    engine, texts = None, []
    for build in (cpu_engine, gpu_engine):
        engine, sequences = build(MODEL, **PAGED), ask([(A[:5], 25), (B[:20], 20)])
        lost = forgotten(engine) if engine.compiled else []
        for step, _ in enumerate(engine.run(sequences[:1])):
            during(engine, step, sequences)
        finish(engine, sequences[1])
        texts.append([seq.new_tokens for seq in sequences])
    assert len(pools) > 1
    assert texts[1] == texts[0]
    assert lost


@pytest.mark.cuda
@pytest.mark.parametrize("speculative", ["prompt-lookup", "self", "draft"])
def test_drafts_and_their_candidates(speculative):
    """Candidates fork a sequence and share its last block; several rows of one sequence come and go."""
    work = [([1, 2, 3] * 4, 14), (A[:10], 12)]
    named: dict[str, Any] = {"draft_model": "random", "second": MODEL} if speculative == "draft" else {}
    agree(MODEL, work, speculative=speculative, **named, **SHARED, num_draft_candidates=3)


@pytest.mark.cuda
def test_a_step_fails():
    """An error in the middle of a step: the sequences are computed again, and nothing of before is believed."""

    def during(engine: Engine, step: int, sequences: list[Request]) -> None:
        if step == 7:
            with pytest.raises(KeyboardInterrupt), engine.scheduler.change():
                raise KeyboardInterrupt

    both((A[:9], 20), (B[:9], 20), during=during, max_model_len=40)


@pytest.mark.cuda
def test_the_rotations_change():
    """At longrope's boundary a sequence is computed again with other rotations; no step may run across it."""
    model = small_config(rope=(longrope(12),) * 2)
    engine = agree(model, [(A[:5], 18), (B[:9], 12)])
    assert engine.ledger.tokens_recomputed > 0
    engine = gpu_engine(model)
    lost = forgotten(engine)
    finish(engine, *ask([(A[:5], 18)]))
    assert not lost, "no step was launched across the boundary"


@pytest.mark.cuda
def test_two_engines_share_a_device():
    """Each has its own buffers, and steps of both take turns on the same device."""
    engines = [gpu_engine(MODEL), gpu_engine(MODEL, **SHARED)]
    runs = [(ask([(A[:5], 12), (B[:4], 9)]), engine) for engine in engines]
    steps = [engine.run(sequences) for sequences, engine in runs]
    while any(next(run, None) for run in steps):
        continue
    expected = finish(cpu_engine(MODEL), *ask([(A[:5], 12), (B[:4], 9)]))
    assert [[seq.new_tokens for seq in sequences] for sequences, _ in runs] == [expected] * 2


@pytest.mark.cuda
def test_random_arrivals():
    """Requests of all kinds come at random, with and without ends of their own, for as many steps as it takes."""
    rng = np.random.default_rng(3)
    for seed in range(2):
        work = [(rng.integers(0, 31, rng.integers(1, 14)).tolist(), int(rng.integers(1, 16))) for _ in range(10)]
        params: list[dict[str, Any]] = [
            {"delay": float(rng.integers(0, 9)), "eos": rng.integers(0, 31, 2).tolist(),
             "temperature": float(rng.choice([0.0, 0.9])), "seed": seed}
            for _ in work
        ]  # fmt: skip
        texts = []
        for build in (cpu_engine, gpu_engine):
            engine = build(MODEL, **SHARED, num_blocks=15, max_num_seqs=3, max_num_batched_tokens=9)
            engine = remade(engine, Engine, SimulatedClock(engine.ledger, Machine(1e6, 1e6)))
            sequences = [request(prompt, n, **one) for (prompt, n), one in zip(work, params, strict=True)]
            for _ in engine.run(sequences):
                check_blocks(engine, engine.scheduler.prefixes, sequences)  # type: ignore[arg-type]
            texts.append([seq.new_tokens for seq in sequences])
        assert texts[1] == texts[0]
