"""A layer: the changes that two sub-layers, attention and an MLP, make to each row. Two kinds, called alike.

`SerialLayer`, the rule: the MLP reads what attention has changed (Vaswani et al. 2017, section 3.1). `ParallelLayer`:
both read the same rows, as in GPT-NeoX (Black et al. 2022, section 2.1.2). Wins: both could run at the same time.
Loses: a little quality in models of 8 billion parameters, none in larger ones (Chowdhery et al. 2022, section 2).

Norms stand before a sub-layer, as in Llama, after it, as in OLMo-2, or on both sides, as in Gemma: where a family has
none, there is a `NoNorm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tinyinfer.arrays import Array
from tinyinfer.model.mlp import MLP
from tinyinfer.model.weights import Norm

if TYPE_CHECKING:
    from tinyinfer.model.interfaces import KVCache, Ops
    from tinyinfer.sequence import Batch


class Mixer(Protocol):
    """What moves information between the rows of a sequence (attention.py); every kind is called alike."""

    @property
    def nbytes(self) -> int:
        """Bytes of weights held in memory."""

    def __call__(
        self, x: Array, rotations: list[tuple[Array, Array]], layer: int, batch: Batch, cache: KVCache, ops: Ops
    ) -> Array:  # (T, D) -> (T, D)
        """The change that the mixer makes to each row; what the mixer must remember of the rows goes to the cache.

        rotations: of each of the model's rotations the cosines and sines, (T, 1, E) and (T, 1, E).
        """


@dataclass(frozen=True)
class SerialLayer:
    """Attention, then the MLP on its result. scale: multiplies each change (Granite)."""

    attention_norm: Norm
    mixer: Mixer
    post_attention_norm: Norm
    mlp_norm: Norm
    mlp: MLP
    post_mlp_norm: Norm
    scale: float

    @property
    def nbytes(self) -> int:
        norms = self.attention_norm, self.post_attention_norm, self.mlp_norm, self.post_mlp_norm
        return sum(norm.nbytes for norm in norms) + self.mixer.nbytes + self.mlp.nbytes

    def __call__(
        self, x: Array, rotations: list[tuple[Array, Array]], layer: int, batch: Batch, cache: KVCache, ops: Ops
    ) -> Array:  # (T, D) -> (T, D)
        """The rows after both changes. x is used up: a backend may add to x in place."""
        h = self.mixer(ops.norm(x, self.attention_norm), rotations, layer, batch, cache, ops)  # (T, D)
        x = ops.add(x, ops.norm(h, self.post_attention_norm), self.scale)  # (T, D)
        h = self.mlp(ops.norm(x, self.mlp_norm), ops)  # (T, D)
        return ops.add(x, ops.norm(h, self.post_mlp_norm), self.scale)


@dataclass(frozen=True)
class ParallelLayer:
    """Attention and the MLP side by side: x + attention(norm(x)) + mlp(another norm(x))."""

    attention_norm: Norm
    mixer: Mixer
    mlp_norm: Norm
    mlp: MLP
    scale: float

    @property
    def nbytes(self) -> int:
        return self.attention_norm.nbytes + self.mixer.nbytes + self.mlp_norm.nbytes + self.mlp.nbytes

    def __call__(
        self, x: Array, rotations: list[tuple[Array, Array]], layer: int, batch: Batch, cache: KVCache, ops: Ops
    ) -> Array:  # (T, D) -> (T, D)
        """The rows after both changes. x is used up: a backend may add to x in place."""
        mixed = self.mixer(ops.norm(x, self.attention_norm), rotations, layer, batch, cache, ops)  # (T, D)
        h = self.mlp(ops.norm(x, self.mlp_norm), ops)  # (T, D): before x changes
        return ops.add(ops.add(x, mixed, self.scale), h, self.scale)


Layer = SerialLayer | ParallelLayer
