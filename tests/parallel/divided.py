"""What the ranks of a divided model compute together: stages, each of some ranks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from helpers import request

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.config import EngineConfig
from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.kv_cache.contiguous import ContiguousCache
from tinyinfer.loading.build import load_model
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.pipeline import Stage
from tinyinfer.parallel.tensor import TensorOps, divide
from tinyinfer.sequence import Batch, Span


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
