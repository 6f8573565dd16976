"""The compiled forward pass: what the engine gets from `Ops.compile` when kernels cover its model and cache.

A pass, read aloud: find the plan for so many rows, tell the kernels the batch, run the plan, count. The plan of each
number of rows is made once; those of long prompts take much memory, and only the newest of them stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from collections.abc import Sequence as Seq
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np

from tinyinfer.backends.compiling import compiling
from tinyinfer.backends.counts import Counts, count_experts
from tinyinfer.backends.cpu_kernels.crew import Crew
from tinyinfer.backends.cpu_kernels.embed import looked_up
from tinyinfer.backends.cpu_kernels.ends import joined
from tinyinfer.backends.cpu_kernels.pass_data import PassData
from tinyinfer.backends.cpu_kernels.pass_plan import Planner
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.rotations import RotationTable
from tinyinfer.backends.cpu_kernels.team import compute, serve, team
from tinyinfer.model.interfaces import HOST, Sampled
from tinyinfer.model.transformer import Model
from tinyinfer.sampling import is_changed
from tinyinfer.sequence import Batch, Wanted

LONG = 32  # rows from which on a pass takes so long that it is run layer by layer, for Ctrl-C to be heard
USUAL = 8  # rows of a sequence with drafts for which plans are made at once
KEPT = 64 << 20  # bytes that the plans of fewer rows may hold together, beside the newest one


class Pass:
    """The plan for T rows of which R want logits, and where its numbers go."""

    def __init__(self, model: Model, rows: int, wanted: int, threads: int, cache: Any) -> None:
        self.data = PassData(rows, cache, threads)
        self.planner = Planner(model, rows, wanted, threads, self.data)

    @cached_property
    def plan(self) -> Plan:
        """The launches as a table; whatever is not compiled yet is."""
        return Plan(self.planner.launches)

    @property
    def nbytes(self) -> int:
        """Bytes of the plan's rows and scratch memory."""
        return self.planner.buffers.nbytes + self.planner.head_buffers.nbytes

    @property
    def logits(self) -> np.ndarray:  # -> (R, V)
        """The logits of the newest pass; the next one overwrites them."""
        rows = self.planner.logits
        return rows.array[:, : rows.width]


def compile_pass(model: Model, cache: Any, ops: Any, rows: int) -> CompiledPass | None:
    """The compiled forward pass for a model and a cache. rows: of one sequence in a pass; plans of some are made.

    None for kv_cache=none, which keeps nothing to be read, and for an embedding that no kernel looks up.
    """
    return CompiledPass(model, cache, ops, rows) if cache.can_chunk and looked_up(model.embedding) else None


class CompiledPass:
    """A forward pass over any batch of one model, with one cache."""

    def __init__(self, model: Model, cache: Any, ops: Any, rows: int = 1) -> None:
        self.model, self.cache, self.ops, self.rows, self.ledger = model, cache, ops, rows, ops.ledger
        self.counts = Counts(model)
        self.tables = [RotationTable(rotation, ops.cos_sin) for rotation in model.rotations]
        self.crew = Crew(ops.threads)
        self._passes: OrderedDict[tuple[int, int], Pass] = OrderedDict()
        self._newest: Pass | None = None
        self._compile()

    def _compile(self) -> None:
        """Compiles the kernels of a short and of a long pass, so that no token waits for them, and a user is told."""
        both = [Pass(self.model, rows, 1, self.ops.threads, self.cache) for rows in (1, LONG)]
        launches = [launch for one in both for launch in one.planner.launches]
        for kernel in compiling.each([serve, compute, *dict.fromkeys(launch.kernel for launch in launches)]):
            kernel.ready()
        for rows in range(2, min(self.rows, USUAL) + 1):  # with drafts: a plan takes as long as a pass, which is timed
            _ = self._pass(rows, rows).plan

    def __reduce__(self) -> tuple[type[CompiledPass], tuple[Model, Any, Any, int]]:
        """A copy plans anew: a plan holds addresses, and those of a copied model are others."""
        return CompiledPass, (self.model, self.cache, self.ops, self.rows)

    def forward(self, batch: Batch) -> np.ndarray:  # (T,) -> (R, V)
        """The logits that the batch asks for, until the next pass."""
        one = self._newest = self._pass(len(batch), len(batch.logit_rows))
        planner = one.planner
        planner.tokens[:], planner.wanted[:] = batch.tokens, batch.logit_rows
        sets = batch.rotation_sets  # (T,)
        for table, (cos, sin) in zip(self.tables, planner.turns, strict=True):
            table.fill(batch.positions, sets, cos, sin)
        one.data.load(batch, self.cache)
        one.plan.refresh()
        self._run(one)
        self.counts.count_products(batch, self.ledger)
        for mixture in planner.mixtures:
            count_experts(mixture.chosen, mixture.mlp.gate_up, mixture.mlp.down, self.ledger)
        self.counts.count_attention(batch, self.ledger, self.cache)
        self.cache.record_written(batch, len(self.model.layers))
        return one.logits

    def sample(self, logits: np.ndarray, wanted: Seq[Wanted]) -> Sampled:  # (R, V) ->
        """Greedy tokens and the ends of each row, which the kernels have found; the host draws all others."""
        if self._newest is None or not len(logits):
            return self.ops.sample(logits, wanted)
        return chosen(self._newest.planner.ends, self._newest.planner.ids, logits, wanted)

    def _run(self, one: Pass) -> None:
        rows, start = len(one.planner.tokens), 0
        for stop in one.planner.ends_of_layers if rows >= LONG else ():
            self._part(one, (rows, stop == one.planner.ends_of_layers[0]), start, stop)
            start = stop
        self._part(one, (rows, None), start, None)

    def _part(self, one: Pass, work: Hashable, start: int, stop: int | None) -> None:
        """Runs launches of a pass on as many threads as have proved best; times of the same work are compared."""
        begun = perf_counter()
        waited = team().run(one.plan, self.crew.size, start, stop)
        self.crew.record(work, perf_counter() - begun, waited)

    def _pass(self, rows: int, wanted: int) -> Pass:
        key = rows, wanted
        if key in self._passes:
            self._passes.move_to_end(key)
            return self._passes[key]
        if rows >= LONG:  # its arrays are large: those of the last one go first
            for old in [old for old in self._passes if old[0] >= LONG]:
                del self._passes[old]
        else:
            drop_oldest(self._passes)
        self._passes[key] = Pass(self.model, rows, wanted, self.ops.threads, self.cache)
        return self._passes[key]


def drop_oldest(passes: OrderedDict[Any, Any]) -> None:
    """Drops the passes that were used longest ago, until the others hold no more than KEPT bytes."""
    while passes and sum(one.nbytes for one in passes.values()) > KEPT:
        passes.popitem(last=False)


def chosen(
    ends: np.ndarray, ids: np.ndarray, logits: np.ndarray, wanted: Seq[Wanted]
) -> Sampled:  # (R, 8, 2), (R, 8), (R, V) ->
    """Greedy tokens and the ends of each row, from those of its parts; the host draws all others."""
    tokens, low, high = joined(ends, ids)
    host = [left_to_host(params) for params, *_ in wanted]
    return Sampled(np.where(host, HOST, tokens), low, high, logits)


def left_to_host(params: Any) -> bool:
    """Whether only the host can choose: it draws, and it knows penalties and log-probabilities."""
    return params.temperature > 0 or is_changed(params) or params.logprobs is not None
