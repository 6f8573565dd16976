"""All parameters of a model in one flat array, and all of their gradients in another one.

The model is made anew with views of the flat array as its weights, so a change of the flat array is a change of the
model. Then an optimizer's step is one formula over one array, the length of all gradients is one sum, and what a
training run must keep are three arrays. (DistributedDataParallel and DeepSpeed flatten parameters, too: Rasley et al.
2020.) A matrix that is used twice, as a tied table is, lies there once.

Wins: a model of 200 small arrays would otherwise cost 200 times what a launch costs. Loses: a parameter cannot be added
or left out later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self

import numpy as np

from tinyinfer.arrays import Array, Xp
from tinyinfer.distillation.tape import Tape, dense
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.heads import Heads
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import Dense, Rotation, Weight

FIXED = (ModelConfig, Heads, Rotation)  # parts of a model that hold no parameter


@dataclass(frozen=True)
class Parameters:
    """A model whose parameters are views of `values`; the same views of `gradients` are theirs.

    Matrices come first: `decayed` is how many numbers they have, which alone a weight decay pulls at.
    """

    model: Model
    values: Array  # (P,) float32
    gradients: Array  # (P,) float32
    decayed: int

    @classmethod
    def of(cls, model: Model, tape: Tape) -> Self:
        """A copy of the model's parameters, whose gradients the tape will add up here.

        Raises ValueError for a model that is not float32 in plain arrays.
        """
        xp, found = tape.xp, sorted(parameters(model), key=lambda array: array.ndim < 2)
        sizes = [array.size for array in found]
        ends = np.cumsum([0, *sizes]).tolist()
        values = xp.empty(ends[-1], np.float32)  # (P,)
        gradients = xp.zeros(ends[-1], np.float32)  # (P,)
        views: dict[int, Array] = {}
        for array, start, stop in zip(found, ends, ends[1:], strict=False):
            view = views[id(array)] = shaped(values[start:stop], array)  # (...,)
            view[...] = array
        held: dict[int, Dense] = {}

        def moved(part: Any) -> Any:
            if not isinstance(part, Dense):
                return views[id(part)]
            return held.setdefault(id(part.array), Dense(views[id(part.array)]))

        new = mapped(model, moved)
        kept = {id(array): array for array in found}  # the ids stay taken until the end
        for key, start, stop in zip(kept, ends, ends[1:], strict=False):
            parameter = held.get(key, views[key])
            tape.weights[id(parameter)] = parameter, shaped(gradients[start:stop], kept[key])
        decayed = sum(array.size for array in found if array.ndim > 1)
        return cls(new, values, gradients, decayed)

    def mask(self, xp: Xp) -> Array:  # -> (P,)
        """1 where a matrix has a weight other than zero, and for all vectors; else 0."""
        mask = (self.values != 0).astype(np.float32)  # (P,)
        mask[self.decayed :] = 1
        return mask


def shaped(flat: Array, like: Array) -> Array:  # (n,), (...,) -> (...,)
    """A view of n numbers in the shape of an array and, of a matrix, in its order of rows and columns."""
    if like.ndim == 2 and like.strides[0] < like.strides[1]:
        return flat.reshape(like.shape[::-1]).T
    return flat.reshape(like.shape)


def parameters(model: Model) -> Iterator[Array]:
    """Every array of the model that is learned, each once. Raises ValueError for a weight that is no float32 array."""
    found: dict[int, Array] = {}

    def note(part: Any) -> Any:
        array = part.array if isinstance(part, Dense) else part
        found.setdefault(id(array), array)
        return part

    mapped(model, note)
    yield from found.values()


def mapped(part: Any, change: Callable[[Any], Any]) -> Any:
    """The part of a model with each Dense weight, and each array of a norm or a bias, replaced by what change gives."""
    if isinstance(part, FIXED):
        return part
    if isinstance(part, tuple):
        return tuple(mapped(one, change) for one in part)
    if hasattr(part, "dequantize"):
        weight: Weight = part
        return change(dense(weight))
    if is_dataclass(part) and not isinstance(part, type):
        new: dict[str, Any] = {field.name: mapped(getattr(part, field.name), change) for field in fields(part)}
        return replace(part, **new)
    return change(part) if hasattr(part, "ndim") and hasattr(part, "dtype") and part.ndim else part
