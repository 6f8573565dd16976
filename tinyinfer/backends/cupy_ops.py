"""The CuPy backend: the reference's operations on a GPU, in few launches, with the same results and ledger.

Everything runs here without a kernel of kernels/: every cache, scheduler and drafter, weights in float32, float16 and
bfloat16, packed codes and W8A8. Each override says what it saves. Steps that `compile` covers run by those kernels
instead, unless --gpu-decode is eager.

Half precision multiplies on tensor cores: x is rounded to the weights' type, sums are float32. Everything else is
float32, as in the reference.

Wins: a GPU's bandwidth. Loses: each operation costs about 10 microseconds of the host, so that a small model in decode
waits for the host and not for the GPU (docs/gpu.md).
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from tinyinfer.arrays import Array, Xp
from tinyinfer.backends.cupy_device import find_cupy, free_memory
from tinyinfer.backends.cupy_kernels import kernels
from tinyinfer.backends.cupy_products import half_product, integer_product, is_dense, mix, scores
from tinyinfer.backends.int8_inputs import PACKED_ROWS, PackedRowsA8, grouped_product
from tinyinfer.backends.packed import W8A8, round_rows
from tinyinfer.backends.packed_rows import PackedRows
from tinyinfer.backends.reference import Products, ReferenceOps
from tinyinfer.backends.stacked import Stacked, stacked_product
from tinyinfer.ledger import Ledger
from tinyinfer.model.attention import fold, unfold
from tinyinfer.model.heads import Heads
from tinyinfer.model.interfaces import HOST, Compiled, KVCache, Sampled
from tinyinfer.model.quantized_matrix import QuantizedMatrix
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import Dense, Matrix, RMSNorm, SparseMatrix, Weight
from tinyinfer.noise import gumbels
from tinyinfer.sampling import is_plain
from tinyinfer.sequence import Wanted

WIDE_TILE = 1 << 24  # numbers of a packed weight widened at a time: 64 MB
MOST_SCORES = 1 << 26  # scores of attention at a time: 256 MB
FAR = 1 << 40  # the window of a layer without one
RIDGE = 256.0  # rows of a pass up to which an H100 waits for the weights: the roofline's prediction, not measured


class CupyOps(ReferenceOps):
    """The operations on CuPy arrays. decode: the switch gpu_decode. xp: CuPy, or in tests what stands in for it.

    threads: refused before it comes here; a GPU has none to choose. Raises SwitchError where CuPy or a device is
    missing.
    """

    multiplies_codes = True

    def __init__(
        self, ledger: Ledger, dtype: Any = np.float32, threads: int | None = None, decode: str = "graph",
        xp: Xp | None = None, activations: str = "float",
    ) -> None:  # fmt: skip
        super().__init__(ledger, dtype, threads, find_cupy() if xp is None else xp, activations)
        self.decode, self.packed_rows = decode, PACKED_ROWS[activations]
        self.device = self.xp.cuda.Device()  # the current one

    def on_this_thread(self) -> None:
        self.device.use()

    def reserve(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:  # -> shape
        """Reserves without a launch that fills the memory with zeros."""
        return self.xp.empty(shape, dtype=dtype)

    def available_memory(self) -> int:
        return free_memory(self.xp)

    def relative_cost(self, rows: int) -> float:
        """Up to the ridge of the roofline a pass takes the time of reading the weights, however many rows it has."""
        return max(1.0, rows / RIDGE)

    # Taking weights.

    def take(self, matrix: Matrix) -> Weight:
        """Codes lie as dense weights do, outputs first; of a sparse matrix the zeros, too."""
        if isinstance(matrix, SparseMatrix):
            return self.take(matrix.matrix)
        if not isinstance(matrix, QuantizedMatrix):
            return super().take(matrix)
        if not matrix.scheme.integer_inputs:
            return self.packed_rows.pack(matrix, self.xp)
        packed = W8A8.pack(matrix, np)
        codes = self.xp.asarray(np.ascontiguousarray(packed.codes.T))  # (N, M)
        return W8A8(codes.T, self.xp.asarray(packed.scale))

    def allocate(self, outputs: int, inputs: int) -> Array:  # -> (inputs, outputs)
        """Allocates outputs first, each output's weights side by side: as the kernels of kernels/ read them."""
        return self.xp.empty((outputs, inputs), dtype=self.dtype).T

    # Elementwise, several operations to a launch.

    def rms_norm(self, x: Array, norm: RMSNorm) -> Array:  # (T, ...) -> (T, ...)
        """Two launches: the sum of squares, and the rest. Saves four of the reference's six."""
        own, f = kernels(self.xp), np.float32
        return own.rms(x, own.squares(x, axis=-1, keepdims=True), f(x.shape[-1]), f(norm.eps), norm.weight)

    def rope(
        self, x: Array, rotation: tuple[Array, Array]
    ) -> Array:  # (T, H+K, E), ((T, 1, E), (T, 1, E)) -> (T, H+K, E)
        """One launch for both halves of each head. Saves three."""
        (cos, sin), half, out = rotation, x.shape[-1] // 2, self.xp.empty(x.shape, dtype=x.dtype)  # out: (T, H+K, E)
        kernels(self.xp).turn(
            x[..., :half], x[..., half:], cos[..., half:], sin[..., half:], out[..., :half], out[..., half:]
        )
        return out

    def activate(self, x: Array, activation: str) -> Array:  # (T, F) -> (T, F)
        """One launch. Saves three, or with an error function twenty."""
        return kernels(self.xp).activations[activation](x)

    def gate(self, gate_up: Array, activation: str) -> Array:  # (T, 2*F) -> (T, F)
        """One launch. Saves four."""
        half = gate_up.shape[1] // 2
        return kernels(self.xp).gates[activation](gate_up[:, :half], gate_up[:, half:])

    def add(self, x: Array, change: Array, scale: float) -> Array:  # (T, D), (T, D) -> (T, D)
        """One launch, into the memory of x. Saves one."""
        kernels(self.xp).add(change, np.float32(scale), x)
        return x

    # Attention and products.

    def attend(
        self, q: Array, k: Array, v: Array, first: int, start: int, heads: Heads
    ) -> Array:  # (T, H, E), (S, K, E), (S, K, E) -> (T, H, E)
        """As many queries at a time as their scores have room for, each time with the keys that one of them sees."""
        if not (is_dense(k) and is_dense(v)):
            return super().attend(q, k, v, first, start, heads)
        step, parts = max(1, MOST_SCORES // (heads.queries * len(k))), []
        for at in range(0, len(q), step):
            some, position = q[at : at + step], first + at  # some: (T, H, E)
            oldest = 0 if heads.window is None else max(0, position - heads.window + 1 - start)
            keys = slice(oldest, position + len(some) - start)
            parts.append(self.attend_few(some, k[keys], v[keys], position, start + oldest, heads))  # each (T, H, E)
        return parts[0] if len(parts) == 1 else self.xp.concatenate(parts)

    def attend_few(
        self, q: Array, k: Array, v: Array, first: int, start: int, heads: Heads
    ) -> Array:  # (T, H, E), (S, K, E), (S, K, E) -> (T, H, E)
        """The formula of `full_attention`; keys and values are read in place, and one row sees all of its keys.

        Saves 9 launches of 15 in decode, and the copies of keys and values that CuPy's own product makes.
        """
        xp, own, i = self.xp, kernels(self.xp), np.int64
        folded = xp.ascontiguousarray(fold(q, k.shape[1]))  # (K, H/K·T, E)
        s = heads.cap(scores(folded, k, heads.scale, xp), xp)  # (K, H/K·T, S)
        if len(q) > 1:
            own.hide(i(len(q)), i(len(k)), i(first - start), i(heads.window or FAR), np.float32(-np.inf), s)
        largest = heads.sinks.largest(s.max(axis=-1, keepdims=True), xp)  # (K, H/K·T, 1)
        own.grow(largest, s)
        total = heads.sinks.total(s.sum(axis=-1, keepdims=True), largest, xp)  # (K, H/K·T, 1)
        mixed = mix(s, v, xp)  # (K, H/K·T, E)
        mixed /= total
        return unfold(mixed, len(q))

    def dense_product(self, x: Array, weight: Dense) -> Array:  # (T, M) -> (T, N)
        """Half precision is multiplied as it is: the reference converts the whole weight for each product."""
        if weight.array.dtype == np.float32:
            return x @ weight.array
        return half_product(x, weight.array.T, self.xp)

    def packed_product(self, x: Array, weight: PackedRows) -> Array:  # (T, M) -> (T, N)
        """Unpacks some outputs at a time on the device, so that no whole weight is in memory as floats."""
        step = max(1, WIDE_TILE // weight.shape[1])
        tiles = [slice(at, at + step) for at in range(0, weight.shape[0], step)]
        y = [x @ weight.dequantize(tile) for tile in tiles]  # each (T, outputs of the tile)
        return y[0] if len(y) == 1 else self.xp.concatenate(y, axis=1)

    def w8a8_product(self, x: Array, weight: W8A8) -> Array:  # (T, M) -> (T, N)
        """Whole numbers, by cuBLAS; the sum is exact, as in the reference."""
        f, (codes, scale) = self.xp.float32, round_rows(x, self.xp)  # (T, M), (T, 1)
        total = integer_product(codes, weight.codes.T, self.xp)  # (T, N)
        return total.astype(f) * weight.scale.astype(f) * scale

    norms: ClassVar[Products] = MappingProxyType({**ReferenceOps.norms, RMSNorm: rms_norm})
    products: ClassVar[Products] = MappingProxyType({
        Dense: dense_product, PackedRows: packed_product, PackedRowsA8: grouped_product, W8A8: w8a8_product,
        Stacked: stacked_product,
    })  # fmt: skip

    # The whole.

    def sample(self, logits: Array, wanted: Seq[Wanted]) -> Sampled:  # (R, V) ->
        """Chooses greedily or at a temperature; the host waits once, for three numbers of each row.

        Filters, penalties and log-probabilities are left to the host.
        """
        if not wanted:
            return Sampled(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32))
        xp, tokens = self.xp, logits.argmax(axis=1)  # (R,)
        drawn = [row for row, (params, *_) in enumerate(wanted) if is_plain(params) and params.temperature > 0]
        if drawn:
            rows = xp.asarray(np.array(drawn))  # (n,)
            tokens[rows] = self.draw(logits[rows], [wanted[row] for row in drawn])
        told = xp.stack([part.astype(xp.float64) for part in (tokens, logits.min(axis=1), logits.max(axis=1))])
        chosen, low, high = self.to_host(told)  # (R,), (R,), (R,)
        left = [not is_plain(params) for params, *_ in wanted]
        return Sampled(np.where(left, HOST, chosen.astype(np.int64)), low.astype(np.float32), high.astype(np.float32))

    def draw(self, logits: Array, wanted: Seq[Wanted]) -> Array:  # (R, V) -> (R,)
        """Tokens drawn at temperatures above 0: the largest score with the noise of each row's seed and position."""
        xp = self.xp
        seeds = xp.asarray(np.array([seed for *_, seed in wanted], dtype=np.uint64))  # (R,)
        positions = xp.asarray(np.array([len(prompt) + len(new) for _, prompt, new, _ in wanted], dtype=np.uint64))
        heat = xp.asarray(np.array([params.temperature for params, *_ in wanted]))  # (R,)
        s = logits.astype(xp.float64)  # (R, V)
        s = (s - s.max(axis=1, keepdims=True)) / heat[:, None]  # (R, V)
        s += gumbels(seeds, positions, s.shape[1], xp)
        return s.argmax(axis=1)

    def compile(self, model: Model, cache: KVCache, rows: int = 1) -> Compiled | None:
        """None: every step runs operation by operation."""
        if self.decode == "eager":
            return None
        from tinyinfer.backends.kernels.graph_step import compile_step

        return compile_step(model, cache, self)
