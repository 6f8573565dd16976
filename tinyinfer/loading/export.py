"""From a model in memory back to canonical tensors: what build.py fused is taken apart again, to be saved.

Weights stay in the form that they have: codes, scales and minimums of a quantized matrix, floats of a dense one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import prod

import numpy as np

from tinyinfer.arrays import Array, to_host
from tinyinfer.backends.packing import pack, packed_size
from tinyinfer.backends.sparse import EIGHT, Sparse, pack_eights
from tinyinfer.backends.sparse_lanes import TwoOfFourLanes
from tinyinfer.backends.stacked import Stacked
from tinyinfer.loading.quantized import saved_arrays
from tinyinfer.loading.safetensors import NUMPY_TYPES
from tinyinfer.model.attention import GroupedQuery
from tinyinfer.model.config import HeldMatrix, held_matrices
from tinyinfer.model.heads import Sinks
from tinyinfer.model.layers import Layer
from tinyinfer.model.quantized_matrix import Nested, QuantizedMatrix, QuantScheme, concatenate
from tinyinfer.model.transformer import Model
from tinyinfer.model.visit import Held, matrices, weights
from tinyinfer.model.weights import Floats, FullQKNorm, LayerNorm, Linear, NoNorm, Norm, Weight


@dataclass(frozen=True)
class Exported:
    """One canonical tensor: some outputs of a held matrix, beginning with `first`, or a small array."""

    name: str
    shape: tuple[int, ...]
    source: tuple[Weight, ...] | Array  # a matrix, or one for each expert
    first: int = 0

    @property
    def scheme(self) -> QuantScheme | None:
        """The QuantScheme of the tensor; None for floats."""
        return self.source[0].scheme if isinstance(self.source, tuple) else None

    @property
    def sparse(self) -> str | None:
        """The layout of a sparse tensor; None for one whose zeros are kept."""
        first = self.source[0] if isinstance(self.source, tuple) else None
        return first.layout if isinstance(first, Sparse | TwoOfFourLanes) else None

    def layout(self) -> list[tuple[str, np.dtype, tuple[int, ...]]]:
        """Name, type and shape of the arrays that it is saved as."""
        if self.sparse:
            return self._sparse_layout()
        scheme, (*_, inputs) = self.scheme, self.shape
        if scheme is None:
            return [(self.name, self._dtype(), self.shape)]
        rows = prod(self.shape[:-1])
        return [
            (f"{self.name}.{suffix}", np.dtype(NUMPY_TYPES[dtype]), (rows, columns))
            for suffix, dtype, columns in saved_arrays(scheme, inputs)
        ]

    def arrays(self) -> Iterator[np.ndarray]:
        """The arrays of `layout`, in the same order."""
        if not isinstance(self.source, tuple):
            yield to_host(self.source)
        elif self.sparse:
            yield from self._sparse_arrays()
        elif self.scheme is None:
            yield np.stack(list(self._floats())) if len(self.shape) == 3 else next(self._floats())
        else:
            matrix = concatenate(list(self._codes()))
            yield pack((matrix.codes - matrix.scheme.lowest).astype(np.uint8), matrix.scheme.bits, np)
            for scales in (matrix.scale, matrix.minimum):
                if scales is not None:
                    yield from (scales.step, scales.codes) if isinstance(scales, Nested) else (scales,)

    @property
    def _rows(self) -> slice:
        return slice(self.first, self.first + self.shape[-2])

    def _dtype(self) -> np.dtype:
        if not isinstance(self.source, tuple):
            return np.dtype(self.source.dtype)
        matrix = self.source[0].matrix()
        assert isinstance(matrix, Floats)
        return matrix.array.dtype

    def _floats(self) -> Iterator[np.ndarray]:
        for weight in self.source:
            matrix = weight.matrix()
            assert isinstance(matrix, Floats)
            yield matrix.array[self._rows]

    @property
    def _sparse(self) -> list[Sparse]:
        start, stop = self.first, self._rows.stop
        return [one.outputs(start, stop) for one in self.source if isinstance(one, Sparse | TwoOfFourLanes)]

    def _sparse_layout(self) -> list[tuple[str, np.dtype, tuple[int, ...]]]:
        """The arrays of loading/sparse_tensors.py; experts below one another."""
        rows, every = prod(self.shape[:-1]), self._sparse
        kept, one = sum(weight.places.first(weight.shape[0]) for weight in every), every[0]
        places = (f"{self.name}.places", np.dtype(np.uint8), (rows, packed_size(self.shape[-1], 1)))
        if one.scheme is None:
            return [places, (f"{self.name}.values", np.dtype(one.values.dtype), (kept,))]
        codes = (f"{self.name}.codes", np.dtype(np.uint8), (-(-kept // EIGHT), one.scheme.bits))
        return [places, codes, (f"{self.name}.d", np.dtype(np.float16), (rows, one.scheme.groups(self.shape[-1])))]

    def _sparse_arrays(self) -> Iterator[np.ndarray]:
        """The arrays of `_sparse_layout`; the codes of all experts are packed as one run."""
        every = self._sparse
        yield np.concatenate([to_host(weight.places.places) for weight in every])
        kept = np.concatenate([to_host(weight.kept(0, weight.shape[0])) for weight in every])  # (kept,)
        yield kept if self.scheme is None else pack_eights(kept, self.scheme.bits, np)
        if self.scheme is not None:
            yield np.concatenate([to_host(weight.scale) for weight in every if weight.scale is not None])  # (N, G) each

    def _codes(self) -> Iterator[QuantizedMatrix]:
        for weight in self.source:
            matrix = weight.matrix()
            assert isinstance(matrix, QuantizedMatrix)
            yield matrix.outputs(self._rows)


def export(model: Model) -> Iterator[Exported]:
    """Every canonical tensor of a model: its matrices and biases, its norms, its learned positions."""
    held_by_name = held_matrices(model.config)
    for name, held in matrices(model):
        yield from matrix_parts(held_by_name[name], held)
    for i, layer in enumerate(model.layers):
        yield from small_parts(f"layers.{i}.", layer)
    yield from norm_parts("final_norm", model.final_norm)
    if model.embedding.positions is not None:
        yield Exported("positions", model.embedding.positions.shape, model.embedding.positions)


def matrix_parts(matrix: HeldMatrix, held: Held) -> Iterator[Exported]:
    """The tensors that were joined to a matrix, and their biases."""
    first, stack = 0, () if isinstance(held, Linear) else (matrix.count,)
    for i, (name, outputs) in enumerate(matrix.parts):
        yield Exported(name, (*stack, outputs, matrix.inputs), *part_of(weights(held), i, first))
        linears = (held,) if isinstance(held, Linear) else held.linears
        biases = [to_host(linear.bias)[first : first + outputs] for linear in linears if linear.bias is not None]
        if biases:
            yield Exported(f"{name}.bias", (*stack, outputs), np.stack(biases).reshape(*stack, outputs))
        first += outputs


def part_of(joined: tuple[Weight, ...], i: int, first: int) -> tuple[tuple[Weight, ...], int]:
    """The weights that have part i of matrices, and its first output there: stacked parts are weights themselves."""
    if isinstance(joined[0], Stacked):
        return tuple(stacked.parts[i] for stacked in joined if isinstance(stacked, Stacked)), 0
    return joined, first


def small_parts(n: str, layer: Layer) -> Iterator[Exported]:
    """The norms and the sinks of a layer, whose names begin with n."""
    for field in fields(layer):
        if field.name.endswith("_norm"):
            yield from norm_parts(n + field.name, getattr(layer, field.name))
    assert isinstance(layer.mixer, GroupedQuery)
    yield from qk_norm_parts(n, layer.mixer.qk_norm)
    sinks = layer.mixer.heads.sinks
    if isinstance(sinks, Sinks):
        yield Exported(n + "sinks", (sinks.scores.size,), sinks.scores.reshape(-1))


def norm_parts(name: str, norm: Norm) -> Iterator[Exported]:
    """The weight of a norm, and its bias if it has one."""
    if isinstance(norm, NoNorm):
        return
    assert not isinstance(norm, FullQKNorm)
    yield Exported(name, norm.weight.shape, norm.weight)
    if isinstance(norm, LayerNorm):
        yield Exported(f"{name}.bias", norm.bias.shape, norm.bias)


def qk_norm_parts(n: str, norm: Norm) -> Iterator[Exported]:
    """The norms of queries and of keys; of a weight that heads share, one copy."""
    if isinstance(norm, NoNorm):
        return
    if isinstance(norm, FullQKNorm):
        query, key = norm.query.weight, norm.key.weight
    else:
        query, key = norm.weight[0], norm.weight[-1]
    yield Exported(n + "q_norm", query.shape, query)
    yield Exported(n + "k_norm", key.shape, key)
