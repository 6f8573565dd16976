"""Figures of `bench` and `eval`. matplotlib is an extra and is loaded only here, when a figure is asked for."""

from __future__ import annotations

import os
import statistics
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyinfer.cli.measure import Round
    from tinyinfer.roofline import Machine

FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: str) -> None:
    """Refuses a figure that could not be written, before any work. Raises ValueError."""
    folder = os.path.dirname(path) or "."
    if not path.lower().endswith(FORMATS):
        raise ValueError(f"--plot {path}: the name must end in {', '.join(FORMATS)}")
    if os.path.isdir(path):
        raise ValueError(f"--plot {path}: is a folder; give the name of a file")
    if not os.path.isdir(folder):
        raise ValueError(f"--plot {path}: there is no folder {folder!r}; create it first")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--plot {path}: the folder {folder!r} cannot be written to; choose another one")
    if find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib; install it with: pip install 'tinyinfer[notebooks]'")


def save(figure: Any, path: str) -> None:
    """Writes the whole figure or nothing."""
    target = Path(path)
    part = target.with_name(f".{os.getpid()}.part.{target.name}")
    try:
        figure.savefig(part, dpi=150)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def draw_bench(path: str, model: str, rounds: list[Round], machine: Machine) -> None:
    """Two panels: the roofline with prefill and decode under it, and each decode step's time beside its prediction."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_roofline(left, rounds, machine)
    draw_steps(right, rounds, machine)
    figure.suptitle(f"{model}: what the roofline predicts, and what was measured")
    save(figure, path)


def draw_roofline(axes: Any, rounds: list[Round], machine: Machine) -> None:
    """GFLOP/s reached over FLOPs per byte, under the two limits of the machine."""
    from tinyinfer.cli.bench_rounds import phase

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
    from tinyinfer.cli.bench_rounds import is_prefill
    from tinyinfer.roofline import predict_seconds

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


def draw_eval(path: str, model: str, records: list[dict[str, Any]]) -> None:
    """Perplexity over bytes of weights, a point for each setting: what is bought with what."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for record in records:
        point = record["weight_bytes"] / 1e6, record["perplexity"]
        axes.plot(*point, "o")
        axes.annotate(record.get("setting", record["engine"]["dtype"]), point, (6, 6), textcoords="offset points")
    axes.set(
        title=f"{model}: {records[0]['tokens']} tokens in windows of {records[0]['window']}",
        xlabel="weights in memory, MB",
        ylabel="perplexity (lower is better)",
    )
    axes.ticklabel_format(useOffset=False)
    axes.margins(0.2)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    save(figure, path)
