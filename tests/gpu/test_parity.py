"""The CuPy backend against NumPy in one process: each operation, each golden family, each feature of an engine.

`python -m pytest -m gpu -n 0 tests/gpu` on a machine with a GPU; `-m cuda` runs the same tests on the fake CuPy.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from features import CACHES, CONFIGS, DRAFTS, SERVING, WEIGHTS, WITH_TEXT
from golden import FAMILIES, load_golden
from helpers import ROUNDING, TOLERANCE, distance, flat_batch, lazy, request
from parity import DEVICES, Device, assert_engines_agree, assert_same, engine_on

from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.kv_cache.contiguous import ContiguousCache
from tinyinfer.loading import load
from tinyinfer.loading.build import build_model
from tinyinfer.loading.checkpoint import Joined
from tinyinfer.model.config import Rows
from tinyinfer.model.heads import Heads, NoCap, NoSinks, Sinks, SoftCap
from tinyinfer.model.interfaces import HOST
from tinyinfer.model.quantized_matrix import W8A8_SCHEME, QuantScheme
from tinyinfer.model.transformer import transformer
from tinyinfer.model.weights import Embedding, Experts, FullQKNorm, LayerNorm, Linear, RMSNorm, Rotation
from tinyinfer.quantization.rtn import round_to_nearest
from tinyinfer.sampling import choose
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import make_batch

HALF = 2e-2  # of the largest value: what rounding a row to bfloat16 costs a product
TYPES = {np.float32: ROUNDING, np.float16: 2e-3, ml_dtypes.bfloat16: HALF}
pytestmark = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture
def on(device: str) -> Device:
    """The device that the test's name says."""
    return Device(device)


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# Operations


@pytest.mark.parametrize("rows", [1, 2, 7, 300])
def test_norms(on: Device, rows: int) -> None:
    """Catches a mean over the wrong axis, an epsilon outside of the root, and a weight of another head."""
    x, heads = rand(rows, 20), rand(rows, 6, 10, seed=1)
    each, full = RMSNorm(rand(6, 10, seed=2), 0.5), FullQKNorm(RMSNorm(rand(40), 0.5), RMSNorm(rand(20), 0.1))
    for norm, of in [(RMSNorm(rand(20), 0.5), x), (LayerNorm(rand(20), rand(20, seed=3), 0.5), x), (each, heads),
                     (full, heads)]:  # fmt: skip
        assert_same(on, lambda ops, put, norm=norm, of=of: ops.norm(put(of), put(norm)), ROUNDING)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 64, 48), (3, 7, 5), (17, 96, 33), (300, 64, 128)])
def test_products(on: Device, dtype: Any, rows: int, inputs: int, outputs: int) -> None:
    """A bias, and weights in tiles. Catches a matrix taken for its transpose, and sums in half precision."""
    x, w, b = rand(rows, inputs), rand(outputs, inputs, seed=1), rand(outputs, seed=2)

    def work(ops: Any, put: Any) -> Any:
        weight = ops.take(Joined((lazy("w", w),)))
        return ops.linear(put(x), Linear(weight, put(b)))

    assert_same(on, work, TYPES[dtype], dtype)


@pytest.mark.parametrize(
    "scheme",
    [QuantScheme(8, 32, True), QuantScheme(4, 32, False), QuantScheme(3, 16, False), QuantScheme(2, None, True),
     W8A8_SCHEME],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 64, 48), (5, 39, 21), (70, 96, 128)])
def test_products_of_codes(on: Device, scheme: QuantScheme, rows: int, inputs: int, outputs: int) -> None:
    """Also rows that are looked up. Catches a group's scale used for its neighbour, and a sum that is not exact."""
    x, matrix = rand(rows, inputs), round_to_nearest(rand(outputs, inputs, seed=1), scheme)
    weight = on.ops().take(matrix)
    found = on.ops().linear(on.put(x), Linear(weight))
    wanted = x @ matrix.dequantize().T
    assert distance(on.get(found), wanted) <= (HALF if scheme.integer_inputs else ROUNDING)
    ids = np.array([outputs - 1, 0, 2])
    assert distance(on.get(weight.rows(on.put(ids))), matrix.dequantize()[ids]) <= ROUNDING
    again = weight.matrix()
    assert (again.codes == matrix.codes).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_embedding(on: Device, dtype: Any) -> None:
    tokens, positions, w = np.array([3, 0, 3, 8]), np.array([0, 5, 2, 1]), rand(9, 10)

    def work(ops: Any, put: Any) -> Any:
        table = ops.take(Joined((lazy("w", w),)))
        return ops.embed(tokens, positions, Embedding(table, put(rand(6, 10, seed=1)), 2.5))

    assert_same(on, work, ROUNDING, dtype)


@pytest.mark.parametrize("rows", [1, 9])
def test_rope(on: Device, rows: int) -> None:
    """Far positions, and rows of another set. Catches a half that is turned the other way."""
    positions, sets = np.array([0, 1, 17, 300, 4095, 8191, 20000, 5, 6][:rows]), np.array([0, 1, 0, 1, 1, 0, 0, 0, 1])
    rotation, x = Rotation(np.abs(rand(2, 5)) / 10, np.abs(rand(2, 5, seed=1))), rand(rows, 6, 10)

    def work(ops: Any, put: Any) -> Any:
        return ops.rope(put(x), ops.rotation(positions, sets[:rows], put(rotation)))

    assert_same(on, work, TOLERANCE)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu", "clamped"])
def test_gates(on: Device, activation: str) -> None:
    """Values far out, too. Catches gate and up exchanged, and a limit on the wrong side."""
    x = 6 * rand(5, 22)
    assert_same(on, lambda ops, put: ops.gate(put(x), activation), ROUNDING)
    if activation != "clamped":
        assert_same(on, lambda ops, put: ops.activate(put(x), activation), ROUNDING)


def test_small_operations(on: Device) -> None:
    """Additions with and without a scale, rows that are gathered, logits that are capped and scaled."""
    x, y, rows = rand(6, 9), rand(6, 9, seed=1), np.array([5, 0, 0])
    for scale in (1.0, 0.22):
        assert_same(on, lambda ops, put, scale=scale: ops.add(put(x.copy()), put(y), scale), ROUNDING)
    assert_same(on, lambda ops, put: ops.gather(put(x), rows), 0.0)
    assert_same(on, lambda ops, put: ops.cap(ops.scale(put(x), 0.3), SoftCap(1.5)), ROUNDING)


def test_experts(on: Device) -> None:
    """Catches a row that is added to only once, and an expert that is given another one's rows."""
    x, chosen, weights = rand(6, 8), np.array([[1, 3], [3, 1], [0, 1], [3, 2], [1, 0], [2, 3]]), rand(6, 2, seed=3)
    gate_up, down = rand(4, 12, 8, seed=1), rand(4, 8, 6, seed=2)

    def work(ops: Any, put: Any) -> Any:
        held = [Experts(tuple(Linear(ops.take(Joined((lazy("w", stack),), e))) for e in range(4)))
                for stack in (gate_up, down)]  # fmt: skip
        return ops.experts(put(x), put(chosen), put(weights), *held, "silu")

    assert_same(on, work, ROUNDING)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("cap", [NoCap(), SoftCap(2.0)])
@pytest.mark.parametrize("sinks", [False, True])
def test_attention(on: Device, window: int | None, cap: Any, sinks: bool) -> None:
    """A prompt in two chunks and a decode step, of two sequences. Catches a mask that is one off, at its start too."""
    q, k, v = rand(40, 6, 10), rand(40, 2, 10, seed=1), rand(40, 2, 10, seed=2)
    scores = np.abs(rand(2, 3, 1, seed=4))

    def work(ops: Any, put: Any) -> Any:
        heads = Heads(6, 2, 10, 0.4, window, cap, put(Sinks(scores)) if sinks else NoSinks())
        cache = ContiguousCache(CacheSpec((Rows(2, 10, 10),), 40), ops)
        outs = []
        one, two = request(range(1, 25)), request(range(3, 20))
        for pieces in ([(one, 0, 9), (two, 0, 12)], [(one, 9, 20)], [(one, 20, 21), (two, 12, 13)]):
            batch, rows = flat_batch(pieces), np.concatenate([np.arange(a, b) for _, a, b in pieces])
            for seq, a, b in pieces:
                cache.reserve(seq, b - a)
            cache.append(0, put(k[rows]), put(v[rows]), batch)
            outs.append(ops.attention(put(q[rows]), 0, batch, cache, heads))
            for seq, a, b in pieces:
                cache.commit(seq, b - a)
        return tuple(outs)

    assert_same(on, work, ROUNDING * 10)


def test_choices(on: Device) -> None:
    """Greedy with ties, cold and hot; the rest is left to the host. Catches noise of another row, position or seed."""
    logits = 4 * rand(7, 1003)
    logits[0, [900, 17, 30]] = 50.0
    logits[6, 5] = np.nan
    params = [{}, {"temperature": 0.7}, {"temperature": 1.5}, {"temperature": 1.0, "top_k": 5}, {"logprobs": 1},
              {"repetition_penalty": 1.1}, {}]  # fmt: skip
    wanted: Any = [(SamplingParams(**p), [1, 2], list(range(i)), 2**63 + i) for i, p in enumerate(params)]
    found = on.ops().sample(on.put(logits), wanted)
    right = [choose(row, *one).token for row, one in zip(logits[:3], wanted, strict=False)]
    assert found.tokens.tolist()[:6] == [*right, HOST, HOST, HOST]
    np.testing.assert_array_equal(found.low, logits.min(axis=1))
    np.testing.assert_array_equal(found.high, logits.max(axis=1))
    assert found.rows is None
    assert len(on.ops().sample(on.put(logits[:0]), []).tokens) == 0


# Families


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_families(on: Device, name: str, dtype: Any, golden_folder: Any) -> None:
    """Every golden in one pass and in three pieces. In half precision most rows are near; in others a router chose
    another expert.
    """
    golden, checkpoint = load_golden(name), load(golden_folder(name))
    ops = on.ops(dtype)
    model, config = build_model(checkpoint, ops), checkpoint.config
    size = len(golden.tokens)
    for cuts in ([0, size], [0, size // 3, size - 1, size]):
        cache, seq = ContiguousCache(CacheSpec(config.memory, size), ops), request(golden.tokens.tolist())
        found = []
        for first, stop in pairwise(cuts):
            cache.reserve(seq, stop - first)
            batch = make_batch([(seq, first, stop - first)], config.rotation_sets)
            whole = replace(batch, logit_rows=np.arange(stop - first))
            found.append(on.get(transformer(model, whole, cache, ops)))
            cache.commit(seq, stop - first)
        logits = np.concatenate(found)
        if dtype == np.float32:
            assert distance(logits, golden.logits) <= TOLERANCE
        else:
            rows = [distance(row, wanted) for row, wanted in zip(logits, golden.logits, strict=True)]
            assert np.median(rows) <= 0.1


# Engines


@pytest.mark.parametrize("switches", [*CACHES, *SERVING, *DRAFTS, *WEIGHTS], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_engines(on: Device, name: str, switches: dict[str, Any]) -> None:
    """Every cache, scheduler, drafter and quantized weight, operation by operation."""
    assert_engines_agree(on, name, switches)


@pytest.mark.parametrize("switches", WITH_TEXT, ids=str)
def test_methods_that_read_text(on: Device, switches: dict[str, Any]) -> None:
    """Inputs are summed up on the host, norms are divided on the device."""
    assert_engines_agree(on, "llama", switches | {"calibration_tokens": 128})


def test_a_new_model_finds_its_memory_again(on: Device) -> None:
    """Ten engines after another. Catches a cache or a graph that something outside goes on holding."""
    pool = on.xp.get_default_memory_pool()

    def used() -> int:
        gc.collect()
        engine = engine_on(on.ops(), "llama", {})
        list(engine.run([request([1, 2, 3], 4)]))
        return int(pool.used_bytes())

    first = used()
    assert {used() for _ in range(9)} == {first}
