"""A matrix whose zeros a file does not keep, as the folder of a pruned model has it.

    NAME.places    (rows, bytes) U8: a bit for each weight, or of 2:4 two bits for each that is kept
    NAME.values    (n,) floats: the weights that are kept, row by row
    NAME.codes     (n/8, bits) U8: or their codes, 8 by 8, with the scales NAME.d (rows, groups) F16 of all inputs

That is the layout in memory (backends/sparse.py), which rows are read from as they are asked for. What is read are all
numbers of a row, zeros among them: what keeps them out again is the backend that takes the matrix.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np

from tinyinfer.backends.packing import packed_size, unpack
from tinyinfer.backends.sparse import EIGHT, Bitmask, Places, Sparse, TwoOfFour, pack_eights, starts_of, unpack_eights
from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import LazyTensor
from tinyinfer.loading.safetensors import FLOATS, Stored
from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme
from tinyinfer.model.weights import TWO_OF_FOUR

COUNTED = 1 << 22  # weights whose bits are counted at a time


def sparse_tensor(
    path: str, name: str, shape: tuple[int, ...], scheme: QuantScheme | None, layout: str, stored: dict[str, Stored]
) -> LazyTensor:
    """A sparse matrix, or a stack of experts' (X, N, M), from its tensors, which are taken out of `stored`.

    Raises ModelError, naming file and tensor, for a tensor that is missing or has another shape or type; when rows are
    read also for a mask that has not as many bits as there are weights.
    """
    rows, inputs = math.prod(shape[:-1]), shape[-1]
    places = take_part(path, f"{name}.places", "U8", (rows, packed_size(inputs, 1)), stored)
    values, *scales = take_values(path, name, (rows, inputs), scheme, layout, stored)

    each = 1 if scheme is None else EIGHT

    @cache
    def starts() -> np.ndarray:  # -> (ends,)
        step = max(1, COUNTED // inputs)
        raw = (places.raw(i, min(i + step, rows)) for i in range(0, rows, step))  # (step, C) each
        parts = [unpack(part, 1, inputs, np) for part in raw]  # (step, M) each
        counts = [np.diff(starts_of(part)) for part in parts]  # (step,) each
        found = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))))  # (rows+1,)
        if -(-int(found[-1]) // each) != values.shape[0]:
            wrong = f"{values.path}: tensor {values.name!r} has not as many weights as {places.name!r} says"
            raise ModelError(f"{wrong}; the file is broken, prune the model again")
        return found

    def place(start: int, stop: int) -> tuple[Places, int]:
        raw = places.raw(start, stop)  # (stop - start, C)
        if layout == TWO_OF_FOUR:
            return TwoOfFour(raw, inputs), start * inputs // 2
        return Bitmask(raw, starts()[start : stop + 1] - starts()[start], inputs), int(starts()[start])

    def part(start: int, stop: int) -> Sparse:
        own, first = place(start, stop)
        count = own.first(stop - start)
        kept = (values.rows if scheme is None else values.raw)(first // each, -(-(first + count) // each))
        if scheme is not None:  # which begin where a row does, and not where a byte does
            kept = pack_eights(unpack_eights(kept, scheme.bits, first % EIGHT, count, np), scheme.bits, np)
        scale = scales[0].raw(start, stop) if scales else None  # (stop - start, G)
        return Sparse((stop - start, inputs), own, kept, scheme, scale, np)

    def codes(start: int, stop: int) -> QuantizedMatrix:
        matrix = part(start, stop).matrix().matrix
        assert isinstance(matrix, QuantizedMatrix)
        return matrix

    def read(start: int, stop: int) -> np.ndarray:  # -> (stop - start, ...)
        each = rows // shape[0] if shape[0] else 0
        w = part(start * each, stop * each).dequantize(slice(0, (stop - start) * each)).T  # (rows, M)
        return np.ascontiguousarray(w).reshape(stop - start, *shape[1:])

    nbytes = sum(tensor.nbytes for tensor in (places, values, *scales))
    whole = replace(places.lazy(), name=name, shape=shape, nbytes=nbytes, read=read, sparse=layout)
    whole = replace(whole, kept=values.shape[0] * each)
    return whole if scheme is None else replace(whole, codes=codes)


def take_values(
    path: str, name: str, shape: tuple[int, int], scheme: QuantScheme | None, layout: str, stored: dict[str, Stored]
) -> list[Stored]:
    """The kept weights, and of codes the scales. Raises ModelError as take_part does."""
    suffix, dtype, columns = ("values", "F32", ()) if scheme is None else ("codes", "U8", (scheme.bits,))
    there, (rows, inputs) = stored.get(f"{name}.{suffix}"), shape
    if scheme is None and there is not None and there.dtype in FLOATS:
        dtype = there.dtype
    if layout == TWO_OF_FOUR:
        count = -(-rows * inputs // 2 // (1 if scheme is None else EIGHT))
    else:  # as many as the mask says, which is compared when it is read
        count = there.shape[0] if there is not None and there.shape else 0
    values = take_part(path, f"{name}.{suffix}", dtype, (count, *columns), stored)
    if scheme is None:
        return [values]
    return [values, take_part(path, f"{name}.d", "F16", (rows, scheme.groups(inputs)), stored)]


def take_part(
    path: str, name: str, dtype: str, shape: tuple[int, ...], stored: dict[str, Stored], cure: str = "prune"
) -> Stored:
    """Takes a tensor out of `stored`. Raises ModelError if it is missing, or has another type or shape.

    cure: the command that makes the folder anew.
    """
    if name not in stored:
        raise ModelError(f"{path}: the tensor {name!r} is missing; the folder is incomplete, {cure} the model again")
    tensor = stored.pop(name)
    if (tensor.dtype, tensor.shape) != (dtype, shape):
        raise ModelError(
            f"{tensor.path}: tensor {name!r} is {tensor.dtype} of shape {tensor.shape}, but config.json says {dtype} "
            f"of shape {shape}; {cure} the model again"
        )
    return tensor
