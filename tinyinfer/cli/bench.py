"""`tinyinfer bench`: what the roofline predicts beside what the clock says, both from the same run.

Prompts are fixed random tokens and end tokens are ignored, so the work is the same everywhere. One whole round runs
first, untimed: it brings weights and code into memory. Figures are medians over the rounds. The clock says how fast a
machine was today; the share of the roofline reached says how good the code is.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.arguments import add_model_arguments, add_switches, open_model
from tinyinfer.cli.console import ProgressBar, say, show
from tinyinfer.cli.tables import amount, table

if TYPE_CHECKING:
    from tinyinfer.ledger import Ledger
    from tinyinfer.llm import LLM
    from tinyinfer.metrics import RequestMetrics
    from tinyinfer.roofline import Machine
    from tinyinfer.trace import StepTrace

SEED = 0  # of the prompts


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds the command's parser."""
    about = "measure the speed, beside what the roofline predicts"
    parser = commands.add_parser("bench", help=about, description=about)
    add = parser.add_argument
    add("-p", "--prompt-tokens", type=int, default=512, metavar="N", help="length of a prompt (default: %(default)s)")
    add("-g", "--generated-tokens", type=int, default=128, metavar="N",
        help="tokens generated after each prompt (default: %(default)s)")  # fmt: skip
    add("-b", "--batch", type=int, default=1, metavar="N", help="prompts in a round (default: %(default)s)")
    add("-n", "--rounds", type=int, default=3, metavar="N",
        help="rounds, the median of which counts (default: %(default)s)")  # fmt: skip
    add("--price-per-hour", type=float, metavar="X", help="what the machine costs; shows the cost of a million tokens")
    add("--plot", metavar="FILE", help="draw roofline and step times into FILE (.png, .svg or .pdf)")
    add("--json", action="store_true", help="stdout holds one JSON object")
    add_model_arguments(parser)
    add_switches(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures. Exit status 0, or 130 after Ctrl-C, then with the rounds so far."""
    check_arguments(args)
    llm = open_model(args)
    check_context(args, llm)
    from tinyinfer.metrics import peak_memory_bytes
    from tinyinfer.roofline import measure_machine

    rounds, finished = run_rounds(llm, args)
    peak = peak_memory_bytes()  # before the machine is measured, which takes memory of its own
    if not rounds:
        return 130
    machine = measure_machine(llm.engine_config.threads)
    line = record(args, llm, rounds, machine) | {"peak_memory_bytes": peak}
    if args.plot:
        from tinyinfer.cli.plots import draw_bench

        draw_bench(args.plot, args.model, rounds, machine)
    show((json.dumps(line) if args.json else as_text(line)) + "\n")
    return 0 if finished else 130


def check_arguments(args: argparse.Namespace) -> None:
    """Refuses what cannot work, before anything is loaded. Raises ValueError."""
    least = {"-p": (args.prompt_tokens, 1), "-g": (args.generated_tokens, 2), "-b": (args.batch, 1),
             "-n": (args.rounds, 1)}  # fmt: skip
    for name, (value, low) in least.items():
        if value < low:
            why = " (the first token belongs to the prefill)" if name == "-g" else ""
            raise ValueError(f"{name} {value} must be at least {low}{why}")
    price = args.price_per_hour
    if price is not None and not (math.isfinite(price) and price >= 0):
        raise ValueError(f"--price-per-hour={price} must be a number of at least 0")
    if args.plot:
        from tinyinfer.cli.plots import check_plot

        check_plot(args.plot)


def check_context(args: argparse.Namespace, llm: LLM) -> None:
    """Refuses a round that does not fit into the context. Raises ValueError."""
    asked = args.prompt_tokens + args.generated_tokens
    if asked > llm.max_model_len:
        raise ValueError(f"-p {args.prompt_tokens} and -g {args.generated_tokens} make {asked} tokens, but the context "
                         f"holds {llm.max_model_len}; make one of them smaller")  # fmt: skip


# Measuring.


@dataclass(frozen=True)
class Round:
    """One round: its steps, how long each took (from the end of the one before to its own), and each request."""

    steps: list[StepTrace]
    seconds: list[float]
    metrics: list[RequestMetrics]
    ledger: Ledger


def run_rounds(llm: LLM, args: argparse.Namespace) -> tuple[list[Round], bool]:
    """The rounds after an untimed one; False beside them when Ctrl-C cut them short."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    prompts = rng.integers(0, llm.config.vocab_size, (args.batch, args.prompt_tokens)).tolist()
    rounds: list[Round] = []
    try:
        for i in range(args.rounds + 1):
            title = f"round {i} of {args.rounds}" if i else "warming up"
            done = run_round(llm, prompts, args.generated_tokens, title)
            rounds += [done] if i else []
    except KeyboardInterrupt:
        say(f"tinyinfer: interrupted after {len(rounds)} of {args.rounds} rounds")
        return rounds, False
    return rounds, True


def run_round(llm: LLM, prompts: list[list[int]], new: int, title: str) -> Round:
    """Generates `new` tokens after each prompt."""
    from tinyinfer.metrics import request_metrics
    from tinyinfer.sampling import SamplingParams

    sequences = llm.sequences(prompts, SamplingParams(max_tokens=new, ignore_eos=True))
    before, steps, ends = llm.ledger.copy(), [], [llm.engine.clock()]
    with ProgressBar(title) as bar:
        for step in llm.engine.run(sequences):
            steps.append(step)
            ends.append(step.times[2])
            bar.show(sum(len(seq.new_tokens) for seq in sequences), new * len(prompts))
    seconds = [end - begin for begin, end in pairwise(ends)]
    return Round(steps, seconds, [request_metrics(seq) for seq in sequences], llm.ledger - before)


def is_prefill(step: StepTrace) -> bool:
    """Whether a step computes a prompt; one that only adds tokens after prompts is decode."""
    return any(span.first + span.stop - span.start <= len(span.seq.prompt) for span in step.batch.spans)


# Figures.


@dataclass(frozen=True)
class Phase:
    """All prefill steps of a round together, or all decode steps. tokens: prompt tokens, or tokens generated."""

    tokens: int
    seconds: float
    predicted: float  # seconds, by the roofline
    flops: int
    bytes_moved: int


def phase(done: Round, prefill: bool, machine: Machine) -> Phase:
    """One phase of a round."""
    from tinyinfer.roofline import predict_seconds

    chosen = [i for i, step in enumerate(done.steps) if is_prefill(step) == prefill]
    ledgers = [done.steps[i].ledger for i in chosen]
    prompt = sum(m.prompt_tokens for m in done.metrics)
    return Phase(
        tokens=prompt if prefill else sum(len(done.steps[i].choices) for i in chosen),
        seconds=sum(done.seconds[i] for i in chosen),
        predicted=sum(predict_seconds(ledger, machine) for ledger in ledgers),
        flops=sum(ledger.flops for ledger in ledgers),
        bytes_moved=sum(ledger.bytes_moved for ledger in ledgers),
    )


def figures(done: Round, machine: Machine) -> dict[str, float]:
    """What one round says. outside_forward_s: per generated token, between one forward pass's end and the next."""
    prefill, decode = phase(done, True, machine), phase(done, False, machine)
    outside = [
        (seconds - (step.times[1] - step.times[0])) / len(step.choices)
        for step, seconds in zip(done.steps, done.seconds, strict=True)
        if not is_prefill(step)
    ]
    return {
        "prompt_tps": prefill.tokens / prefill.seconds,
        "predicted_prompt_tps": prefill.tokens / prefill.predicted,
        "generation_tps": decode.tokens / decode.seconds,
        "predicted_generation_tps": decode.tokens / decode.predicted,
        "ttft_s": statistics.median(m.ttft_s or 0.0 for m in done.metrics),
        "tpot_s": statistics.median(m.tpot_s or 0.0 for m in done.metrics),
        "prefill_seconds": prefill.seconds,
        "predicted_prefill_seconds": prefill.predicted,
        "prefill_matrix_share": prefill.flops / prefill.seconds / machine.matrix_speed,
        "decode_bandwidth_share": decode.bytes_moved / decode.seconds / machine.read_bandwidth,
        "outside_forward_s": statistics.median(outside),
    }


def record(args: argparse.Namespace, llm: LLM, rounds: list[Round], machine: Machine) -> dict[str, Any]:
    """What the JSON line holds: the median of each figure over the rounds, and what it was measured on."""
    each = [figures(done, machine) for done in rounds]
    line: dict[str, Any] = {key: statistics.median(one[key] for one in each) for key in each[0]}
    line |= {
        "weight_bytes": llm.model.nbytes,
        "read_bandwidth": machine.read_bandwidth,
        "matrix_flops": machine.matrix_speed,
        "prompt_tokens": args.prompt_tokens,
        "generated_tokens": args.generated_tokens,
        "batch": args.batch,
        "rounds": len(rounds),
        "ledger": rounds[-1].ledger.as_dict(),  # of one round; all are the same
        "engine": {"model": args.model, **asdict(llm.engine_config)},
    }
    if args.price_per_hour is not None:
        line["cost_per_million_prompt_tokens"] = cost_per_million(args.price_per_hour, line["prompt_tps"])
        line["cost_per_million_generated_tokens"] = cost_per_million(args.price_per_hour, line["generation_tps"])
    return line


def cost_per_million(price_per_hour: float, tokens_per_second: float) -> float:
    """What a million tokens cost at that pace, in the currency of the price."""
    return price_per_hour / 3600 / tokens_per_second * 1e6


# How they are shown.


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
        ("peak memory", "", amount(line["peak_memory_bytes"], "B"), ""),
    ]  # fmt: skip
    if "cost_per_million_prompt_tokens" in line:
        rows.append(("cost of a million prompt tokens", "", f"{line['cost_per_million_prompt_tokens']:.4g}", ""))
        rows.append(("cost of a million generated tokens", "", f"{line['cost_per_million_generated_tokens']:.4g}", ""))
    asked = f"{line['prompt_tokens']} prompt and {line['generated_tokens']} generated tokens"
    rounds = "one round" if line["rounds"] == 1 else f"median of {line['rounds']} rounds"
    title = f"{line['engine']['model']}: {line['batch']} x ({asked}), {rounds}"
    return f"{title}\n\n{table(rows)}"
