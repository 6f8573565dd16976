"""Latency and throughput, of one request and of a run, from the times at which tokens came and from what steps counted.

TTFT (time to first token) is what a reader waits for and what prefill costs; TPOT (time per output token) is the pace
after that and what decode costs; the gap between two tokens is what a reader notices when it is long; throughput counts
the tokens of all requests together. Batching trades latency for throughput. Tokens that one step brings (speculation)
come at the same time, with gaps of 0 between them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from tinyinfer.engine.trace import StepTrace
from tinyinfer.sequence import Sequence, Span


@dataclass(frozen=True)
class RequestMetrics:
    """Times in seconds; None where there is nothing to divide (no token came, or only one).

    queue_s: from arrival to the first step. prompt_tps: prompt tokens that were computed (not found in a cache), per
    second until the first token. generation_tps: tokens after the first, per second. acceptance_rate: accepted share of
    proposed drafts; None without speculation. peak_memory_bytes: the process's highest resident size so far.
    """

    arrival_s: float
    queue_s: float | None
    ttft_s: float | None
    tpot_s: float | None
    longest_gap_s: float | None
    e2e_s: float | None
    prompt_tokens: int
    generated_tokens: int
    cached_tokens: int
    preemptions: int
    prompt_tps: float | None
    generation_tps: float | None
    acceptance_rate: float | None
    peak_memory_bytes: int


def request_metrics(seq: Sequence) -> RequestMetrics:
    """The figures of a sequence that has ended."""
    timing, drafts, cached = seq.timing, seq.speculation, seq.progress.cached_tokens
    times, n = timing.times, len(timing.times)
    prefill = times[0] - timing.started if times else None
    tpot = (times[-1] - times[0]) / (n - 1) if n > 1 else None
    return RequestMetrics(
        arrival_s=timing.arrival,
        queue_s=timing.started - timing.arrival if times else None,
        ttft_s=times[0] - timing.arrival if times else None,
        tpot_s=tpot,
        longest_gap_s=max(gaps(seq), default=None),
        e2e_s=times[-1] - timing.arrival if times else None,
        prompt_tokens=len(seq.prompt),
        generated_tokens=n,
        cached_tokens=cached,
        preemptions=seq.progress.preemptions,
        prompt_tps=(len(seq.prompt) - cached) / prefill if prefill else None,
        generation_tps=1 / tpot if tpot else None,
        acceptance_rate=drafts.accepted / drafts.proposed if drafts.proposed else None,
        peak_memory_bytes=peak_memory_bytes(),
    )


def gaps(seq: Sequence) -> list[float]:
    """Seconds between each two tokens of a sequence."""
    return [later - earlier for earlier, later in pairwise(seq.timing.times)]


@dataclass(frozen=True)
class Spread:
    """How a figure varies over requests or tokens: its mean, percentiles and largest value."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float


def spread(values: Iterable[float | None]) -> Spread | None:
    """The spread of the values that are not None; percentiles between two values are interpolated."""
    given = [value for value in values if value is not None]
    if not given:
        return None
    p50, p90, p99 = (float(p) for p in np.percentile(given, (50, 90, 99)))
    return Spread(sum(given) / len(given), p50, p90, p99, max(given))


@dataclass(frozen=True)
class RunMetrics:
    """The figures of several requests together. Times in seconds; None where nothing was measured.

    seconds: from the first arrival to the last token. output_tps, total_tps: generated tokens, and those of prompts
    too, per second of all that time. prompt_tps, generation_tps: as in RequestMetrics, over the time in which any
    prompt was computed, or any text generated. Cache figures: bytes after each step; means are over time. wasted_share:
    of the fullest cache. cost_per_million_output_tokens, cost_per_million_tokens: in the price's currency, the machine
    being paid for all the time; the second counts prompt tokens, too.
    """

    requests: int
    finished: int
    seconds: float
    steps: int
    prompt_tokens: int
    computed_prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    recomputed_tokens: int
    padding_tokens: int
    preemptions: int
    acceptance_rate: float | None
    output_tps: float | None
    total_tps: float | None
    prompt_tps: float | None
    generation_tps: float | None
    ttft: Spread | None
    tpot: Spread | None
    gap: Spread | None
    e2e: Spread | None
    queue: Spread | None
    peak_cache_bytes: int
    mean_cache_bytes: float
    peak_wasted_bytes: int
    mean_wasted_bytes: float
    wasted_share: float | None
    cost_per_million_output_tokens: float | None = None
    cost_per_million_tokens: float | None = None


def run_metrics(
    sequences: Seq[Sequence], steps: Seq[StepTrace], price_per_hour: float | None = None
) -> RunMetrics:
    """The figures of a run: its sequences, and what each of its steps counted. Sequences without a token count as 0."""
    ran = [seq for seq in sequences if seq.timing.times]
    timings, drafts = [seq.timing for seq in ran], [seq.speculation for seq in ran]
    seconds = max(t.times[-1] for t in timings) - min(seq.timing.arrival for seq in sequences) if ran else 0.0
    prompt, cached = sum(len(seq.prompt) for seq in ran), sum(seq.progress.cached_tokens for seq in ran)
    new, proposed = sum(len(t.times) for t in timings), sum(s.proposed for s in drafts)
    output_tps, total_tps = (n / seconds if seconds else None for n in (new, prompt + new))
    held, wasted = [step.cache_bytes for step in steps], [step.wasted_bytes for step in steps]
    full = fullest(steps)
    return RunMetrics(
        requests=len(sequences),
        finished=sum(seq.progress.finish_reason in ("stop", "length") for seq in sequences),
        seconds=seconds,
        steps=len(steps),
        prompt_tokens=prompt,
        computed_prompt_tokens=prompt - cached,
        cached_tokens=cached,
        generated_tokens=new,
        recomputed_tokens=sum(step.ledger.tokens_recomputed for step in steps),
        padding_tokens=sum(step.ledger.tokens_padding for step in steps),
        preemptions=sum(len(step.preempted) for step in steps),
        acceptance_rate=sum(s.accepted for s in drafts) / proposed if proposed else None,
        output_tps=output_tps,
        total_tps=total_tps,
        prompt_tps=rate(prompt - cached, [(t.started, t.times[0]) for t in timings]),
        generation_tps=rate(new - len(ran), [(t.times[0], t.times[-1]) for t in timings]),
        **latencies(ran),
        peak_cache_bytes=max(held, default=0),
        mean_cache_bytes=mean_over_time(steps, held),
        peak_wasted_bytes=max(wasted, default=0),
        mean_wasted_bytes=mean_over_time(steps, wasted),
        wasted_share=wasted[full] / held[full] if full is not None else None,
        cost_per_million_output_tokens=cost_per_million(price_per_hour, output_tps),
        cost_per_million_tokens=cost_per_million(price_per_hour, total_tps),
    )


def latencies(ran: Seq[Sequence]) -> dict[str, Spread | None]:
    """The spread of each latency over the requests, or over their tokens."""
    each = [request_metrics(seq) for seq in ran]
    return {
        "ttft": spread(m.ttft_s for m in each),
        "tpot": spread(m.tpot_s for m in each),
        "gap": spread(gap for seq in ran for gap in gaps(seq)),
        "e2e": spread(m.e2e_s for m in each),
        "queue": spread(m.queue_s for m in each),
    }


def rate(tokens: int, spans: Iterable[tuple[float, float]]) -> float | None:
    """Tokens per second of the time that the spans cover together: time that several sequences share counts once."""
    seconds, until = 0.0, float("-inf")
    for start, stop in sorted(spans):  # by their start, so that each one can only add what lies after all before it
        seconds += max(0.0, stop - max(start, until))
        until = max(until, stop)
    return tokens / seconds if tokens and seconds else None


def cost_per_million(price_per_hour: float | None, tokens_per_second: float | None) -> float | None:
    """What a million tokens cost at that pace, in the currency of the price; None when either is not known."""
    if price_per_hour is None or not tokens_per_second:
        return None
    return price_per_hour / 3600 / tokens_per_second * 1e6


# The cache over time.


def mean_over_time(steps: Seq[StepTrace], values: Seq[float]) -> float:
    """The mean of what held after each step, until the next one ended."""
    ends = [step.times[2] for step in steps]
    total = ends[-1] - ends[0] if ends else 0.0
    if not total:
        return sum(values) / len(values) if values else 0.0
    return sum(value * (end - begin) for value, (begin, end) in zip(values, pairwise(ends), strict=False)) / total


def fullest(steps: Seq[StepTrace]) -> int | None:
    """The number of the step after which the cache holds the most computed positions; None if it never holds any."""
    used = [step.cache_bytes - step.wasted_bytes for step in steps]
    return used.index(max(used)) if any(used) else None


def lengths_held(steps: Seq[StepTrace], last: int) -> list[int]:
    """How many positions each sequence has in the cache after the step of number `last`, from what ran until then.

    Only for runs without shared prefixes.
    """
    held: dict[Sequence, int] = {}
    for step in steps[: last + 1]:
        for seq in step.preempted:
            held.pop(seq, None)
        for span, new in zip(step.batch.spans, step.choices, strict=True):
            if new or span.seq.owner is span.seq:  # else a rejected candidate
                length = span.first + (0 if is_padding(span) else span.rows - span.wanted + len(new))
                held[span.seq.owner] = length
    return [length for seq, length in held.items() if goes_on(seq, steps[last + 1 :])]


def goes_on(seq: Sequence, steps: Seq[StepTrace]) -> bool:
    """Whether what the cache held of a sequence was still there when one of these later steps came to the sequence.

    Else the sequence had left, or longrope had dropped its keys, so that it was admitted again.
    """
    for step in steps:
        if seq in step.preempted:
            return True
        if any(span.seq is seq for span in step.batch.spans):
            return seq not in step.joined
        if seq in step.left:
            return True  # padding without rows kept its slot until now
    return False


def expected_waste(lengths: Seq[int], block_size: int) -> float:
    """The share of blocks that is empty when sequences of these lengths fill them: 1 - sum of n / sum of whole blocks.

    A contiguous cache is one block a sequence, as long as the context. In a paged one the last block of a sequence is
    empty by (block_size - 1) / 2 positions on average (Kwon et al. 2023, 4.2, call it internal fragmentation).
    """
    return 1 - sum(lengths) / sum(-(-n // block_size) * block_size for n in lengths)


def is_padding(span: Span) -> bool:
    """Whether the sequence of a span was finished before (static batching): a chunk of a prompt ends earlier."""
    return not span.wanted and span.first + span.rows == len(span.seq.tokens)


def peak_memory_bytes() -> int:
    """The process's highest resident size so far; 0 where the system does not say (Windows).

    On Linux /proc tells: getrusage counts the size of the process that started this one, too, which exec keeps.
    """
    with suppress(OSError, IndexError, ValueError):
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
