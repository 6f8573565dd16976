"""tinyinfer's variants, timed through its engine as a caller meets them, and a judge of the tokens that came out.

Times are the host's clock at the moments when tokens reach the host: scheduling and sampling are in them, text is not.
A decode figure begins when the last sequence has its first token, and ends when the first one is done: the batch is
full in between.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_parts.cases import Case
from gpu_parts.machine import device_seconds
from gpu_parts.serving import open_engine, sequences
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.sequence import Sequence

ROUNDS = 3
REPLAYS = 64  # steps that follow one another without the host, twice
AHEAD = 8  # steps that may be under way already
WARM = 4  # tokens of the round that compiles and captures
JUDGED = 3  # sequences of a batch whose tokens are judged
EXACT, ROUNDED = 0.02, 0.5  # how far below the largest logit a token's may be, in standard deviations of the logits
# Kernels for few rows keep activations in float32, which leaves all but the nearest ties alone; in half precision
# (tensor cores, other engines) near ties are decided otherwise. A token at random is some 3 standard deviations below.
FEW = 8  # rows up to which tinyinfer's kernels keep activations in float32


@dataclass(frozen=True)
class Answer:
    """One round: seconds in which `count` tokens (of prompts, or new ones) were computed; the new tokens of all."""

    seconds: float
    count: int
    tokens: list[list[int]]


Run = Callable[[int], Answer]  # by the number of new tokens of each sequence


def switches_of(case: Case, variant: str) -> EngineConfig:
    """The engine's switches of a variant of tinyinfer."""
    room = -(-(case.prompt + case.new) // 16) * 16
    return EngineConfig.from_switches(**{
        "backend": "cupy", "gpu_decode": variant, "dtype": "bfloat16", "max_model_len": room,
        "max_num_seqs": case.batch, "quantize": "keep" if case.weights != "bfloat16" else "off",
        **({"num_blocks": case.batch * room // 16} if case.switches.get("kv_cache") == "paged" else {}),
        **case.switches,
    })  # fmt: skip


def own_run(case: Case, engine: Engine) -> Run:
    """Serves the case's prompts once, with so many new tokens each."""

    def run(new: int) -> Answer:
        served, begun = sequences(case.prompts(), new), time.perf_counter()
        for _ in engine.run(served):
            pass
        seconds, count = prefill_of(served, begun) if case.prefill else decode_of(served)
        return Answer(seconds, count, [seq.new_tokens for seq in served])

    return run


def check_way(variant: str, engine: Engine) -> None:
    """Raises RuntimeError where a step runs otherwise than the variant's name says: a line must not lie."""
    way = "eager" if engine.compiled is None else getattr(engine.compiled, "way", variant)
    if way != variant:
        raise RuntimeError(f"gpu_decode={variant} ran as {way}")


def alone(case: Case, engine: Engine, cp: Any) -> float | None:
    """Seconds of a decode step when its launches follow one another and nothing is asked of the host in between.

    What the step takes more in the engine's hands is the host's. None where no bucket runs the steps. The sequences are
    given up afterwards: their tokens went on without the engine.
    """
    buckets = getattr(engine.compiled, "buckets", None)
    if not buckets or case.prefill:
        return None
    served = sequences(case.prompts(), case.new)
    steps = engine.run(served)
    while any(len(seq.new_tokens) < WARM for seq in served):
        next(steps)
    left = min(case.new - len(seq.new_tokens) for seq in served) - AHEAD  # positions that every row still has room for
    bucket, stream, times = buckets[max(buckets)], engine.compiled.stream, min(REPLAYS, left // 2 - 1)  # type: ignore[union-attr]
    with stream:
        seconds = device_seconds(cp, lambda: [bucket.launch() for _ in range(times)], 1) / times if times > 0 else None
    stream.synchronize()
    steps.close()
    return seconds


def prefill_of(served: list[Sequence], begun: float) -> tuple[float, int]:
    """Seconds until the last sequence had its first token, and the tokens of all prompts."""
    return max(seq.timing.times[0] for seq in served) - begun, sum(len(seq.prompt) for seq in served)


def decode_of(served: list[Sequence]) -> tuple[float, int]:
    """Seconds in which all sequences decoded together, and the tokens that came in them."""
    first, last = max(seq.timing.times[0] for seq in served), min(seq.timing.times[-1] for seq in served)
    return last - first, sum(first < moment <= last for seq in served for moment in seq.timing.times)


def timed(case: Case, run: Run, limit: float) -> dict[str, Any]:
    """The median over rounds, after one that warms up: seconds a step, tokens a second, the tokens of the last round.

    limit: seconds after which no further round begins.
    """
    begun, answers = time.perf_counter(), []
    run(min(WARM, case.new))
    while len(answers) < ROUNDS and (not answers or time.perf_counter() - begun < limit):
        answers.append(run(case.new))
    speeds = [answer.count / answer.seconds for answer in answers]
    speed = statistics.median(speeds)
    return {
        "step_seconds": case.batch * (case.prompt if case.prefill else 1) / speed, "tokens_per_second": speed,
        "rounds": len(speeds), "spread": (max(speeds) - min(speeds)) / speed, "tokens": answers[-1].tokens,
    }  # fmt: skip


class Judge:
    """Says how far the tokens that a variant chose are below the largest logits of the plain formulas in float32.

    The formulas run over prompt and answer at once, so each token is judged after the tokens that the variant itself
    chose before it. A variant that computes something else cannot be fast unseen.
    """

    def __init__(self, case: Case, checkpoint: Checkpoint, config: EngineConfig) -> None:
        self.case, self.engine = case, open_engine(checkpoint, config)

    def worst(self, tokens: list[list[int]]) -> float:
        """The largest gap of the first few sequences, in standard deviations of a row of logits."""
        pairs = list(zip(self.case.prompts(), tokens, strict=True))[:JUDGED]
        return max(self.gap(prompt, new) for prompt, new in pairs)

    def gap(self, prompt: list[int], new: list[int]) -> float:
        """The largest gap of one sequence."""
        [seq] = sequences([prompt + new[:-1]], 1)
        try:
            logits = self.engine.logits(seq, len(prompt) - 1, len(new))  # (len(new), V)
        finally:
            self.engine.abort(seq)
        chosen = logits[np.arange(len(new)), new]
        return float(((logits.max(axis=1) - chosen) / logits.std(axis=1)).max())


def verdict(case: Case, variant: str, gap: float) -> str:
    """What the table says of the tokens."""
    exact = variant in ("kernels", "graph", "persistent") and case.batch <= FEW and not case.prefill
    allowed = EXACT if exact else ROUNDED
    return f"right ({gap:.1g})" if gap <= allowed else f"WRONG ({gap:.2g} below)"
