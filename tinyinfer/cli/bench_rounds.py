"""Plain rounds of `tinyinfer bench`: prefill and decode apart, each measured beside what the roofline predicts."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.measure import Round
from tinyinfer.cli.tables import table
from tinyinfer.units import amount

if TYPE_CHECKING:
    from tinyinfer.engine.trace import StepTrace
    from tinyinfer.measure.roofline import Machine


def is_prefill(step: StepTrace) -> bool:
    """Whether a step computes any of a prompt; one that only adds tokens after prompts is decode."""
    return any(span.first + span.rows <= len(span.seq.prompt) for span in step.batch.spans)


@dataclass(frozen=True)
class Phase:
    """All prefill steps of a round together, or all decode steps. tokens: prompt tokens computed, or generated ones.

    A step that decodes some sequences beside a piece of a prompt is prefill: the prompt has most of its rows.
    """

    tokens: int
    seconds: float
    predicted: float  # seconds, by the roofline
    flops: int
    bytes_moved: int


def phase(done: Round, prefill: bool, machine: Machine) -> Phase:
    """One phase of a round."""
    from tinyinfer.measure.roofline import predict_seconds

    seconds = done.seconds
    chosen = [i for i, step in enumerate(done.steps) if is_prefill(step) == prefill]
    ledgers = [done.steps[i].ledger for i in chosen]
    prompt = sum(len(seq.prompt) - seq.cached_tokens for seq in done.sequences)
    return Phase(
        tokens=prompt if prefill else sum(len(new) for i in chosen for new in done.steps[i].choices),
        seconds=sum(seconds[i] for i in chosen),
        predicted=sum(predict_seconds(ledger, machine) for ledger in ledgers),
        flops=sum(ledger.flops for ledger in ledgers),
        bytes_moved=sum(ledger.bytes_moved for ledger in ledgers),
    )


def figures(done: Round, machine: Machine) -> dict[str, float]:
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


def costs(found: dict[str, Any], price_per_hour: float | None) -> dict[str, float]:
    """What a million tokens cost, prompt tokens paying for prefill and generated ones for decode."""
    from tinyinfer.engine.metrics import cost_per_million

    paces = {"prompt": found["prompt_tps"], "generated": found["generation_tps"]}
    each = {f"cost_per_million_{kind}_tokens": cost_per_million(price_per_hour, pace) for kind, pace in paces.items()}
    return {name: cost for name, cost in each.items() if cost is not None}


# How they are shown.


def title(line: dict[str, Any]) -> str:
    """What was measured."""
    asked = f"{line['prompt_tokens']} prompt and {line['generated_tokens']} generated tokens"
    rounds = "one round" if line["rounds"] == 1 else f"median of {line['rounds']} rounds"
    clock = ", simulated" if line["clock"] == "simulated" else ""
    return f"{line['engine']['model']}: {line['batch']} x ({asked}), {rounds}{clock}"


def as_text(line: dict[str, Any]) -> str:
    """A table, predicted beside measured."""
    speed, bandwidth = amount(line["matrix_flops"], "FLOP/s"), amount(line["read_bandwidth"], "B/s")
    rows = [
        ("", "predicted", "measured", "reached"),
        ("prefill, s", f"{line['predicted_prefill_seconds']:.4g}", f"{line['prefill_seconds']:.4g}", ""),
        ("prefill, tok/s", f"{line['predicted_prompt_tps']:.4g}", f"{line['prompt_tps']:.4g}",
         f"{line['prefill_matrix_share']:.0%} of {speed}"),
        ("decode, tok/s", f"{line['predicted_generation_tps']:.4g}", f"{line['generation_tps']:.4g}",
         f"{line['decode_bandwidth_share']:.0%} of {bandwidth}"),
        ("time to first token, s", "", f"{line['ttft_s']:.4g}", ""),
        ("time per output token, ms", "", f"{line['tpot_s'] * 1e3:.4g}", ""),
        ("outside the forward pass, ms a token", "", f"{line['outside_forward_s'] * 1e3:.3g}", ""),
        ("weights", "", amount(line["weight_bytes"], "B"), ""),
        ("KV cache at its peak", "", amount(line["peak_cache_bytes"], "B"), ""),
        ("peak memory", "", amount(line["peak_memory_bytes"], "B"), ""),
    ]  # fmt: skip
    if line.get("acceptance_rate") is not None:
        rows.append(("guesses accepted", "", f"{line['acceptance_rate']:.0%}", ""))
    for kind in ("prompt", "generated"):
        if cost := line.get(f"cost_per_million_{kind}_tokens"):
            rows.append((f"cost of a million {kind} tokens", "", f"{cost:.4g}", ""))
    return f"{title(line)}\n\n{table(rows)}"
