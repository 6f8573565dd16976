"""What lesson 00 shows of its runs: tables of counts and times, what they say on this machine, and the figure.

Counts are the same on every machine, so the lesson says them outright. Times are not: each sentence about a time is
chosen by what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinyinfer.ledger import Ledger
from tinyinfer.measure.roofline import Machine, predict_seconds
from tinyinfer.units import amount

Table = tuple[list[str], list[list[str]]]  # headings, rows
Runs = Mapping[str, "Run"]  # by the name of the setting, the plain one first


@dataclass(frozen=True)
class Run:
    """One question under a setting, for some readers at once. Everything below is for one of them.

    texts: the different texts. total: what all readers together cost. took: seconds, of all together.
    """

    texts: frozenset[str]
    total: Ledger
    took: float
    readers: int = 1

    @property
    def steps(self) -> float:
        return self.total.steps / self.readers

    @property
    def rows(self) -> float:
        return self.total.tokens_computed / self.readers

    @property
    def flops(self) -> float:
        return self.total.flops / self.readers

    @property
    def moved(self) -> float:
        return self.total.bytes_moved / self.readers

    @property
    def seconds(self) -> float:
        return self.took / self.readers

    def at_least(self, machine: Machine) -> float:
        """The seconds that the roofline allows on a machine."""
        return predict_seconds(self.total, machine) / self.readers


def first(runs: Runs) -> Run:
    """The plain setting, with which the others are compared."""
    return next(iter(runs.values()))


def counts(runs: Runs) -> Table:
    """Counted for one reader: what each setting has cost, and whether the text is the plain one's."""
    headings = ["setting", "steps", "rows computed", "FLOPs", "bytes", "the same text"]
    return headings, [
        [name, f"{run.steps:g}", f"{run.rows:g}", amount(run.flops, "FLOP"), amount(run.moved, "B"),
         "yes" if run.texts == first(runs).texts else "no"]
        for name, run in runs.items()
    ]  # fmt: skip


def times(runs: Runs) -> Table:
    """Measured for one reader, beside what was counted, both as parts of the plain setting's."""
    plain = first(runs)
    parts = {
        name: (run.flops / plain.flops, run.moved / plain.moved, run.seconds / plain.seconds)
        for name, run in runs.items()
    }
    return ["setting", "FLOPs", "bytes", "time"], [
        [name, *(f"{part:.0%}" for part in three)] for name, three in parts.items()
    ]


def told_by_times(runs: Runs) -> str:
    """Two surprises, or what there was instead on this machine: fewer bytes, and fewer steps."""
    plain, bits, drafts = first(runs), runs["eight bits"], runs["prompt lookup"]
    floats = (
        "took **more** time. Fewer bytes are less time only for a program that multiplies these bytes as they are. "
        "NumPy cannot: it makes floats of them first. Lesson 05 is about this."
    )
    saved = f"needed {drafts.steps:g} steps instead of {plain.steps:g}, and "
    rows = "still was not faster here: a step of several rows took longer than a step of one. Lesson 02 finds out why."
    told = rows if drafts.seconds > plain.seconds else "was faster here."
    return (
        f"- With eight bits the engine read {bits.moved / plain.moved:.0%} of the bytes, and "
        f"{floats if bits.seconds > plain.seconds else 'took less time on this machine.'}\n"
        f"- Prompt lookup {saved if drafts.steps < plain.steps else 'saved no step: no draft was accepted. '}"
        f"{told if drafts.steps < plain.steps else ''}"
    )


def at_least(runs: Runs, machine: Machine) -> Table:
    """By the roofline, from counts alone: the seconds that a machine needs at least for one reader."""
    return ["setting", "rows computed", "FLOPs", "bytes", "milliseconds at least"], [
        [name, f"{run.rows:g}", amount(run.flops, "FLOP"), amount(run.moved, "B"), f"{1e3 * run.at_least(machine):.1f}"]
        for name, run in runs.items()
    ]


def told_by_counts(runs: Runs, machine: Machine) -> str:
    """Which settings win and which lose against the plain one, by the roofline."""
    usual = first(runs).at_least(machine)
    better = [name for name, run in runs.items() if run.at_least(machine) < 0.99 * usual]
    worse = [name for name, run in runs.items() if run.at_least(machine) > 1.01 * usual]
    return (
        f"Better than as it comes: **{', '.join(better) or 'none'}**. Worse: **{', '.join(worse) or 'none'}**. "
        f"{len(runs) - len(better) - len(worse) - 1} of the others tie with it."
    )


def draw(runs: Runs, tokens: int) -> Any:
    """Bars of bytes and FLOPs a token beside the measured time. tokens: of each answer."""
    import matplotlib.pyplot as plt

    columns = (
        ("bytes a token, MB", [run.moved / tokens / 1e6 for run in runs.values()], "#4a7ab5"),
        ("arithmetic a token, GFLOP", [run.flops / tokens / 1e9 for run in runs.values()], "#7d9c4f"),
        ("measured here: time a token, ms", [run.seconds / tokens * 1e3 for run in runs.values()], "#c0704f"),
    )
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True)
    for axis, (title, values, color) in zip(axes, columns, strict=True):
        axis.bar_label(axis.barh(list(runs), values, color=color), fmt="%.3g", padding=3, fontsize=9)
        axis.set(xlim=(0, 1.25 * max(values)))
        axis.set_title(title, fontsize=11)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.tight_layout()
    return figure
