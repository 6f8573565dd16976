"""From a GGUF file to a Checkpoint: its metadata becomes a ModelConfig, its tensors get their canonical names.

GGUF files follow conventions that they do not state; llama.cpp knows them for each architecture. Here they are undone:

- Llama's query and key rows are permuted so that the two numbers that RoPE turns together are neighbours. In
  the published weights, and here, they are half a head apart, so the rows of every head are put back in that order.
- Llama 3's stretched frequencies come as a tensor of divisors, rope_freqs.weight, not as four numbers.
- Gemma 3's norm weights already hold 1 + w; its local RoPE base, window pattern and embedding scale are not in a file.
- A model has biases and an untied head if the file has their tensors.

A metadata key of the architecture that is neither read here nor known to be neutral is refused, because it could change
the result.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import Checkpoint, LazyTensor, check_tensors
from tinyinfer.loading.gguf import GGUFFile
from tinyinfer.loading.gguf_parts import read_parts
from tinyinfer.loading.gguf_vocab import read_end_tokens, read_vocabulary
from tinyinfer.loading.json_fields import Fields
from tinyinfer.model.config import ModelConfig, MoEConfig, RopeConfig
from tinyinfer.text.tokenizer import Tokenizer
from tinyinfer.units import show

if TYPE_CHECKING:
    from tinyinfer.model.weights import QuantizedMatrix

FAMILIES: dict[str, dict[str, Any]] = {  # fields of ModelConfig that the file does not say
    "llama": {},  # with Mistral and Mixtral
    "qwen2": {},
    "qwen3": {"qk_norm": "head"},
    "gemma3": {"qk_norm": "head", "post_norms": True, "activation": "gelu_tanh"},
}
TENSORS = {"token_embd.weight": "embedding", "output_norm.weight": "final_norm", "output.weight": "head"}
LAYER_TENSORS = {
    "attn_norm": "attention_norm", "attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "o",
    "attn_q_norm": "q_norm", "attn_k_norm": "k_norm", "post_attention_norm": "post_attention_norm",
    "ffn_norm": "mlp_norm", "ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down", "post_ffw_norm": "post_mlp_norm",
    "ffn_gate_inp": "router", "ffn_gate_exps": "gate", "ffn_up_exps": "up", "ffn_down_exps": "down",
}  # fmt: skip
# Keys below "{architecture}." that never change the result, and values of others that switch nothing on.
NEUTRAL = {"vocab_size", "rope.scaling.original_context_length", "rope.scaling.finetuned"}
HARMLESS: dict[str, tuple[object, ...]] = {
    "tensor_data_layout": ("Meta AI original pth", "reference"),
    "use_parallel_residual": (False,),
    "pooling_type": (0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "rope.scaling.attn_factor": (1.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_gating_func": (0, 1),  # 1: softmax
    "expert_weights_norm": (True,),
    "expert_weights_scale": (0.0, 1.0),
    "expert_shared_count": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "leading_dense_block_count": (0,),
}
PER_LAYER = ("feed_forward_length", "attention.head_count", "attention.head_count_kv")


def load_gguf(path: str) -> Checkpoint:
    """The model in a GGUF file of the architectures in FAMILIES.

    path: the file, or any part of a model in several files. Raises ModelError, naming the file, when it is missing,
    broken or not supported.
    """
    file = read_parts(path)
    config = read_config(file)
    tensors = canonical_tensors(file, config)
    check_tensors(path, config, tensors)
    return Checkpoint(path, config, tensors, Tokenizer(read_vocabulary(file.fields, path, file.size), path))


def read_config(file: GGUFFile) -> ModelConfig:
    """The ModelConfig that the metadata describe; raises ModelError for a key that is missing, wrong or not known."""
    arch = _architecture(file)
    f, p = _fields(file, arch), arch + "."
    layers, width, heads = f.size(p + "block_count"), f.size(p + "embedding_length"), f.size(p + "attention.head_count")
    if layers > len(file.tensors):
        f.refuse(p + "block_count", f"is {layers}, more than the file has tensors; it is damaged, download it again")
    kv_heads, head_dim = f.size(p + "attention.head_count_kv", heads), _head_dim(f, p, width, heads)
    if heads % kv_heads:
        f.refuse(p + "attention.head_count_kv", f"is {kv_heads}, which does not divide the {heads} heads; correct one")
    windows, experts = _windows(f, p, layers), _experts(f, p)
    config = ModelConfig(
        architecture="mixtral" if experts else arch,
        vocab_size=_tensor(file, "token_embd.weight").shape[0],
        hidden_size=width,
        intermediate_size=f.size(p + "feed_forward_length"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_position=f.size(p + "context_length"),
        norm_eps=f.number(p + "attention.layer_norm_rms_epsilon"),
        attention_scale=_attention_scale(f, p, layers, width / heads, head_dim),
        rope=_ropes(f, p, file, windows, head_dim),
        windows=windows,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        o_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_up.bias" in file.tensors,
        embedding_scale=float(np.float32(width**0.5)) if arch == "gemma3" else 1.0,
        tied_head="output.weight" not in file.tensors,
        experts=experts,
        **FAMILIES[arch],
    )
    f.refuse_unread({p + key for key in NEUTRAL}, {p + key: values for key, values in HARMLESS.items()})
    ends = read_end_tokens(file.fields, file.path, file.size)
    return replace(config, eos_token_ids=tuple(i for i in ends if i < config.vocab_size))


def canonical_tensors(file: GGUFFile, config: ModelConfig) -> dict[str, LazyTensor]:
    """The file's tensors by canonical name; Llama's query and key rows are put back in their published order.

    Raises ModelError for a tensor that is not known or is there twice.
    """
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in file.tensors.items():
        if name == "rope_freqs.weight" and config.architecture in ("llama", "mixtral"):
            continue  # is part of the configuration
        canonical = _canonical_name(name)
        if canonical is None or canonical in tensors:
            why = "is not known" if canonical is None else f"is a second {canonical!r}"
            raise ModelError(f"{file.path}: tensor {show(name)} {why}, and ignoring it could change the result")
        permuted = config.architecture in ("llama", "mixtral") and re.search(r"\.[qk](\.bias)?$", canonical)
        tensors[canonical] = unpermuted(tensor, config.head_dim) if permuted else tensor
    return tensors


def unpermuted(tensor: LazyTensor, head_dim: int) -> LazyTensor:
    """Rows (or biases) of whole heads in which RoPE's pairs are neighbours, read with each pair half a head apart."""

    def ordered(rows: np.ndarray, start: int, stop: int) -> np.ndarray:  # (rows, ...) -> (stop - start, ...)
        pairs = rows.reshape(len(rows) // head_dim, head_dim // 2, 2, -1 if len(rows) else 0)  # (heads, E/2, 2, ...)
        halves = pairs.swapaxes(1, 2)  # (heads, 2, E/2, ...)
        return halves.reshape(rows.shape)[start:stop]

    def read(start: int, stop: int) -> np.ndarray:  # -> (stop - start, ...)
        first, last = start // head_dim * head_dim, -(-stop // head_dim) * head_dim  # the heads that hold these rows
        return ordered(tensor.read(first, last), start - first, stop - first)

    def codes(start: int, stop: int) -> QuantizedMatrix:
        from tinyinfer.model.weights import QuantizedMatrix

        first, last = start // head_dim * head_dim, -(-stop // head_dim) * head_dim
        assert tensor.codes is not None
        whole, rows = tensor.codes(first, last), (start - first, stop - first)
        minimum = None if whole.minimum is None else ordered(whole.minimum, *rows)
        return QuantizedMatrix(whole.scheme, ordered(whole.codes, *rows), ordered(whole.scale, *rows), minimum)

    return replace(tensor, read=read, codes=codes if tensor.codes else None)


def _canonical_name(name: str) -> str | None:
    """The canonical name of a tensor of the file; None when the tensor is not known."""
    layer = re.fullmatch(r"blk\.([0-9]+)\.([a-z_]+)\.(weight|bias)", name)
    if layer is None or layer[2] not in LAYER_TENSORS:
        return TENSORS.get(name)
    return f"layers.{layer[1]}.{LAYER_TENSORS[layer[2]]}" + ".bias" * (layer[3] == "bias")


def _architecture(file: GGUFFile) -> str:
    """The architecture. Raises ModelError when it is not supported or the file is not a model of its own."""
    f = Fields(file.path, file.fields)
    arch = f.text("general.architecture")
    if arch not in FAMILIES:
        known = ", ".join(FAMILIES)
        f.refuse("general.architecture", f"is {show(arch)}, which is not supported in GGUF; supported are {known}")
    if f.text("general.type", "model") != "model":
        f.refuse("general.type", f"is {show(f.get('general.type'))}, not a model of its own; use the model's file")
    return arch


def _fields(file: GGUFFile, arch: str) -> Fields:
    """The architecture's metadata. Values given for each layer must be equal, and are read as one value."""
    values = {key: value for key, value in file.fields.items() if key.startswith(arch + ".")}
    f = Fields(file.path, values)
    for key, value in values.items():
        if isinstance(value, np.ndarray):
            f.values[key] = value[:4096].tolist()
            if key.removeprefix(arch + ".") in PER_LAYER and len(value):
                f.values[key] = value[0].item()
                if (value != value[0]).any():
                    f.refuse(key, "differs between layers, which is not supported; use another model")
    return f


def _tensor(file: GGUFFile, name: str) -> LazyTensor:
    if name not in file.tensors:
        raise ModelError(f"{file.path}: tensor {name!r} is missing; the file is incomplete, download it again")
    return file.tensors[name]


def _head_dim(f: Fields, p: str, width: int, heads: int) -> int:
    """The size of a head; keys and values must have the same, and RoPE must turn all of it."""
    head_dim = f.size(p + "attention.key_length", width // heads or None)
    if head_dim % 2 or (p + "attention.key_length" not in f.values and width % heads):
        f.refuse(p + "attention.head_count", f"is {heads}, which gives heads of no even size for {width}; correct it")
    for key in ("attention.value_length", "rope.dimension_count"):
        if f.size(p + key, head_dim) != head_dim:
            f.refuse(p + key, f"is {f.get(p + key)}, but only {head_dim}, the size of a head, is supported")
    return head_dim


def _attention_scale(f: Fields, p: str, layers: int, share: float, head_dim: int) -> float:
    """The factor of the scores. Gemma 3 27B has another one; llama.cpp recognises that model by its 62 layers."""
    if p + "attention.scale" in f.values:
        return f.number(p + "attention.scale")
    return float((share if p == "gemma3." and layers == 62 else head_dim) ** -0.5)


def _windows(f: Fields, p: str, layers: int) -> tuple[int | None, ...]:
    """The attention window of each layer. Gemma 3: every sixth layer has none, unless the file says otherwise."""
    window = f.size(p + "attention.sliding_window", 0, least=0) if p in ("llama.", "gemma3.") else 0
    if not window or p == "llama.":
        return (window or None,) * layers
    pattern = f.get(p + "attention.sliding_window_pattern", 6)
    if isinstance(pattern, list) and len(pattern) == layers and all(type(local) is bool for local in pattern):
        return tuple(window if local else None for local in pattern)
    period = f.size(p + "attention.sliding_window_pattern", 6, least=0)  # 0: no layer sees all
    return tuple(window if not period or (i + 1) % period else None for i in range(layers))


def _experts(f: Fields, p: str) -> MoEConfig | None:
    """Mixtral's experts; None when there are none. The router's weights of the chosen experts are scaled to sum 1."""
    if p != "llama." or not f.size(p + "expert_count", 0, least=0):
        return None
    count, each = f.size(p + "expert_count"), f.size(p + "expert_used_count")
    if each > count:
        f.refuse(p + "expert_used_count", f"is {each}, more than the {count} experts that there are; correct one")
    return MoEConfig(count, each, f.size(p + "expert_feed_forward_length", f.size(p + "feed_forward_length")))


def _ropes(f: Fields, p: str, file: GGUFFile, windows: tuple[int | None, ...], head_dim: int) -> tuple[RopeConfig, ...]:
    """The rotation of each layer; Gemma 3's layers with a window have their own base and no scaling."""
    kind = f.text(p + "rope.scaling.type", "linear")  # with a factor of 1, as llama.cpp takes a missing one
    factor = f.number(p + "rope.scaling.factor", f.number(p + "rope.scale_linear", 1.0))
    if kind not in ("none", "linear"):
        f.refuse(p + "rope.scaling.type", f"is {show(kind)}, which is not supported; supported are none and linear")
    linear = kind == "linear" and factor != 1.0
    theta = f.number(p + "rope.freq_base", 1e6 if p == "gemma3." else 1e4)
    rope = RopeConfig(theta, "linear", factor) if linear else RopeConfig(theta)
    if p == "llama." and "rope_freqs.weight" in file.tensors:
        rope = RopeConfig(theta, divisors=_divisors(file, head_dim, factor if linear else 1.0))
    if p != "gemma3.":
        return (rope,) * len(windows)
    local = RopeConfig(f.number(p + "rope.freq_base_swa", 1e4))
    return tuple(local if window else rope for window in windows)


def _divisors(file: GGUFFile, head_dim: int, factor: float) -> tuple[float, ...]:
    """What each of RoPE's frequencies is divided by, times the linear factor."""
    tensor = file.tensors["rope_freqs.weight"]
    if tensor.shape != (head_dim // 2,):
        wrong = f"has shape {tensor.shape}, but heads of {head_dim} need ({head_dim // 2},)"
        raise ModelError(f"{file.path}: tensor 'rope_freqs.weight' {wrong}; convert the model again")
    divisors = tensor.numpy() * np.float32(factor)
    if not (divisors > 0).all():
        raise ModelError(f"{file.path}: the file is damaged: 'rope_freqs.weight' must be positive; download it again")
    return tuple(divisors.tolist())
