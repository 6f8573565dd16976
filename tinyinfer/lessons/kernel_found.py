"""What lesson 17 finds of its kernels: each beside the memory's speed, sentences chosen by the numbers, the figure.

A rung is a kernel and its rate: bytes of the int8 format that it gets through in a second. Rates differ from machine to
machine and with other load, so no sentence here knows which kernel is the faster one before it was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tinyinfer.units import amount

Rates = Mapping[str, float]  # name of a kernel -> bytes a second, in the order of the lesson
Table = tuple[list[str], list[list[str]]]  # headings, rows

NEAR = 0.7  # of the bandwidth: above, a kernel waits for memory more than for anything else
SAME = 1.1  # two times that differ by less are called alike
WRONG = 1e-3  # of the largest result: float32 in another order differs by far less
CODE_SHARE = 1 / (1 + 2 / 32)  # of the format's bytes, with a scale of two bytes for 32 codes


def beside(rates: Rates, bandwidth: float) -> Table:
    """Each kernel's rate, its share of what memory gives, and how many times the rate before it."""
    rows, before = [], None
    for name, rate in rates.items():
        gain = "" if before is None else f"{rate / before:,.1f}"
        rows.append([name, amount(rate, "B/s"), f"{rate / bandwidth:.2%}", gain])
        before = rate
    return ["kernel", "weights, bytes a second", "of the read bandwidth", "times the one above"], rows


def promise(nbytes: int, bandwidths: Sequence[float], threads: int) -> str:
    """What memory alone would allow. bandwidths: of one thread, of all."""
    least = nbytes / bandwidths[0]
    text = (
        f"A token reads {amount(nbytes, 'B')}, and one thread of this machine reads {amount(bandwidths[0], 'B/s')}. So "
        f"the products of a token take at least {1e3 * least:.1f} ms: **at most {1 / least:.0f} tokens a second.**"
    )
    return text if threads == 1 else f"{text} {threads} threads together read {amount(bandwidths[1], 'B/s')}."


def python_said(seconds: float, nbytes: int, part: int) -> str:
    """How long a whole token would take in plain Python."""
    whole = seconds * nbytes / part
    return f"At this speed the products of **one token** would take {whole:,.0f} seconds."


def compiled_said(python: float, numpy: float, compiled: float, bandwidth: float) -> str:
    """What compiling a loop brought, and whether memory is what it waits for now."""
    text = f"Compiled, the same lines run {compiled / python:,.0f} times as fast as in Python. "
    if compiled < numpy / SAME:
        text += "And yet they are slower than NumPy's way, which moves each weight several times. "
    share = compiled / bandwidth
    if share < NEAR:
        return text + (
            f"They get through {share:.1%} of the bytes that memory would give in that time. So the prediction is "
            f"{1 / share:.0f} times too good, and **memory is not what this loop waits for.**"
        )
    return text + f"They reach {share:.0%} of what memory gives: on this machine the order of the loops is no obstacle."


def fastmath_said(compiled: float, reordered: float) -> str:
    """What the permission to add in another order brought to the textbook's loop, in seconds."""
    text = f"With the permission to reorder: {compiled / reordered:.2f} times as fast. "
    if compiled > SAME * reordered:
        return text + (
            "The compiler makes several sums of each group, side by side in one register. At the end of the group they "
            "have to be added to each other, across the register, and that is most of what is left."
        )
    return text + (
        "Several sums side by side have to be added to each other at the end of each group, across a register. A group "
        "is too short for that to pay."
    )


def order_said(textbook: float, blocks: float, nbytes: int, bandwidth: float) -> str:
    """What the other order of the same arithmetic brought, beside memory and beside float32. In seconds of a token."""
    share, floats = nbytes / blocks / bandwidth, CODE_SHARE * 4 * nbytes / bandwidth
    gain = textbook / blocks
    text = "The same numbers, multiplied and added as often, in another order: "
    text += f"**{gain:.1f} times as fast.** " if gain > SAME else f"{gain:.2f} times as fast, which is no gain here. "
    text += f"That is {share:.0%} of the read bandwidth of one thread, or {1 / blocks:.0f} tokens a second. "
    if blocks < floats:
        return text + f"Weights in float32 could be read {1 / floats:.0f} times a second: only now do codes win time."
    return text + f"Weights in float32 could be read {1 / floats:.0f} times a second, so codes still save memory alone."


def wider_said(blocks: float, wider: float) -> str:
    """What sums of eight bytes cost, in seconds."""
    if wider > SAME * blocks:
        return (
            f"Sums of eight bytes: **{wider / blocks:.1f} times slower.** A register holds half as many of them, and "
            "every code has to become a number of eight bytes before it is multiplied."
        )
    return f"Sums of eight bytes take {wider / blocks:.2f} times as long here: no difference to speak of."


def pairs_said(blocks: float, pairs: float) -> str:
    """What fewer reads and writes of the sums brought, in seconds."""
    if blocks > SAME * pairs:
        return f"Half as many reads and writes of the sums: **{blocks / pairs:.2f} times as fast.**"
    return (
        f"Half as many reads and writes of the sums: {blocks / pairs:.2f} times as fast. The sums are not what this "
        "processor waits for, now."
    )


def halves_said(predicted: float, measured: float) -> str:
    """What fewer bytes of scales brought, beside what the bytes alone would bring."""
    text = f"By the bytes it could be {predicted:.2f} times as fast, and it is {measured:.2f} times as fast. "
    if measured >= 1 + (predicted - 1) / 2:
        return text + "What is not moved takes no time."
    return text + "The bytes are saved, the time is not: the kernel waits for something else, or for the shifts."


def threads_said(one: float, many: float, bandwidths: tuple[float, float], threads: int) -> str:
    """What more threads brought, in bytes a second, beside what memory gives. bandwidths: to one thread, to all."""
    if threads == 1:
        return "This process may use one core, so there is nothing to gain: more threads would only take turns."
    memory, share = bandwidths[1] / bandwidths[0], many / bandwidths[1]
    text = f"{threads} threads: {many / one:.2f} times as fast, {share:.0%} of what memory gives to {threads} readers. "
    if many < SAME * one:
        return text + "Nothing was gained this time: the threads wait for the same memory, or for a core that is busy."
    if many / one > SAME * memory:
        return text + (
            f"Memory itself gives {threads} readers only {memory:.2f} times as much. One thread was limited by its own "
            "instructions; more threads bring more of these."
        )
    return text + f"Memory gives {threads} readers {memory:.2f} times as much as one."


def rows_table(seconds: Mapping[str, Mapping[int, float]]) -> Table:
    """For each kernel and number of rows: time, and rows a second beside one row's."""
    counts = list(next(iter(seconds.values())))
    rows = [
        [name, *(f"{1e3 * times[n]:.1f} ms, {n * times[1] / times[n]:.1f}x" for n in counts)]
        for name, times in seconds.items()
    ]
    return ["kernel: time, gain", *(f"{n} row{'s' * (n > 1)}" for n in counts)], rows


def gain(times: Mapping[int, float], rows: int) -> float:
    """How many times as many rows a second a step of so many rows computes as steps of one row."""
    return rows * times[1] / times[rows]


def rows_said(floats: Mapping[int, float], dots: Mapping[int, float], rows: int, instruction: bool) -> str:
    """What more rows gain with floats, and with whole numbers. instruction: whether the processor has the dot product.
    """
    a, b = gain(floats, rows), gain(dots, rows)
    text = (
        f"If reading were all, {rows} rows would gain {rows} times. With floats they gain {a:.1f} times, with whole "
        f"numbers {b:.1f} times: {rows} rows take {1e3 * floats[rows]:.0f} ms and {1e3 * dots[rows]:.0f} ms. "
    )
    if not instruction:
        text += "This processor has no dot product of bytes: ordinary instructions stand in. "
    if b > SAME * a:
        return text + "**The arithmetic of floats is the limit, and one instruction with 64 products moves it away.**"
    return text + "The gain of more rows is no larger than with floats, this time."


def compile_said(first: float, slow: float, fast: float) -> str:
    """After how many tokens a compiled kernel has earned the seconds of its compilation. slow, fast: of a token."""
    text = f"The first call took {first:.1f} s, nearly all of it the compiler. "
    if slow <= fast:
        return text + "And a token takes no less time than before, so nothing ever pays that back here."
    tokens = math.ceil(first / (slow - fast))
    text += f"A token takes {1e3 * (slow - fast):.0f} ms less than NumPy's way, so "
    if tokens < 3:
        return text + "the compiler is paid back by the second token, this time. But this was one kernel of many."
    return text + (
        f"**an answer of fewer than {tokens} tokens is slower.** And this was one kernel of many: that is why a "
        "library keeps compiled kernels on disk."
    )


def prompt_said(rows: int, kernel: float, blas: float) -> str:
    """Whether a prompt's many rows are faster by the kernel or by floats and BLAS."""
    text = f"{rows} rows: {1e3 * kernel:.0f} ms by the kernel, {1e3 * blas:.0f} ms by floats in memory and BLAS. "
    if kernel > SAME * blas:
        return text + (
            f"**The kernel loses, {kernel / blas:.1f} times.** Making floats costs once for all rows, and BLAS keeps "
            "pieces of both matrices in registers and caches, where our kernel reads the block again for each row."
        )
    return text + "The kernel holds its own here, this time."


def shared_said(error: float, threads: int) -> str:
    """What came of sums that several threads share. error: the largest one, as a share of the largest result."""
    if threads == 1:
        return "One thread shares with none: the products are right here. With two threads they would not have to be."
    if error > WRONG:
        return (
            f"**The largest error is {error:.0%} of the largest result.** Each thread added to the sums of the other: "
            "a race. No error was raised, and the next run gives other numbers."
        )
    return "This time the products are right. Nothing promises that: each thread adds to the sums of the other, a race."


def draw(rates: Rates, bandwidths: Sequence[float], seconds: Mapping[str, Mapping[int, float]]) -> Any:
    """Left: each kernel's rate beside the read bandwidth. Right: what more rows gain. bandwidths: one thread, all."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), width_ratios=(3, 2), layout="constrained")
    _draw_rates(left, rates, bandwidths)
    _draw_gains(right, seconds)
    for axis in (left, right):
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_rates(axes: Any, rates: Rates, bandwidths: Sequence[float]) -> None:
    names = list(rates)[::-1]
    axes.barh(names, [rates[name] / 1e9 for name in names], color="#4a7ab5", height=0.65)
    for name in names:
        axes.annotate(f"{rates[name] / 1e9:.3g}", (rates[name] / 1e9, name), (3, -4), textcoords="offset points",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0})
    for bandwidth, label, line in zip(bandwidths, ("one thread reads", "all threads read"), ("-", "--"), strict=True):
        axes.axvline(bandwidth / 1e9, color="#c0704f", linestyle=line, label=f"{label} {bandwidth / 1e9:.3g} GB/s")
    floats = bandwidths[0] / 4 / CODE_SHARE
    axes.axvline(floats / 1e9, color="gray", linestyle=":", label="float32 weights, at best")
    axes.set(xscale="log", xlabel="GB of int8 weights a second (log)")
    axes.set_xlim(min(rates.values()) / 2e9, max(bandwidths) / 3e8)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=2, frameon=False, fontsize="small")


def _draw_gains(axes: Any, seconds: Mapping[str, Mapping[int, float]]) -> None:
    for (name, times), color in zip(seconds.items(), ("#4a7ab5", "#5a9a6a"), strict=False):
        axes.plot(list(times), [gain(times, n) for n in times], "o-", color=color, label=name)
    rows = list(next(iter(seconds.values())))
    axes.plot(rows, rows, ":", color="gray", label="if reading were all")
    axes.set(xscale="log", yscale="log", xlabel="rows in a step", ylabel="rows a second, times one row's")
    axes.set_xticks(rows, [str(n) for n in rows])
    axes.set_yticks(rows, [str(n) for n in rows])
    axes.legend(frameon=False, fontsize="small")
