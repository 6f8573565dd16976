"""small_batch_product.cu: products of halves with float32 sums, whatever the shape, the weight and the epilogue.

Expected are sums in float64 of the same halves. What the kernel may differ by is derived: n additions in
float32 lose at most n / 2^24 of the sum of the products' sizes, and a number that lies so near to the middle between
two halves that float32 may take it for the other side may become either half.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from kernels.harness import InOut, Out, run_source
from kernels.products import KernelWeight, make_weight
from kernels.shim import BuildError, ShimModule
from scipy.special import erf, expit

from tinyinfer.backends.kernels.source import kernel_source

EPS = 1e-5
UNIT = 2.0**-24  # half the distance of 1 to the next float32
FACTOR = 0.25
SMALL = ["Dense<bfloat16>", "Packed<4, 32, false>"]
MORE = ["Dense<float16>", "Packed<8, 0, true>", "Packed<8, 32, true>", "Packed<4, 0, true>", "Packed<3, 32, false>",
        "Packed<2, 32, false>"]  # fmt: skip


def halves(
    exact: np.ndarray, error: np.ndarray, kind: str
) -> tuple[np.ndarray, np.ndarray]:  # (n, M), (n, M) -> (n, M), (n, M)
    """Numbers as halves, and by how much each may be another half if it is known only to +- error."""
    half = np.float16 if kind == "Dense<float16>" else ml_dtypes.bfloat16
    low, near, high = ((exact + sign * error).astype(np.float32).astype(half).astype(np.float64) for sign in (-1, 0, 1))
    return near, high - low


def product(
    x: np.ndarray, norm: np.ndarray | None, weight: KernelWeight, bias: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:  # (T, M), (M,), (N,) -> (T, N), (T, N)
    """The sums, and by how much the kernel's may differ."""
    exact, inputs = x.astype(np.float64), x.shape[1]  # (T, M)
    error = np.zeros_like(exact)
    if norm is not None:
        exact = exact / np.sqrt((exact**2).mean(axis=1, keepdims=True) + EPS) * norm
        error = (inputs / 2 + 8) * UNIT * np.abs(exact)  # the sum of squares in any order, a root, three roundings
    a, a_moved = halves(exact, error, weight.kind)
    numbers = weight.floats.astype(np.float64)  # (N, M)
    rounding = 0 if weight.kind.startswith("Dense") else 8 * UNIT * np.abs(numbers).max(axis=1, keepdims=True)
    w, w_moved = halves(numbers, rounding, weight.kind)
    size = np.abs(a) @ np.abs(w).T  # (T, N)
    right = a @ w.T + (0 if bias is None else bias)
    moved = a_moved @ np.abs(w).T + np.abs(a) @ w_moved.T + a_moved @ w_moved.T
    return right, moved + (inputs + 64) * UNIT * (size + np.abs(right))


def gated(name: int, gate: np.ndarray, up: np.ndarray) -> np.ndarray:  # (T, F), (T, F) -> (T, F)
    """reference.py's gates, by their other formulas."""
    if name == 3:
        gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
        return gate * expit(1.702 * gate) * (up + 1)
    cubic = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
    act = [gate * expit(gate), gate * (1 + np.tanh(cubic)) / 2, gate * (1 + erf(gate / np.sqrt(2))) / 2][name]
    return act * up


def compare(
    kind: str, count: int, inputs: int, outputs: int, *, epilogue: int = 0, activation: int = 0, normed: bool = False,
    biased: bool = False, processors: int = 132, grid: tuple[int, ...] = (3,), seeds: tuple[int, ...] = (1,),
) -> None:  # fmt: skip
    """The kernel's result of random numbers within the bounds."""
    rng = np.random.default_rng(count * inputs + outputs)
    x = (2 * rng.standard_normal((count, inputs))).astype(np.float32)
    norm = rng.uniform(0.5, 2, inputs).astype(np.float32) if normed else None
    bias = rng.standard_normal(outputs).astype(np.float32) if biased else None
    weight = make_weight(kind, outputs, inputs)
    before = rng.standard_normal((count, outputs)).astype(np.float32)
    y: Any = InOut(before) if epilogue == 1 else Out((count, outputs // 2 if epilogue == 2 else outputs))
    constants = {"T": count, "INPUTS": inputs, "OUTPUTS": outputs, "EPS": EPS, "EPILOGUE": epilogue,
                 "ACTIVATION": activation, "Weight": kind}  # fmt: skip
    source = kernel_source("small_batch_product", constants).replace("PROCESSORS = 132", f"PROCESSORS = {processors}")
    args = [x, norm, *weight.pointers, bias, y, np.float32(FACTOR)]
    [found] = run_source(source, "small_batch_product", args, grid=grid, seeds=seeds)
    right, bound = product(x, norm, weight, bias)
    if epilogue == 1:
        right, bound = before + FACTOR * right, FACTOR * bound + 2 * UNIT * (np.abs(before) + np.abs(FACTOR * right))
    if epilogue == 2:
        (gate, up), (d_gate, d_up) = np.split(right, 2, axis=1), np.split(bound, 2, axis=1)
        right = gated(activation, gate, up)
        steep = 1.13 * d_gate + 8 * UNIT * np.abs(gate)  # no gate rises faster; roundings, those of tanhf and erff, too
        bound = steep * (np.abs(up) + 1 + d_up) + np.abs(gate) * (d_up + 2 * UNIT) + 8 * UNIT * np.abs(right)
    assert (np.abs(found - right) <= bound).all(), float((np.abs(found - right) / bound).max())


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize(("count", "inputs", "outputs"), [(9, 64, 24), (17, 42, 51)])
def test_products_of_any_shape(kind: str, count: int, inputs: int, outputs: int) -> None:
    """Catches an unguarded tail of rows, inputs or outputs, a chunk added twice, a tile read before it is stored."""
    compare(kind, count, inputs, outputs, normed=True, biased=True, grid=(1, 5), seeds=(1, 2))


@pytest.mark.parametrize("epilogue", [1, 2])
def test_what_follows_a_product(epilogue: int) -> None:
    """Catches gate and up exchanged or of different columns, a bias after the factor, a residual that is lost."""
    compare("Dense<bfloat16>", 12, 48, 56, epilogue=epilogue, biased=True)


@pytest.mark.parametrize(("count", "inputs", "outputs"), [(70, 72, 140), (16, 40, 200)])
def test_large_tiles(count: int, inputs: int, outputs: int) -> None:
    """64 x 64 and 16 x 128, as of many outputs. Catches a place in shared memory that two numbers share."""
    compare("Dense<bfloat16>", count, inputs, outputs, processors=1, normed=True)


SHAPES = [(16, 256, 48, 132), (33, 200, 70, 1), (9, 13, 7, 132), (20, 6, 33, 132), (64, 96, 130, 1), (130, 64, 256, 1)]


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("kind", "count", "inputs", "outputs", "processors"),
    [("Dense<bfloat16>", *shape) for shape in SHAPES] + [(kind, *shape) for kind in MORE for shape in SHAPES[:3]]
    + [("Packed<4, 32, false>", *shape) for shape in SHAPES[3:]],
)  # fmt: skip
def test_products_of_more_shapes(kind: str, count: int, inputs: int, outputs: int, processors: int) -> None:
    """Every shape of a tile, every packing, and inputs that fill no load of 16 bytes."""
    compare(kind, count, inputs, outputs, normed=outputs % 4 > 0, biased=True, processors=processors, grid=(1, 7))


@pytest.mark.cuda
@pytest.mark.parametrize("activation", [0, 1, 2, 3])
def test_every_gate(activation: int) -> None:
    """Of a width that is no multiple of 8: the last 8 columns of gate have no up beside them."""
    kind = (SMALL + MORE)[activation]
    compare(kind, 18, 64, 2 * 27, epilogue=2, activation=activation, normed=True, biased=True, grid=(1, 4))
    compare(kind, 65, 96, 2 * 72, epilogue=2, activation=activation, processors=1)


@pytest.mark.cuda
@pytest.mark.parametrize(("inputs", "outputs", "epilogue"), [(576, 960, 0), (576, 3072, 2), (1536, 576, 1)])
def test_the_products_of_smollm2(inputs: int, outputs: int, epilogue: int) -> None:
    """16 rows, at the shapes that a step has. Catches what only many steps of tiles show."""
    compare("Dense<bfloat16>", 16, inputs, outputs, epilogue=epilogue, normed=epilogue != 1, grid=(264,), seeds=(1,))


def test_float32_weights_are_refused_when_the_kernel_is_compiled() -> None:
    """They would be rounded to halves without a word."""
    constants = {"T": 16, "INPUTS": 32, "OUTPUTS": 8, "EPS": EPS, "EPILOGUE": 0, "ACTIVATION": 0,
                 "Weight": "Dense<float32>"}  # fmt: skip
    with pytest.raises(BuildError, match="float32 weights are left to cuBLAS"):
        ShimModule(kernel_source("small_batch_product", constants))
