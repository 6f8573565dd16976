"""Whole layers: those that change the rows least are removed (Men et al. 2024, ShortGPT, section 2).

A layer adds its changes to the rows that come in. Where the rows that leave it point in nearly the same direction, the
next layer can as well read the rows that came in. So a layer's block influence is 1 - E[cos(row in, row out)], the mean
over all rows of some text, and the layers of the lowest influence go. All are measured once, in the whole model.

Wins: a layer less is its share of weights, of cached keys and values and of time less, on every backend, with no kernel
of its own; and one pass over the text is all that it costs. Loses: quality falls steeply, in small models from the
first layer on; and once trained again, narrower layers (width.py) are better for as many weights (Muralidharan et al.
2024, section 4). The first layers, which turn the rows most, hardly ever go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.base import CacheSpec, NoCache
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model, embed, run_layers
from tinyinfer.quantization.calibration import rows_of


def block_influence(
    model: Model, windows: np.ndarray, ops: Ops, on_layer: Callable[[int], None] = lambda n: None
) -> np.ndarray:  # (W, n) -> (L,)
    """How much each layer turns the rows of W windows of n token ids: 1 - mean cosine (ShortGPT, equation 1).

    0: the direction of no row changes; 1: on average, what leaves has nothing in common with what came in. on_layer is
    called with the number of layers that are done. Raises ValueError, naming the layer, for rows that are not finite.
    """
    found = []
    for i, (before, after) in enumerate(rows_around(model, windows, ops)):  # (T, D), (T, D)
        if not (np.isfinite(before).all() and np.isfinite(after).all()):
            raise ValueError(f"layers.{i}: its rows hold NaN or infinity, so that its influence cannot be measured")
        found.append(1 - float(cosines(before, after).mean()))
        on_layer(i + 1)
    return np.array(found)


def rows_around(
    model: Model, windows: np.ndarray, ops: Ops
) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # (W, n) -> ((T, D), (T, D)) | None
    """Yields for each layer the rows of W windows of n token ids that enter it and that leave it, (T, D) each.

    The second of them may be overwritten when the next pair is asked for.
    """
    ops = ops.counting(Ledger())  # the ledger of the model does not count this work
    batch = rows_of(windows, model.config.rotation_sets)
    cache = NoCache(CacheSpec(model.config.memory, windows.shape[1]), ops)
    x = embed(model, batch, ops)  # (T, D)
    for i in range(len(model.layers)):
        before = np.array(ops.to_host(x), dtype=np.float32)  # (T, D): a copy, as a layer may change x in place
        x = run_layers(model, i, i + 1, x, batch, cache, ops)  # (T, D)
        yield before, np.asarray(ops.to_host(x), dtype=np.float32)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:  # (T, D), (T, D) -> (T,)
    """The cosine of each row with its partner, exactly 1 for the same row; a row of zeros is like its own kind only."""

    def products(x: np.ndarray, y: np.ndarray) -> np.ndarray:  # (T, D), (T, D) -> (T,)
        return np.einsum("td,td->t", x, y, dtype=np.float64)

    lengths = np.sqrt(products(a, a) * products(b, b))  # (T,)
    alike = (a == b).all(axis=1).astype(np.float64)  # (T,): what counts where a row has no direction
    return np.divide(products(a, b), lengths, out=alike, where=lengths > 0)


def keep_layers(model: Model, kept: Sequence[int]) -> Model:
    """The model with only the layers of these numbers, 0 ... L-1, in rising order; no weight is copied.

    Rotations stay, since each layer says by number which of them it uses. Raises ValueError for numbers that are no
    layers, that do not rise, or that are none at all.
    """
    c, rising = model.config, sorted({int(i) for i in kept})
    if not rising or list(kept) != rising or not 0 <= rising[0] <= rising[-1] < c.num_layers:
        raise ValueError(f"kept={list(kept)} must be some of the layers 0 to {c.num_layers - 1}, in rising order")
    return replace(model, config=_config_of(c, rising), layers=tuple(model.layers[i] for i in rising))


def most_influential(
    model: Model,
    windows: np.ndarray,
    ops: Ops,
    count: int,
    on_layer: Callable[[int], None] = lambda n: None,
) -> list[int]:  # (W, n) ->
    """The layers without the `count` of least influence on W windows of n token ids; of equal ones the first go.

    on_layer is called with the number of layers that are measured. Raises SwitchError unless at least one layer stays,
    ValueError as block_influence does.
    """
    check_can_drop(model.config, count)
    order = np.argsort(block_influence(model, windows, ops, on_layer), kind="stable")  # (L,)
    return sorted(order[count:].tolist())


def check_can_drop(c: ModelConfig, count: int) -> None:
    """Raises SwitchError unless at least one layer stays."""
    total = c.num_layers
    if not 0 <= count < total:
        reason = "{field}={value} must leave at least one of the model's {total} layers"
        raise SwitchError("drop_layers", count, reason, "choose a number from 0 to {most}", total=total, most=total - 1)


def _config_of(c: ModelConfig, kept: Sequence[int]) -> ModelConfig:
    """The configuration with only these layers; what it says of single layers follows them."""
    experts = c.experts and replace(
        c.experts, dense_layers=tuple(new for new, old in enumerate(kept) if old in c.experts.dense_layers)
    )
    rope, windows = tuple(c.rope[i] for i in kept), tuple(c.windows[i] for i in kept)
    return replace(c, num_layers=len(kept), rope=rope, windows=windows, experts=experts)
