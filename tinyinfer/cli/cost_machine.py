"""The machine of `tinyinfer cost`: its speeds from files, on paper, by a small measurement or as given; its changes.

Exactly one of the four says how fast the machine is. Where the model's configuration and the machine's limits are known
too, counted work says what each optimization would make of a request.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from tinyinfer.cli import bench_cluster
from tinyinfer.cli.arguments import Parser, add_model_arguments, add_switches, engine_config, verify
from tinyinfer.cli.bench import measured_machine
from tinyinfer.cli.console import progress_bar, say
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import ModelError

if TYPE_CHECKING:
    from tinyinfer.measure.cost import Speed, Tokens
    from tinyinfer.measure.cost_levers import Lever
    from tinyinfer.measure.roofline import Machine
    from tinyinfer.measure.split import Work

LIMITS = ("read_bandwidth", "matrix_flops")  # of a machine, as bench names them
MEASURED = (1, 4, 16)  # sequences at a time
MOST_PROMPT, MOST_GENERATED = 128, 16  # tokens of a small measurement
Predict = Callable[["Speed"], "list[Lever]"]


@dataclass(frozen=True)
class Machines:
    """What is known of a machine: the model on it, its speeds, and what would change the chosen one's requests.

    price: of one GPU and an hour, where a file says it. accepted: the share of drafts that `predict` takes, if known.
    gpus: how many there are, where a cluster's file says it.
    """

    model: str
    speeds: list[Speed]
    predict: Predict = lambda speed: []
    price: float | None = None
    accepted: float | None = None
    gpus: int | None = None


def add_arguments(parser: Parser | argparse.ArgumentParser) -> None:
    """Adds the flags that say how fast a machine is."""
    add = parser.add_argument_group("how fast the machine is").add_argument
    add("--from", dest="files", nargs="+", metavar="FILE",
        help="what bench --json or bench serve --save-result wrote, a load each")  # fmt: skip
    add("--cluster", metavar="FILE", help="predict -m on the GPUs of this file, as bench --simulate --cluster does")
    add("--input-tps", type=float, metavar="X", help="input tokens a second, with --output-tps; else -m is measured")
    add("--output-tps", type=float, metavar="X", help="output tokens a second, of all sequences together")
    add("--machine", metavar="LIMITS", help="its limits, such as 37GB/s,200GFLOP/s, for what changes the cost")
    add("--accepted", type=float, metavar="PERCENT",
        help="of drafts, on your texts (generate, chat and bench with --speculative print it), to predict what they "
        "change (default: as a file of --from has it, else drafts are left out)")  # fmt: skip
    add_model_arguments(parser)
    add_switches(parser)


def machines_of(args: argparse.Namespace, tokens: Tokens, percentile: int) -> Machines:
    """How fast the machine is, by one of the four ways. Raises ValueError, ModelError."""
    typed = args.input_tps is not None or args.output_tps is not None
    ways = {"--from": args.files is not None, "--cluster": args.cluster is not None, "--input-tps": typed}
    chosen = [name for name, is_given in ways.items() if is_given]
    if len(chosen) > 1:
        raise ValueError(f"{chosen[0]} and {chosen[1]} both say how fast the machine is; give one of them")
    if args.cluster and args.machine:
        raise ValueError("--machine and --cluster both have a machine's limits; leave one of them out")
    if typed:
        return as_typed(args, tokens)
    if args.files:
        return from_files(args, tokens, percentile)
    return on_paper(args, tokens) if args.cluster else measured(args, tokens, percentile)


def as_typed(args: argparse.Namespace, tokens: Tokens) -> Machines:
    """The speeds of the command line."""
    from tinyinfer.measure.cost import Speed
    from tinyinfer.measure.roofline import parse_machine

    for flag, value in (("--input-tps", args.input_tps), ("--output-tps", args.output_tps)):
        if value is None or not 0 < value < float("inf"):
            raise ValueError(f"{flag} must be a number above 0; give both --input-tps and --output-tps")
    name = args.model if "model" in args.given else "a model"
    found = Machines(name, [Speed(args.input_tps, args.output_tps)])
    if args.machine is None:
        return found
    work = work_of(args.model, engine_config(args), tokens)
    return predicting(found, work, parse_machine(args.machine), tokens, accepted_of(args), args.model)


# From what bench has written.


def from_files(args: argparse.Namespace, tokens: Tokens, percentile: int) -> Machines:
    """The speeds in files, and the limits of the machine that a file of `bench` has beside them."""
    from tinyinfer.measure.cost_speeds import positive, read_lines, speeds_of
    from tinyinfer.measure.roofline import Machine, parse_machine

    lines = [(path, line) for path in args.files for line in read_lines(path)]
    speeds = [speed for path, line in lines for speed in speeds_of(line, path, percentile)]
    silent = [line for _, line in lines if "total_input_tokens" in line and line.get("total_cached_tokens") is None]
    if tokens.cached and silent:
        say("tinyinfer: note: the server did not say which input its prefix cache had, so a load with a cached prefix "
            "counts it as computed; --cached-tokens takes it off a second time")  # fmt: skip
    if any("frontier" in line for _, line in lines):
        say("tinyinfer: note: the file holds the splits of the frontier alone; for a small load fewer GPUs may cost "
            "less, so give -m and --cluster, which compare all splits that fit")  # fmt: skip
    names = dict.fromkeys(name_of(line, path) for path, line in lines)
    if len(names) > 1:
        raise ValueError(f"--from has several models ({', '.join(names)}); one machine is compared at a time")
    path, line = lines[0]
    prices = [positive(line, "price_per_gpu_hour", path) for path, line in lines if line.get("price_per_gpu_hour")]
    found = Machines(next(iter(names)), speeds, price=prices[0] if prices else None)
    if "read_bandwidth" not in line:
        return found
    machine, engine = Machine(*(positive(line, name, path) for name in LIMITS)), engine_of(line, path)
    machine = parse_machine(args.machine) if args.machine else machine
    try:
        work = work_of(found.model, engine, tokens)
    except ModelError as error:
        say(f"tinyinfer: note: what changes the cost is left out: {error}")
        return found
    return predicting(found, work, machine, tokens, accepted_of(args, line, path))


def name_of(line: dict[str, Any], path: str) -> str:
    """The model in a file's line. Raises ValueError for an engine that names none."""
    if "engine" not in line:
        return str(line.get("model_id", "a model"))
    if not isinstance(line["engine"], dict) or "model" not in line["engine"]:
        raise ValueError(f"{path}: engine is {str(line['engine'])[:40]}, and must name a model; measure again")
    return str(line["engine"]["model"])


def engine_of(line: dict[str, Any], path: str) -> EngineConfig:
    """The switches in a line of `bench`. Raises ValueError for those of another version."""
    known = {one.name for one in fields(EngineConfig)}
    given = {name: value for name, value in line["engine"].items() if name != "model"}
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"{path}: {unknown[0]} is no switch of this version; measure again")
    return EngineConfig(**given)


# On paper, and by a small measurement.


def work_of(model: str, engine: EngineConfig, tokens: Tokens) -> Work:
    """The request as work of a model whose weights are not read. Raises ValueError where the context is too short."""
    from tinyinfer.engine.engine import context_length
    from tinyinfer.measure.split import Work

    config = bench_cluster.configuration(model)
    prompt, generated = max(1, round(tokens.input)), max(2, round(tokens.written))
    longest = context_length(config, engine.max_model_len)
    if prompt + generated > longest:
        raise ValueError(f"a request of {prompt} + {generated} tokens is longer than the context of {longest} "
                         f"of {model}; give fewer tokens, or another model")  # fmt: skip
    return Work(config, engine, prompt, generated)


def on_paper(args: argparse.Namespace, tokens: Tokens) -> Machines:
    """The splits of a model that fit on GPUs that need not exist; a machine is the GPUs of one replica.

    All of them and not the frontier alone: for a small load fewer GPUs cost less, though each does less, too.
    """
    from tinyinfer.measure.cluster import read_cluster
    from tinyinfer.measure.cost_levers import levers
    from tinyinfer.measure.cost_speeds import of_split
    from tinyinfer.measure.frontier import explore, record

    verify(args)
    engine = engine_config(args)
    bench_cluster.check_engine(engine)
    cluster, work = read_cluster(args.cluster), work_of(args.model, engine, tokens)
    accepted = accepted_of(args)
    frontier = explore(work, cluster, bench_cluster.given(args))
    if not frontier.fitting:
        raise ValueError(f"{args.model} does not fit into {cluster.name}; give more GPUs or --quantize int4")
    speeds = [of_split(record(one, None), args.cluster) for one in frontier.fitting]

    def predict(chosen: Speed) -> list[Lever]:
        one = frontier.fitting[speeds.index(chosen)]
        n = max(1, one.sequences // one.split.dp)
        return levers(work, cluster, replace(one.split, dp=1), tokens, n, accepted)

    return Machines(args.model, speeds, predict, cluster.price_per_hour, accepted, cluster.gpus)


def measured(args: argparse.Namespace, tokens: Tokens, percentile: int) -> Machines:
    """The speeds of this machine, by one short round with one sequence at a time, and with several."""
    from tinyinfer.measure.bench import Plan, open_settings, run_rounds
    from tinyinfer.measure.cost_speeds import speeds_of
    from tinyinfer.measure.phases import record
    from tinyinfer.measure.roofline import parse_machine
    from tinyinfer.measure.workload import Request

    verify(args)
    engine = engine_config(args)
    prompt = min(MOST_PROMPT, max(1, round(tokens.computed)))
    generated = min(MOST_GENERATED, max(2, round(tokens.written)))
    request = Request(generated, random_tokens=prompt, where="the measurement")
    sizes = [n for n in MEASURED if n <= engine.max_num_seqs]
    settings = open_settings({f"{n}": Plan(args.model, engine, [request] * n) for n in sizes}, args.opener)
    rounds, finished = run_rounds(settings, 1, progress=progress_bar)
    if not finished:
        raise KeyboardInterrupt
    machine = parse_machine(args.machine) if args.machine else measured_machine(args)
    lines = [record(setting, mine, {"batch": n}, machine)
             for n, setting, mine in zip(sizes, settings, rounds, strict=True)]  # fmt: skip
    say(f"tinyinfer: note: measured with {prompt} tokens in and {generated} out; longer requests are slower")
    speeds = [speed for line in lines for speed in speeds_of(line, args.model, percentile)]
    longest = settings[0].llm.max_model_len
    if tokens.input + tokens.written > longest:
        say(f"tinyinfer: note: what changes the cost is left out: the context holds {longest} tokens")
        return Machines(args.model, speeds)
    work = work_of(args.model, engine, tokens)
    return predicting(Machines(args.model, speeds), work, machine, tokens, accepted_of(args, lines[0]))


def accepted_of(args: argparse.Namespace, line: dict[str, Any] | None = None, where: str = "") -> float | None:
    """The share of drafts that are accepted: as given, else as measured. Raises ValueError for what is no share."""
    measured = (line or {}).get("acceptance_rate")
    if args.accepted is not None or measured is None:
        return None if args.accepted is None else args.accepted / 100
    if not isinstance(measured, int | float) or isinstance(measured, bool) or not 0 <= measured <= 1:
        raise ValueError(f"{where}: acceptance_rate is {measured!r}, and must be a share, from 0 to 1; measure again")
    return float(measured)


def predicting(
    found: Machines, work: Work, machine: Machine, tokens: Tokens, accepted: float | None, model: str | None = None
) -> Machines:
    """What changes a request on one machine, with as many at a time as were measured."""
    from tinyinfer.measure.cost_levers import alone, levers
    from tinyinfer.measure.split import Split

    def predict(chosen: Speed) -> list[Lever]:
        words = chosen.name.split()
        n = int(words[0]) if words[0].isdigit() else 1
        return levers(work, alone(machine), Split(1), tokens, n, accepted)

    return replace(found, model=model or found.model, predict=predict, accepted=accepted)
