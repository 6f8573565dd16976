"""Figures: measured steps beside the roofline, perplexity over bits per weight, the splits of a model.

matplotlib is an extra and is loaded only when a figure is asked for.
"""

from __future__ import annotations

import os
import statistics
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyinfer.errors import SwitchError
from tinyinfer.loading.whole import whole
from tinyinfer.measure.perplexity import Perplexity
from tinyinfer.measure.phases import is_prefill, phase
from tinyinfer.measure.roofline import predict_seconds

if TYPE_CHECKING:
    from tinyinfer.distillation.training import Place
    from tinyinfer.measure.bench import Round
    from tinyinfer.measure.frontier import Frontier
    from tinyinfer.measure.roofline import Machine
    from tinyinfer.measure.split import Prediction

FORMATS = (".png", ".svg", ".pdf")
RUIN = 8  # a setting of more than 8 times the best perplexity is drawn at the edge


def check_plot(path: str) -> None:
    """Refuses a figure that could not be written, before any work. Raises SwitchError."""
    folder = os.path.dirname(path) or "."
    if not path.lower().endswith(FORMATS):
        raise SwitchError("plot", path, "{field} {value}: the name must end in {known}", known=", ".join(FORMATS))
    if os.path.isdir(path):
        raise SwitchError("plot", path, "{field} {value}: is a folder", "give the name of a file")
    if not os.path.isdir(folder):
        raise SwitchError("plot", path, "{field} {value}: there is no folder {at!r}", "create it first", at=folder)
    if not os.access(folder, os.W_OK):
        reason = "{field} {value}: the folder {at!r} cannot be written to"
        raise SwitchError("plot", path, reason, "choose another one", at=folder)
    if find_spec("matplotlib") is None:
        cure = "install it with: pip install 'tinyinfer[notebooks]'"
        raise SwitchError("plot", path, "{field} needs matplotlib", cure)


def save(figure: Any, path: str) -> None:
    """Writes the whole figure or nothing."""
    with whole(Path(path)) as part:
        figure.savefig(part, dpi=150)


def drawable(model: str) -> str:
    """A model's name with a sign in the place of each byte of its path that is no text, which no font has."""
    return os.fsencode(model).decode("utf-8", errors="replace")


def draw_bench(path: str, model: str, rounds: list[Round], machine: Machine) -> None:
    """Two panels: the roofline with prefill and decode under it, and each decode step's time beside its prediction."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_roofline(left, rounds, machine)
    draw_steps(right, rounds, machine)
    figure.suptitle(f"{drawable(model)}: what the roofline predicts, and what was measured")
    save(figure, path)


def draw_roofline(axes: Any, rounds: list[Round], machine: Machine) -> None:
    """GFLOP/s reached over FLOPs per byte, under the two limits of the machine."""
    points = []
    for name, prefill in (("prefill", True), ("decode", False)):
        phases = [phase(done, prefill, machine) for done in rounds]
        seconds = statistics.median(p.seconds for p in phases)
        points.append((name, phases[0].flops / phases[0].bytes_moved, phases[0].flops / seconds))
    around = [intensity for _, intensity, _ in points] + [machine.balance]
    corners = [min(around) / 4, machine.balance, max(around) * 4]
    roof = [min(x * machine.read_bandwidth, machine.matrix_speed) / 1e9 for x in corners]
    label = f"limits: {machine.read_bandwidth / 1e9:.3g} GB/s, {machine.matrix_speed / 1e9:.3g} GFLOP/s"
    axes.loglog(corners, roof, color="black", label=label)
    for (name, intensity, speed), color in zip(points, ("tab:blue", "tab:orange"), strict=True):
        top = min(intensity * machine.read_bandwidth, machine.matrix_speed)
        axes.plot([intensity, intensity], [speed / 1e9, top / 1e9], color=color, linestyle=":")
        axes.plot([intensity], [speed / 1e9], "o", color=color, label=f"{name}: {speed / top:.0%} of what is possible")
    axes.set(title="Roofline", xlabel="FLOPs per byte moved", ylabel="GFLOP/s")
    axes.legend()


def draw_steps(axes: Any, rounds: list[Round], machine: Machine) -> None:
    """Milliseconds of each decode step over the position that it computes."""
    steps = [(i, step) for i, step in enumerate(rounds[0].steps) if not is_prefill(step)]
    spans = [step.batch.spans[0] for _, step in steps]
    positions = [span.first + span.stop - span.start - 1 for span in spans]
    measured = [1e3 * statistics.median(done.seconds[i] for done in rounds) for i, _ in steps]
    predicted = sorted(zip(positions, (1e3 * predict_seconds(step.ledger, machine) for _, step in steps), strict=True))
    axes.plot(positions, measured, ".", color="tab:orange", label="measured (median of the rounds)")
    axes.plot(*zip(*predicted, strict=True), color="black", label="predicted by the roofline")
    axes.set(title="Decode steps", xlabel="position in the sequence", ylabel="ms per step")
    axes.set_ylim(bottom=0)
    axes.legend()


def draw_eval(path: str, model: str, records: list[dict[str, Any]], reference: dict[str, Any] | None = None) -> None:
    """Perplexity over bits per weight, a point for each setting, a line for each way to quantize.

    reference: what the settings are compared with, a level line that they can at best reach. A setting that is RUIN
    times the best is drawn at the upper edge, with its perplexity: it would flatten what can be compared.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    if reference:
        level = f"{reference['setting']}: {reference['perplexity']:.4g}"
        axes.axhline(reference["perplexity"], color="black", linewidth=1, linestyle="--", label=level)
    ceiling = RUIN * min(record["perplexity"] for record in records)
    drawn = ways(records)
    methods = list(dict.fromkeys(way.partition(",")[0] for way in drawn))
    for (way, points), marker in zip(drawn.items(), cycle("osD^vPXp")):
        points.sort(key=lambda record: record["bits_per_weight"])
        x, y = [r["bits_per_weight"] for r in points], [min(r["perplexity"], ceiling) for r in points]
        # Hollow and of different shapes, since points lie over one another where two ways do equally well.
        color = f"C{methods.index(way.partition(',')[0])}"
        axes.plot(x, y, marker=marker, markersize=8, markerfacecolor="none", linewidth=1.4, color=color, label=way)
    for text, point in labels(records, ceiling):
        axes.annotate(text, point, (8, 4), textcoords="offset points", fontsize="small")
    set_scales(axes, [r["bits_per_weight"] for r in records], [min(r["perplexity"], ceiling) for r in records])
    axes.set(
        title=f"{drawable(model)}: {records[0]['tokens']} tokens in windows of {records[0]['window']}",
        xlabel="bits per weight of the layers' matrices, scales included",
        ylabel="perplexity (lower is better)",
    )
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save(figure, path)


def labels(records: list[dict[str, Any]], ceiling: float) -> list[tuple[str, tuple[float, float]]]:
    """A setting's bits, once for all points above one another: over the highest; what is off the scale by name."""
    highest: dict[tuple[str, float], tuple[float, float]] = {}
    ruins: dict[float, list[str]] = {}
    for record in records:
        setting = record.get("setting", record["engine"]["dtype"])
        bits, perplexity = record["bits_per_weight"], record["perplexity"]
        if perplexity > ceiling:
            ruins.setdefault(bits, []).append(f"↑ {setting}: {perplexity:,.0f}")
        elif setting != "w8a8":  # the legend's name says it all
            key = setting.partition(":")[0].partition("-g")[0], round(bits, 1)
            highest[key] = max((bits, perplexity), highest.get(key, (bits, 0.0)), key=lambda point: point[1])
    off = [("\n".join(names), (bits, ceiling)) for bits, names in ruins.items()]
    return [(name, point) for (name, _), point in highest.items()] + off


def ways(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The records by how their weights are stored: pruned, float, w8a8, or a method and its group size."""
    by_way: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        engine = record["engine"]
        pruned = removed(engine)
        if engine["quantize"] in ("off", "keep", "w8a8"):
            way = {"off": "float", "keep": "the file's own", "w8a8": "w8a8"}[engine["quantize"]]
        else:
            method = engine["quantize_method"]
            way = f"{method if method == 'combined' else method.upper()}, groups of {engine['group_size']}"
        way = way if not pruned else pruned if way == "float" else f"{pruned}, {way}"
        by_way.setdefault(way, []).append(record)
    return by_way


def removed(engine: dict[str, Any]) -> str:
    """What pruning removed: by which method, or which parts; empty without pruning."""
    if engine["prune"] != "off":
        return f"{engine['prune']} {'N:M' if ':' in str(engine['sparsity']) else 'by share'}"
    parts = {"drop_layers": "layers", "width": "neurons", "keep_kv_heads": "heads", "keep_hidden": "model width"}
    names = [word for field, word in parts.items() if engine[field] is not None]
    return f"fewer {' and '.join(names)}{', fitted' * engine['refit']}" if names else ""


def set_scales(axes: Any, bits: list[float], perplexities: list[float]) -> None:
    """Bits by doublings; perplexities too, where the worst would flatten all others."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log", base=2)
    axes.set_xlim(min(bits) / 1.15, max(bits) * 1.3)
    axes.set_xticks([n for n in (2, 3, 4, 5, 6, 8, 12, 16, 32) if min(bits) / 1.15 <= n <= max(bits) * 1.3])
    axes.xaxis.set_major_formatter("{x:g}")
    if max(perplexities) > 2 * min(perplexities):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.ticklabel_format(axis="y", useOffset=False)
    axes.minorticks_off()
    axes.margins(y=0.12)


def draw_training(path: str, student: str, place: Place) -> None:
    """The loss of each step, and the perplexity of each test, over the tokens read."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*place.losses, strict=True), color="tab:blue", alpha=0.5, label="loss of a step")
    axes.set_xlabel("tokens read")
    axes.set_ylabel("loss")
    lines, labels = axes.get_legend_handles_labels()
    if place.tests:
        right = axes.twinx()
        tokens, losses = zip(*place.tests, strict=True)
        perplexities = [Perplexity(loss, 1).perplexity for loss in losses]
        label = "perplexity of the tests (right)"
        lines += right.plot(tokens, perplexities, "o-", color="tab:orange", label=label)
        right.set_ylabel("perplexity")
        labels.append(label)
    axes.legend(lines, labels)
    figure.suptitle(f"{drawable(student)}: trained")
    save(figure, path)


def draw_frontier(path: str, model: str, cluster: str, frontier: Frontier, tpot_s: float | None = None) -> None:
    """Tokens a second for each GPU over the time per token: every split that fits, and the frontier above them.

    tpot_s: the latency that was asked for, as an upright line. What has less than half of the frontier's lowest
    throughput is left out.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    lowest = min(one.tps_per_gpu for one in frontier.best) / 2
    shown = [one for one in frontier.fitting if one.tps_per_gpu > lowest]
    for i, tp in enumerate(sorted({one.split.tp for one in shown})):
        own = [place(one) for one in shown if one.split.tp == tp]
        axes.plot(*zip(*own, strict=True), ".", markersize=4, color=f"C{i}", label=f"TP {tp}")
    axes.plot(*zip(*map(place, frontier.best), strict=True), color="black", linewidth=1.2, label="frontier")
    for one, text in frontier_labels(frontier.best):
        axes.annotate(text, place(one), (-4, 4), textcoords="offset points", ha="right", fontsize="x-small")
    if tpot_s is not None:
        axes.axvline(tpot_s * 1e3, color="black", linewidth=1, linestyle="--", label=f"{tpot_s * 1e3:g} ms")
    axes.set(xscale="log", yscale="log", xlabel="time per token of a sequence, ms",
             ylabel="generated tokens a second for each GPU", title=f"{drawable(model)} on {cluster}")  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.margins(x=0.15)
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, fontsize="small", loc="lower right")
    save(figure, path)


def place(one: Prediction) -> tuple[float, float]:
    """Where a prediction is drawn: milliseconds per token, and tokens a second for each GPU."""
    return one.tpot_s * 1e3, one.tps_per_gpu


def frontier_labels(best: list[Prediction]) -> list[tuple[Prediction, str]]:
    """For each point of a frontier the sequences of a replica, and TP x PP where it is another than before."""
    labels, before = [], ""
    for one in best:
        split = f"{one.split.tp} x {one.split.pp}: "
        labels.append((one, f"{'' if split == before else split}{-(-one.sequences // one.split.dp)}"))
        before = split
    return labels
