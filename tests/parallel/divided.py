"""What the ranks of a divided model compute together, and say: stages, each of some ranks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from helpers import checkpoint_of, random_tensors, request

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine, build_engine
from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.kv_cache.contiguous import ContiguousCache
from tinyinfer.loading.build import build_model, load_model
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.interfaces import Ops
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.experts import Visits, exchange
from tinyinfer.parallel.lead import LeaderOps, follow
from tinyinfer.parallel.local import run_ranks
from tinyinfer.parallel.pipeline import Stage
from tinyinfer.parallel.tensor import TensorOps, divide
from tinyinfer.sequence import Batch, Span
from tinyinfer.speculative.base import DraftCost

Computes = Callable[[Comm], tuple[Comm, Ops]]


def on_host(comm: Comm) -> tuple[Comm, Ops]:
    """A rank that computes by NumPy."""
    return comm, NumpyOps(comm.ledger)


def together(ranks: int, config: ModelConfig, work: Callable[[Engine], Any], seed: int = 0, **given: Any) -> Any:
    """What work(engine) returns on the leader of `stages`, each of so many ranks that are threads; see `leader_of`."""
    stages = given.get("stages", 1)
    return run_ranks(ranks * stages, lambda comm: leader_of(comm, config, work, **given), seed)[0]


def leader_of(
    comm: Comm, config: ModelConfig, work: Callable[[Engine], Any], stages: int = 1, second: ModelConfig | None = None,
    tensors: dict[str, np.ndarray] | None = None, cost: DraftCost | None = None, computes: Computes = on_host,
    **switches: Any,
) -> Any:  # fmt: skip
    """What work(engine) returns on the first of these ranks; the others follow it. second: a draft model's.

    cost: of its drafts. computes: how a rank sends arrays, and its operations.
    """
    checkpoint = checkpoint_of(config, tensors or random_tensors(config))
    c = EngineConfig(tensor_parallel_size=comm.size // stages, pipeline_parallel_size=stages, **switches)
    comm, inner = computes(comm)
    stage = Stage(comm, stages)
    own = stage.together
    model = divide(load_model(checkpoint, inner, c), own.rank, own.size, inner, stage.number, stages)
    if comm.rank:
        return follow(model, TensorOps(inner, own), stage)
    leading = LeaderOps(inner, stage, model, total=inner.ledger)
    draft = build_model(checkpoint_of(second, random_tensors(second, 1)), leading) if second else None
    try:
        return work(build_engine(model, leading, c, lambda: 0.0, draft, cost))
    finally:
        leading.close()


def logits_of(
    comm: Comm, checkpoint: Any, tokens: np.ndarray, stages: int = 1, **switches: Any
) -> np.ndarray | None:  # (T,) ->
    """The logits of tokens, in three pieces with the caches between them; of the last stage's ranks, else None."""
    c, stage = EngineConfig(**switches), Stage(comm, stages)
    inner, own = NumpyOps(comm.ledger, activations=c.activations), stage.together
    model = divide(load_model(checkpoint, inner, c), own.rank, own.size, inner, stage.number, stages)
    ops = TensorOps(inner, own)
    cache = ContiguousCache(CacheSpec(model.config.memory, len(tokens)), ops)
    seq, found = request(tokens.tolist()), []
    rotations = checkpoint.config.rotation_sets.of(len(tokens))
    for first, stop in pairwise([0, len(tokens) // 3, len(tokens) - 1, len(tokens)]):
        rows = np.arange(stop - first)
        cache.reserve(seq, len(rows))
        batch = Batch(tokens[first:stop], first + rows, rows, (Span(seq, 0, len(rows), first, rotation_set=rotations),))
        logits = stage.compute(model, batch, cache, ops)  # (T, V of the rank)
        cache.commit(seq, len(rows))
        if logits is not None:
            lengths = own.all_gather(np.array([logits.shape[1]]))
            parts = own.all_gather(np.ascontiguousarray(logits.T), [int(length[0]) for length in lengths])
            found.append(np.concatenate(parts).T)
    return np.concatenate(found) if found else None


def by_exchange(
    x: np.ndarray, chosen: np.ndarray, owners: np.ndarray, comm: Comm, xp: Any
) -> np.ndarray:  # (T, D), (T, k), (X,) -> (T, D)
    """What experts give, added up by an exchange also where an all-reduce would send less (experts.py, total)."""
    return np.asarray(exchange(x, Visits(chosen, owners, comm.size), comm, xp))
