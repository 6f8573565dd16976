"""Writes golden models as GGUF files, the way llama.cpp's conversion does it from a Hugging Face folder.

Tensor names come from the gguf package's own tables and the bytes from its GGUFWriter, so that only the conversion's
arithmetic is retold here: Llama's permutation, Gemma's 1 + w, Llama 3's divisors, the heads of GPT-NeoX, the gate and
up of gpt-oss, the stacking of experts. benchmarks/gguf_families.py does the same with llama.cpp's own script.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from golden import CHAT_TEMPLATE, GEMMAS, MERGES, SPECIAL_TOKENS, Golden, golden_tokenizer, load_golden

ARCHITECTURES = dict.fromkeys(["llama", "mistral", "mixtral"], "llama") | dict.fromkeys(["olmo2", "olmo3"], "olmo2")
ARCHITECTURES |= {name: name for name in ("qwen2", "qwen3", "gemma2", "phi3", "granite", "smollm3", "olmoe", "gpt2")}
ARCHITECTURES |= {"gemma3_text": "gemma3", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "gpt_neox": "gptneox"}
ARCHITECTURES |= {"gpt_oss": "gpt-oss"}
RANDOM = ("Q4_K", "Q5_K", "Q6_K", "IQ4_NL")
HALVES = {  # where the float16 numbers of a block begin
    **dict.fromkeys(("Q8_0", "Q4_0", "Q5_0", "IQ4_NL"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q6_K": (208,),
}
PERMUTED = ("llama", "granite", "smollm3")
GGUF_FAMILIES = [
    "llama", "llama2", "llama3", "llama_linear", "llama_yarn", "smollm2", "mistral", "mixtral", "qwen2", "qwen3",
    "gemma3", "gemma3_linear", "gemma2", "smollm3_bare", "granite", "phi3", "phi3_long", "olmo2", "olmo3", "olmoe",
    "qwen2_moe_bare", "qwen3_moe", "gpt_neox", "gpt_neox_serial", "gpt2", "gpt2_inner", "gpt_oss",
]  # fmt: skip


def write_gguf(
    name: str | Golden,
    path: str | Path,
    qtype: str | Callable[[str], str | None] | None = None,
    extra: dict[str, int | float | bool | str] | None = None,
    tensors_in_a_part: int = 0,
) -> Path:
    """Writes the golden of this name, or this golden, to `path` and returns the path.

    qtype: name of a type, for all matrices whose rows are whole blocks of it, or what gives it by the tensor's name
    in the file; the rest is F32.
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
        add_tensor(writer, tensor, array, qtype(tensor) if callable(qtype) else qtype)
    finish(writer)
    return Path(path)


def wide_llama() -> Golden:
    """The golden llama3 with two layers whose widths are whole blocks of K-quants; its logits are not known."""
    golden, sizes = load_golden("llama3"), {64: 256, 104: 256, 128: 256, 32: 64}
    config = golden.config | {
        "hidden_size": 256, "intermediate_size": 256, "head_dim": 32, "num_hidden_layers": 2
    }  # fmt: skip
    tensors = {
        name: tuple(sizes.get(size, size) for size in shape)
        for name, shape in golden.tensors.items() if ".layers.2." not in name
    }  # fmt: skip
    return replace(golden, config=config, tensors=tensors)


def add_tensor(writer: gguf.GGUFWriter, name: str, array: np.ndarray, qtype: str | None = None) -> None:
    """Adds a float32 array, quantized if it is a matrix and its rows are whole blocks.

    gguf's Python package reads more types than it writes: of the others a tensor of random blocks takes its place.
    """
    kind = gguf.GGMLQuantizationType[qtype or "F32"]
    block = gguf.GGML_QUANT_SIZES[kind][0]
    if not qtype or array.ndim < 2 or array.shape[-1] % block:
        writer.add_tensor(name, array)
    elif qtype in RANDOM:
        raw = random_blocks(qtype, *array.shape[:-1], array.shape[-1] // block, size=float(array.std()) / 500)
        writer.add_tensor(name, raw.reshape(*array.shape[:-1], -1), raw_dtype=kind)
    else:
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)


def random_blocks(qtype: str, *shape: int, seed: int = 0, size: float | None = None) -> np.ndarray:
    """Blocks of random bytes, (*shape, bytes). size: all their float16 numbers; without it, random finite ones."""
    nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[qtype]][1]
    raw = np.random.default_rng(seed).integers(0, 256, (*shape, nbytes), np.uint8)
    for place in HALVES[qtype]:
        if size is None:
            raw[..., place + 1] &= 0xBB  # an exponent that is neither infinite nor NaN
        else:
            raw[..., place : place + 2] = np.array([size], np.float16).view(np.uint8)
    return raw


def finish(writer: gguf.GGUFWriter) -> None:
    """Writes everything and closes the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def converted(golden: Golden) -> dict[str, np.ndarray]:
    """GGUF's name -> array, of every tensor of a golden."""
    config, kind = golden.config, golden.config["model_type"]
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == ARCHITECTURES[kind])
    layers = config.get("num_hidden_layers") or config["n_layer"]
    names = gguf.get_tensor_name_map(arch, layers)
    tensors = {}
    for name, array in _stacked(_unpacked(config, golden.weights())).items():
        if ARCHITECTURES[kind] in PERMUTED and "q_proj" in name:
            array = permuted(array, config["num_attention_heads"])
        if ARCHITECTURES[kind] in PERMUTED and "k_proj" in name:
            array = permuted(array, config["num_key_value_heads"])
        if kind in GEMMAS and name.endswith("norm.weight"):
            array = array + np.float32(1)
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, name
        tensors[new] = array
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") == "llama3":
        tensors["rope_freqs.weight"] = llama3_divisors(config)
    if rope.get("rope_type") == "longrope":
        for length in ("short", "long"):
            tensors[f"rope_factors_{length}.weight"] = np.array(rope[f"{length}_factor"], np.float32)
    return tensors


def _unpacked(config: dict[str, Any], weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What single families store in another way than the others, as the converter turns it; the names stay theirs."""
    kind, tensors = config["model_type"], dict[str, np.ndarray]()
    for name, array in weights.items():
        if kind == "gpt2" and name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight")):
            array = array.T
        if kind == "gpt_neox" and "query_key_value" in name:  # from (H, 3, E, ...), head by head
            array = array.reshape(config["num_attention_heads"], 3, -1, *array.shape[1:]).swapaxes(0, 1)
            array = array.reshape(-1, *array.shape[3:])
        if kind == "gpt_oss" and ".experts." in name:
            suffix = "bias" if name.endswith("_bias") else "weight"
            array = array if suffix == "bias" else array.swapaxes(1, 2)
            place = name.removesuffix("_bias")
            if "gate_up" in name:  # gate and up interleaved
                tensors[f"{place.replace('gate_up', 'gate')}.{suffix}"] = array[:, 0::2]
                name, array = f"{place.replace('gate_up', 'up')}.{suffix}", array[:, 1::2]
            else:
                name = f"{place}.{suffix}"
        tensors[name + ".weight" * name.endswith(".sinks")] = np.ascontiguousarray(array)
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
    """Each expert's matrices (Mixtral's w1 gate, w2 down, w3 up) as one array, under the names that gguf's tables know.

    What is one array already stays as it is.
    """
    tensors: dict[str, Any] = {}
    for name, array in weights.items():
        found = re.fullmatch(r"(.*)\.(block_sparse_moe|mlp)\.experts\.([0-9]+)\.(.*)", name)
        if found:
            mixtral = f"{found[1].removeprefix('model.')}.feed_forward.experts.{found[4]}"
            stack = mixtral if found[2] != "mlp" else f"{found[1]}.mlp.experts.{found[4]}"
            tensors.setdefault(stack, {})[int(found[3])] = array
        else:
            tensors[name] = array
    return {k: np.stack([v[i] for i in range(len(v))]) if isinstance(v, dict) else v for k, v in tensors.items()}


def _add_settings(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """Sizes, norms and windows, and what single families have beside them."""
    kind, arch = config["model_type"], writer.arch
    writer.add_type("model")
    if kind == "gpt2":
        config = with_usual_names(config)
    heads = config["num_attention_heads"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    if "layer_norm_eps" in config:
        writer.add_layer_norm_eps(config["layer_norm_eps"])
    else:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_head_count_kv(config["num_key_value_heads"])
    if (head_dim := config.get("head_dim")) is not None:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if (experts := config.get("num_local_experts", config.get("num_experts"))) is not None:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if kind in ("qwen2_moe", "qwen3_moe", "gpt_oss"):
        writer.add_expert_feed_forward_length(config.get("moe_intermediate_size", config["intermediate_size"]))
    if kind == "qwen2_moe":
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if arch in PERMUTED:
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(head_dim or config["hidden_size"] // heads)
    if arch in ("llama", "gemma2", "gemma3", "olmo2", "gpt-oss", "phi3") and config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if kind == "gemma3_text":  # the published models need neither the pattern nor the scale
        writer.add_sliding_window_pattern(config["_sliding_window_pattern"])
    if arch in ("olmo2", "gpt-oss") and "layer_types" in config:
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
    if kind in GEMMAS:
        writer.add_float32(f"{arch}.attention.scale", config["query_pre_attn_scalar"] ** -0.5)
    if kind == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if kind == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if kind == "gpt_neox":
        writer.add_parallel_residual(config["use_parallel_residual"])
    if kind != "gpt2":
        _add_rope(writer, config)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def with_usual_names(config: dict[str, Any]) -> dict[str, Any]:
    """GPT-2's configuration with the names of the others."""
    names = {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_embd": "hidden_size"}
    names |= {"n_positions": "max_position_embeddings", "layer_norm_epsilon": "layer_norm_eps"}
    renamed = {names.get(key, key): value for key, value in config.items()}
    return renamed | {"intermediate_size": config["n_inner"] or 4 * config["n_embd"]}


def _add_rope(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    rope = config["rope_parameters"]
    if "sliding_attention" in rope:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    if (share := rope.get("partial_rotary_factor")) is not None:
        writer.add_rope_dimension_count(int(share * config["hidden_size"]) // config["num_attention_heads"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        for key, add in (
            ("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
            ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
            ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
        ):
            if key in rope:
                add(rope[key])
    if rope["rope_type"] == "longrope":  # its type is not written; the tensors say it
        original = config["original_max_position_embeddings"]
        growth = config["max_position_embeddings"] / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(growth) / math.log(original)))


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
