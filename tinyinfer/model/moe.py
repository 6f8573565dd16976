"""Mixture of experts: many MLPs in a layer, of which a router picks a few for each row (Shazeer et al. 2017).

Idea: parameters grow, work per token does not. Each chosen expert is multiplied once with all the rows that chose it,
and an expert that no row chose is neither computed nor read. Wins: one sequence decoding reads k of X experts' bytes.
Loses: a batch soon touches every expert, so the saving in bytes fades while all experts still take their memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinyinfer.arrays import Array, Xp
from tinyinfer.model.config import MoEConfig
from tinyinfer.model.mlp import GatedMLP
from tinyinfer.model.weights import Experts, Linear

if TYPE_CHECKING:
    from tinyinfer.model.interfaces import Ops


@dataclass(frozen=True)
class MoE:
    """X gated experts and their router; in gpt-oss all have biases."""

    router: Linear  # (D) -> (X)
    gate_up: Experts  # X times (D) -> (2F)
    down: Experts  # X times (F) -> (D)
    activation: str
    config: MoEConfig

    @property
    def nbytes(self) -> int:
        return self.router.nbytes + self.gate_up.nbytes + self.down.nbytes

    def __call__(self, x: Array, ops: Ops) -> Array:  # (T, D) -> (T, D)
        """The sum of each row's chosen experts, weighted by the router."""
        chosen, weights = route(ops.linear(x, self.router), self.config, ops.xp)  # (T, k), (T, k)
        return ops.experts(x, chosen, weights, self.gate_up, self.down, self.activation)


@dataclass(frozen=True)
class SharedMoE(MoE):
    """A mixture beside one expert that every row uses, weighted by a sigmoid of its own (Qwen2-MoE, Qwen Team 2024)."""

    shared_router: Linear  # (D) -> (1)
    shared_gate_up: Linear  # (D) -> (2F)
    shared_down: Linear  # (F) -> (D)

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.shared_router.nbytes + self.shared_gate_up.nbytes + self.shared_down.nbytes

    def __call__(self, x: Array, ops: Ops) -> Array:  # (T, D) -> (T, D)
        """The sum of the chosen experts, and of the shared one times sigmoid(its router)."""
        routed = super().__call__(x, ops)  # (T, D)
        half = ops.linear(x, self.shared_router) * ops.xp.float32(0.5)  # (T, 1)
        weight = (ops.xp.tanh(half) + ops.xp.float32(1)) * ops.xp.float32(0.5)  # (T, 1): a sigmoid without overflow
        shared = GatedMLP(self.shared_gate_up, self.shared_down, self.activation)(x, ops)  # (T, D)
        return routed + weight * shared


def route(logits: Array, moe: MoEConfig, xp: Xp) -> tuple[Array, Array]:  # (T, X) -> (T, k), (T, k)
    """Each row's k experts, best first, and their weights: a softmax over all experts, then the top k of it.

    Renormalized, the weights are a softmax over the top k alone: what gpt-oss computes.
    """
    p = xp.exp(logits - logits.max(axis=1, keepdims=True))  # (T, X)
    p /= p.sum(axis=1, keepdims=True)
    chosen = xp.argsort(-p, axis=1, kind="stable")[:, : moe.experts_per_token]  # (T, k); of equal ones the first
    weights = xp.take_along_axis(p, chosen, axis=1)  # (T, k)
    if moe.renormalize:
        weights = weights / weights.sum(axis=1, keepdims=True)  # (T, k)
    return chosen, weights
