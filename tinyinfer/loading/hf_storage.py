"""How Hugging Face folders store weights: several matrices as one, transposed, gate and up interleaved, norms minus 1.

Each function of STORAGE takes one tensor of a file under its canonical name and gives the canonical tensors that it
holds. All of them stay in the file: what is cut, transposed or reordered here is read when a builder asks for rows.

    GPT-2        matrices inputs first; queries, keys and values side by side
    Gemma        norms store w and multiply by 1 + w
    Phi-3        queries, keys and values below one another; gate above up
    GPT-NeoX     queries, keys and values of each head below one another, head after head
    experts      fused by transformers 5: gate above up
    gpt-oss      experts inputs first, gate and up interleaved; as published, in 4 bits (mxfp4.py)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import LazyTensor, short_name
from tinyinfer.loading.reorder import reordered
from tinyinfer.loading.safetensors import Stored
from tinyinfer.model.config import ModelConfig
from tinyinfer.units import show

Named = list[tuple[str, LazyTensor]]
Storage = Callable[
    [str, ModelConfig, str, Stored], Named
]  # (file, for messages; configuration; canonical name; tensor)


def plain(path: str, c: ModelConfig, name: str, tensor: Stored) -> Named:
    """A tensor that is stored as it is used."""
    return [(name, tensor.lazy())]


def gemma(path: str, c: ModelConfig, name: str, tensor: Stored) -> Named:
    """Gemma's norms store w and multiply by 1 + w."""
    lazy = tensor.lazy()
    if not name.endswith("norm"):
        return [(name, lazy)]
    return [(name, replace(lazy, read=lambda start, stop: tensor.rows(start, stop) + np.float32(1)))]


def gpt2(path: str, c: ModelConfig, name: str, tensor: Stored) -> Named:
    """GPT-2 stores a layer's matrices inputs first, and queries, keys and values side by side."""
    short, bias = short_name(name), name.endswith(".bias")
    if short not in ("qkv", "o", "up", "down"):
        return plain(path, c, name, tensor)
    _check_axes(path, tensor, 1 if bias else 2, axis=-1, parts=3 if short == "qkv" else 1)
    whole = tensor.lazy() if bias else replace(tensor.lazy(), shape=tensor.shape[::-1], read=tensor.columns)
    if short != "qkv":
        return [(name, whole)]
    q, k, v = np.split(np.arange(whole.shape[0]), 3)
    return _cut(name, whole, q=q, k=k, v=v)


def phi3(path: str, c: ModelConfig, name: str, tensor: Stored) -> Named:
    """Phi-3 stores queries, keys and values below one another, and gate above up."""
    if short_name(name) == "qkv":
        ends = c.num_heads * c.head_dim, (c.num_heads + c.num_kv_heads) * c.head_dim
        q, k, v = np.split(_qkv_rows(path, c, c.num_kv_heads, tensor), ends)
        return _cut(name, tensor.lazy(), q=q, k=k, v=v)
    if short_name(name) == "gate_up":
        _check_axes(path, tensor, 2, axis=0, parts=2)
        gate, up = np.split(np.arange(tensor.shape[0]), 2)
        return _cut(name, tensor.lazy(), gate=gate, up=up)
    return plain(path, c, name, tensor)


def gpt_neox(path: str, c: ModelConfig, name: str, tensor: Stored) -> Named:
    """GPT-NeoX stores the queries of a head, its keys and its values below one another, and then the next head's."""
    if short_name(name) != "qkv":
        return plain(path, c, name, tensor)
    rows = _qkv_rows(path, c, c.num_heads, tensor).reshape(c.num_heads, 3, c.head_dim)
    q, k, v = (rows[:, i].reshape(-1) for i in range(3))
    return _cut(name, tensor.lazy(), q=q, k=k, v=v)


def experts(path: str, c: ModelConfig, name: str, tensor: Stored) -> Named:
    """The fused gate and up of all experts, gate above up."""
    if short_name(name) != "gate_up":
        return plain(path, c, name, tensor)
    _check_axes(path, tensor, 3, axis=1, parts=2)
    half = tensor.shape[1] // 2
    return _gate_and_up(name, tensor.lazy(), slice(half), slice(half, None))


def gpt_oss(path: str, c: ModelConfig, name: str, tensor: Stored) -> Named:
    """gpt-oss stores its experts inputs first, and the outputs of gate and up interleaved."""
    short, bias = short_name(name), name.endswith(".bias")
    if short not in ("gate_up", "down"):
        return plain(path, c, name, tensor)
    _check_axes(path, tensor, 2 if bias else 3, axis=-1, parts=2 if short == "gate_up" else 1)
    whole = tensor.lazy()
    if not bias:
        count, inputs, outputs = tensor.shape

        def transposed(start: int, stop: int) -> np.ndarray:
            return tensor.rows(start, stop).swapaxes(1, 2)

        whole = replace(whole, shape=(count, outputs, inputs), read=transposed)
    return [(name, whole)] if short == "down" else _gate_and_up(name, whole, slice(0, None, 2), slice(1, None, 2))


STORAGE: dict[str, Storage] = {
    "gemma2": gemma, "gemma3": gemma, "gpt2": gpt2, "phi3": phi3, "gpt_neox": gpt_neox, "mixtral": experts,
    "qwen2_moe": experts, "qwen3_moe": experts, "olmoe": experts, "gpt_oss": gpt_oss,
}  # fmt: skip


def _cut(name: str, whole: LazyTensor, **parts: np.ndarray) -> Named:
    """The parts of a matrix or of its bias; each by its short name, and which rows of the whole it has."""
    return [(name.replace(short_name(name), part), reordered(whole, rows)) for part, rows in parts.items()]


def _gate_and_up(name: str, whole: LazyTensor, gate: slice, up: slice) -> Named:
    """The gate and the up of all experts, out of the second axis of a tensor that holds both."""

    def part(outputs: slice) -> LazyTensor:
        shape = (whole.shape[0], whole.shape[1] // 2, *whole.shape[2:])
        read = whole.read
        return replace(whole, shape=shape, nbytes=whole.nbytes // 2, read=lambda a, b: read(a, b)[:, outputs])

    return [(name.replace("gate_up", "gate"), part(gate)), (name.replace("gate_up", "up"), part(up))]


def _qkv_rows(path: str, c: ModelConfig, kv_heads: int, tensor: Stored) -> np.ndarray:
    """The rows of queries, keys and values in one tensor. Raises ModelError unless its rows are those of the heads."""
    rows = (c.num_heads + 2 * kv_heads) * c.head_dim
    if tensor.shape[:1] != (rows,) or not tensor.nbytes:
        heads = f"{c.num_heads} query heads and 2 times {kv_heads} key heads of {c.head_dim} have {rows} rows"
        wrong = f"has shape {tensor.shape}, but {heads}"
        raise ModelError(
            f"{path}: tensor {show(tensor.name)} {wrong}; the file is broken, or config.json belongs to another model"
        )
    return np.arange(rows)


def _check_axes(path: str, tensor: Stored, axes: int, axis: int, parts: int) -> None:
    """Raises ModelError unless the tensor has so many axes and one of them can be cut into `parts`."""
    if len(tensor.shape) != axes or tensor.shape[axis] % parts or not tensor.nbytes:
        wrong = f"has shape {tensor.shape}, not {axes} axes of which one is {parts} alike"
        raise ModelError(f"{path}: tensor {show(tensor.name)} {wrong}; download it again")
