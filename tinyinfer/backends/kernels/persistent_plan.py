"""The plan of one sequence's step as a single launch: persistent.cu, and the table of addresses that it reads.

A plan's launches have their layer's weights as arguments. One kernel for all layers finds them in a table on the
device: 23 words a layer, in the order of `Layer` in persistent.cu.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import Any

import numpy as np

from tinyinfer.arrays import FLOAT, Array, Xp
from tinyinfer.backends.kernels.covered import linears_of, weight_type
from tinyinfer.backends.kernels.launch import NULL, Launch, Plan, threads_of
from tinyinfer.backends.kernels.memory import Memory
from tinyinfer.backends.kernels.plan import (
    STAGED,
    attention_args,
    decode_plan,
    limit_of,
    linear_pointers,
    norm_pointer,
    pointers,
    sinks_pointer,
)
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import NoNorm

STATIC = 47 << 10  # bytes of a block's shared memory for attention; 48 KiB are all that a kernel's text can ask for


def unpersistent(model: Model) -> str:
    """Why the persistent kernel cannot compute a model that the kernels cover, as one clause; "" when it can."""
    layers: Any = model.layers
    for layer in layers:
        norms = layer.mixer.qk_norm, layer.post_attention_norm, layer.post_mlp_norm
        if not all(isinstance(norm, NoNorm) for norm in norms):
            return "a layer has norms of its heads or behind its sub-layers"
    if len({weight_type(linear.weight) for layer in layers for linear in linears_of(layer)}) > 1:
        return "its layers' weights are of several types"
    if len({(layer.mixer.heads.scale, layer.mixer.heads.cap, layer.scale) for layer in layers}) > 1:
        return "its layers scale or cap their numbers differently"
    shared, size = layers[0].mixer.heads.queries // layers[0].mixer.heads.keys, layers[0].mixer.heads.size
    if attention_bytes(shared, size) > STATIC:
        return f"{shared} query heads of {size} numbers share a key head, more than a block's shared memory holds"
    return ""


def attention_bytes(queries: int, size: int) -> int:
    """Shared memory with which a block adds up what its lanes have met, for the queries that share a key head.

    As attention_decode.cu says, but in blocks of persistent.cu; so many lanes share a key (softmax.cuh).
    """
    chunks = size // gcd(size, 4)
    lanes = next(lanes for lanes in (2, 4, 8, 16, 32) if lanes >= min(chunks, 32))
    return FLOAT * queries * (size + 2) * threads_of("persistent") // lanes


def persistent_plan(model: Model, memory: Memory, xp: Xp) -> Plan:
    """A step of one row as one launch; for a model of which `unpersistent` has nothing to say."""
    m, row, layers, c = memory, memory.row, model.layers, model.config
    first: Any = layers[0]
    *_, scale, cap, _sinks = attention_args(row, 0, first.mixer.heads)
    table, head = model.embedding.table, model.head.weight
    counters, generation = (xp.zeros(n, dtype=xp.int32) for n in (c.num_kv_heads + 2, 1))
    args = (
        xp.asarray(np.array([words(model, layer, row["sets"]) for layer in layers], np.uint64)), np.int32(len(layers)),
        *pointers(table), np.float32(model.embedding.scale), scale, cap, np.float32(first.scale),
        norm_pointer(model.final_norm), *pointers(head), np.float32(model.logit_scale), limit_of(model.logit_cap),
        row["temperatures"], row["seeds"], row["tokens"], row["positions"], row["slots"], row["pools"], row["places"],
        m.x, m.q, m.mixed, m.h, m.partial, m.best, counters, generation, row["step"], m.results, m.logits, np.int32(1),
    )  # fmt: skip
    weight = weight_type(linears_of(first)[0].weight)
    constants = m.constants | {"Weight": weight, "Table": weight_type(table), "Head": weight_type(head)}
    widest = max(c.hidden_size, c.num_heads * c.head_dim, c.intermediate_size)
    shared = FLOAT * min(-(-widest // 8) * 8, STAGED)
    cost = replace(decode_plan(model, memory).cost, launches=1)
    block = threads_of("persistent")
    return Plan(1, (Launch("persistent", constants, m.sizes.processors, block, args, shared, cost),))


def words(model: Model, layer: Any, sets: Array) -> list[int]:
    """A layer's row of the table: addresses of its weights and rotation, and its window (0: none)."""
    mixer, mlp, rotation = layer.mixer, layer.mlp, model.rotations[layer.mixer.rotation]
    arrays = (
        layer.attention_norm.weight, *linear_pointers(mixer.qkv), *linear_pointers(mixer.o),
        layer.mlp_norm.weight, *linear_pointers(mlp.gate_up), *linear_pointers(mlp.down),
        sinks_pointer(mixer.heads), sets, rotation.frequencies, rotation.amplitudes,
    )  # fmt: skip
    return [*(0 if array is NULL else int(array.data.ptr) for array in arrays), mixer.heads.window or 0]
