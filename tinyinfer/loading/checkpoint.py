"""What every loader hands over: a ModelConfig and the weights under one canonical naming, read lazily by rows.

Files disagree on names (`model.layers.0.self_attn.q_proj.weight`, `blk.0.attn_q.weight`, `h.0.attn.c_attn.weight`),
on orientation (GPT-2 stores inputs first) and on order (GGUF permutes Llama's query rows). Loaders undo all of that,
so that a name here always means one array: rows are outputs, columns are inputs.

A `LazyTensor` reads a tile of rows at a time, so a file is never in memory twice: the peak is the weights plus one
tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyinfer.errors import ModelError
from tinyinfer.model.config import ModelConfig, expected_tensors

if TYPE_CHECKING:
    from tinyinfer.model.weights import Codes, Grid
    from tinyinfer.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file. `read(start, stop)` gives rows start..stop of its first axis as float32.

    name is the one in the file, for error messages. nbytes is the size in the file. path is that file. What the file
    itself keeps in a few bits has `codes(start, stop)`: rows of its last axis (those of all experts counted through)
    that never were floats. integer_inputs: what it is multiplied with is to be rounded to 8 bits, too (w8a8.py).
    """

    name: str
    shape: tuple[int, ...]
    nbytes: int
    read: Callable[[int, int], np.ndarray]
    path: str = "memory"
    codes: Callable[[int, int], Codes] | None = None
    integer_inputs: bool = False

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
    def grid(self) -> Grid | None:
        """How the file itself has rounded it; None for floats."""
        return None if self.codes is None else self.codes(0, 0).grid

    def quantized(self, start: int, stop: int) -> Codes:
        """`codes` of these rows. Raises ModelError for NaN and infinity in the scales."""
        assert self.codes is not None
        found = self.codes(start, stop)
        for scales in (found.d, found.m):
            if scales is not None:
                self._finite(scales)
        return found

    def _finite(self, rows: np.ndarray) -> np.ndarray:  # (n, ...) -> (n, ...)
        """The rows, checked by their smallest and largest number: NaN is both wherever it is."""
        if not np.isfinite((rows.min(initial=0), rows.max(initial=0))).all():
            wrong = f"tensor {self.name!r} holds NaN or infinity"
            raise ModelError(f"{self.path}: {wrong}; it is damaged, download it again")
        return rows


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk, ready to be taken by a backend: `tensors` maps canonical names to lazy tensors."""

    path: str
    config: ModelConfig
    tensors: dict[str, LazyTensor]
    tokenizer: Tokenizer
    quantization: dict[str, Any] | None = None  # our own quantization_config: this folder was quantized by tinyinfer


def check_tensors(path: str, config: ModelConfig, tensors: dict[str, LazyTensor]) -> None:
    """Raises ModelError, naming file and tensor, when a weight is missing, left over or of the wrong shape."""
    expected = expected_tensors(config)
    for name, shape in expected.items():
        if name not in tensors:
            raise ModelError(f"{path}: the weight {name!r} is missing; the file is incomplete, download it again")
        if tensors[name].shape != shape:
            found = tensors[name]
            raise ModelError(
                f"{path}: tensor {found.name!r} has shape {found.shape}, but the configuration needs {shape}; "
                "the file is broken, or config.json belongs to another model"
            )
    for name in tensors.keys() - expected.keys():
        raise ModelError(
            f"{path}: tensor {tensors[name].name!r} has no place in a {config.architecture} model of this "
            "configuration; ignoring it could change the result, so it is refused"
        )
