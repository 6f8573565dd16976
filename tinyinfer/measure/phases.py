"""What a round of a benchmark says: the waits of its requests, and prefill and decode apart beside the roofline.

The two phases are limited by different things (roofline.py), so one figure for both would say nothing: prefill is
compared with the machine's arithmetic, decode with its memory bandwidth.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tinyinfer.engine.metrics import (
    cost_per_million,
    expected_waste,
    fullest,
    lengths_held,
    peak_memory_bytes,
    run_metrics,
)
from tinyinfer.measure.roofline import predict_seconds
from tinyinfer.measure.simulated_clock import SimulatedClock

if TYPE_CHECKING:
    from tinyinfer.engine.config import EngineConfig
    from tinyinfer.engine.trace import StepTrace
    from tinyinfer.measure.bench import Round, Setting
    from tinyinfer.measure.roofline import Machine

Figures = dict[str, float | None]


def record(
    setting: Setting,
    rounds: list[Round],
    work: dict[str, Any],
    machine: Machine | None = None,
    price_per_hour: float | None = None,
    phases: bool = True,
) -> dict[str, Any]:
    """What the JSON line of a setting holds: the median of each figure over the rounds, and what was measured.

    work: what the rounds are made of, as the line shall say it. phases: whether prefill and decode are told apart,
    which needs a machine to predict for.
    """
    llm = setting.llm
    each = [request_figures(done, price_per_hour, llm.engine_config) for done in rounds]
    if machine and phases:
        each = [one | phase_figures(done, machine) for one, done in zip(each, rounds, strict=True)]
    line: dict[str, Any] = {"setting": setting.name, **medians(each)}
    if phases:
        line |= costs(line, price_per_hour)
    if machine:
        line |= {"read_bandwidth": machine.read_bandwidth, "matrix_flops": machine.matrix_speed}
    return line | work | {
        "weight_bytes": llm.model.nbytes,
        "clock": "simulated" if isinstance(llm.engine.clock, SimulatedClock) else "wall",
        "rounds": len(rounds),
        "complete": all(done.complete for done in rounds),
        "ledger": rounds[-1].ledger.as_dict(),  # of one round; all do the same work
        "engine": {"model": setting.model, **asdict(llm.engine_config)},
        "peak_memory_bytes": peak_memory_bytes(),
    }  # fmt: skip


def medians(each: list[Figures]) -> Figures:
    """The median of each figure over the rounds in which there is one."""
    values = {name: [value for one in each if (value := one.get(name)) is not None] for one in each for name in one}
    return {name: statistics.median(given) if given else None for name, given in values.items()}


# All requests of a round.


def request_figures(done: Round, price_per_hour: float | None, config: EngineConfig) -> Figures:
    """Every figure of a round by a flat name: ttft_p50_s, gap_max_s, output_tps, ..."""
    flat: Figures = {}
    for name, value in asdict(run_metrics(done.sequences, done.steps, price_per_hour)).items():
        if isinstance(value, dict):
            flat |= {f"{name}_{part}_s": seconds for part, seconds in value.items()}
        else:
            flat[name] = value
    flat |= {"ttft_s": flat.get("ttft_p50_s"), "tpot_s": flat.get("tpot_p50_s")}
    full = fullest(done.steps)
    if full is not None and not config.prefix_cache and config.kv_bits == "off":  # else blocks are of another kind
        size = config.block_size if config.kv_cache == "paged" else config.max_model_len
        lengths = lengths_held(done.steps, full)
        if size and lengths:  # without an explicit context, sequences reserve prompt and answer, each as long as it is
            flat["formula_wasted_share"] = expected_waste(lengths, size)
    return flat


# The two phases.


def is_prefill(step: StepTrace) -> bool:
    """Whether a step computes any of a prompt; one that only adds tokens after prompts is decode."""
    return any(span.first + span.rows <= len(span.seq.prompt) for span in step.batch.spans)


@dataclass(frozen=True)
class Phase:
    """All prefill steps of a round together, or all decode steps. tokens: prompt tokens computed, or generated ones.

    A step that decodes some sequences beside a chunk of a prompt is prefill: the prompt has most of its rows.
    """

    tokens: int
    seconds: float
    predicted: float  # seconds, by the roofline
    flops: int
    bytes_moved: int


def phase(done: Round, prefill: bool, machine: Machine) -> Phase:
    """The prefill steps of a round together, or its decode steps."""
    seconds = done.seconds
    chosen = [i for i, step in enumerate(done.steps) if is_prefill(step) == prefill]
    ledgers = [done.steps[i].ledger for i in chosen]
    prompt = sum(len(seq.prompt) - seq.progress.cached_tokens for seq in done.sequences)
    return Phase(
        tokens=prompt if prefill else sum(len(new) for i in chosen for new in done.steps[i].choices),
        seconds=sum(seconds[i] for i in chosen),
        predicted=sum(predict_seconds(ledger, machine) for ledger in ledgers),
        flops=sum(ledger.flops for ledger in ledgers),
        bytes_moved=sum(ledger.bytes_moved for ledger in ledgers),
    )


def phase_figures(done: Round, machine: Machine) -> Figures:
    """What one round says about the two phases.

    decode_step_s: the median decode step. outside_forward_s: per generated token, between one forward pass's end and
    the next.
    """
    prefill, decode = phase(done, True, machine), phase(done, False, machine)
    steps = [(step, s) for step, s in zip(done.steps, done.seconds, strict=True) if not is_prefill(step)]
    outside = [(s - (step.times[1] - step.times[0])) / max(1, sum(map(len, step.choices))) for step, s in steps]
    return {
        "prompt_tps": prefill.tokens / prefill.seconds,
        "predicted_prompt_tps": prefill.tokens / prefill.predicted,
        "generation_tps": decode.tokens / decode.seconds,
        "predicted_generation_tps": decode.tokens / decode.predicted,
        "prefill_seconds": prefill.seconds,
        "predicted_prefill_seconds": prefill.predicted,
        "prefill_matrix_share": prefill.flops / prefill.seconds / machine.matrix_speed,
        "decode_bandwidth_share": decode.bytes_moved / decode.seconds / machine.read_bandwidth,
        "decode_step_s": statistics.median(s for _, s in steps),
        "outside_forward_s": statistics.median(outside),
    }


def costs(line: dict[str, Any], price_per_hour: float | None) -> dict[str, float]:
    """What a million tokens cost, prompt tokens paying for prefill and generated ones for decode."""
    paces = {"prompt": line["prompt_tps"], "generated": line["generation_tps"]}
    each = {f"cost_per_million_{kind}_tokens": cost_per_million(price_per_hour, pace) for kind, pace in paces.items()}
    return {name: cost for name, cost in each.items() if cost is not None}
