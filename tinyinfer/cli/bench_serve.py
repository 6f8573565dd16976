"""`tinyinfer bench serve`: how long clients wait for a server that runs, this one or any other with OpenAI's API.

    tinyinfer serve                                                                in one terminal, and in another
    tinyinfer bench serve --num-prompts 64 --request-rate 4                        users who do not know of each other
    tinyinfer bench serve --num-prompts 64 --max-concurrency 8                     eight users, one after another
    tinyinfer bench serve --num-prompts 64 --sweep 6 --plot knee.png               where more load brings waits alone

Flags and figures have the names of vLLM's `bench serve`. What measures is measure/serving_client.py; this file asks for
it and shows it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.arguments import UsageError, dashed
from tinyinfer.cli.bench_loads import FROM_FILES, loads
from tinyinfer.cli.console import finite, progress_bar, say, show, show_json

if TYPE_CHECKING:
    from tinyinfer.measure.serving_client import Answered, Target
    from tinyinfer.measure.serving_requests import Ask

KEYS = ("OPENAI_API_KEY", "TINYINFER_API_KEY")
DATASETS = ("random", "prefix_repetition", *FROM_FILES)


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer bench serve` and its flags to the commands."""
    about = "measure a server that runs: waits and throughput under load"
    parser = commands.add_parser("bench serve", help=about, description=about + "; the key comes from " + KEYS[0])
    add_server(parser.add_argument_group("server").add_argument)
    add_requests(parser.add_argument_group("requests").add_argument)
    add_load(parser.add_argument_group("load").add_argument)
    add_result(parser.add_argument_group("figures").add_argument)
    parser.set_defaults(run=run)


def add_server(add: Any) -> None:
    """Where the server is, and what it is asked."""
    add("--base-url", metavar="URL", help="such as http://127.0.0.1:8000 (default: of --host and --port)")
    add("--host", default="127.0.0.1", metavar="HOST", help="(default: %(default)s)")
    add("--port", type=int, default=8000, metavar="N", help="(default: %(default)s)")
    add("--backend", choices=("openai", "openai-chat"), default="openai",
        help="completions, or chat completions, for which prompts are words (default: %(default)s)")  # fmt: skip
    add("--endpoint", metavar="PATH", help="the path that generates (default: the backend's)")
    add("-m", "--model", metavar="NAME", help="(default: the first of /v1/models)")
    add("--ignore-eos", action="store_true", help="every answer is as long as was asked")
    add("--temperature", type=float, default=0.0, metavar="X", help="(default: 0)")
    add("--extra-body", type=json_object, default={}, metavar="JSON", help="further fields of every request")
    add("--request-timeout", type=float, default=600.0, metavar="SECONDS", help="(default: 600)")


def add_requests(add: Any) -> None:
    """What requests are made of."""
    add("--dataset-name", choices=DATASETS, default="random", help="(default: %(default)s)")
    add("--dataset-path", metavar="FILE", help="of " + ", ".join(FROM_FILES))
    add("--num-prompts", type=int, default=1000, metavar="N", help="(default: %(default)s)")
    add("--random-input-len", type=int, default=1024, metavar="N", help="tokens of a prompt (default: %(default)s)")
    add("--random-output-len", type=int, default=128, metavar="N", help="tokens of an answer (default: %(default)s)")
    add("--random-range-ratio", type=float, default=0.0, metavar="X",
        help="lengths are drawn from (1-X) to (1+X) times these (default: 0)")  # fmt: skip
    add("--random-prefix-len", type=int, default=0, metavar="N", help="first tokens that all share (default: 0)")
    add("--prefix-repetition-num-prefixes", type=int, default=10, metavar="N", help="(default: %(default)s)")
    add("--prefix-repetition-prefix-len", type=int, default=256, metavar="N", help="(default: %(default)s)")
    add("--prefix-repetition-suffix-len", type=int, default=256, metavar="N", help="(default: %(default)s)")
    add("--prefix-repetition-output-len", type=int, default=128, metavar="N", help="(default: %(default)s)")
    add("--sharegpt-output-len", type=int, metavar="N", help="(default: as long as the answers that were given)")
    add("--custom-output-len", type=int, default=256, metavar="N", help="of lines that do not say (default: 256)")
    add("--seed", type=int, default=0, metavar="N", help="draws prompts, lengths and arrivals (default: 0)")


def add_load(add: Any) -> None:
    """When requests are sent."""
    add("--request-rate", type=float, default=math.inf, metavar="X", help="a second (default: inf, all at once)")
    add("--burstiness", type=float, default=1.0, metavar="X", help="1: Poisson; below it clumps (default: 1)")
    add("--max-concurrency", type=int, metavar="N", help="at most so many under way; others wait in the client")
    add("--ramp-up-strategy", choices=("linear", "exponential"), help="let the rate grow")
    add("--ramp-up-start-rps", type=float, metavar="X", help="from this rate")
    add("--ramp-up-end-rps", type=float, metavar="X", help="to this rate")
    add("--sweep", type=int, metavar="N", help="N loads: one at a time, all at once, and rates between the two")


def add_result(add: Any) -> None:
    """What is shown and kept."""
    add("--goodput", nargs="+", default=[], metavar="NAME:MS", help="count requests within ttft:MS tpot:MS e2el:MS")
    add("--percentile-metrics", default="ttft,tpot,itl,e2el", metavar="NAMES", help="shown (default: %(default)s)")
    add("--metric-percentiles", default="90,99", metavar="N,N", help="(default: %(default)s)")
    add("--save-result", action="store_true", help="write a JSON file, with the figures of each request")
    add("--result-dir", metavar="FOLDER", default=".", help="(default: here)")
    add("--result-filename", metavar="NAME", help="(default: of the rate, the model and the time)")
    add("--label", metavar="TEXT", help="kept with the figures")
    add("--plot", metavar="FILE", help="of a sweep: draw waits over throughput into FILE (.png, .svg or .pdf)")
    add("--json", action="store_true", help="stdout holds one JSON object a load")


def run(args: argparse.Namespace) -> int:
    """Measures. Exit status 0, 1 where a load had no answer, 130 after Ctrl-C, then with the figures so far."""
    check(args)
    try:
        from tinyinfer.measure import serving_client
    except ModuleNotFoundError as error:
        raise UsageError(f"bench serve needs {error.name}; pip install 'tinyinfer[serve]'") from error
    try:
        target = asyncio.run(found(args))
    except (*serving_client.NO_ANSWER, *serving_client.NO_SHAPE) as error:
        why = serving_client.words_of(error)
        cure = "start one, as in `tinyinfer serve`, or name another with --base-url"
        raise UsageError(f"there is no server that answers at {base_url(args)} ({why}); {cure}") from error
    records: list[dict[str, Any]] = []
    for name, args_of, asks in loads(args, target, records):
        done, finished = measured(target, args_of, asks, name)
        if done:
            records.append(report(args_of, target, name, done))
        if not finished:
            say(f"tinyinfer: interrupted after {len(done)} of {len(asks)} requests")
            return 130
    if args.plot:
        from tinyinfer.measure.serving_figures import draw_knee

        first, most, *between = records
        draw_knee(args.plot, f"{target.model} at {target.url}", [first, *between, most])
    return 0 if all(record["completed"] for record in records) else 1


# Before.


def check(args: argparse.Namespace) -> None:
    """Raises UsageError or SwitchError for flags that cannot be."""
    at_least_one = ["num_prompts", "random_input_len", "random_output_len", "max_concurrency", "custom_output_len"]
    at_least_one += ["sharegpt_output_len", *(f"prefix_repetition_{n}" for n in ("num_prefixes", "prefix_len"))]
    at_least_one += [f"prefix_repetition_{n}" for n in ("suffix_len", "output_len")]
    for name, least in [*((name, 1) for name in at_least_one), ("random_prefix_len", 0), ("sweep", 3)]:
        value = getattr(args, name)
        if value is not None and value < least:
            raise UsageError(f"{dashed(name)} {value} must be at least {least}")
    for name in ("request_rate", "burstiness", "request_timeout", "ramp_up_start_rps", "ramp_up_end_rps"):
        value = getattr(args, name)
        if value is not None and not (value > 0 and (value < math.inf or name == "request_rate")):
            raise UsageError(f"{dashed(name)} {value:g} must be a number above 0")
    if not 0 <= args.random_range_ratio < 1:
        raise UsageError(f"--random-range-ratio {args.random_range_ratio:g} must be from 0 to below 1")
    given = [args.ramp_up_strategy, args.ramp_up_start_rps, args.ramp_up_end_rps]
    if any(given) and not all(given):
        raise UsageError("--ramp-up-strategy needs --ramp-up-start-rps and --ramp-up-end-rps, and they need it")
    if (args.dataset_name in FROM_FILES) != (args.dataset_path is not None):
        needs = "needs" if args.dataset_path is None else "reads no"
        raise UsageError(f"--dataset-name {args.dataset_name} {needs} --dataset-path")
    if args.dataset_name == "timed_trace" and (args.request_rate < math.inf or args.ramp_up_strategy or args.sweep):
        raise UsageError("a timed_trace says itself when requests are due; leave out rates, ramps and --sweep")
    if args.sweep and (args.request_rate < math.inf or args.ramp_up_strategy or args.max_concurrency):
        raise UsageError("--sweep sets the load itself; leave out rates, ramps and --max-concurrency")
    if args.plot and not args.sweep:
        raise UsageError("--plot draws a sweep; add --sweep 6")
    percentiles_of(args), promises(args)
    if args.plot:
        from tinyinfer.measure.figures import check_plot

        check_plot(args.plot)
    check_result(args)


def check_result(args: argparse.Namespace) -> None:
    """Raises UsageError where the figures could not be written at the end."""
    path = Path(args.result_dir, args.result_filename or "default.json")
    if not args.save_result:
        return
    if not (os.path.isdir(args.result_dir) and os.access(args.result_dir, os.W_OK)):
        raise UsageError(f"--result-dir {args.result_dir} is no folder that can be written to")
    if path.is_dir() or not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise UsageError(f"--result-filename {args.result_filename}: no file can be written there; name another")


def json_object(text: str) -> dict[str, Any]:
    """A JSON object of the command line. Raises argparse.ArgumentTypeError."""
    with suppress(ValueError, RecursionError):
        if isinstance(value := json.loads(text), dict):
            return value
    raise argparse.ArgumentTypeError(f"{text[:60]!r} is no JSON object")


def percentiles_of(args: argparse.Namespace) -> list[float]:
    """The percentiles that are shown; the 99th is always among them, for the figure. Raises UsageError."""
    with suppress(ValueError):
        values = [float(word) for word in args.metric_percentiles.split(",")]
        if all(0 <= value <= 100 for value in values):
            return sorted({*values, 99.0})
    raise UsageError(f"--metric-percentiles {args.metric_percentiles!r} must be numbers from 0 to 100, such as 50,99")


def promises(args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds by the metric that shall keep them. Raises UsageError."""
    kept = {}
    for word in args.goodput:
        name, _, most = word.partition(":")
        value = math.nan
        with suppress(ValueError):
            value = float(most)
        if name not in ("ttft", "tpot", "e2el") or not value > 0:
            raise UsageError(f"--goodput {word!r} must be ttft:MS, tpot:MS or e2el:MS, such as ttft:200")
        kept[name] = value
    for name in args.percentile_metrics.split(","):
        if name not in ("ttft", "tpot", "itl", "e2el"):
            raise UsageError(f"--percentile-metrics {name!r}: the metrics are ttft, tpot, itl, e2el")
    return kept


def base_url(args: argparse.Namespace) -> str:
    """Where the server is. Raises UsageError for an address without a scheme."""
    host = f"[{args.host}]" if ":" in args.host else args.host
    url = str(args.base_url or f"http://{host}:{args.port}").rstrip("/").removesuffix("/v1")
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--base-url {url!r} must begin with http:// or https://")
    return url


async def found(args: argparse.Namespace) -> Target:
    """The server, once it has answered a request of one token. Raises UsageError, NO_ANSWER, NO_SHAPE."""
    from dataclasses import replace

    from tinyinfer.measure.serving_client import CHAT, COMPLETIONS, Refused, Target, ask_json, events
    from tinyinfer.measure.serving_requests import Ask

    name = next((name for name in KEYS if os.environ.get(name)), "")
    key = os.environ.get(name, "")
    if not all("!" <= letter <= "~" for letter in key):
        raise UsageError(f"{name} holds a space, a line's end or a letter outside of ASCII; set it to the key alone")
    endpoint = args.endpoint or (CHAT if args.backend == "openai-chat" else COMPLETIONS)
    extra = {"temperature": args.temperature, **({"ignore_eos": True} if args.ignore_eos else {}), **args.extra_body}
    target = Target(base_url(args), endpoint, args.model or "", key, extra, args.request_timeout)
    if not args.model:
        listed = await ask_json(target, "/v1/models")
        try:
            target = replace(target, model=str(listed["data"][0]["id"]))
        except (LookupError, TypeError) as error:
            raise ValueError("its /v1/models names no model, so --model must") from error
    with_ids = replace(target, extra={"return_token_ids": True, **extra})  # which some servers do not know
    for one in (with_ids, target):
        try:
            async for _ in events(one, one.body(Ask("Hello", 1))):
                pass
            return one
        except Refused as refused:
            if one is target or refused.status not in (400, 422):
                raise
    raise AssertionError("the last one is returned or raised")


# The loads, measured.


def measured(
    target: Target, args: argparse.Namespace, asks: list[Ask], name: str
) -> tuple[list[Answered], bool]:
    """What became of the requests of a load, and whether it came to its end: Ctrl-C ends it early."""
    from tinyinfer.measure.serving_client import load

    done: list[Answered] = []

    async def all_of_them() -> None:
        with progress_bar(name or "requests") as shown:
            shown(0, len(asks))
            async for one in load(target, asks, args.max_concurrency):
                done.append(one)
                failed = sum(bool(each.error) for each in done)
                shown(len(done), len(asks), f"{failed} failed" if failed else "")

    try:
        asyncio.run(all_of_them())
    except KeyboardInterrupt:
        return done, False
    return done, True


def report(args: argparse.Namespace, target: Target, name: str, done: list[Answered]) -> dict[str, Any]:
    """Shows the figures of a load, and writes them into a file where that is asked for."""
    from tinyinfer.loading.whole import whole
    from tinyinfer.measure.serving_figures import details, serving_text, summary

    percentiles, now = percentiles_of(args), datetime.now().strftime("%Y%m%d-%H%M%S")
    rate = "inf" if args.request_rate == math.inf else args.request_rate
    record = {
        "date": now, "backend": args.backend, "endpoint": target.endpoint, "label": args.label,
        "model_id": target.model, "dataset_name": args.dataset_name, "num_prompts": len(done), "load": name,
        "experiment": "closed loop" if args.max_concurrency else "open loop", "request_rate": rate,
        "burstiness": args.burstiness, "max_concurrency": args.max_concurrency, "seed": args.seed,
        **summary(done, promises(args), percentiles),
    }  # fmt: skip
    if args.json:
        show_json(record)
    else:
        title = f"{target.model} at {target.url}, {record['experiment']}" + f", {name}" * bool(name)
        show(f"{title}\n\n{serving_text(record, percentiles, args.percentile_metrics.split(','))}\n\n")
    if args.save_result:
        plain = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in target.model)
        own = f"-{name.replace(' ', '-').replace('/', '-per-')}" * bool(name)
        file = args.result_filename or f"{args.backend}-{args.request_rate:g}qps-{plain}-{now}.json"
        path = Path(args.result_dir, file)
        with whole(path.with_stem(path.stem + own)) as part:
            part.write_text(json.dumps(finite(record | details(done))), encoding="utf-8")
        say(f"tinyinfer: written to {path.with_stem(path.stem + own)}")
    return record
