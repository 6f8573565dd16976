"""What a load says of a server: waits, throughput, goodput, and where more load brings waits alone.

    ttft    from the request's sending to its first token; what a reader waits for
    tpot    (last token - first token) / (tokens - 1) of a request, as vLLM divides: a first piece of several tokens
            makes it smaller than the gaps are, as all its tokens count and only one of them has no time
    itl     the gaps between tokens, those of all requests together
    e2el    from its sending to its end

and each of the first and the last also from the moment at which the request was due. The names of the figures are those
of vLLM's `bench serve`, so that its readers and tools read them. Requests that failed have no latency, and are counted.

Goodput (Zhong et al. 2024, "DistServe", section 2): requests a second of those that kept every promise asked for.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tinyinfer.measure.figures import save
from tinyinfer.measure.serving_client import Answered
from tinyinfer.units import number, table

METRICS = ("ttft", "tpot", "itl", "e2el")
QUEUE = ("client_queue_time", "ttft_including_client_queue", "e2el_including_client_queue")
TITLES = {
    "ttft": "time to first token", "tpot": "time per output token", "itl": "gap between tokens",
    "e2el": "whole answer", "client_queue_time": "wait inside the client",
    "ttft_including_client_queue": "first token, from when it was due",
    "e2el_including_client_queue": "whole answer, from when it was due",
}  # fmt: skip


def latencies(done: Iterable[Answered]) -> dict[str, list[float]]:
    """Milliseconds of each metric, of the requests that were answered; the gaps of all of them in one list."""
    found: dict[str, list[float]] = {name: [] for name in (*METRICS, *QUEUE)}
    for one in done:
        if one.error or one.first is None:
            continue
        waited, first, whole = one.sent - one.due, one.first - one.sent, one.ended - one.sent
        found["ttft"].append(first)
        found["e2el"].append(whole)
        found["itl"] += one.gaps
        found["client_queue_time"].append(waited)
        found["ttft_including_client_queue"].append(waited + first)
        found["e2el_including_client_queue"].append(waited + whole)
        if (pace := tpot(one)) is not None:
            found["tpot"].append(pace)
    return {name: [1e3 * value for value in values] for name, values in found.items()}


def tpot(one: Answered) -> float | None:
    """Seconds a token after the first one; None where there are fewer than two."""
    return (one.pieces[-1][0] - one.pieces[0][0]) / (one.output_tokens - 1) if one.output_tokens > 1 else None


def keeps(one: Answered, goodput: Mapping[str, float]) -> bool:
    """Whether a request kept every promise: milliseconds at most, by the metric's name."""
    if one.error or one.first is None:
        return False
    own = {"ttft": one.first - one.sent, "tpot": tpot(one) or 0.0, "e2el": one.ended - one.sent}
    return all(1e3 * own[name] <= most for name, most in goodput.items())


def cached_of(right: list[Answered]) -> int | None:
    """Input that a prefix cache had, of all requests; None where the server does not say it."""
    known = [one.cached_tokens for one in right if one.cached_tokens is not None]
    return sum(known) if len(known) == len(right) else None


def summary(done: list[Answered], goodput: Mapping[str, float], percentiles: Iterable[float]) -> dict[str, Any]:
    """The figures of a load, by vLLM's names."""
    right = [one for one in done if not one.error]
    seconds = max((one.ended for one in done), default=0.0) or 1e-9
    read, written = sum(one.prompt_tokens for one in right), sum(one.output_tokens for one in right)
    found: dict[str, Any] = {
        "duration": seconds, "completed": len(right), "failed": len(done) - len(right),
        "total_input_tokens": read, "total_output_tokens": written, "total_cached_tokens": cached_of(right),
        "request_throughput": len(right) / seconds,
        "request_goodput": sum(keeps(one, goodput) for one in done) / seconds if goodput else None,
        "output_throughput": written / seconds, "total_token_throughput": (read + written) / seconds,
        "max_output_tokens_per_s": busiest(right), "max_concurrent_requests": most_at_once(done),
        "failures": dict(Counter(one.error for one in done if one.error).most_common()),
    }  # fmt: skip
    for name, values in latencies(done).items():
        found |= spread(name, values, percentiles)
    return found


def spread(name: str, values: list[float], percentiles: Iterable[float]) -> dict[str, float | None]:
    """Mean, median, standard deviation and percentiles of a metric in milliseconds; None of no values."""
    names = [f"p{one:g}_{name}_ms" for one in percentiles]
    if not values:
        return dict.fromkeys((f"mean_{name}_ms", f"median_{name}_ms", f"std_{name}_ms", *names))
    own = {f"mean_{name}_ms": statistics.fmean(values), f"median_{name}_ms": statistics.median(values)}
    own[f"std_{name}_ms"] = statistics.pstdev(values)
    return own | dict(zip(names, np.percentile(values, [*percentiles]).tolist(), strict=True))


def details(done: list[Answered]) -> dict[str, list[Any]]:
    """Of each request, in the order in which they were due: lengths, seconds, and what went wrong."""
    asked = sorted(done, key=lambda one: one.due)
    return {
        "input_lens": [one.prompt_tokens for one in asked], "output_lens": [one.output_tokens for one in asked],
        "ttfts": [None if one.first is None else one.first - one.sent for one in asked],
        "itls": [one.gaps for one in asked], "start_times": [one.sent for one in asked],
        "client_queue_times": [one.sent - one.due for one in asked], "errors": [one.error for one in asked],
    }  # fmt: skip


def busiest(done: list[Answered]) -> float:
    """The most tokens that came within one second of the load's clock."""
    counts: Counter[int] = Counter()
    for one in done:
        for came, n in one.pieces:
            counts[int(came)] += n
    return float(max(counts.values(), default=0))


def most_at_once(done: list[Answered]) -> int:
    """How many requests were under way together at most."""
    moments = sorted([(one.sent, 1) for one in done] + [(one.ended, -1) for one in done])
    under_way = [0]
    for _, change in moments:
        under_way.append(under_way[-1] + change)
    return max(under_way)


def serving_text(record: Mapping[str, Any], percentiles: Iterable[float], metrics: Iterable[str]) -> str:
    """The figures for people."""
    promise = record["request_goodput"]
    counts = [
        ("requests answered", f"{record['completed']}"), ("requests failed", f"{record['failed']}"),
        ("seconds", number(record["duration"])), ("requests a second", number(record["request_throughput"])),
        *([("requests a second that kept the promises", number(promise))] if promise is not None else []),
        ("tokens of answers a second", number(record["output_throughput"])),
        ("tokens of all a second", number(record["total_token_throughput"])),
        ("under way together at most", f"{record['max_concurrent_requests']}"),
    ]  # fmt: skip
    heads = ["milliseconds", "mean", "median", *(f"p{one:g}" for one in percentiles)]
    names = [name for name in (*METRICS, *QUEUE) if name in metrics or name in QUEUE]
    rows = [[TITLES[name], *(number(record[f"{part}_{name}_ms"]) for part in ("mean", "median", *heads[3:]))]
            for name in names]  # fmt: skip
    failures = [f"{count} failed: {why}" for why, count in record["failures"].items()]
    return "\n\n".join(["\n".join(failures)] * bool(failures) + [table(counts), table([heads, *rows])])


def draw_knee(path: str, title: str, records: Sequence[Mapping[str, Any]]) -> None:
    """The wait for the first token and the pace over the throughput, a point for each load."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    panels = figure.subplots(1, 2)
    x = [record["output_throughput"] for record in records]
    for axes, name, color in zip(panels, ("ttft", "tpot"), ("tab:blue", "tab:orange"), strict=True):
        for part, style in (("median", "-o"), ("p99", ":o")):
            axes.plot(x, [record[f"{part}_{name}_ms"] for record in records], style, color=color, label=part)
        for record, across in zip(records, x, strict=True):
            up = record[f"median_{name}_ms"] or 0.0
            axes.annotate(record["load"], (across, up), (4, 6), textcoords="offset points", fontsize="small")
        axes.set(title=TITLES[name].capitalize(), xlabel="tokens of answers a second", ylabel="milliseconds")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.grid(alpha=0.3)
        axes.margins(0.18)
        axes.legend()
    figure.suptitle(title)
    save(figure, path)
