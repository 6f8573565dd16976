"""The seam: what the model asks of a backend and of a cache, and what a cache may ask of a device.

The transformer is written once, against these protocols. A backend is any object that fulfils `Ops`: the textbook
formulas on NumPy or on CuPy (backends/reference.py), the same made fast (backends/numpy_ops.py), or a wrapper that
delegates to another `Ops` and adds something of its own, as calibration does. A cache is any object that fulfils
`KVCache`, and it knows of the backend only the `Device`: where arrays lie and where work is counted.

The letters of the shapes are those of arrays.py.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from tinyinfer.arrays import Array, Xp
from tinyinfer.ledger import Ledger
from tinyinfer.model.heads import Heads, NoCap, SoftCap
from tinyinfer.model.weights import Embedding, Experts, Linear, Matrix, Norm, Rotation, Weight
from tinyinfer.sequence import Batch, Sequence, Span, Wanted


class KVCache(Protocol):
    """The model's half of a cache: keys and values of each layer go in for the whole batch, then each span reads."""

    def append(self, layer: int, k: Array, v: Array, batch: Batch) -> None:  # (T, K, E), (T, K, E) ->
        """Takes the keys and values of all rows of the batch, in one layer."""

    def split(self, span: Span) -> tuple[Span, ...]:
        """Splits a span where its rows must attend to different keys and values.

        Only quantized caches split (at block boundaries); the others return `(span,)`.
        """

    def read(
        self, layer: int, seq: Sequence, start: int, stop: int | None = None
    ) -> tuple[Array, Array]:  # -> (S, K, E), (S, K, E)
        """Keys and values of positions start ... stop (None: up to the newest), as the row at stop - 1 sees them.

        Here and in the whole package the end of "start ... stop" is not included, as in a Python slice.
        """


class Device(Protocol):
    """Where arrays lie and where work is counted: all that a cache may know of a backend."""

    xp: Xp  # the array module: NumPy, CuPy
    ledger: Ledger

    def reserve(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:  # -> shape
        """An array for a cache; what it holds before it is written is not promised.

        Raises MemoryError when the device cannot promise so much.
        """

    def to_host(self, array: Array) -> np.ndarray:  # (...,) -> (...,)
        """The array in the host's memory: the one point where the host waits for the device."""


HOST = -1  # the token of a row from which only the host can choose


@dataclass(frozen=True)
class Sampled:
    """What the host gets of R rows of logits. tokens: HOST where only the host can choose. low, high: each row's
    smallest and largest logit, NaN if one of them is. rows: all of the logits, (R, V), where they are on the host.
    """

    tokens: np.ndarray  # (R,) int64
    low: np.ndarray  # (R,)
    high: np.ndarray  # (R,)
    rows: np.ndarray | None = None


class Compiled(Protocol):
    """A faster forward pass for one model and one cache, which may go on with the next steps while the host is busy.

    The results are those of `transformer`, and the ledger counts a step when the engine asks for it.
    """

    def forward(self, batch: Batch) -> Array:  # (T,) -> (R, V)
        """The logits that the batch asks for, where the backend computes."""

    def sample(self, logits: Array, wanted: Seq[Wanted]) -> Sampled:  # (R, V) ->
        """What `Ops.sample` gives, for the logits of the last forward pass.

        From here on steps may be computed in advance, over those logits: only rows that are left to the host stay.
        """


class CompiledHead(Protocol):
    """A faster pass of a draft head (draft_head.py): the head's own results, and its own counts in the ledger."""

    def draft(
        self, before: Array, tokens: np.ndarray, positions: np.ndarray, first: bool
    ) -> tuple[Array, Array]:  # (R, M), (R,), (R,) -> (R, D), (R, N)
        """The states behind tokens, and their logits, which stay until the next pass.

        before: the values of the positions before them if `first`, else the states before them.
        """

    def sample(self, logits: Array, wanted: Seq[Wanted]) -> Sampled:  # (R, N) ->
        """What `Ops.sample` gives, for the logits of the last pass."""


class Ops(Device, Protocol):
    """The operations that the transformer asks for. Each counts its work in the ledger."""

    # Taking weights out of a file.

    @property
    def loading_threads(self) -> int:
        """How many threads may take weights at the same time."""

    @property
    def multiplies_codes(self) -> bool:
        """Whether a product reads a quantized matrix as it lies; else codes become floats before each product."""

    def take(self, matrix: Matrix) -> Weight:
        """The matrix in this backend's own layout.

        Floats are stored in the backend's dtype; a QuantizedMatrix is packed. Raises ModelError for a float that the
        dtype cannot hold.
        """

    def take_array(self, *parts: np.ndarray) -> Array:
        """Small arrays (norms, biases), joined along their first axis, in float32."""

    # Operations on rows, in the order in which the transformer uses them.

    def embed(self, tokens: Array, positions: Array, embedding: Embedding) -> Array:  # (T,), (T,) -> (T, D)
        """table[token] · scale, plus the position's vector where the model learned one."""

    def rotation(
        self, positions: Array, sets: Array, rotation: Rotation
    ) -> tuple[Array, Array]:  # (T,), (T,) -> (T, 1, E), (T, 1, E)
        """amplitude · cos and amplitude · sin of position · frequency, for both halves of a head.

        sets: which of the rotation's Z sets each row uses. The first half's sine is negated, as `rope` wants it. Every
        run of layers begins with this call, so a backend may prepare the pass here.
        """

    def norm(self, x: Array, norm: Norm) -> Array:  # (T, ...) -> (T, ...)
        """Normalizes every vector along the last axis, by the formula of the norm's type.

        RMSNorm: x / sqrt(mean(x²) + eps) · weight (Zhang & Sennrich 2019, equation 4). LayerNorm: (x - mean(x)) /
        sqrt(var(x) + eps) · weight + bias (Ba et al. 2016, equation 4). FullQKNorm: RMSNorm over all query heads of a
        row as one vector, and over all key heads as another. NoNorm: x.
        """

    def linear(self, x: Array, linear: Linear) -> Array:  # (T, M) -> (T, N)
        """x Wᵀ + bias, by the product that the backend declares for the weight's type."""

    def rope(
        self, x: Array, rotation: tuple[Array, Array]
    ) -> Array:  # (T, H+K, E), ((T, 1, E), (T, 1, E)) -> (T, H+K, E)
        """(a, b) -> (a·cos - b·sin, b·cos + a·sin), a and b the halves of each head (Su et al. 2021, equation 34)."""

    def attention(
        self, q: Array, layer: int, batch: Batch, cache: KVCache, heads: Heads
    ) -> Array:  # (T, H, E) -> (T, H, E)
        """softmax(cap(scale · q kᵀ) + mask) v of each sequence's rows over its keys and values in the cache.

        With sinks, the softmax has one score more (heads.py). (Vaswani et al. 2017, equation 1; query heads that share
        key heads: Ainslie et al. 2023, section 2.2.)
        """

    def activate(self, x: Array, activation: str) -> Array:  # (T, F) -> (T, F)
        """The nonlinearity of that name.

        "silu": x · sigmoid(x) (Elfwing et al. 2017). "gelu_tanh": x/2 · (1 + tanh(sqrt(2/pi) · (x + 0.044715 x³)))
        (Hendrycks & Gimpel 2016). "gelu": x · Φ(x), Φ the normal distribution (the same, section 2), which "gelu_tanh"
        approximates.
        """

    def gate(self, gate_up: Array, activation: str) -> Array:  # (T, 2*F) -> (T, F)
        """act(gate) · up, gate being the first half of each row and up the second (Shazeer 2020).

        "clamped", of a gate only: gate · sigmoid(1.702 · gate) · (up + 1), gate at most 7 and up from -7 to 7 (gpt-oss;
        OpenAI 2025).
        """

    def experts(
        self, x: Array, chosen: Array, weights: Array, gate_up: Experts, down: Experts, activation: str
    ) -> Array:  # (T, D), (T, k), (T, k) -> (T, D)
        """Σ weight · down(act(gate(x)) · up(x)) over the k experts that each row chose (Shazeer et al. 2017).

        Each expert is read once, and multiplied with all rows that chose it.
        """

    def add(self, x: Array, change: Array, scale: float) -> Array:  # (T, D), (T, D) -> (T, D)
        """x + scale · change; the result may lie in the memory of x, which must not be used afterwards."""

    def gather(self, x: Array, rows: Array) -> Array:  # (T, D), (R,) -> (R, D)
        """x[rows], the rows whose logits are wanted: the head is computed for no others."""

    def scale(self, x: Array, factor: float) -> Array:  # (R, D) -> (R, D)
        """factor · x, before the head: the head is linear, so the logits are multiplied by the factor."""

    def cap(self, logits: Array, cap: NoCap | SoftCap) -> Array:  # (R, V) -> (R, V)
        """The logits, capped where the family has a cap."""

    # The whole.

    def sample(self, logits: Array, wanted: Seq[Wanted]) -> Sampled:  # (R, V) ->
        """The token of each row, chosen by its parameters where the backend computes: the host waits here, once.

        A backend without a device of its own leaves all tokens to the host, and hands it the logits.
        """

    def whole(self, logits: Array) -> np.ndarray:  # (R, V) -> (R, all)
        """The logits in the host's memory; of a model whose vocabulary is divided among ranks, all of them."""

    def compile(self, model: Any, cache: KVCache, rows: int = 1) -> Compiled | None:
        """A faster forward pass for this Model and cache; None: there is none.

        rows: as many of one sequence may be usual in a pass, so that what these passes need may be made at once. The
        cache may replace its arrays between two passes, as it grows: a pass reads them from the cache.
        (The type of `model` is not named here, because transformer.py imports this file.)
        """

    def compile_head(self, head: Any, embedding: Embedding) -> CompiledHead | None:
        """A faster pass of this DraftHead, which reads the rows of its model's embedding; None: there is none."""

    def search_together(self, batch: Batch) -> str | None:
        """Where numbers overflow in a batch of whole sequences, in words; None: all of the model is in this process."""

    def counting(self, ledger: Ledger) -> Self:
        """The same operations, counted in another ledger: for work that is not the model's own."""

    def on_this_thread(self) -> None:
        """Called by a thread that is going to compute, where another one may have made the weights: a thread has a
        current GPU of its own, at first the machine's first one.
        """

    def share_memory(self, processes: int) -> None:
        """From now on so many processes share the machine's memory; of several numbers the largest holds."""

    def available_memory(self) -> int:
        """How many bytes new arrays may take where the backend keeps them; of the machine's memory, its share."""

    def relative_cost(self, rows: int) -> float:
        """About how long a forward pass of so many rows takes, in passes of one row, before that is measured."""
