"""`tinyinfer bench`: what the roofline predicts beside what the clock says, both from the same run.

Prompts are fixed random tokens and end tokens are ignored, so the work is the same everywhere. A short untimed round
runs first: it brings weights and code into memory. Figures are medians over the rounds. The clock says how fast a
machine was today; the share of the roofline reached says how good the code is. --workload replays requests that arrive
over time instead (bench_workload.py), --against runs a second setting in alternation with the first, and --cluster
predicts on paper (bench_cluster.py). What measures is measure/bench.py; this file only asks for it and shows it.
"""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from tinyinfer.cli import bench_cluster, bench_workload
from tinyinfer.cli.arguments import Parser, add_model_arguments, add_switches, dashed, engine_config, verify
from tinyinfer.cli.console import progress_bar, say, show, show_json
from tinyinfer.measure.tables import bench_text, comparable, workload_title

if TYPE_CHECKING:
    from tinyinfer.engine.config import EngineConfig
    from tinyinfer.measure.bench import Round, Setting
    from tinyinfer.measure.roofline import Machine
    from tinyinfer.measure.workload import Request

DEFAULTS = {"prompt_tokens": 512, "generated_tokens": 128, "batch": 1}
MOST_PROMPTS = 1_000_000  # of a round
SHORT = {"prompt_tokens": "-p", "generated_tokens": "-g", "batch": "-b"}


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer bench` and its flags to the commands."""
    about = "measure the speed, beside what the roofline predicts"
    parser = commands.add_parser("bench", help=about, description=about)
    add = parser.add_argument
    add("-n", "--rounds", type=int, metavar="N",
        help="rounds, the median of which counts (default: 3, of a workload 1)")  # fmt: skip
    add("--against", metavar="FLAGS",
        help="run a second setting in alternation: the same command line and these flags, quoted, such as "
             "--against='--kv-cache none'; shows both and the ratio")  # fmt: skip
    add("--machine", metavar="LIMITS", help="predict for this machine, such as 37GB/s,200GFLOP/s, and measure none")
    add("--simulate", action="store_true", help="run in the time that the machine would need by the roofline")
    add("--price-per-hour", type=float, metavar="X",
        help="what the machine costs, or with --cluster one GPU; shows the cost of a million tokens")  # fmt: skip
    add("--plot", metavar="FILE", help="draw what was measured into FILE (.png, .svg or .pdf)")
    add("--json", action="store_true", help="stdout holds one JSON object")
    bench_workload.add_run_arguments(parser)
    bench_cluster.add_arguments(parser)
    add_setting_arguments(parser)
    parser.set_defaults(run=run)


def add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that may differ between two settings: all that --against takes."""
    add = parser.add_argument
    add("-p", "--prompt-tokens", type=int, metavar="N", help="length of a prompt (default: 512)")
    add("-g", "--generated-tokens", type=int, metavar="N", help="tokens generated after each prompt (default: 128)")
    add("-b", "--batch", type=int, metavar="N", help="prompts in a round, side by side (default: 1)")
    bench_workload.add_setting_arguments(parser)
    add_model_arguments(parser)
    add_switches(parser)


def run(args: argparse.Namespace) -> int:
    """Measures. Exit status 0, or 130 after Ctrl-C, then with the figures so far."""
    from tinyinfer.measure.bench import Plan, open_settings, run_rounds
    from tinyinfer.measure.roofline import parse_machine

    if args.cluster is not None:
        check_run(args)
        return bench_cluster.run(args)
    lines = split_settings(args)
    machine = parse_machine(args.machine) if args.machine else None
    if args.simulate and machine is None:
        machine = measured_machine(args)
    plans = {name: Plan(one.model, engine_config(one), requests_of(one)) for name, one in lines.items()}
    for one in {(one.model, engine_config(one).second_model): one for one in lines.values()}.values():
        verify(one)
    settings = open_settings(plans, args.opener, machine if args.simulate else None)
    count = args.rounds or (1 if args.workload else 3)
    rounds, finished = run_rounds(settings, count, warm=not args.simulate, progress=progress_bar)
    if not finished:
        say(f"tinyinfer: interrupted after {sum(one.complete for one in rounds[-1])} of {count} rounds")
    measured = {setting: mine for setting, each in zip(settings, rounds, strict=True)
                if (mine := [one for one in each if has_figures(one, args)])}  # fmt: skip
    if measured:
        report(args, lines, measured, machine)
    return 0 if finished else 130


def measured_machine(args: argparse.Namespace) -> Machine:
    """The limits of the machine that the command line's backend runs on, with as many threads as the run has."""
    from tinyinfer.backends.switches import make_ops
    from tinyinfer.ledger import Ledger
    from tinyinfer.measure.roofline import machine_of

    engine = engine_config(args)
    return machine_of(make_ops(engine, Ledger()), threads_of(engine))


def threads_of(engine: EngineConfig) -> int | None:
    """The threads of all ranks of a model together, whose work the ledger counts; None: as many as there are."""
    return engine.threads and engine.threads * engine.num_ranks


def machines_of(settings: Collection[Setting]) -> dict[Setting, Machine]:
    """The limits of the machine that each setting runs on: the processor's and the GPU's are measured once each."""
    from tinyinfer.measure.roofline import machine_of

    found: dict[str, Machine] = {}
    for llm in (setting.llm for setting in settings):
        if llm.ops.xp.__name__ not in found:
            found[llm.ops.xp.__name__] = machine_of(llm.ops, threads_of(llm.engine_config))
    return {setting: found[setting.llm.ops.xp.__name__] for setting in settings}


def has_figures(done: Round, args: argparse.Namespace) -> bool:
    """Whether a round can be reported: a whole one, or of a workload what was generated before Ctrl-C."""
    return done.complete or bool(args.workload and any(seq.timing.times for seq in done.sequences))


def report(
    args: argparse.Namespace,
    lines: dict[str, argparse.Namespace],
    rounds: dict[Setting, list[Round]],
    machine: Machine | None,
) -> None:
    """Shows the figures, as a table or as JSON, and draws them. lines: each setting's command line, by its name."""
    from tinyinfer.engine.metrics import peak_memory_bytes
    from tinyinfer.measure.phases import record

    peak = peak_memory_bytes()  # before the machine is measured, which takes memory of its own
    plain = not args.workload
    machines = machines_of(rounds) if plain and machine is None else dict.fromkeys(rounds, machine)
    records = [record(setting, done, work_of(lines[setting.name]), machines[setting], args.price_per_hour, phases=plain)
               | {"peak_memory_bytes": peak} for setting, done in rounds.items()]  # fmt: skip
    if args.plot:
        draw(args, rounds, records, next(iter(machines.values())))
    line = combined(args, records, list(rounds.values()))
    show_json(line) if args.json else show(bench_text(line, records) + "\n")


def draw(
    args: argparse.Namespace,
    rounds: dict[Setting, list[Round]],
    records: list[dict[str, Any]],
    machine: Machine | None,
) -> None:
    """The figure that suits what was measured; of a plain comparison, the first setting's."""
    from tinyinfer.measure import figures, workload_figures

    if args.sweep_batch or args.sweep_rate:
        workload_figures.draw_sweep(args.plot, workload_title(records[0]), records, bool(args.sweep_rate))
    elif args.workload:
        named = {setting.name: mine[0] for setting, mine in rounds.items()}
        workload_figures.draw_workload(args.plot, workload_title(records[0]), named)
    elif machine:
        figures.draw_bench(args.plot, args.model, next(iter(rounds.values())), machine)


# What is asked for.


def split_settings(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """The command line of each setting by its name. Raises ValueError for what cannot work, before anything is read."""
    check_run(args)
    lines = {"as given": args}
    if args.against is not None:
        lines[args.against or "the same"] = with_flags(args, args.against)
    elif args.sweep_batch or args.sweep_rate:
        lines = bench_workload.swept(args)
    for one in lines.values():
        check_size(one)
        bench_workload.check_arguments(one)
    return lines


def with_flags(args: argparse.Namespace, flags: str) -> argparse.Namespace:
    """Parses further flags on top of the command line's. Raises UsageError or ValueError for wrong flags."""
    parser = Parser(prog="tinyinfer bench", add_help=False)
    add_setting_arguments(parser)
    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise ValueError(f"--against {flags!r}: {error}; quote it once more") from None
    changed, unknown = parser.parse_known_args(words, argparse.Namespace(**vars(args)))
    if unknown:
        raise ValueError(f"--against cannot change {unknown[0]!r}; it takes engine switches, the model and sizes")
    return changed


def check_run(args: argparse.Namespace) -> None:
    """Refuses what cannot work for the whole run. Raises ValueError."""
    if args.rounds is not None and args.rounds < 1:
        raise ValueError(f"-n {args.rounds} must be at least 1")
    price = args.price_per_hour
    if price is not None and not (math.isfinite(price) and price >= 0):
        raise ValueError(f"--price-per-hour={price} must be a number of at least 0")
    several = [dashed(name) for name in ("against", "sweep_batch", "sweep_rate") if getattr(args, name) is not None]
    if len(several) > 1:
        raise ValueError(f"{several[0]} and {several[1]}: give one of them")
    if args.tpot is not None and args.cluster is None:
        raise ValueError(f"--tpot {args.tpot:g} chooses among the splits of a cluster; add --simulate --cluster FILE")
    if args.plot:
        from tinyinfer.measure.figures import check_plot

        check_plot(args.plot)


def check_size(args: argparse.Namespace) -> None:
    """Refuses rounds of no size, and sizes of rounds beside a workload, which has its own. Raises ValueError."""
    for name, default in DEFAULTS.items():
        value = getattr(args, name)
        if args.workload and value is not None:
            raise ValueError(f"{SHORT[name]} {value} is the size of a round, and --workload has its own; leave it out")
        setattr(args, name, default if value is None else value)
        least = 2 if name == "generated_tokens" else 1
        if getattr(args, name) < least:
            why = " (the first token belongs to the prefill)" if least == 2 else ""
            raise ValueError(f"{SHORT[name]} {value} must be at least {least}{why}")


def requests_of(args: argparse.Namespace) -> list[Request]:
    """The requests of a round, of a workload or all alike."""
    from tinyinfer.measure.workload import Request

    if args.workload:
        return bench_workload.requests_of(args)
    if args.batch > MOST_PROMPTS:
        raise ValueError(f"{SHORT['batch']} {args.batch} must be at most {MOST_PROMPTS}")
    where = f"-p {args.prompt_tokens} -g {args.generated_tokens}"
    return [Request(args.generated_tokens, random_tokens=args.prompt_tokens, where=where)] * args.batch


# What came out.


def work_of(args: argparse.Namespace) -> dict[str, Any]:
    """Builds the work that the rounds of a setting repeat."""
    return bench_workload.described(args) if args.workload else {name: getattr(args, name) for name in DEFAULTS}


def combined(args: argparse.Namespace, records: list[dict[str, Any]], rounds: list[list[Round]]) -> dict[str, Any]:
    """The JSON line: the first setting's figures, and beside them those of the other settings."""
    from tinyinfer.measure.bench import compare_outputs

    if args.against is not None and len(records) > 1:
        first, second = records
        ratios = {key: first[key] / second[key] for key in comparable(records)}
        return first | {"against": second, "ratios": ratios, "outputs": compare_outputs(*rounds)}
    return records[0] | ({"sweep": records} if len(records) > 1 else {})
