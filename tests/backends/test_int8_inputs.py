"""Integer activations: one rounding for every backend, exact sums, and nothing else of the model changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_cupy import fake_cupy
from gguf_writer import write_gguf
from helpers import COMPILED, INSTALLED, checkpoint_of, finish, make_engine, random_tensors, request, small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_matrices import gives_back, random_matrix

from tinyinfer import LLM
from tinyinfer.arrays import to_host
from tinyinfer.backends.auto import auto_ops
from tinyinfer.backends.cupy_ops import CupyOps
from tinyinfer.backends.int8_inputs import SLICE, PackedA8, PackedRowsA8, exact, exact_by_floats
from tinyinfer.backends.kernels.covered import uncovered
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.packed import LARGEST, SMALLEST, W8A8, Packed, round_groups
from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.backends.switches import BACKENDS
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.room import fitting_ops
from tinyinfer.errors import ModelWarning, SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.loading.saving import save_model
from tinyinfer.model.config import MoEConfig
from tinyinfer.model.quantized_matrix import W8A8_SCHEME, QuantScheme
from tinyinfer.model.visit import matrices, weights
from tinyinfer.model.weights import Dense, Floats, Linear
from tinyinfer.quantization.rtn import round_to_nearest
from tinyinfer.switches import resolve

ROUNDED: dict[str, Callable[..., Any]] = {name: resolve(BACKENDS, name) for name in INSTALLED if name != "cupy"}
ROUNDED["fake cupy"] = lambda ledger, **own: CupyOps(ledger, decode="eager", xp=fake_cupy, **own)


@pytest.fixture(params=[*ROUNDED, *COMPILED])
def int8_ops(request: pytest.FixtureRequest) -> Any:
    """The operations of a backend with integer activations."""
    backend = ROUNDED.get(request.param) or resolve(BACKENDS, request.param)
    return backend(Ledger(), activations="int8")


def rows(t: int, m: int, seed: int = 0) -> np.ndarray:  # -> (t, m)
    """Activations of which some are a thousand times as large as others, and some exactly zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((t, m)) * 10.0 ** rng.integers(-2, 2, (t, m))
    return (x * (rng.random((t, m)) > 0.1)).astype(np.float32)


def multiply(ops: Any, x: np.ndarray, weight: Any) -> np.ndarray:
    """x Wᵀ on the host."""
    found: np.ndarray = ops.to_host(ops.linear(ops.xp.asarray(x), Linear(weight)))
    return found


# Rounding


def by_formula(x: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """The docstring's three lines, one float32 operation at a time, for one group."""
    size = max([np.float32(SMALLEST), *(np.abs(one) for one in x)])
    factor = np.float32(np.float32(127) / size)
    return np.array([np.rint(np.float32(one * factor)) for one in x]), np.float32(size / np.float32(127))


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(1, 40), st.sampled_from([None, 1, 5, 32]), st.integers(0, 999))
def test_each_group_is_rounded_by_itself_as_the_docstring_says(t, m, group, seed):
    """Bit for bit, in a last group that is shorter, too: what a compiled loop is held to.

    Catches a group's scale of a neighbour or of another row, zeros of the padding that count, and a division.
    """
    x = rows(t, m, seed)
    codes, scale = round_groups(x, group, np)
    assert (codes.dtype, scale.dtype) == (np.float32, np.float32)
    size = group or m
    assert scale.shape == (t, -(-m // size))
    for row in range(t):
        for g, start in enumerate(range(0, m, size)):
            wanted, by = by_formula(x[row, start : start + size])
            np.testing.assert_array_equal(codes[row, start : start + size], wanted)
            assert scale[row, g] == by
    assert np.abs(codes).max() <= LARGEST


def test_an_edge_is_decided_by_the_factor_and_then_to_even():
    """127 / S is rounded first: x / (S / 127) is another number, and here on the other side of an edge."""
    x = np.array([[1, 0.5, -0.5, 1.5 / 127, 2.5 / 127]], np.float32)
    assert round_groups(x, None, np)[0].tolist() == [[127, 64, -64, 2, 2]]
    size = np.float32(1.7)
    near = (np.arange(-126, 127) + np.float32(0.5)) * np.float32(size / np.float32(127))  # all edges, more or less
    edges = np.concatenate(([size], near)).astype(np.float32)[None]
    found, scale = round_groups(edges, None, np)
    np.testing.assert_array_equal(found, np.rint(edges * (np.float32(127) / size)))
    assert (found != np.rint(edges / scale)).any(), "else this would prove nothing"


def test_numbers_too_small_for_a_factor_become_zeros():
    """127 / 0 and 127 / 1e-40 are infinite, and infinite times 0 is no number."""
    for tiny in (0.0, 1e-45, -1e-40, 1e-33):
        codes, scale = round_groups(np.array([[tiny, 0, 0, 0], [1, 2, 3, 4]], np.float32), 2, np)
        assert codes[0].tolist() == [0, 0, 0, 0]
        assert np.isfinite(scale).all()
        assert codes[1].tolist() == [64, 127, 95, 127]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_not_hidden(int8_ops, wrong):
    """Else the engine would not tell that the model's numbers overflow. Other rows are as they were."""
    weight, x = int8_ops.take(random_matrix(70, 40, QuantScheme(8, 16, True))), rows(3, 40)
    before, x[1, 20] = multiply(int8_ops, x, weight), wrong
    with np.errstate(invalid="ignore"):
        y = multiply(int8_ops, x, weight)
    assert not np.isfinite(y[1]).any()
    np.testing.assert_array_equal(y[[0, 2]], before[[0, 2]])


# Products


def wanted_product(x: np.ndarray, matrix: Any) -> np.ndarray:
    """The module's formula with int64 sums, group after group, in float32."""
    size, y = matrix.scheme.group_size or x.shape[1], np.zeros((len(x), len(matrix.codes)), np.float32)
    codes, scale = round_groups(x, matrix.scheme.group_size, np)
    for g, start in enumerate(range(0, x.shape[1], size)):
        q, w = codes[:, start : start + size].astype(np.int64), matrix.codes[:, start : start + size].astype(np.int64)
        change = (q @ w.T).astype(np.float32) * matrix.scale[:, g].astype(np.float32)
        if matrix.minimum is not None:
            change += q.sum(axis=1).astype(np.float32)[:, None] * matrix.minimum[:, g].astype(np.float32)
        y += scale[:, g : g + 1] * change
    return y


@settings(max_examples=25)
@given(
    bits=st.sampled_from([2, 3, 4, 5, 6, 8]), group=st.sampled_from([None, 5, 32]), symmetric=st.booleans(),
    t=st.integers(1, 7), n=st.integers(1, 150), m=st.integers(1, 90), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_backend_gives_the_same_bits(bits, group, symmetric, t, n, m, seed):
    """The sums are exact and the groups are added in one order, so the backends are equal, not close.

    One row alone is the same as in company: a batch does not change a text. Catches a code that is taken without its
    offset, a minimum of another group, and sums that depend on the number of rows.
    """
    matrix, x = random_matrix(n, m, QuantScheme(bits, group, symmetric), seed), rows(t, m, seed)
    wanted = wanted_product(x, matrix)
    for make in ROUNDED.values():
        ops = make(Ledger(), activations="int8")
        weight = ops.take(matrix)
        np.testing.assert_array_equal(multiply(ops, x, weight), wanted)
        np.testing.assert_array_equal(multiply(ops, x[-1:], weight), wanted[-1:])


@pytest.mark.parametrize("shape", [(1000, 600), (70, 2100)])
@pytest.mark.parametrize("t", [1, 7])
def test_wide_and_long_matrices(int8_ops, shape, t):
    """Over more than one tile of outputs, and over more inputs than float32 can add up. Catches a tile left out."""
    for scheme in (QuantScheme(4, 32, False), QuantScheme(8, None, False)):
        matrix, x = random_matrix(*shape, scheme), rows(t, shape[1])
        weight = int8_ops.take(matrix)
        np.testing.assert_array_equal(multiply(int8_ops, x, weight), wanted_product(x, matrix))


@pytest.mark.parametrize("inputs", [SLICE, SLICE + 1, 3 * SLICE + 1])
def test_the_largest_sums_are_exact(inputs):
    """Every product as large as can be, and an odd one, which float32 would lose above 2^24."""
    assert 127 * 255 * SLICE < 2**24 < 127 * 255 * (SLICE + 1)
    q, codes = np.full((1, inputs), 127, np.float32), np.full((inputs, 2), 255, np.float32)
    codes[-1, 1] = 254
    wanted = np.array([[127 * 255 * inputs, 127 * 255 * inputs - 127]]).astype(np.float32)
    np.testing.assert_array_equal(exact_by_floats(q, codes), wanted)
    np.testing.assert_array_equal(exact(q, codes), wanted)


def test_an_error_is_at_most_half_a_step_of_its_group():
    """Each input is off by half of its own group's scale; a sum of whole numbers adds no error of its own."""
    matrix, x = random_matrix(40, 70, QuantScheme(8, 32, True)), rows(5, 70)
    weight = ReferenceOps(Ledger(), activations="int8").take(matrix)
    found = multiply(ReferenceOps(Ledger(), activations="int8"), x, weight)
    _, scale = round_groups(x, 32, np)
    w = np.abs(matrix.dequantize()).astype(np.float64)
    most = 0.5 * np.repeat(scale, 32, axis=1)[:, :70].astype(np.float64) @ w.T  # (5, 40)
    off = np.abs(found - x.astype(np.float64) @ matrix.dequantize().T.astype(np.float64))
    assert (off <= 1.001 * most).all()
    assert (off > 0.01 * most).any()


def test_an_outlier_costs_its_own_group_only():
    """What the groups are for, and what W8A8 loses: beside a number of 300 in its row, it rounds others to nothing."""
    x = rows(4, 128, seed=2) / np.float32(100)
    x[:, 3] = 300
    w = np.random.default_rng(0).standard_normal((50, 128)).astype(np.float32)
    w[:, :32] = 0  # of the outlier's group, nothing is read
    ops = NumpyOps(Ledger(), activations="int8")
    errors = [np.abs(multiply(ops, x, ops.take(round_to_nearest(w, scheme))) - x @ w.T).max()
              for scheme in (QuantScheme(8, 32, True), W8A8_SCHEME)]  # fmt: skip
    assert 20 * errors[0] < errors[1]


# Which weights


def test_only_packed_codes_change_their_type():
    """Floats stay floats and W8A8 stays W8A8; without the switch, codes wait for floats. Its numbers are as before."""
    matrix, floats = random_matrix(70, 40, QuantScheme(4, 32, False)), Floats("w", np.ones((70, 40), np.float32))
    for kind in (NumpyOps, ReferenceOps):
        rounding, plain = kind(Ledger(), activations="int8"), kind(Ledger())
        assert [type(ops.take(matrix)) for ops in (rounding, plain)] == [PackedA8, Packed]
        assert type(rounding.counting(Ledger()).take(matrix)) is PackedA8
        assert type(rounding.take(floats)) is Dense
        assert type(rounding.take(round_to_nearest(np.ones((70, 40), np.float32), W8A8_SCHEME))) is W8A8
    one, other = rounding.take(matrix), plain.take(matrix)
    assert (one.nbytes, one.row_bytes, one.shape, one.scheme) == (
        other.nbytes, other.row_bytes, other.shape, other.scheme,
    )  # fmt: skip


@settings(max_examples=15)
@given(
    bits=st.sampled_from([2, 3, 4, 8]), symmetric=st.booleans(), n=st.integers(1, 150), m=st.integers(1, 40),
    data=st.data(),
)  # fmt: skip
def test_the_matrix_comes_back(bits, symmetric, n, m, data):
    """Looking up, saving and drafting in fewer bits see the same weight, and a product those of any tile.

    Catches codes changed by the type, and a tile that begins inside a block of 64 outputs.
    """
    matrix = random_matrix(n, m, QuantScheme(bits, 32, symmetric))
    weight = NumpyOps(Ledger(), activations="int8").take(matrix)
    assert isinstance(weight, PackedA8)
    gives_back(weight, matrix, matrix.dequantize(), data)
    start = data.draw(st.integers(0, n - 1))
    tile = slice(start, data.draw(st.integers(start + 1, n)))
    for name in ROUNDED.keys() - {"numba"}:  # whose kernels read codes where they lie
        ops = ROUNDED[name](Ledger(), activations="int8")
        codes, scale, minimum = map(to_host, ops.take(matrix).integers(tile))
        np.testing.assert_array_equal(codes, matrix.codes[tile].T)
        np.testing.assert_array_equal(scale, matrix.scale[tile].T)
        assert (minimum is None) == symmetric
        if matrix.minimum is not None:
            np.testing.assert_array_equal(minimum, matrix.minimum[tile].T)


@pytest.mark.parametrize("make", ROUNDED.values(), ids=ROUNDED)
def test_the_ledger_counts_as_with_floats(make):
    """The same bytes of weights and the same operations: no float copy of the codes is read instead."""
    matrix, x, ledgers = random_matrix(70, 40, QuantScheme(4, 32, False)), rows(3, 40), (Ledger(), Ledger())
    for ledger, activations in zip(ledgers, ("int8", "float"), strict=True):
        ops = make(ledger, activations=activations)
        multiply(ops, x, ops.take(matrix))
    assert ledgers[0] == ledgers[1] != Ledger()


# Models


def held(model: Any) -> set[type]:
    """The types of all weights of a model but routers."""
    return {type(one) for name, matrix in matrices(model) if not name.endswith("router") for one in weights(matrix)}


@pytest.mark.parametrize(
    "changes",
    [{}, {"tied_head": True}, {"experts": MoEConfig(5, 2, 12)}, {"qkv_bias": True, "mlp_bias": True}],
    ids=["plain", "tied", "experts", "biases"],
)
def test_a_model_is_close_to_the_same_with_float_activations(changes):
    """Head, table and experts, too; a table that is the head is looked up as before. Backends agree."""
    config, switches = small_config(**changes), {"quantize": "int8", "quantize_head": "int8"}
    plain = make_engine(config, **switches).logits(request(range(9)), 0, 9)
    for make in ROUNDED.values():
        engine = make_engine(config, ops=make(Ledger(), activations="int8"), activations="int8", **switches)
        assert all("A8" in kind.__name__ for kind in held(engine.model))
        found = engine.logits(request(range(9)), 0, 9)
        assert 0 < np.abs(found - plain).max() < 0.05 * np.abs(plain).max()


def test_drafts_in_few_bits_are_rounded_too():
    """A float model whose drafts are quantized: their layers take integer activations, and the text is the plain one's.
    """
    switches = {"speculative": "self", "draft_quantize": "int8", "activations": "int8"}
    engine = make_engine(small_config(), **switches)
    assert held(engine.model) == {Dense}
    assert PackedA8 in held(engine.drafter.model)  # type: ignore[attr-defined]
    [[*tokens]] = finish(engine, request([1, 2, 3], 9))
    assert [tokens] == finish(make_engine(small_config()), request([1, 2, 3], 9))


@pytest.mark.parametrize("method", ["gptq", "awq", "combined"])
def test_methods_that_read_text_work_with_it(method, golden_folder):
    """Layers are replaced one after the other, and later ones are calibrated on what rounded inputs leave."""
    switches = {"quantize": "int4", "quantize_method": method, "calibration_tokens": 128}
    llm = LLM(str(golden_folder("llama")), activations="int8", **switches)
    assert PackedA8 in held(llm.model)
    assert np.isfinite(llm.logits([1, 2, 3])).all()


def test_a_saved_folder_is_that_of_float_activations(golden_folder, tmp_path):
    """The switch is the engine's and not the file's: the same bytes are written, and either may load them."""
    path, files = golden_folder("llama"), {}
    for activations in ("float", "int8"):
        llm = LLM(str(path), quantize="int4", activations=activations)
        save_model(tmp_path / activations, llm.model, load(path), {"method": "rtn"})
        files[activations] = (tmp_path / activations / "model.safetensors").read_bytes()
    assert files["float"] == files["int8"]
    assert PackedA8 in held(LLM(str(tmp_path / "float"), activations="int8").model)


def test_a_gguf_files_own_blocks(tmp_path):
    """Kept codes are multiplied by rounded inputs, as llama.cpp does it."""
    path = str(write_gguf("llama3", tmp_path / "q.gguf", "Q8_0"))
    llm = LLM(path, quantize="keep", activations="int8")
    assert PackedA8 in held(llm.model)
    plain = LLM(path, quantize="keep").logits([1, 2, 3])
    assert 0 < np.abs(llm.logits([1, 2, 3]) - plain).max() < 0.05 * np.abs(plain).max()


# Switches


def test_backends_are_told(golden_folder):
    """By the switch, before a weight is taken."""
    checkpoint = load(golden_folder("llama"))
    ops = fitting_ops(checkpoint, EngineConfig(quantize="int8", activations="int8"), Ledger())
    assert isinstance(ops.take(random_matrix(3, 4, QuantScheme(8, None, True))), PackedA8)


def missing() -> Any:
    """No CuPy."""
    raise SwitchError("backend", "cupy", "{field}={value} is not here")


@pytest.mark.parametrize(("find", "kind"), [(lambda: fake_cupy, CupyOps), (missing, NumpyOps)])
def test_auto_passes_it_on(find, kind):
    """To whichever backend it takes."""
    with pytest.warns(ModelWarning, match="backend=auto takes"):
        ops = auto_ops(Ledger(), find={"cupy": find}, activations="int8")
    assert isinstance(ops, kind)
    assert isinstance(ops.take(random_matrix(3, 4, QuantScheme(8, None, True))), (PackedA8, PackedRowsA8))


@pytest.mark.parametrize(
    ("switches", "refused"),
    [
        ({}, True), ({"quantize": "keep"}, True), ({"quantize_rules": "layers.0.* off"}, True),
        ({"quantize": "w8a8", "quantize_rules": "layers.*.down off"}, True),
        ({"quantize": "int8"}, False), ({"quantize_head": "int8"}, False),
        ({"quantize_rules": "layers.1.down int4"}, False), ({"quantize": "w8a8", "quantize_head": "int8"}, False),
        ({"speculative": "self", "draft_quantize": "int4"}, False),
        ({"speculative": "draft", "draft_model": "x"}, False),
    ],
    ids=str,
)  # fmt: skip
def test_a_model_without_codes_has_no_use_for_it(switches, refused):
    """Said before a weight is read, and only where it is certain: a draft model may be a quantized folder."""
    checkpoint = checkpoint_of(small_config(), random_tensors(small_config()))
    config = EngineConfig(activations="int8", **switches)
    if not refused:
        assert fitting_ops(checkpoint, config, Ledger()).packed is PackedA8  # type: ignore[attr-defined]
        return
    with pytest.raises(SwitchError, match=r"^activations=int8 rounds .* and this model has none; add quantize=int8, "):
        fitting_ops(checkpoint, config, Ledger())


@pytest.mark.parametrize(("bits", "refused"), [("int8", False), ("w8a8", True)])
def test_a_quantized_folders_own_bits_decide(bits, refused, golden_folder, tmp_path):
    """Nothing on the command line says that the folder is quantized."""
    path = golden_folder("llama")
    own: dict[str, Any] = {"calibration_tokens": 128} if bits == "w8a8" else {}
    save_model(tmp_path / "ours", LLM(str(path), quantize=bits, **own).model, load(path), {"method": "rtn"})
    checkpoint, config = load(tmp_path / "ours"), EngineConfig(activations="int8")
    if refused:
        with pytest.raises(SwitchError, match=r"this model has none; .* or leave it out"):
            fitting_ops(checkpoint, config, Ledger())
    else:
        fitting_ops(checkpoint, config, Ledger())


def test_kernels_of_a_gpu_leave_it_to_single_operations():
    """And the user is told why."""
    ops = CupyOps(Ledger(), decode="eager", xp=fake_cupy, activations="int8")
    engine = make_engine(small_config(), ops=ops, quantize="int8", activations="int8")
    assert uncovered(engine.model, engine.cache) == "activations=int8 rounds the inputs of products, too"
