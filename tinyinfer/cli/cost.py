"""`tinyinfer cost`: what a million tokens cost on machines of one's own, and from how many requests on they pay.

    tinyinfer cost --price-per-hour 0.10 --api example                             SmolLM2 on this machine, measured now
    tinyinfer cost --from a.json b.json --price-per-hour 2 --reserved              what bench --json wrote
    tinyinfer cost -m docs/clusters/llama-2-70b.json --cluster docs/clusters/h100.json --dtype bfloat16 --tpot 50
    tinyinfer cost --questions                                                     the reasons that no money says

What computes is measure/cost.py and its neighbours; this file only asks for it and shows it.
"""

from __future__ import annotations

import argparse
from datetime import date
from typing import TYPE_CHECKING, Any

from tinyinfer.cli import cost_machine, cost_questions
from tinyinfer.cli.arguments import dashed
from tinyinfer.cli.console import say, show, show_json

if TYPE_CHECKING:
    from tinyinfer.measure.api_bill import Api
    from tinyinfer.measure.break_even import Range
    from tinyinfer.measure.cost import Price, Speed, Tokens
    from tinyinfer.measure.cost_report import Case
    from tinyinfer.measure.workload import Request

TOKENS = {"input_tokens": 1000.0, "output_tokens": 200.0, "cached_tokens": 0.0, "thinking_tokens": 0.0}
OF_BUYING = ("years", "watts", "power_price")
PERCENTILES = (50, 90, 99)
OF_MONEY = ("price_per_hour", "buy", "watts", "power_price", "work_hours", "wage")
AT_LEAST_0 = ("requests_per_day", "weekend", *TOKENS, *OF_MONEY, "spare")
OF_API = ("batched", "characters_per_token", "api_characters_per_token")
RANGES = "give INPUT=LOW:HIGH, factors such as speed=0.6:1.1, with LOW at most 1 and HIGH at least 1"
NO_PRICE = ("there is no price of a machine; give --price-per-hour, or --buy with --years and --watts; for a large "
            "model on paper, -m and --cluster with files such as those in docs/clusters")  # fmt: skip
LEAST, MOST = 1e-6, 1e12  # of any number above 0, and of any number
ABOVE_0 = ("input_tps", "output_tps", "years", "busy", "ttft", "tpot", *OF_API[1:])


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer cost` and its flags to the commands."""
    about = "what a million tokens cost on own machines, beside an API"
    parser = commands.add_parser("cost", help=about, description=about)
    add_asked(parser.add_argument_group("what is asked of the machines").add_argument)
    add_paid(parser.add_argument_group("what is paid").add_argument)
    add_api(parser.add_argument_group("the API beside them").add_argument)
    add = parser.add_argument
    add("--plot", metavar="FILE", help="draw machines by hour, costs over requests and a tornado into FILE")
    add("--json", action="store_true", help="stdout holds one JSON object")
    cost_questions.add_arguments(parser)
    cost_machine.add_arguments(parser)
    parser.set_defaults(run=run)


def add_asked(add: Any) -> None:
    """How many requests there are, when, of which length, and how soon they are answered."""
    add("--requests-per-day", type=float, default=10_000.0, metavar="N",
        help="the mean of all days, quiet ones counted in (default: 10000)")  # fmt: skip
    add("--day", default="office", metavar="W,W,...",
        help="24 weights, an hour each, or flat, or office (default: office, a peak of twice the mean)")  # fmt: skip
    add("--weekend", type=float, default=100.0, metavar="PERCENT",
        help="requests of a Saturday or a Sunday, as a percentage of another day's (default: 100)")  # fmt: skip
    add("--input-tokens", type=float, metavar="N", help="of a request, the mean (default: 1000)")
    add("--cached-tokens", type=float, metavar="N", help="the part of them that a prefix cache has (default: 0)")
    add("--output-tokens", type=float, metavar="N", help="shown ones of an answer (default: 200)")
    add("--thinking-tokens", type=float, metavar="N", help="generated before the answer (default: 0)")
    add("--workload", metavar="FILE", help="take the mean lengths of a workload of bench instead")
    add("--ttft", type=float, metavar="MS", help="the first token must come within so much time")
    add("--tpot", type=float, metavar="MS", help="each further token must come within so much time")
    add("--percentile", type=int, choices=PERCENTILES, default=50, help="of these two (default: 50)")


def add_paid(add: Any) -> None:
    """What machines and people cost."""
    add("--price-per-hour", type=float, metavar="X", help="of a machine; of one GPU with --cluster")
    add("--reserved", action="store_true", help="it is paid around the clock, so that the peak sizes the fleet")
    add("--buy", type=float, metavar="X", help="what a machine (with --cluster a GPU) costs that is bought instead")
    add("--years", type=float, default=3.0, metavar="X", help="that it is used (default: 3)")
    add("--watts", type=float, default=0.0, metavar="X", help="that it takes, cooling counted in (default: 0)")
    add("--power-price", type=float, default=0.0, metavar="X", help="of a kWh (default: 0)")
    add("--spare", type=int, default=1, metavar="N", help="machines more than needed, for failures (default: 1)")
    add("--busy", type=float, default=70.0, metavar="PERCENT",
        help="of a machine's time in an hour that may be work; the rest is room for bursts (default: 70)")  # fmt: skip
    add("--work-hours", type=float, default=0.0, metavar="X", help="of people in a month (default: 0)")
    add("--wage", type=float, default=0.0, metavar="X", help="of such an hour (default: 0)")
    add("--currency", default="USD", metavar="NAME", help="of all these prices (default: USD)")


def add_api(add: Any) -> None:
    """The API to compare with."""
    add("--api", metavar="FILE", help="its prices, as measure/api_bill.py describes, or 'example', which is made up")
    add("--batched", type=float, default=0.0, metavar="PERCENT", help="of requests that may wait for its batch price")
    add("--characters-per-token", type=float, metavar="X", help="of the machine's model on your text")
    add("--api-characters-per-token", type=float, metavar="X", help="of the API's model (default: as its file says)")
    add("--range", dest="ranges", nargs="+", metavar="INPUT=LOW:HIGH",
        help="between which factors an input may be, such as speed=0.6:1.1 price=1:1.5; inputs: price, speed, busy, "
        "people, input, cached, output, api (default: 0.75:1.25; a speed on paper: its known error)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Shows the comparison. Exit status 0. Raises ValueError or ModelError for what cannot be compared."""
    if args.questions:
        return cost_questions.run(args)
    check(args)
    from tinyinfer.measure.api_bill import warnings_of
    from tinyinfer.measure.cost import Service, people_a_day
    from tinyinfer.measure.cost_choice import choose
    from tinyinfer.measure.cost_report import Case, cost_text, report

    requests = workload_of(args)
    tokens, day, api, ranges = tokens_of(args, requests), day_of(args.day), api_of(args), ranges_of(args)
    if args.price_per_hour is None and args.buy is None and args.cluster is None and args.files is None:
        raise ValueError(NO_PRICE)
    found = cost_machine.machines_of(args, tokens, args.percentile)
    price = price_of(args, found.price)
    people, limits, weekend = people_a_day(args.work_hours, args.wage), limits_of(args), args.weekend / 100
    service = Service(price, found.speeds[0], tokens, day, args.spare, people, args.busy / 100)
    choice = choose(service, found.speeds, args.requests_per_day, limits, weekend, found.gpus)
    changes = found.predict(choice.chosen.speed)
    if args.accepted is not None and not changes:
        raise ValueError("--accepted belongs to what is predicted, and a typed speed alone predicts nothing; add -m "
                         "and --machine, or leave it out")  # fmt: skip
    case = Case(found.model, choice, args.requests_per_day, api, changes, ranges, found.accepted, weekend)
    told_of_lengths = spread_of(requests, choice.chosen.speed, limits[0]) if requests else []
    warned = warnings_of(api, date.today()) if api else []
    forgotten = [*left_out(args, people), *nearly_missed(choice.chosen.speed, limits)]
    for told in [*warned, *forgotten, *told_of_lengths, *too_many(case, found.gpus)]:
        say(f"tinyinfer: note: {told}")
    if args.plot:
        from tinyinfer.measure.cost_figures import draw_cost

        draw_cost(args.plot, case)
    line = report(case)
    show_json(line) if args.json else show(cost_text(line) + "\n")
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuses numbers that cannot be, before anything is read or measured. Raises ValueError."""
    for names, least, words in ((AT_LEAST_0, 0.0, "of at least 0"), (ABOVE_0, LEAST, "above 0")):
        for name in names:
            value = getattr(args, name)
            if value is not None and not least <= value <= MOST:
                words = words if not value > MOST else f"of at most {MOST:g}"
                raise ValueError(f"{dashed(name)} {value:g} must be a number {words}")
    for name in ("busy", "batched", "accepted"):
        if getattr(args, name) is not None and not 0 <= getattr(args, name) <= 100:
            raise ValueError(f"{dashed(name)} {getattr(args, name):g} must be a percentage, from 0 to 100")
    if not args.currency.strip():
        raise ValueError("--currency has no name; give one such as USD")
    if args.answers is not None:
        raise ValueError("--answers belongs to --questions; add it, or leave the answers out")
    if args.price_per_hour is not None and args.buy is not None:
        raise ValueError("--price-per-hour rents a machine, and --buy buys it; give one of them")
    if args.reserved and args.buy is not None:
        raise ValueError("--reserved rents a machine around the clock, and --buy buys it; leave out --reserved")
    for name in (*OF_API, "ranges"):
        if name in args.given and args.api is None:
            flag = "--range" if name == "ranges" else dashed(name)
            raise ValueError(f"{flag} belongs to the bill of an API; add --api with its prices")
    for flag, without in (("--input-tps", args.input_tps), ("--cluster", args.cluster)):
        if "percentile" in args.given and without is not None:
            raise ValueError(f"--percentile chooses among measured waits, and {flag} has none; leave it out")
    for name in OF_BUYING:
        if name in args.given and args.buy is None:
            raise ValueError(f"{dashed(name)} belongs to a machine that is bought; add --buy with its price")
    if args.plot:
        from tinyinfer.measure.figures import check_plot

        check_plot(args.plot)


def ranges_of(args: argparse.Namespace) -> dict[str, Range]:
    """The range of each input that has one. Raises ValueError for anything else."""
    from tinyinfer.measure.break_even import INPUTS

    found: dict[str, Range] = {}
    for text in args.ranges or []:
        name, _, ends = text.partition("=")
        if name not in INPUTS or name in found:
            known = f"the inputs are {', '.join(INPUTS)}, each once"
            raise ValueError(f"--range {text[:60]}: there is no further input {name[:60]!r}; {known}")
        try:
            low, high = (float(end) for end in ends.split(":"))
        except ValueError:
            raise ValueError(f"--range {text[:60]} has no two ends; {RANGES}") from None
        if not (low >= LEAST and high <= MOST):
            raise ValueError(f"--range {text[:60]}: its ends must be numbers from {LEAST:g} to {MOST:g}; {RANGES}")
        if not low <= 1 <= high:
            raise ValueError(f"--range {text[:60]} does not hold the value itself; {RANGES}")
        found[name] = low, high
    return found


def limits_of(args: argparse.Namespace) -> tuple[float | None, float | None]:
    """The most seconds to the first token and for each further one, where they are given."""
    ttft, tpot = (None if limit is None else limit / 1e3 for limit in (args.ttft, args.tpot))
    return ttft, tpot


def left_out(args: argparse.Namespace, people: float) -> list[str]:
    """What is missing in the cost as it is given."""
    told = [] if people else ["no work of people is counted; add --work-hours and --wage"]
    if args.watts and not args.power_price:
        told.append(f"the power of {args.watts:g} W costs nothing; add --power-price")
    if args.cluster is not None and (args.dtype, args.quantize) == ("float32", "off"):
        told.append("weights have 32 bits, as this engine holds them unless told otherwise; most services hold 16 "
                    "(--dtype bfloat16) or fewer (--quantize int8)")  # fmt: skip
    return told


def nearly_missed(speed: Speed, limits: tuple[float | None, float | None]) -> list[str]:
    """Which objective a speed on paper keeps only if it is hardly slower than predicted."""
    from tinyinfer.measure.cost_speeds import ON_PAPER

    told = []
    for name, found, most in zip(("--ttft", "--tpot"), (speed.ttft_s, speed.tpot_s), limits, strict=True):
        if speed.on_paper and found is not None and most is not None and found * ON_PAPER[1] > most:
            told.append(f"{name} is kept only if the true speed is at least {found / most:.2f} of the predicted one, "
                        f"and published ones were down to {1 / ON_PAPER[1]:.2f}")  # fmt: skip
    return told


def too_many(case: Case, gpus: int | None) -> list[str]:
    """Whether the load takes more GPUs than a cluster has. gpus: None where no file says how many there are."""
    from tinyinfer.measure.cost_choice import most_gpus

    most = most_gpus(case.service, case.requests, case.weekend)
    return [f"the load takes {most:,} GPUs, and --cluster has {gpus:,}"] if gpus is not None and most > gpus else []


def workload_of(args: argparse.Namespace) -> list[Request]:
    """The requests of the workload; none without one. Raises ValueError beside lengths that are typed."""
    from tinyinfer.measure.workload import read_workload

    named = [name for name in TOKENS if getattr(args, name) is not None]
    if args.workload and named:
        raise ValueError(f"--workload has its own lengths; leave out {dashed(named[0])}")
    return read_workload(args.workload) if args.workload else []


def tokens_of(args: argparse.Namespace, requests: list[Request]) -> Tokens:
    """A request's tokens. Raises ValueError for an answer without tokens, or more cached ones than there are."""
    from tinyinfer.measure.cost import Tokens

    if requests:
        return means_of(requests)
    values = {name: TOKENS[name] if getattr(args, name) is None else getattr(args, name) for name in TOKENS}
    tokens = Tokens(**{name.removesuffix("_tokens"): value for name, value in values.items()})
    if tokens.cached > tokens.input:
        raise ValueError(f"--cached-tokens {tokens.cached:g} exceed the input of {tokens.input:g} tokens; give fewer")
    if tokens.written < 1:
        raise ValueError("--output-tokens and --thinking-tokens make no token; give at least 1")
    return tokens


def means_of(requests: list[Request]) -> Tokens:
    """The mean lengths of a workload, whose shared beginnings are cached. Raises ValueError for prompts of text."""
    from tinyinfer.measure.cost import Tokens

    lengths = [input_of(one) for one in requests]
    n, seen = len(requests), {one.group for one in requests if one.shared}
    repeated = sum(one.shared for one in requests) - sum(
        next(one.shared for one in requests if one.shared and one.group == group) for group in seen
    )
    return Tokens(sum(lengths) / n, sum(one.max_tokens for one in requests) / n, cached=repeated / n)


def input_of(one: Request) -> int:
    """A request's input tokens. Raises ValueError for a prompt of text."""
    if isinstance(one.prompt, str):
        raise ValueError(f"{one.where}: a prompt of text has no length before it is tokenized; give prompt_tokens")
    return len(one.prompt) if one.prompt is not None else one.random_tokens


def spread_of(requests: list[Request], speed: Speed, ttft_s: float | None) -> list[str]:
    """Where the means of a workload mislead: a cost is a sum, which means give; a wait is each request's own."""
    inputs, outputs = sorted(map(input_of, requests)), sorted(one.max_tokens for one in requests)
    if inputs[0] == inputs[-1] and outputs[0] == outputs[-1]:
        return []
    long = int(0.9 * len(inputs))  # at most a tenth stands behind it
    told = (f"lengths differ: the median request has {inputs[len(inputs) // 2]} input and {outputs[len(outputs) // 2]} "
            f"output tokens, one in ten at least {inputs[long]} or {outputs[long]}; a cost counts their means, which "
            "give the exact sum, a latency does not")  # fmt: skip
    late = sum(count / speed.input_tps > ttft_s for count in inputs) if ttft_s else 0
    if late:
        told += f"; {late} of {len(inputs)} prompts take longer than --ttft by their prefill alone"
    return [told]


def day_of(text: str) -> tuple[float, ...]:
    """A day's shares by hour. Raises ValueError for what is neither a name nor 24 weights."""
    from tinyinfer.measure.cost import DAYS, shares

    if text in DAYS:
        return shares(DAYS[text])
    try:
        weights = [float(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"--day {text[:60]!r} must be {', '.join(DAYS)} or 24 numbers with commas") from None
    try:
        return shares(weights)
    except ValueError as error:
        raise ValueError(f"--day: {error}") from None


def price_of(args: argparse.Namespace, known: float | None) -> Price:
    """What a machine costs. known: the price of a GPU and an hour in a cluster's file. Raises ValueError for none."""
    from tinyinfer.measure.cost import Price, owned

    if args.buy is not None:
        return owned(args.buy, args.years, args.watts, args.power_price, args.currency)
    per_hour = known if args.price_per_hour is None else args.price_per_hour
    if per_hour is None:
        raise ValueError(NO_PRICE)
    return Price(per_hour, args.currency, by_hour=not args.reserved)


def api_of(args: argparse.Namespace) -> Api | None:
    """The API's prices, in the machine's currency. Raises ModelError, ValueError."""
    from dataclasses import replace

    from tinyinfer.measure.api_bill import check_currency, read_api

    if args.api is None:
        return None
    api = read_api(args.api)
    check_currency(args.currency, api)
    own, other = args.characters_per_token, args.api_characters_per_token or api.characters_per_token
    if own is None and args.api_characters_per_token is None:  # what the file alone says compares nothing
        other = None
    if (own is None) != (other is None):
        raise ValueError("characters a token are known of one model alone; give --characters-per-token and "
                         "--api-characters-per-token, both counted on the same text")  # fmt: skip
    return replace(api, batched=args.batched / 100, characters=own / other if own and other else 1.0)
