"""Quantized keys and values: how a block of them is packed into 8, 4 or 2 bits a number (KIVI; Liu et al. 2024, 3.2).

With long contexts and large batches the cache, not the weights, fills the memory and is what a step reads. Keys have a
few channels with large values, the same ones at every position, so a key is quantized per channel: the S positions of
a block share a scale in each channel, and an outlier widens no range but its own. Values have no such channels, and
each is mixed by its own weight, so a value is quantized per token, in groups of channels. Either way a group is
x = step · code + minimum, step and minimum in float16, code a whole number of so many bits, really packed.
Wins: a block takes a 3.4th (8 bits), 5.8th (4) or 9.1th (2) of the memory (head size 64, 16 positions, scales
included), so so many more sequences fit, and a kernel that unpacks as it reads fetches so much less. Loses: precision,
hardly any at 8 bits and much at 2; and here time, because NumPy must unpack into floats before it can multiply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyinfer.arrays import Array
from tinyinfer.backends.packing import pack, packed_size, unpack
from tinyinfer.errors import SwitchError
from tinyinfer.model.config import ModelConfig

if TYPE_CHECKING:
    from tinyinfer.model.interfaces import Device

GROUP_SIZE = 32  # by default
HALF_MAX = 65504.0  # the largest float16


class PackedBlocks:
    """Numbered blocks of the keys and values of S positions each, in all layers.

    codes: (L, 2, K, B, C), a block's S·E codes in C bytes. key_scales: (L, 2, K, B, E) and value_scales: (L, 2, K, B,
    S, G), G groups; of both scales the first of the two is the step and the second the minimum.
    """

    def __init__(self, config: ModelConfig, count: int, block_size: int, bits: int, group: int, device: Device) -> None:
        layers, heads, size = config.num_layers, config.num_kv_heads, config.head_dim
        self.bits, self.group, self.xp = bits, group, device.xp
        self.codes = device.reserve((layers, 2, heads, count, packed_size(block_size * size, bits)), self.xp.uint8)
        self.key_scales = device.reserve((layers, 2, heads, count, size), self.xp.float16)
        self.value_scales = device.reserve((layers, 2, heads, count, block_size, size // group), self.xp.float16)
        self.block_bytes = block_bytes(config, block_size, bits, group)

    def write(self, layer: int, where: slice | list[int], x: Array) -> None:  # (2, K, N, S, E) ->
        """Packs keys and values into the N blocks `where`."""
        k_codes, k_step, k_minimum = quantize(x[0].swapaxes(-1, -2), self.bits, self.xp)  # (K, N, E, S): a channel's
        groups = x[1].reshape(*x.shape[1:4], -1, self.group)  # (K, N, S, G, E/G)
        v_codes, v_step, v_minimum = quantize(groups, self.bits, self.xp)
        flat = *x.shape[1:3], -1
        codes, keys, values = self.codes[layer], self.key_scales[layer], self.value_scales[layer]
        codes[0][:, where] = pack(k_codes.swapaxes(-1, -2).reshape(flat), self.bits, self.xp)
        codes[1][:, where] = pack(v_codes.reshape(flat), self.bits, self.xp)
        keys[0][:, where], keys[1][:, where] = k_step[..., 0], k_minimum[..., 0]
        values[0][:, where], values[1][:, where] = v_step[..., 0], v_minimum[..., 0]

    def read(self, layer: int, where: slice | list[int], out: Array) -> None:  # (2, K, N, S, E) ->
        """Unpacks the N blocks `where` into `out`, in float32."""
        count = out.shape[-1] * out.shape[-2]
        codes = unpack(self.codes[layer][:, :, where], self.bits, count, self.xp).reshape(out.shape)
        step, minimum = self.key_scales[layer][:, :, where].astype(self.xp.float32)[:, :, :, None]
        dequantize(codes[0], step, minimum, out[0], self.xp)
        groups = *out.shape[1:4], -1, self.group
        step, minimum = self.value_scales[layer][:, :, where].astype(self.xp.float32)[..., None]
        dequantize(codes[1].reshape(groups), step, minimum, out[1].reshape(groups), self.xp)

    def copy(self, other: PackedBlocks, count: int) -> None:
        """The first `count` blocks become those of `other`."""
        self.codes[:, :, :, :count] = other.codes[:, :, :, :count]
        self.key_scales[:, :, :, :count] = other.key_scales[:, :, :, :count]
        self.value_scales[:, :, :, :count] = other.value_scales[:, :, :, :count]


def block_bytes(config: ModelConfig, block_size: int, bits: int, group: int) -> int:
    """Bytes of a packed block of all layers: codes and float16 scales of its keys and of its values."""
    codes = packed_size(block_size * config.head_dim, bits)
    key_scales, value_scales = 2 * 2 * config.head_dim, 2 * 2 * block_size * (config.head_dim // group)
    return config.num_layers * config.num_kv_heads * (2 * codes + key_scales + value_scales)


def group_size(head_dim: int, asked: int | None) -> int:
    """Channels of a value that share a scale: what is asked for, else the largest divisor of E up to 32.

    Raises ValueError for a size that leaves a rest.
    """
    if asked is None:
        return max(size for size in range(1, min(GROUP_SIZE, head_dim) + 1) if head_dim % size == 0)
    if head_dim % asked:
        fitting = ", ".join(str(size) for size in range(1, head_dim + 1) if head_dim % size == 0)
        reason = "{field}={value} does not divide this model's head size of {head}"
        raise SwitchError("kv_group_size", asked, reason, "choose one of {fitting}", head=head_dim, fitting=fitting)
    return asked


def quantize(x: Array, bits: int, xp: Array) -> tuple[Array, Array, Array]:  # (..., N) -> (..., N), (..., 1), (..., 1)
    """Codes, step and minimum of groups that lie along the last axis; no number is off by more than half a step.

    The minimum is rounded down to float16 and the step up, so that the codes still reach from one end to the other.
    Beyond what float16 holds, numbers are cut off.
    """
    most = (1 << bits) - 1
    minimum = -half_above(-x.min(axis=-1, keepdims=True), xp)
    step = half_above((x.max(axis=-1, keepdims=True) - minimum.astype(xp.float32)) / most, xp)
    divisor = xp.where(step == 0, xp.float32(1), step.astype(xp.float32))
    codes = xp.rint((x - minimum.astype(xp.float32)) / divisor).clip(0, most)
    return codes.astype(xp.uint8), step, minimum


def half_above(x: Array, xp: Array) -> Array:  # (..., N) -> (..., N)
    """The smallest float16 that is no smaller."""
    x = x.clip(-HALF_MAX, HALF_MAX)
    half = x.astype(xp.float16)
    return xp.where(half < x, xp.nextafter(half, xp.float16(HALF_MAX)), half)


def dequantize(
    codes: Array, step: Array, minimum: Array, out: Array, xp: Array
) -> None:  # (..., S, N), (..., P, Q), (..., P, Q), (..., S, N) ->
    """step · code + minimum, into `out`. P is 1 for a step to each channel, Q is 1 for one to each group."""
    xp.multiply(codes, step, out=out)
    out += minimum
