"""Short memory: said before the weights are read where a device cannot hold them, and in a step that it ends.

The system of a CPU lends more memory than there is, and takes it from the disk; a GPU has what it has. So a model that
does not fit is refused by numbers, with the switches that would help. A cache that cannot grow is its own matter
(kv_cache/base.py); here is what is left: a forward pass whose temporaries find no room. The engine rolls such a step
back, and the youngest request in it ends, so that the others go on in what it leaves. A switch that a model has no use
for is told at the same time as its size, before a weight is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from traceback import clear_frames

import numpy as np

from tinyinfer.backends.cpu import default_threads
from tinyinfer.backends.switches import make_ops
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import RoomError, SwitchError
from tinyinfer.kv_cache.memory import position_bytes
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import keeps_file_quantization
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.model.config import held_matrices
from tinyinfer.model.interfaces import Ops
from tinyinfer.sequence import Batch
from tinyinfer.units import amount

SMALLER = {"dtype": "bfloat16", "quantize": "int8", "kv_bits": "8"}  # what takes less than the default does


def fitting_ops(checkpoint: Checkpoint, c: EngineConfig, ledger: Ledger) -> Ops:
    """The operations that the switches choose, on a device that has room for the model.

    Raises as `check_fits` does, and SwitchError for activations that this model cannot have.
    """
    check_activations(checkpoint, c)
    ops = make_ops(own_share(c), ledger)
    check_fits(checkpoint, ops, c)
    return ops


def own_share(c: EngineConfig) -> EngineConfig:
    """The switches with a process's share of the threads, where there are several and no number is given.

    A GPU has none to share.
    """
    processes = c.num_ranks * c.data_parallel_size
    if c.threads is not None or processes == 1 or c.backend == "cupy":
        return c
    return replace(c, threads=max(1, default_threads() // processes))


def check_fits(checkpoint: Checkpoint, ops: Ops, c: EngineConfig) -> None:
    """Raises RoomError when a device has too little memory for the weights and the cache that is asked for."""
    if ops.xp is np:
        return
    from tinyinfer.loading.sizes import weight_bytes  # here: a CPU needs no such file

    n, free = c.num_ranks, ops.available_memory()  # each rank has about an nth of both
    weights, cache = weight_bytes(checkpoint, c) // n, asked_bytes(checkpoint, c) // n
    if weights + cache <= free:
        return
    helps = [*(["dtype", "quantize"] if c.quantize == "off" else []), *(["kv_bits"] if cache else [])]
    cures = [f"{{{name}}}={SMALLER[name]}" for name in helps if not c.given(name)]
    less = "give a smaller " + ("{num_blocks}" if c.num_blocks else "{max_model_len}") if cache else ""
    cure = " or ".join(filter(None, ["add " + " or ".join(cures) if cures else "", less])) or "use a smaller model"
    reason = "the weights need {weights}" + (" and the cache that is asked for {cache}" if cache else "")
    raise RoomError(
        reason + ", and the GPU has {free} free", cure,
        weights=amount(weights, "B"), cache=amount(cache, "B"), free=amount(free, "B"),
    )  # fmt: skip


def check_activations(checkpoint: Checkpoint, c: EngineConfig) -> None:
    """Raises SwitchError where activations are to be rounded and no matrix is quantized, of the model or of a draft."""
    if c.activations == "float" or c.second_model or c.given("draft_quantize"):
        return
    from tinyinfer.quantization.recipe import make_recipe  # here: a float model needs no such file

    if keeps_file_quantization(c, checkpoint):
        schemes = [tensor.scheme for tensor in checkpoint.tensors.values() if not tensor.sparse]
    else:
        recipe = make_recipe(c, checkpoint.config)
        schemes = [recipe.scheme(name) for name in held_matrices(checkpoint.config)]
    if all(scheme is None or scheme.integer_inputs for scheme in schemes):
        reason = "{field}={value} rounds the inputs of matrices that are quantized in groups, and this model has none"
        cure = "add {quantize}=int8, int4, int3 or int2, or leave it out"
        raise SwitchError("activations", c.activations, reason, cure)


def asked_bytes(checkpoint: Checkpoint, c: EngineConfig) -> int:
    """Bytes of the cache that is asked for by its size: blocks, or the first sequence's positions; 0 for none."""
    nbytes = position_bytes(checkpoint.config.memory, c.kv_bits, c.block_size, c.kv_group_size)
    if c.num_blocks:
        return nbytes * c.num_blocks * c.block_size
    return nbytes * (c.max_model_len or 0) if c.kv_cache == "contiguous" else 0


@contextmanager
def ends_youngest(batch: Batch) -> Iterator[None]:
    """Wraps the work of a step: where memory is refused to it, the youngest request in it is the one that ends.

    Raises RoomError, which names that request. An error that is kept keeps none of the pass's arrays.
    """
    try:
        yield
    except MemoryError as error:
        clear_frames(error.__traceback__)
        youngest = max(span.seq.owner.id for span in batch.spans) if batch.spans else None
        reason = "a step of {rows} rows needs more memory than there is ({words})"
        cure = "give a smaller {max_num_batched_tokens} or {max_num_seqs}, or a shorter prompt"
        raise RoomError(reason, cure, youngest, rows=len(batch), words=str(error) or "no memory") from error
