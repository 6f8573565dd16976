"""The memory of a bucket: every array that the launches of T rows read and write besides the weights.

All of it is allocated at once: a captured graph has the addresses burnt in, and an allocation that fails must fail
before anything else is done. Its sizes are the constants of the kernels, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyinfer.arrays import Array, Xp
from tinyinfer.backends.kernels.buffers import RING, Fields, row_fields
from tinyinfer.backends.kernels.source import Constant
from tinyinfer.model.transformer import Model

MOST_SPLITS = 64  # blocks that share the keys of a row at most
BLOCKS = 4  # of attention for each processor: so many warps that memory is kept busy
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "gelu": 2, "clamped": 3}  # as the kernels count them
PACKED_ADDRESSES = 5  # of a layer whose blocks are packed: twice codes, twice scales, and the float rows (packed.cuh)
BEST = 4  # numbers of a block's candidate for a row's token (choice.cuh)


@dataclass(frozen=True)
class Sizes:
    """What decides the constants of a bucket's kernels, beside the model.

    rows: T. slots: the most sequences. most_blocks: the longest block table. processors: of the device.
    """

    rows: int
    slots: int
    most_blocks: int
    processors: int
    packed: tuple[tuple[str, int], ...] = ()  # of a cache that packs its blocks: Cache.kernel_sizes

    def splits(self, key_heads: int) -> int:
        """Among how many blocks attention splits the keys of a row; a short row leaves most of them idle."""
        return max(1, min(MOST_SPLITS, BLOCKS * self.processors // (self.rows * key_heads)))


@dataclass(frozen=True)
class Memory:
    """The arrays of a bucket. Scratch that counts is 0 before a launch, and again after it."""

    sizes: Sizes
    splits: int
    constants: dict[str, Constant]
    row: dict[str, Array]  # what the host tells of each row and slot (buffers.py)
    results: Array  # (RING, T, 4)
    x: Array  # (T, D)
    q: Array  # (T, H·E)
    qkv: Array  # (T, (H+2K)·E)
    mixed: Array  # (T, H·E): what attention gives
    change: Array  # (T, D): of a sub-layer, before the norm behind it
    h: Array  # (T, F)
    logits: Array  # (T, V)
    partial: Array  # of attention's splits
    counters: Array  # (T·K,): attention's splits that have ended
    best: Array  # each block's candidate for each row's token
    chosen: Array  # (1,): the head's blocks that have ended

    @property
    def rows(self) -> int:
        return self.sizes.rows


def allocate(model: Model, sizes: Sizes, xp: Xp, row: dict[str, Array], results: Array) -> Memory:
    """The memory of a bucket on the device. Raises MemoryError before any of it is used."""
    c, rows = model.config, sizes.rows
    heads, splits, vocab = c.num_heads * c.head_dim, sizes.splits(c.num_kv_heads), model.head.weight.shape[0]

    def floats(*shape: int) -> Array:
        return xp.empty(shape, dtype=xp.float32)

    return Memory(
        sizes, splits, constants_of(model, sizes), row, results,
        x=floats(rows, c.hidden_size),
        q=floats(rows, heads),
        qkv=floats(rows, heads + 2 * c.num_kv_heads * c.head_dim),
        mixed=floats(rows, heads),
        change=floats(rows, c.hidden_size),
        h=floats(rows, c.intermediate_size),
        logits=floats(rows, vocab),
        partial=floats(rows * c.num_heads * splits, c.head_dim + 2),
        counters=xp.zeros(rows * c.num_kv_heads, dtype=xp.int32),
        best=xp.empty((2 * sizes.processors, rows, BEST), dtype=xp.float64),
        chosen=xp.zeros(1, dtype=xp.int32),
    )  # fmt: skip


def constants_of(model: Model, sizes: Sizes) -> dict[str, Constant]:
    """The constants of the kernels' texts, by the letters of arrays.py."""
    c = model.config
    return {
        "D": c.hidden_size, "H": c.num_heads, "K": c.num_kv_heads, "E": c.head_dim, "F": c.intermediate_size,
        "V": model.head.weight.shape[0], "L": len(model.layers), "Z": model.rotations[0].frequencies.shape[0],
        "T": sizes.rows, "SLOTS": sizes.slots, "MOST_BLOCKS": sizes.most_blocks,
        "SPLITS": sizes.splits(c.num_kv_heads), "RING": RING, "TILE": tile_of(c.head_dim), "EPS": float(c.norm_eps),
        "ACTIVATION": ACTIVATIONS[c.activation], **dict(sizes.packed),
    }  # fmt: skip


def tile_of(head_size: int) -> int:
    """How many rows of a prompt meet a key together (attention_prefill).

    Few enough for a thread's registers, and for 99 KB of shared memory, all that a block has on a GeForce RTX.
    """
    return 64 if head_size <= 64 else 32 if head_size <= 248 else 16


def fields_of(model: Model, sizes: Sizes) -> Fields:
    """What the host tells of a step of such sizes."""
    addresses = PACKED_ADDRESSES if sizes.packed else 2
    return row_fields(sizes.rows, len(model.layers), sizes.slots, sizes.most_blocks, addresses)
