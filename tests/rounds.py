"""A round of a benchmark whose times are given, and rounds of a small model."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import request

from tinyinfer import LLM
from tinyinfer.engine.trace import StepTrace
from tinyinfer.ledger import Ledger
from tinyinfer.measure import bench
from tinyinfer.measure.roofline import Machine
from tinyinfer.measure.workload import Request
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Batch, Span

MACHINE = Machine(read_bandwidth=100.0, matrix_speed=1000.0)


def one_round() -> bench.Round:
    """Two prompts of 3 tokens side by side, three new tokens each: prefill 4 s; then 1.5 s and 1 s."""
    seqs = [request([1, 2, 3], max_tokens=3), request([4, 5, 6], max_tokens=3)]
    steps, now = [], 0.0
    for i, duration in enumerate([4.0, 1.5, 1.0]):
        first, rows = (0, 3) if i == 0 else (2 + i, 1)
        spans = tuple(Span(seq, k * rows, (k + 1) * rows, first) for k, seq in enumerate(seqs))
        batch = Batch(np.arange(2 * rows), np.tile(np.arange(first, first + rows), 2), np.array([rows - 1]), spans)
        decode = Ledger(flops=100, weight_bytes=40, kv_read_bytes=10)
        ledger = decode if i else Ledger(flops=3000, weight_bytes=10)
        times = (now + 0.25, now + duration - 0.125, now + duration)  # a quarter second goes by before it starts
        steps.append(StepTrace(batch, [[Choice(7)], [Choice(7)]], times, ledger, 0, 0))
        now += duration
        for seq in seqs:
            seq.append(Choice(7), now)
    return bench.Round(0.0, seqs, steps, Ledger())


def rounds_of(llm: LLM, *prompts: list[int], new: int = 3, **changes: Any) -> bench.Round:
    """A round of these prompts."""
    requests = [Request(new, tuple(prompt), **changes) for prompt in prompts]
    return bench.run_round(bench.Setting("", "", llm, requests))
