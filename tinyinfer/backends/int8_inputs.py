"""Integer activations: the inputs of a product are rounded to 8 bits, so that its sums are sums of whole numbers.

W8A8 rounds each row as a whole. With `--activations int8` the inputs of every other product with packed codes are
rounded, too, but in the weight's own groups, and

    y[n] = Σ_g  s[g] · (scale[n, g] · Σ_k q[k] · code[n, k]  +  minimum[n, g] · Σ_k q[k])

where k runs over the inputs of group g, and q and s are the codes and scales of x (`packed.round_groups`). Both sums
over k are exact, so every backend gives the same whole numbers in whatever order it adds, for one row as for many; the
few float32 operations of each group follow, group after group. The weights, their files and their bytes are those of
float activations.

Wins: a CPU multiplies and adds four 8-bit numbers where it would one float, and several rows then cost little more
than one. Loses: a little precision (docs/quantization.md), and in NumPy, which multiplies floats anyway, time.

An outlier costs less than in W8A8: a large number coarsens its own group only, and not its whole row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from tinyinfer.arrays import Array, HoldsModule
from tinyinfer.backends.packed import LANES, W8A8, Packed, round_groups, round_rows
from tinyinfer.backends.packed_rows import PackedRows
from tinyinfer.backends.packing import unpack
from tinyinfer.model.quantized_matrix import float_scales

SLICE = 518  # inputs whose products of 8-bit numbers, one of them unsigned, sum exactly in float32: 127·255·518 < 2^24
Dot = Callable[[Array, Array], Array]  # (T, M), (M, N) -> (T, N): the product of whole numbers, all given in float32
Integers = tuple[Array, Array, Array | None]  # (M, N) codes, (G, N) scales, (G, N) minimums or None: all in float32


class PackedA8(Packed):
    """Packed weights whose inputs are rounded to 8 bits."""

    def integers(self, tile: slice) -> Integers:  # -> (M, N), (G, N), (G, N) | None
        """The codes (whole numbers from scheme.lowest on), scales and minimums of the outputs in `tile`."""
        start, stop, _ = tile.indices(self.shape[0])
        blocks = slice(start // LANES, -(-stop // LANES))
        first = blocks.start * LANES

        def flat(array: Array) -> Array:  # (J, n, 64) -> (n, N)
            """The outputs of the tile in float32; n is M for codes and G for scales."""
            columns = array.swapaxes(0, 1).reshape(array.shape[1], -1)  # (n, 64·J)
            return columns[:, start - first : stop - first].astype("float32")

        codes = flat(unpack(self.codes[blocks], self.scheme.bits, LANES, self.xp))  # (M, N)
        codes += self.xp.float32(self.scheme.lowest)
        minimum = None if self.minimum is None else flat(float_scales(self.minimum[blocks]))  # (G, N)
        return codes, flat(float_scales(self.scale[blocks])), minimum


class PackedRowsA8(PackedRows):
    """The same in the layout of a GPU."""

    def integers(self, tile: slice) -> Integers:  # -> (M, N), (G, N), (G, N) | None
        """The codes (whole numbers from scheme.lowest on), scales and minimums of the outputs in `tile`."""
        codes = self._unpack(self.codes[tile]).astype("float32") + self.xp.float32(self.scheme.lowest)  # (N, M)
        minimum = None if self.minimum is None else float_scales(self.minimum[tile]).T  # (G, N)
        return codes.T, float_scales(self.scale[tile]).T, minimum


PACKED: Mapping[str, type[Packed]] = MappingProxyType({"float": Packed, "int8": PackedA8})  # by the switch activations
PACKED_ROWS: Mapping[str, type[PackedRows]] = MappingProxyType({"float": PackedRows, "int8": PackedRowsA8})


def w8a8_product(ops: HoldsModule, x: Array, weight: W8A8) -> Array:  # (T, M) -> (T, N)
    """x Wᵀ, x rounded to 8 bits row by row, the sum of whole numbers exact in int32."""
    codes, scale = round_rows(x, ops.xp)  # (T, M), (T, 1)
    return exact(codes, weight.codes) * weight.scale.astype("float32") * scale


def grouped_product(ops: HoldsModule, x: Array, weight: PackedA8 | PackedRowsA8) -> Array:  # (T, M) -> (T, N)
    """x Wᵀ, x rounded to 8 bits group by group, each group's sums of whole numbers exact in int32."""
    rounded = round_groups(x, weight.scheme.group_size, ops.xp)  # (T, M), (T, G)
    return sum_of_groups(rounded, weight, slice(0, weight.shape[0]), exact)


def sum_of_groups(
    rounded: tuple[Array, Array], weight: PackedA8 | PackedRowsA8, tile: slice, dot: Dot
) -> Array:  # ((T, M), (T, G)) -> (T, N)
    """The outputs in `tile` for rounded inputs (codes and scales), added from the first group on. dot: of a group."""
    (q, s), (codes, scale, minimum), xp = rounded, weight.integers(tile), weight.xp
    group = weight.scheme.group_size or q.shape[1]
    y = xp.zeros((len(q), codes.shape[1]), dtype=xp.float32)  # (T, N)
    for g in range(s.shape[1]):
        part = slice(g * group, (g + 1) * group)
        change = dot(q[:, part], codes[part])  # (T, N)
        change *= scale[g]
        if minimum is not None:
            change += q[:, part].sum(axis=1, keepdims=True) * minimum[g]
        change *= s[:, g, None]
        y += change
    return y


def exact(q: Array, codes: Array) -> Array:  # (T, M), (M, N) -> (T, N)
    """The product of whole numbers by integers, rounded to float32 at the end."""
    return (q.astype("int32") @ codes.astype("int32")).astype("float32")


def exact_by_floats(q: np.ndarray, codes: np.ndarray) -> np.ndarray:  # (T, M), (M, N) -> (T, N)
    """The same by float32 products, which BLAS has: of so few inputs at a time that each sum is exact."""
    sums = [q[:, at : at + SLICE] @ codes[at : at + SLICE] for at in range(0, len(codes), SLICE)]  # each (T, N)
    return sums[0] if len(sums) == 1 else np.add.reduce(sums, dtype=np.float64).astype(np.float32)
