"""Latency and throughput of one request, from the times at which its tokens came.

TTFT (time to first token) is what a reader waits for and what prefill costs; TPOT (time per output token) is the pace
after that and what decode costs; throughput counts tokens of everybody together, and batching trades one for the other.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tinyinfer.sequence import Sequence


@dataclass(frozen=True)
class RequestMetrics:
    """Times in seconds; None where there is nothing to divide (no token came, or only one).

    prompt_tps: prompt tokens that were computed (not found in a cache), per second until the first token.
    generation_tps: tokens after the first, per second. acceptance_rate: accepted share of proposed drafts; None without
    speculation. peak_memory_bytes: the process's highest resident size so far.
    """

    arrival_s: float
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    prompt_tokens: int
    generated_tokens: int
    cached_tokens: int
    prompt_tps: float | None
    generation_tps: float | None
    acceptance_rate: float | None
    peak_memory_bytes: int


def request_metrics(seq: Sequence) -> RequestMetrics:
    """The figures of a sequence that has ended."""
    times, n = seq.times, len(seq.times)
    ttft = times[0] - seq.started if times else None
    tpot = (times[-1] - times[0]) / (n - 1) if n > 1 else None
    computed = len(seq.prompt) - seq.cached_tokens
    return RequestMetrics(
        arrival_s=seq.arrival,
        ttft_s=times[0] - seq.arrival if times else None,
        tpot_s=tpot,
        e2e_s=times[-1] - seq.arrival if times else None,
        prompt_tokens=len(seq.prompt),
        generated_tokens=n,
        cached_tokens=seq.cached_tokens,
        prompt_tps=computed / ttft if ttft else None,
        generation_tps=1 / tpot if tpot else None,
        acceptance_rate=None,
        peak_memory_bytes=peak_memory_bytes(),
    )


def peak_memory_bytes() -> int:
    """The process's highest resident size so far; 0 where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
