"""What lesson 02 shows of its steps: predicted beside measured, where the roofline is wrong, and the figure.

Times differ from machine to machine, so each sentence about a time is chosen by what was measured. One recording stands
beside them: a machine on which the roofline is wrong at few rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tinyinfer.ledger import Ledger
from tinyinfer.lessons.roofline_by_hand import SMOLLM2
from tinyinfer.measure.roofline import Machine, expected_step, limit, predict_seconds
from tinyinfer.model.config import ModelConfig
from tinyinfer.units import amount

Table = tuple[list[str], list[list[str]]]  # headings, rows
Seconds = Mapping[int, float]  # rows of a step -> its seconds

RECORDED_ON = Machine(read_bandwidth=33.35e9, matrix_speed=107.4e9)  # one thread of an AMD EPYC (AVX-512)
RECORDED: Seconds = {  # a step of SmolLM2 in float32 there, median of three
    1: 0.0282, 2: 0.0398, 3: 0.0457, 4: 0.0695, 6: 0.0764, 8: 0.0779, 16: 0.0963, 32: 0.1339, 64: 0.2098, 128: 0.3624,
    256: 0.6947,
}  # fmt: skip


def predictions(counted: Mapping[int, Ledger], machine: Machine) -> Table:
    """What each step counts, which limit binds, and the seconds that the roofline allows."""
    return ["rows", "FLOPs", "bytes", "FLOPs a byte", "limit", "predicted, ms"], [
        [str(rows), amount(cost.flops, "FLOP"), amount(cost.bytes_moved, "B"), f"{cost.flops / cost.bytes_moved:.1f}",
         limit(cost, machine), f"{1e3 * predict_seconds(cost, machine):.1f}"]
        for rows, cost in counted.items()
    ]  # fmt: skip


def promised(predicted: Seconds, machine: Machine) -> str:
    """What the prediction promises: the rows that cost no more than one."""
    free = max(rows for rows, seconds in predicted.items() if seconds < 1.05 * predicted[1])
    speeds = f"reads {amount(machine.read_bandwidth, 'B/s')} and does {amount(machine.matrix_speed, 'FLOP/s')}"
    return (
        f"This machine {speeds}. By the formula a step of {free} rows takes as long as a step of one row. So **{free} "
        "readers would cost no more than one**, and drafts would be verified for nothing. Is that true?"
    )


def compared(predicted: Seconds, measured: Seconds) -> Table:
    """Predicted beside measured seconds of each step."""
    return ["rows", "predicted, ms", "measured, ms", "measured / predicted", "measured / one row"], [
        [str(rows), f"{1e3 * predicted[rows]:.1f}", f"{1e3 * seconds:.1f}", f"{seconds / predicted[rows]:.2f}",
         f"{seconds / measured[1]:.2f}"]
        for rows, seconds in measured.items()
    ]  # fmt: skip


def worst(predicted: Seconds, measured: Seconds) -> str:
    """Where the prediction is worst, and whether few rows stand out on this machine."""
    ratio = {rows: measured[rows] / predicted[rows] for rows in measured}
    most, last = max(ratio, key=ratio.__getitem__), max(ratio)
    text = (
        f"The prediction is worst at {most} rows: the step took {ratio[most]:.1f} times as long. At one row it took "
        f"{ratio[1]:.1f} times, at {last} rows {ratio[last]:.1f} times as long as predicted.\n\n"
    )
    if 1 < most <= 32 and ratio[most] > 1.3 * max(ratio[1], ratio[last]):
        return text + (
            "**The formula misses the very steps that should have been free, or nearly so**: "
            f"{most} rows took {measured[most] / measured[1]:.1f} times as long as one row."
        )
    return (
        text + "Few rows do not stand out here, this time. The broken line of the figure shows a machine where they do."
    )


def kind_of_rest(rest: Mapping[int, float]) -> str:
    """Whether the time that arithmetic leaves is one of each weight. rest: rows -> readings of all weights."""
    few = [left for rows, left in rest.items() if rows > 1]
    copies = "a product of two matrices first copies the large one into blocks; it reads the weights, writes them and "
    copies += "reads them again"
    if max(few) < 2 * min(few) and min(few) > 1.3 * rest[1]:
        return (
            "The rest hardly depends on the number of rows, and a product of one row does not have it. So it is a cost "
            f"of each **weight**: {copies}. Few rows pay for the copy and hardly use it; many rows share it."
        )
    return f"This time the rest shows no clear cost of each weight here. Where it does, {copies}."


def mended_beside(old: Seconds, new: Seconds, measured: Seconds) -> Table:
    """Measured seconds over those of the old formula and of the mended one."""
    return ["rows", "measured / predicted", "measured / mended"], [
        [str(rows), f"{measured[rows] / old[rows]:.2f}", f"{measured[rows] / new[rows]:.2f}"] for rows in new
    ]


def draw(c: ModelConfig, machine: Machine, measured: Seconds, recorded: bool) -> Any:
    """Time by rows under the roofline; below, how many times too short it is. recorded: whether the recording, too."""
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.5, 6), sharex=True, height_ratios=(2, 1))
    curves = [("o-", "#c0704f", "measured here", measured, roof(c, measured, machine))]
    if recorded:
        curves.append(("--", "gray", "recorded on another machine", RECORDED, roof(SMOLLM2, RECORDED, RECORDED_ON)))
    for line, color, label, seconds, least in curves:
        top.plot(list(seconds), [1e3 * one for one in seconds.values()], line, color=color, label=label)
        bottom.plot(list(seconds), [seconds[rows] / least[rows] for rows in seconds], line, color=color)
    least = roof(c, np.unique(np.geomspace(1, max(measured), 60).astype(int)).tolist(), machine)
    top.plot(
        list(least),
        [1e3 * one for one in least.values()],
        color="#4a7ab5",
        linewidth=2,
        label="roofline: no step is faster",
    )
    top.set(xscale="log", yscale="log", ylabel="milliseconds for a step")
    top.legend()
    bottom.set(xlabel="rows in the step", ylabel="measured / predicted", ylim=0)
    bottom.axhline(1, color="#4a7ab5")
    bottom.set_xticks(list(measured), [str(rows) for rows in measured])
    for axis in (top, bottom):
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def roof(c: ModelConfig, rows: Iterable[int], machine: Machine) -> dict[int, float]:
    """Rows of a step -> the seconds that the roofline allows."""
    return {n: predict_seconds(expected_step(c, 0, n), machine) for n in rows}
