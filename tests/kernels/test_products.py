"""The kernels that multiply a few rows give the reference's numbers, whatever the weight, the shape and the grid.

Every run is the harness's: outputs full of NaN, three orders of threads, two launches each, several grids, and the same
bits from all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from helpers import ROUNDING
from kernels.harness import InOut, Out, run
from kernels.products import DENSE, PACKED, KernelWeight, assert_near, make_weight, random_rows, shared_bytes

from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.ledger import Ledger
from tinyinfer.model.weights import Dense, Linear, RMSNorm, Rotation

EPS = 0.05  # large enough to be missed where it is left out
OPS = ReferenceOps(Ledger())
GRIDS = (1, 3, 40)
# D, F, H, K, E: no multiple of 8 and odd halves of heads, as the golden models; two loads a lane and more; a full warp.
GOLDEN, SMALL, WIDE = (20, 28, 4, 2, 6), (72, 40, 3, 1, 8), (640, 12, 2, 1, 4)
ACTIVATIONS = ["silu", "gelu_tanh", "gelu", "clamped"]


def constants(sizes: tuple[int, ...], rows: int, weight: str, **more: Any) -> dict[str, Any]:
    """The prelude of a kernel."""
    letters = dict(zip("DFHKE", sizes, strict=True))
    return {**letters, "T": rows, "V": 31, "Z": 2, "SLOTS": 5, "MOST_BLOCKS": 7, "EPS": EPS, "Weight": weight, **more}


def normed(x: np.ndarray, norm: np.ndarray | None) -> np.ndarray:
    """The reference's norm, or x."""
    return x if norm is None else OPS.norm(x, RMSNorm(norm, EPS))


def multiplied(x: np.ndarray, weight: KernelWeight, bias: np.ndarray | None) -> np.ndarray:
    """The reference's linear layer."""
    return OPS.linear(x, Linear(Dense(np.ascontiguousarray(weight.floats.T)), bias))


@dataclass
class Inputs:
    """Rows with a norm and a bias, or without."""

    x: np.ndarray
    norm: np.ndarray | None
    bias: np.ndarray | None

    @classmethod
    def make(cls, rows: int, inputs: int, outputs: int, plain: bool = False) -> Inputs:
        """Random ones; plain: no norm and no bias."""
        norm, bias = 1 + random_rows(1, inputs, seed=2)[0] / 4, random_rows(1, outputs, seed=3)[0]
        return cls(random_rows(rows, inputs), *((None, None) if plain else (norm, bias)))


# embed


def check_embed(sizes: tuple[int, ...], rows: int, kind: str) -> None:
    """Tokens at both ends of the table, the last one twice."""
    table, tokens = make_weight(kind, 31, sizes[0]), np.array([30, 0, 7, 30, 1, 2, 3, 4][:rows], np.int32)
    args = [tokens, *table.pointers, np.float32(1.5), Out((rows, sizes[0]))]
    [x] = run("embed", constants(sizes, rows, kind), args, grid=GRIDS)
    assert_near(x, np.float32(1.5) * table.floats[tokens], 1e-6)


@pytest.mark.parametrize("kind", ["Dense<bfloat16>", "Packed<3, 32, false>"])
def test_embed_looks_up_the_tokens_rows(kind):
    """More numbers than threads of a block. Catches a row's end left out and a code read from its neighbour's bits."""
    check_embed((300, 8, 1, 1, 2), 3, kind)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", DENSE + PACKED)
def test_embed_reads_every_kind_of_table(kind):
    """Rows that are no whole number of bytes' codes: 20 codes are filled up to 24, and a last group has few."""
    for sizes, rows in ((GOLDEN, 1), (GOLDEN, 8), ((41, 8, 1, 1, 2), 2)):
        check_embed(sizes, rows, kind)


# rms_product


def check_product(rows: int, inputs: int, outputs: int, kind: str, plain: bool = False) -> None:
    """y = rms(x) Wᵀ + bias; plain: x Wᵀ."""
    given, weight = Inputs.make(rows, inputs, outputs, plain), make_weight(kind, outputs, inputs)
    prelude = constants(SMALL, rows, kind, INPUTS=inputs, OUTPUTS=outputs)
    args = [given.x, given.norm, *weight.pointers, given.bias, Out((rows, outputs))]
    [y] = run("rms_product", prelude, args, grid=GRIDS, shared=shared_bytes(rows, inputs))
    assert_near(y, multiplied(normed(given.x, given.norm), weight, given.bias), ROUNDING)


def test_a_product_with_its_norm_inside():
    """Each row by its own norm. Catches a piece left out, and squares of one row in another's mean."""
    check_product(2, 200, 50, "Dense<bfloat16>")


def test_a_product_of_packed_codes():
    """Two codes a byte, whose inputs lie half a row apart; scales that change inside a row, a last short group."""
    check_product(2, 136, 21, "Packed<4, 32, false>")


@pytest.mark.cuda
@pytest.mark.parametrize("kind", DENSE + PACKED)
def test_a_product_of_every_kind_of_weight(kind):
    """Pieces of 16, 8, 4, 2 and 1 bytes; one piece a lane and many; more output rows than lanes, and fewer."""
    for rows, inputs, outputs in ((1, 576, 37), (8, 576, 37), (2, 20, 28), (8, 41, 8), (1, 7, 3)):
        check_product(rows, inputs, outputs, kind)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["Packed<4, 20, true>", "Packed<3, 5, false>", "Packed<8, 12, false>"])
def test_groups_of_any_size(kind):
    """Whose ends are no ends of pieces. Catches a scale behind the last, read for codes that only fill the row up."""
    for inputs in (20, 60, 41):
        check_product(2, inputs, 5, kind)


@pytest.mark.cuda
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(8, 2056, 12), (8, 2048, 9), (4, 4100, 6), (1, 16392, 3)])
@pytest.mark.parametrize("kind", ["Dense<bfloat16>", "Packed<8, 32, true>", "Packed<4, 32, true>"])
def test_rows_that_do_not_fit_into_shared_memory_are_staged_in_tiles(kind, rows, inputs, outputs):
    """Several items a warp on a grid of one block. Catches a tile overwritten while it is read, and a mean of squares
    of one tile only."""
    check_product(rows, inputs, outputs, kind)


@pytest.mark.cuda
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8])
def test_a_product_without_norm_and_bias(rows):
    """Null pointers are no norm and no bias; row numbers that no bucket has work too."""
    check_product(rows, 72, 40, "Dense<float32>", plain=True)


@pytest.mark.cuda
def test_several_output_rows_share_the_activations():
    """Many outputs and 4 rows or more: lanes compute two output rows at once. Catches their sums swapped."""
    check_product(4, 16, 5000, "Dense<bfloat16>")
    check_product(8, 16, 5001, "Dense<bfloat16>")


# projection_residual


def check_residual(sizes: tuple[int, ...], rows: int, inputs: int, kind: str, plain: bool = False) -> None:
    """x + factor · (y Wᵀ + bias)."""
    given, weight = Inputs.make(rows, inputs, sizes[0], plain), make_weight(kind, sizes[0], inputs)
    x = random_rows(rows, sizes[0], seed=5)
    args = [given.x, *weight.pointers, given.bias, InOut(x), np.float32(0.25)]
    prelude = constants(sizes, rows, kind, INPUTS=inputs)
    [changed] = run("projection_residual", prelude, args, grid=GRIDS, shared=shared_bytes(rows, inputs))
    assert_near(changed, OPS.add(x, multiplied(given.x, weight, given.bias), 0.25), ROUNDING)


def test_a_projection_is_added_to_the_stream_once():
    """Whatever the grid. Catches a sum added by each of its lanes, and a factor left out."""
    check_residual(SMALL, 2, 40, "Dense<bfloat16>")


@pytest.mark.cuda
@pytest.mark.parametrize("kind", [*DENSE, "Packed<8, 32, true>", "Packed<4, 32, false>"])
def test_projections_of_every_shape(kind):
    """The golden models' sizes; eight rows of many inputs, in tiles."""
    check_residual(GOLDEN, 1, 24, kind)
    check_residual(GOLDEN, 8, 28, kind, plain=True)
    check_residual(GOLDEN, 8, 4096, kind)


# rms_gate_up


def check_gate_up(sizes: tuple[int, ...], rows: int, kind: str, activation: str = "silu", plain: bool = False) -> None:
    """act(gate) · up of rms(x)."""
    inner = 2 * sizes[1]
    given, weight = Inputs.make(rows, sizes[0], inner, plain), make_weight(kind, inner, sizes[0])
    args = [given.x * 4, given.norm, *weight.pointers, given.bias, Out((rows, sizes[1]))]
    prelude = constants(sizes, rows, kind, ACTIVATION=ACTIVATIONS.index(activation))
    [h] = run("rms_gate_up", prelude, args, grid=GRIDS, shared=shared_bytes(rows, sizes[0]))
    assert_near(h, OPS.gate(multiplied(normed(given.x * 4, given.norm), weight, given.bias), activation), ROUNDING)


def test_a_gate_meets_its_own_up_row():
    """Catches gate and up swapped or taken from other rows, and the norm left out."""
    check_gate_up(SMALL, 2, "Dense<bfloat16>")


@pytest.mark.cuda
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation):
    """Without norm and bias too, on values beyond the clamped gate's limits."""
    check_gate_up(GOLDEN, 2, "Dense<float32>", activation)
    check_gate_up(GOLDEN, 1, "Dense<float32>", activation, plain=True)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", [*DENSE, "Packed<8, 32, true>", "Packed<4, 32, false>"])
def test_gates_of_every_shape(kind):
    """One row and eight; small ones and a row of 80 pieces."""
    for sizes, rows in ((GOLDEN, 1), (SMALL, 8), (WIDE, 4)):
        check_gate_up(sizes, rows, kind)


# rms_qkv_rope_append


def check_qkv(sizes: tuple[int, ...], kind: str, positions: list[int], plain: bool = False) -> None:
    """q, and keys and values in two sequences' pools of scattered blocks; a row at position -1 leaves no trace."""
    d, _, h, k, e = sizes
    rows, heads, layer, block = len(positions), h + 2 * k, 1, 3
    given, weight = Inputs.make(rows, d, heads * e, plain), make_weight(kind, heads * e, d)
    rng = np.random.default_rng(7)
    rotation = Rotation(*rng.uniform(0, 2, (2, 2, e // 2)).astype(np.float32))  # two sets
    at, sets = np.array(positions, np.int32), np.arange(rows, dtype=np.int32) % 2
    slots = np.resize(np.array([4, 1], np.int32), rows)
    stored, table = np.full((2, 2, k, 21, e), np.nan, np.float32), [5, 0, 3, 6]  # [slot][keys, values], of 21 positions
    pools, places = np.zeros((2, 5, 2), np.uint64), np.full((5, 2 + 7), -1, np.int32)
    for i, slot in enumerate((1, 4)):
        pools[layer, slot] = [stored[i, j].ctypes.data for j in (0, 1)]
        places[slot, :6] = 21, block, *(table if i else table[::-1])
    args = [given.x, given.norm, *weight.pointers, given.bias, at, slots, sets, rotation.frequencies,
            rotation.amplitudes, pools, places, np.int32(layer), Out((rows, h, e))]  # fmt: skip
    [q] = run("rms_qkv_rope_append", constants(sizes, rows, kind), args, grid=GRIDS, shared=shared_bytes(rows, d))

    qkv = multiplied(normed(given.x, given.norm), weight, given.bias).reshape(rows, heads, e)
    turned = OPS.rope(qkv[:, : h + k], OPS.cos_sin(at, sets, rotation))
    expected, real = np.full_like(stored, np.nan), at >= 0
    for t in np.flatnonzero(real):
        slot = int(slots[t] == 4)
        row = (table if slot else table[::-1])[at[t] // block] * block + at[t] % block
        expected[slot, 0, :, row], expected[slot, 1, :, row] = turned[t, h:], qkv[t, h + k :]
    assert_near(q[real], turned[real, :h], ROUNDING)
    np.testing.assert_array_equal(np.isnan(q).all((1, 2)), ~real)
    np.testing.assert_array_equal(np.isnan(stored), np.isnan(expected))
    assert_near(np.nan_to_num(stored), np.nan_to_num(expected), ROUNDING)


def test_queries_are_turned_and_keys_and_values_appended():
    """Each row by its own sequence, position and rotation set. Catches values that are turned, a key in a value's
    place, and a padded row that is appended."""
    check_qkv(SMALL, "Dense<bfloat16>", [11, -1])


@pytest.mark.cuda
@pytest.mark.parametrize("kind", [*DENSE, "Packed<8, 32, true>", "Packed<4, 32, false>"])
def test_queries_keys_and_values_of_every_shape(kind):
    """One row; eight rows, of which some are padded; heads whose halves are odd; neither norm nor bias."""
    check_qkv(GOLDEN, kind, [0])
    check_qkv(GOLDEN, kind, [0, 3, 1, -1, 11, 7, -1, 9])
    check_qkv(WIDE, kind, [5, 5, 6, 11], plain=True)


# norm_add


def check_norm_add(width: int, rows: int) -> None:
    """x + factor · rms(h)."""
    x, h, norm = random_rows(rows, width), random_rows(rows, width, seed=2), random_rows(1, width, seed=3)[0]
    [changed] = run("norm_add", {"D": width, "T": rows, "EPS": EPS}, [InOut(x), h, norm, np.float32(0.5)], grid=GRIDS)
    assert_near(changed, OPS.add(x, normed(h, norm), 0.5), ROUNDING)


def test_a_norm_after_a_sub_layer():
    """More rows than blocks, more numbers than threads. Catches the sum of the row before, still in shared memory."""
    check_norm_add(300, 5)


@pytest.mark.cuda
@pytest.mark.parametrize(("width", "rows"), [(20, 1), (257, 2), (2048, 33)])
def test_norms_of_every_shape(width, rows):
    """Fewer numbers than threads, one more, many."""
    check_norm_add(width, rows)
