"""Calibration: the text, and that every linear layer sees exactly what the quantized layers before it send."""

from __future__ import annotations

from pydoc_data import topics

import numpy as np
import pytest
from helpers import ROUNDING, checkpoint_of, distance, forward, make_engine, random_tensors, request, small_config

from tinyinfer.backends.packed import W8A8
from tinyinfer.errors import ModelError
from tinyinfer.model.config import MoEConfig, RopeConfig
from tinyinfer.model.quantized_matrix import W8A8_SCHEME, QuantScheme
from tinyinfer.model.weights import Dense, Linear
from tinyinfer.quantization.calibration import (
    DEFAULT_CHARACTERS,
    SAMPLE,
    Inputs,
    calibrate,
    calibration_text,
    calibration_windows,
    named,
)
from tinyinfer.quantization.rtn import round_to_nearest

WINDOWS = np.random.default_rng(0).integers(0, 31, (3, 12))


class Letters:
    """A token for each letter."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens, "calibration reads text as eval does"
        return [ord(letter) for letter in text]


def keep(name, linear, inputs):
    """Replaces nothing."""
    return linear, None


# The text


def test_the_default_text_is_there_and_long_enough():
    """Prose that every Python has, the same characters each time, enough for the default windows."""
    text = calibration_text(None)
    assert len(text) == DEFAULT_CHARACTERS
    assert calibration_windows(text, Letters(), 16384).shape == (32, 512)


def test_the_default_text_does_not_depend_on_the_order_of_a_dictionary(monkeypatch):
    """The topics in order of key: other Pythons list them in another one, and would quantize another model."""
    monkeypatch.setattr(topics, "topics", {"while": "third", "assert": "first", "for": "second"})
    assert calibration_text(None) == "first\nsecond\nthird"


def test_a_file_is_read_as_every_text(tmp_path):
    """Catches the system's encoding, a byte order mark or CRLF: tokens that eval does not score."""
    (tmp_path / "text.txt").write_bytes("\ufeffProsa für alle\r\n".encode())
    assert calibration_text(str(tmp_path / "text.txt")) == "Prosa für alle\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the calibration text {} (No such file or directory); give the path of a text file"),
        (b"caf\xe9", "the calibration text {}: not UTF-8 text (byte 3); convert it to UTF-8 first"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_once_with_a_cure(tmp_path, content, message):
    """Missing, or no text. Catches a codec's own words."""
    path = tmp_path / "text.txt"
    if content:
        path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        calibration_text(str(path))
    assert str(caught.value) == message.format(path)


def test_windows_are_the_texts_beginning_without_its_rest():
    """Tokens in order, none twice, no padding, never more than asked."""
    found = calibration_windows("abcdefghijk", Letters(), 9, window=4)
    np.testing.assert_array_equal(found, [[97, 98, 99, 100], [101, 102, 103, 104]])
    assert calibration_windows("abcdefghijk", Letters(), 100, window=4).shape == (2, 4)
    assert calibration_windows("abcd", Letters(), 4, window=4).shape == (1, 4)


def test_each_window_begins_with_the_beginning_tokens():
    """Catches bug B5's sibling: weights that are fitted to a text that begins as no text of the model's training."""
    found = calibration_windows("abcdefghijk", Letters(), 9, window=4, beginning=[1, 2])
    np.testing.assert_array_equal(found, [[1, 2, 97, 98, 99, 100], [1, 2, 101, 102, 103, 104]])
    again = calibration_windows("\1\2abcdefghijk", Letters(), 9, window=4, beginning=[1, 2])
    np.testing.assert_array_equal(again, found, "a text that begins with them gets them once")


def test_text_shorter_than_a_window_is_refused():
    """Zero windows would quantize by nothing at all, silently."""
    with pytest.raises(ValueError, match="has 3 tokens, but a window has 4"):
        calibration_windows("abc", Letters(), 100, window=4)
    with pytest.raises(ValueError, match=r"^x\.txt: it has 3 tokens, but a window has 4; give a longer text"):
        calibration_windows("abc", Letters(), 100, 4, "x.txt: it")
    with pytest.raises(ValueError, match="calibration_tokens=3 is less than a window of 4"):
        calibration_windows("abcdef", Letters(), 3, window=4)


# What is remembered


def test_inputs_are_summed_over_all_rows():
    """Against numbers by hand; sizes are of |x|, not of x."""
    inputs = Inputs.of(np.array([[1.0, -2.0], [-3.0, 1.0]], dtype=np.float32))
    np.testing.assert_array_equal(inputs.hessian, [[10, -5], [-5, 5]])
    np.testing.assert_array_equal(inputs.mean, [2, 1.5])
    np.testing.assert_array_equal(inputs.largest, [3, 2])


def test_the_sample_is_taken_from_the_whole_text():
    """Rows as they are, none twice. Catches the text's first ones, which are one window's, or half of one."""
    x = np.arange(4000, dtype=np.float32).reshape(2000, 2)
    sample = Inputs.of(x).sample
    places = np.sort(sample[:, 0] / 2).astype(int)
    assert len(set(places.tolist())) == SAMPLE
    np.testing.assert_array_equal(x[places], sample[np.argsort(sample[:, 0])])
    tenths = np.bincount(places // 200, minlength=10)
    assert (tenths > SAMPLE / 20).all(), "half of an equal share, at least"
    assert len(Inputs.of(x[:7]).sample) == 7


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("gated", [True, False])
def test_every_linear_layer_is_seen_once_in_order(gated, parallel):
    """A layer forgotten stays in float; the head stays what it is."""
    engine, seen, done = make_engine(small_config(gated=gated, parallel=parallel)), [], []

    def convert(name, linear, inputs):
        seen.append(name)
        return linear, None

    calibrate(engine.model, WINDOWS, engine.ops, convert, done.append)
    inner = ["gate_up", "down"] if gated else ["up", "down"]
    assert seen == [f"layers.{i}.{name}" for i in range(2) for name in ["qkv", "o", *inner]]
    assert done == [1, 2]


def test_replacing_nothing_changes_nothing():
    """The model comes back whole, and the work is not in the ledger, which counts the model's own."""
    engine = make_engine(small_config(num_kv_heads=4, qkv_bias=True, mlp_bias=True))
    before = repr(engine.ops.ledger)
    model = calibrate(engine.model, WINDOWS, engine.ops, keep)
    assert repr(engine.ops.ledger) == before
    pairs = [
        pair for old, new in zip(engine.model.layers, model.layers, strict=True)
        for pair in zip(named(old), named(new), strict=True)
    ]  # fmt: skip
    assert all(old[1] is new[1] for old, new in pairs)
    assert (model.head, model.embedding) == (engine.model.head, engine.model.embedding)


@pytest.mark.parametrize("changes", [{}, {"learned_positions": True}], ids=str)
def test_windows_do_not_see_one_another(changes):
    """Each is a text of its own, from position 0: its inputs are those that it has when it is the only one."""
    engine = make_engine(small_config(**changes))
    hessians: dict[str, list[np.ndarray]] = {}

    def convert(name, linear, inputs):
        hessians.setdefault(name, []).append(inputs.hessian)
        return linear, None

    for windows in (WINDOWS, *(row[None] for row in WINDOWS)):
        calibrate(engine.model, windows, engine.ops, convert)
    for together, *alone in hessians.values():
        assert distance(together, sum(alone)) <= ROUNDING


def test_a_window_beyond_longropes_boundary_is_turned_as_a_text_of_its_length():
    """Catches weights that are fitted to the rotations of short texts, all of them at positions of a long one."""
    short, long = (1.0, 1.5, 2.0), (1.0, 4.0, 16.0)
    both = RopeConfig(scaling="longrope", divisors=short, long_divisors=long, original_max_position=11)
    seen: dict[str, np.ndarray] = {}
    for kind, rope in (("short", RopeConfig(divisors=short)), ("long", RopeConfig(divisors=long)), ("both", both)):
        engine = make_engine(small_config(rope=(rope, rope)))

        def convert(name, linear, inputs, kind=kind):
            seen[kind] = inputs.hessian
            return linear, None

        calibrate(engine.model, WINDOWS, engine.ops, convert)  # of 12 tokens each
    np.testing.assert_array_equal(seen["both"], seen["long"])
    assert distance(seen["both"], seen["short"]) > 1e-3


def test_inputs_come_from_the_quantized_layers_before():
    """GPTQ's order: fitted to the float model's activations, layers would not make up for one another's errors.

    Every captured Hessian is compared with what a second run over the finished model captures, where nothing is
    replaced any more.
    """
    engine, first, second = make_engine(small_config()), {}, {}

    def convert(name, linear, inputs):
        first[name] = inputs.hessian
        matrix = round_to_nearest(linear.weight.array.T, QuantScheme(2, 4, False))
        return Linear(Dense(np.ascontiguousarray(matrix.dequantize().T))), None

    def watch(name, linear, inputs):
        second[name] = inputs.hessian
        return linear, None

    model = calibrate(engine.model, WINDOWS, engine.ops, convert)
    calibrate(model, WINDOWS, engine.ops, watch)
    assert max(distance(first[name], second[name]) for name in first) <= ROUNDING
    calibrate(engine.model, WINDOWS, engine.ops, watch)
    assert distance(first["layers.1.qkv"], second["layers.1.qkv"]) > 0.1, "the test's rounding must be felt"


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"norm": "layer", "gated": False}, {"num_kv_heads": 4}, {"parallel": True, "mlp_bias": True},
        {"sinks": True, "score_cap": 0.7}, {"residual_scale": 0.4, "post_norms": True},
    ],
    ids=str,
)  # fmt: skip
def test_scales_are_divided_while_it_runs_and_folded_afterwards(changes):
    """A layer that expects x / s gets it at once, and the finished model gets it from norms and rows."""
    engine, rng = make_engine(small_config(**changes)), np.random.default_rng(1)
    [expected] = forward(engine, (request(range(9)), 0, 9))
    plain, scaled = {}, {}

    def watch(name, linear, inputs):
        plain[name] = inputs.hessian
        return linear, None

    def convert(name, linear, inputs):
        scaled[name] = inputs.hessian
        if name.endswith((".o", ".down")) and changes != {"num_kv_heads": 4}:
            return linear, None
        s = rng.uniform(0.3, 3, linear.weight.shape[1]).astype(np.float32)
        return Linear(Dense(linear.weight.array * s[:, None]), linear.bias), s

    calibrate(engine.model, WINDOWS, engine.ops, watch)
    engine.model = calibrate(engine.model, WINDOWS, engine.ops, convert)
    assert max(distance(scaled[name], plain[name]) for name in plain) <= ROUNDING
    [found] = forward(engine, (request(range(9)), 0, 9))
    assert distance(found, expected) <= ROUNDING


def test_any_weight_that_the_backend_multiplies_can_come_back():
    """Calibration uses the products that the operations know, W8A8's too."""
    engine = make_engine(small_config())

    def convert(name, linear, inputs):
        return Linear(W8A8.pack(round_to_nearest(linear.weight.array.T, W8A8_SCHEME), np)), None

    [expected] = forward(engine, (request(range(9)), 0, 9))
    engine.model = calibrate(engine.model, WINDOWS, engine.ops, convert)
    [found] = forward(engine, (request(range(9)), 0, 9))
    assert 0 < distance(found, expected) < 0.1


def test_a_mixture_of_experts_is_refused():
    """Its experts would silently stay in float."""
    config = small_config(experts=MoEConfig(4, 2, 8))
    engine = make_engine(checkpoint_of(config, random_tensors(config)))
    with pytest.raises(ValueError, match="choose quantize_method=rtn or hqq"):
        calibrate(engine.model, WINDOWS, engine.ops, keep)


def test_inputs_that_are_not_finite_are_refused_by_name():
    """Every method would make NaN of them, or a code like any other, and where it began would not be known."""
    config = small_config()
    tensors = random_tensors(config)
    tensors["layers.1.up"][3] = 1e25
    engine = make_engine(checkpoint_of(config, tensors))
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(ValueError, match=r"layers\.1\.down"):
        calibrate(engine.model, WINDOWS, engine.ops, keep)
