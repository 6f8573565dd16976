"""The MLP's nonlinearity: act(gate) · up, or act(up) where there is no gate, one row an item.

The numbers have just been written by a product and are read once, from a cache. One row is done by the thread that
finished the product. Many vectors at a time hide the latency of exp; NumPy makes an array for each step of it.
Formulas: ReferenceOps.gate, silu, gelu_tanh, gelu, clamped_gate. Limited by arithmetic: some 20 operations a number.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.buffers import Rows
from tinyinfer.backends.cpu_kernels.functions import erf, larger, sigmoid, smaller, tanh
from tinyinfer.backends.cpu_kernels.kernel import Kernel, Launch, kernel
from tinyinfer.backends.cpu_kernels.scalars import set_float
from tinyinfer.backends.cpu_kernels.vectors import load, splat, store
from tinyinfer.backends.reference import CLAMP

FLOAT, VECTOR = 4, 64  # bytes of a number, and of a vector
LIMIT = np.float32(CLAMP)


@njit(forceinline=True)
def silu(x):
    """x · sigmoid(x), as in Llama."""
    return x * sigmoid(x)


@njit(forceinline=True)
def gelu_tanh(x):
    """x/2 · (1 + tanh(sqrt(2/pi) · (x + 0.044715 x³)))."""
    inner = splat(np.float32(0.7978845608)) * (x + splat(np.float32(0.044715)) * x * x * x)
    return x * splat(np.float32(0.5)) * (splat(np.float32(1)) + tanh(inner))


@njit(forceinline=True)
def gelu(x):
    """x/2 · (1 + erf(x / sqrt(2)))."""
    return x * splat(np.float32(0.5)) * (splat(np.float32(1)) + erf(x * splat(np.float32(0.7071067812))))


@njit(forceinline=True)
def clamped(gate, up):
    """gate · sigmoid(1.702 · gate) · (up + 1), gate at most 7 and up from -7 to 7."""
    gate = smaller(gate, splat(LIMIT))
    up = smaller(larger(up, splat(-LIMIT)), splat(LIMIT))
    return gate * sigmoid(splat(np.float32(1.702)) * gate) * (up + splat(np.float32(1)))


@njit(forceinline=True)
def place(a, item):
    """Where a row's gate, its up and its result begin. a: rows, results, F, their strides."""
    row = a[0] + FLOAT * a[3] * item
    return row, row + FLOAT * a[2], a[1] + FLOAT * a[4] * item


@kernel
def gate_silu(a, item, thread):
    """y = silu(gate) · up. a: rows of gate and up, y, F, strides."""
    gate, up, y = place(a, item)
    for i in range((a[2] + 15) // 16):
        at = VECTOR * i
        store(y + at, silu(load(gate + at)) * load(up + at))
    clear_behind(y, a[2])


@kernel
def gate_gelu_tanh(a, item, thread):
    """y = gelu_tanh(gate) · up. a: rows of gate and up, y, F, strides."""
    gate, up, y = place(a, item)
    for i in range((a[2] + 15) // 16):
        at = VECTOR * i
        store(y + at, gelu_tanh(load(gate + at)) * load(up + at))
    clear_behind(y, a[2])


@kernel
def gate_gelu(a, item, thread):
    """y = gelu(gate) · up. a: rows of gate and up, y, F, strides."""
    gate, up, y = place(a, item)
    for i in range((a[2] + 15) // 16):
        at = VECTOR * i
        store(y + at, gelu(load(gate + at)) * load(up + at))
    clear_behind(y, a[2])


@kernel
def gate_clamped(a, item, thread):
    """y = gpt-oss's gate of gate and up. a: rows of gate and up, y, F, strides."""
    gate, up, y = place(a, item)
    for i in range((a[2] + 15) // 16):
        at = VECTOR * i
        store(y + at, clamped(load(gate + at), load(up + at)))
    clear_behind(y, a[2])


@njit(forceinline=True)
def clear_behind(y, width):
    """Zeros from the width to the end of the last vector: what was read there is another number's."""
    for i in range(width, (width + 15) // 16 * 16):
        set_float(y + FLOAT * i, np.float32(0))


@kernel
def activate_silu(a, item, thread):
    """y = silu(x). a: rows, y, F, strides."""
    x, _, y = place(a, item)
    for i in range((a[2] + 15) // 16):
        store(y + VECTOR * i, silu(load(x + VECTOR * i)))


@kernel
def activate_gelu_tanh(a, item, thread):
    """y = gelu_tanh(x). a: rows, y, F, strides."""
    x, _, y = place(a, item)
    for i in range((a[2] + 15) // 16):
        store(y + VECTOR * i, gelu_tanh(load(x + VECTOR * i)))


@kernel
def activate_gelu(a, item, thread):
    """y = gelu(x). a: rows, y, F, strides."""
    x, _, y = place(a, item)
    for i in range((a[2] + 15) // 16):
        store(y + VECTOR * i, gelu(load(x + VECTOR * i)))


GATES: dict[str, Kernel] = {
    "silu": gate_silu, "gelu_tanh": gate_gelu_tanh, "gelu": gate_gelu, "clamped": gate_clamped
}  # fmt: skip
ACTIVATIONS: dict[str, Kernel] = {
    "silu": activate_silu, "gelu_tanh": activate_gelu_tanh, "gelu": activate_gelu
}  # fmt: skip


def gate(gate_up: Rows, y: Rows, activation: str) -> list[Launch]:
    """y = act(gate) · up, gate the first half of each row."""
    arguments = (gate_up.array, y.array, y.width, gate_up.stride, y.stride)
    return [Launch(GATES[activation], arguments, len(y))]


def activate(x: Rows, y: Rows, activation: str) -> list[Launch]:
    """y = act(x), row by row."""
    return [Launch(ACTIVATIONS[activation], (x.array, y.array, y.width, x.stride, y.stride), len(y))]
