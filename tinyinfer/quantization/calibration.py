"""Calibration: what real text sends into each linear layer, for the methods that weigh weights by it.

The model runs once over some windows of text, all of them in one batch, and each linear layer is quantized on the
way: its inputs are summed up (H = XᵀX, the sizes of every input, a few rows), the layer is replaced, and its outputs
are already those of the quantized layer. So every layer is fitted to the outputs of the quantized layers before it, as
in GPTQ, and only one layer's activations are in memory at a time.

Each window begins as a text does: with the tokenizer's beginning token, where it puts one. That token's activations
are unlike all others (Sun et al. 2024, massive activations), and a model that never sees it has them elsewhere.

The text decides: weights are fitted to what they saw, and other text gains less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data import topics
from typing import Protocol

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.backends.delegate import DelegatingOps
from tinyinfer.errors import ModelError, SwitchError
from tinyinfer.kv_cache.base import CacheSpec, NoCache
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.layers import Layer
from tinyinfer.model.transformer import Model, transformer
from tinyinfer.model.visit import layer_matrices, with_matrices
from tinyinfer.model.weights import Linear
from tinyinfer.quantization.folding import fold
from tinyinfer.rotation_sets import RotationSets
from tinyinfer.sampling import SamplingParams
from tinyinfer.sequence import Batch, RequestSpec, Sequence, Span
from tinyinfer.text.plain_text import decoded
from tinyinfer.text.stop_strings import TextOutput

WINDOW = 512  # tokens of a window of calibration text
DEFAULT_TOKENS = 32 * WINDOW
SAMPLE = 256  # rows that are kept as they are
DEFAULT_CHARACTERS = 150_000  # of the prose that every Python has


class Encoder(Protocol):
    """What makes token ids of text: tokenizer.py, or a test's."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Turns a text into token ids."""

    @property
    def beginning(self) -> list[int]:
        """The token ids that stand before every text."""


@dataclass(frozen=True)
class Inputs:
    """What is kept of the inputs X (T, M) of a layer.

    hessian: XᵀX, (M, M). mean and largest: of |x|, each (M,). sample: a few rows of X, from anywhere in the text.
    """

    hessian: Array
    mean: Array
    largest: Array
    sample: Array

    @classmethod
    def of(cls, x: Array) -> Inputs:  # (T, M) ->
        """Computes the statistics of these rows."""
        size = np.abs(x)  # (T, M)
        rows = np.random.default_rng(0).permutation(len(x))[:SAMPLE]
        return cls(x.T @ x, size.mean(axis=0), size.max(axis=0), x[rows])


Convert = Callable[[str, Linear, Inputs], tuple[Linear, Array | None]]


def calibration_text(path: str | None) -> str:
    """The text of a file, or else Python's own documentation. Raises ModelError for a file that cannot be read."""
    if path is None:
        return "\n".join(text for _, text in sorted(topics.topics.items()))[:DEFAULT_CHARACTERS]
    try:
        return decoded(Path(path).read_bytes(), f"the calibration text {path}")
    except ValueError as error:
        raise ModelError(str(error)) from None
    except OSError as error:
        reason = error.strerror or error
        raise ModelError(f"cannot read the calibration text {path} ({reason}); give the path of a text file") from None


def calibration_windows(
    text: str,
    tokenizer: Encoder,
    count: int = DEFAULT_TOKENS,
    window: int = WINDOW,
    name: str = "the calibration text",
    beginning: Seq[int] = (),
) -> np.ndarray:  # -> (W, n)
    """The text's first `count` tokens, or all of them, cut into W windows; a rest shorter than a window is left out.

    name: what messages call the text. beginning: the tokens that stand before each window, so that its n tokens are
    these and `window` others; a text that begins with them does not get them twice. Raises ValueError for text or a
    count shorter than one window.
    """
    if count < window:
        reason = "{field}={value} is less than a window of {window}"
        raise SwitchError("calibration_tokens", count, reason, "give at least one window", window=window)
    ids, first = tokenizer.encode(text, add_special_tokens=False), list(beginning)
    ids = ids[len(first) if ids[: len(first)] == first else 0 :][:count]
    if len(ids) < window:
        raise ValueError(f"{name} has {len(ids)} tokens, but a window has {window}; give a longer text")
    return np.array([first + ids[i - window : i] for i in range(window, len(ids) + 1, window)])


def calibrate(
    model: Model, windows: np.ndarray, ops: Ops, convert: Convert, on_layer: Callable[[int], None] = lambda n: None
) -> Model:  # (W, n) ->
    """The model with each of its linear layers replaced by what convert(name, linear, inputs) makes of it.

    windows: W windows of n token ids. Names are "layers.0.qkv", "o", "gate_up" (or "up") and "down"; embedding and head
    stay. Where convert also returns a scale s (M,), the new layer expects x / s, and the division is folded away
    (folding.py). on_layer is called with the number of layers that are done. Raises ValueError for a mixture of
    experts, and for inputs that are not finite.
    """
    check_can_calibrate(model.config)
    calibrating = CalibrationOps(model, ops, convert, on_layer)
    cache = NoCache(CacheSpec(model.config.memory, windows.shape[1]), calibrating)
    transformer(model, rows_of(windows, model.config.rotation_sets), cache, calibrating)
    return replace(model, layers=tuple(fold(done, scales, ops) for done, scales in calibrating.layers))


def check_can_calibrate(config: ModelConfig, w8a8: bool = False) -> None:
    """Raises ValueError for a mixture of experts; w8a8: whether that was asked for, which has another cure."""
    if config.experts:
        field, cure = ("quantize", "{quantize}=int8") if w8a8 else ("quantize_method", "{quantize_method}=rtn or hqq")
        reason = "a mixture of experts cannot be calibrated: an expert sees too few rows"
        raise SwitchError(field, "w8a8" if w8a8 else None, reason, f"choose {cure}")


class CalibrationOps(DelegatingOps):
    """Wraps a backend. Each linear layer that is called collects its input statistics and is replaced at once.

    The call continues with the replacement. layers: for each layer its replacement so far, and the scales that are
    left to fold, by the linear layer's name.
    """

    def __init__(self, model: Model, ops: Ops, convert: Convert, on_layer: Callable[[int], None]) -> None:
        super().__init__(ops.counting(Ledger()))  # the ledger of the model does not count this work
        self.convert, self.on_layer = convert, on_layer
        self.layers: list[tuple[Layer, dict[str, Array]]] = [(layer, {}) for layer in model.layers]
        self.places = {id(held): (i, name) for i, layer in enumerate(model.layers) for name, held in named(layer)}

    def linear(self, x: Array, linear: Linear) -> Array:  # (T, M) -> (T, N)
        """The product with the layer's replacement, which is made first; head and routers are not replaced.

        Raises ValueError for inputs that are not finite, or too large to be squared.
        """
        if id(linear) not in self.places:
            return self.inner.linear(x, linear)
        i, name = self.places[id(linear)]
        inputs = Inputs.of(self.to_host(x))
        if not np.isfinite(inputs.hessian).all():
            raise ValueError(f"layers.{i}.{name}: its inputs hold NaN, infinity or numbers too large to be squared")
        new, scale = self.convert(f"layers.{i}.{name}", linear, inputs)
        layer, scales = self.layers[i]
        self.layers[i] = with_matrices(layer, {name: new}), scales if scale is None else scales | {name: scale}
        if name == "down":
            self.on_layer(i + 1)
        return self.inner.linear(x if scale is None else x / self.take_array(scale), new)


def named(layer: Layer) -> Iterator[tuple[str, Linear]]:
    """A layer's linear layers by name, in the order in which inputs reach them."""
    for name, held in layer_matrices(layer).items():
        if isinstance(held, Linear) and name != "router":
            yield name, held


def rows_of(windows: np.ndarray, sets: RotationSets) -> Batch:
    """All windows as the sequences of one batch, no logits wanted. sets: which of the model's rotations they get."""
    count, size = windows.shape
    spans = []
    for i, window in enumerate(windows.tolist()):
        request = RequestSpec(i, window, SamplingParams(), seed=0, max_tokens=1, eos=frozenset())
        seq = Sequence(request, lambda: TextOutput(Silence()))
        spans.append(Span(seq, i * size, (i + 1) * size, 0, wanted=0, rotation_set=sets.of(size)))
    positions = np.tile(np.arange(size), count)  # (T,): each window starts at 0
    return Batch(windows.reshape(-1), positions, np.arange(0), tuple(spans))


class Silence:
    """Null object: the detokenizer of a sequence that is only read, and never becomes text."""

    def push(self, token: int) -> str:
        return ""

    def name(self, token: int) -> str:
        return ""

    def finish(self) -> str:
        return ""
