"""What each step of the engine adds to the numbers: its rows, its drafts by position, what it computed again.

These numbers are of steps, not of requests, so they are counted from the engine's own records (engine/trace.py), one
step at a time and on the thread that took it. With several replicas each has the label of its number. A position is
that of a draft in its step: of the drafts in one step, those behind the first rejected one count for nothing.

Tokens that a preemption lost bear a name of tinyinfer's: vllm:prompt_tokens_recomputed is another number, the last
token of a prompt that was found in the cache whole.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from tinyinfer.engine.trace import StepTrace, Turn
from tinyinfer.sequence import Span

ROWS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class StepNumbers:
    """Counts steps; a listener of `LLM.on_step`."""

    def __init__(self, registry: CollectorRegistry, name: str, labels: tuple[str, ...]) -> None:
        self._name = name
        self._rows = Histogram(
            "vllm:iteration_tokens_total", "tokens that a step computed", labels, buckets=ROWS, registry=registry
        )
        self._drafts = Counter(
            "vllm:spec_decode_num_drafts", "times that drafts of a sequence were verified", labels, registry=registry
        )
        self._accepted = Counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos", "drafts that were accepted, by their place in the step",
            (*labels, "position"), registry=registry,
        )  # fmt: skip
        self._again = Counter(
            "tinyinfer:prompt_tokens_recomputed", "tokens of prompts that a preemption lost", labels, registry=registry
        )
        for counter in (self._rows, self._drafts, self._again):
            counter.labels(name, "0")  # a counter that is not there cannot be told from a wrong name

    def __call__(self, trace: StepTrace) -> None:
        values = self._name, str(trace.replica or 0)
        self._rows.labels(*values).observe(len(trace.batch))
        for turn, span in zip(trace.turns, trace.batch.spans, strict=True):
            if turn.drafts:
                self._drafts.labels(*values).inc()
            for position in range(turn.accepted):
                self._accepted.labels(*values, str(position)).inc()
            if again := again_of_prompt(turn, span):
                self._again.labels(*values).inc(again)


def again_of_prompt(turn: Turn, span: Span) -> int:
    """How many positions of a prompt a sequence computed not for the first time: its first ones in the step."""
    return max(0, min(turn.again, len(span.seq.prompt) - turn.first))
