"""Writes golden models as GGUF files, the way llama.cpp's conversion does it from a Hugging Face folder.

Tensor names come from the gguf package's own tables and the bytes from its GGUFWriter, so that only the conversion's
arithmetic is retold here: Llama's permutation, Gemma's 1 + w, Llama 3's divisors, the stacking of experts.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from golden import CHAT_TEMPLATE, MERGES, SPECIAL_TOKENS, Golden, golden_tokenizer, load_golden

ARCHITECTURES = dict.fromkeys(["llama", "mistral", "mixtral"], "llama")
ARCHITECTURES |= {"qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3"}
GGUF_FAMILIES = [
    "llama", "llama2", "llama3", "llama_linear", "smollm2", "mistral", "mixtral", "qwen2", "qwen3", "gemma3",
    "gemma3_linear",
]  # fmt: skip


def write_gguf(
    name: str | Golden,
    path: str | Path,
    qtype: str | None = None,
    extra: dict[str, int | float | bool | str] | None = None,
    tensors_in_a_part: int = 0,
) -> Path:
    """Writes the golden of this name, or this golden, to `path` and returns the path.

    qtype: name of a type that gguf can quantize, for all matrices whose rows are whole blocks of it; the rest is F32.
    extra: further metadata, after what a conversion writes. tensors_in_a_part: 0 for one file, else the model is split
    by the gguf package, which names the parts.
    """
    golden = name if isinstance(name, Golden) else load_golden(name)
    writer = gguf.GGUFWriter(path, ARCHITECTURES[golden.config["model_type"]], split_max_tensors=tensors_in_a_part)
    _add_settings(writer, golden.config)
    _add_vocabulary(writer, golden.config)
    for key, value in (extra or {}).items():
        kind = gguf.GGUFValueType.get_type(value)
        writer.add_key_value(key, value, gguf.GGUFValueType.UINT32 if kind is gguf.GGUFValueType.INT32 else kind)
    for tensor, array in converted(golden).items():
        add_tensor(writer, tensor, array, qtype)
    finish(writer)
    return Path(path)


def add_tensor(writer: gguf.GGUFWriter, name: str, array: np.ndarray, qtype: str | None = None) -> None:
    """Adds a float32 array, quantized if it is a matrix and its rows are whole blocks."""
    kind = gguf.GGMLQuantizationType[qtype or "F32"]
    if qtype and array.ndim > 1 and array.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, array)


def finish(writer: gguf.GGUFWriter) -> None:
    """Writes everything and closes the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def converted(golden: Golden) -> dict[str, np.ndarray]:
    """GGUF's name -> array, of every tensor of a golden."""
    config, kind = golden.config, golden.config["model_type"]
    architecture = gguf.MODEL_ARCH[ARCHITECTURES[kind].upper()]
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    tensors = {}
    for name, array in _stacked(golden.weights()).items():
        if ARCHITECTURES[kind] == "llama" and "q_proj" in name:
            array = permuted(array, config["num_attention_heads"])
        if ARCHITECTURES[kind] == "llama" and "k_proj" in name:
            array = permuted(array, config["num_key_value_heads"])
        if kind == "gemma3_text" and name.endswith("norm.weight"):
            array = array + np.float32(1)
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, name
        tensors[new] = array
    if config.get("rope_parameters", {}).get("rope_type") == "llama3":
        tensors["rope_freqs.weight"] = llama3_divisors(config)
    return tensors


def permuted(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of heads reordered so that the two numbers that RoPE turns together are neighbours."""
    size = len(array) // heads
    order = [head * size + half * size // 2 + i for head in range(heads) for i in range(size // 2) for half in (0, 1)]
    return array[order]


def llama3_divisors(config: dict[str, Any]) -> np.ndarray:
    """What Llama 3 divides each RoPE frequency by, from the formula in its model card, one frequency at a time."""
    rope, divisors = config["rope_parameters"], []
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    for i in range(0, config["head_dim"], 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / config["head_dim"])
        turns = rope["original_max_position_embeddings"] / wavelength
        smooth = (turns - low) / (high - low)
        divisors.append(1.0 if turns > high else factor if turns < low else 1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


def _stacked(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mixtral's experts (w1 gate, w2 down, w3 up) as one array per layer, under the names that gguf's tables know."""
    tensors: dict[str, Any] = {}
    for name, array in weights.items():
        before, found, after = name.partition(".block_sparse_moe.experts.")
        if found:
            expert, which, _ = after.split(".")
            experts = tensors.setdefault(f"{before.removeprefix('model.')}.feed_forward.experts.{which}.weight", {})
            experts[int(expert)] = array
        else:
            tensors[name] = array
    return {k: np.stack([v[i] for i in range(len(v))]) if isinstance(v, dict) else v for k, v in tensors.items()}


def _add_settings(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    heads, arch = config["num_attention_heads"], writer.arch
    writer.add_type("model")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if (head_dim := config.get("head_dim")) is not None:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if "num_local_experts" in config:
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if arch == "llama":
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(head_dim or config["hidden_size"] // heads)
    if arch in ("llama", "gemma3") and config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if arch == "gemma3":  # the published models need neither of these two
        writer.add_sliding_window_pattern(config["_sliding_window_pattern"])
        writer.add_float32("gemma3.attention.scale", config["query_pre_attn_scalar"] ** -0.5)
    _add_rope(writer, config["rope_parameters"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _add_rope(writer: gguf.GGUFWriter, rope: dict[str, Any]) -> None:
    if "sliding_attention" in rope:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def _add_vocabulary(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """The golden tokenizer; ids that the model has beyond it are marked unused."""
    vocab = sorted(golden_tokenizer().get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocab] + [f"[PAD{i}]" for i in range(len(vocab), config["vocab_size"])]
    types = [gguf.TokenType.CONTROL if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL for token, _ in vocab]
    types += [gguf.TokenType.UNUSED] * (len(tokens) - len(vocab))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)
