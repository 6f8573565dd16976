"""One walk over a model's matrices, for all that reads or replaces them: rounding, calibration, export, drafts.

A matrix has the name under which the model holds it (config.held_matrices): "layers.3.qkv", "layers.3.down", "head".
The model is never changed: a replacement makes a new model that shares all the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from tinyinfer.model.layers import Layer
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import Experts, Linear, Weight

Held = Linear | Experts


def matrices(model: Model) -> Iterator[tuple[str, Held]]:
    """Pairs (name, linear layer or experts): the layers' in order, before them the embedding, the head at the end.

    Where embedding and head are one matrix, the matrix comes once, as "head".
    """
    if model.embedding.table is not model.head.weight:
        yield "embedding", Linear(model.embedding.table)
    for i, layer in enumerate(model.layers):
        for name, held in layer_matrices(layer).items():
            yield f"layers.{i}.{name}", held
    yield "head", model.head


def map_matrices(model: Model, change: Callable[[str, Weight], Weight]) -> Model:
    """The model with each weight, an expert's by itself, replaced by what change(name, weight) makes of it."""
    layers = []
    for i, layer in enumerate(model.layers):
        new = {name: changed(f"layers.{i}.{name}", held, change) for name, held in layer_matrices(layer).items()}
        layers.append(with_matrices(layer, new))
    table, head = model.embedding.table, model.head.weight
    new_head = change("head", head)
    new_table = new_head if table is head else change("embedding", table)
    return replace(
        model,
        layers=tuple(layers),
        embedding=replace(model.embedding, table=new_table),
        head=replace(model.head, weight=new_head),
    )


def changed(name: str, held: Held, change: Callable[[str, Weight], Weight]) -> Held:
    """The linear layer, or the experts, with other weights."""
    if isinstance(held, Experts):
        return Experts(tuple(replace(linear, weight=change(name, linear.weight)) for linear in held.linears))
    return replace(held, weight=change(name, held.weight))


def weights(held: Held) -> tuple[Weight, ...]:
    """The weights of a matrix: one, or one for each expert."""
    return tuple(linear.weight for linear in (held.linears if isinstance(held, Experts) else (held,)))


def layer_matrices(layer: Layer) -> dict[str, Held]:
    """A layer's matrices by name, in the order in which inputs reach them."""
    return {name: held for part in (layer.mixer, layer.mlp) for name, held in _held(part).items()}


def with_matrices(layer: Layer, new: dict[str, Held]) -> Layer:
    """The layer with other matrices of these names."""
    parts: dict[str, Any] = {}
    for name in ("mixer", "mlp"):
        part: Any = getattr(layer, name)
        parts[name] = replace(part, **{key: held for key, held in new.items() if key in _held(part)})
    return replace(layer, **parts)


def _held(part: Any) -> dict[str, Held]:
    """The fields of a mixer or an MLP that are matrices."""
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return {name: value for name, value in values.items() if isinstance(value, Linear | Experts)}
