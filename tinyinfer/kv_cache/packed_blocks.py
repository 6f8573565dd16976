"""Quantized keys and values: how a block of them is packed into 8, 4 or 2 bits a number (KIVI; Liu et al. 2024, 3.2).

With long contexts and large batches the cache, not the weights, fills the memory and is what a step reads. Keys have a
few channels with large values, the same ones at every position, so a key is quantized per channel: the positions of a
block share a scale in each channel, and an outlier widens no range but its own. Values have no such channels, and each
is mixed by its own weight, so a value is quantized per token, in groups of channels. Either way a group is
x = scale · code + minimum, scale and minimum in float16, code a whole number of so many bits, really packed.
Wins: a block needs 1/3.4 (8 bits), 1/5.8 (4) or 1/9.1 (2) of the memory (head size 64, 16 positions, scales and
minimums included), so more sequences fit, and a kernel that unpacks as it reads fetches less. Loses: precision, hardly
any at 8 bits and much at 2; and here time, because NumPy must unpack into floats before it can multiply.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from tinyinfer.arrays import HALF_MAX, Array, Xp
from tinyinfer.backends.packing import pack, unpack
from tinyinfer.kv_cache.base import CacheSpec, carve
from tinyinfer.kv_cache.memory import block_bytes, codes_bytes, group_size
from tinyinfer.model.interfaces import Device


class PackedLayer(NamedTuple):
    """B blocks of b positions in one layer. Of scales and minimums, index 0 is the scale and index 1 the minimum."""

    key_codes: Array  # (K, B, C): the b·Ek codes of a block's keys in C bytes
    value_codes: Array  # (K, B, C): the b·Ev codes of its values
    key_scales: Array  # (2, K, B, Ek)
    value_scales: Array  # (2, K, B, b, G), G groups


class PackedBlocks:
    """Numbered blocks of packed keys and values, in every layer.

    count: how many blocks. layer_bytes: of one block in each layer; block_bytes: of one block in all layers; nbytes: of
    all blocks.
    """

    def __init__(self, spec: CacheSpec, count: int, device: Device) -> None:
        assert isinstance(spec.kv_bits, int)
        self.bits, self.count, self.xp = spec.kv_bits, count, device.xp
        self.group = group_size(spec.memory, spec.kv_group_size)
        self.layer_bytes = [block_bytes((rows,), spec.block_size, self.bits, self.group) for rows in spec.memory]
        self.block_bytes = sum(self.layer_bytes)
        codes: list[tuple[int, ...]] = []
        scales: list[tuple[int, ...]] = []
        for rows in spec.memory:
            of_keys, of_values = codes_bytes(rows, spec.block_size, self.bits)
            codes += [(rows.heads, count, of_keys), (rows.heads, count, of_values)]
            scales += [(2, rows.heads, count, rows.key_size)]
            scales += [(2, rows.heads, count, spec.block_size, rows.value_size // self.group)]
        packed, halves = reserve(codes, device, device.xp.uint8), reserve(scales, device, device.xp.float16)
        self.nbytes = sum(array.nbytes for array in (*packed, *halves))
        parts = zip(packed[::2], packed[1::2], halves[::2], halves[1::2], strict=True)
        self.layers = [PackedLayer(*layer) for layer in parts]

    def write(
        self, layer: int, ids: slice | Array, keys: Array, values: Array
    ) -> None:  # (n,) | None, (K, n, b, E), (K, n, b, E) ->
        """Packs keys and values into the n blocks `ids`."""
        packed, flat = self.layers[layer], (*keys.shape[:2], -1)
        channels = keys.swapaxes(-1, -2)  # (K, n, Ek, b): a scale for each channel is a scale for each last axis
        codes, scale, minimum = quantize(channels, self.bits, self.xp)  # (K, n, Ek, b), twice (K, n, Ek, 1)
        packed.key_codes[:, ids] = pack(codes.swapaxes(-1, -2).reshape(flat), self.bits, self.xp)  # (K, n, C)
        packed.key_scales[0][:, ids], packed.key_scales[1][:, ids] = scale[..., 0], minimum[..., 0]
        groups = values.reshape(*values.shape[:3], -1, self.group)  # (K, n, b, G, Ev/G)
        codes, scale, minimum = quantize(groups, self.bits, self.xp)  # (K, n, b, G, Ev/G), twice (K, n, b, G, 1)
        packed.value_codes[:, ids] = pack(codes.reshape(flat), self.bits, self.xp)  # (K, n, C)
        packed.value_scales[0][:, ids], packed.value_scales[1][:, ids] = scale[..., 0], minimum[..., 0]

    def read(
        self, layer: int, ids: slice | Array, keys: Array, values: Array
    ) -> None:  # (n,) | None, (K, n, b, E), (K, n, b, E) ->
        """Unpacks the n blocks `ids` into `keys` and `values`, in float32."""
        packed = self.layers[layer]
        codes = self._codes(packed.key_codes[:, ids], keys.shape)  # (K, n, b, Ek)
        scale, minimum = packed.key_scales[:, :, ids].astype(self.xp.float32)[:, :, :, None]  # each (K, n, 1, Ek)
        dequantize(codes, scale, minimum, keys, self.xp)
        groups = (*values.shape[:3], -1, self.group)  # (K, n, b, G, Ev/G)
        codes = self._codes(packed.value_codes[:, ids], values.shape)  # (K, n, b, Ev)
        scale, minimum = packed.value_scales[:, :, ids].astype(self.xp.float32)[..., None]  # each (K, n, b, G, 1)
        dequantize(codes.reshape(groups), scale, minimum, values.reshape(groups), self.xp)

    def copy(self, other: PackedBlocks, count: int) -> None:
        """The first `count` blocks become copies of those of `other`."""
        for new, old in zip(self.layers, other.layers, strict=True):
            new.key_codes[:, :count], new.value_codes[:, :count] = old.key_codes[:, :count], old.value_codes[:, :count]
            new.key_scales[:, :, :count] = old.key_scales[:, :, :count]
            new.value_scales[:, :, :count] = old.value_scales[:, :, :count]

    def _codes(self, packed: Array, shape: tuple[int, ...]) -> Array:  # (K, n, C) -> shape
        """The codes of n blocks, in the shape of their keys or values."""
        return unpack(packed, self.bits, shape[-1] * shape[-2], self.xp).reshape(shape)


def reserve(shapes: list[tuple[int, ...]], device: Device, dtype: Any) -> list[Array]:
    """Arrays of these shapes, as views of one reservation."""
    return carve(device.reserve((sum(prod(shape) for shape in shapes),), dtype), shapes)


def quantize(x: Array, bits: int, xp: Xp) -> tuple[Array, Array, Array]:  # (..., n) -> (..., n), (..., 1), (..., 1)
    """Codes, scale and minimum of groups of n numbers that lie along the last axis; numbers beyond float16 are clipped.

    No number is off by more than half a scale: the minimum is rounded down to float16 and the scale up, so that the
    codes still reach from one end of the group to the other.
    """
    most = (1 << bits) - 1
    minimum = -half_above(-x.min(axis=-1, keepdims=True), xp)  # (..., 1), rounded down: the negative is rounded up
    scale = half_above((x.max(axis=-1, keepdims=True) - minimum.astype(xp.float32)) / most, xp)  # (..., 1)
    divisor = xp.where(scale == 0, xp.float32(1), scale.astype(xp.float32))  # (..., 1); equal numbers have scale 0
    codes = xp.rint((x - minimum.astype(xp.float32)) / divisor).clip(0, most)  # (..., n)
    return codes.astype(xp.uint8), scale, minimum


def half_above(x: Array, xp: Xp) -> Array:  # (...,) -> (...,)
    """The smallest float16 that is no smaller than the number, within the range of float16."""
    x = x.clip(-HALF_MAX, HALF_MAX)  # (...,)
    half = x.astype(xp.float16)  # (...,): the nearest one, which may lie below
    return xp.where(half < x, xp.nextafter(half, xp.float16(HALF_MAX)), half)


def dequantize(
    codes: Array, scale: Array, minimum: Array, out: Array, xp: Xp
) -> None:  # (..., n, m), (..., i, j), (..., i, j), (..., n, m) ->
    """scale · code + minimum, into `out`.

    Keys: n positions of m channels, a scale for each channel (i is 1, j is m). Values: n groups of m channels, a scale
    for each group (i is n, j is 1).
    """
    xp.multiply(codes, scale, out=out)
    out += minimum
