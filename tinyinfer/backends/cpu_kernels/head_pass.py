"""The compiled pass of a draft head: what a drafter gets from `Ops.compile_head`.

A draft of a head is five products. Operation by operation each of them would be planned anew, and Python would take as
long as the products. So a pass is a plan, as the target's is (pass_plan.py), made once for each number of sequences,
for the first draft and for those behind it. Formula: model/draft_head.py. Limited by memory: of the bytes of a draft
two thirds are the rows of the target's head.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Seq
from functools import cached_property
from math import prod
from time import perf_counter
from typing import Any

import numpy as np

from tinyinfer.backends.compiling import compiling
from tinyinfer.backends.counts import row_bytes
from tinyinfer.backends.cpu_kernels.buffers import Buffers, Rows
from tinyinfer.backends.cpu_kernels.crew import Crew
from tinyinfer.backends.cpu_kernels.embed import embed, looked_up
from tinyinfer.backends.cpu_kernels.ends import ends_of
from tinyinfer.backends.cpu_kernels.gate import gate
from tinyinfer.backends.cpu_kernels.kernel import Launch
from tinyinfer.backends.cpu_kernels.norms import norm
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.products import product
from tinyinfer.backends.cpu_kernels.step import LONG, chosen, drop_oldest
from tinyinfer.backends.cpu_kernels.team import compute, serve, team
from tinyinfer.model.draft_head import DraftHead, Normed
from tinyinfer.model.interfaces import Sampled
from tinyinfer.model.weights import Embedding, Linear
from tinyinfer.sequence import Wanted


class HeadPass:
    """The plan for R sequences. first: for the draft behind the target's values, not behind a state."""

    def __init__(self, head: DraftHead, embedding: Embedding, rows: int, threads: int, first: bool) -> None:
        self.buffers = Buffers(rows, threads)
        self.tokens, self.positions = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        part, width = head.values if first else head.state, head.token.linear.weight.shape[0]
        self.before = self.rows("before", part.linear.weight.shape[1])
        self.state, token, h = self.rows("state", width), self.rows("token", width), self.rows("h", width)
        gated = self.rows("gated", head.mlp.down.weight.shape[1])
        both = self.rows("gate_up", head.mlp.gate_up.weight.shape[0])
        self.logits = self.rows("logits", head.head.weight.shape[0])
        ends, self.ends, self.ids = ends_of(self.logits, self.buffers)
        self.launches = [
            *norm(self.before, self.rows("normed", self.before.width), part.norm),
            *self.product(part.linear, self.rows("normed", self.before.width), self.state),
            *embed(embedding, self.tokens, self.positions, token),
            *norm(token, h, head.token.norm),
            *self.product(head.token.linear, h, self.state, 1.0),
            *norm(self.state, h, head.mlp_norm),
            *self.product(head.mlp.gate_up, h, both),
            *gate(both, gated, head.mlp.activation),
            *self.product(head.mlp.down, gated, self.state, 1.0),
            *norm(self.state, h, head.final_norm),
            *self.product(head.head, h, self.logits),
            *ends,
        ]

    @cached_property
    def plan(self) -> Plan:
        """The launches as a table; whatever is not compiled yet is."""
        return Plan(self.launches)

    @property
    def nbytes(self) -> int:
        """Bytes of the plan's rows and scratch memory."""
        return self.buffers.nbytes

    def rows(self, name: str, width: int) -> Rows:
        """A row of so many numbers for each sequence."""
        return self.buffers.rows(name, width)

    def product(self, linear: Linear, x: Rows, y: Rows, add: float | None = None) -> list[Launch]:
        """y = x Wᵀ + bias, or y += add · (x Wᵀ + bias)."""
        return product(linear.weight, x, y, self.buffers, linear.bias, add)


def compile_head(head: DraftHead, embedding: Embedding, ops: Any) -> HeadPasses | None:
    """The compiled pass of a head; None for an embedding that no kernel looks up."""
    return HeadPasses(head, embedding, ops) if looked_up(embedding) else None


def read_of(head: DraftHead, part: Normed) -> tuple[int, int]:
    """Bytes that a draft reads beside its rows of the embedding, and how many weights multiply each row."""
    norms = part.norm, head.token.norm, head.mlp_norm, head.final_norm
    linears = part.linear, head.token.linear, head.mlp.gate_up, head.mlp.down, head.head
    return sum(one.nbytes for one in (*norms, *linears)), sum(prod(one.weight.shape) for one in linears)


class HeadPasses:
    """The passes of one head, for any number of sequences."""

    def __init__(self, head: DraftHead, embedding: Embedding, ops: Any) -> None:
        self.head, self.embedding, self.ops = head, embedding, ops
        self.crew = Crew(ops.threads)
        self.read = {first: read_of(head, head.values if first else head.state) for first in (True, False)}
        self._passes: OrderedDict[tuple[int, bool], HeadPass] = OrderedDict()
        self._newest: HeadPass | None = None
        some = [HeadPass(head, embedding, rows, ops.threads, first) for rows in (1, LONG) for first in (True, False)]
        launches = [launch for one in some for launch in one.launches]
        for kernel in compiling.each([serve, compute, *dict.fromkeys(launch.kernel for launch in launches)]):
            kernel.ready()

    def __reduce__(self) -> tuple[type[HeadPasses], tuple[DraftHead, Embedding, Any]]:
        """A copy plans anew: a plan holds addresses, and those of a copied head are others."""
        return HeadPasses, (self.head, self.embedding, self.ops)

    def draft(
        self, before: np.ndarray, tokens: np.ndarray, positions: np.ndarray, first: bool
    ) -> tuple[np.ndarray, np.ndarray]:  # (R, M), (R,), (R,) -> (R, D), (R, N)
        """The states behind tokens, as a copy, and their logits until the next pass."""
        one = self._newest = self._pass(len(tokens), first)
        one.before.array[:, : one.before.width] = before
        one.tokens[:], one.positions[:] = tokens, positions
        begun = perf_counter()
        waited = team().run(one.plan, self.crew.size)
        self.crew.record((len(tokens), first), perf_counter() - begun, waited)
        nbytes, weights = self.read[first]
        self.ops.ledger.weight_bytes += nbytes + len(tokens) * row_bytes(self.embedding)
        self.ops.ledger.flops += 2 * len(tokens) * weights
        return one.state.array[:, : one.state.width].copy(), one.logits.array[:, : one.logits.width]

    def sample(self, logits: np.ndarray, wanted: Seq[Wanted]) -> Sampled:  # (R, N) ->
        """Greedy tokens and the ends of each row, which the kernels have found; the host draws all others."""
        assert self._newest is not None, "logits come from a pass"
        return chosen(self._newest.ends, self._newest.ids, logits, wanted)

    def _pass(self, rows: int, first: bool) -> HeadPass:
        if (rows, first) in self._passes:
            self._passes.move_to_end((rows, first))
            return self._passes[rows, first]
        drop_oldest(self._passes)
        self._passes[rows, first] = HeadPass(self.head, self.embedding, rows, self.ops.threads, first)
        return self._passes[rows, first]
