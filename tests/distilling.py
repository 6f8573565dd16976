"""What the tests of distillation share: a student of a few thousand weights, something to read, and a training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from helpers import checkpoint_of, random_tensors, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.distillation.objective import Objective
from tinyinfer.distillation.switches import TrainingSwitches
from tinyinfer.distillation.texts import Reading, reading
from tinyinfer.distillation.training import Training
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.transformer import Model

OPS = NumpyOps(Ledger())
SMALL = small_config()
CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 277, "hidden_act": "silu",
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip


def model_of(config: ModelConfig = SMALL, seed: int = 0) -> Model:
    """A model with random weights."""
    return build_model(checkpoint_of(config, random_tensors(config, seed)), OPS)


def documents(sizes: Sequence[int], vocab: int = 31, seed: int = 3) -> list[np.ndarray]:
    """Random documents of so many tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, size) for size in sizes]


def reading_of(sizes: Sequence[int], vocab: int = 31) -> Reading:
    """Random documents as one batch."""
    return reading(documents(sizes, vocab), range(len(sizes)), SMALL.rotation_sets)


def switches(**changes: Any) -> TrainingSwitches:
    """Those of a short run in which the text alone teaches."""
    base: dict[str, Any] = {"loss": "cross-entropy", "tokens": 320, "window": 16, "batch_tokens": 32, "rate": 1e-2}
    return TrainingSwitches(**base | {"warm_up": 1} | changes)


def training_of(
    read: Sequence[np.ndarray] | None = None, config: ModelConfig = SMALL, teacher: Any = None, **changes: Any
) -> Training:
    """A training of a small student. masked, tested and student: Training's own; else switches."""
    own = {name: changes.pop(name) for name in ("masked", "tested") if name in changes}
    student, read = changes.pop("student", None) or model_of(config), read or documents([9, 13, 17, 11] * 3)
    return Training(student, OPS, read, Objective(switches(**changes), teacher), **own)


def write_config(path: Path, **changes: Any) -> str:
    """A config.json of a student that knows the goldens' tokens."""
    path.write_text(json.dumps(CONFIG | changes), encoding="utf-8")
    return str(path)
