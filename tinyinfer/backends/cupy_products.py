"""Products by cuBLAS where CuPy's `@` would convert, copy or round: types said one by one, arrays as they lie.

cuBLAS reads matrices column by column, so to it a row-major (T, M) array is its transpose, and y = x Wᵀ is asked for as
yᵀ = W xᵀ. Nothing here can be captured in a CUDA graph: CuPy refuses cuBLAS there (kernels/ has its own products).
"""

from __future__ import annotations

import ctypes

import numpy as np

from tinyinfer.arrays import Array, Xp

TYPES = {"float32": 0, "float16": 2, "int8": 3, "int32": 10, "bfloat16": 14}  # cudaDataType, in CUDA's library_types.h


def half_product(x: Array, weight: Array, xp: Xp) -> Array:  # (T, M), (N, M) -> (T, N)
    """x Wᵀ in float32 of weights in half precision, x rounded to their type, sums in float32."""
    rounded, y = x.astype(weight.dtype), xp.empty((len(x), len(weight)), dtype=xp.float32)  # (T, M), (T, N)
    _gemm(rounded, weight, y, xp.cuda.cublas.CUBLAS_COMPUTE_32F, ctypes.c_float, xp)
    return y


def integer_product(codes: Array, weight: Array, xp: Xp) -> Array:  # (T, M), (N, M) -> (T, N)
    """The exact sums of products of whole numbers up to 127 in size, which are given in float32 and in int8.

    cuBLAS multiplies int8 where N and M are multiples of 4; else float64, which holds every such sum, does.
    """
    outputs, inputs = weight.shape
    if outputs % 4 or inputs % 4:
        return codes.astype(xp.float64) @ weight.T.astype(xp.float64)
    y = xp.empty((len(codes), outputs), dtype=xp.int32)  # (T, N)
    _gemm(codes.astype(xp.int8), weight, y, xp.cuda.cublas.CUBLAS_COMPUTE_32I, ctypes.c_int32, xp)
    return y


def _gemm(x: Array, weight: Array, y: Array, compute: int, kind: type, xp: Xp) -> None:  # (T, M), (N, M), (T, N) ->
    """y = x Wᵀ, all three row-major and whole; kind: the type of the factors 1 and 0."""
    (outputs, inputs), blas = weight.shape, xp.cuda.cublas
    if not (len(x) and x.flags.c_contiguous and weight.flags.c_contiguous):
        y[...] = x.astype(xp.float32) @ weight.T.astype(xp.float32)
        return
    one, zero, types = kind(1), kind(0), [TYPES[array.dtype.name] for array in (weight, x, y)]
    blas.gemmEx(
        xp.cuda.get_cublas_handle(), blas.CUBLAS_OP_T, blas.CUBLAS_OP_N, outputs, len(x), inputs,
        ctypes.addressof(one), weight.data.ptr, types[0], inputs, x.data.ptr, types[1], inputs,
        ctypes.addressof(zero), y.data.ptr, types[2], outputs, compute, blas.CUBLAS_GEMM_DEFAULT_TENSOR_OP,
    )  # fmt: skip


def scores(q: Array, k: Array, scale: float, xp: Xp) -> Array:  # (K, n, E), (S, K, E) -> (K, n, S)
    """scale · q kᵀ in each key head, n queries to a head; the keys are read where the cache has them."""
    s = xp.empty((len(q), q.shape[1], len(k)), dtype=xp.float32)  # (K, n, S)
    (keys, queries, size), row, head = q.shape, *_strides(k)
    _batched(xp, True, (len(k), queries, size), (k, row, head), (q, size, queries * size), (s, len(k)), scale, keys)
    return s


def mix(p: Array, v: Array, xp: Xp) -> Array:  # (K, n, S), (S, K, E) -> (K, n, E)
    """p v in each key head, n queries to a head: the values weighed, read where the cache has them."""
    keys, queries, rows = p.shape
    size, row, head = v.shape[2], *_strides(v)
    y = xp.empty((keys, queries, size), dtype=xp.float32)  # (K, n, E)
    _batched(xp, False, (size, queries, rows), (v, row, head), (p, rows, queries * rows), (y, size), 1.0, keys)
    return y


def _strides(rows: Array) -> tuple[int, int]:  # (S, K, E) ->
    """How many numbers lie from one row of a head to its next, and from a head to the next one."""
    return rows.strides[0] // rows.itemsize, rows.strides[1] // rows.itemsize


def _batched(
    xp: Xp, transposed: bool, sizes: tuple[int, int, int], a: tuple[Array, int, int], b: tuple[Array, int, int],
    y: tuple[Array, int], factor: float, count: int,
) -> None:  # fmt: skip
    """`count` products of matrices that lie column by column: y = factor · op(a) b, in float32.

    sizes: rows of y, columns of y, and the length of a sum. a, b: an array, the numbers from one column to the next,
    and from one matrix to the next; y: whole matrices of so many rows.
    """
    blas, one, zero = xp.cuda.cublas, ctypes.c_float(factor), ctypes.c_float(0)
    operation = blas.CUBLAS_OP_T if transposed else blas.CUBLAS_OP_N
    blas.sgemmStridedBatched(
        xp.cuda.get_cublas_handle(), operation, blas.CUBLAS_OP_N, *sizes, ctypes.addressof(one),
        a[0].data.ptr, a[1], a[2], b[0].data.ptr, b[1], b[2], ctypes.addressof(zero),
        y[0].data.ptr, y[1], sizes[0] * sizes[1], count,
    )  # fmt: skip


def is_dense(array: Array) -> bool:  # (S, K, E) ->
    """Whether cuBLAS can read the rows where they lie: the numbers of one side by side, in float32."""
    return bool(array.strides[2] == array.itemsize and array.dtype == np.float32)
