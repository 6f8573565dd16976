"""A model of random weights: two layers, grouped queries, one token a byte.

What a cache, a scheduler or a block table does is the same whatever the weights say, so lessons about mechanism run on
this model in milliseconds. Loses: its text means nothing, so quality and real speed need real weights.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
D, F, L, H, K, E, CONTEXT = 32, 64, 2, 4, 2, 8, 2048
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_model(folder: Path) -> None:
    """Writes a Hugging Face folder of the tiny model: the same bits on every machine."""
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    tokenizer = _tokenizer()
    config = _config(tokenizer.get_vocab_size())
    save_file({name: _weight(name, shape) for name, shape in _shapes(config).items()}, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": SPECIAL[2], "chat_template": TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(special), encoding="utf-8")


def _config(vocab_size: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab_size, "hidden_size": D,
        "intermediate_size": F, "num_hidden_layers": L, "num_attention_heads": H, "num_key_value_heads": K,
        "head_dim": E, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        "rope_theta": 10000.0, "hidden_act": "silu", "eos_token_id": 2, "torch_dtype": "float32",
    }  # fmt: skip


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name of each tensor -> its shape, (outputs, inputs)."""
    shapes: dict[str, tuple[int, ...]] = {"model.norm.weight": (D,)}
    shapes["model.embed_tokens.weight"] = (config["vocab_size"], D)
    for layer in range(L):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.input_layernorm.weight": (D,), f"{name}.post_attention_layernorm.weight": (D,)}
        shapes |= {f"{name}.self_attn.{part}_proj.weight": (n * E, D) for part, n in (("q", H), ("k", K), ("v", K))}
        shapes |= {f"{name}.self_attn.o_proj.weight": (D, H * E), f"{name}.mlp.down_proj.weight": (D, F)}
        shapes |= {f"{name}.mlp.{part}_proj.weight": (F, D) for part in ("gate", "up")}
    return shapes


def _weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Norms of one; else uniform numbers of a seed made of the name, so that no layer is like another."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    unit = (np.random.RandomState(zlib.crc32(name.encode())).random_sample(shape) - 0.5) * np.sqrt(12.0)
    spread = 0.7 if "embed" in name else 1.5 / np.sqrt(shape[1])
    return (spread * unit).astype(np.float32)


def _tokenizer() -> Any:
    """One token for each byte, behind the special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    symbols = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
