"""Rows of a file in another order: the orders by hand, and that a tile reads what it needs and no more."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from tinyinfer.loading.checkpoint import LazyTensor
from tinyinfer.loading.reorder import neighbour_pairs_order, of_heads, partial_rotation_order, reordered
from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme
from tinyinfer.quantization.rtn import round_to_nearest

SCHEME = QuantScheme(4, 2, symmetric=False)


@dataclass
class Watched:
    """A tensor of 12 rows of 5 numbers, as floats and as codes, that notes which rows are read."""

    array: np.ndarray = field(default_factory=lambda: np.random.default_rng(0).standard_normal((12, 5), np.float32))
    read: list[tuple[int, int]] = field(default_factory=list)

    def rows(self, start: int, stop: int) -> np.ndarray:
        self.read.append((start, stop))
        return self.array[start:stop]

    def codes(self, start: int, stop: int) -> QuantizedMatrix:
        return round_to_nearest(self.rows(start, stop), SCHEME)

    def tensor(self) -> LazyTensor:
        return LazyTensor("q_proj.weight", (12, 5), 240, self.rows, "model.safetensors", self.codes)


def test_partial_rotation_by_hand() -> None:
    """Catches the rest left behind both halves (then i + E/2 is no partner), and a half taken for the whole."""
    one = [0, 1, 4, 5, 6, 2, 3, 7, 8, 9]  # of 10, 4 are turned: pairs (0, 2) and (1, 3), then 6 that stay
    assert partial_rotation_order(1, 10, 4).tolist() == one
    assert partial_rotation_order(2, 10, 4).tolist() == one + [10 + i for i in one]
    for size, rows in [(4, [(0, 2), (1, 3)]), (2, [(0, 1)]), (10, [(i, i + 5) for i in range(5)])]:
        order = partial_rotation_order(1, 10, size)
        assert list(zip(order[: size // 2], order[5 : 5 + size // 2], strict=True)) == rows
    assert partial_rotation_order(3, 10, 10).tolist() == list(range(30))


def test_neighbours_by_hand() -> None:
    """Catches the permutation applied a second time instead of undone: heads of 6 have neither as their inverse."""
    assert neighbour_pairs_order(2, 6, 6).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert neighbour_pairs_order(1, 10, 4).tolist() == [0, 2, 4, 5, 6, 1, 3, 7, 8, 9]


@pytest.mark.parametrize("order", [partial_rotation_order(2, 6, 2), np.array([7, 2, 2, 11]), np.arange(3, 9)])
def test_any_tile_is_that_part_of_the_whole(order: np.ndarray) -> None:
    """Catches a tile that begins or ends inside a head put in order as if it were whole heads; codes as floats."""
    watched = Watched()
    tensor = reordered(watched.tensor(), order)
    assert (tensor.shape, tensor.name, tensor.path) == ((len(order), 5), "q_proj.weight", "model.safetensors")
    assert tensor.nbytes == 240 * len(order) // 12
    assert tensor.scheme == SCHEME
    codes = round_to_nearest(watched.array, SCHEME)
    for start, stop in [(0, len(order)), (0, 1), (1, 3), (2, 2), (len(order) - 1, len(order))]:
        rows, part = order[start:stop], tensor.quantized(start, stop)
        np.testing.assert_array_equal(tensor.rows(start, stop), watched.array[rows])
        np.testing.assert_array_equal(part.codes, codes.codes[rows])
        np.testing.assert_array_equal(part.scale, codes.scale[rows])
        np.testing.assert_array_equal(part.minimum, codes.minimum[rows])


def test_a_tile_reads_only_the_heads_that_it_needs() -> None:
    """Catches the whole tensor read for every tile: a model would take as many times as long as it has heads."""
    watched = Watched()
    tensor = reordered(watched.tensor(), partial_rotation_order(3, 4, 2))
    tensor.rows(4, 8)
    tensor.rows(5, 6)
    tensor.rows(3, 3)
    assert watched.read == [(4, 8), (6, 7), (0, 0)]


def test_of_nothing_comes_nothing_and_floats_have_no_codes() -> None:
    """Catches a division by the rows of an empty tensor, and codes promised where the file holds floats."""
    empty = LazyTensor("x", (0, 5), 0, lambda start, stop: np.zeros((0, 5), np.float32))
    tensor = reordered(empty, of_heads(0, range(4)))
    assert tensor.shape == (0, 5)
    assert tensor.numpy().shape == (0, 5)
    assert tensor.codes is None
