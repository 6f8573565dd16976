"""GGUF tensor names -> canonical names; fused matrices are cut, rows of queries and keys put in order.

Two orders come from files (reorder.py): Llama and its like have the two numbers that RoPE rotates together beside each
other, because llama.cpp's converter permutes them; the others have them half of the rotated part apart, as published.
The second differs from this engine's only where a part of a head is rotated.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import LazyTensor, short_name
from tinyinfer.loading.gguf import GGUFFile
from tinyinfer.loading.gguf_families import FAMILIES, Family
from tinyinfer.loading.gguf_rope import FREQS, LONG, SHORT
from tinyinfer.loading.reorder import neighbour_pairs_order, partial_rotation_order, reordered
from tinyinfer.model.config import ModelConfig
from tinyinfer.units import show

TENSORS = {
    "token_embd.weight": "embedding", "position_embd.weight": "positions", "output_norm.weight": "final_norm",
    "output_norm.bias": "final_norm.bias", "output.weight": "head",
}  # fmt: skip
LAYER_TENSORS = {
    "attn_norm": "attention_norm", "attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_qkv": "qkv", "attn_output": "o",
    "attn_q_norm": "q_norm", "attn_k_norm": "k_norm", "post_attention_norm": "post_attention_norm",
    "attn_sinks": "sinks", "ffn_norm": "mlp_norm", "ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down",
    "post_ffw_norm": "post_mlp_norm", "ffn_gate_inp": "router", "ffn_gate_exps": "gate", "ffn_up_exps": "up",
    "ffn_down_exps": "down",
}  # fmt: skip


def canonical_tensors(file: GGUFFile, config: ModelConfig) -> dict[str, LazyTensor]:
    """The file's tensors by canonical name, each with the rows of its weight, in the order of this engine.

    Raises ModelError for a tensor that is not known or is there twice, and for a fused one that does not fit the heads.
    """
    family, tensors = FAMILIES[file.fields["general.architecture"]], dict[str, LazyTensor]()
    divided = next((rope for rope in config.rope if rope and rope.divisors), None)
    read = () if divided is None else (SHORT, LONG) if divided.long_divisors else (FREQS,)
    for name, tensor in file.tensors.items():
        if name in read:
            continue  # is part of the configuration
        canonical = _canonical_name(name, family)
        if canonical is None:
            raise _unusable(file, name, "is not known")
        for part, rows in _parts(file, canonical, tensor, config):
            if part in tensors:
                raise _unusable(file, name, f"is a second {part!r}")
            tensors[part] = _in_order(part, tensor, rows, config, family)
    return tensors


def _unusable(file: GGUFFile, name: str, why: str) -> ModelError:
    return ModelError(f"{file.path}: tensor {show(name)} {why}, and ignoring it could change the result")


def _canonical_name(name: str, family: Family) -> str | None:
    """The canonical name of a tensor of the file; None when the tensor is not known."""
    layer = re.fullmatch(r"blk\.([0-9]+)\.([a-z_]+)\.(weight|bias)", name)
    short = (LAYER_TENSORS | family.tensors).get(layer[2]) if layer else None
    if layer is None or short is None:
        return TENSORS.get(name)
    return f"layers.{layer[1]}.{short}" + ".bias" * (layer[3] == "bias")


def _parts(file: GGUFFile, name: str, tensor: LazyTensor, c: ModelConfig) -> list[tuple[str, np.ndarray | None]]:
    """The canonical tensors in one of the file, and the rows of each; None: all of them."""
    short = short_name(name)
    if short == "qkv":
        q, k = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        sizes = {"q": q, "k": k, "v": k}
    elif short == "gate_up":
        sizes = {"gate": c.intermediate_size, "up": c.intermediate_size}
    else:
        return [(name, None)]
    rows = sum(sizes.values())
    if tensor.shape[:1] != (rows,):
        wrong = f"has shape {tensor.shape}, but {' and '.join(sizes)} have {rows} rows"
        raise ModelError(f"{file.path}: tensor {show(tensor.name)} {wrong}; the file is broken, download it again")
    ends = np.cumsum([0, *sizes.values()])
    return [
        (name.replace(short, part), np.arange(first, last))
        for part, first, last in zip(sizes, ends[:-1], ends[1:], strict=True)
    ]


def _in_order(name: str, tensor: LazyTensor, rows: np.ndarray | None, c: ModelConfig, family: Family) -> LazyTensor:
    """The tensor, or these rows of it, queries and keys in this engine's order.

    One of another size than the heads is left as it is: checkpoint.check_tensors refuses it.
    """
    short = short_name(name)
    if short == "shared_router" and len(tensor.shape) == 1:  # one output, of which files have the vector
        return replace(tensor, shape=(1, *tensor.shape), read=lambda start, stop: tensor.numpy()[None][start:stop])
    heads = {"q": c.num_heads, "k": c.num_kv_heads}.get(short)
    rotated = next((rope.size for rope in c.rope if rope), None) or c.head_dim
    moved = family.pairs == "neighbours" or rotated < c.head_dim
    if heads and moved and (tensor.shape[0] if rows is None else len(rows)) == heads * c.head_dim:
        order = neighbour_pairs_order if family.pairs == "neighbours" else partial_rotation_order
        index = order(heads, c.head_dim, rotated)
        rows = index if rows is None else rows[index]
    return tensor if rows is None else reordered(tensor, rows)
