"""What each step of a run cost, as small bars under each other: rows, arithmetic, bytes, time, and blocks in use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinyinfer.units import amount
from tinyinfer.views.recording import Recording, Step

STYLE = """
.tinyinfer-view .lane svg { position: absolute; inset: 0; width: 100%; height: 100%; fill: currentColor; opacity: .55; }
.tinyinfer-view .lane.tall { height: 34px; }
.tinyinfer-view .lanes b { display: block; font-weight: 600; line-height: 1.3; white-space: nowrap; }
"""


@dataclass(frozen=True)
class Measure:
    """A cost of a step. key: its name in the page's data."""

    key: str
    name: str
    value: Callable[[Step], float]
    shown: Callable[[float], str]


MEASURES = (
    Measure("rows", "rows", lambda step: step.rows, lambda value: f"{value:.0f}"),
    Measure("flops", "arithmetic", lambda step: step.ledger.flops, lambda value: short(value, "FLOP")),
    Measure("bytes", "bytes moved", lambda step: step.ledger.bytes_moved, lambda value: short(value, "B")),
    Measure("time", "time", lambda step: step.end - step.begin, lambda value: duration(value)),
    Measure("blocks", "blocks", lambda step: len(step.blocks), lambda value: f"{value:.0f}"),
)


def measures(recording: Recording) -> list[Measure]:
    """The costs that a recording has: those that are zero in every step are left out."""
    return [one for one in MEASURES if any(one.value(step) for step in recording.steps)]


def short(value: float, unit: str) -> str:
    """An amount in three digits, for a narrow place.

    >>> short(170_612, "FLOP"), short(0, "B")
    ('171 kFLOP', '0 B')
    """
    return amount(float(f"{value:.3g}"), unit)


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def bars(recording: Recording, measure: Measure, columns: int) -> str:
    """The bars of one cost over all steps, as high as its largest value allows; so many columns are the full width."""
    values = [measure.value(step) for step in recording.steps]
    most = max(values)
    heights = [round(94 * value / most, 1) for value in values]
    path = "".join(f"M{i}.08 100v-{height:g}h.84v{height:g}z" for i, height in enumerate(heights) if height)
    label = f"{measure.name} by step, at most {measure.shown(most)}"
    return (
        f'<svg viewBox="0 0 {columns} 100" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'<path d="{path}"/></svg>'
    )
