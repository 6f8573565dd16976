"""Small kernels for CuPy: several elementwise operations in one launch, which is what an operation costs there.

An operation on CuPy takes the host about 10 microseconds to launch, however small it is, and a layer's formulas are 46
operations on one row. CuPy compiles a line of C for each element (ElementwiseKernel) or for a sum (ReductionKernel) to
one launch, so a layer needs 20, or 24 in half precision, where each product's input is rounded. The formulas are those
of backends/reference.py, named beside each kernel.

Wins: launches, without a kernel that has to be laid out over threads. Loses: a sum and what follows it are two
launches; the kernels of kernels/ do a whole norm and its product in one.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

from tinyinfer.arrays import Xp

ACTIVATIONS = {  # of g, as expressions
    "silu": "0.5f * g * (1.0f + tanhf(0.5f * g))",
    "gelu_tanh": "0.5f * g * (1.0f + tanhf(0.7978845608f * (g + 0.044715f * g * g * g)))",
    "gelu": "0.5f * g * (1.0f + erff(0.7071067812f * g))",
}
CLAMPED = """
float c = 1.702f * fminf(g, 7.0f);
y = 0.5f * c * (1.0f + tanhf(0.5f * c)) * (1.0f / 1.702f) * (fminf(fmaxf(u, -7.0f), 7.0f) + 1.0f)
"""


@cache
def kernels(xp: Xp) -> SimpleNamespace:
    """The kernels on an array module; compiled when they are first used, once for the process.

    squares, rms: rms_norm. turn: rope. add: add. hide, grow: the mask of full_attention, and exp of what it leaves.
    activations, gates: by their names, activate and gate.
    """
    elementwise, reduction = xp.ElementwiseKernel, xp.ReductionKernel
    return SimpleNamespace(
        squares=reduction("float32 x", "float32 y", "x * x", "a + b", "y = a", "0", "squares"),
        rms=elementwise(
            "float32 x, float32 total, float32 count, float32 eps, float32 weight", "float32 y",
            "y = x / sqrtf(total / count + eps) * weight", "rms",
        ),
        turn=elementwise(
            "float32 a, float32 b, float32 cosine, float32 sine", "float32 first, float32 second",
            "first = a * cosine - b * sine; second = b * cosine + a * sine", "turn",
        ),
        add=elementwise("float32 change, float32 scale", "float32 x", "x = x + change * scale", "add"),
        hide=elementwise(  # i: the place in the scores, (K, H/K·T, S)
            "int64 rows, int64 keys, int64 ahead, int64 window, float32 hidden", "float32 s",
            "long long back = ahead + i / keys % rows - i % keys; if (back < 0 || back >= window) s = hidden", "hide",
        ),
        grow=elementwise("float32 largest", "float32 s", "s = expf(s - largest)", "grow"),
        activations={
            name: elementwise("float32 g", "float32 y", f"y = {text}", name) for name, text in ACTIVATIONS.items()
        },
        gates={
            name: elementwise("float32 g, float32 u", "float32 y", text, f"gate_{name}")
            for name, text in {n: f"y = {t} * u" for n, t in ACTIVATIONS.items()}.items() | {("clamped", CLAMPED)}
        },
    )  # fmt: skip
