"""Figures of requests and runs, worked out by hand from times that are given, and once on a simulated clock."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from helpers import ALWAYS_DRAFT, longrope, make_engine, request, small_config

from tinyinfer.engine import metrics
from tinyinfer.engine.metrics import Spread, request_metrics, run_metrics
from tinyinfer.engine.trace import StepTrace
from tinyinfer.ledger import Ledger
from tinyinfer.measure.roofline import Machine, predict_seconds
from tinyinfer.measure.simulated_clock import SimulatedClock
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Batch, Sequence, Span


def ended(
    prompt: int, arrival: float, started: float, times: list[float], *, cached: int = 0, proposed: int = 0,
    accepted: int = 0, preemptions: int = 0,
) -> Sequence:  # fmt: skip
    """A sequence with a history."""
    seq = request(range(1, prompt + 1), max_tokens=max(1, len(times)), delay=arrival)
    seq.arrive(0.0)
    seq.start(started, cached)
    for time in times:
        seq.append(Choice(7), time)
    seq.record_verification(proposed, accepted)
    for _ in range(preemptions):
        seq.record_preemption()
    return seq


def step(end: float, held: int = 0, wasted: int = 0, spans: tuple[Span, ...] = (), **others: Any) -> StepTrace:
    """A step that only says when it ended and what the cache held then."""
    batch = Batch(np.arange(0), np.arange(0), np.arange(0), spans)
    new = [[Choice(7)] * span.wanted for span in spans]
    return StepTrace(batch, new, (end - 1, end, end), others.pop("ledger", Ledger()), held, wasted, **others)


def test_a_request_by_hand():
    """Arrived at 1, began at 3, tokens at 4, 6 and 6.5. Catches: a queue left out of TTFT, a rate of n, not n - 1."""
    others = {"cached": 4, "proposed": 8, "accepted": 6, "preemptions": 2}
    found = request_metrics(ended(10, 1.0, 3.0, [4.0, 6.0, 6.5], **others))
    assert (found.arrival_s, found.queue_s, found.ttft_s, found.e2e_s) == (1.0, 2.0, 3.0, 5.5)
    assert (found.tpot_s, found.longest_gap_s, found.generation_tps) == (1.25, 2.0, 0.8)
    assert (found.prompt_tokens, found.generated_tokens, found.cached_tokens, found.preemptions) == (10, 3, 4, 2)
    assert (found.prompt_tps, found.acceptance_rate) == (6 / 1, 0.75), "the time in the queue computes nothing"


def test_a_request_without_two_tokens_has_no_pace():
    """Catches a division by zero, and 0 where nothing was measured."""
    one, none = request_metrics(ended(3, 0.0, 0.0, [2.0])), request_metrics(ended(3, 0.0, 0.0, []))
    assert (one.ttft_s, one.tpot_s, one.longest_gap_s, one.generation_tps) == (2.0, None, None, None)
    assert (none.queue_s, none.ttft_s, none.e2e_s, none.prompt_tps, none.acceptance_rate) == (None,) * 5


def test_percentiles_by_hand():
    """1 ... 101: the p-th percentile is p + 1. Catches p90 for p99, an unsorted list, a missing value taken for 0."""
    values = [float(i) for i in range(101, 0, -1)]
    assert metrics.spread([*values, None]) == Spread(mean=51.0, p50=51.0, p90=91.0, p99=100.0, max=101.0)
    assert metrics.spread([2.0]) == Spread(2.0, 2.0, 2.0, 2.0, 2.0)
    assert metrics.spread([None]) is None


def test_a_run_by_hand():
    """Two requests that overlap, and one that never began. Catches: a mean of the requests' throughputs, time counted
    from the first token, latencies of a request without tokens."""
    a = ended(10, 1.0, 1.0, [2.0, 3.0, 5.0], proposed=2, accepted=1)
    b = ended(20, 2.0, 3.0, [4.5, 5.0], cached=8)
    never = ended(40, 2.5, 0.0, [])
    counted = Ledger(tokens_recomputed=3, tokens_padding=2)
    steps = [step(2.0, ledger=counted), step(5.0, ledger=counted, preempted=(a, b))]
    found = run_metrics([a, b, never], steps, price_per_hour=7.2)
    assert (found.requests, found.finished, found.steps) == (3, 2, 2)
    assert (found.prompt_tokens, found.computed_prompt_tokens, found.cached_tokens) == (30, 22, 8)
    assert (found.seconds, found.generated_tokens) == (4.0, 5)
    assert (found.output_tps, found.total_tps) == (5 / 4, 35 / 4)
    assert found.prompt_tps == 22 / (1.0 + 1.5), "prompts: from 1 to 2 and from 3 to 4.5"
    assert found.generation_tps == 3 / 3, "from 2 to 5, b's beside a's"
    assert found.ttft == Spread(1.75, 1.75, pytest.approx(2.35), pytest.approx(2.485), 2.5)
    assert found.tpot == Spread(1.0, 1.0, pytest.approx(1.4), pytest.approx(1.49), 1.5)
    assert (found.gap.mean, found.gap.p50, found.gap.max) == (3.5 / 3, 1.0, 2.0)
    assert (found.e2e.mean, found.queue.max) == (3.5, 1.0)
    assert (found.recomputed_tokens, found.padding_tokens, found.preemptions) == (6, 4, 2)
    assert found.acceptance_rate == 0.5
    assert found.cost_per_million_output_tokens == pytest.approx(7.2 / 3600 * 1e6 / 1.25)
    assert found.cost_per_million_tokens == pytest.approx(7.2 / 3600 * 1e6 / 8.75)


def test_a_run_of_nothing_has_no_figures():
    """What Ctrl-C in the first step leaves."""
    found = run_metrics([ended(3, 5.0, 0.0, [])], [], price_per_hour=1.0)
    assert (found.seconds, found.generated_tokens, found.peak_cache_bytes, found.mean_cache_bytes) == (0, 0, 0, 0)
    assert (found.output_tps, found.prompt_tps, found.ttft, found.gap, found.wasted_share) == (None,) * 5
    assert found.cost_per_million_tokens is None


def test_the_cache_over_time_by_hand():
    """100 bytes for 1 s, 300 for 3 s, and then none. Catches a mean over steps, and waste of another moment."""
    steps = [step(1.0, 100, 90), step(2.0, 300, 60), step(5.0, 0, 0)]
    found = run_metrics([ended(3, 0.0, 0.0, [1.0])], steps)
    assert (found.peak_cache_bytes, found.mean_cache_bytes) == (300, (100 * 1 + 300 * 3) / 4)
    assert (found.peak_wasted_bytes, found.mean_wasted_bytes) == (90, (90 * 1 + 60 * 3) / 4)
    assert found.wasted_share == 60 / 300, "when it holds most"


def test_rates_count_time_that_sequences_share_once():
    """Catches a batch's throughput computed from the sum of its sequences' times."""
    assert metrics.rate(30, [(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)]) == 7.5
    assert metrics.rate(30, [(0.0, 9.0), (1.0, 2.0), (8.0, 10.0)]) == 3.0
    assert metrics.rate(30, [(1.0, 1.0)]) is None


def test_waste_by_the_formula():
    """Blocks of 16: 17 tokens take two. A contiguous cache is one block as long as the context."""
    assert metrics.expected_waste([17, 16, 1], 16) == 1 - 34 / 64
    assert metrics.expected_waste([100, 300], 1024) == 1 - 400 / 2048


@pytest.mark.parametrize("switches", [
    {"kv_cache": "contiguous", "max_model_len": 64},
    {"kv_cache": "paged", "block_size": 4},
    {"kv_cache": "paged", "block_size": 4, "num_blocks": 14},  # preempts
    {"kv_cache": "paged", "block_size": 4, "batching": "static", "max_num_seqs": 2},
    {"kv_cache": "paged", "block_size": 4, "speculative": "prompt-lookup"},
    {"kv_cache": "contiguous", "max_num_batched_tokens": 5, "max_model_len": 64},
    {"kv_cache": "paged", "block_size": 4, "speculative": "self", "num_draft_candidates": 3},
    {"kv_cache": "paged", "block_size": 4, "boundary": 14},  # drops the keys of a sequence that becomes long
    {"kv_cache": "paged", "block_size": 4, "boundary": 14, "max_num_batched_tokens": 2},  # and lets it wait for rows
    {"kv_cache": "paged", "block_size": 4, "boundary": 17, "max_num_batched_tokens": 2, "batching": "static"},
], ids=str)  # fmt: skip
def test_counted_waste_is_the_formulas_after_every_step(switches):
    """The formula is given lengths from the traces' spans, the cache counts its own. Catches a preempted or finished
    sequence that still counts, one of other rotations that waits, padding that gets no rows, rejected drafts, a block
    too many.
    """
    cost = ALWAYS_DRAFT if "num_draft_candidates" in switches else None
    boundary = switches.get("boundary")
    model = small_config(rope=(longrope(boundary),) * 2) if boundary else small_config()
    engine = make_engine(model, draft_cost=cost, **{name: switches[name] for name in switches if name != "boundary"})
    sequences = [request([i + 1] * n, max_tokens=9 + 2 * i) for i, n in enumerate((3, 17, 9, 12))]
    steps = list(engine.run(sequences))
    size = 4 if switches["kv_cache"] == "paged" else engine.cache.capacity
    seen = 0
    for i, trace in enumerate(steps):
        if lengths := metrics.lengths_held(steps, i):
            assert trace.wasted_bytes / trace.cache_bytes == pytest.approx(metrics.expected_waste(lengths, size))
            seen += 1
    assert seen >= 7


def test_a_run_on_a_simulated_clock_takes_what_its_steps_were_counted_to_take():
    """Two requests of 5 tokens, the second one long after the first. Every time follows from the ledger alone: the same
    figures on any machine. Catches: an arrival ignored, idle time computed away, a gap that counts waiting for others.
    """
    engine, machine = make_engine(small_config()), Machine(read_bandwidth=1e6, matrix_speed=1e6)
    engine.clock = SimulatedClock(engine.ledger, machine)
    first, second = request([1] * 5, max_tokens=4), request([2] * 5, max_tokens=4, delay=100.0)
    steps = list(engine.run([first, second]))
    each = [predict_seconds(trace.ledger, machine) for trace in steps]
    assert len(each) == 8
    found = run_metrics([first, second], steps)
    assert found.queue.max == pytest.approx(0)
    assert found.ttft.mean == pytest.approx(each[0])
    assert each[4] == each[0]
    assert found.seconds == pytest.approx(100 + sum(each[4:]))
    assert found.tpot.p50 == pytest.approx(sum(each[1:4]) / 3)
    assert found.gap.max == pytest.approx(max(each[1:4]))
    assert found.output_tps == pytest.approx(8 / found.seconds)


OWN = "from tinyinfer.engine.metrics import peak_memory_bytes; print(peak_memory_bytes())"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system tells no more than getrusage")
def test_the_peak_memory_is_the_own_and_not_that_of_who_started_the_process() -> None:
    """Catches getrusage, whose peak exec keeps: a grader started by a large run of tests looked 600 MB large."""
    parent = f"import subprocess, sys; held = b'x' * 400_000_000; print(subprocess.run([sys.executable, '-c', {OWN!r}]"
    parent += ", capture_output=True, text=True, preexec_fn=int).stdout)"  # preexec_fn: by fork, and not by vfork
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 10_000_000 < int(done.stdout) < 200_000_000
