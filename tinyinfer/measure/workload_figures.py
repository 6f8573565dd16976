"""Figures of workloads: what each request did when, and how latency and throughput depend on load and batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyinfer.engine.metrics import gaps, is_padding, spread
from tinyinfer.measure.figures import save
from tinyinfer.units import number

if TYPE_CHECKING:
    from tinyinfer.measure.bench import Round
    from tinyinfer.sequence import Sequence, Span

COLORS = {"waiting": "0.88", "prefill": "tab:blue", "decode": "tab:orange", "computed again": "tab:purple",
          "preempted": "tab:red", "padding": "0.6"}  # fmt: skip
INVISIBLE = 5e-3  # share of the time: a kind that takes less is not drawn, as it could not be seen
Bars = dict[str, dict[int, list[tuple[float, float]]]]  # kind -> number of the request -> (from, to) in seconds


def draw_workload(path: str, title: str, named: dict[str, Round]) -> None:
    """Three panels for each setting, over the same time: the requests, the cache, the gaps between tokens."""
    from matplotlib.figure import Figure

    tall = max(len(done.sequences) for done in named.values())
    height = min(6.0, 1.6 + 0.12 * tall)
    figure = Figure(figsize=(1 + 7.5 * len(named), height + 4.5), layout="constrained")
    panels = figure.subplots(3, len(named), sharex=True, sharey="row", squeeze=False, height_ratios=(height, 2, 2))
    for column, (name, done) in zip(panels.T, named.items(), strict=True):
        draw_timeline(column[0], done)
        column[0].set_title(name if len(named) > 1 else "")
        draw_cache(column[1], done)
        draw_gaps(column[2], done)
        column[2].set_xlabel("seconds")
    for axes in panels[1:, 0]:
        axes.set_ylim(bottom=0)  # after all of the row, which has one scale
    for axes in panels[:, 1:].flat:
        axes.set_ylabel("")
    labels = [axes.get_legend_handles_labels() for axes in panels[:2].flat]
    kinds = {label: handle for handles, names in labels for handle, label in zip(handles, names, strict=True)}
    figure.legend(kinds.values(), kinds, loc="outside lower center", ncols=len(kinds), fontsize="small")
    figure.suptitle(title)
    save(figure, path)


# The timeline.


def draw_timeline(axes: Any, done: Round) -> None:
    """A line for each request, in order of arrival."""
    total = sum(done.seconds)
    for kind, rows in bars(done).items():
        if sum(end - begin for spans in rows.values() for begin, end in spans) < INVISIBLE * total:
            continue
        for i, (row, spans) in enumerate(rows.items()):
            label = {"label": kind} if i == 0 else {}
            widths = [(begin, end - begin) for begin, end in spans]
            axes.broken_barh(widths, (row + 0.6, 0.8), color=COLORS[kind], linewidth=0, **label)
    axes.set_ylabel("request")
    axes.set_ylim(len(done.sequences) + 0.6, 0.4)  # the first one on top
    axes.yaxis.get_major_locator().set_params(integer=True)


def bars(done: Round) -> Bars:
    """What each request did when, in bars as long as possible; times from the beginning of the round."""
    rows = {seq: i for i, seq in enumerate(sorted(done.sequences, key=lambda seq: seq.age))}
    kinds: Bars = {kind: {} for kind in COLORS}

    def add(kind: str, seq: Sequence, begin: float, end: float) -> None:
        spans = kinds[kind].setdefault(rows[seq], [])
        if spans and begin - spans[-1][1] < 1e-9:
            begin = spans.pop()[0]
        spans.append((begin, end))

    idle = {seq: (seq.timing.arrival - done.begun, "waiting") for seq in rows}  # since when, and as what
    again: dict[Sequence, int] = {}  # positions computed before its newest admission
    reached: dict[Sequence, int] = {}
    left: dict[Sequence, tuple[int, float]] = {}  # its newest step, and when that ended
    for n, step in enumerate(done.steps):
        begin, end = step.times[0] - done.begun, step.times[2] - done.begun
        idle |= dict.fromkeys(step.preempted, (begin, "preempted"))
        again |= {seq: reached.get(seq, 0) for seq in step.joined}
        for span in (span for span in step.batch.spans if span.seq.owner is span.seq):
            newest, ended = left.get(span.seq, (n, begin))
            skipped = newest < n - 1 and span.seq in step.joined  # longrope sent it back, and there was no room at once
            since, kind = idle.pop(span.seq, (ended, "waiting" if skipped else ""))
            if kind:
                add(kind, span.seq, since, begin)
            add(kind_of(span, again.get(span.seq, 0)), span.seq, begin, end)
            reached[span.seq], left[span.seq] = span.first + span.rows, (n, end)
    return {kind: kinds[kind] for kind in COLORS if kinds[kind]}


def kind_of(span: Span, again: int) -> str:
    """The name of what a span computes: padding, rows computed again, prefill, or decode."""
    if is_padding(span):
        return "padding"
    if span.first < again:
        return "computed again"
    return "prefill" if span.first + span.rows <= len(span.seq.prompt) else "decode"


# Over time.


def draw_cache(axes: Any, done: Round) -> None:
    """Bytes that the cache holds after each step, and the empty part of them."""
    times = [0.0, *(step.times[2] - done.begun for step in done.steps)]
    held = [0.0, *(step.cache_bytes / 1e6 for step in done.steps)]
    wasted = [0.0, *(step.wasted_bytes / 1e6 for step in done.steps)]
    used = [total - empty for total, empty in zip(held, wasted, strict=True)]
    axes.fill_between(times, held, step="post", color="#bfe3bf", label="cache held, but empty")
    axes.fill_between(times, used, step="post", color="tab:green", label="cache filled")
    axes.set_ylabel("KV cache, MB")


def draw_gaps(axes: Any, done: Round) -> None:
    """A point for each token but the first of its request: how long after the one before."""
    moments = [time - done.begun for seq in done.sequences for time in seq.timing.times[1:]]
    values = [1e3 * gap for seq in done.sequences for gap in gaps(seq)]
    axes.plot(moments, values, ".", markersize=3, color="tab:orange", alpha=0.5)
    if found := spread(values):
        for value, style, name in ((found.p50, "-", "median"), (found.p99, "--", "p99"), (found.max, ":", "longest")):
            axes.axhline(value, color="black", linewidth=1, linestyle=style, label=f"{name} {number(value)} ms")
        axes.legend(loc="upper left", fontsize="small", ncols=3)
    axes.set_ylabel("gap between\ntokens, ms")
    axes.margins(y=0.3)  # room for the legend


# Sweeps.


def draw_sweep(path: str, title: str, records: list[dict[str, Any]], by_rate: bool) -> None:
    """Latency, throughput, and one over the other: over max_num_seqs, or over the arrival rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    waits, pace, trade = figure.subplots(1, 3)
    if by_rate:
        x, label = [record["synthetic"]["arrival_rate"] for record in records], "arrivals per second"
        what, unit, name, factor = ("time to first token", "s", "ttft", 1.0)
    else:
        x, label = [record["engine"]["max_num_seqs"] for record in records], "sequences at a time (max_num_seqs)"
        what, unit, name, factor = ("time per output token", "ms", "tpot", 1e3)
    for part, style in (("p50", "-o"), ("p99", ":o")):
        y = [factor * (record.get(f"{name}_{part}_s") or 0.0) for record in records]
        waits.plot(x, y, style, color="tab:orange", label={"p50": "median", "p99": "p99"}[part])
    waits.set(title=what.capitalize(), xlabel=label, ylabel=unit)
    waits.legend()
    tps = [record["output_tps"] for record in records]
    pace.plot(x, tps, "-o", color="tab:blue")
    pace.set(title="Throughput", xlabel=label, ylabel="output tokens per second")
    draw_trade(trade, records, what, unit, [factor * (record.get(f"{name}_p50_s") or 0.0) for record in records])
    for axes in (waits, pace):
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [f"{value:g}" for value in x], minor=False)
    for axes in (waits, pace, trade):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    save(figure, path)


def draw_trade(axes: Any, records: list[dict[str, Any]], what: str, unit: str, medians: list[float]) -> None:
    """Latency over throughput, a point for each setting: lower and further right is better."""
    tps = [record["output_tps"] for record in records]
    axes.plot(tps, medians, "-o", color="tab:green")
    for i, (x, y, record) in enumerate(zip(tps, medians, records, strict=True)):
        beside = (0, 8) if i % 2 else (0, -14)  # above and below in turn, so that close points can be told apart
        axes.annotate(record["setting"], (x, y), beside, textcoords="offset points", fontsize="small", ha="center")
    axes.set(title="One against the other", xlabel="output tokens per second", ylabel=f"{what}, {unit} (median)")
    axes.margins(x=0.15, y=0.15)
