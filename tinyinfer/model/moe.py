"""Mixture of experts: many MLPs in a layer, of which a router picks a few for each token (Shazeer et al. 2017).

Idea: parameters grow, work per token does not. Rows are sorted by expert, so each chosen expert is multiplied once
with all its rows, and an expert that nobody chose is neither computed nor read. Wins: one sequence decoding reads k
of X experts' bytes. Loses: a batch soon touches every expert, so the saving in bytes fades while all experts still
take their memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinyinfer.arrays import Array
from tinyinfer.backends.packed import QuantizedExperts
from tinyinfer.model.config import MoEConfig
from tinyinfer.model.weights import Experts, Linear

if TYPE_CHECKING:
    from tinyinfer.model.interfaces import Ops


@dataclass(frozen=True)
class MoE:
    """X gated experts and their router."""

    router: Linear  # (D) -> (X)
    gate_up: Experts | QuantizedExperts  # X times (D) -> (2F)
    down: Experts | QuantizedExperts  # X times (F) -> (D)
    activation: str
    experts: MoEConfig

    @property
    def nbytes(self) -> int:
        """Bytes of weights held in memory."""
        return self.router.nbytes + self.gate_up.nbytes + self.down.nbytes

    def __call__(self, x: Array, ops: Ops) -> Array:  # (T, D) -> (T, D)
        """The sum of each row's chosen experts, weighted by the router."""
        chosen, weights = route(ops.linear(x, self.router), self.experts, ops.xp)
        order, starts = group_by_expert(chosen, len(self.gate_up), ops.xp)
        ops.ledger.expert_rows += len(order)
        ops.ledger.experts_read += int((starts[1:] > starts[:-1]).sum())
        rows = order // chosen.shape[1]  # which row of x each sorted pair came from
        h = ops.gate(ops.expert_linear(x[rows], self.gate_up, starts), self.activation)
        h = ops.expert_linear(h, self.down, starts) * weights.reshape(-1)[order, None]
        back = ops.xp.empty_like(h)
        back[order] = h  # pairs in the order of rows again: (T·k, D)
        return back.reshape(*chosen.shape, -1).sum(axis=1)


def route(logits: Array, moe: MoEConfig, xp: Array) -> tuple[Array, Array]:  # (T, X) -> (T, k), (T, k)
    """Each row's k experts, best first, and their weights: a softmax over all experts, then the top k of it."""
    p = xp.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    chosen = xp.argsort(-p, axis=1, kind="stable")[:, : moe.experts_per_token]
    weights = xp.take_along_axis(p, chosen, axis=1)
    if moe.renormalize:
        weights = weights / weights.sum(axis=1, keepdims=True)
    return chosen, weights


def group_by_expert(chosen: Array, num_experts: int, xp: Array) -> tuple[Array, Array]:  # (T, k) -> (T*k,), (X+1,)
    """The order that sorts (row, choice) pairs by expert, and where each expert's pairs start in it."""
    flat = chosen.reshape(-1)
    order = xp.argsort(flat, kind="stable")
    starts = xp.searchsorted(flat[order], xp.arange(num_experts + 1))
    return order, starts
