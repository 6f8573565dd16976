"""The folder of a draft head (speculative/draft_head.py): its matrices in a few bits, and which target they fit.

    config.json          the shape of the head and of its target, and how its matrices are rounded
    model.safetensors    NAME.codes and NAME.d of each matrix, as in quantized.py; norms under NAME
    vocabulary.json      whose tokens the target reads (lent_vocabulary.py)

Embedding and head are the target's own, so they are not in the folder.

Wins: a folder of two megabytes drafts for a model of a hundred. Loses: it is of no use without that model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import Joined, LazyTensor
from tinyinfer.loading.checksums import write_sums
from tinyinfer.loading.export import Exported
from tinyinfer.loading.hf_folder import read_tensors
from tinyinfer.loading.json_fields import Fields, read_json
from tinyinfer.loading.lent_vocabulary import LentVocabulary, read_lent
from tinyinfer.loading.quantized import matrix_tensor
from tinyinfer.loading.saving import sync, whole_folder, write_json, write_weights
from tinyinfer.loading.strangers import DRAFT_HEAD
from tinyinfer.model.draft_head import DraftHead, HeadShape, Normed
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.mlp import GatedMLP
from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import Linear, RMSNorm, Weight
from tinyinfer.units import show

VERSION = 1
ROWS = QuantScheme(8, 32, symmetric=True)  # of the target's head


@dataclass(frozen=True)
class HeadFolder:
    """A draft head on disk."""

    path: str
    shape: HeadShape
    tensors: dict[str, LazyTensor]
    lent: LentVocabulary


def is_head(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is that of a draft head."""
    file = Path(path) / "config.json"
    return file.is_file() and read_json(file).get("model_type") == DRAFT_HEAD


def open_head(path: str) -> HeadFolder:
    """The head in a folder. Raises ModelError, naming file and field, for one that is broken."""
    folder = Path(path)
    f = Fields(str(folder / "config.json"), read_json(folder / "config.json"))
    f.text("model_type")
    if f.size("version") != VERSION:
        f.refuse("version", f"is {show(f.get('version'))}, and only {VERSION} is known; update tinyinfer")
    width, count, value = f.size("hidden_size"), f.size("num_layers"), f.size("value_size")
    layers = f.get("layers")
    known = isinstance(layers, list) and layers and all(type(i) is int and 0 <= i < count for i in layers)
    if not known or layers != sorted(set(layers)):
        f.refuse("layers", f"is {show(layers)}, but must be a list of the target's layers in order; download it again")
    inner, tokens, eps = f.size("intermediate_size"), f.size("tokens"), f.number("norm_eps")
    shape = HeadShape(width, count, value, tuple(layers), inner, tokens, eps)
    scheme = QuantScheme(f.size("bits", most=8), f.optional_size("group"), symmetric=True)
    f.refuse_unread((), {})
    lent = read_lent(folder)
    stored, tensors = read_tensors(folder), {}
    for name, (outputs, inputs) in shape.matrices.items():
        tensors[name] = matrix_tensor(path, name, (outputs, inputs), scheme, stored, "download")
    for name, size in shape.norms.items():
        there = stored.pop(name, None)
        if there is None or there.shape != (size,):
            wrong = "is missing" if there is None else f"has shape {there.shape}, and not {(size,)}"
            raise ModelError(f"{path}: tensor {name!r} {wrong}; the file is broken, download it again")
        there.check_float()
        tensors[name] = there.lazy()
    if stored:
        raise ModelError(f"{path}: tensor {show(min(stored))} has no place in a draft head; download it again")
    return HeadFolder(path, shape, tensors, lent)


def load_head(folder: HeadFolder, target: Model, ops: Ops) -> DraftHead:
    """The head in memory, with its rows of the target's head; in few bits, where the backend multiplies codes."""

    def weight(name: str) -> Weight:
        tensor = folder.tensors[name]
        return ops.take(tensor.quantized(0, tensor.shape[0]) if ops.multiplies_codes else Joined((tensor,)))

    def norm(name: str) -> RMSNorm:
        return RMSNorm(ops.take_array(folder.tensors[name].numpy()), folder.shape.norm_eps)

    def normed(name: str) -> Normed:
        return Normed(norm(f"{name}_norm"), Linear(weight(name)))

    mlp = GatedMLP(Linear(weight("gate_up")), Linear(weight("down")), "silu")
    parts = normed("values"), normed("state"), normed("token"), norm("mlp_norm"), mlp, norm("final_norm")
    return DraftHead(folder.shape, *parts, first_rows(target.head, folder.shape.tokens, ops))


def first_rows(head: Linear, count: int, ops: Ops) -> Linear:
    """The first outputs of a head as a layer of its own, in 8 bits where the backend multiplies codes."""
    w = np.ascontiguousarray(ops.to_host(head.weight.dequantize(slice(0, count))).T)  # (N, D)
    bias = None if head.bias is None else head.bias[:count]
    if not ops.multiplies_codes:
        return Linear(ops.take(Joined((in_memory("head", w),))), bias)
    from tinyinfer.quantization.rtn import round_to_nearest

    return Linear(ops.take(round_to_nearest(w, ROWS)), bias)


def in_memory(name: str, w: np.ndarray) -> LazyTensor:  # (N, M) ->
    """An array as a tensor that could as well lie in a file."""
    return LazyTensor(name, w.shape, w.nbytes, lambda start, stop: w[start:stop])


def save_head(folder: str, head: DraftHead, scheme: QuantScheme, lent: LentVocabulary) -> int:
    """Writes a head whose matrices were rounded by `scheme`; returns the bytes of its files.

    Raises ModelError for a folder that cannot be written.
    """
    with whole_folder(Path(folder)) as part:
        write_weights(part, list(_exported(head)), lambda done, of: None)
        about: dict[str, Any] = {"model_type": DRAFT_HEAD, "version": VERSION, **asdict(head.shape)}
        write_json(part / "config.json", about | {"bits": scheme.bits, "group": scheme.group_size})
        lent.write(part)
        open_head(str(part))
        write_sums(part)
        for file in part.iterdir():
            sync(file)
        return sum(file.stat().st_size for file in part.iterdir())


def _exported(head: DraftHead) -> Iterator[Exported]:
    held = {name: getattr(head, name).linear for name in ("values", "state", "token")}
    held |= {"gate_up": head.mlp.gate_up, "down": head.mlp.down}
    for name, size in head.shape.matrices.items():
        yield Exported(name, size, (held[name].weight,))
    norms = {f"{name}_norm": getattr(head, name).norm for name in ("values", "state", "token")}
    norms |= {"mlp_norm": head.mlp_norm, "final_norm": head.final_norm}
    for name in head.shape.norms:
        yield Exported(name, norms[name].weight.shape, norms[name].weight)
