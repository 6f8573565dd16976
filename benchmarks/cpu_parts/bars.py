"""Ratios of tables as bars, with a line where both sides are equally fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(tables: list[Any], path: Path) -> None:
    """Draws every table that has ratios, one below the other, into a file; where none has, there is none."""
    import matplotlib.pyplot as plt

    shown = [(table.title, [row for row in table.rows if row[3]]) for table in tables]
    shown = [(title, rows) for title, rows in shown if rows]
    if not shown:
        return
    heights = [len(rows) + 1.5 for _, rows in shown]
    figure, places = plt.subplots(
        len(shown), figsize=(9, 0.32 * sum(heights)), gridspec_kw={"height_ratios": heights}, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes, (title, rows) in zip(places[:, 0], shown, strict=True):
        ratios = [float(row[3].rstrip("x")) for row in rows]
        bars = axes.barh([f"{row[0]}, beside {row[2]}" for row in rows], ratios, color="#4472a8")
        axes.bar_label(bars, [f"{row[1]}  ({row[3]})" for row in rows], padding=3, fontsize=8)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set(title=title, xlim=(0, max(2.0, 1.25 * max(ratios))))
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=8)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
