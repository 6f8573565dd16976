"""The figures of a workload: every second of a request is one bar or another, and panels hold the figures."""

from __future__ import annotations

from itertools import pairwise

import pytest
from cli_helpers import short

from tinyinfer import LLM
from tinyinfer.measure import bench as rounds
from tinyinfer.measure import workload_figures
from tinyinfer.measure.roofline import parse_machine
from tinyinfer.measure.workload import Request

__all__ = ["short"]  # fixture


def test_the_timeline_shows_what_each_request_did_when(short):
    """Two slots, four requests and few blocks: every second of a request, from arrival to end, is one bar or another,
    and no two overlap. Catches waiting that is left white, a preemption that is not shown, padding drawn as decode."""
    for switches, kinds in [
        ({"kv_cache": "paged", "block_size": 4, "num_blocks": 10}, {"waiting", "preempted", "computed again"}),
        ({"batching": "static", "max_num_seqs": 2}, {"waiting", "padding"}),
        ({"max_num_batched_tokens": 5}, {"waiting"}),
        ({"kv_cache": "paged", "speculative": "self", "num_draft_candidates": 2, "max_num_seqs": 2}, {"waiting"}),
    ]:
        llm = rounds.simulated(LLM(short, **switches), parse_machine("1MB/s,5MFLOP/s"))
        requests = [Request(9 + i, tuple(range(1, 8 + 3 * i)), arrival=0.01 * i) for i in range(4)]
        done = rounds.run_round(rounds.Setting("", "", llm, requests))
        bars = workload_figures.bars(done)
        assert set(bars) == {"prefill", "decode", *kinds}
        every_second_is_drawn(done, bars)


def every_second_is_drawn(done: rounds.Round, bars: workload_figures.Bars) -> None:
    """Each request's bars follow one another from its arrival to its end."""
    for row, seq in enumerate(done.sequences):
        spans = sorted(span for kind in set(bars) - {"padding"} for span in bars[kind].get(row, []))
        assert spans[0][0] == pytest.approx(seq.timing.arrival - done.begun)
        assert spans[-1][1] == pytest.approx(seq.timing.times[-1] - done.begun)
        assert all(end == pytest.approx(begin) for (_, end), (begin, _) in pairwise(spans))


def test_a_sequence_that_becomes_long_computes_again(golden_folder):
    """longrope, with a boundary of 24 tokens. Catches a second prefill in the middle of an answer."""
    llm = rounds.simulated(LLM(str(golden_folder("phi3_long"))), parse_machine("1MB/s,5MFLOP/s"))
    done = rounds.run_round(rounds.Setting("", "", llm, [Request(9, tuple(range(3, 23)))]))
    [[prefill], [before, after], [again]] = [
        sorted(workload_figures.bars(done)[kind][0]) for kind in ("prefill", "decode", "computed again")
    ]
    assert prefill[1] == before[0]
    assert before[1] == again[0]
    assert again[1] == after[0]


def test_sequences_that_become_long_wait_and_compute_again_row_by_row(golden_folder):
    """Three cross a boundary of 24 tokens in steps of 2 rows. Catches time that is left white while one waits for its
    admission again, and one row computed again that is drawn as a prefill or as decode."""
    switches = {"kv_cache": "paged", "block_size": 2, "num_blocks": 60, "max_num_batched_tokens": 2}
    llm = rounds.simulated(LLM(str(golden_folder("phi3_long")), **switches), parse_machine("1MB/s,5MFLOP/s"))
    requests = [Request(9, tuple(range(3 + i, 21 + i)), arrival=0.01 * i) for i in range(3)]
    done = rounds.run_round(rounds.Setting("", "", llm, requests))
    bars = workload_figures.bars(done)
    every_second_is_drawn(done, bars)
    first = [seq.timing.times[0] - done.begun for seq in done.sequences]
    for row, time in enumerate(first):
        assert max(end for _, end in bars["prefill"][row]) <= time + 1e-9, "no prefill after the first token"
        assert bars["computed again"][row]
    assert any(begin > time for row, time in enumerate(first) for begin, _ in bars["waiting"][row])


def test_what_the_panels_draw(short):
    """Catches gaps in seconds, a gap before the first token, waste drawn on top of what is held, bytes for MB."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    cache, points = figure.subplots(2, 1)
    llm = rounds.simulated(LLM(short, kv_cache="paged"), parse_machine("1MB/s,5MFLOP/s"))
    requests = [Request(4, (1, 2, 3)), Request(3, (4, 5), arrival=0.1)]
    done = rounds.run_round(rounds.Setting("", "", llm, requests))
    workload_figures.draw_gaps(points, done)
    drawn = points.get_lines()[0].get_xydata().tolist()
    assert drawn == [
        pytest.approx([now - done.begun, 1e3 * (now - before)])
        for seq in done.sequences for before, now in pairwise(seq.timing.times)
    ]  # fmt: skip
    assert len(drawn) == 3 + 2
    workload_figures.draw_cache(cache, done)
    held, filled = (max(y for _, y in area.get_paths()[0].vertices) for area in cache.collections)
    assert held == pytest.approx(max(step.cache_bytes for step in done.steps) / 1e6)
    assert filled == pytest.approx(max(step.cache_bytes - step.wasted_bytes for step in done.steps) / 1e6)
