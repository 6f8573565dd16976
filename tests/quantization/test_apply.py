"""Whole models quantized, at load time and by text: what they compute, what they hold, how far they may stray."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from golden import load_golden, write_hf_folder
from helpers import ROUNDING, TOLERANCE, checkpoint_of, distance, lazy, random_tensors, small_config
from safetensors.numpy import load_file, save_file

from tinyinfer import LLM, SamplingParams
from tinyinfer.arrays import Array
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.packed import W8A8, Packed
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import ModelError
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load as load_checkpoint
from tinyinfer.loading.build import build_model, keeps_file_quantization
from tinyinfer.loading.checkpoint import Checkpoint, Joined
from tinyinfer.model.config import ModelConfig, MoEConfig
from tinyinfer.model.quantized_matrix import W8A8_SCHEME, QuantizedMatrix, QuantScheme
from tinyinfer.model.transformer import Model
from tinyinfer.model.visit import layer_matrices, matrices, weights, with_matrices
from tinyinfer.model.weights import Dense, Linear
from tinyinfer.quantization.apply import (
    by_awq,
    by_combination,
    by_gptq,
    floats,
    in_memory,
    quantize_model,
    read_windows,
    rounding,
)
from tinyinfer.quantization.calibration import Inputs, calibration_text, named
from tinyinfer.quantization.hqq import hqq
from tinyinfer.quantization.rtn import round_to_nearest

MOE = small_config(experts=MoEConfig(5, 2, 12))
BODY = ("q", "k", "v", "o", "gate", "up", "down")


def load(checkpoint: Checkpoint, **switches: Any) -> Model:
    conversion = rounding(EngineConfig(**switches), checkpoint.config)
    return build_model(checkpoint, NumpyOps(Ledger()), conversion=conversion)


def rounded(config: ModelConfig, scheme: QuantScheme, names: tuple[str, ...]) -> Checkpoint:
    """The random model with these matrices rounded beforehand: the same thing done in floats, one matrix at a time."""
    tensors = random_tensors(config)
    for name, w in tensors.items():
        if w.ndim > 1 and name.split(".")[-1] in names:
            tensors[name] = round_to_nearest(w.reshape(-1, w.shape[-1]), scheme).dequantize().reshape(w.shape)
    return checkpoint_of(config, tensors)


# While loading


@pytest.mark.parametrize("config", [small_config(), MOE], ids=["dense", "moe"])
def test_fused_matrices_are_those_rounded_one_by_one(config):
    """A row's grid is its own, so joining first changes nothing. Catches rows that get their neighbour's scale."""
    checkpoint = checkpoint_of(config, random_tensors(config))
    found = load(checkpoint, quantize="int4", quantize_head="int8")
    floats = build_model(rounded(config, QuantScheme(4, 32, False), BODY), NumpyOps(Ledger()))
    for layer, other in zip(found.layers, floats.layers, strict=True):
        pairs = [(layer.mixer.qkv.weight, other.mixer.qkv.weight), (layer.mixer.o.weight, other.mixer.o.weight)]
        for part in ("gate_up", "down"):
            one, two = weights(getattr(layer.mlp, part)), weights(getattr(other.mlp, part))
            assert len(one) == (5 if config.experts else 1)
            pairs += zip(one, two, strict=True)
        for quantized, dense in pairs:
            assert isinstance(quantized, Packed)
            np.testing.assert_array_equal(quantized.dequantize(slice(0, quantized.shape[0])), dense.array)
    if config.experts:
        assert isinstance(found.layers[0].mlp.router.weight, Dense), "the router decides, and stays float"


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "mixtral"])
def test_logits_are_those_of_the_rounded_weights_in_floats(name, golden_folder):
    """Untied and tied heads, positions, biases, experts. Catches a matrix that is dequantized otherwise than stored."""
    folder, tokens = golden_folder(name), load_golden(name).tokens.tolist()
    quantized = LLM(str(folder), quantize="int3", quantize_head="int8")
    floats = LLM(str(folder))
    unpack(quantized.model, floats.model)
    assert distance(quantized.logits(tokens), floats.logits(tokens)) < ROUNDING


def unpack(model: Model, into: Model) -> None:
    """Overwrites a float model's matrices with what the quantized one's dequantize to."""
    for (name, one), (_, two) in zip(matrices(model), matrices(into), strict=True):
        if not name.endswith("router"):
            for quantized, dense in zip(weights(one), weights(two), strict=True):
                assert isinstance(quantized, Packed)
                dense.array[:] = quantized.dequantize(slice(0, quantized.shape[0]))


@pytest.mark.parametrize(
    "switches", [{}, {"quantize": "int4", "quantize_method": "gptq"}, {"quantize": "w8a8"}], ids=str
)
def test_a_tied_head_is_quantized_once_and_shared(switches, golden_folder):
    """Catches the table packed twice, at load time or after a text, and a head in floats beside a quantized table."""
    text = {"calibration_tokens": 128} if switches else {}
    model = LLM(str(golden_folder("smollm2")), quantize_head="int8", **switches, **text).model
    assert model.head.weight is model.embedding.table
    assert isinstance(model.head.weight, Packed)
    assert isinstance(model.layers[0].mixer.o.weight, Dense) == (not switches)


def test_the_ledger_counts_packed_bytes_by_hand(golden_folder):
    """SmolLM2's golden: D 72, F 120, 9 + 2 · 3 heads of 8, V 277, L 4; int4 in groups of 32, head int8.

    A matrix is blocks of 64 outputs: half a byte for each input, 4 bytes for each group. 72 inputs are 3 groups, 120
    are 4; 120 outputs are 2 blocks, as are 72; 240 are 4, 277 are 5.
    """
    D, F, L = 72, 120, 4
    qkv, o, gate_up = (blocks * 64 * (D // 2 + 12) for blocks in (2, 2, 4))
    down = 2 * 64 * (F // 2 + 16)
    head, norms = 5 * 64 * (D + 6), 4 * (2 * L * D + D)
    llm = LLM(str(golden_folder("smollm2")), quantize="int4", quantize_head="int8")
    assert llm.model.nbytes == L * (qkv + o + gate_up + down) + head + norms
    traces = list(llm.steps([[5, 6, 7]], SamplingParams(max_tokens=2, ignore_eos=True)))
    assert traces[1].ledger.weight_bytes == llm.model.nbytes + (D + 6)  # all weights, and a row of the embedding


def test_loading_holds_the_packed_weights_and_one_float_matrix():
    """The float model need not fit. Catches parts joined from copies, and matrices that stay alive."""
    config = small_config(hidden_size=256, intermediate_size=1024, num_layers=6, head_dim=64)
    checkpoint = checkpoint_of(config, random_tensors(config))
    largest = 2 * 1024 * 256 * 4  # gate_up
    tracemalloc.start()
    model = load(checkpoint, quantize="int4")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    floats = sum(int(np.prod(tensor.shape)) * 4 for tensor in checkpoint.tensors.values())
    assert model.nbytes < floats / 5
    assert peak < model.nbytes + 2 * largest < floats, "the matrix, and what rounding it needs at a time"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_damaged_weights_are_refused_by_name(bad):
    """NaN would become a code like any other, and the model babble."""
    tensors = random_tensors(MOE)
    tensors["layers.1.up"][3, 2, 5] = bad
    with pytest.raises(ModelError, match=r"tensor 'layers.1.up' holds NaN or infinity"):
        load(checkpoint_of(MOE, tensors), quantize="int8")
    tensors = random_tensors(small_config())
    tensors["layers.0.k"][3, 2] = bad
    with pytest.raises(ModelError, match=r"tensor 'layers.0.k' holds NaN or infinity"):
        load(checkpoint_of(small_config(), tensors), quantize="int8")


@pytest.mark.parametrize("size", [3e30, 1e-9])
@pytest.mark.parametrize("config", [small_config(), MOE], ids=["dense", "moe"])
def test_weights_that_float16_scales_cannot_hold_are_refused_by_name(config, size):
    """They would become 65504, or all zero, and the model babble; left out by a rule they stay what they are."""
    tensors = random_tensors(config)
    tensors["layers.1.down"] = np.full_like(tensors["layers.1.down"], size)
    checkpoint = checkpoint_of(config, tensors)
    for method in ("rtn", "hqq"):
        with pytest.raises(ModelError, match=r"layers.1.down: weights of up to .* the rule 'layers.1.down off'"):
            load(checkpoint, quantize="int8", quantize_method=method)
    load(checkpoint, quantize="int8", quantize_rules="layers.1.down off")
    if not config.experts:
        c, ops = EngineConfig(quantize="int8", quantize_method="gptq"), NumpyOps(Ledger())
        with pytest.raises(ModelError, match=r"layers.1.down: weights of up to"):
            quantize_model(build_model(checkpoint, ops), ops, c, np.arange(30).reshape(1, 30))


def test_parts_are_joined_in_their_order():
    parts = [np.arange(6, dtype=np.float32).reshape(3, 2), 9 + np.arange(4, dtype=np.float32).reshape(2, 2)]
    joined = Joined(tuple(lazy("x", part) for part in parts))
    assert joined.shape == (5, 2)
    np.testing.assert_array_equal(in_memory(joined), np.concatenate(parts))


# How far from the float model


def bound(bits: int, roundings: int = 1) -> float:
    """Of the difference of logits, in their standard deviations: so much is allowed to a setting.

    Uniform weights, as the goldens have, are off by 1/(2^bits - 1) of their deviation when rounded, and a few layers
    may make ten times that of it (7 were seen); for two roundings in a row, of inputs and weights or of embedding and
    body, 1.4 times as much. But two sets of logits that have nothing in common differ by 1.41 already.
    """
    return min(1.2, 10 * roundings**0.5 / (2**bits - 1))


LOSSY: list[tuple[dict[str, Any], float]] = [
    ({"quantize": "int8"}, bound(8)),
    ({"quantize": "int8", "group_size": "tensor", "quantize_head": "int8"}, bound(8, roundings=2)),
    ({"quantize": "w8a8", "calibration_tokens": 256}, bound(8, roundings=2)),
    ({"quantize": "int4"}, bound(4)),
    ({"quantize": "int4", "symmetric": True, "group_size": 64}, bound(4)),
    ({"quantize": "int4", "group_size": "channel"}, bound(4)),
    ({"quantize": "int4", "quantize_method": "hqq"}, bound(4)),
    ({"quantize": "int4", "quantize_method": "gptq", "calibration_tokens": 128}, bound(4)),
    ({"quantize": "int4", "quantize_method": "awq", "calibration_tokens": 128}, bound(4)),
    ({"quantize": "int4", "quantize_method": "combined", "calibration_tokens": 128}, bound(4)),
    ({"quantize": "int3"}, bound(3)),
    ({"quantize": "int2"}, bound(2)),
    ({"quantize_rules": "layers.0.* int4, layers.*.down int8"}, bound(4)),
]


CASES = [(name, *setting) for name in ("smollm2", "gpt2") for setting in LOSSY]
CASES += [("mixtral", *setting) for setting in LOSSY if not EngineConfig(**setting[0]).calibrated]
# Layers that are built otherwise: W8A8, and all methods with text in one. (Gemma 2's golden has too many layers for the
# bound of W8A8, which is that of a few: AWQ in its place.)
CASES += [(name, *LOSSY[i]) for name in ("phi3", "olmo2", "granite", "gpt_neox") for i in (2, 9)]
CASES += [("gemma2", *LOSSY[i]) for i in (8, 9)]
CASES += [(name, *LOSSY[i]) for name in ("qwen2_moe", "qwen3_moe_mixed", "gpt_oss") for i in (0, 6)]
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe_mixed", "gpt_oss")


def moved(name: str, golden_folder: Any, **switches: Any) -> float:
    """How far the logits of a golden go from transformers', in standard deviations."""
    golden = load_golden(name)
    llm = LLM(str(golden_folder(name)), **switches)
    return float((llm.logits(golden.tokens.tolist()) - golden.logits).std() / golden.logits.std())


@pytest.mark.parametrize(("name", "switches", "most"), CASES, ids=str)
def test_lossy_settings_stay_within_their_bound(name, switches, most, golden_folder):
    """DESIGN's parity for what is lossy. Also above float's rounding: a setting that changes nothing is not on.

    A mixture may go twice as far: a row that was close to another expert gets that one.
    """
    assert 1e-4 < moved(name, golden_folder, **switches) < (min(1.2, 2 * most) if name in MIXTURES else most)


def test_fewer_bits_move_the_logits_further(golden_folder):
    """Catches bits that are asked for and not used."""
    distances = [moved("smollm2", golden_folder, quantize=f"int{bits}") for bits in (8, 4, 3, 2)]
    assert distances == sorted(distances)


# With text


def test_methods_with_text_hold_what_those_without_do(golden_folder):
    """The same bits wherever the codes come from; the bar goes once over the layers to load and once to quantize."""
    folder, seen = str(golden_folder("llama")), []
    plain = LLM(folder, quantize="int4", quantize_head="int8").model
    for method in ("gptq", "awq", "combined"):
        seen.clear()
        model = LLM(folder, on_load=lambda *done: seen.append(done), quantize="int4", quantize_method=method,
                    quantize_head="int8", calibration_tokens=128).model  # fmt: skip
        assert seen == [(done, 6) for done in range(1, 7)]
        assert model.nbytes == plain.nbytes
        assert isinstance(model.embedding.table, Packed)
        assert all(isinstance(layer.mlp.down.weight, Packed) for layer in model.layers)  # type: ignore[attr-defined]


def louder(name: str, w: np.ndarray) -> np.ndarray:
    """A golden's weight after every 24th input of its layers became ten times larger: the model says what it said.

    As in trained models. Norms make those inputs, and `up` those of `down`; what reads them has a tenth of the weight.
    """
    w = w.copy()
    inner, makers = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"), ("layernorm", "ln_1", "ln_2")
    module = name.split(".")[-2]
    if module.endswith(makers) or module == "up_proj":
        w[5::24] *= 10
    if name.endswith(("c_attn.weight", "c_fc.weight")):  # GPT-2 stores (inputs, outputs)
        w[5::24] /= 10
    if module in inner:
        w[:, 5::24] /= 10
    return w


@pytest.fixture(scope="module", params=["smollm2", "gpt2"])
def loud(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The folder of a model with some large inputs, and the switches that have it read a text."""
    folder = write_hf_folder(request.param, tmp_path_factory.mktemp("loud"))
    tensors = {name: louder(name, w) for name, w in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("The rain in the spring is a thing of the hills, and none of it falls on the plain. " * 30)
    golden = load_golden(request.param)
    assert distance(LLM(str(folder)).logits(golden.tokens.tolist()), golden.logits) < TOLERANCE
    return str(folder), {"calibration": str(text), "calibration_tokens": 384}


def lost(folder: str, text: dict[str, Any], llm: LLM) -> float:
    """How far the logits on the calibration text itself are from the float model's, in their standard deviations."""
    checkpoint = load_checkpoint(folder)
    asked = EngineConfig(quantize="w8a8", **text)
    windows = read_windows(asked, checkpoint.config, checkpoint.tokenizer).tolist()
    expected, found = (np.concatenate([m.logits(window) for window in windows]) for m in (LLM(folder), llm))
    return float((found - expected).std() / expected.std())


def test_methods_with_text_read_it_better_than_rounding(loud):
    """What they are for. Catches a method that is chosen and never comes to it: plain rounding has the same bits."""
    folder, text = loud
    plain = LLM(folder, quantize="int4")
    errors, first = {"rtn": lost(folder, text, plain)}, plain.model.layers[0].mixer.qkv.weight
    for method in ("gptq", "awq", "combined"):
        llm = LLM(folder, quantize="int4", quantize_method=method, **text)
        errors[method] = lost(folder, text, llm)
        assert not np.array_equal(llm.model.layers[0].mixer.qkv.weight.matrix().codes, first.matrix().codes), method
    assert max(errors["gptq"], errors["awq"]) < 0.75 * errors["rtn"]
    assert errors["combined"] < 0.9 * min(errors["gptq"], errors["awq"])


def test_w8a8_is_smoothed(loud):
    """Catches a migration that is left out: large inputs take the others' resolution, and half of what is lost is it.

    Compared with the same product after each matrix was rounded as it is.
    """
    folder, text = loud
    plain = LLM(folder)
    layers = []
    for layer in plain.model.layers:
        for name, linear in named(layer):
            matrix = round_to_nearest(floats(linear.weight), W8A8_SCHEME)
            layer = with_matrices(layer, {name: Linear(plain.ops.take(matrix), linear.bias)})
        layers.append(layer)
    plain.engine.model = replace(plain.model, layers=tuple(layers))
    assert lost(folder, text, LLM(folder, quantize="w8a8", **text)) < 0.5 * lost(folder, text, plain)


def test_w8a8_rounds_the_inputs_too(golden_folder, monkeypatch):
    """Catches 8-bit weights whose inputs stay floats; by hand, they are whole 127ths of their row's largest."""
    llm, tokens = LLM(str(golden_folder("llama")), quantize="w8a8", calibration_tokens=128), list(range(3, 60))
    assert all(isinstance(linear.weight, W8A8) for layer in llm.model.layers for _, linear in named(layer))
    products, off = NumpyOps.products, []

    def watched(ops: NumpyOps, x: Array, weight: W8A8) -> Array:
        scale, y = np.abs(x).max(axis=1, keepdims=True) / 127, products[W8A8](ops, x, weight)
        off.append(distance(y, np.rint(x / scale) * scale @ weight.dequantize(slice(None))))
        return y

    monkeypatch.setattr(NumpyOps, "products", products | {W8A8: watched})
    found = llm.logits(tokens)
    assert len(off) == 4 * len(llm.model.layers)
    assert max(off) < ROUNDING
    monkeypatch.setattr(NumpyOps, "products", products | {W8A8: NumpyOps.float_product})
    assert distance(llm.logits(tokens), found) > 1e-3, "the same weights and inputs in floats are something else"


@pytest.mark.parametrize(("context", "size"), [(700, 512), (512, 512), (128, 128)])
def test_windows_are_512_tokens_or_the_whole_context(context, size, tmp_path):
    """Catches shorter ones, in which no input depends on what is far back, and positions that the model never had.

    16384 tokens unless told otherwise, which is 32 windows, and they are the text's first. The beginning token, id 0 of
    a golden, stands before each, within the context; calibration_bos=False leaves it out.
    """
    folder = write_hf_folder("llama", tmp_path, changes={"max_position_embeddings": context})
    checkpoint = load_checkpoint(folder)
    asked = EngineConfig(quantize="int4", quantize_method="gptq")
    without = replace(asked, calibration_bos=False, calibration_tokens=1024)
    ids = checkpoint.tokenizer.encode(calibration_text(None), add_special_tokens=False)
    for switches, count, begun in ((asked, 16384, 1), (without, 1024, 0)):
        text = min(size, context - begun)
        windows = read_windows(switches, checkpoint.config, checkpoint.tokenizer)
        assert windows.shape == (count // text, begun + text)
        np.testing.assert_array_equal(windows[:, begun:].ravel(), ids[: windows[:, begun:].size])
        assert not windows[:, :begun].any()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_combined_is_closer_than_each_of_its_parts(bits):
    """Scales, grid and codes improve one another: none may be computed for weights or inputs that another one changed.

    Inputs of very different size, as a transformer's are, that depend on one another; the error is of the outputs.
    """
    rng = np.random.default_rng(bits)
    x = rng.standard_normal((400, 64)) @ rng.standard_normal((64, 64)) * rng.lognormal(0, 1, 64)
    w, inputs = rng.standard_normal((96, 64)).astype(np.float32), Inputs.of(x.astype(np.float32))
    scheme = QuantScheme(bits, 32, False)

    def error(matrix: QuantizedMatrix, scale: np.ndarray | None) -> float:
        return float(np.square((w - matrix.dequantize() / (1 if scale is None else scale)) @ x.T).sum())

    parts = [error(hqq(w, scheme), None), *(error(*part(w, scheme, inputs, True)) for part in (by_gptq, by_awq))]
    matrix, scale = by_combination(w, scheme, inputs, True)
    assert error(matrix, scale) < 0.9 * min(parts)
    matrix, scale = by_combination(w, scheme, inputs, False)
    assert scale is None, "nothing could fold it"
    assert error(matrix, scale) < min(parts[:2])


def test_rules_hold_for_methods_with_text(golden_folder):
    """A layer that is left out stays what it was, also under w8a8; another one gets its own bits."""
    rules = "layers.1.* off, layers.2.down int2 g64"
    for switches in ({"quantize": "int4", "quantize_method": "gptq"}, {"quantize": "w8a8"}):
        model = LLM(str(golden_folder("llama")), quantize_rules=rules, calibration_tokens=128, **switches).model
        assert isinstance(model.layers[1].mixer.qkv.weight, Dense)
        assert isinstance(model.layers[1].mlp.down.weight, Dense)
        assert model.layers[2].mlp.down.weight.scheme == QuantScheme(2, 64, symmetric=False)
        assert not isinstance(model.layers[0].mixer.qkv.weight, Dense)


def test_text_that_is_missing_or_too_short_is_refused_before_the_weights_are_read(golden_folder, tmp_path):
    """Minutes later would be too late."""

    def loaded(done: int, of: int) -> None:
        raise AssertionError("a layer was loaded")

    text = tmp_path / "short.txt"
    text.write_text("Too short.")
    asked: dict[str, Any] = {"on_load": loaded, "quantize": "int4", "quantize_method": "gptq"}
    with pytest.raises(ValueError, match=r"calibration text has .* tokens, but a window has 127"):
        LLM(str(golden_folder("llama")), calibration=str(text), **asked)
    with pytest.raises(ModelError, match=r"cannot read the calibration text .*missing"):
        LLM(str(golden_folder("llama")), calibration=str(tmp_path / "missing"), **asked)


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_are_refused_by_methods_with_text_before_the_weights_are_read(name, golden_folder):
    """Catches a refusal after minutes of loading, and a model whose first layers are dense taken for a dense one."""

    def loaded(done: int, of: int) -> None:
        raise AssertionError("a layer was loaded")

    for switches in ({"quantize": "int4", "quantize_method": "awq"}, {"quantize": "w8a8"}):
        with pytest.raises(ValueError, match="a mixture of experts cannot be calibrated"):
            LLM(str(golden_folder(name)), on_load=loaded, **switches)


@pytest.mark.parametrize(
    "switches",
    [{"quantize": "int4"}, {"quantize_head": "int8"}, {"quantize_rules": "head int8"}, {"quantize": "w8a8"}],
    ids=str,
)
def test_what_we_quantized_already_is_not_quantized_again(switches, golden_folder):
    """By no switch. Catches the head's, which would be dropped in silence, as the folder keeps what it has."""
    checkpoint = replace(load_checkpoint(golden_folder("llama")), quantization={"quant_method": "tinyinfer"})
    with pytest.raises(ValueError, match=r" is given, but .* is quantized already"):
        keeps_file_quantization(EngineConfig(**switches), checkpoint)
    assert keeps_file_quantization(EngineConfig(), checkpoint)
    assert keeps_file_quantization(EngineConfig(quantize="keep"), checkpoint)
    float_folder = replace(checkpoint, quantization=None)
    assert not keeps_file_quantization(EngineConfig(**switches), float_folder)


# The real model


@pytest.mark.full
@pytest.mark.weights
def test_a_ggufs_own_grid_is_found_again(smollm2):
    """SmolLM2's file is Q4_1 and, for the embedding, Q8_0: int4 and int8 in groups of 32 lose nothing, bit for bit."""
    floats = LLM(str(smollm2), max_model_len=64)
    quantized = LLM(str(smollm2), max_model_len=64, quantize="int4", quantize_head="int8")
    assert quantized.model.nbytes < 0.19 * floats.model.nbytes
    pairs = [(floats.model.head.weight, quantized.model.head.weight)]
    for one, two in zip(floats.model.layers, quantized.model.layers, strict=True):
        a, b = layer_matrices(one), layer_matrices(two)
        pairs += [(a[name].weight, b[name].weight) for name in ("qkv", "o", "gate_up", "down")]
    for dense, packed in pairs:
        assert all(np.array_equal(packed.dequantize(tile), dense.dequantize(tile))
                   for tile in (slice(start, start + 1024) for start in range(0, packed.shape[0], 1024)))  # fmt: skip
    tokens = floats.tokenizer.encode("Gravity is the force by which a planet draws objects toward its center.")
    assert distance(quantized.logits(tokens), floats.logits(tokens)) < ROUNDING
