"""Draft heads of random weights, for any model and on any operations."""

from __future__ import annotations

import numpy as np

from tinyinfer.loading.checkpoint import Joined
from tinyinfer.loading.draft_heads import first_rows, in_memory
from tinyinfer.model.draft_head import DraftHead, HeadShape, Normed
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.mlp import GatedMLP
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import Linear, RMSNorm


def head_of(target: Model, ops: Ops, width: int = 12, unknown: int = 1) -> DraftHead:
    """A head that reads the first and the last layer of a target, and drafts all tokens but the last ones.

    width: of its MLP; unknown: how many tokens it does not draft.
    """
    layers, rng = tuple(sorted({0, target.config.num_layers - 1})), np.random.default_rng(3)
    shape = HeadShape.beside(target.config, layers, width, target.config.vocab_size - unknown)

    def linear(name: str) -> Linear:
        outputs, inputs = shape.matrices[name]
        w = rng.normal(0, inputs**-0.5, (outputs, inputs)).astype(np.float32)  # (N, M)
        return Linear(ops.take(Joined((in_memory(name, w),))))

    def norm(name: str) -> RMSNorm:
        return RMSNorm(ops.take_array(rng.uniform(0.5, 1.5, shape.norms[name]).astype(np.float32)), shape.norm_eps)

    values, state, token = (Normed(norm(f"{n}_norm"), linear(n)) for n in ("values", "state", "token"))
    mlp, rows = GatedMLP(linear("gate_up"), linear("down"), "silu"), first_rows(target.head, shape.tokens, ops)
    return DraftHead(shape, values, state, token, norm("mlp_norm"), mlp, norm("final_norm"), rows)
