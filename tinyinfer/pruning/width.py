"""Narrower layers: the neurons, heads and numbers of the model width that are hardly ever active are removed.

Minitron (Muralidharan et al. 2024, Compact Language Models via Pruning and Knowledge Distillation, section 2.2): the
model reads some text once, and what its linear layers are given says how active each part is.

    MLP neurons           |inputs of `down`|
    key/value head groups |inputs of `o`|, as one length over all numbers of the group's H/K query heads
    model width           |inputs of `qkv` and of `gate_up` or `up`|, what the norms put out, summed over the layers

Each is a mean over all rows. The parts of the highest numbers stay, in their order, and what is left is a smaller dense
model: as many neurons and heads in every layer, and the same numbers of the width in all of them.

Wins: smaller matrices are faster on every backend, fewer key/value heads make a cache smaller; once trained again, a
narrower model is better than one with fewer layers and as many weights (section 4). Loses: until then quality falls
fast, most by far with the model width: every matrix loses rows or columns, and norms divide by a mean over other
numbers. A neuron is judged by its size, not by what `down` makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from tinyinfer.arrays import Array, to_host
from tinyinfer.errors import SwitchError
from tinyinfer.model.attention import GroupedQuery
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.heads import Heads, Sinks
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.layers import Layer
from tinyinfer.model.mlp import GatedMLP
from tinyinfer.model.transformer import Model
from tinyinfer.model.visit import layer_matrices, with_matrices
from tinyinfer.model.weights import Embedding, Floats, FullQKNorm, LayerNorm, Linear, NoNorm, Norm, RMSNorm, Weight
from tinyinfer.quantization.apply import floats
from tinyinfer.quantization.calibration import Inputs, calibrate
from tinyinfer.quantization.folding import divide_norm

MULTIPLE = 8  # neurons of an MLP are a multiple of it, so that rows are whole vectors of a processor
Progress = Callable[[int], None]

# Choosing what stays.


def narrow(
    model: Model,
    windows: np.ndarray,
    ops: Ops,
    width: float | None = None,
    kv_heads: int | None = None,
    hidden: int | None = None,
    on_layer: Progress = lambda n: None,
) -> Model:  # (W, n) ->
    """The float model with only its most active parts, measured once over W windows of n token ids.

    width: the share of each layer's MLP neurons that stays, as `neurons` rounds it. kv_heads: how many key/value heads
    of each layer, each with its H/K query heads. hidden: how many numbers of the model width. None: all of them.
    on_layer is called with the number of layers that are measured.

    Raises SwitchError (field width, keep_kv_heads or keep_hidden) for a share or a number that leaves nothing or more
    than there is, for a mixture of experts, for weights of a few bits, and for heads whose norm is over all of them;
    ValueError as calibrate does.
    """
    if width is None and kv_heads is None and hidden is None:
        return model
    c = model.config
    check_can_narrow(c, width, kv_heads, hidden)
    check_floats(model)
    active = activity(model, windows, ops, on_layer)
    if width is not None:
        model = keep_neurons(model, [most(row, neurons(c, width)) for row in active["down"]], ops)
    if kv_heads is not None:
        model = keep_heads(model, [most(group_lengths(row, c), kv_heads) for row in active["o"]], ops)
    if hidden is not None:
        model = keep_hidden(model, most(np.sum(active["qkv"] + active["up"], axis=0), hidden), ops)
    return model


def check_can_narrow(
    c: ModelConfig, width: float | None = None, kv_heads: int | None = None, hidden: int | None = None
) -> None:
    """Raises SwitchError, as narrow does, for what cannot be done with a model of this configuration."""
    given = {"width": width, "keep_kv_heads": kv_heads, "keep_hidden": hidden}
    field, value = next(((name, value) for name, value in given.items() if value is not None), ("", None))
    if c.experts and field:
        reason = "{field}={value} is for dense layers, and this model has a mixture of experts"
        raise SwitchError(field, value, reason, "choose a dense model")
    if width is not None and not 0 < width <= 1:
        raise SwitchError("width", width, "{field}={value} is no share above 0 and up to 1", "give a share, as 0.75")
    for name, number, most_of, what in (
        ("keep_kv_heads", kv_heads, c.num_kv_heads, "key/value heads"),
        ("keep_hidden", hidden, c.hidden_size, "numbers of the model width"),
    ):
        if number is not None and not 1 <= number <= most_of:
            reason = "{field}={value} must leave some of the model's {total} {what}"
            cure = "choose a number from 1 to {total}"
            raise SwitchError(name, number, reason, cure, total=most_of, what=what)
    if kv_heads is not None and c.qk_norm == "full":
        reason = "{field}={value} cannot be done, as one norm of this model is over the queries of all its heads"
        raise SwitchError("keep_kv_heads", kv_heads, reason, "leave it out, and choose {width} or {drop_layers}")


def check_floats(model: Model) -> None:
    """Raises SwitchError for a model in whose layers a matrix is in a few bits, which would become floats."""
    for i, layer in enumerate(model.layers):
        for name, held in layer_matrices(layer).items():
            if isinstance(held, Linear) and held.weight.scheme is not None:
                reason = "layers.{i}.{name} is quantized, and a part of it would become floats"
                raise SwitchError("quantize", None, reason, "prune the floats first", i=i, name=name)


def neurons(c: ModelConfig, width: float) -> int:
    """How many neurons of an MLP stay: this share of them, rounded to a multiple of 8, but at least 8; 1: all."""
    nearest = MULTIPLE * int(c.intermediate_size * width / MULTIPLE + 0.5)
    return c.intermediate_size if width == 1 else min(c.intermediate_size, max(MULTIPLE, nearest))


def activity(
    model: Model, windows: np.ndarray, ops: Ops, on_layer: Progress = lambda n: None
) -> dict[str, list[np.ndarray]]:  # (W, n) ->
    """The mean of |x| of each input (M,) of the layers' matrices over W windows of n token ids, one entry a layer.

    By the names qkv, o, up (of gate_up, too) and down. Raises ValueError as calibrate does.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("qkv", "o", "up", "down")}

    def look(name: str, linear: Linear, inputs: Inputs) -> tuple[Linear, Array | None]:
        found[name.rpartition(".")[2].removeprefix("gate_")].append(inputs.mean)
        return linear, None

    calibrate(model, windows, ops, look, on_layer)
    return found


def group_lengths(activity: np.ndarray, c: ModelConfig) -> np.ndarray:  # (H*E,) -> (K,)
    """The length of what each key/value head's group of H/K query heads sends to `o`."""
    return np.linalg.norm(activity.reshape(c.num_kv_heads, -1), axis=1)


def most(scores: np.ndarray, n: int) -> np.ndarray:  # (M,) -> (n,)
    """The places of the n highest scores, in rising order; of equal ones the first."""
    return np.sort(np.argsort(-scores, kind="stable")[:n])


# Keeping parts.


def keep_neurons(model: Model, kept: Sequence[np.ndarray], ops: Ops) -> Model:
    """The model with only these neurons of each layer's MLP: rows of gate and up, columns of `down`.

    kept: of each layer the places, in rising order, as many in every layer. Raises SwitchError for a mixture of
    experts and for weights of a few bits, ValueError for places that are none.
    """
    c = model.config
    check_places(kept, c.intermediate_size, c)
    check_can_narrow(c, width=1.0)
    check_floats(model)
    layers = []
    for layer, neurons in zip(model.layers, kept, strict=True):
        gated = isinstance(layer.mlp, GatedMLP)
        first, rows = ("gate_up", np.append(neurons, c.intermediate_size + neurons)) if gated else ("up", neurons)
        layers.append(_selected(layer, ops, rows={first: rows}, columns={"down": neurons}))
    return replace(model, config=replace(c, intermediate_size=len(kept[0])), layers=tuple(layers))


def keep_heads(model: Model, kept: Sequence[np.ndarray], ops: Ops) -> Model:
    """The model with only these key/value heads of each layer, each with the query heads that share it.

    kept: of each layer the places, in rising order, as many in every layer. E and the scale of scores stay. Raises
    SwitchError for a mixture of experts, for norms over all heads and for weights of a few bits, ValueError for places
    that are none.
    """
    c = model.config
    check_places(kept, c.num_kv_heads, c)
    check_can_narrow(c, kv_heads=len(kept[0]))
    check_floats(model)
    layers = tuple(_with_heads(layer, groups, ops) for layer, groups in zip(model.layers, kept, strict=True))
    k, h = len(kept[0]), len(kept[0]) * c.num_heads // c.num_kv_heads
    return replace(model, config=replace(c, num_heads=h, num_kv_heads=k), layers=layers)


def keep_hidden(model: Model, kept: np.ndarray, ops: Ops) -> Model:  # (d,) ->
    """The model with only these d numbers of its width, the same ones in all layers, in rising order.

    An embedding that is multiplied by sqrt(D), as Gemma's, is multiplied by sqrt(d) from then on, as the family
    demands: its table, and a tied head's norm, make up for that. Raises SwitchError for a mixture of experts and for
    weights of a few bits, ValueError for places that are none.
    """
    c = model.config
    check_places([kept], c.hidden_size, None)
    check_can_narrow(c, hidden=len(kept))
    check_floats(model)
    scale, made_up = _scales(c, len(kept))
    table, old, positions = model.embedding.table, model.head.weight, model.embedding.positions
    new = take_floats(floats(table)[:, kept] * made_up, ops)
    if positions is not None:
        positions = ops.take_array(to_host(positions)[:, kept])
    final, head = norm_of(model.final_norm, kept, ops), new
    if old is not table:
        head = take_floats(floats(old)[:, kept], ops)
    elif made_up != 1:
        final = divide_norm(final, made_up)
    return replace(
        model,
        config=replace(c, hidden_size=len(kept), embedding_scale=scale),
        embedding=Embedding(new, positions, scale),
        layers=tuple(_with_width(layer, kept, ops) for layer in model.layers),
        final_norm=final,
        head=replace(model.head, weight=head),
    )


def check_places(kept: Sequence[np.ndarray], total: int, c: ModelConfig | None) -> None:
    """Raises ValueError unless these are places 0 ... total-1 in rising order, as many in each layer.

    c: of the model whose layers they are; None: they are those of no layer.
    """
    if c and len(kept) != c.num_layers:
        raise ValueError(f"kept has {len(kept)} entries, but the model has {c.num_layers} layers")
    if len({len(places) for places in kept}) != 1 or not len(kept[0]):
        raise ValueError("kept must hold as many places for each layer, and at least one")
    for places in kept:
        if (np.diff(places) <= 0).any() or places[0] < 0 or places[-1] >= total:
            raise ValueError(f"kept={places.tolist()} must be some of the places 0 to {total - 1}, in rising order")


def take_floats(array: np.ndarray, ops: Ops) -> Weight:  # (N, M) ->
    """These floats as a weight of the backend."""
    return ops.take(Floats("a weight in memory", array))


def norm_of(norm: Norm, kept: np.ndarray, ops: Ops) -> Norm:  # (n,) ->
    """The norm over only these n numbers, or heads of queries and keys."""
    if isinstance(norm, NoNorm):
        return norm
    if isinstance(norm, FullQKNorm):
        raise TypeError("a norm over all heads cannot be cut")  # refused before
    weight = ops.take_array(to_host(norm.weight)[kept])
    if isinstance(norm, LayerNorm):
        return LayerNorm(weight, ops.take_array(to_host(norm.bias)[kept]), norm.eps)
    return RMSNorm(weight, norm.eps)


def _selected(layer: Layer, ops: Ops, rows: dict[str, np.ndarray], columns: dict[str, np.ndarray]) -> Layer:
    """The layer with only these outputs and these inputs of its matrices, by name; biases have the outputs, too."""
    new: dict[str, Any] = {}
    for name, held in layer_matrices(layer).items():
        if name not in rows and name not in columns:
            continue
        assert isinstance(held, Linear)
        array, bias = floats(held.weight), held.bias
        if name in rows:
            array = array[rows[name]]
            bias = None if bias is None else ops.take_array(to_host(bias)[rows[name]])
        if name in columns:
            array = array[:, columns[name]]
        new[name] = Linear(take_floats(array, ops), bias)
    return with_matrices(layer, new)


def _with_heads(layer: Layer, groups: np.ndarray, ops: Ops) -> Layer:  # (n,) ->
    """The layer with only these n key/value heads and the query heads that share them."""
    assert isinstance(layer.mixer, GroupedQuery)
    heads = layer.mixer.heads
    share = heads.queries // heads.keys  # H/K
    queries = numbers_of(groups, share)  # (n*H/K,): the heads of `qkv`, first the queries'
    keys, values = heads.queries + groups, heads.queries + heads.keys + groups  # (n,), (n,)
    qkv, o = numbers_of(np.concatenate((queries, keys, values)), heads.size), numbers_of(queries, heads.size)
    layer = _selected(layer, ops, rows={"qkv": qkv}, columns={"o": o})
    assert isinstance(layer.mixer, GroupedQuery)
    mixer = replace(
        layer.mixer,
        heads=_fewer(heads, groups, ops),
        qk_norm=norm_of(layer.mixer.qk_norm, np.concatenate((queries, keys)), ops),
    )
    return replace(layer, mixer=mixer)


def _fewer(heads: Heads, groups: np.ndarray, ops: Ops) -> Heads:  # (n,) ->
    """The heads of these n groups, with their sinks."""
    sinks = heads.sinks
    if isinstance(sinks, Sinks):
        sinks = Sinks(ops.take_array(to_host(sinks.scores)[groups]))
    return replace(heads, queries=len(groups) * heads.queries // heads.keys, keys=len(groups), sinks=sinks)


def numbers_of(parts: np.ndarray, size: int) -> np.ndarray:  # (n,) -> (n*size,)
    """The places of all numbers of these n parts, which are `size` numbers each."""
    return (parts[:, None] * size + np.arange(size)).reshape(-1)


def _with_width(layer: Layer, kept: np.ndarray, ops: Ops) -> Layer:  # (d,) ->
    """The layer with only these d numbers of the model width: columns of what reads rows, rows of what changes them."""
    layer = _selected(layer, ops, rows=dict.fromkeys(("o", "down"), kept),
                      columns=dict.fromkeys(("qkv", "gate_up", "up"), kept))  # fmt: skip
    norms = {field.name: getattr(layer, field.name) for field in fields(layer) if field.name.endswith("_norm")}
    new: dict[str, Any] = {name: norm_of(norm, kept, ops) for name, norm in norms.items()}
    return replace(layer, **new)


def _scales(c: ModelConfig, d: int) -> tuple[float, np.float32]:
    """The embedding's scale once the width is d, and the factor of its table that makes up for the change."""
    if c.embedding_scale != float(np.float32(c.hidden_size**0.5)):
        return c.embedding_scale, np.float32(1)
    new = float(np.float32(d**0.5))
    return new, np.float32(c.embedding_scale / new)
