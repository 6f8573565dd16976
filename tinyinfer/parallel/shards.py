"""A part of a matrix: some outputs, or some inputs, still in the form in which the matrix came.

A product x Wᵀ can be divided among ranks in two ways (Shoeybi et al. 2019, Megatron-LM, section 3):

    outputs divided    each rank computes some numbers of y, whole              Megatron: a column-parallel layer
    inputs divided     each rank has some numbers of x and a term of every y; the ranks' terms add up     row-parallel

Codes share scales in groups along the inputs, so inputs are divided where groups end: then each part has the codes and
the scales that it has in the whole, and nothing is rounded anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np

from tinyinfer.model.quantized_matrix import Nested, QuantizedMatrix, QuantScheme, Scales
from tinyinfer.model.weights import TWO_OF_FOUR, FloatMatrix, Matrix, MixedMatrix, SparseMatrix
from tinyinfer.parallel.comm import sizes

Parts = tuple[range, ...]  # outputs that stay, in rising order


def division(total: int, n: int, unit: int = 1) -> list[range]:
    """The numbers 0 ... total - 1 for each of n ranks, as even as whole units let them be; the last unit may be short.

    A range is empty where there are fewer units than ranks.
    """
    stops = [min(total, unit * stop) for stop in accumulate(sizes(-(-total // unit), n), initial=0)]
    return [range(start, stop) for start, stop in pairwise(stops)]


def input_unit(matrix: Matrix) -> int:
    """Inputs that cannot be divided: those that share a scale, and the four of a 2:4 pattern."""
    if isinstance(matrix, MixedMatrix):
        return int(np.lcm.reduce([input_unit(part) for part in matrix.parts]))
    if isinstance(matrix, SparseMatrix):
        own = 4 if matrix.layout == TWO_OF_FOUR else 1
        return int(np.lcm(own, input_unit(matrix.matrix)))
    return scheme_unit(matrix.scheme) if isinstance(matrix, QuantizedMatrix) else 1


def scheme_unit(scheme: QuantScheme | None) -> int:
    """Inputs that share a scale, or a scale of scales; 1 where all of them do, so that each part has it."""
    return (scheme.group_size or 1) * (scheme.nested or 1) if scheme and scheme.group_size else 1


def width(matrix: Matrix) -> int:
    """M, the inputs of a matrix."""
    return width(matrix.parts[0]) if isinstance(matrix, MixedMatrix) else matrix.shape[1]


def part_of(matrix: Matrix, outputs: Parts | None = None, inputs: range | None = None) -> Matrix:
    """The matrix with only these outputs and only these inputs; None: all of them.

    Raises ValueError for inputs that end inside a group.
    """
    if outputs is None and inputs in (None, range(width(matrix))):
        return matrix
    if isinstance(matrix, MixedMatrix):
        return MixedMatrix(tuple(mixed_parts(matrix, outputs, inputs)))
    if isinstance(matrix, SparseMatrix):
        inner = part_of(matrix.matrix, outputs, inputs)
        assert not isinstance(inner, MixedMatrix | SparseMatrix)
        return replace(matrix, matrix=inner)
    if isinstance(matrix, QuantizedMatrix):
        if outputs is not None:
            matrix = matrix.outputs(np.concatenate([np.arange(kept.start, kept.stop) for kept in outputs]))
        return matrix if inputs is None else columns(matrix, inputs)
    whole = (range(matrix.shape[0]),)
    return FloatPart(matrix, whole if outputs is None else outputs, inputs or range(matrix.shape[1]))


def mixed_parts(matrix: MixedMatrix, outputs: Parts | None, inputs: range | None) -> Iterator[Matrix]:
    """The parts that still have outputs, each with its own."""
    first = 0
    for part in matrix.parts:
        assert not isinstance(part, MixedMatrix)
        stop = first + part.shape[0]
        within = outputs or (range(first, stop),)
        own = [range(max(o.start, first) - first, min(o.stop, stop) - first) for o in within]
        if kept := tuple(o for o in own if len(o)):
            yield part_of(part, kept, inputs)
        first = stop


def columns(matrix: QuantizedMatrix, inputs: range) -> QuantizedMatrix:
    """A quantized matrix with only these inputs, whole groups of them."""
    scheme, total = matrix.scheme, matrix.shape[1]
    unit = scheme_unit(scheme)
    if inputs.start % unit or (inputs.stop % unit and inputs.stop != total):
        raise ValueError(f"inputs {inputs.start} to {inputs.stop} end inside a group of {unit} that share a scale")
    codes = np.ascontiguousarray(matrix.codes[:, inputs.start : inputs.stop])
    if scheme.group_size is None:  # one scale for all inputs
        return replace(matrix, codes=codes)
    groups = slice(inputs.start // scheme.group_size, -(-inputs.stop // scheme.group_size))
    minimum = None if matrix.minimum is None else scales_of(matrix.minimum, groups, scheme)
    return QuantizedMatrix(scheme, codes, scales_of(matrix.scale, groups, scheme), minimum)


def scales_of(scales: Scales, groups: slice, scheme: QuantScheme) -> Scales:
    """The scales, or minimums, of some groups: (N, g) of (N, G)."""
    if isinstance(scales, Nested):
        assert scheme.nested
        steps = slice(groups.start // scheme.nested, -(-groups.stop // scheme.nested))
        return Nested(scales.step[:, steps], scales.codes[:, groups])
    return scales[:, groups]


@dataclass(frozen=True)
class FloatPart:
    """Some outputs and some inputs of a float matrix, which is read tile by tile as the backend takes it."""

    whole: FloatMatrix
    outputs: Parts
    inputs: range

    @property
    def shape(self) -> tuple[int, int]:
        """(N, M) of the part."""
        return sum(map(len, self.outputs)), len(self.inputs)

    def tiles(self) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs (first output of the part, float32 rows (rows, M)), in order."""
        columns = slice(self.inputs.start, self.inputs.stop)
        for first, rows in self.whole.tiles():
            place = 0
            for kept in self.outputs:
                start, stop = max(kept.start, first), min(kept.stop, first + len(rows))
                if start < stop:
                    yield place + start - kept.start, rows[start - first : stop - first, columns]
                place += len(kept)

    def where(self, output: int) -> str:
        """Where that output of the part comes from."""
        for kept in self.outputs:
            if output < len(kept):
                break
            output -= len(kept)
        return self.whole.where(kept.start + output)
