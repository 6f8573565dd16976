"""The judges of lesson 17: a student's layout and kernel, on tiny matrices, and the order in which codes are read.

A kernel is judged as plain Python, which knows an index that is out of range; compiled, it would write anywhere. Then,
where numba is installed, numba compiles it, and the compiled kernel has to give the same numbers. Time is no judge: the
order of the loops is, counted by kernel_reads.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from tinyinfer.errors import one_line
from tinyinfer.lessons.endless import Endless, bounded
from tinyinfer.lessons.exercise import Wrong
from tinyinfer.lessons.kernel_ladder import LANES, in_blocks
from tinyinfer.lessons.kernel_reads import LINE, lines_fetched, noted_reads
from tinyinfer.units import show

ROUNDING = 1e-5  # of the sum of sizes: float32 sums of a dozen products differ by far less, a wrong product by far more
NOT_A_FUNCTION = "keep the line that begins with `def`"


# The layout.


def judge_blocks(answer: Any) -> Wrong | None:
    """The student's blocks beside ours, and beside those of each usual slip."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", NOT_A_FUNCTION)
    for codes in (numbered(2, 12, np.int8), numbered(1, 5, np.int8), numbered(3, 4, np.float32)):
        given = answer(codes.copy())
        if wrong := _wrong_form(given, codes) or _wrong_order(given, codes):
            return wrong
    return None


def numbered(blocks: int, inputs: int, kind: type) -> np.ndarray:  # -> (64*blocks, inputs)
    """A matrix whose numbers are unlike their neighbours."""
    outputs = LANES * blocks
    return np.random.default_rng(inputs).integers(-127, 128, (outputs, inputs)).astype(kind)


def _wrong_form(given: Any, codes: np.ndarray) -> Wrong | None:
    wanted = len(codes) // LANES, codes.shape[1], LANES
    if given is None:
        return Wrong("The function returned None.", "end it with `return`")
    if not isinstance(given, np.ndarray):
        return Wrong(f"The function returned {show(given)[:60]}.", "return an array of shape (J, M, 64)")
    if given.shape != wanted:
        hint = f"of {codes.shape[0]} outputs and {codes.shape[1]} inputs make {wanted}: (J, M, 64)"
        if given.shape == (wanted[0], LANES, wanted[1]):
            hint = "the 64 outputs of a block are the last axis: exchange the last two axes, as `swapaxes(1, 2)` does"
        return Wrong(f"The shape is {given.shape}.", hint)
    if given.dtype != codes.dtype:
        return Wrong(f"The numbers are {given.dtype}, not {codes.dtype}.", "move the numbers, and change none")
    return None


def _wrong_order(given: np.ndarray, codes: np.ndarray) -> Wrong | None:
    truth = in_blocks(codes)
    if np.array_equal(given, truth):
        if given.flags.c_contiguous:
            return None
        hint = "a view with other axes moves nothing: `np.ascontiguousarray` writes the numbers in the new order"
        return Wrong("The numbers still lie in memory in the old order.", hint)
    blocks, inputs, _ = truth.shape
    slips = {
        "An output's codes are not moved, only cut into other pieces.": (
            codes.reshape(blocks, inputs, LANES),
            "first split the outputs into blocks, (J, 64, M); then exchange two axes",
        ),
        "A block has every J-th output, not 64 that follow each other.": (
            codes.reshape(LANES, blocks, inputs).transpose(1, 2, 0),
            "split the axis of outputs into (J, 64), in this order",
        ),
    }
    for sentence, (slip, hint) in slips.items():
        if np.array_equal(given, slip):
            return Wrong(sentence, hint)
    at = tuple(int(i) for i in np.argwhere(given != truth)[0])
    place = f"output {at[0] * LANES + at[2]}, input {at[1]}"
    return Wrong(f"At {list(at)} stands {given[at]}, not {truth[at]}, the code of {place}.", "block, input, output")


# The kernel.

Case = tuple[np.ndarray, np.ndarray, np.ndarray]  # codes (J, M, 64) int8, scale (J, G, 64), x (M,): float32


def cases() -> Iterator[Case]:
    """Small matrices: several blocks and groups; one of each; groups of another size."""
    for blocks, inputs, groups in ((2, 12, 3), (1, 4, 1), (3, 4, 2)):
        random = np.random.default_rng(inputs + groups)
        codes = in_blocks(numbered(blocks, inputs, np.int8))
        scale = random.uniform(0.5, 1.5, (blocks, groups, LANES)).astype(np.float32)
        yield codes, scale, random.standard_normal(inputs, dtype=np.float32)


def sums(codes: np.ndarray, x: np.ndarray, groups: int) -> np.ndarray:  # (J, M, 64), (M,) -> (J, groups, 64)
    """The sum of each group's products, before the scale, in float64."""
    products = codes.astype(np.float64) * x[:, None]  # (J, M, 64)
    return products.reshape(len(codes), groups, -1, LANES).sum(axis=2)


def judge_product(answer: Any) -> Wrong | None:
    """The student's numbers, then the order of reading, then the compiled kernel."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", NOT_A_FUNCTION)
    python = bounded(answer)
    try:
        for case in cases():
            if wrong := _wrong_numbers(python, case):
                return wrong
        return _wrong_reads(python) or _wrong_compiled(answer)
    except Endless:
        hint = "look at the ranges of the loops: how often does the innermost line run?"
        return Wrong("The function runs on and on for a matrix of 128 outputs and 12 inputs.", hint)


def _wrong_numbers(kernel: Callable[..., Any], case: Case) -> Wrong | None:
    codes, scale, x = case
    y = np.full((len(codes), LANES), np.nan, dtype=np.float32)
    held = [array.copy() for array in case]
    with np.errstate(all="ignore"):
        kernel(codes, scale, x, y)
    if any(not np.array_equal(a, b) for a, b in zip(case, held, strict=True)):
        return Wrong("The function has changed codes, scale or x.", "write into y alone")
    part = sums(*case[::2], scale.shape[1])  # (J, G, 64)
    truth = (scale * part).sum(axis=1)  # (J, 64)
    near = ROUNDING * (scale * sums(np.abs(codes), np.abs(x), scale.shape[1])).sum(axis=1)  # (J, 64)
    if (np.abs(y - truth) <= near).all():
        return None
    if np.isnan(y).all():
        return Wrong("y holds what it held before the call.", "set y[j] to 0 before sums are added to it")
    if np.isnan(y).any():
        at = tuple(int(i) for i in np.argwhere(np.isnan(y))[0])
        return Wrong(f"y{list(at)} holds what it held before the call.", "every block has 64 outputs: all get a sum")
    for sentence, hint, slip in slips(scale, part):
        if (np.abs(y - slip) <= near).all():
            return Wrong(sentence, hint)
    at = tuple(int(i) for i in np.argwhere(np.abs(y - truth) > near)[0])
    hint = "y[j, r] is the sum over the groups g of scale[j, g, r] times the group's sum of codes[j, k, r] · x[k]"
    shape = f"{len(codes)} blocks, {codes.shape[1]} inputs, {scale.shape[1]} groups"
    return Wrong(f"With {shape}, y{list(at)} is {y[at]:.6g}, not {truth[at]:.6g}.", hint)


def slips(scale: np.ndarray, part: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:  # (J, G, 64), (J, G, 64) ->
    """What is wrong, a hint, and the outputs (J, 64) that come of it. part: the right sums of the groups."""
    yield "The scales are missing.", "multiply each group's sum by scale[j, g, r]", part.sum(axis=1)
    yield ("Only the last group is in y.", "each group's sum is added to y[j, r]: `+=`", (scale * part)[:, -1])
    yield (
        "A group's sum still holds those of the groups before it.", "set the 64 sums to 0 at the start of each group",
        (scale * part.cumsum(axis=1)).sum(axis=1),
    )  # fmt: skip
    yield (
        "Every group is multiplied by the first group's scales.", "the scale of group g is scale[j, g, r]",
        (scale[:, :1] * part).sum(axis=1),
    )  # fmt: skip
    yield (
        "All outputs of a block get the scale of its first one.", "each output has a scale of its own: scale[j, g, r]",
        (scale[..., :1] * part).sum(axis=1),
    )  # fmt: skip
    yield (
        "All inputs are summed up before one scale is applied.", "a scale belongs to one group: apply it to that sum",
        scale[:, -1] * part.sum(axis=1),
    )  # fmt: skip


def _wrong_reads(kernel: Callable[..., Any]) -> Wrong | None:
    """What is wrong about the order of reading: lines of memory that are fetched again and again."""
    codes, scale, x = next(cases())
    watched, least = noted_reads(codes), codes.size // LINE
    try:
        kernel(watched, scale, x, np.empty((len(codes), LANES), np.float32))
    except (TypeError, ValueError, AttributeError):  # what a noted array cannot do; the numbers are right
        return None
    fetched = lines_fetched(watched.noted)
    if fetched <= 2 * least:
        return None
    hint = "the 64 codes of an input lie side by side: the innermost loop runs over them, the loop over inputs outside"
    return Wrong(f"The numbers are right, but {least} lines of memory are fetched {fetched} times.", hint)


def _wrong_compiled(answer: Callable[..., Any]) -> Wrong | None:
    """What numba says to the kernel, or where the compiled kernel gives other numbers; nothing without numba."""
    if find_spec("numba") is None:
        return None
    numba = import_module("numba")
    compiled = numba.njit(answer)
    try:
        for case in cases():
            if wrong := _wrong_numbers(compiled, case):
                return Wrong(f"Compiled, the kernel differs. {wrong.sentence}", wrong.hint)
    except numba.core.errors.NumbaError as error:
        told = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Failed in")]
        hint = "write loops over numbers, and of NumPy only what makes an array, such as np.empty(64, np.float32)"
        return Wrong(f"Python runs it, but numba cannot compile it: {one_line(told[0])[:200]}", hint)
    return None
