"""Products with 2:4 weights: the reference's numbers, by either way to pick inputs, for any company and any place."""

from __future__ import annotations

import platform
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from helpers import ROUNDING, distance, finish, make_engine, request, small_config
from processes import printed
from sparse_matrices import packed, two_of_four
from test_product_kernels import DTYPES, close, inputs, multiply

from tinyinfer import LLM, SamplingParams
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.clock import WallClock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import build_engine
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.loading.saving import save_model
from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.model.weights import MASK, TWO_OF_FOUR, Floats, Linear, SparseMatrix
from tinyinfer.quantization.rtn import round_to_nearest

pytestmark = pytest.mark.cpu
ROWS = [*range(1, 8), 13, 30, 31, 64, 200]  # tiles of every size, and rows that share dense weights
SHAPES = [(130, 68), (64, 300), (577, 132), (5, 4)]  # N, M: no multiples of 64 and 32
WAYS = [True, False] if platform.machine() in ("x86_64", "AMD64") else [False]


@pytest.fixture(params=WAYS, ids=lambda at_once: "one instruction" if at_once else "any CPU")
def way(request, monkeypatch):
    """Both ways to pick an input, whatever this CPU would choose."""
    from tinyinfer.backends.cpu_kernels import sparse_product

    monkeypatch.setattr(sparse_product, "picks", lambda: request.param)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", DTYPES)
def test_a_product_is_the_reference_s(name, shape, way):
    """Catches words of another output, bfloat16 and places in different orders, and inputs left out at the end."""
    w = two_of_four(*shape).astype(DTYPES[name])
    bias = np.arange(shape[0], dtype=np.float32)
    for rows in ROWS:
        x = inputs(rows, shape[1])
        close(multiply(packed(w, DTYPES[name]), x, bias), x, w, bias)


@pytest.mark.parametrize("name", DTYPES)
def test_every_place_of_every_four_is_picked(name, way):
    """Each output keeps one pair of one four. Catches a pair that is read as another, and bits of its neighbours."""
    pairs = list(combinations(range(4), 2))
    for shift in range(16):
        w = np.zeros((6 * 16, 64), np.float32)
        for n in range(len(w)):
            w[n, [4 * ((n // 6 + shift) % 16) + place for place in pairs[n % 6]]] = 1, 256
        for rows in (1, 3, 64):
            x = (np.arange(rows * 64, dtype=np.float32) % 251).reshape(rows, 64)
            np.testing.assert_array_equal(multiply(packed(w, DTYPES[name]), x), x @ w.T)


@pytest.mark.parametrize("name", DTYPES)
def test_a_row_has_the_same_bits_whatever_its_company(name, way):
    """Few rows pick inputs and many share dense weights. Catches another order of additions for one of them."""
    x, weight = inputs(200, 300), packed(two_of_four(130, 300), DTYPES[name])
    y = multiply(weight, x)
    for first, rows in ((0, 1), (3, 1), (0, 2), (1, 4), (5, 5), (7, 7), (150, 17), (40, 40)):
        np.testing.assert_array_equal(multiply(weight, x[first : first + rows]), y[first : first + rows])


@pytest.mark.parametrize("rows", [1, 6, 40])
def test_a_change_is_added_to_what_was_there(rows, way):
    """y += add · (x Wᵀ + bias). Catches a factor that one of the ways forgets."""
    w, x = two_of_four(130, 68), inputs(rows, 68)
    bias, before = np.linspace(-3, 3, 130, dtype=np.float32), inputs(rows, 130, seed=2)
    close(multiply(packed(w), x, bias, 0.25, before), x, w, bias, 0.25, before)


@pytest.mark.parametrize("rows", [1, 9, 40])
def test_what_is_not_finite_stays_in_its_row(rows, way):
    """Catches padding that becomes NaN and is read by every later pass; `multiply` looks at it."""
    x, w = inputs(rows, 68), two_of_four(130, 68)
    x[-1, 3] = np.nan
    y = multiply(packed(w), x, np.ones(130, np.float32), 1.0, np.ones((rows, 130)))
    assert np.isnan(y[-1, w[:, 3] != 0]).all()
    assert np.isfinite(y[:-1]).all()


def test_on_a_cpu_without_avx():
    """In a process of its own. Catches an instruction, or a function of LLVM's, that such a CPU does not have."""
    script = """
import test_sparse_product as t, tinyinfer.backends.cpu_kernels.sparse_tile as s
assert not s.picks()
for name in t.DTYPES:
    w = t.two_of_four(130, 68).astype(t.DTYPES[name])
    for rows in (1, 2, 5, 40):
        x = t.inputs(rows, 68)
        t.close(t.multiply(t.packed(w, t.DTYPES[name]), x), x, w, t.np.zeros(130, t.np.float32))
print("done")"""
    if platform.machine() in ("x86_64", "AMD64"):
        assert printed(script, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="") == "done"


def numba_ops(dtype=np.float32):
    """The compiled backend, with a ledger of its own."""
    from tinyinfer.backends.numba_ops import NumbaOps

    return NumbaOps(Ledger(), dtype, threads=2)


def test_which_matrices_keep_no_zeros():
    """Floats 2:4 do; masks and codes become dense. Catches a type that no kernel multiplies."""
    w, ops = two_of_four(70, 68), numba_ops()
    codes = round_to_nearest(w, QuantScheme(4, 32, symmetric=True))
    kinds = {
        "TwoOfFourLanes": SparseMatrix(Floats("w", w), TWO_OF_FOUR),
        "DenseLanes": SparseMatrix(Floats("w", w), MASK),
        "PackedLanes": SparseMatrix(codes, TWO_OF_FOUR),
    }
    x = inputs(3, 68)
    for name, matrix in kinds.items():
        weight = ops.take(matrix)
        assert type(weight).__name__ == name
        numbers = codes.dequantize() if name == "PackedLanes" else w
        close(ops.linear(x, Linear(weight)), x, numbers, np.zeros(70, np.float32))


WEIGHTS = "model.safetensors"
PRUNED = {"prune": "magnitude", "sparsity": "2:4"}


@pytest.mark.parametrize("family", ["llama3", "mixtral"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pruned_folder_is_the_same_from_every_backend(family, dtype, golden_folder, tmp_path):
    """Written from lanes and read into them. Catches a fused tensor's places, an expert left dense, a count of bytes.

    The ledger's weights are those that the NumPy backend reads.
    """
    source, folders, found, read = golden_folder(family), [], [], []
    for backend in ("numpy", "numba"):
        folders.append(tmp_path / backend)
        llm = LLM(str(source), backend=backend, dtype=dtype, **PRUNED)
        save_model(folders[-1], llm.model, load(source), {"method": "magnitude"})
    assert (folders[0] / WEIGHTS).read_bytes() == (folders[1] / WEIGHTS).read_bytes()
    for backend in ("numpy", "numba"):
        llm = LLM(str(folders[1]), backend=backend, dtype=dtype)
        found.append(llm.logits([1, 5, 9, 4, 2]))
        llm.generate([[1, 5, 9]], SamplingParams(max_tokens=3))
        read.append((llm.model.nbytes, llm.ledger.weight_bytes))
    assert distance(found[1], found[0]) < ROUNDING
    assert read[1] == read[0]


def test_a_stranger_s_sparse_embedding_is_looked_up():
    """No kernel reads its rows, so the pass is not compiled. Catches an error where there was an answer."""
    found = []
    for ops in (NumpyOps(Ledger()), numba_ops()):
        model = make_engine(small_config(), ops=ops).model
        w = two_of_four(*model.embedding.table.shape)
        table = ops.take(SparseMatrix(Floats("w", w), TWO_OF_FOUR))
        model = replace(model, embedding=replace(model.embedding, table=table))
        engine = build_engine(model, ops, EngineConfig(), WallClock())
        found.append(finish(engine, request([1, 2, 3, 4, 5], 6)))
    assert found[0] == found[1]
