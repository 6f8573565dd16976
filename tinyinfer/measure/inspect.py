"""What a model is and what it costs, counted, and how fast a machine could possibly run it.

Only the file's configuration is read, no weight: a model larger than memory can be described, too. Parameters and bytes
follow from the shapes, the costs of a step from roofline.py; tests hold both equal to a loaded model and its ledger.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyinfer.arrays import FLOAT
from tinyinfer.backends.switches import DTYPES
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.memory import position_bytes
from tinyinfer.kv_cache.switches import CACHES
from tinyinfer.loading.build import keeps_file_quantization
from tinyinfer.measure.roofline import expected_step, intensity, limit, norm_weights, predict_seconds
from tinyinfer.model.config import ModelConfig, expected_tensors, held_matrices
from tinyinfer.model.visit import matrices as held_by_model
from tinyinfer.model.visit import weights
from tinyinfer.model.weights import Weight
from tinyinfer.pruning.switches import STRUCTURED
from tinyinfer.switches import resolve

if TYPE_CHECKING:
    from tinyinfer.engine.config import EngineConfig
    from tinyinfer.ledger import Ledger
    from tinyinfer.loading.checkpoint import Checkpoint
    from tinyinfer.measure.roofline import Machine
    from tinyinfer.model.quantized_matrix import QuantScheme
    from tinyinfer.model.transformer import Model
    from tinyinfer.quantization.recipe import Recipe

PROMPT = 512  # tokens of the prefill that is predicted
PARTS = ("embedding", "attention", "MLP", "norms", "head")


def describe(name: str, checkpoint: Checkpoint, engine: EngineConfig, context: int, machine: Machine) -> dict[str, Any]:
    """The model's sizes and costs, as JSON has them. context: positions. Bytes are those in memory."""
    from tinyinfer.quantization.recipe import kept_recipe, make_recipe  # here: a float model needs no such file

    c, itemsize = checkpoint.config, np.dtype(resolve(DTYPES, engine.dtype)).itemsize
    if engine.prunes:
        field = engine.given("prune", *STRUCTURED)[0]
        reason = "{field}={value} removes weights that only a loaded model can name, and nothing is loaded here"
        raise SwitchError(field, getattr(engine, field), reason, "make a folder by `tinyinfer prune`, and inspect that")
    kept = keeps_file_quantization(engine, checkpoint)
    recipe = kept_recipe(c, checkpoint.tensors) if kept else make_recipe(engine, c)
    remembers = resolve(CACHES, engine.kv_cache).can_chunk
    parameters, sizes = parameters_by_part(c), bytes_by_part(c, itemsize, recipe)
    kv_bytes = position_bytes(c.memory, engine.kv_bits, engine.block_size, engine.kv_group_size)
    return {
        "model": name,
        "path": checkpoint.path,
        "file_bytes": sum(tensor.nbytes for tensor in checkpoint.tensors.values()),
        "config": {key: value for key, value in asdict(c).items() if key not in ("rope", "windows")},
        "windows": sorted({window for window in c.windows if window}),
        "rotation_boundary": c.rotation_sets.boundary,
        "chat_template": checkpoint.tokenizer.chat_template is not None,
        "parameters": sum(parameters.values()),
        "parameters_per_token": sum(parameters.values()) - unused_experts(c),
        "parameters_by_part": parameters,
        "weight_bytes": sum(sizes.values()),
        "weight_bytes_by_part": sizes,
        "matrices": matrices(c, itemsize, recipe),
        "max_context": context,
        "kv_bytes_per_token": kv_bytes,
        "kv_bytes_at_max_context": kv_bytes * context if remembers else 0,
        "read_bandwidth": machine.read_bandwidth,
        "matrix_flops": machine.matrix_speed,
        "balance_flops_per_byte": machine.balance,
        "roofline": [bound(*step, machine) for step in steps(c, context, itemsize, remembers, recipe)],
        "engine": {"model": name, **asdict(engine)},
    }


# What the model is.


def part_of(name: str) -> str:
    """Which of PARTS a weight belongs to, by its canonical name."""
    if name in ("embedding", "positions"):
        return "embedding"
    if "norm" in name:
        return "norms"
    if name == "head":
        return "head"
    return "attention" if name.split(".")[2] in ("q", "k", "v", "o", "sinks") else "MLP"


def parameters_by_part(c: ModelConfig) -> dict[str, int]:
    """Part -> numbers in it; a tied head has none of its own."""
    parts = dict.fromkeys(PARTS, 0)
    for name, shape in expected_tensors(c).items():
        parts[part_of(name)] += math.prod(shape)
    return parts


def bytes_by_part(c: ModelConfig, itemsize: int, recipe: Recipe) -> dict[str, int]:
    """Part -> bytes held in memory: matrices as the recipe has them or in `itemsize` bytes, the rest in float32."""
    parts = dict.fromkeys(PARTS, 0)
    for name, shape in expected_tensors(c).items():
        if len(shape) == 1 or name == "positions" or name.endswith(".bias"):  # biases of experts have two axes
            parts[part_of(name)] += math.prod(shape) * FLOAT
    for matrix in held_matrices(c).values():
        parts[part_of(matrix.parts[0][0])] += recipe.nbytes(matrix, itemsize)
    return parts | {"norms": norm_weights(c) * FLOAT}  # a norm that heads share is held once for each head


def matrices(c: ModelConfig, itemsize: int, recipe: Recipe) -> list[dict[str, Any]]:
    """Every matrix as it is held: its scheme (None: floats), its bits per weight with all scales, and its bytes."""
    from tinyinfer.quantization.recipe import packed_bytes

    rows = []
    for matrix in held_matrices(c).values():
        for name, outputs, scheme in recipe.parts(matrix):
            size = packed_bytes(outputs, matrix.inputs, scheme, itemsize)  # of one expert
            if name in recipe.sparse:
                size = recipe.nbytes(matrix, itemsize) // matrix.count
            bits, shown = 8 * size / (outputs * matrix.inputs), scheme and scheme_fields(scheme)
            rows.append({"name": name, "grid": shown, "bits_per_weight": bits, "bytes": matrix.count * size})
    return rows


def scheme_fields(scheme: QuantScheme) -> dict[str, Any]:
    """The fields of a QuantScheme, for JSON."""
    return {
        "bits": scheme.bits, "group": scheme.group_size, "symmetric": scheme.symmetric, "whole": scheme.per_tensor,
        **({"nested": scheme.nested} if scheme.nested else {}),
    }  # fmt: skip


def unused_experts(c: ModelConfig) -> int:
    """Parameters of the experts that a token does not use."""
    unused = 0
    for moe in filter(None, map(c.mixture, range(c.num_layers))):
        one = 3 * c.hidden_size * moe.expert_size + (2 * moe.expert_size + c.hidden_size) * c.mlp_bias
        unused += (moe.num_experts - moe.experts_per_token) * one
    return unused


def bits_per_weight(model: Model, of: Model | None = None) -> float:
    """Bits that a weight of the layers' matrices takes, scales included; embedding and head are not counted.

    of: the model whose weights are counted, where this one is made of it and has fewer; None: this one's.
    """
    numbers = sum(math.prod(weight.shape) for weight in layer_weights(of or model))
    return 8 * sum(weight.nbytes for weight in layer_weights(model)) / numbers


def layer_weights(model: Model) -> list[Weight]:
    """The weights of the layers' matrices, each expert's by itself."""
    layers = [held for name, held in held_by_model(model) if name.startswith("layers.")]
    return [weight for held in layers for weight in weights(held)]


# What it costs.


def steps(
    c: ModelConfig, context: int, itemsize: int, remembers: bool, recipe: Recipe
) -> list[tuple[str, int, Ledger]]:
    """Three steps, each as (name, new tokens, Ledger): a prefill, the first decode step, the last one.

    remembers: whether there is a KV cache; without one, a decode step is a prefill of everything.
    """

    from tinyinfer.quantization.recipe import saved_bytes

    def cost(first: int, rows: int) -> Ledger:
        total = expected_step(c, first, rows, itemsize)
        total.weight_bytes -= saved_bytes(c, recipe, itemsize, rows, total.experts_read)
        return total

    def decode(position: int) -> tuple[str, int, Ledger]:
        return f"decode at position {position}", 1, cost(position, 1) if remembers else cost(0, position + 1)

    prompt = min(PROMPT, context)
    return [(f"prefill of {prompt}", prompt, cost(0, prompt)), decode(0), decode(context - 1)]


def bound(step: str, tokens: int, cost: Ledger, machine: Machine) -> dict[str, Any]:
    """Computes what the roofline allows for a step, as fields for JSON."""
    seconds = predict_seconds(cost, machine)
    return {
        "step": step,
        "flops_per_token": cost.flops / tokens,
        "bytes_per_token": cost.bytes_moved / tokens,
        "flops_per_byte": intensity(cost),
        "limit": limit(cost, machine),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
    }
