"""`tinyinfer bench`: what the roofline predicts beside what the clock says, both from the same run.

Prompts are fixed random tokens and end tokens are ignored, so the work is the same everywhere. A short untimed round
runs first: it brings weights and code into memory. Figures are medians over the rounds. The clock says how fast a
machine was today; the share of the roofline reached says how good the code is. --workload replays requests that arrive
over time instead (bench_workload.py), and --against runs a second setting in alternation with the first (measure.py).
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tinyinfer.cli import bench_rounds, bench_workload
from tinyinfer.cli.arguments import Parser, add_model_arguments, add_switches
from tinyinfer.cli.console import say, show
from tinyinfer.cli.measure import Round, Setting, compare_outputs, open_settings, parse_machine, run_rounds

if TYPE_CHECKING:
    from tinyinfer.measure.roofline import Machine
    from tinyinfer.measure.workload import Request

DEFAULTS = {"prompt_tokens": 512, "generated_tokens": 128, "batch": 1}
SHORT = {"prompt_tokens": "-p", "generated_tokens": "-g", "batch": "-b"}


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds the command's parser."""
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
    add("--price-per-hour", type=float, metavar="X", help="what the machine costs; shows the cost of a million tokens")
    add("--plot", metavar="FILE", help="draw what was measured into FILE (.png, .svg or .pdf)")
    add("--json", action="store_true", help="stdout holds one JSON object")
    bench_workload.add_run_arguments(parser)
    add_setting_arguments(parser)
    parser.set_defaults(run=run)


def add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    """What a setting may have of its own: everything in --against."""
    add = parser.add_argument
    add("-p", "--prompt-tokens", type=int, metavar="N", help="length of a prompt (default: 512)")
    add("-g", "--generated-tokens", type=int, metavar="N", help="tokens generated after each prompt (default: 128)")
    add("-b", "--batch", type=int, metavar="N", help="prompts in a round, side by side (default: 1)")
    bench_workload.add_setting_arguments(parser)
    add_model_arguments(parser)
    add_switches(parser)


def run(args: argparse.Namespace) -> int:
    """Measures. Exit status 0, or 130 after Ctrl-C, then with the figures so far."""
    command_lines = split_settings(args)
    machine = parse_machine(args.machine) if args.machine else None
    if args.simulate and machine is None:
        machine = measured_machine(args)
    settings = open_settings(command_lines, requests_of, machine if args.simulate else None)
    count = args.rounds or (1 if args.workload else 3)
    rounds, finished = run_rounds(settings, count, warm=not args.simulate)
    if not finished:
        say(f"tinyinfer: interrupted after {sum(one.complete for one in rounds[-1])} of {count} rounds")
    told = [(setting, mine) for setting, each in zip(settings, rounds, strict=True)
            if (mine := [one for one in each if has_figures(one, args)])]  # fmt: skip
    if told:
        report(args, [setting for setting, _ in told], [mine for _, mine in told], machine)
    return 0 if finished else 130


def measured_machine(args: argparse.Namespace) -> Machine:
    """This machine."""
    from tinyinfer.measure.roofline import measure_machine

    return measure_machine(args.threads)


def has_figures(done: Round, args: argparse.Namespace) -> bool:
    """Of a workload cut short, what came so far can be told; otherwise a round counts only as a whole."""
    return done.complete or bool(args.workload and any(seq.times for seq in done.sequences))


def report(
    args: argparse.Namespace, settings: list[Setting], rounds: list[list[Round]], machine: Machine | None
) -> None:
    """Shows the figures, as a table or as JSON, and draws them."""
    from tinyinfer.engine.metrics import peak_memory_bytes

    peak = peak_memory_bytes()  # before the machine is measured, which takes memory of its own
    if not args.workload and machine is None:
        machine = measured_machine(args)
    records = [record(one, done, machine) | {"peak_memory_bytes": peak}
               for one, done in zip(settings, rounds, strict=True)]  # fmt: skip
    if args.plot:
        draw(args, settings, rounds, records, machine)
    line = combined(args, records, rounds)
    show((json.dumps(line) if args.json else as_text(args, line, records)) + "\n")


def draw(
    args: argparse.Namespace,
    settings: list[Setting],
    rounds: list[list[Round]],
    records: list[dict[str, Any]],
    machine: Machine | None,
) -> None:
    """The figure that suits what was measured; of a plain comparison, the first setting's."""
    from tinyinfer.cli import plots, workload_plots

    if args.sweep_batch or args.sweep_rate:
        workload_plots.draw_sweep(args.plot, bench_workload.title(records[0]), records, bool(args.sweep_rate))
    elif args.workload:
        named = {setting.name: mine[0] for setting, mine in zip(settings, rounds, strict=True)}
        workload_plots.draw_workload(args.plot, bench_workload.title(records[0]), named)
    elif machine:
        plots.draw_bench(args.plot, args.model, rounds[0], machine)


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
    """The command line with further flags. Raises UsageError, ValueError."""
    parser = Parser(prog="tinyinfer bench", add_help=False)
    add_setting_arguments(parser)
    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise ValueError(f"--against {flags!r}: {error}; quote it once more") from None
    found, unknown = parser.parse_known_args(words, argparse.Namespace(**vars(args)))
    if unknown:
        raise ValueError(f"--against cannot change {unknown[0]!r}; it takes engine switches, the model and sizes")
    return found


def check_run(args: argparse.Namespace) -> None:
    """Refuses what cannot work for the whole run. Raises ValueError."""
    if args.rounds is not None and args.rounds < 1:
        raise ValueError(f"-n {args.rounds} must be at least 1")
    price = args.price_per_hour
    if price is not None and not (math.isfinite(price) and price >= 0):
        raise ValueError(f"--price-per-hour={price} must be a number of at least 0")
    several = [flag for flag in ("against", "sweep_batch", "sweep_rate") if getattr(args, flag) is not None]
    if len(several) > 1:
        raise ValueError(f"--{several[0].replace('_', '-')} and --{several[1].replace('_', '-')}: give one of them")
    if args.plot:
        from tinyinfer.cli.plots import check_plot

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
    """The work of a round."""
    from tinyinfer.measure.workload import Request

    if args.workload:
        return bench_workload.requests_of(args)
    where = f"-p {args.prompt_tokens} -g {args.generated_tokens}"
    return [Request(args.generated_tokens, random_tokens=args.prompt_tokens, where=where)] * args.batch


# What came out.


def record(setting: Setting, rounds: list[Round], machine: Machine | None) -> dict[str, Any]:
    """What the JSON line of a setting holds: the median of each figure over the rounds, and what was measured."""
    args, llm = setting.args, setting.llm
    each = [bench_workload.figures(done, args.price_per_hour, llm.engine_config, llm.max_model_len) for done in rounds]
    if machine and not args.workload:
        each = [{**one, **bench_rounds.figures(done, machine)}
                for one, done in zip(each, rounds, strict=True)]  # fmt: skip
    line: dict[str, Any] = {"setting": setting.name, **bench_workload.medians(each)}
    if not args.workload:
        line |= bench_rounds.costs(line, args.price_per_hour)
    if machine:
        line |= {"read_bandwidth": machine.read_bandwidth, "matrix_flops": machine.matrix_speed}
    line |= bench_workload.described(args) if args.workload else {name: getattr(args, name) for name in DEFAULTS}
    return line | {
        "weight_bytes": llm.model.nbytes,
        "clock": "simulated" if args.simulate else "wall",
        "rounds": len(rounds),
        "complete": all(done.complete for done in rounds),
        "ledger": rounds[-1].ledger.as_dict(),  # of one round; all do the same work
        "engine": {"model": args.model, **asdict(llm.engine_config)},
    }


def combined(args: argparse.Namespace, records: list[dict[str, Any]], rounds: list[list[Round]]) -> dict[str, Any]:
    """The JSON line: the first setting's figures, and beside them the others'."""
    if args.against is not None and len(records) > 1:
        first, second = records
        ratios = {key: first[key] / second[key] for key in bench_workload.comparable(records)}
        return first | {"against": second, "ratios": ratios, "outputs": compare_outputs(*rounds)}
    return records[0] | ({"sweep": records} if len(records) > 1 else {})


# How they are shown.


def as_text(args: argparse.Namespace, line: dict[str, Any], records: list[dict[str, Any]]) -> str:
    """Tables."""
    kind = bench_workload if args.workload else bench_rounds
    if len(records) == 1:
        return kind.as_text(line)
    outputs = f"\n\noutputs: {line['outputs']}" if line.get("outputs") else ""
    return f"{kind.title(line)}\n\n{bench_workload.comparison(records)}{outputs}"
