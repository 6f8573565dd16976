"""Draft heads of random weights, for any model and on any operations, and what they draft by the formulas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from helpers import finish, request

from tinyinfer.engine.engine import Engine
from tinyinfer.ledger import Ledger
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


def watched(engine: Engine, seen: list[tuple[list[int], np.ndarray, list[int]]]) -> Engine:
    """Notes of each proposal: the known tokens, the values of the newest computed position, and the drafts."""
    drafter: Any = engine.drafter
    propose, layers = drafter.propose, drafter.head.shape.layers

    def look(sequences: list[Any]) -> None:
        before = [seq for seq in sequences if not seq.drafts]
        propose(sequences)
        cache = engine.cache.counting(Ledger())  # a copy, whose arrays are those of now
        for seq in before:
            if seq.drafts:
                at = len(seq.tokens) - 2
                values = [cache.read(layer, seq, at, at + 1)[1].flatten() for layer in layers]
                seen.append((list(seq.tokens), np.concatenate(values), [draft.token for draft in seq.drafts]))

    drafter.propose = look
    return engine


def naive(head: DraftHead, table: np.ndarray, values: np.ndarray, newest: int, n: int) -> list[int]:
    """The drafts by the formulas, in float64, one number after the other."""

    def normed(x: np.ndarray, norm: Any) -> np.ndarray:
        return x / np.sqrt((x * x).mean() + norm.eps) * norm.weight

    def times(x: np.ndarray, linear: Any) -> np.ndarray:
        return x @ linear.weight.dequantize(slice(0, linear.weight.shape[0])).astype(np.float64)

    state, found = values.astype(np.float64), []
    for i in range(n):
        part = head.state if i else head.values
        x = times(normed(state, part.norm), part.linear)
        x = x + times(normed(table[found[-1] if found else newest], head.token.norm), head.token.linear)
        gate, up = np.split(times(normed(x, head.mlp_norm), head.mlp.gate_up), 2)
        state = x + times(gate / (1 + np.exp(-gate)) * up, head.mlp.down)
        found.append(int(times(normed(state, head.final_norm), head.head).argmax()))
    return found


def assert_by_the_formulas(engine: Engine, prompts: Iterable[list[int]]) -> None:
    """All drafts of an engine for these prompts are those of the formulas."""
    seen: list[tuple[list[int], np.ndarray, list[int]]] = []
    finish(watched(engine, seen), *(request(prompt, 12) for prompt in prompts))
    drafter: Any = engine.drafter
    embedding, size = engine.model.embedding, engine.model.config.vocab_size
    table = embedding.table.dequantize(slice(0, size)).T.astype(np.float64) * embedding.scale  # (V, D)
    assert len(seen) > 10
    assert max(len(drafts) for *_, drafts in seen) > 2
    for tokens, values, drafts in seen:
        assert drafts == naive(drafter.head, table, values, tokens[-1], len(drafts))
