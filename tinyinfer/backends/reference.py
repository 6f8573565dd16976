"""The reference backend: the model's operations as a textbook writes them, on any array module that works like NumPy.

Each operation returns a new array, computed in one line or a few, and counts its work in the ledger. No tiles, no
`out=`, no reuse of memory: this file is for reading, and it is the oracle that every faster backend is compared with.
Wins: it runs wherever `xp` runs, CuPy included. Loses: time (numpy_ops.py says how much, operation by operation).

Arithmetic is float32. Weights in half precision or in packed codes become float32 before they are multiplied.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from copy import copy
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from tinyinfer import arrays
from tinyinfer.arrays import Array, HoldsModule, Xp
from tinyinfer.backends.cpu import default_threads, use_blas_threads
from tinyinfer.backends.int8_inputs import PACKED, PackedA8, grouped_product, w8a8_product
from tinyinfer.backends.limits import SharesMemory
from tinyinfer.backends.packed import W8A8, Packed
from tinyinfer.backends.sparse import Sparse
from tinyinfer.backends.stacked import Stacked, stacked_product
from tinyinfer.backends.uncompiled import Uncompiled
from tinyinfer.ledger import Ledger
from tinyinfer.model.attention import full_attention, visible_pairs
from tinyinfer.model.heads import Heads, NoCap, SoftCap
from tinyinfer.model.interfaces import HOST, KVCache, Sampled
from tinyinfer.model.quantized_matrix import QuantizedMatrix
from tinyinfer.model.weights import (
    Dense,
    Embedding,
    Experts,
    FloatMatrix,
    FullQKNorm,
    LayerNorm,
    Linear,
    Matrix,
    MixedMatrix,
    NoNorm,
    Norm,
    RMSNorm,
    Rotation,
    SparseMatrix,
    Weight,
    check_range,
)
from tinyinfer.sequence import Batch, Wanted

CLAMP = 7.0  # of gpt-oss's gate
Products = MappingProxyType[type, Callable[[Any, Array, Any], Array]]
Activations = MappingProxyType[str, Callable[[Any, Array], Array]]


class ReferenceOps(Uncompiled, HoldsModule, SharesMemory):
    """The formulas. ledger: where work is counted. dtype: how float matrices are stored. xp: the array module.

    threads: of NumPy's products; None: as cpu.default_threads says. activations: "int8" rounds inputs (int8_inputs.py).
    """

    multiplies_codes = False

    def __init__(
        self, ledger: Ledger, dtype: Any = np.float32, threads: int | None = None, xp: Xp = np,
        activations: str = "float",
    ) -> None:  # fmt: skip
        self.ledger, self.dtype, self.xp = ledger, np.dtype(dtype), xp
        self.threads, self.packed, self.loading_threads = threads or default_threads(), PACKED[activations], 1

    def counting(self, ledger: Ledger) -> Self:
        """Returns the same operations, counted in another ledger."""
        other = copy(self)
        other.ledger = ledger
        return other

    # The device.

    def reserve(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:  # -> shape
        return self.xp.zeros(shape, dtype=dtype)

    def to_host(self, array: Array) -> np.ndarray:  # (...,) -> (...,)
        return arrays.to_host(array)

    # Taking weights.

    def take(self, matrix: Matrix) -> Weight:
        if isinstance(matrix, QuantizedMatrix):
            return (W8A8 if matrix.scheme.integer_inputs else self.packed).pack(matrix, self.xp)
        if isinstance(matrix, MixedMatrix):
            return Stacked(tuple(map(self.take, matrix.parts)), self.xp)
        if isinstance(matrix, SparseMatrix):
            return Sparse.pack(matrix, self.dtype, self.xp)
        return fill(self.allocate(*matrix.shape), matrix, self.xp)

    def allocate(self, outputs: int, inputs: int) -> Array:  # -> (inputs, outputs)
        """Allocates the memory of a dense weight, inputs first."""
        return self.xp.empty((inputs, outputs), dtype=self.dtype)

    def take_array(self, *parts: np.ndarray) -> Array:
        return self.xp.asarray(np.concatenate(parts), dtype=np.float32)

    # Operations on rows.

    def embed(self, tokens: Array, positions: Array, embedding: Embedding) -> Array:  # (T,), (T,) -> (T, D)
        x = embedding.table.rows(self.xp.asarray(tokens)) * self.xp.float32(embedding.scale)  # (T, D)
        self.ledger.weight_bytes += len(x) * embedding.table.row_bytes
        if embedding.positions is not None:
            x += embedding.positions[self.xp.asarray(positions)]
            self.ledger.weight_bytes += x.nbytes
        return x

    def rotation(
        self, positions: Array, sets: Array, rotation: Rotation
    ) -> tuple[Array, Array]:  # (T,), (T,) -> (T, 1, E), (T, 1, E)
        """Cosines and sines as the protocol says; before them, BLAS is told this engine's number of threads.

        The number is the process's, and a run of layers begins here.
        """
        if self.xp is np:
            use_blas_threads(self.threads)
        return self.cos_sin(positions, sets, rotation)

    def cos_sin(
        self, positions: Array, sets: Array, rotation: Rotation
    ) -> tuple[Array, Array]:  # (T,), (T,) -> (T, 1, E), (T, 1, E)
        """amplitude · cos and amplitude · sin of position · frequency, for both halves of a head.

        sets: which of the rotation's Z sets each row uses. The first half's sine is negated, as `rope` wants it.
        """
        xp, sets = self.xp, self.xp.asarray(sets)  # sets: (T,)
        frequency, amplitude = rotation.frequencies[sets], rotation.amplitudes[sets]  # (T, E/2), (T, E/2)
        angle = xp.asarray(positions).astype(xp.float32)[:, None] * frequency  # (T, E/2), in radians
        cos, sin = amplitude * xp.cos(angle), amplitude * xp.sin(angle)  # (T, E/2), (T, E/2)
        return xp.concatenate((cos, cos), axis=-1)[:, None], xp.concatenate((-sin, sin), axis=-1)[:, None]

    def norm(self, x: Array, norm: Norm) -> Array:  # (T, ...) -> (T, ...)
        self.ledger.weight_bytes += norm.nbytes
        return self.norms[type(norm)](self, x, norm)

    def linear(self, x: Array, linear: Linear) -> Array:  # (T, M) -> (T, N)
        self.ledger.flops += 2 * len(x) * x.shape[1] * linear.weight.shape[0]
        self.ledger.weight_bytes += linear.nbytes
        y = self.products[type(linear.weight)](self, x, linear.weight)  # (T, N)
        return y if linear.bias is None else y + linear.bias

    def rope(
        self, x: Array, rotation: tuple[Array, Array]
    ) -> Array:  # (T, H+K, E), ((T, 1, E), (T, 1, E)) -> (T, H+K, E)
        (cos, sin), half = rotation, x.shape[-1] // 2
        swapped = self.xp.concatenate((x[..., half:], x[..., :half]), axis=-1)  # (T, H+K, E)
        return x * cos + swapped * sin  # the sine of the first half is negated already (rotation)

    def attention(
        self, q: Array, layer: int, batch: Batch, cache: KVCache, heads: Heads
    ) -> Array:  # (T, H, E) -> (T, H, E)
        outs = []  # of each span, (T, H, E)
        self.ledger.weight_bytes += heads.sinks.nbytes
        for span in (part for whole in batch.spans for part in cache.split(whole)):
            start = 0 if heads.window is None else max(0, span.first - heads.window + 1)  # the oldest key that is seen
            k, v = cache.read(layer, span.seq, start, span.first + span.rows)  # (S, K, E), (S, K, E)
            outs.append(self.attend(q[span.start : span.stop], k, v, span.first, start, heads))
            flops = 4 * heads.queries * heads.size * visible_pairs(span.rows, span.first, heads.window)
            self.ledger.attention_flops += flops
            self.ledger.flops += flops
        return outs[0] if len(outs) == 1 else self.xp.concatenate(outs)

    def attend(
        self, q: Array, k: Array, v: Array, first: int, start: int, heads: Heads
    ) -> Array:  # (T, H, E), (S, K, E), (S, K, E) -> (T, H, E)
        """Attention of one sequence's rows, the first at position `first`, over keys from position `start` on."""
        return full_attention(q, k, v, first, start, heads, self.xp)

    def activate(self, x: Array, activation: str) -> Array:  # (T, F) -> (T, F)
        return self.activations[activation](self, x)

    def gate(self, gate_up: Array, activation: str) -> Array:  # (T, 2*F) -> (T, F)
        half = gate_up.shape[1] // 2
        gate, up = gate_up[:, :half], gate_up[:, half:]  # (T, F), (T, F)
        return self.clamped_gate(gate, up) if activation == "clamped" else self.activate(gate, activation) * up

    def experts(
        self, x: Array, chosen: Array, weights: Array, gate_up: Experts, down: Experts, activation: str
    ) -> Array:  # (T, D), (T, k), (T, k) -> (T, D)
        y = self.xp.zeros_like(x)  # (T, D)
        for e in np.unique(self.to_host(chosen)).tolist():  # an expert that no row chose is neither computed nor read
            rows, slots = self.xp.nonzero(chosen == e)  # (n,), (n,): the n rows that chose expert e
            h = self.gate(self.linear(x[rows], gate_up.linears[e]), activation)  # (n, F)
            # No row is twice in `rows`, else NumPy's += would add only one of its two changes.
            y[rows] += self.linear(h, down.linears[e]) * weights[rows, slots][:, None]
            self.ledger.expert_rows += len(rows)
            self.ledger.experts_read += 1
        return y

    def add(self, x: Array, change: Array, scale: float) -> Array:  # (T, D), (T, D) -> (T, D)
        return x + change * self.xp.float32(scale)

    def gather(self, x: Array, rows: Array) -> Array:  # (T, D), (R,) -> (R, D)
        return x[self.xp.asarray(rows)]

    def scale(self, x: Array, factor: float) -> Array:  # (R, D) -> (R, D)
        return x * self.xp.float32(factor)

    def cap(self, logits: Array, cap: NoCap | SoftCap) -> Array:  # (R, V) -> (R, V)
        return cap(logits, self.xp)

    def sample(self, logits: Array, wanted: Seq[Wanted]) -> Sampled:  # (R, V) ->
        rows = self.to_host(logits)  # (R, V)
        return Sampled(np.full(len(rows), HOST), rows.min(axis=1), rows.max(axis=1), rows)

    def whole(self, logits: Array) -> np.ndarray:  # (R, V) -> (R, all)
        return self.to_host(logits)

    def on_this_thread(self) -> None:
        """Nothing: this backend leaves the choice of a device to its array module."""

    def relative_cost(self, rows: int) -> float:
        """Half a pass for each further row. This backend does not know; too low is soon measured, too high is not."""
        return (1 + rows) / 2

    # By the type of a norm, the name of an activation, the type of a weight.

    def no_norm(self, x: Array, norm: NoNorm) -> Array:  # (T, ...) -> (T, ...)
        """x as it is, where a family has no norm."""
        return x

    def rms_norm(self, x: Array, norm: RMSNorm) -> Array:  # (T, ...) -> (T, ...)
        """x / sqrt(mean(x²) + eps) · weight (Zhang & Sennrich 2019, equation 4)."""
        xp = self.xp
        return x / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + xp.float32(norm.eps)) * norm.weight

    def layer_norm(self, x: Array, norm: LayerNorm) -> Array:  # (T, D) -> (T, D)
        """(x - mean) / sqrt(var + eps) · weight + bias (Ba et al. 2016, equation 4)."""
        xp, centered = self.xp, x - x.mean(axis=-1, keepdims=True)  # (T, D)
        variance = (centered * centered).mean(axis=-1, keepdims=True)  # (T, 1)
        return centered / xp.sqrt(variance + xp.float32(norm.eps)) * norm.weight + norm.bias

    def full_qk_norm(self, x: Array, norm: FullQKNorm) -> Array:  # (T, H+K, E) -> (T, H+K, E)
        """All query heads of a row as one vector and all key heads as another, each by its own norm."""
        rows, split = x.reshape(len(x), -1), len(norm.query.weight)  # (T, (H+K)·E); split at H·E
        # (T, H·E), (T, K·E)
        parts = self.rms_norm(rows[:, :split], norm.query), self.rms_norm(rows[:, split:], norm.key)
        return self.xp.concatenate(parts, axis=1).reshape(x.shape)

    def silu(self, x: Array) -> Array:  # (T, F) -> (T, F)
        """x · sigmoid(x), as x/2 · (1 + tanh(x/2)), which cannot overflow (Elfwing et al. 2017)."""
        half = x * self.xp.float32(0.5)  # (T, F)
        return half * (self.xp.tanh(half) + self.xp.float32(1))

    def gelu_tanh(self, x: Array) -> Array:  # (T, F) -> (T, F)
        """x/2 · (1 + tanh(sqrt(2/pi) · (x + 0.044715 x³))) (Hendrycks & Gimpel 2016)."""
        f = self.xp.float32
        return x * f(0.5) * (self.xp.tanh(f(0.7978845608) * (x + f(0.044715) * x * x * x)) + f(1))

    def gelu(self, x: Array) -> Array:  # (T, F) -> (T, F)
        """x · Φ(x), Φ the normal distribution (Hendrycks & Gimpel 2016, section 2)."""
        f = self.xp.float32
        return x * f(0.5) * (error_function(x * f(0.7071067812), self.xp) + f(1))

    def clamped_gate(self, gate: Array, up: Array) -> Array:  # (T, F), (T, F) -> (T, F)
        """gate · sigmoid(1.702 · gate) · (up + 1), gate at most 7 and up from -7 to 7 (OpenAI 2025, gpt-oss)."""
        f, limit = self.xp.float32, self.xp.float32(CLAMP)
        gate, up = self.xp.minimum(gate, limit), self.xp.clip(up, -limit, limit)  # (T, F), (T, F)
        return self.silu(gate * f(1.702)) * f(1 / 1.702) * (up + f(1))

    def float_product(self, x: Array, weight: Weight) -> Array:  # (T, M) -> (T, N)
        """x Wᵀ, the weight's numbers converted to float32 first."""
        return x @ weight.dequantize(slice(0, weight.shape[0]))

    norms: ClassVar[Products] = MappingProxyType(
        {NoNorm: no_norm, RMSNorm: rms_norm, LayerNorm: layer_norm, FullQKNorm: full_qk_norm}
    )
    activations: ClassVar[Activations] = MappingProxyType({"silu": silu, "gelu_tanh": gelu_tanh, "gelu": gelu})
    products: ClassVar[Products] = MappingProxyType({
        Dense: float_product, Packed: float_product, PackedA8: grouped_product, W8A8: w8a8_product,
        Stacked: stacked_product, Sparse: float_product,
    })  # fmt: skip


def fill(array: Array, matrix: FloatMatrix, xp: Xp) -> Dense:  # (M, N) ->
    """The dense weight that has the matrix in this memory. Raises ModelError for numbers that its type cannot hold."""
    for start, rows in matrix.tiles():
        check_range(matrix, start, rows, array.dtype)
        array[:, start : start + len(rows)] = xp.asarray(rows).T
    return Dense(array)


def error_function(x: Array, xp: Xp) -> Array:  # (...,) -> (...,)
    """erf(x), at most 2e-7 off in float32: NumPy has none (Abramowitz & Stegun 1964, formula 7.1.26)."""
    f, size = xp.float32, xp.abs(x)  # (...,)
    t = f(1) / (f(1) + f(0.3275911) * size)  # (...,)
    series = t * (
        f(0.254829592) + t * (f(-0.284496736) + t * (f(1.421413741) + t * (f(-1.453152027) + t * f(1.061405429))))
    )
    return xp.copysign(f(1) - series * xp.exp(-size * size), x)
