"""A model of floats in memory -> a plain Hugging Face folder, which transformers and every other program load.

For a model that is smaller than the one it was made of (pruning/layers.py, pruning/width.py). Each tensor gets the name
that its family has in files, the inverse of hf_names.py, and the form that it has there, the inverse of hf_storage.py.

    Llama and its like    one tensor for each canonical one
    Gemma                 norms store w and multiply by 1 + w
    Phi-3                 queries, keys and values below one another; gate above up
    GPT-2                 the same of queries, keys and values; matrices inputs first

Not written: mixtures of experts, GPT-NeoX, whose heads are interleaved, and heads that are rotated in part, whose rows
lie in another order. config.json is that of the source, with the fields that have changed; of a GGUF file, and of a
model that also reads images, it is written anew (hf_writer.py).

Wins: no other program needs to know that the model was pruned. Loses: what a family's config.json cannot say has no
place, as GPT-2's heads, which always share the whole width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import Checkpoint, short_name
from tinyinfer.loading.export import Exported, export
from tinyinfer.loading.hf_names import LLAMA, MODULES
from tinyinfer.loading.saving import check_target, finish, whole_folder, write_configs, write_weights
from tinyinfer.model.config import FUSED, ModelConfig
from tinyinfer.model.transformer import Model

DIVIDED = ("llama", "gemma2", "gemma3")  # whose configuration in transformers wants whole shares, used or not


@dataclass(frozen=True)
class FileTensor:
    """One tensor of the file: canonical ones below one another, and what the family stores of their numbers."""

    name: str
    parts: tuple[Exported, ...]
    stored: Callable[[np.ndarray], np.ndarray]

    def layout(self) -> list[tuple[str, np.dtype, tuple[int, ...]]]:
        """Name, type and shape, as Exported's; the shape before it is transposed."""
        (_, dtype, (_, *rest)), *_ = self.parts[0].layout()
        return [(self.name, dtype, (sum(part.shape[0] for part in self.parts), *rest))]

    def arrays(self) -> Iterator[np.ndarray]:
        """The one array of `layout`."""
        arrays = [next(part.arrays()) for part in self.parts]
        yield self.stored(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))


def save_plain(
    folder: str | os.PathLike[str],
    model: Model,
    source: Checkpoint,
    on_tensor: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Writes a model of floats and returns the number of bytes of its files.

    source: the checkpoint that the model was made of, for tokenizer and config.json. on_tensor(done, total): called
    for each tensor. Raises ValueError as check_target does; ModelError for weights that are quantized or sparse, for a
    family that is not written, for a model that no config.json can say, and when the disk is full or may not be
    written.
    """
    check_target(folder)
    check_can_write(model, source)
    tensors: Any = file_tensors(model)  # write_weights asks each for its layout and its arrays
    with whole_folder(Path(folder)) as part:
        write_weights(part, tensors, on_tensor)
        types = dict.fromkeys(("dtype", "torch_dtype"), dtype_of(model))  # as transformers 5 calls it, and 4
        write_configs(part, model.config, source, types, own_names=True)
        return finish(part, model.config, source)


def check_can_write(model: Model, source: Checkpoint) -> None:
    """Raises ModelError, as save_plain does, for a model that is not written."""
    c = model.config
    for tensor in export(model):
        if tensor.scheme is not None or tensor.sparse:
            kind = "sparse" if tensor.sparse else "quantized"
            _refuse(source, f"the weight {tensor.name!r} is {kind}, and a plain folder holds floats; load it as floats")
    check_family(c, source)
    if not c.learned_positions and not any(c.rope):
        _refuse(source, "no layer with rotary positions is left, which a config.json cannot say; keep one of them")
    check_heads(c, source)


def check_family(c: ModelConfig, source: Checkpoint) -> None:
    """Raises ModelError for a family that is not written."""
    if c.experts:
        _refuse(source, "is a mixture of experts, which is not written as a plain folder; choose a dense model")
    if c.architecture == "gpt_neox" or any(rope and rope.size is not None for rope in c.rope):
        _refuse(source, "its queries and keys lie in another order than in files, so that no plain folder is written")


def check_heads(c: ModelConfig, source: Checkpoint) -> None:
    """Raises ModelError for heads and a width that do not go together where transformers demands it."""
    if c.architecture == "gpt2" and c.num_heads * c.head_dim != c.hidden_size:
        size, width = f"{c.num_heads} heads of {c.head_dim}", c.hidden_size
        _refuse(source, f"{size} do not share the width {width}, as GPT-2's must; leave heads and width as they are")
    if c.architecture in DIVIDED and c.hidden_size % c.num_heads:
        wrong = f"the width {c.hidden_size} is no multiple of the {c.num_heads} query heads"
        _refuse(source, f"{wrong}, without which transformers refuses this family; choose another width")
    if any(rope and rope.long_divisors for rope in c.rope) and c.hidden_size // c.num_heads != c.head_dim:
        wrong = f"{c.num_heads} heads of {c.head_dim} do not share the width {c.hidden_size}"
        _refuse(source, f"{wrong}, without which transformers refuses longrope; leave heads and width as they are")


def _refuse(source: Checkpoint, why: str) -> NoReturn:
    raise ModelError(f"{source.path}: {why}")


def file_tensors(model: Model) -> list[FileTensor]:
    """Every tensor of the file, in the order of the canonical ones."""
    groups: dict[str, list[Exported]] = {}
    for tensor in export(model):
        groups.setdefault(file_name(tensor.name, model.config), []).append(tensor)
    architecture = model.config.architecture
    return [FileTensor(name, tuple(parts), _stored(parts[0], architecture)) for name, parts in groups.items()]


def file_name(canonical: str, c: ModelConfig) -> str:
    """The name in files of a canonical tensor; of one that the family stores in a fused matrix, the matrix's name.

    >>> from types import SimpleNamespace
    >>> file_name("layers.3.up", SimpleNamespace(architecture="llama", gated=True))
    'model.layers.3.mlp.up_proj.weight'
    >>> file_name("layers.3.up", SimpleNamespace(architecture="phi3", gated=True))
    'model.layers.3.mlp.gate_up_proj.weight'
    """
    modules = {short: module for module, short in MODULES.get(c.architecture, LLAMA).items()}
    fused = FUSED | ({"up": "gate_up"} if c.gated else {})
    short, kind = short_name(canonical), "bias" if canonical.endswith(".bias") else "weight"
    module = modules.get(fused.get(short, short)) or modules[short]
    if short == "head":
        return f"{module}.{kind}"
    outer, layers = ("transformer", "h") if c.architecture == "gpt2" else ("model", "layers")
    layer = f"{layers}.{canonical.split('.')[1]}." if canonical.startswith("layers.") else ""
    return f"{outer}.{layer}{module}.{kind}"


def _stored(tensor: Exported, architecture: str) -> Callable[[np.ndarray], np.ndarray]:
    """What a family's files hold of a tensor's numbers: the inverse of its function in hf_storage.py."""
    if architecture.startswith("gemma") and tensor.name.endswith("norm"):
        return lambda weight: weight - np.float32(1)
    if architecture == "gpt2" and len(tensor.shape) == 2 and tensor.name.startswith("layers."):
        return np.transpose
    return lambda array: array


def dtype_of(model: Model) -> str:
    """The type of the matrices, as config.json calls it; vectors are float32."""
    matrix = next(tensor for tensor in export(model) if len(tensor.shape) == 2)
    [(_, dtype, _)] = matrix.layout()
    return dtype.name
