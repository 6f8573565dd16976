"""`tinyinfer bench --workload`: requests that arrive over time, and what each of them and all together experienced.

The requests come from a file (JSONL), from the package, or are drawn by flags (`synthetic`). The same figures are shown
for one setting, for two side by side, and for a sweep over seats (the price of batching: everybody's time per token
beside the throughput of all) or over arrival rates (latency against load).
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.measure import Round
from tinyinfer.cli.tables import table

if TYPE_CHECKING:
    from tinyinfer.engine.config import EngineConfig
    from tinyinfer.measure.workload import Request

SYNTHETIC = {"requests": 16, "prompt_lengths": "128", "output_lengths": "64", "arrival_rate": None, "shared_prefix": 0,
             "workload_seed": 0}  # fmt: skip


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What to replay, and over what to sweep."""
    add = parser.add_argument_group("workloads").add_argument
    add("--workload", metavar="FILE",
        help="replay requests instead: a JSONL file, the name of a ready one (tinyinfer/workloads), or 'synthetic'; "
             'a line is {"prompt": TEXT} or {"prompt_token_ids": [...]} or {"prompt_tokens": N, "shared_prefix": M, '
             '"prefix_group": NAME}, with "max_tokens": N and "arrival": SECONDS')  # fmt: skip
    add("--sweep-batch", metavar="N,N,...", help="run it with so many sequences at a time (max_num_seqs)")
    add("--sweep-rate", metavar="X,X,...", help="run a synthetic one at these arrival rates")


def add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    """What a synthetic workload is drawn from."""
    add = parser.add_argument_group("synthetic workloads").add_argument
    add("--requests", type=int, metavar="N", help="how many (default: 16)")
    add("--prompt-lengths", metavar="DIST",
        help="tokens of a prompt: 100, uniform:16-128 or lognormal:48,0.8 (median, sigma) (default: 128)")  # fmt: skip
    add("--output-lengths", metavar="DIST", help="tokens generated for each, in the same way (default: 64)")
    add("--arrival-rate", type=float, metavar="X", help="arrivals a second, Poisson (default: all at once)")
    add("--shared-prefix", type=int, metavar="N", help="tokens that all prompts begin with, before their own ones")
    add("--workload-seed", type=int, metavar="N", help="draws lengths and arrivals (default: 0)")


# What is asked for.


def check_arguments(args: argparse.Namespace) -> None:
    """Refuses flags of another kind of work, and numbers that make no sense. Raises ValueError."""
    synthetic = args.workload == "synthetic"
    if args.sweep_batch and not args.workload:
        raise ValueError("--sweep-batch needs a workload; add --workload synthetic, or use --against='-b 16'")
    if args.sweep_rate and not synthetic:
        raise ValueError("--sweep-rate needs arrivals that can be drawn; add --workload synthetic")
    for name in SYNTHETIC if not synthetic else ():
        if getattr(args, name) is not None:
            raise ValueError(f"{words(name)} belongs to a synthetic workload; add --workload synthetic or leave it out")
    for name, least in (("requests", 1), ("shared_prefix", 0), ("workload_seed", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"{words(name)} {value} must be at least {least}")
    rate = args.arrival_rate
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"--arrival-rate {rate:g} must be a number above 0; leave it out for all at once")


def words(name: str) -> str:
    """The flag of an argument."""
    return "--" + name.replace("_", "-")


def drawn_from(args: argparse.Namespace) -> dict[str, Any]:
    """The synthetic workload's numbers, defaults filled in."""
    return {name: default if getattr(args, name) is None else getattr(args, name)
            for name, default in SYNTHETIC.items()}  # fmt: skip


def requests_of(args: argparse.Namespace) -> list[Request]:
    """The requests. Raises ValueError."""
    from tinyinfer.measure.workload import parse_lengths, read_workload, synthetic

    if args.workload != "synthetic":
        return read_workload(args.workload)
    d = drawn_from(args)
    prompt, output = (parse_lengths(d[name], words(name)) for name in ("prompt_lengths", "output_lengths"))
    return synthetic(d["requests"], prompt, output, d["arrival_rate"], d["shared_prefix"], d["workload_seed"])


def swept(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """The command line for each value of the sweep, by its name. Raises ValueError."""
    by_rate = args.sweep_rate is not None
    flag, text = ("--sweep-rate", args.sweep_rate) if by_rate else ("--sweep-batch", args.sweep_batch)
    kind: Callable[[str], float] = float if by_rate else int
    try:
        values = [kind(word) for word in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value < math.inf for value in values):
        raise ValueError(f"{flag} {text!r} must be numbers above 0 with commas between them, such as 1,4,16")
    field, unit = ("arrival_rate", "/s") if by_rate else ("max_num_seqs", " at a time")
    return {f"{value:g}{unit}": argparse.Namespace(**vars(args) | {field: value}) for value in values}


# Figures.


def figures(
    done: Round, price_per_hour: float | None, config: EngineConfig, max_model_len: int
) -> dict[str, float | None]:
    """Every figure of a round by a flat name: ttft_p50_s, gap_max_s, output_tps, ..."""
    from tinyinfer.engine.metrics import expected_waste, fullest, lengths_held, run_metrics

    flat: dict[str, float | None] = {}
    for name, value in asdict(run_metrics(done.sequences, done.steps, price_per_hour)).items():
        if isinstance(value, dict):
            flat |= {f"{name}_{part}_s": seconds for part, seconds in value.items()}
        else:
            flat[name] = value
    flat |= {"ttft_s": flat.get("ttft_p50_s"), "tpot_s": flat.get("tpot_p50_s")}
    full = fullest(done.steps)
    if full is not None and not config.prefix_cache and config.kv_bits == "off":  # else blocks are of another kind
        size = config.block_size if config.kv_cache == "paged" else max_model_len
        if lengths := lengths_held(done.steps, full):
            flat["formula_wasted_share"] = expected_waste(lengths, size)
    return flat


def medians(each: list[dict[str, float | None]]) -> dict[str, float | None]:
    """The median of each figure over the rounds in which there is one."""
    known = {name: [value for one in each if (value := one.get(name)) is not None] for one in each for name in one}
    return {name: statistics.median(values) if values else None for name, values in known.items()}


def described(args: argparse.Namespace) -> dict[str, Any]:
    """The workload, for the JSON line."""
    return {"workload": args.workload} | ({"synthetic": drawn_from(args)} if args.workload == "synthetic" else {})


# How they are shown: label, name, factor, and whether a row of zeros is worth showing.

LATENCIES = (("time to first token, s", "ttft", 1.0), ("time per output token, ms", "tpot", 1e3),
             ("gap between tokens, ms", "gap", 1e3), ("end to end, s", "e2e", 1.0),
             ("queue, s", "queue", 1.0))  # fmt: skip
ROWS = (
    ("time, s", "seconds", 1.0, True),
    ("prefill, tok/s", "prompt_tps", 1.0, True),
    ("generation, tok/s", "generation_tps", 1.0, True),
    ("output, tok/s", "output_tps", 1.0, True),
    ("prompt and output, tok/s", "total_tps", 1.0, True),
    ("time to first token, s", "ttft_s", 1.0, True),
    ("time per output token, ms", "tpot_s", 1e3, True),
    ("decode step, ms", "decode_step_s", 1e3, True),
    ("longest gap between tokens, ms", "gap_max_s", 1e3, True),
    ("end to end, s", "e2e_p50_s", 1.0, True),
    ("queue, s", "queue_p50_s", 1.0, True),
    ("steps", "steps", 1.0, True),
    ("prompt tokens computed", "computed_prompt_tokens", 1.0, True),
    ("prompt tokens from the cache", "cached_tokens", 1.0, False),
    ("tokens computed again", "recomputed_tokens", 1.0, False),
    ("rows of padding", "padding_tokens", 1.0, False),
    ("preemptions", "preemptions", 1.0, False),
    ("guesses accepted, %", "acceptance_rate", 100.0, True),
    ("KV cache, peak MB", "peak_cache_bytes", 1e-6, False),
    ("KV cache, mean MB", "mean_cache_bytes", 1e-6, False),
    ("KV cache wasted when fullest, %", "wasted_share", 100.0, True),
    ("the same by the formula, %", "formula_wasted_share", 100.0, True),
    ("cost of a million output tokens", "cost_per_million_output_tokens", 1.0, True),
    ("cost of a million tokens, prompts too", "cost_per_million_tokens", 1.0, True),
)


PER_REQUEST = ("seconds", "ttft_s", "tpot_s", "gap_max_s", "e2e_p50_s", "queue_p50_s")


def title(line: dict[str, Any]) -> str:
    """What was measured."""
    rounds = "" if line["rounds"] == 1 else f", median of {line['rounds']} rounds"
    cut = "" if line["complete"] else f", interrupted: {line['finished']} finished"
    clock = ", simulated" if line["clock"] == "simulated" else ""
    return f"{line['engine']['model']}: {line['workload']} workload of {line['requests']} requests{rounds}{clock}{cut}"


def as_text(line: dict[str, Any]) -> str:
    """Two tables: how long each request waited for what, and the figures of all together."""
    waits = [("", "mean", "p50", "p90", "p99", "max")]
    for label, name, factor in LATENCIES:
        values = [line.get(f"{name}_{part}_s") for part in waits[0][1:]]
        waits.append((label, *(number(value, factor) for value in values)))  # type: ignore[arg-type]
    asked = f"{line['prompt_tokens']} prompt and {line['generated_tokens']} output tokens"
    together = table(shown([line], per_request=False))
    return f"{title(line)}\n\n{table(waits)}\n\n{asked} in {number(line['seconds'])} s\n{together}"


def shown(lines: list[dict[str, Any]], per_request: bool = True) -> list[list[str]]:
    """The rows of a table that say something, a column for each line. per_request: whether medians are among them."""
    rows = []
    for label, name, factor, zeros in ROWS:
        values = [line.get(name) for line in lines]
        worth = any(values) or (zeros and any(value is not None for value in values))
        if worth and (per_request or name not in PER_REQUEST):
            rows.append([label, *(number(value, factor) for value in values)])
    return rows


def comparison(lines: list[dict[str, Any]]) -> str:
    """Settings side by side; of two, with the ratio of the first to the second."""
    head = ["", *(line["setting"] for line in lines)]
    if len(lines) != 2 or lines[0]["setting"] != "as given":
        return table([head, *shown(lines)])
    ratios = {label: number(lines[0][name] / lines[1][name])
              for label, name, *_ in ROWS if name in comparable(lines)}  # fmt: skip
    return table([[*head, "first/second"], *([*row, ratios.get(row[0], "")] for row in shown(lines))])


def comparable(lines: list[dict[str, Any]]) -> list[str]:
    """The names of figures that all settings have and that can be divided by one another."""
    names = [name for name in lines[0] if name in {row[1] for row in ROWS} or name.endswith(("_s", "_tps"))]
    return [name for name in names if all(isinstance(line.get(name), (int, float)) and line[name] for line in lines)]


def number(value: float | None, factor: float = 1.0) -> str:
    """Four digits, never as a power of ten."""
    if value is None:
        return ""
    value = value * factor
    if value == round(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.5f}"
