"""Refit: what the removed parts did, the `down` matrices that are left take over, by least squares.

The `down` of a layer adds to each row what all later layers read. Where parts are gone, the rows differ from those of
the whole model, and `down` can make up for much of that: it is linear, so the weights that bring the rows nearest to
the whole model's rows have a formula. With A (T, F) what `down` is given, B (T, D) what the rows behind it still lack,
and n how many rows of average size the old weights are worth, the change of its weights is

    (AᵀA + n/T · mean(diag(AᵀA)) · I)⁻¹ AᵀB

(ridge regression, Hoerl & Kennard 1970). Before that each row of A and B is divided by the size of the whole model's
row, because the next norm divides by it, too: so all rows count alike. One layer after another is fitted, each to the
rows that those before it leave; in front of removed layers, B is what these would have added, too. ReplaceMe (Shopkhoev
et al. 2025, section 2.2) fits a D x D map in front of one removed block and folds it into `down`; here all of the
matrix is free, in every layer.

Wins: of what the removal cost two thirds (layers) or two fifths (neurons) come back within minutes, without a gradient;
both models read the text once. Loses: the weights are fitted to the text that is read, and to rows, not to tokens, so
training (distillation/) goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.backends.delegate import DelegatingOps
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.base import CacheSpec, NoCache
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.layers import Layer
from tinyinfer.model.transformer import Model, embed, run_layers
from tinyinfer.model.visit import layer_matrices, with_matrices
from tinyinfer.model.weights import Linear
from tinyinfer.pruning.width import check_floats, take_floats
from tinyinfer.quantization.apply import floats
from tinyinfer.quantization.calibration import rows_of
from tinyinfer.sequence import Batch

OLD_WEIGHTS = 8192  # rows of average size that the old weights are worth
TOGETHER = 16  # windows that the models read at once
TINY = 1e-30  # so that a row of zeros has a size


def refit(
    pruned: Model,
    whole: Model,
    kept: Sequence[int],
    windows: np.ndarray,
    ops: Ops,
    on_layer: Callable[[int], None] = lambda n: None,
) -> Model:  # (W, n) ->
    """The pruned float model, the `down` of each layer fitted to the whole model's rows of W windows of n token ids.

    kept: of each layer of the pruned model its number in the whole one, in rising order; both models have the same
    width. on_layer is called with the number of layers that are done. Raises SwitchError for what check_can_refit
    refuses and for weights of a few bits, ValueError, naming the layer, for rows that are not finite, and for other
    numbers of layers.
    """
    check_can_refit(whole.config)
    check_floats(pruned)
    ops = ops.counting(Ledger())  # the ledger of the model does not count this work
    parts = [windows[i : i + TOGETHER] for i in range(0, len(windows), TOGETHER)]
    batches = [rows_of(part, whole.config.rotation_sets) for part in parts]
    wanted = [ops.to_host(embed(whole, batch, ops)) for batch in batches]  # (T, D) each: the whole model's rows
    found = list(wanted)  # (T, D) each: the pruned model's rows
    layers, done = [], 0
    for i, (layer, stop) in enumerate(zip(pruned.layers, [*kept[1:], len(whole.layers)], strict=True)):
        down, fit, scale = Seen(ops, down_of(layer)), LeastSquares(), np.float32(layer.scale)
        for n, batch in enumerate(batches):
            wanted[n] = rows_after(whole, done, stop, wanted[n], batch, ops)
            found[n] = rows_after(pruned, i, i + 1, found[n], batch, down)
            fit.add(down.inputs[n], (wanted[n] - found[n]) / scale, lengths(wanted[n]))
        if not (np.isfinite(fit.squares).all() and np.isfinite(fit.products).all()):
            where = f"layers.{kept[i]}" if stop == kept[i] + 1 else f"layers.{kept[i]} to {stop - 1}"
            raise ValueError(f"{where}: rows hold NaN or infinity, so that `down` cannot be fitted to them")
        change = fit.solve(OLD_WEIGHTS)  # (F, D)
        found = [rows + scale * (inputs @ change) for rows, inputs in zip(found, down.inputs, strict=True)]
        weight = take_floats(floats(down.watched.weight) + change.T, ops)
        layers.append(with_matrices(layer, {"down": replace(down.watched, weight=weight)}))
        done = stop
        on_layer(i + 1)
    return replace(pruned, layers=tuple(layers))


def check_can_refit(c: ModelConfig) -> None:
    """Raises SwitchError for a mixture of experts, and where a norm stands between `down` and the rows."""
    if c.experts:
        reason = "{field}=on is for dense layers, and this model has a mixture of experts"
        raise SwitchError("refit", True, reason, "leave it out")
    if c.post_norms:
        reason = "{field}=on has no formula for this model, in which a norm stands behind each MLP"
        raise SwitchError("refit", True, reason, "leave it out, and train the pruned model: tinyinfer distill")


def down_of(layer: Layer) -> Linear:
    """What the layer's MLP ends with."""
    down = layer_matrices(layer)["down"]
    assert isinstance(down, Linear)
    return down


def rows_after(
    model: Model, first: int, stop: int, rows: np.ndarray, batch: Batch, ops: Ops
) -> np.ndarray:  # (T, D) -> (T, D)
    """The rows that leave layers first ... stop; those that enter are not changed."""
    cache = NoCache(CacheSpec(model.config.memory, batch.spans[0].stop), ops)
    x = run_layers(model, first, stop, ops.take_array(rows), batch, cache, ops)  # (T, D)
    return np.asarray(ops.to_host(x), dtype=np.float32)


def lengths(rows: np.ndarray) -> np.ndarray:  # (T, D) -> (T, 1)
    """The root of each row's mean square."""
    return np.sqrt(np.square(rows, dtype=np.float64).mean(axis=1, keepdims=True) + TINY).astype(np.float32)


class Seen(DelegatingOps):
    """Wraps a backend and keeps what one linear layer is given. inputs: (T, F), one entry for each call."""

    def __init__(self, ops: Ops, watched: Linear) -> None:
        super().__init__(ops)
        self.watched = watched
        self.inputs: list[np.ndarray] = []

    def linear(self, x: Array, linear: Linear) -> Array:  # (T, M) -> (T, N)
        """The product; the inputs of the watched layer are kept."""
        if linear is self.watched:
            self.inputs.append(np.array(self.to_host(x), dtype=np.float32))
        return self.inner.linear(x, linear)


class LeastSquares:
    """The change of a linear layer's weights that adds to its outputs what they lack, in sums over rows.

    squares: AᵀA, (F, F). products: AᵀB, (F, D).
    """

    def __init__(self) -> None:
        self.squares = self.products = np.zeros((1, 1))
        self.rows = 0

    def add(self, a: np.ndarray, b: np.ndarray, sizes: np.ndarray) -> None:  # (T, F), (T, D), (T, 1) ->
        """Adds T rows of inputs a and of what the outputs lack, b; each is divided by its size."""
        a, b = a / sizes, b / sizes
        self.squares = self.squares + a.T @ a
        self.products = self.products + a.T @ b
        self.rows += len(a)

    def solve(self, old: int) -> np.ndarray:  # -> (F, D)
        """The change, where the old weights are worth `old` rows of average size; 0 where all inputs are 0."""
        damped = self.squares.astype(np.float64)
        damped.flat[:: len(damped) + 1] += old / self.rows * np.diag(damped).mean() or 1.0
        return np.linalg.solve(damped, self.products).astype(np.float32)
