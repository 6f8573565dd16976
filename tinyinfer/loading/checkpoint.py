"""What every loader hands over: a ModelConfig and the weights under one canonical naming, read lazily by rows.

Files disagree on names (`model.layers.0.self_attn.q_proj.weight`, `blk.0.attn_q.weight`, `h.0.attn.c_attn.weight`),
on orientation (GPT-2 stores inputs first) and on order (GGUF permutes Llama's query rows). Loaders undo all of that,
so that a name here always means one array: rows are outputs, columns are inputs.

A `LazyTensor` reads a tile of rows at a time, so a file is never in memory twice: the peak is the weights plus one
tile for each thread that loads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyinfer.errors import ModelError
from tinyinfer.model.config import ModelConfig, expected_tensors
from tinyinfer.model.quantized_matrix import Nested, QuantizedMatrix, QuantScheme, concatenate
from tinyinfer.units import show

if TYPE_CHECKING:
    from tinyinfer.text.tokenizer import Tokenizer


def short_name(name: str) -> str:
    """The last word of a canonical name: `layers.3.qkv.bias` -> `qkv`."""
    return name.removesuffix(".bias").rpartition(".")[2]


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file. `read(start, stop)` gives rows start..stop of its first axis as float32.

    name is the one in the file, for error messages. nbytes is the size in the file. path is that file. What the file
    itself keeps in a few bits has `codes(start, stop)`: rows of its last axis (those of all experts counted through)
    that never were floats. sparse: the layout of a matrix whose zeros the file does not keep (model/weights.py), and
    kept: how many weights it has then, of codes filled up to a multiple of 8.
    """

    name: str
    shape: tuple[int, ...]
    nbytes: int
    read: Callable[[int, int], np.ndarray]
    path: str = "memory"
    codes: Callable[[int, int], QuantizedMatrix] | None = None
    sparse: str | None = None
    kept: int = 0

    def tiles(self, elements: int = 1 << 20) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs (first row, float32 rows), about `elements` numbers at a time. Raises ModelError for NaN, infinity."""
        rows = self.shape[0]
        step = max(1, elements * rows // max(1, int(np.prod(self.shape))))
        for start in range(0, rows, step):
            yield start, self._finite(self.read(start, min(start + step, rows)))

    def rows(self, start: int, stop: int) -> np.ndarray:  # -> (stop-start, ...)
        """Rows start ... stop as float32. Raises ModelError for NaN and infinity."""
        return self._finite(self.read(start, stop))

    def numpy(self) -> np.ndarray:
        """The whole tensor as float32: for vectors and tests. Raises ModelError for NaN and infinity."""
        return self._finite(self.read(0, self.shape[0]))

    @property
    def scheme(self) -> QuantScheme | None:
        """The QuantScheme in which the file stores the tensor; None for floats."""
        return None if self.codes is None else self.codes(0, 0).scheme

    def quantized(self, start: int, stop: int) -> QuantizedMatrix:
        """`codes` of these rows. Raises ModelError for NaN and infinity in the scales."""
        assert self.codes is not None
        matrix = self.codes(start, stop)
        for scales in (matrix.scale, matrix.minimum):
            if scales is not None:
                self._finite(scales.step if isinstance(scales, Nested) else scales)
        return matrix

    def _finite(self, rows: np.ndarray) -> np.ndarray:  # (...,) -> (...,)
        """The rows. Raises ModelError for NaN and infinity: the minimum and the maximum find both, without a copy."""
        if not np.isfinite((rows.min(initial=0), rows.max(initial=0))).all():
            wrong = f"tensor {show(self.name)} holds NaN or infinity"
            raise ModelError(f"{self.path}: {wrong}; it is damaged, download it again")
        return rows


@dataclass(frozen=True)
class Joined:
    """Tensors below one another as one matrix (model/weights.py, FloatMatrix); expert: of stacks, that expert's rows.

    No tensor is ever in memory twice: `tiles` reads some rows, or one expert's, at a time.
    """

    parts: tuple[LazyTensor, ...]
    expert: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(N, M): outputs, inputs."""
        return sum(part.shape[-2] for part in self.parts), self.parts[0].shape[-1]

    def tiles(self) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs (first output, float32 rows (rows, M)), in order. Raises ModelError for NaN and infinity."""
        first = 0
        for part in self.parts:
            if self.expert is None:
                yield from ((first + start, rows) for start, rows in part.tiles())
            else:
                yield first, part.rows(self.expert, self.expert + 1)[0]
            first += part.shape[-2]

    def where(self, output: int) -> str:
        """The file and the tensor of that output."""
        first = 0
        for part in self.parts:
            if output < first + part.shape[-2]:
                break
            first += part.shape[-2]
        return f"{part.path}: tensor {show(part.name)}"

    @property
    def alike(self) -> bool:
        """Whether the file keeps all parts in the same way."""
        return len({(part.scheme, part.sparse) for part in self.parts}) == 1

    def separate(self) -> tuple[Joined, ...]:
        """Each part as a matrix of its own."""
        return tuple(Joined((part,), self.expert) for part in self.parts)

    def quantized(self) -> QuantizedMatrix:
        """The codes that the file itself holds, of parts that are rounded alike."""
        e = self.expert or 0  # codes count the rows of all experts through
        return concatenate([part.quantized(e * part.shape[-2], (e + 1) * part.shape[-2]) for part in self.parts])


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk, ready to be taken by a backend: `tensors` maps canonical names to lazy tensors."""

    path: str
    config: ModelConfig
    tensors: dict[str, LazyTensor]
    tokenizer: Tokenizer
    quantization: dict[str, Any] | None = None  # our own quantization_config: this folder was written by tinyinfer

    @property
    def change(self) -> str:
        """What was done to the model of a folder of ours, for messages."""
        return "pruned" if any(tensor.sparse for tensor in self.tensors.values()) else "quantized"


def join_end_tokens(config: ModelConfig, ids: Iterable[int]) -> ModelConfig:
    """The configuration with these end tokens, too: a text ends with any token that any file of a model calls its end.

    vLLM and llama.cpp join them, because a fine-tune often changes one file only. Ids beyond the vocabulary, which can
    never come, are left out.
    """
    joined = dict.fromkeys((*config.eos_token_ids, *ids))
    return replace(config, eos_token_ids=tuple(i for i in joined if i < config.vocab_size))


def check_tensors(path: str, config: ModelConfig, tensors: dict[str, LazyTensor]) -> None:
    """Raises ModelError, naming file and tensor, when a weight is missing, left over or of the wrong shape."""
    expected = expected_tensors(config)
    others = sorted(tensors[name].name for name in tensors.keys() - expected.keys())
    for name, shape in expected.items():
        if name not in tensors and others:
            cure = "it is another kind of model, or still in a wrapper: merge or unwrap it, and save it again"
            other = show(others[0])
            raise ModelError(f"{path}: the weight {name!r} is missing, and tensor {other} has no place; {cure}")
        if name not in tensors:
            tie = "if the embedding is the head, too, set tie_word_embeddings to true in config.json; else "
            cure = f"{tie if name == 'head' else ''}the file is incomplete, download it again"
            raise ModelError(f"{path}: the weight {name!r} is missing; {cure}")
        if tensors[name].shape != shape:
            tensor = tensors[name]
            raise ModelError(
                f"{path}: tensor {show(tensor.name)} has shape {tensor.shape}, but the configuration needs {shape}; "
                "the file is broken, or config.json belongs to another model"
            )
    for name in tensors.keys() - expected.keys():
        raise ModelError(
            f"{path}: tensor {show(tensors[name].name)} has no place in a model of the family {config.architecture} "
            "with this configuration; ignoring it could change the result, so it is refused"
        )
