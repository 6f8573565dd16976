"""The NumPy backend: the reference's operations where NumPy can be made faster, with the same results and ledger.

Three ideas. Elementwise operations work on a few rows at a time, so that temporaries stay in the core's cache, and into
arrays that are there already. Attention walks over tiles with an online softmax (flash.py). Products follow what BLAS
does well: memory order, few rows, tiles of codes. Each override says what it saves: the reference's time divided by its
own in a prefill of 512 rows, for the shapes of SmolLM2-135M and of Llama 3.2 1B, and in decode where that differs.
Measured by `python benchmarks/operations.py --shape smollm2-135m` and `--shape llama-1b` on 2 cores.

Wins: nothing but NumPy is needed. Loses: NumPy's BLAS has only float32 products, so half precision and packed codes
save memory and no time.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.backends.cpu import given_back, keep_freed_memory, lazy_array
from tinyinfer.backends.flash import tiled_attention
from tinyinfer.backends.int8_inputs import PackedA8, exact_by_floats, sum_of_groups
from tinyinfer.backends.packed import LANES, W8A8, Packed, round_groups, round_rows
from tinyinfer.backends.reference import CLAMP, Products, ReferenceOps, error_function
from tinyinfer.backends.sparse import Sparse
from tinyinfer.ledger import Ledger
from tinyinfer.model.heads import Heads
from tinyinfer.model.weights import Dense, FullQKNorm, LayerNorm, Matrix, RMSNorm, Weight

TILE = 1 << 16  # numbers worked on at a time: a quarter of a megabyte of float32 stays in a core's cache
WIDE_TILE = 1 << 18  # numbers of a weight widened at a time: a megabyte of float32
FEW_ROWS = 3  # so many rows are multiplied one by one
SLICE = 1040  # inputs whose 8-bit products sum exactly in float32: 127² · 1040 < 2^24
# Rows of a pass -> its time in passes of one row, on 2 cores. Drafts begin with it (speculative/costs.py).
COSTS = {1: 1.0, 2: 1.3, 4: 2.3, 8: 2.7, 16: 3.3, 32: 4.2, 128: 11.0, 512: 42.0}


class NumpyOps(ReferenceOps):
    """The operations on NumPy arrays. Freed memory is kept for the next array, in the whole process."""

    def __init__(
        self, ledger: Ledger, dtype: Any = np.float32, threads: int | None = None, activations: str = "float"
    ) -> None:
        super().__init__(ledger, dtype, threads, activations=activations)
        keep_freed_memory(self)

    def take(self, matrix: Matrix) -> Weight:
        """The memory of weights goes back to the system when the model goes; that of temporaries is kept."""
        with given_back():
            return super().take(matrix)

    def relative_cost(self, rows: int) -> float:
        return float(np.interp(rows, list(COSTS), list(COSTS.values())))

    def reserve(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:  # -> shape
        """The system gives memory only where the array is written, so the unused part of a cache costs nothing."""
        return lazy_array(shape, dtype)

    def allocate(self, outputs: int, inputs: int) -> Array:  # -> (inputs, outputs)
        """Allocates a weight in the order that BLAS reads fastest in decode, where a product waits for memory.

        An inputs-first matrix is read as columns to be scaled and added, which for a wide one runs twice as fast as a
        dot product for each output. For a long one (fewer outputs than inputs) dot products are faster: in decode they
        save 1.88x (SmolLM2) and 1.16x (Llama 1B) of the reference's time, in prefill nothing.
        """
        if outputs < inputs:
            return np.empty((outputs, inputs), dtype=self.dtype).T
        return super().allocate(outputs, inputs)

    # Elementwise, some rows at a time.

    def rms_norm(self, x: Array, norm: RMSNorm) -> Array:  # (T, ...) -> (T, ...)
        """Computes a few rows at a time, and x² is never in memory.

        Saves 1.29x (SmolLM2) and 1.38x (Llama 1B) of the reference's time. `layer_norm` and `full_qk_norm` do the same.
        """
        return by_rows(lambda rows, out: rms_norm_into(x[rows], norm, out), x.shape)

    def layer_norm(self, x: Array, norm: LayerNorm) -> Array:  # (T, D) -> (T, D)
        """Computes a few rows at a time, so that the centered rows stay in cache (not measured; see `rms_norm`)."""
        return by_rows(lambda rows, out: layer_norm_into(x[rows], norm, out), x.shape)

    def full_qk_norm(self, x: Array, norm: FullQKNorm) -> Array:  # (T, H+K, E) -> (T, H+K, E)
        """Computes a few rows at a time, and joins no arrays of queries and keys (not measured; see `rms_norm`)."""
        return by_rows(lambda rows, out: full_qk_norm_into(x[rows], norm, out), x.shape)

    def rope(
        self, x: Array, rotation: tuple[Array, Array]
    ) -> Array:  # (T, H+K, E), ((T, 1, E), (T, 1, E)) -> (T, H+K, E)
        """Rotates a few rows at a time.

        Saves nothing (0.99x) for SmolLM2 and 1.22x for Llama 1B. In decode it loses: 0.73x, the two microseconds that
        the call of `by_rows` takes.
        """
        cos, sin = rotation
        return by_rows(lambda rows, out: rotate_into(x[rows], cos[rows], sin[rows], out), x.shape)

    def activate(self, x: Array, activation: str) -> Array:  # (T, F) -> (T, F)
        """Computes a few rows at a time, so that temporaries stay in cache (not measured; see `gate`)."""
        f = ACTIVATIONS[activation]
        return by_rows(lambda rows, out: f(x[rows], out), x.shape)

    def gate(self, gate_up: Array, activation: str) -> Array:  # (T, 2*F) -> (T, F)
        """Computes a few rows at a time. Saves 1.09x (SmolLM2) and 1.22x (Llama 1B) of the reference's time."""
        f, half = GATES[activation], gate_up.shape[1] // 2
        return by_rows(lambda rows, out: f(gate_up[rows, :half], gate_up[rows, half:], out), (len(gate_up), half))

    def add(self, x: Array, change: Array, scale: float) -> Array:  # (T, D), (T, D) -> (T, D)
        """Adds in place, so that the residual stream needs no new array for each change; multiplies by no scale of 1.

        Saves 1.04x (SmolLM2) and 1.52x (Llama 1B) of the reference's time.
        """
        x += change if scale == 1 else change * np.float32(scale)
        return x

    # Attention and products.

    def attend(
        self, q: Array, k: Array, v: Array, first: int, start: int, heads: Heads
    ) -> Array:  # (T, H, E), (S, K, E), (S, K, E) -> (T, H, E)
        """Attends tile by tile, and skips the tiles that lie wholly in the future.

        Over 512 keys: saves 1.50x for SmolLM2 and loses a little (0.98x) for Llama 1B; in decode saves 2.02x and 1.65x.
        Saves more with longer prompts, because more of their tiles are skipped.
        """
        return tiled_attention(q, k, v, first, start, heads, np)

    def dense_product(self, x: Array, weight: Dense) -> Array:  # (T, M) -> (T, N)
        """Multiplies a few rows one by one (see `multiply`), and widens a weight in half precision a tile at a time.

        Saves memory in half precision: no whole weight is ever in memory as float32 (the time is not measured).
        """
        if weight.array.dtype == np.float32:
            return multiply(x, weight.array)
        return multiply_tiles(x, weight, max(1, WIDE_TILE // weight.shape[1]))

    def packed_product(self, x: Array, weight: Packed) -> Array:  # (T, M) -> (T, N)
        """Multiplies some blocks of outputs at a time: no more codes become floats than stay in a cache.

        int8 in decode saves 2.64x (SmolLM2) and 2.17x (Llama 1B) of the reference's time. In prefill it loses for
        SmolLM2 (0.86x) and saves little for Llama 1B (1.03x). No whole weight is ever in memory as floats.
        """
        return multiply_tiles(x, weight, max(1, WIDE_TILE // weight.shape[1] // LANES) * LANES)

    def sparse_product(self, x: Array, weight: Sparse) -> Array:  # (T, M) -> (T, N)
        """Makes some outputs at a time dense, and multiplies those (not measured; see `packed_product`)."""
        return multiply_tiles(x, weight, max(1, WIDE_TILE // weight.shape[1]))

    def grouped_product(self, x: Array, weight: PackedA8) -> Array:  # (T, M) -> (T, N)
        """Multiplies the whole numbers as floats, by BLAS, some blocks of outputs at a time as `packed_product` does.

        Saves most of the time of the reference's integer product (the ratio is not measured).
        """
        rounded = round_groups(x, weight.scheme.group_size, np)  # (T, M), (T, G)
        y = np.empty((len(x), weight.shape[0]), dtype=np.float32)  # (T, N)
        step = max(1, WIDE_TILE // weight.shape[1] // LANES) * LANES
        for start in range(0, weight.shape[0], step):
            tile = slice(start, start + step)
            y[:, tile] = sum_of_groups(rounded, weight, tile, exact_by_floats)
        return y

    def w8a8_product(self, x: Array, weight: W8A8) -> Array:  # (T, M) -> (T, N)
        """Multiplies the whole numbers as floats, by BLAS: NumPy's product of integers is a loop without BLAS.

        Saves most of the time of the reference's integer product (the ratio is not measured).
        """
        codes, scale = round_rows(x, np)  # (T, M), (T, 1)
        total = integer_product(codes, weight.codes).astype(np.float32)  # (T, N); int32 times float32 is float64
        return total * weight.scale.astype(np.float32) * scale

    norms: ClassVar[Products] = MappingProxyType(
        {**ReferenceOps.norms, RMSNorm: rms_norm, LayerNorm: layer_norm, FullQKNorm: full_qk_norm}
    )
    products: ClassVar[Products] = MappingProxyType({
        **ReferenceOps.products, Dense: dense_product, Packed: packed_product, PackedA8: grouped_product,
        W8A8: w8a8_product, Sparse: sparse_product,
    })  # fmt: skip


def multiply(x: Array, matrix: Array) -> Array:  # (T, M), (M, N) -> (T, N)
    """x @ matrix; a few rows one by one.

    A product of two matrices first copies the large one into blocks, which takes twice as long as reading it; that
    pays only when enough rows use the blocks. So 2 rows cost half of a product, and the knee lies between 4 and 8.
    """
    if not 1 < len(x) <= FEW_ROWS:
        return x @ matrix
    y = np.empty((len(x), matrix.shape[1]), dtype=np.float32)  # (T, N)
    for row, out in zip(x, y, strict=True):
        np.matmul(row, matrix, out=out)
    return y


def multiply_tiles(x: Array, weight: Weight, step: int) -> Array:  # (T, M) -> (T, N)
    """x Wᵀ, `step` outputs at a time in float32."""
    y = np.empty((len(x), weight.shape[0]), dtype=np.float32)  # (T, N)
    for start in range(0, weight.shape[0], step):
        tile = slice(start, start + step)
        y[:, tile] = multiply(x, weight.dequantize(tile))
    return y


def integer_product(q: Array, codes: Array) -> Array:  # (T, M), (M, N) -> (T, N)
    """The product of whole numbers up to 127 in size, exact in int32, by float32 products of slices of inputs."""
    inputs, outputs = codes.shape
    y = np.zeros((len(q), outputs), dtype=np.int32)  # (T, N)
    step = max(1, WIDE_TILE // min(inputs, SLICE))
    for start in range(0, outputs, step):
        tile = slice(start, start + step)
        for first in range(0, inputs, SLICE):
            part = slice(first, first + SLICE)
            # Sums of SLICE products are whole numbers below 2^24, which float32 holds exactly; int32 adds them up.
            y[:, tile] += (q[:, part] @ codes[part, tile].astype(np.float32)).astype(np.int32)
    return y


def by_rows(work: Callable[[slice, Array], Any], shape: tuple[int, ...]) -> Array:  # -> shape
    """The array of that shape that work(rows, out) fills: a few rows at a time, so that temporaries stay in cache."""
    out = np.empty(shape, dtype=np.float32)  # (T, ...)
    step = max(1, TILE * len(out) // max(1, out.size))  # rows of about TILE numbers together
    for start in range(0, len(out), step):
        rows = slice(start, start + step)
        work(rows, out[rows])
    return out


def rms_norm_into(x: Array, norm: RMSNorm, out: Array) -> None:  # (T, ...), (T, ...) ->
    """x / sqrt(mean(x²) + eps) · weight."""
    mean = np.vecdot(x, x) / np.float32(x.shape[-1])  # (T, ...) without the last axis; x² is never in memory
    np.multiply(x, (np.float32(1) / np.sqrt(mean + np.float32(norm.eps)))[..., None], out=out)
    out *= norm.weight


def layer_norm_into(x: Array, norm: LayerNorm, out: Array) -> None:  # (T, D), (T, D) ->
    """(x - mean) / sqrt(var + eps) · weight + bias."""
    np.subtract(x, x.mean(axis=-1, keepdims=True), out=out)
    out /= np.sqrt((out * out).mean(axis=-1, keepdims=True) + np.float32(norm.eps))
    out *= norm.weight
    out += norm.bias


def full_qk_norm_into(x: Array, norm: FullQKNorm, out: Array) -> None:  # (T, H+K, E), (T, H+K, E) ->
    """All query heads of a row as one vector, and all key heads as another, each by its own norm."""
    x, out = x.reshape(len(x), -1), out.reshape(len(x), -1)  # (T, (H+K)·E), twice: views
    split = len(norm.query.weight)
    rms_norm_into(x[:, :split], norm.query, out[:, :split])
    rms_norm_into(x[:, split:], norm.key, out[:, split:])


def rotate_into(
    x: Array, cos: Array, sin: Array, out: Array
) -> None:  # (T, H+K, E), (T, 1, E), (T, 1, E), (T, H+K, E) ->
    """(a, b) -> (a·cos - b·sin, b·cos + a·sin), a and b the halves of each head."""
    half = x.shape[-1] // 2
    swapped = np.empty(x.shape, dtype=np.float32)  # (T, H+K, E)
    swapped[..., :half], swapped[..., half:] = x[..., half:], x[..., :half]
    swapped *= sin
    np.multiply(x, cos, out=out)
    out += swapped


def silu_into(x: Array, out: Array) -> None:  # (T, F), (T, F) ->
    """x · sigmoid(x), as x/2 · (1 + tanh(x/2)), which cannot overflow (Elfwing et al. 2017)."""
    half = x * np.float32(0.5)  # (T, F)
    np.tanh(half, out=out)
    out += np.float32(1)
    out *= half


def gelu_tanh_into(x: Array, out: Array) -> None:  # (T, F), (T, F) ->
    """x/2 · (1 + tanh(sqrt(2/pi) · (x + 0.044715 x³))) (Hendrycks & Gimpel 2016)."""
    np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x), out=out)
    out += np.float32(1)
    out *= x * np.float32(0.5)


def gelu_into(x: Array, out: Array) -> None:  # (T, F), (T, F) ->
    """x · Φ(x), Φ the normal distribution (Hendrycks & Gimpel 2016, section 2)."""
    np.add(error_function(x * np.float32(0.7071067812), np), np.float32(1), out=out)
    out *= x * np.float32(0.5)


def gate_by(activate: Activation) -> Gate:
    """The usual gate: act(gate) · up."""

    def gate_into(gate: Array, up: Array, out: Array) -> None:  # (T, F), (T, F), (T, F) ->
        activate(gate, out)
        out *= up

    return gate_into


def clamped_gate_into(gate: Array, up: Array, out: Array) -> None:  # (T, F), (T, F), (T, F) ->
    """gate · sigmoid(1.702 · gate) · (up + 1), gate at most 7 and up from -7 to 7 (OpenAI 2025, gpt-oss)."""
    silu_into(np.minimum(gate, np.float32(CLAMP)) * np.float32(1.702), out)
    out *= np.float32(1 / 1.702)
    out *= np.clip(up, np.float32(-CLAMP), np.float32(CLAMP)) + np.float32(1)


Activation = Callable[[Array, Array], None]
Gate = Callable[[Array, Array, Array], None]
ACTIVATIONS: dict[str, Activation] = {"silu": silu_into, "gelu_tanh": gelu_tanh_into, "gelu": gelu_into}
GATES: dict[str, Gate] = {name: gate_by(f) for name, f in ACTIVATIONS.items()} | {"clamped": clamped_gate_into}
