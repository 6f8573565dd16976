"""How many bytes keys and values take: the one place where they are computed, as a sum over layers.

    KV bytes per token = Σ over layers of K·(Ek + Ev)·4        float32: 46 KB for SmolLM2-135M, 131 KB for Llama 3.2 1B

A layer says what it remembers of a position (`Rows`), so layers may differ. Caches, the size of a block pool,
`inspect` and the roofline ask here. Quantized, a position takes its share of a packed block: codes, scales, minimums.
"""

from __future__ import annotations

from math import gcd

from tinyinfer.arrays import FLOAT
from tinyinfer.backends.limits import available_memory
from tinyinfer.backends.packing import packed_size
from tinyinfer.errors import RoomError, SwitchError
from tinyinfer.model.config import Rows
from tinyinfer.units import amount

HALF = 2  # bytes of a float16
SHORTER = "give a shorter prompt or answer"  # what always helps
GROUP_SIZE = 32  # channels of a value that share a scale, by default
MEMORY_SHARE = 0.5  # of the memory that the process may use, for the block pool


def position_bytes(
    memory: tuple[Rows, ...], kv_bits: int | str = "off", block_size: int = 16, kv_group_size: int | None = None
) -> int:
    """KV bytes per token: Σ over layers of K·(Ek + Ev)·4; quantized, a position's share of a packed block, rounded up.

    Raises ValueError for a group size that does not fit.
    """
    if isinstance(kv_bits, str):
        return FLOAT * sum(rows.numbers for rows in memory)
    return -(-block_bytes(memory, block_size, kv_bits, group_size(memory, kv_group_size)) // block_size)


def most_blocks(position_bytes: int, max_model_len: int, block_size: int, max_num_seqs: int, memory: int) -> int:
    """Up to how many blocks a pool grows: max_num_seqs full contexts, in at most half of the memory.

    memory: bytes that the process may use.
    """
    full = max_num_seqs * -(-max_model_len // block_size)
    return max(1, min(full, int(MEMORY_SHARE * memory) // (block_size * position_bytes)))


def no_room(request_id: int, positions: int, nbytes: int, cure: str, on_host: bool = True) -> RoomError:
    """The error for a sequence that does not fit even alone: what it needs, what there is, and what helps.

    on_host: whether the cache lies in the host's memory, and not in a GPU's.
    """
    refused = "the system does not give them to this process, which may use {available} in all"
    reason = "a prompt and its answer of up to {positions} positions need {need} of KV cache, and "
    return RoomError(
        reason + (refused if on_host else "the GPU has no room for them"), cure, request_id,
        positions=positions, need=amount(nbytes, "B"), available=amount(available_memory(), "B"),
    )  # fmt: skip


def block_bytes(memory: tuple[Rows, ...], block_size: int, bits: int, group: int) -> int:
    """Bytes of a packed block: Σ over layers of the codes of its keys and values, their scales and their minimums."""
    total = 0
    for rows in memory:
        numbers = rows.key_size + block_size * rows.value_size // group  # scales, and as many minimums
        total += rows.heads * (sum(codes_bytes(rows, block_size, bits)) + 2 * HALF * numbers)
    return total


def codes_bytes(rows: Rows, block_size: int, bits: int) -> tuple[int, int]:
    """Bytes of the codes of a block's keys, and of those of its values, in one head."""
    return packed_size(block_size * rows.key_size, bits), packed_size(block_size * rows.value_size, bits)


def group_size(memory: tuple[Rows, ...], asked: int | None) -> int:
    """Channels of a value that share a scale: what is asked for, else the largest divisor of Ev up to 32.

    Raises SwitchError for a size that does not divide Ev. Where the layers' Ev differ, the size divides all of them.
    """
    size = gcd(*(rows.value_size for rows in memory))
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    if asked is None:
        return max(n for n in divisors if n <= GROUP_SIZE)
    if asked not in divisors:
        reason = "{field}={value} does not divide this model's head size of {size}"
        fitting = ", ".join(map(str, divisors))
        raise SwitchError("kv_group_size", asked, reason, "choose one of {fitting}", size=size, fitting=fitting)
    return asked
