"""Small whole numbers packed into bytes: 1 to 6 or 8 bits each, with nothing wasted.

Byte c of C packed bytes holds the codes c, c + C, c + 2·C ... A plane, the codes of all bytes at the same bits, is then
C codes in a row, and unpacking is one shift for each plane and not one for each code. 3, 5 and 6 bits do not divide a
byte: such codes are split into their low bits, 2 or 4, and their high bits, which lie packed one behind the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyinfer.arrays import Array, Xp

LANES = 64  # outputs in a block of a packed matrix
LOW_BITS = {3: 2, 5: 4, 6: 4}  # bits of a code -> as many of them lie packed first, the others behind those


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` packed codes of so many bits take."""
    if low := LOW_BITS.get(bits):
        return packed_size(count, low) + packed_size(count, bits - low)
    return -(-count * bits // 8)


def pack(codes: Array, bits: int, xp: Xp) -> Array:  # (..., n) -> (..., C)
    """n codes of so many bits (uint8) along the last axis, in C bytes; the last bytes are filled up with zeros."""
    if low := LOW_BITS.get(bits):
        parts = codes & xp.uint8((1 << low) - 1), codes >> xp.uint8(low)  # (..., n), (..., n)
        return xp.concatenate((pack(parts[0], low, xp), pack(parts[1], bits - low, xp)), axis=-1)
    each, columns = 8 // bits, packed_size(codes.shape[-1], bits)
    full = xp.zeros((*codes.shape[:-1], each * columns), dtype=xp.uint8)  # (..., 8/bits · C)
    full[..., : codes.shape[-1]] = codes
    planes = full.reshape(*codes.shape[:-1], each, columns)  # (..., 8/bits, C): plane i begins with code i·C
    packed = planes[..., 0, :].copy()  # (..., C)
    for i in range(1, each):
        packed |= planes[..., i, :] << xp.uint8(i * bits)
    return packed


def unpack(packed: Array, bits: int, count: int, xp: Xp) -> Array:  # (..., C) -> (..., count)
    """The first `count` codes of packed bytes: the inverse of `pack`."""
    if low := LOW_BITS.get(bits):
        size = packed_size(count, low)
        codes = unpack(packed[..., size:], bits - low, count, xp)  # (..., count): the high bits
        codes <<= xp.uint8(low)
        codes |= unpack(packed[..., :size], low, count, xp)
        return codes
    each, columns = 8 // bits, packed.shape[-1]
    planes = xp.empty((*packed.shape[:-1], each, columns), dtype=xp.uint8)  # (..., 8/bits, C)
    for i in range(each):  # one shift of all bytes gives a whole plane of codes that lie side by side
        xp.right_shift(packed, xp.uint8(i * bits), out=planes[..., i, :])
    planes &= xp.uint8((1 << bits) - 1)
    return planes.reshape(*packed.shape[:-1], each * columns)[..., :count]


def pick(
    packed: Array, bits: int, count: int, where: tuple[Array, Array], xp: Xp
) -> Array:  # (J, M, C), ((T,), (T,)) -> (T, M)
    """Only the codes at (block, place among a block's `count`), both (T,), of all M runs of those blocks."""
    if low := LOW_BITS.get(bits):
        size = packed_size(count, low)
        high = pick(packed[..., size:], bits - low, count, where, xp) << xp.uint8(low)
        return pick(packed[..., :size], low, count, where, xp) | high
    blocks, places = where
    columns = packed.shape[-1]
    shifts = (places // columns * bits).astype(xp.uint8)[:, None]  # (T, 1): the plane of each place, in bits
    return (packed[blocks, :, places % columns] >> shifts) & xp.uint8((1 << bits) - 1)
