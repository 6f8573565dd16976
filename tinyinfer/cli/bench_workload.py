"""The flags of `tinyinfer bench --workload`: requests that arrive over time, and how long each of them waits.

The requests come from a file (JSONL), from the package, or are drawn by flags (`synthetic`). A sweep over max_num_seqs
shows the price of batching (the time per token of each request beside the throughput of all), a sweep over arrival
rates shows latency against load.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.arguments import dashed

if TYPE_CHECKING:
    from tinyinfer.measure.workload import Request

SYNTHETIC = {"requests": 16, "prompt_lengths": "128", "output_lengths": "64", "arrival_rate": None, "shared_prefix": 0,
             "workload_seed": 0}  # fmt: skip


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that choose the workload to replay, and the settings to sweep over."""
    add = parser.add_argument_group("workloads").add_argument
    add("--workload", metavar="FILE",
        help="replay requests instead: a JSONL file, the name of a ready one (tinyinfer/measure/workloads), or "
             "'synthetic'; "
             'a line is {"prompt": TEXT} or {"prompt_token_ids": [...]} or {"prompt_tokens": N, "shared_prefix": M, '
             '"prefix_group": NAME}, with "max_tokens": N and "arrival": SECONDS')  # fmt: skip
    add("--sweep-batch", metavar="N,N,...", help="run it with so many sequences at a time (max_num_seqs)")
    add("--sweep-rate", metavar="X,X,...", help="run a synthetic one at these arrival rates")


def add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say how a synthetic workload is drawn."""
    add = parser.add_argument_group("synthetic workloads").add_argument
    add("--requests", type=int, metavar="N", help="how many (default: 16)")
    add("--prompt-lengths", metavar="DIST",
        help="tokens of a prompt: 100, uniform:16-128 or lognormal:48,0.8 (median, sigma) (default: 128)")  # fmt: skip
    add("--output-lengths", metavar="DIST", help="tokens generated for each, in the same way (default: 64)")
    add("--arrival-rate", type=float, metavar="X", help="arrivals a second, Poisson (default: all at once)")
    add("--shared-prefix", type=int, metavar="N", help="tokens that all prompts begin with, before their own ones")
    add("--workload-seed", type=int, metavar="N", help="draws lengths and arrivals (default: 0)")


def check_arguments(args: argparse.Namespace) -> None:
    """Refuses flags of another kind of work, and numbers that make no sense. Raises ValueError."""
    synthetic = args.workload == "synthetic"
    if args.sweep_batch and not args.workload:
        raise ValueError("--sweep-batch needs a workload; add --workload synthetic, or use --against='-b 16'")
    if args.sweep_rate and not synthetic:
        raise ValueError("--sweep-rate needs arrivals that can be drawn; add --workload synthetic")
    for name in SYNTHETIC if not synthetic else ():
        if getattr(args, name) is not None:
            cure = "add --workload synthetic or leave it out"
            raise ValueError(f"{dashed(name)} belongs to a synthetic workload; {cure}")
    for name, least in (("requests", 1), ("shared_prefix", 0), ("workload_seed", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"{dashed(name)} {value} must be at least {least}")
    rate = args.arrival_rate
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"--arrival-rate {rate:g} must be a number above 0; leave it out for all at once")


def drawn_from(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the numbers of a synthetic workload, with the defaults filled in."""
    return {name: default if getattr(args, name) is None else getattr(args, name)
            for name, default in SYNTHETIC.items()}  # fmt: skip


def requests_of(args: argparse.Namespace) -> list[Request]:
    """The requests of the workload. Raises ValueError for one that cannot be read or drawn."""
    from tinyinfer.measure.workload import parse_lengths, read_workload, synthetic

    if args.workload != "synthetic":
        return read_workload(args.workload)
    d = drawn_from(args)
    prompt, output = (parse_lengths(d[name], dashed(name)) for name in ("prompt_lengths", "output_lengths"))
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


def described(args: argparse.Namespace) -> dict[str, Any]:
    """The workload, for the JSON line."""
    return {"workload": args.workload} | ({"synthetic": drawn_from(args)} if args.workload == "synthetic" else {})
