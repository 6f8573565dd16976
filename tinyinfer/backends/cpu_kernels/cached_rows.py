"""Where a kernel finds the keys and values of a position: through a block table, in floats or in packed blocks.

Every kernel of attention begins with the same arguments (the constants below), and asks here for the address of rows.
Position p of a sequence is row blocks[p // b] · b + p % b of its arrays; a contiguous cache has one block, of all its
room. Rows that lie side by side are read where they are. Others are gathered into scratch memory first: blocks that do
not follow one another, blocks packed into few bits (packed_rows.py), heads whose size is no whole number of vectors.

Wins: one kernel for every cache, and a copy only where none can be avoided. Loses: a gathered row is written and read
once more, in the nearest cache.
"""
# numba has no type hints
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

from numba import njit

from tinyinfer.backends.cpu_kernels.packed_rows import HALF, packed_bytes, unpack_keys, unpack_values
from tinyinfer.backends.cpu_kernels.scalars import float_at, int_at, prefetch, quotient, remainder, set_float
from tinyinfer.backends.cpu_kernels.vectors import load, store

FLOAT, WORD, BYTES = 4, 8, 64  # bytes of a float, of an address, of a vector
TILE = 64  # positions that are looked up together
WIDTH = 16  # numbers of a vector

# The first arguments of every kernel that reads or writes the cache.
ADDRESSES = 0  # of this layer, for each slot: (slots, PER_SLOT)
SLOTS = 1  # what else is to be known of each slot: (slots, FIELDS)
SIZE = 2  # E
HEADS = 3  # K
BITS = 4  # of a packed number, 0 where all are floats
GROUP = 5  # channels of a packed value that share a scale
COLUMN = 6  # bytes of a float row before this layer's keys, in a cache that packs
ROW = 7  # bytes of a float row there
PLACE = 8  # how many arguments these are

# Of a slot. Addresses: of keys and values; of their codes and of their scales, where they are packed.
KEYS, VALUES, KEY_SCALES, VALUE_SCALES, PER_SLOT = 0, 1, 2, 3, 4
# The address of the block table, b, positions (packed: blocks) of the arrays, the first float position, float rows.
TABLE, BLOCK, ROOM, FIRST, FLOATS, FIELDS = 0, 1, 2, 3, 4, 5


@njit(forceinline=True)
def padded(size):
    """Numbers from one row to the next in scratch memory: whole vectors."""
    return (size + WIDTH - 1) & -WIDTH


@njit(forceinline=True)
def field(a, slot, number):
    """What a slot says."""
    return int_at(a[SLOTS] + WORD * (slot * FIELDS + number))


@njit(forceinline=True)
def array_of(a, slot, number):
    """The address of one of a slot's arrays in this layer."""
    return int_at(a[ADDRESSES] + WORD * (slot * PER_SLOT + number))


@njit(forceinline=True)
def block_of(a, slot, position):
    """The block that holds a position."""
    return int_at(field(a, slot, TABLE) + WORD * quotient(position, field(a, slot, BLOCK)))


@njit
def float_row(a, slot, head, position, values):
    """The address of a position's key (values = 0) or value (1) in one head, as floats: where it is written."""
    if a[BITS]:
        before = (position - field(a, slot, FIRST)) * a[ROW] + a[COLUMN]
        return field(a, slot, FLOATS) + before + (values * a[HEADS] + head) * a[SIZE] * FLOAT
    size = field(a, slot, BLOCK)
    row = block_of(a, slot, position) * size + remainder(position, size)
    return array_of(a, slot, KEYS + values) + (head * field(a, slot, ROOM) + row) * a[SIZE] * FLOAT


@njit
def side_by_side(a, slot, first, count):
    """How many of `count` float rows from position `first` on lie one behind the other: all, or whole vectors of them.

    Where they are all, vectors of them end within the array.
    """
    size = field(a, slot, BLOCK)
    if a[BITS] or a[SIZE] & (WIDTH - 1):
        return 0
    block, inside = block_of(a, slot, first), remainder(first, size)
    position = first - inside + size
    if block * size + inside + padded(count) > field(a, slot, ROOM):
        return 0
    while position < first + count:
        block += 1
        if block_of(a, slot, position) != block:
            return (position - first) & -WIDTH
        position += size
    return count


@njit
def rows_at(a, slot, head, values, first, count, edge, scratch):
    """The address of `count` keys (values = 0) or values (1), `padded(E)` numbers from each other.

    Behind them there are others, which mean nothing, up to a whole number of vectors. edge: positions below are read
    packed, if the cache packs any.
    """
    if side_by_side(a, slot, first, count) == count:
        return float_row(a, slot, head, first, values)
    gather(a, slot, head, values, first, count, edge, scratch)
    return scratch


@njit(forceinline=True)
def fetch(address, nbytes):
    """Lets some lines come out of memory. Asked for too many at once, they would keep all others waiting."""
    for line in range(0, nbytes, BYTES):
        prefetch(address + line)


@njit
def tile_after(a, slot, head, values, tile, stop, rows, scratch):
    """Where the next tile's keys or values lie, for `fetch`; where `rows` were gathered or are the last, `rows`."""
    if rows == scratch or tile + TILE >= stop:
        return rows
    return float_row(a, slot, head, tile + TILE, values)


@njit
def fetch_ahead(a, slot, head, values, first, count, edge):
    """Lets keys (values = 0) or values (1) that are wanted later come out of memory, while others are computed with."""
    for position in range(first, first + count, WIDTH):
        if a[BITS] and position < edge:
            place = head * field(a, slot, ROOM) + block_of(a, slot, position)
            place *= packed_bytes(field(a, slot, BLOCK) * a[SIZE], a[BITS])
            address, nbytes = array_of(a, slot, KEYS + values) + place, WIDTH * a[SIZE] * a[BITS] >> 3
        else:
            address, nbytes = float_row(a, slot, head, position, values), WIDTH * a[SIZE] * FLOAT
        fetch(address, nbytes)


@njit
def gather(a, slot, head, values, first, count, edge, out):
    """Copies rows into scratch memory, the rows of a block together, and unpacks what is packed."""
    position, stop, size, stride = first, first + count, a[SIZE], padded(a[SIZE]) * FLOAT
    while position < stop:
        packed = a[BITS] and position < edge
        inside = remainder(position, field(a, slot, BLOCK))
        n = min(field(a, slot, BLOCK) - inside, stop - position)
        if packed:
            unpack_rows(a, slot, head, values, block_of(a, slot, position), inside, n, out)
        elif a[BITS] or size & (WIDTH - 1):
            n = 1
            copy_row(float_row(a, slot, head, position, values), out, size)
        else:
            copy_row(float_row(a, slot, head, position, values), out, n * size)
        position, out = position + n, out + n * stride


@njit
def copy_row(source, out, size):
    """Copies so many floats."""
    for n in range(quotient(size, WIDTH)):
        store(out + BYTES * n, load(source + BYTES * n))
    for n in range(size & -WIDTH, size):
        set_float(out + FLOAT * n, float_at(source + FLOAT * n))


@njit
def unpack_rows(a, slot, head, values, block, inside, count, out):
    """Unpacks `count` rows of a packed block, from its row `inside` on."""
    size, rows, blocks, bits = a[SIZE], field(a, slot, BLOCK), field(a, slot, ROOM), a[BITS]
    nbytes, place = packed_bytes(rows * size, bits), head * blocks + block
    codes = array_of(a, slot, KEYS + values) + place * nbytes
    scales, numbers = array_of(a, slot, KEY_SCALES + values), rows * quotient(size, a[GROUP]) if values else size
    minimums = scales + a[HEADS] * blocks * numbers * HALF
    scales, minimums = scales + place * numbers * HALF, minimums + place * numbers * HALF
    first, stride = inside * size, padded(size) * FLOAT
    if values:
        before = inside * quotient(size, a[GROUP]) * HALF
        scales, minimums = scales + before, minimums + before
        unpack_values(codes, nbytes, bits, first, count, size, a[GROUP], scales, minimums, out, stride)
    else:
        unpack_keys(codes, nbytes, bits, first, count, size, scales, minimums, out, stride)
