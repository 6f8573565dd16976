"""Configurations for the tests of config.json: the least that each family must say, and how a file is tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden import GOLDEN_DIR

from tinyinfer.errors import ModelError
from tinyinfer.loading.hf_config import read_config
from tinyinfer.model.config import ModelConfig

Config = dict[str, Any]
SIZES: Config = {
    "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip
GPT2: Config = {"vocab_size": 1000, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32, "model_type": "gpt2"}
_TWO: Config = {"num_key_value_heads": 2}  # where the family's own number does not divide four heads
_MIXTURE: Config = {"moe_intermediate_size": 24}
MINIMAL: dict[str, Config] = {
    kind: SIZES | {"model_type": kind} | more
    for kind, more in {
        "llama": {}, "mistral": _TWO, "qwen2": _TWO, "qwen3": _TWO, "smollm3": {}, "gemma2": {},
        "gemma3_text": {"num_hidden_layers": 7}, "phi3": {}, "olmo2": {}, "olmo3": {}, "granite": {}, "gpt_neox": {},
        "mixtral": _TWO, "qwen2_moe": _TWO | _MIXTURE | {"shared_expert_intermediate_size": 40}, "qwen3_moe": _MIXTURE,
        "olmoe": {}, "gpt_oss": _TWO,
    }.items()
}  # fmt: skip
DEFAULTS: dict[str, Config] = json.loads((GOLDEN_DIR / "defaults.json").read_text())  # of make_default_goldens.py
LLAMA, MISTRAL, QWEN2, GEMMA3, QWEN3_MOE = (
    MINIMAL[kind] for kind in ("llama", "mistral", "qwen2", "gemma3_text", "qwen3_moe")
)


def read(folder: Path, config: object, generation: object = None) -> ModelConfig:
    """What a config.json means, and generation_config.json if given."""
    return read_config(write(folder, config, generation))


def write(folder: Path, config: object, generation: object = None) -> Path:
    """Writes config.json, and generation_config.json if given, and returns the folder."""
    (folder / "config.json").write_bytes(config if isinstance(config, bytes) else json.dumps(config).encode())
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def refusal(folder: Path) -> str:
    """The message with which a folder is refused: one line that names the file."""
    with pytest.raises(ModelError) as caught:
        read_config(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert "config.json" in message
    return message
