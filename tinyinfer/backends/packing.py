"""Small whole numbers packed into bytes: 1, 2, 3, 4 or 8 bits each, with nothing wasted.

Byte c of C packed bytes holds the codes c, c + C, c + 2·C ... A plane, the codes of all bytes at the same bits, is then
C codes in a row, and unpacking is one shift for each plane and not one for each code. Three bits do not divide a byte:
such codes are split into their two low bits and their high bit, which lie packed one behind the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyinfer.arrays import Array, Xp

LANES = 64  # outputs in a block of a packed matrix


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` packed codes of so many bits take."""
    if bits == 3:
        return packed_size(count, 2) + packed_size(count, 1)
    return -(-count * bits // 8)


def pack(codes: Array, bits: int, xp: Xp) -> Array:  # (..., n) -> (..., C)
    """n codes of so many bits (uint8) along the last axis, in C bytes; the last bytes are filled up with zeros."""
    if bits == 3:
        return xp.concatenate((pack(codes & xp.uint8(3), 2, xp), pack(codes >> xp.uint8(2), 1, xp)), axis=-1)
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
    if bits == 3:
        low = packed_size(count, 2)
        codes = unpack(packed[..., low:], 1, count, xp)  # (..., count): the high bits
        codes <<= xp.uint8(2)
        codes |= unpack(packed[..., :low], 2, count, xp)
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
    if bits == 3:
        low = packed_size(count, 2)
        high = pick(packed[..., low:], 1, count, where, xp) << xp.uint8(2)
        return pick(packed[..., :low], 2, count, where, xp) | high
    blocks, places = where
    columns = packed.shape[-1]
    shifts = (places // columns * bits).astype(xp.uint8)[:, None]  # (T, 1): the plane of each place, in bits
    return (packed[blocks, :, places % columns] >> shifts) & xp.uint8((1 << bits) - 1)
