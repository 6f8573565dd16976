"""Comparisons that teach: where a result first differs from the right one, by how much, and from which usual mistake.

A test compares what the student's code gave with what the engine gives. On a difference it raises a Failure: a sentence
that says what is wrong and where, and a hint that names the likely cause without giving the answer. `usual` holds the
results of usual mistakes, computed by the test; a result that equals one of them gets its hint. For other results the
hint comes from the numbers themselves: a common factor, swapped axes, a shift by one.

A tolerance is |mine - right| <= atol + rtol · |right|. NaN equals NaN only, so that NaN is never a joker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import Any

import numpy as np

from tinyinfer.units import show

Usual = Iterable[tuple[Any, str]]  # what a usual mistake gives, and the hint to it
LARGEST = 1 << 22  # numbers: a larger result is wrong by its shape, and is compared with no usual mistake
NEAR = 1e-3  # relative: as near as a common factor must be to all quotients
NEARLY = 1e-4  # relative to the largest number: closer than a missing factor or shift, further than rounding


class Failure(AssertionError):
    """A result that is not right. sentence: what is wrong and where. hint: the likely cause; "" when none is known."""

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(f"{sentence}\nhint: {hint}" if hint else sentence)
        self.sentence, self.hint = sentence, hint


def same_array(
    mine: object, right: np.ndarray, what: str, *, rtol: float = 0.0, atol: float = 0.0, usual: Usual = (),
    axes: Sequence[str] = (),
) -> None:  # fmt: skip
    """Raises Failure unless `mine` is an array of the right shape, dtype and numbers.

    what: the result's name in the sentence. axes: what each axis counts ("token", "head"), for the place of the first
    difference.
    """
    __tracebackhide__ = True
    if not isinstance(mine, np.ndarray):
        raise Failure(f"{what}: an array is expected, but the result is {show(mine)}.", usual_hint(mine, usual, 0, 0))
    if mine.shape == right.shape and mine.dtype == right.dtype and not differing(mine, right, rtol, atol).any():
        return
    if mine.shape != right.shape:
        hint = usual_hint(mine, usual, rtol, atol) or of_shape(mine, right)
        raise Failure(f"{what}: the shape is {mine.shape}, and {right.shape} is expected.", hint)
    where = differing(mine, right, rtol, atol)
    if not where.any():  # a mistake of other numbers explains nothing here
        alike = [(value, hint) for value, hint in usual if getattr(value, "dtype", right.dtype) != right.dtype]
        hint = usual_hint(mine, alike, rtol, atol) or of_dtype(mine, right)
        raise Failure(f"{what}: the dtype is {mine.dtype}, and {right.dtype} is expected.", hint)
    hint = usual_hint(mine, usual, rtol, atol)
    with np.errstate(all="ignore"):  # a student's numbers may be of any size
        hint = hint or of_numbers(mine, right, rtol, atol)
    raise Failure(difference(mine, right, where, what, axes), hint)


def same_value(mine: object, right: object, what: str, *, rtol: float = 0.0, usual: Usual = ()) -> None:
    """Raises Failure unless `mine` is the right number, text, list or tuple; a bool is no number. rtol: of floats."""
    __tracebackhide__ = True
    if not equal(mine, right, rtol):
        hint = usual_hint(mine, usual, rtol, 0.0)
        raise Failure(f"{what}: the result is {show(mine)}, and {show(right)} is expected.", hint)


def at_least(count: float, bound: float, what: str) -> None:
    """Raises Failure for a count below what is possible: then the work was not done, or not counted."""
    __tracebackhide__ = True
    if count < bound:
        hint = "so little is impossible: something is left out, or computed in another way than the contract says"
        raise Failure(f"{what}: {count:,} were counted, and the least possible is {bound:,}.", hint)


def equal(mine: object, right: object, rtol: float = 0.0) -> bool:
    """Whether two plain values are the same; the order of a list counts, a list equals no tuple."""
    if isinstance(right, list | tuple):
        alike = type(mine) is type(right) and len(mine) == len(right)
        return alike and all(equal(a, b, rtol) for a, b in zip(mine, right, strict=True))  # type: ignore[call-overload]
    if isinstance(right, np.ndarray) or isinstance(mine, np.ndarray):
        if not (isinstance(mine, np.ndarray) and isinstance(right, np.ndarray)) or mine.shape != right.shape:
            return False
        return not differing(mine, right, rtol, 0.0).any()
    if isinstance(right, float) and isinstance(mine, int | float) and not isinstance(mine, bool):
        return bool(mine == right or (isfinite(right) and abs(mine - right) <= rtol * abs(right)))
    return type(mine) is type(right) and bool(mine == right)


def differing(mine: np.ndarray, right: np.ndarray, rtol: float, atol: float) -> np.ndarray:  # (...,), (...,) -> (...,)
    """True where two arrays of one shape differ; infinities and NaN must be equal."""
    if not (np.issubdtype(mine.dtype, np.number) and np.issubdtype(right.dtype, np.number)):
        return np.asarray(mine != right)
    if mine.dtype.kind in "iu" and right.dtype.kind in "iu" and not rtol and not atol:
        return np.asarray(mine != right)  # beyond 2^53 two whole numbers are one float64
    a, b = mine.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.isfinite(a) & np.isfinite(b) & (np.abs(a - b) <= atol + rtol * np.abs(b))
    return ~(near | (a == b) | (np.isnan(a) & np.isnan(b)))


def usual_hint(mine: object, usual: Usual, rtol: float, atol: float) -> str:
    """The hint of the first usual mistake that gives what the student's code gave; "" for none."""
    if isinstance(mine, np.ndarray) and mine.size > LARGEST:
        return ""
    for value, hint in usual:
        if isinstance(mine, np.ndarray) and isinstance(value, np.ndarray):
            if mine.shape == value.shape and not differing(mine, value, rtol, atol).any():
                return hint
        elif equal(mine, value, rtol):
            return hint
    return ""


def difference(mine: np.ndarray, right: np.ndarray, where: np.ndarray, what: str, axes: Sequence[str]) -> str:
    """The first wrong number, how many are wrong, and the largest error."""
    first = tuple(int(i) for i in np.argwhere(where)[0])
    names = [*axes, *(f"axis {i}, place" for i in range(len(axes), len(first)))]
    place = ", ".join(f"{name} {i}" for name, i in zip(names, first, strict=False))
    values = f"{show(mine[first].item())} in place of {show(right[first].item())}"
    count = f"{int(where.sum()):,} of {where.size:,} numbers differ"
    with np.errstate(invalid="ignore", over="ignore"):
        errors = np.abs(mine.astype(np.float64) - right.astype(np.float64))[where]
    largest = f", by at most {np.nanmax(errors):.3g}" if np.isfinite(errors).any() else ""
    return f"{what}: first difference at {place or 'the only number'}: {values}; {count}{largest}."


def of_shape(mine: np.ndarray, right: np.ndarray) -> str:
    """The hint for a wrong shape."""
    if mine.ndim == right.ndim and sorted(mine.shape) == sorted(right.shape):
        return "the axes are in another order"
    if mine.size == right.size:
        return "as many numbers as expected, in another shape: is a reshape or a keepdims missing?"
    return ""


def of_dtype(mine: np.ndarray, right: np.ndarray) -> str:
    """The hint for a wrong dtype."""
    if mine.dtype == np.float64 and right.dtype == np.float32:
        return "the numbers are right, but twice as many bytes: an array of float64 made the result float64"
    if mine.dtype == np.float32 and right.dtype == np.float64:
        return "the numbers are right to seven digits: convert the input to float64 before you compute"
    return "the numbers are right, stored in another type"


def of_numbers(mine: np.ndarray, right: np.ndarray, rtol: float, atol: float) -> str:
    """The hint that the numbers themselves give, for a result that is none of the usual mistakes."""
    if not (np.issubdtype(mine.dtype, np.number) and np.issubdtype(right.dtype, np.number)):
        return ""
    for value, hint in rearranged(right):
        if value.shape == mine.shape and not differing(mine, value, rtol, atol).any():
            return hint
    if np.isnan(mine).any():
        return "NaN comes from 0/0, inf - inf or the logarithm of a negative number"
    largest = float(np.abs(right[np.isfinite(right)]).max(initial=0))
    if right.dtype.kind == "f" and not differing(mine, right, NEARLY, NEARLY * largest).any():
        return "the numbers are nearly right: something small is left out, or computed in fewer bits"
    usable = (right != 0) & np.isfinite(right) & np.isfinite(mine)
    quotients = mine[usable].astype(np.float64) / right[usable].astype(np.float64)
    if len(quotients) > 1 and usable.mean() > 0.5 and np.ptp(quotients) <= NEAR * abs(quotients.mean()):
        return f"every number is {quotients.mean():.4g} times the right one: is a scale missing, or twice there?"
    finite = np.isfinite(right) & np.isfinite(mine)
    errors = mine[finite].astype(np.float64) - right[finite].astype(np.float64)
    if len(errors) > 1 and errors.any() and np.ptp(errors) <= NEAR * abs(errors.mean()):
        return f"every number is {errors.mean():+.4g} away from the right one: is a shift missing?"
    return ""


def rearranged(right: np.ndarray) -> Iterator[tuple[np.ndarray, str]]:
    """The right numbers in wrong orders, with their hints."""
    yield -right, "the sign is the other way round"
    if right.ndim >= 2:
        yield np.swapaxes(right, -1, -2), "the last two axes are swapped"
        yield np.swapaxes(right, 0, 1), "the first two axes are swapped"
    for axis in range(right.ndim):
        if right.shape[axis] > 1:
            yield np.flip(right, axis), f"axis {axis} runs backwards"
            moved = f"the right numbers, moved by one along axis {axis}: is a place off by one?"
            yield from ((np.roll(right, step, axis), moved) for step in (1, -1))
