"""`tinyinfer bench --simulate --cluster FILE`: what a model would do on GPUs that need not exist.

Nothing is run and no weight is read: of the model its configuration is enough, a config.json. measure/split.py
predicts, measure/frontier.py compares; this file only asks and shows.
"""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.arguments import dashed, engine_config, verify
from tinyinfer.cli.bench_workload import SYNTHETIC
from tinyinfer.cli.console import notes, show, show_json

if TYPE_CHECKING:
    from tinyinfer.engine.config import EngineConfig
    from tinyinfer.measure.split import Split, Work
    from tinyinfer.model.config import ModelConfig

OF_A_RUN = ("against", "workload", "sweep_batch", "sweep_rate", "rounds", "machine", *SYNTHETIC)
UNKNOWN = ("quantize_rules", "prune", "drop_layers", "width", "keep_kv_heads", "keep_hidden")  # switches left out
SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that name a cluster and a latency."""
    add = parser.add_argument_group("a cluster on paper").add_argument
    add("--cluster", metavar="FILE",
        help="with --simulate: predict every split of the model on the GPUs that this JSON file describes (such as "
             "docs/clusters/h100.json), or the one that -tp names, and show the frontier of latency and cost; -b: "
             "sequences at once (default: 1, 2, 4, ... for each replica)")  # fmt: skip
    add("--tpot", type=float, metavar="MS", help="mark the cheapest split of at most so much time per output token")


def run(args: argparse.Namespace) -> int:
    """Shows the frontier. Exit status 0. Raises ValueError or ModelError for what cannot be predicted."""
    from tinyinfer.measure.cluster import read_cluster
    from tinyinfer.measure.frontier import explore, report
    from tinyinfer.measure.tables import cluster_text

    check(args)
    cluster = read_cluster(args.cluster)
    if args.price_per_hour is not None:
        cluster = replace(cluster, price_per_hour=args.price_per_hour)
    work, tpot = work_of(args), None if args.tpot is None else args.tpot / 1e3
    frontier = explore(work, cluster, given(args), args.batch)
    if not frontier.best:
        missing = min(one.missing_bytes for one in frontier.predictions)
        cure = "give more GPUs, fewer sequences (-b), shorter ones (-p, -g), --dtype bfloat16 or --quantize int4"
        raise ValueError(f"{args.model} does not fit: each GPU lacks {missing / 1e9:.3g} GB at least; {cure}")
    line = report(args.model, work, cluster, frontier, args.batch, tpot)
    if args.plot:
        from tinyinfer.measure.figures import draw_frontier

        draw_frontier(args.plot, os.path.basename(args.model).removesuffix(".json"), cluster.name, frontier, tpot)
    show_json(line) if args.json else show(cluster_text(line) + "\n")
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuses flags that a prediction has no use for. Raises ValueError."""
    if not args.simulate:
        raise ValueError("--cluster predicts on paper, and nothing is run; add --simulate")
    for name in OF_A_RUN:
        if getattr(args, name) is not None:
            flag = "-n/--rounds" if name == "rounds" else dashed(name)
            raise ValueError(f"{flag} belongs to a run, and --cluster predicts on paper; leave one of them out")
    if args.tpot is not None and not (math.isfinite(args.tpot) and args.tpot > 0):
        raise ValueError(f"--tpot {args.tpot:g} must be a number of milliseconds above 0")
    check_engine(engine_config(args))


def check_engine(engine: EngineConfig) -> None:
    """Refuses switches that a prediction does not know. Raises ValueError."""
    if engine.kv_cache == "none" or engine.speculative != "off":
        flag = "--kv-cache none" if engine.kv_cache == "none" else f"--speculative {engine.speculative}"
        raise ValueError(f"{flag} makes other steps than --cluster predicts: one row for each sequence; leave it out")
    for name in UNKNOWN:
        if getattr(engine, name) not in (None, "off"):
            raise ValueError(f"{dashed(name)} names parts of a whole model, and --cluster divides it; leave it out")
    if engine.quantize == "keep":
        raise ValueError("--quantize keep needs the file's weights, and --cluster reads none; say int8 or int4")


def work_of(args: argparse.Namespace) -> Work:
    """What is asked of the model. Raises ValueError for sequences that it was not made for, or of no size."""
    from tinyinfer.engine.engine import context_length
    from tinyinfer.measure.split import Work

    prompt = 512 if args.prompt_tokens is None else args.prompt_tokens
    generated = 128 if args.generated_tokens is None else args.generated_tokens
    for flag, value, least in (("-p", prompt, 1), ("-g", generated, 2), ("-b", args.batch, 1)):
        if value is not None and value < least:
            raise ValueError(f"{flag} {value} must be at least {least}")
    verify(args)
    config, engine = configuration(args.model), engine_config(args)
    longest = context_length(config, engine.max_model_len)
    if prompt + generated > longest:
        raise ValueError(f"-p {prompt} -g {generated}: make {prompt + generated}, but the context holds {longest}")
    return Work(config, engine, prompt, generated)


def configuration(model: str) -> ModelConfig:
    """The configuration of a model, of which no weight is read: config.json alone is enough."""
    from tinyinfer.loading import load
    from tinyinfer.loading.hf_config import config_file, read_config
    from tinyinfer.loading.hub import find

    with notes():
        path = os.path.expanduser(model)
        if config_file(path).is_file():
            return read_config(path)
        return load(find(model)).config


def given(args: argparse.Namespace) -> Split | None:
    """The split of the command line; None where no number of it is larger than 1, so that all are tried."""
    from tinyinfer.measure.split import Split

    numbers: list[Any] = [getattr(args, name, 1) for name in SIZES]
    return Split(*numbers) if any(number != 1 for number in numbers) else None
