"""The feed-forward sub-layer: every row by itself, where two thirds of a dense model's weights are.

Three kinds, called alike: gated (Shazeer 2020, GLU Variants Improve Transformer), plain (GPT-2), and a mixture of
experts (moe.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tinyinfer.arrays import Array
from tinyinfer.model.weights import Linear

if TYPE_CHECKING:
    from tinyinfer.model.interfaces import Ops


class MLP(Protocol):
    """The part of a layer that changes each row by itself; every kind is called alike."""

    @property
    def nbytes(self) -> int:
        """Bytes of weights held in memory."""

    def __call__(self, x: Array, ops: Ops) -> Array:  # (T, D) -> (T, D)
        """The change that this MLP makes to each row."""


@dataclass(frozen=True)
class GatedMLP:
    """down(act(gate(x)) · up(x)), with gate and up in one product (Shazeer 2020, equation 6)."""

    gate_up: Linear  # (D) -> (2F)
    down: Linear  # (F) -> (D)
    activation: str

    @property
    def nbytes(self) -> int:
        return self.gate_up.nbytes + self.down.nbytes

    def __call__(self, x: Array, ops: Ops) -> Array:  # (T, D) -> (T, D)
        return ops.linear(ops.gate(ops.linear(x, self.gate_up), self.activation), self.down)


@dataclass(frozen=True)
class PlainMLP:
    """down(act(up(x))), as in GPT-2 (Radford et al. 2019)."""

    up: Linear  # (D) -> (F)
    down: Linear  # (F) -> (D)
    activation: str

    @property
    def nbytes(self) -> int:
        return self.up.nbytes + self.down.nbytes

    def __call__(self, x: Array, ops: Ops) -> Array:  # (T, D) -> (T, D)
        return ops.linear(ops.activate(ops.linear(x, self.up), self.activation), self.down)
