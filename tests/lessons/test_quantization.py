"""Lesson 05: its judges know the right answer, the usual slips and what is no answer; our rounding is the library's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinyinfer.lessons import quantization
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.lessons.quantization import EXERCISES, bits_a_weight, bits_by_output, changed, coarse, layer_weights
from tinyinfer.lessons.rounding import (
    examples,
    judge_restore,
    judge_round,
    library_parts,
    restore,
    round_groups,
    rounded,
)
from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.quantization.rtn import round_to_nearest

EXERCISE = {one.name: one for one in EXERCISES}


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    return Lesson("05_quantization")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_our_rounding_is_the_librarys(bits):
    """Catches a solution whose codes differ by one from those of `round_to_nearest`."""
    for mine, library in zip(round_groups(examples(), bits), library_parts(examples(), bits), strict=True):
        assert np.array_equal(mine, library)
    assert np.isfinite(restore(*round_groups(examples(), bits))).all()


# The model with other weights.


def test_a_rounded_model_is_that_of_the_switch(lesson):
    """Catches an experiment that rounds other matrices than `quantize`, or measures another perplexity."""
    llm = lesson.tiny()
    tokens = llm.tokenizer.encode("Water boils at a lower temperature on a mountain.")
    mine = changed(llm, lambda w: rounded(w, 4, 32)).perplexity(tokens)
    packed = lesson.tiny(quantize="int4", group_size=32)
    assert mine == pytest.approx(math.exp(-packed.score(tokens).mean()), rel=1e-5)
    assert mine != pytest.approx(math.exp(-llm.score(tokens).mean()), rel=1e-3), "rounding this model changes nothing"


def test_a_group_that_is_shorter_is_rounded_by_itself():
    """576 inputs are four and a half groups of 128."""
    w = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    parts = [rounded(w[:, :32], 4, 16), rounded(w[:, 32:], 4, 8)]
    assert np.array_equal(rounded(w, 4, 16), np.concatenate(parts, axis=1))


def test_nothing_changed_is_no_error(lesson):
    """Catches an error that counts matrices which stay, and one that forgets them in the sum of all weights."""
    llm = lesson.tiny()
    assert changed(llm, lambda w: w).error == 0
    assert changed(llm, np.zeros_like).error == pytest.approx(1)
    o = changed(llm, np.zeros_like, only="layers.*.o").error
    whole = layer_weights(llm, *(f"layers.{i}.{kind}" for i in range(2) for kind in ("qkv", "o", "gate_up", "down")))
    squares = [float(np.square(w).sum()) for w in whole]
    assert o == pytest.approx(math.sqrt((squares[1] + squares[5]) / sum(squares)))


def test_the_text_of_a_changed_model_is_its_own(lesson):
    """Catches a text that the unchanged model wrote."""
    llm = lesson.tiny()
    same, other = changed(llm, lambda w: w).text("Once", 8), changed(llm, coarse(2, per_tensor=True)).text("Once", 8)
    assert same != other


def test_bits_are_those_that_the_library_holds(lesson):
    """Catches a formula that forgets the minimum, or counts scales in float32."""
    llm = lesson.tiny()
    kinds = [f"layers.{i}.{kind}" for i in range(2) for kind in ("qkv", "o", "gate_up", "down")]
    for size, claimed in ((32, bits_a_weight(4, 32)), (None, bits_by_output(llm.config, 4))):
        held = [round_to_nearest(w, QuantScheme(4, size, symmetric=False)) for w in layer_weights(llm, *kinds)]
        scales = 8 * sum(one.scale.nbytes + one.minimum.nbytes for one in held)
        assert claimed == pytest.approx(4 + scales / sum(one.codes.size for one in held))


# The judges.


def grid(w, bits, *, nearest=np.rint, levels=-1, axis=-1, keep=True, half=np.float16, guard=True):
    """Our rounding with one thing done otherwise."""
    minimum = w.min(axis=axis, keepdims=True).astype(half)
    scale = ((w.max(axis=axis, keepdims=True) - minimum) / (2**bits + levels)).astype(half)
    codes = nearest((w - minimum) / (np.where(scale == 0, half(1), scale) if guard else scale))
    codes = codes.clip(0, 2**bits - 1)
    return (codes, scale, minimum) if keep else (codes, scale[..., 0], minimum[..., 0])


def late(w, bits):
    codes, scale, minimum = grid(w, bits, half=np.float32)
    return codes, scale.astype(np.float16), minimum.astype(np.float16)


def swapped(w, bits):
    codes, scale, minimum = grid(w, bits)
    return codes, minimum, scale


def true_range(w, bits):
    minimum = w.min(axis=-1, keepdims=True).astype(np.float16)
    scale = ((w.max(axis=-1, keepdims=True) - w.min(axis=-1, keepdims=True)) / (2**bits - 1)).astype(np.float16)
    return np.rint((w - minimum) / np.where(scale == 0, np.float16(1), scale)).clip(0, 2**bits - 1), scale, minimum


def from_zero(w, bits):
    scale = (w.max(axis=-1, keepdims=True) / (2**bits - 1)).astype(np.float16)
    return np.rint(w / scale).clip(0, 2**bits - 1), scale, np.zeros_like(scale)


def centred(w, bits):
    scale = (np.abs(w).max(axis=-1, keepdims=True) / (2 ** (bits - 1) - 1)).astype(np.float16)
    return np.rint(w / scale), scale, np.zeros_like(scale)


SLIPS = {
    "by the number of codes": lambda w, bits: grid(w, bits, levels=0),
    "cut off": lambda w, bits: grid(w, bits, nearest=np.floor),
    "that are not stored": late,
    "for the whole array": lambda w, bits: grid(w, bits, axis=None),
    "`keepdims=True`": lambda w, bits: grid(w, bits, keep=False),
    "is float32": lambda w, bits: grid(w, bits, half=np.float32),
    "divide by 1 there": lambda w, bits: grid(w, bits, guard=False),
    "changed places": swapped,
    "belongs to a minimum that is not stored": true_range,
    "around zero": centred,
    "the library's": lambda w, bits: grid(w + 1, bits),
    "not three arrays": lambda w, bits: grid(w, bits)[0],
}


@pytest.mark.parametrize("said", SLIPS)
def test_a_slip_in_the_rounding_is_named(said):
    """Catches a hint that fits another mistake."""
    wrong = judge_round(SLIPS[said])
    assert wrong is not None
    assert said in f"{wrong.sentence} {wrong.hint}"


RESTORED = {
    "The minimum is missing": lambda codes, scale, minimum: codes.astype(np.float32) * scale,
    "scaled, too": lambda codes, scale, minimum: (codes.astype(np.float32) + minimum) * scale,
    "rounded once more": lambda codes, scale, minimum: codes * scale + minimum,
    "are float64": lambda codes, scale, minimum: codes * scale.astype(np.float64) + minimum,
    "Weight [0, 0, 0]": lambda codes, scale, minimum: codes.astype(np.float32) * scale - minimum,
    "of the shape": lambda codes, scale, minimum: (codes * scale)[0],
}


@pytest.mark.parametrize("said", RESTORED)
def test_a_slip_in_restoring_is_named(said):
    """Catches one hint for all mistakes."""
    wrong = judge_restore(RESTORED[said])
    assert wrong is not None
    assert said in f"{wrong.sentence} {wrong.hint}"


def pairs(scales, below=4.5):
    return [(bits, group) for bits, group in quantization.PAIRS if bits + scales / group <= below]


WRONG = [
    ("fits", pairs(0), "codes alone"),
    ("fits", pairs(16), "one number"),
    ("fits", pairs(64), "scales of 32 bits"),
    ("fits", pairs(32, below=4.49), "4 bits in groups of 64: fits, and is missing"),
    ("fits", [*pairs(32), (8, 128)], "8 bits in groups of 128: does not fit"),
    ("fits", [(5, 16)], "none of the choices"),
    ("fewer bytes", 8, "32 bits over 4"),
    ("fewer bytes", 6.4, "right for the layers alone"),
    ("fewer bytes", 3.235, "codes alone"),
    ("fewer bytes", 3.108, "one number for each group"),
    ("fits", [[[]]], "not a list of pairs"),
    ("pair", (["o"], ["qkv"]), "not two kinds"),
    ("fewer bytes", 7.11, "forgets the minimum"),
    ("pair", ("o", "down"), "better model, too"),
    ("pair", ("gate_up", "o"), "surprises no reader"),
    ("pair", ("gate_up", "qkv"), "wrong order"),
    ("pair", ("o", "o"), "the same kind"),
    ("pair", ("o", 3), "not two kinds"),
]


@pytest.mark.parametrize(("name", "answer", "said"), WRONG)
def test_a_usual_wrong_answer_gets_its_own_hint(name, answer, said):
    """Catches one hint for all mistakes."""
    wrong = EXERCISE[name].judged(answer)
    assert wrong is not None
    assert said in f"{wrong.sentence} {wrong.hint}"


@pytest.mark.parametrize(
    "answer", [("qkv", "gate_up"), ("qkv", "down"), ["down", "gate_up"], np.array(["qkv", "down"])]
)
def test_every_pair_that_surprises_is_right(answer):
    """Catches a judge that knows only one of the right pairs."""
    assert EXERCISE["pair"].judged(answer) is None


@pytest.mark.parametrize("form", [iter, frozenset, np.array, tuple], ids=lambda form: form.__name__)
def test_pairs_of_another_form_are_right(form):
    """Catches a judge that refuses the right pairs because they come as a generator, a set or an array."""
    assert EXERCISE["fits"].judged(form(pairs(32))) is None
