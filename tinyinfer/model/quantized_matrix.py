"""A quantized matrix as data: whole numbers, and for each group of consecutive inputs of an output what restores them.

    w = scale · code + minimum

Scales and minimums are float16, or whole numbers themselves (`Nested`): GGUF's K-quants share one float16 between 8 or
16 groups, so that small groups cost few bits. Wins: bytes; 4.5 bits a weight with groups of 32. Loses: one more product
for each group that is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyinfer.arrays import Array

HALF = 2  # bytes of a float16: a scale, a minimum, a step


@dataclass(frozen=True)
class QuantScheme:
    """How a matrix is rounded. bits: 2, 3, 4, 5, 6 or 8. symmetric: codes around zero, no minimum; zero stays zero.

    group_size: inputs that share a scale; None: all of an output's (per channel). per_tensor: all groups get the scale
    and minimum of the whole matrix. integer_inputs: the layer's inputs are rounded to 8 bits, too (W8A8). nested:
    consecutive groups whose scales are whole numbers times one float16, minimums the same; None: each is a float16.
    """

    bits: int
    group_size: int | None
    symmetric: bool
    per_tensor: bool = False
    integer_inputs: bool = False
    nested: int | None = None

    @property
    def lowest(self) -> int:
        """The smallest code: 0, or -2^(bits-1) when symmetric."""
        return -(1 << (self.bits - 1)) if self.symmetric else 0

    @property
    def highest(self) -> int:
        """The largest code: 2^bits - 1 above the smallest."""
        return self.lowest + (1 << self.bits) - 1

    def groups(self, inputs: int) -> int:
        """G, the groups of an output with so many inputs; the last group may be shorter."""
        return -(-inputs // (self.group_size or inputs))

    def scale_bytes(self, inputs: int) -> int:
        """Bytes of the scales of an output with so many inputs, and of its minimums."""
        groups = self.groups(inputs)
        each = groups + HALF * (groups // self.nested) if self.nested else HALF * groups
        return each if self.symmetric else 2 * each


W8A8_SCHEME = QuantScheme(8, None, True, integer_inputs=True)


@dataclass(frozen=True)
class Nested:
    """Scales, or minimums, of scales: the scale of a group is step · code, and G/S consecutive groups share a step.

    The product is exact in float32: a float16 has 11 bits, a code 7. Axes other than the second may be what they like.
    """

    step: Array  # (N, S) float16
    codes: Array  # (N, G) int8

    def floats(self) -> Array:  # (N, G, ...) -> (N, G, ...)
        """The scales in float32."""
        return self.step.astype("float32").repeat(self.codes.shape[1] // self.step.shape[1], axis=1) * self.codes

    def __getitem__(self, rows: Any) -> Nested:
        return Nested(self.step[rows], self.codes[rows])

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, G): the shape of the scales."""
        return tuple(self.codes.shape)

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return int(self.step.nbytes + self.codes.nbytes)


Scales = Any  # of a matrix, (N, G): an array of float16, or Nested


def float_scales(scales: Scales) -> Array:  # (N, G, ...) -> (N, G, ...)
    """Scales or minimums in float32."""
    return scales.floats() if isinstance(scales, Nested) else scales.astype("float32")


def map_scales(scales: Scales, change: Callable[[Array], Array]) -> Scales:
    """Scales or minimums in another layout or place: change(array), of nested ones both arrays."""
    return Nested(change(scales.step), change(scales.codes)) if isinstance(scales, Nested) else change(scales)


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix of N outputs and M inputs as codes: w = scale · code + minimum, G groups of inputs to an output."""

    scheme: QuantScheme
    codes: np.ndarray  # (N, M) int16
    scale: Scales  # (N, G) float16, or Nested
    minimum: Scales | None  # (N, G) the same; None: symmetric

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    def dequantize(self) -> np.ndarray:  # -> (N, M)
        """scale · code + minimum in float32."""
        inputs = self.codes.shape[1]
        w = self.codes * expand(self.scale, self.scheme, inputs)  # (N, M)
        return w if self.minimum is None else w + expand(self.minimum, self.scheme, inputs)

    def outputs(self, rows: slice | np.ndarray) -> QuantizedMatrix:
        """Only these outputs of the matrix, or the outputs in this order."""
        minimum = None if self.minimum is None else self.minimum[rows]
        return QuantizedMatrix(self.scheme, self.codes[rows], self.scale[rows], minimum)


def expand(scales: Scales, scheme: QuantScheme, inputs: int) -> np.ndarray:  # (N, G) -> (N, inputs)
    """Each group's scale (or minimum) once for each of its inputs, in float32."""
    return np.repeat(float_scales(scales), scheme.group_size or inputs, axis=1)[:, :inputs]


def concatenate(parts: list[QuantizedMatrix]) -> QuantizedMatrix:
    """Matrices of one scheme as one, below one another; a single one as it is, without a copy."""
    if len(parts) == 1:
        return parts[0]
    minimums = [part.minimum for part in parts if part.minimum is not None]
    return QuantizedMatrix(
        parts[0].scheme,
        np.concatenate([part.codes for part in parts]),
        join_scales([part.scale for part in parts]),
        join_scales(minimums) if minimums else None,
    )


def join_scales(parts: list[Scales]) -> Scales:
    """Scales (or minimums) of one scheme's matrices, below one another."""
    if isinstance(parts[0], Nested):
        return Nested(np.concatenate([part.step for part in parts]), np.concatenate([part.codes for part in parts]))
    return np.concatenate(parts)
