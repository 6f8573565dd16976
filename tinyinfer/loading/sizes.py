"""How many bytes the weights of a model will take in memory, told before any of them is read.

A device must have room for all of them; what a draft costs beside a pass depends on those that a pass reads, also where
several processes hold them, of which none knows what the others have.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from tinyinfer.arrays import FLOAT
from tinyinfer.backends.switches import DTYPES
from tinyinfer.loading.build import keeps_file_quantization
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.model.config import ModelConfig, expected_tensors, held_matrices
from tinyinfer.quantization.recipe import Recipe, kept_recipe, make_recipe
from tinyinfer.switches import resolve


def weight_bytes(checkpoint: Checkpoint, c: Any) -> int:
    """Bytes of all weights on a device, which holds zeros, too. c: an EngineConfig."""
    return held_bytes(checkpoint.config, replace(recipe_of(checkpoint, c), sparse={}), c, ())


def pass_bytes(checkpoint: Checkpoint, c: Any) -> int:
    """Bytes that a pass of few rows reads, but for its rows of the embedding (Model.pass_nbytes). c: see above."""
    return held_bytes(checkpoint.config, recipe_of(checkpoint, c), c, ("embedding", "positions"))


def recipe_of(checkpoint: Checkpoint, c: Any) -> Recipe:
    """How the switches round the matrices, or how the file has rounded them."""
    kept = keeps_file_quantization(c, checkpoint)
    return kept_recipe(checkpoint.config, checkpoint.tensors) if kept else make_recipe(c, checkpoint.config)


def held_bytes(config: ModelConfig, recipe: Recipe, c: Any, but: tuple[str, ...]) -> int:
    """Bytes of the matrices as the recipe has them, and of the rest in float32. but: what does not count."""
    itemsize = np.dtype(resolve(DTYPES, c.dtype)).itemsize
    matrices = sum(recipe.nbytes(matrix, itemsize) for name, matrix in held_matrices(config).items() if name not in but)
    small = {
        name: prod(shape) for name, shape in expected_tensors(config).items()
        if (len(shape) == 1 or name == "positions" or name.endswith(".bias")) and name not in but
    }  # fmt: skip
    heads = {"q_norm": config.num_heads, "k_norm": config.num_kv_heads} if config.qk_norm == "head" else {}
    return matrices + FLOAT * sum(n * heads.get(name.rpartition(".")[2], 1) for name, n in small.items())
