"""The reference backend: the model's operations in plain NumPy, each a few lines, each counting its work.

Whatever another backend does faster, it must give these results and this ledger. Arithmetic is float32 throughout;
weights kept in half precision, or as packed codes, are widened a tile at a time. In NumPy that saves memory and no
time: its BLAS has only float32 products, so every weight is still multiplied as a float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.backends.cpu import lazy_array, tune_process
from tinyinfer.backends.packed import LANES, Quantized, QuantizedExperts
from tinyinfer.errors import ModelError
from tinyinfer.ledger import Ledger
from tinyinfer.model.attention import tiled_attention, visible_pairs
from tinyinfer.model.weights import (
    Dense,
    Embedding,
    Experts,
    FullQKNorm,
    LayerNorm,
    Linear,
    NoNorm,
    Norm,
    RMSNorm,
    Weight,
)

if TYPE_CHECKING:
    from tinyinfer.kv_cache.base import Cache
    from tinyinfer.loading.checkpoint import LazyTensor
    from tinyinfer.model.interfaces import KVCache, Step
    from tinyinfer.model.transformer import Model
    from tinyinfer.model.weights import Heads
    from tinyinfer.sequence import Batch

TILE = 1 << 16  # numbers worked on at a time: a quarter of a megabyte of float32 stays in a core's cache

WIDE_TILE = 1 << 18  # numbers of a weight widened at a time: a megabyte of float32
FEW_ROWS = 3  # so many are multiplied one by one
COSTS = {1: 1.0, 2: 1.3, 4: 2.3, 8: 2.7, 16: 3.3, 32: 4.2, 128: 11.0, 512: 42.0}  # rows of a pass: its time, measured


class NumpyOps:
    """The operations on NumPy arrays.

    ledger: where work is counted. dtype: how float matrices are stored. threads: None for all cores.
    """

    xp: Any = np

    def __init__(self, ledger: Ledger, dtype: Any = np.float32, threads: int | None = None) -> None:
        tune_process(threads)
        self.ledger = ledger
        self.dtype = np.dtype(dtype)
        self.products: dict[type, Callable[[Array, Any], Array]] = {  # a product for each type of weight
            Dense: self.dense_product,
            Quantized: self.quantized_product,
        }

    def relative_cost(self, rows: int) -> float:
        """About how long a forward pass of so many rows takes, a pass of one row being 1."""
        return float(np.interp(rows, list(COSTS), list(COSTS.values())))

    def compile(self, model: Model, cache: KVCache) -> Step | None:
        """None: NumPy runs `transformer` as it stands."""
        return None

    # Taking weights: from rows of outputs in a file to the layout of Dense.

    def take(self, *parts: LazyTensor) -> Dense:
        """The parts, each (N_i, M), below one another as one Dense weight; no part is ever in memory twice.

        Decode is a matrix-vector product and waits for memory, so the layout follows BLAS: it reads inputs-first
        matrices as columns to be scaled and added, which for a wide one runs twice as fast as a dot product per output.
        """
        inputs, outputs = parts[0].shape[1], sum(part.shape[0] for part in parts)
        if outputs < inputs:  # few and long: here the dot products are a fifth faster
            array = np.empty((outputs, inputs), dtype=self.dtype).T
        else:
            array = np.empty((inputs, outputs), dtype=self.dtype)
        column = 0
        for part in parts:
            for start, rows in part.tiles():
                check_range(part, rows, self.dtype)
                array[:, column + start : column + start + len(rows)] = rows.T
            column += part.shape[0]
        return Dense(array)

    def take_experts(self, *parts: LazyTensor) -> Experts:
        """The parts, each (X, N_i, M), below one another in each expert."""
        experts, _, inputs = parts[0].shape
        array = np.empty((experts, inputs, sum(part.shape[1] for part in parts)), dtype=self.dtype)
        column = 0
        for part in parts:
            for start, stack in part.tiles():
                check_range(part, stack, self.dtype)
                array[start : start + len(stack), :, column : column + part.shape[1]] = stack.transpose(0, 2, 1)
            column += part.shape[1]
        return Experts(array)

    def take_array(self, *parts: np.ndarray) -> Array:
        """Small arrays (norms, biases), joined, kept in float32."""
        return np.ascontiguousarray(np.concatenate(parts), dtype=np.float32)

    def reserve(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:  # -> shape
        """An uninitialized array for a cache: memory is used only where it is written."""
        return lazy_array(shape, dtype)

    def to_host(self, array: Array) -> np.ndarray:
        """The array itself: the host is the device."""
        return array

    # Operations on rows.

    def embed(self, tokens: Array, positions: Array, embedding: Embedding) -> Array:  # (T,), (T,) -> (T, D)
        """Each token's vector, and its position's where the model learned one."""
        x = embedding.table.rows(tokens)
        self.ledger.weight_bytes += len(x) * embedding.table.row_bytes
        if embedding.scale != 1.0:
            x *= np.float32(embedding.scale)
        if embedding.positions is not None:
            x += embedding.positions[positions]
            self.ledger.weight_bytes += x.nbytes
        return x

    def linear(self, x: Array, linear: Linear) -> Array:  # (T, M) -> (T, N)
        """x @ weight + bias."""
        rows, inputs = x.shape
        self.ledger.flops += 2 * rows * inputs * linear.weight.shape[0]
        self.ledger.weight_bytes += linear.nbytes
        y = self.products[type(linear.weight)](x, linear.weight)
        if linear.bias is not None:
            y += linear.bias
        return y

    def dense_product(self, x: Array, weight: Dense) -> Array:  # (T, M) -> (T, N)
        """x @ weight; a weight in half precision is widened a tile of outputs at a time."""
        if weight.array.dtype == np.float32:
            return multiply(x, weight.array)
        return multiply_tiles(x, weight, max(1, WIDE_TILE // weight.shape[1]))

    def quantized_product(self, x: Array, weight: Quantized) -> Array:  # (T, M) -> (T, N)
        """x @ weight, some blocks of outputs at a time: no more codes become floats than stay in a cache."""
        return multiply_tiles(x, weight, max(1, WIDE_TILE // weight.shape[1] // LANES) * LANES)

    def expert_linear(
        self, x: Array, experts: Experts | QuantizedExperts, starts: Array
    ) -> Array:  # (T, M), (X+1,) -> (T, N)
        """Rows starts[e] ... starts[e+1] times expert e, for every expert that has rows."""
        y = np.empty((len(x), experts.expert(0).shape[0]), dtype=np.float32)
        for e in np.flatnonzero(np.diff(starts)):
            rows = slice(starts[e], starts[e + 1])
            y[rows] = self.linear(x[rows], Linear(experts.expert(int(e))))
        return y

    def norm(self, x: Array, norm: Norm) -> Array:  # (T, ..., N) -> (T, ..., N)
        """Every row brought to unit scale, as the norm's type says; other axes before the last are rows too."""
        self.ledger.weight_bytes += norm.nbytes
        if isinstance(norm, NoNorm):
            return x
        f = NORMS[type(norm)]
        return by_rows(lambda rows, out: f(x[rows], norm, out), x.shape)

    def rotation(
        self, positions: Array, frequencies: Array
    ) -> tuple[Array, Array]:  # (T,), (E/2,) -> (T, 1, E), (T, 1, E)
        """Cosine and sine of position times frequency, for both halves of a head; the first half's sine negated."""
        angles = positions.astype(np.float32)[:, None, None] * frequencies
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate((cos, cos), axis=-1), np.concatenate((-sin, sin), axis=-1)

    def rope(
        self, x: Array, rotation: tuple[Array, Array]
    ) -> Array:  # (T, H+K, E), ((T, 1, E), (T, 1, E)) -> (T, H+K, E)
        """Each pair (x[e], x[e + E/2]) turned by its angle (Su et al. 2021, equation 34)."""
        cos, sin = rotation
        return by_rows(lambda rows, out: rotate(x[rows], cos[rows], sin[rows], out), x.shape)

    def attention(self, q: Array, i: int, batch: Batch, cache: Cache, heads: Heads) -> Array:  # (T, H, E) -> (T, H, E)
        """Each sequence's rows over that sequence's keys and values of layer i, as the cache remembers them."""
        outs = []
        for piece in (piece for span in batch.spans for piece in cache.split(span)):
            start = 0 if heads.window is None else max(0, piece.first - heads.window + 1)
            k, v = cache.read(i, piece.seq, start, piece.first + piece.rows)
            rows = q[piece.start : piece.stop]
            outs.append(tiled_attention(rows, k, v, piece.first, start, heads.scale, heads.window, np))
            pairs = visible_pairs(len(rows), piece.first, heads.window)
            self.ledger.attention_flops += 4 * heads.queries * heads.size * pairs
            self.ledger.flops += 4 * heads.queries * heads.size * pairs
        return outs[0] if len(outs) == 1 else np.concatenate(outs)

    def activate(self, x: Array, activation: str) -> Array:  # (T, F) -> (T, F)
        """The nonlinearity of that name."""
        f = ACTIVATIONS[activation]
        return by_rows(lambda rows, out: f(x[rows], out), x.shape)

    def gate(self, gate_up: Array, activation: str) -> Array:  # (T, 2*F) -> (T, F)
        """act(gate) · up, of the two halves."""
        f, half = ACTIVATIONS[activation], gate_up.shape[1] // 2

        def work(rows: slice, out: Array) -> None:
            f(gate_up[rows, :half], out)
            out *= gate_up[rows, half:]

        return by_rows(work, (len(gate_up), half))

    def add(self, x: Array, change: Array) -> Array:  # (T, D), (T, D) -> (T, D)
        """The residual stream after a change, in place."""
        x += change
        return x


def check_range(tensor: LazyTensor, rows: Array, dtype: Any) -> None:  # (n, ...) ->
    """Raises ModelError when a number of these rows would become infinite in dtype."""
    ends = np.array((rows.min(initial=0), rows.max(initial=0)))
    with np.errstate(over="ignore"):
        if dtype == np.float32 or np.isfinite(ends.astype(dtype)).all():
            return
    raise ModelError(
        f"{tensor.path}: tensor {tensor.name!r} holds {ends[np.abs(ends).argmax()]:.7g}, too large for {dtype}; "
        "choose dtype float32, or bfloat16, which reaches to 3e38"
    )


def multiply(x: Array, matrix: Array) -> Array:  # (T, M), (M, N) -> (T, N)
    """x @ matrix; a few rows one by one.

    A product of two matrices first copies the large one into blocks, which takes twice as long as reading it; that
    pays only when enough rows use the blocks. So 2 rows cost half of a product, and the knee lies between 4 and 8.
    """
    if not 1 < len(x) <= FEW_ROWS:
        return x @ matrix
    y = np.empty((len(x), matrix.shape[1]), dtype=np.float32)
    for row, out in zip(x, y, strict=True):
        np.matmul(row, matrix, out=out)
    return y


def multiply_tiles(x: Array, weight: Weight, step: int) -> Array:  # (T, M) -> (T, N)
    """x @ weight, `step` outputs at a time in float32."""
    y = np.empty((len(x), weight.shape[0]), dtype=np.float32)
    for start in range(0, weight.shape[0], step):
        tile = slice(start, start + step)
        y[:, tile] = multiply(x, weight.dequantize(tile))
    return y


def by_rows(work: Callable[[slice, Array], Any], shape: tuple[int, ...]) -> Array:  # -> shape
    """The array of that shape that work(rows, out) fills: a few rows at a time, so that temporaries stay in cache."""
    out = np.empty(shape, dtype=np.float32)
    step = max(1, TILE * len(out) // max(1, out.size))
    for start in range(0, len(out), step):
        rows = slice(start, start + step)
        work(rows, out[rows])
    return out


def rms_norm(x: Array, norm: RMSNorm, out: Array) -> None:  # (T, ..., N), (T, ..., N) ->
    """x / sqrt(mean(x²) + eps) · weight."""
    mean = np.vecdot(x, x) / np.float32(x.shape[-1])
    np.multiply(x, (np.float32(1) / np.sqrt(mean + np.float32(norm.eps)))[..., None], out=out)
    out *= norm.weight


def layer_norm(x: Array, norm: LayerNorm, out: Array) -> None:  # (T, D), (T, D) ->
    """(x - mean) / sqrt(var + eps) · weight + bias."""
    np.subtract(x, x.mean(axis=-1, keepdims=True), out=out)
    out /= np.sqrt((out * out).mean(axis=-1, keepdims=True) + np.float32(norm.eps))
    out *= norm.weight
    out += norm.bias


def full_qk_norm(x: Array, norm: FullQKNorm, out: Array) -> None:  # (T, H+K, E), (T, H+K, E) ->
    """All query heads of a row as one vector, and all key heads as another, each by its own norm."""
    x, out = x.reshape(len(x), -1), out.reshape(len(x), -1)  # views: a row's heads lie side by side
    split = len(norm.query.weight)
    rms_norm(x[:, :split], norm.query, out[:, :split])
    rms_norm(x[:, split:], norm.key, out[:, split:])


def rotate(x: Array, cos: Array, sin: Array, out: Array) -> None:  # (T, H+K, E), (T, 1, E), (T, 1, E), (T, H+K, E) ->
    """(a, b) -> (a·cos - b·sin, b·cos + a·sin), a and b the halves of each head."""
    half = x.shape[-1] // 2
    swapped = np.empty(x.shape, dtype=np.float32)
    swapped[..., :half], swapped[..., half:] = x[..., half:], x[..., :half]
    swapped *= sin
    np.multiply(x, cos, out=out)
    out += swapped


def silu(x: Array, out: Array) -> None:  # (T, F), (T, F) ->
    """x · sigmoid(x), as x/2 · (1 + tanh(x/2)), which cannot overflow (Elfwing et al. 2017)."""
    half = x * np.float32(0.5)
    np.tanh(half, out=out)
    out += np.float32(1)
    out *= half


def gelu_tanh(x: Array, out: Array) -> None:  # (T, F), (T, F) ->
    """x/2 · (1 + tanh(sqrt(2/pi) · (x + 0.044715 x³))) (Hendrycks & Gimpel 2016)."""
    np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x), out=out)
    out += np.float32(1)
    out *= x * np.float32(0.5)


NORMS: dict[type, Callable[[Array, Any, Array], None]] = {
    RMSNorm: rms_norm,
    LayerNorm: layer_norm,
    FullQKNorm: full_qk_norm,
}
ACTIVATIONS: dict[str, Callable[[Array, Array], None]] = {"silu": silu, "gelu_tanh": gelu_tanh}
