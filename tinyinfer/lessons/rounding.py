"""Rounding by hand, of lesson 05: a group's scale, minimum and codes, and the judge of a student's lines.

The judge rounds groups that are unlike each other (all positive, one weight that is far larger, all weights equal) and
compares with the library's `round_to_nearest`. The usual slips are computed beside the answer, so that a hint names the
slip and not only the place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinyinfer.lessons.exercise import Wrong
from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.quantization.rtn import round_to_nearest
from tinyinfer.units import show

Parts = tuple[np.ndarray, np.ndarray, np.ndarray]  # codes (N, G, g), scale (N, G, 1), minimum (N, G, 1)
SHAPES = "codes (N, G, g), scale (N, G, 1), minimum (N, G, 1)"


# Our solutions.


def round_groups(w: np.ndarray, bits: int) -> Parts:  # (N, G, g) -> (N, G, g), (N, G, 1), (N, G, 1)
    """Codes, scale and minimum of each group of g consecutive weights."""
    highest = 2**bits - 1
    minimum = w.min(axis=-1, keepdims=True).astype(np.float16)
    scale = ((w.max(axis=-1, keepdims=True) - minimum) / highest).astype(np.float16)
    divisor = np.where(scale == 0, np.float16(1), scale)
    codes = np.clip(np.rint((w - minimum) / divisor), 0, highest)
    return codes, scale, minimum


def restore(
    codes: np.ndarray, scale: np.ndarray, minimum: np.ndarray
) -> np.ndarray:  # (N, G, g), (N, G, 1), (N, G, 1) -> (N, G, g)
    """The weights that the codes of groups of g stand for, in float32."""
    return codes.astype(np.float32) * scale.astype(np.float32) + minimum.astype(np.float32)


# The library's, in the same form.


def library_parts(w: np.ndarray, bits: int) -> Parts:  # (N, G, g) -> (N, G, g), (N, G, 1), (N, G, 1)
    """What the library's round_to_nearest makes of the same groups of g weights."""
    n, groups, size = w.shape
    scheme = QuantScheme(bits, size, symmetric=False)
    matrix = round_to_nearest(w.reshape(n, groups * size), scheme)
    assert matrix.minimum is not None
    return matrix.codes.reshape(w.shape), matrix.scale[..., None], matrix.minimum[..., None]


def in_groups(w: np.ndarray, size: int) -> Iterator[tuple[slice, np.ndarray]]:  # (N, M) ->
    """Pairs (inputs, their weights (N, G, g)): the groups of `size` inputs, then the rest, which is a shorter group."""
    n, inputs = w.shape
    whole = inputs // size * size
    for part in (slice(0, whole), slice(whole, inputs)):
        if part.stop > part.start:
            yield part, w[:, part].reshape(n, -1, min(size, part.stop - part.start))


def rounded(
    w: np.ndarray, bits: int, size: int, round_by: Callable[..., Any] = round_groups, restore_by: Any = restore
) -> np.ndarray:  # (N, M) -> (N, M)
    """A matrix rounded in groups of `size` inputs by these two functions, and restored."""
    out = np.empty_like(w)
    for part, groups in in_groups(w, size):
        out[:, part] = restore_by(*round_by(groups, bits)).reshape(len(w), -1)
    return out


# The judges.


def examples() -> np.ndarray:  # -> (N, G, g)
    """Groups of g weights that are unlike each other."""
    w = np.random.default_rng(5).normal(0.0, 0.1, (4, 3, 16)).astype(np.float32)
    w[0, 0] += 1  # far from zero
    w[1, 1, 3] = 2.5  # one weight decides the scale of the others
    w[2, 2] = 0.25  # all weights are equal
    return w


def judge_round(answer: Any) -> Wrong | None:
    """The student's codes, scales and minimums beside the library's, and beside those of each usual slip."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", "keep the line that begins with `def`")
    for bits in (4, 3, 2):
        w = examples()
        with np.errstate(all="ignore"):
            parts = answer(w.copy(), bits)
        wrong = _form_of(parts, w) or _difference(parts, w, bits)
        if wrong:
            return wrong
    return None


def _form_of(parts: Any, w: np.ndarray) -> Wrong | None:
    """What is wrong with types and shapes of what the student returned."""
    if parts is None:
        return Wrong("The function returned None.", "end it with `return codes, scale, minimum`")
    if not isinstance(parts, tuple | list) or len(parts) != 3 or not all(isinstance(p, np.ndarray) for p in parts):
        return Wrong(f"The function returned {show(parts)[:60]}, not three arrays.", f"return {SHAPES}")
    shapes = [part.shape for part in parts]
    wanted = [w.shape, (*w.shape[:2], 1), (*w.shape[:2], 1)]
    if shapes[1:] == [(1, 1, 1)] * 2 or shapes[1:] == [()] * 2:
        return Wrong("There is one scale for the whole array.", "take minimum and maximum along the last axis only")
    if shapes != wanted:
        found = ", ".join(map(str, shapes))
        return Wrong(f"The shapes are {found}.", f"return {SHAPES}; `keepdims=True` keeps the axis of a group")
    for part, name in zip(parts[1:], ("scale", "minimum"), strict=True):
        if part.dtype != np.float16:
            return Wrong(f"The {name} is {part.dtype}.", "it is stored in two bytes: `.astype(np.float16)`")
    return None


def _difference(parts: Parts, w: np.ndarray, bits: int) -> Wrong | None:
    """The first part that differs from the library's, with the slip that gives the same codes."""
    ours = library_parts(w, bits)
    if all(np.array_equal(a, b) for a, b in zip(parts, ours, strict=True)):
        return None
    if not all(np.isfinite(part.astype(np.float32)).all() for part in parts):
        hint = "where all weights of a group are equal, the scale is 0: divide by 1 there, and the codes become 0"
        return Wrong("Some codes are not finite.", hint)
    for made, sentence, hint in SLIPS:
        with np.errstate(all="ignore"):
            slip = made(w, bits)
        if all(np.array_equal(a, b) for a, b in zip(parts, slip, strict=True)):
            return Wrong(sentence, hint)
    for part, mine, name in zip(parts, ours, ("codes", "scale", "minimum"), strict=True):
        if not np.array_equal(part, mine):
            at = tuple(int(i) for i in np.argwhere(part != mine)[0])
            return Wrong(
                f"{name}{list(at)} is {part[at]:.6g} with {bits} bits, the library's {mine[at]:.6g}.",
                "the smallest weight of a group gets code 0, the largest the highest code, the others the nearest",
            )
    return None


def _slip(
    w: np.ndarray, bits: int, *, levels: int = -1, nearest: Any = np.rint, late: bool = False, low: Any = None
) -> Parts:  # (N, G, g) -> (N, G, g), (N, G, 1), (N, G, 1)
    """Our rounding of groups of g with one change. levels: added to 2^bits. late: codes by scales before rounding."""
    highest = 2**bits - 1
    minimum = w.min(axis=-1, keepdims=True) if low is None else low(w)
    if not late:
        minimum = minimum.astype(np.float16)
    scale = (w.max(axis=-1, keepdims=True) - minimum) / (2**bits + levels)
    if not late:
        scale = scale.astype(np.float16)
    divisor = np.where(scale == 0, scale.dtype.type(1), scale)
    codes = np.clip(nearest((w - minimum) / divisor), 0, highest)
    return codes, scale.astype(np.float16), minimum.astype(np.float16)


def _centred(w: np.ndarray, bits: int) -> Parts:  # (N, G, g) -> (N, G, g), (N, G, 1), (N, G, 1)
    """Groups of g on a grid around zero, without a minimum."""
    scale = (np.abs(w).max(axis=-1, keepdims=True) / (2 ** (bits - 1) - 1)).astype(np.float16)
    codes = np.rint(w / np.where(scale == 0, np.float16(1), scale))
    return codes, scale, np.zeros_like(scale)


def _true_range(w: np.ndarray, bits: int) -> Parts:  # (N, G, g) -> (N, G, g), (N, G, 1), (N, G, 1)
    """Groups of g whose scale comes from the range before the minimum was rounded."""
    minimum = w.min(axis=-1, keepdims=True).astype(np.float16)
    scale = (np.ptp(w, axis=-1, keepdims=True) / (2**bits - 1)).astype(np.float16)
    codes = np.rint((w - minimum) / np.where(scale == 0, np.float16(1), scale)).clip(0, 2**bits - 1)
    return codes, scale, minimum


def _swapped(w: np.ndarray, bits: int) -> Parts:  # (N, G, g) -> (N, G, g), (N, G, 1), (N, G, 1)
    """Groups of g whose scale and minimum have changed places."""
    codes, scale, minimum = round_groups(w, bits)
    return codes, minimum, scale


SLIPS: tuple[tuple[Callable[[np.ndarray, int], Parts], str, str], ...] = (
    (
        lambda w, bits: _slip(w, bits, levels=0),
        "The scale divides the range by the number of codes.",
        "so many codes have one step fewer between them: `2**bits - 1`",
    ),
    (
        lambda w, bits: _slip(w, bits, nearest=np.floor),
        "The codes are cut off, not rounded.",
        "the nearest code: `np.rint`",
    ),
    (
        lambda w, bits: _slip(w, bits, late=True),
        "The codes belong to a scale and a minimum that are not stored.",
        "first round scale and minimum to float16, then choose codes by what will be kept",
    ),
    (
        lambda w, bits: _slip(w, bits, low=lambda w: np.zeros_like(w[..., :1])),
        "The minimum is zero for every group.",
        "the smallest weight of a group is its minimum, and it may be negative",
    ),
    (
        _true_range,
        "The scale belongs to a minimum that is not stored.",
        "subtract the stored minimum, the one in float16, from the largest weight",
    ),
    (_centred, "The grid lies around zero, without a minimum.", "from the group's smallest weight to its largest one"),
    (_swapped, "Scale and minimum have changed places.", "return codes, scale, minimum, in this order"),
)


def judge_restore(answer: Any) -> Wrong | None:
    """The student's weights beside `scale · code + minimum` in float32, and beside the usual slips."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", "keep the line that begins with `def`")
    codes, scale, minimum = library_parts(examples(), 4)
    codes = codes.astype(np.uint8)
    truth = restore(codes, scale, minimum)
    given = answer(codes.copy(), scale.copy(), minimum.copy())
    if given is None:
        return Wrong("The function returned None.", "end it with `return`")
    if not isinstance(given, np.ndarray) or given.shape != truth.shape:
        return Wrong(f"The function returned {show(given)[:60]}.", "return an array of the shape of the codes")
    if np.array_equal(given, truth) and given.dtype == np.float32:
        return None
    half = codes.astype(np.float16) * scale + minimum
    slips = {
        "The minimum is missing.": (truth - minimum.astype(np.float32), "the code 0 stands for the minimum, not for 0"),
        "The minimum is scaled, too.": (
            (codes.astype(np.float32) + minimum) * scale,
            "only the code is multiplied by the scale; the minimum is a weight already",
        ),
        "The product is computed in float16, and rounded once more.": (
            half,
            "codes, scale and minimum become float32 first: `.astype(np.float32)`",
        ),
    }
    for sentence, (slip, hint) in slips.items():
        if np.allclose(given.astype(np.float32), slip.astype(np.float32), rtol=1e-6, atol=0):
            return Wrong(sentence, hint)
    if given.dtype != np.float32:
        return Wrong(f"The weights are {given.dtype}.", "a backend multiplies float32: `.astype(np.float32)`")
    at = tuple(int(i) for i in np.argwhere(given != truth)[0])
    return Wrong(f"Weight {list(at)} is {given[at]:.6g}, not {truth[at]:.6g}.", "w = scale · code + minimum")
