"""Lesson 05, quantization: what a bit costs, which bits can be spared, and how an experiment deceives.

Here are the model with other weights, which the notebook measures, and the exercises; the rounding that the student
writes is judged in rounding.py. Each exercise is aimed at a misconception: 4 bits are 4 bits, fewer bits are faster by
as much, a smaller weight error is a better model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

import numpy as np

from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine, build_engine
from tinyinfer.lessons.exercise import Exercise, Wrong, judge_number
from tinyinfer.lessons.rounding import judge_restore, judge_round, restore, round_groups
from tinyinfer.llm import LLM, SCORE_ROWS
from tinyinfer.model.config import ModelConfig, held_matrices
from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.model.transformer import Model
from tinyinfer.model.visit import map_matrices
from tinyinfer.model.weights import Floats, Weight
from tinyinfer.quantization.apply import in_memory
from tinyinfer.quantization.calibration import calibration_text
from tinyinfer.quantization.rtn import round_to_nearest
from tinyinfer.sampling import token_scores
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.units import show

BEGINNING, NEW = "The capital of France is", 8  # of the text that a changed model writes: prompt, new tokens
TOKENS, SKIPPED = 256, 2000  # of Python's documentation: scored ones, and those before them

HEADINGS = ("setting", "bits a weight", "weight error", "perplexity", f"after “{BEGINNING}”")

Change = Callable[[np.ndarray], np.ndarray]  # (N, M) -> (N, M)


# A model with other weights.


@dataclass(frozen=True)
class Changed:
    """A model whose layers' matrices were changed. error: of these matrices, as a share of all layers' weights."""

    llm: LLM
    model: Model
    error: float

    def perplexity(self, tokens: Sequence[int]) -> float:
        """How surprised the changed model is by each token but the first."""
        [seq], engine = self.llm.sequences([list(tokens[:-1])]), self._engine()
        scores: list[float] = []
        while len(scores) < len(tokens) - 1:
            logits = engine.logits(seq, len(scores), SCORE_ROWS)  # (rows, V)
            scores += token_scores(logits, tokens[len(scores) + 1 : len(scores) + 1 + len(logits)])
        return math.exp(min(-float(np.mean(scores)), 700.0))

    def text(self, prompt: str, count: int) -> str:
        """The `count` tokens that the changed model writes after a prompt, as text."""
        [seq] = self.llm.sequences([prompt], SamplingParams(max_tokens=count, ignore_eos=True))
        for _ in self._engine().run([seq]):
            continue
        return self.llm.output(seq).text

    def _engine(self) -> Engine:
        return build_engine(self.model, self.llm.ops, EngineConfig(), self.llm.engine.clock)


def changed(llm: LLM, change: Change, only: str = "layers.*") -> Changed:
    """The model with `change` made of each matrix of its layers whose name fits `only`; embedding and head stay."""
    sizes = {"error": 0.0, "weights": 0.0}

    def replaced(name: str, weight: Weight) -> Weight:
        if not name.startswith("layers."):
            return weight
        before = in_memory(_floats(weight))  # (N, M)
        sizes["weights"] += float(np.vdot(before, before))
        if not fnmatchcase(name, only):
            return weight
        after = change(before)
        difference = after - before  # (N, M)
        sizes["error"] += float(np.vdot(difference, difference))
        return llm.ops.take(Floats(name, after))

    model = map_matrices(llm.model, replaced)
    return Changed(llm, model, math.sqrt(sizes["error"] / sizes["weights"]))


@dataclass(frozen=True)
class Measured:
    """What rounding has done to a model: the error of its weights, the perplexity of a text, and a text of its own."""

    error: float
    perplexity: float
    text: str

    def row(self, name: str, bits: float) -> tuple[str, ...]:
        """A line of the lesson's table; the text is quoted, so that spaces and ends of lines can be seen."""
        quoted = repr(self.text).replace("`", "'").replace("|", "/")
        return name, f"{bits:.2f}", f"{self.error:.2%}", f"{self.perplexity:,.1f}", f"`{quoted}`"


def measured(llm: LLM, change: Change, tokens: Sequence[int]) -> Measured:
    """Changes the matrices of all layers, measures, and forgets the changed model."""
    model = changed(llm, change)
    return Measured(model.error, model.perplexity(tokens), model.text(BEGINNING, NEW))


def _floats(weight: Weight) -> Floats:
    matrix = weight.matrix()
    assert isinstance(matrix, Floats)
    return matrix


def layer_weights(llm: LLM, *names: str) -> list[np.ndarray]:
    """The matrices of these names, (N, M) each, in float32."""
    found: dict[str, Weight] = {}
    map_matrices(llm.model, lambda name, weight: found.setdefault(name, weight))
    return [in_memory(_floats(found[name])) for name in names]


def coarse(bits: int, per_tensor: bool) -> Change:
    """Rounding with one scale and minimum for a whole matrix, or for each output of it (a channel)."""
    scheme = QuantScheme(bits, None, symmetric=False, per_tensor=per_tensor)
    return lambda w: round_to_nearest(w, scheme).dequantize()


def documentation(llm: LLM) -> list[int]:
    """The tokens of a piece of Python's own documentation, one more than are scored."""
    return llm.tokenizer.encode(calibration_text(None)[: 8 * (SKIPPED + TOKENS)])[SKIPPED : SKIPPED + TOKENS + 1]


# The exercises.


def bits_a_weight(bits: int, group: float) -> float:
    """Bits of a weight: its code, and its share of the group's scale and minimum, 16 bits each."""
    return bits + 32 / group


def predicted() -> tuple[float, dict[float, str]]:
    """The bits for each weight of int4 in groups of 32, and of each usual wrong guess the idea."""
    return bits_a_weight(4, 32), {
        4: "Four bits are only the code: each group also stores two numbers of 16 bits, for 32 weights.",
        6: "That would be scale and minimum in float32; they are in float16, and they are rounded, too.",
        8: "Two codes share a byte; a code does not take a byte of its own.",
    }


def bits_by_output(c: ModelConfig, bits: int) -> float:
    """Bits of a weight of the layers, if each output of a matrix has a scale and a minimum."""
    layers = [matrix for matrix in held_matrices(c).values() if matrix.name.startswith("layers.")]
    return bits + 32 * sum(matrix.outputs for matrix in layers) / sum(matrix.numbers for matrix in layers)


MOST_BITS, WIDTHS, GROUPS = 4.5, (2, 3, 4, 8), (16, 32, 64, 128)  # of the exercise `fits`
PAIRS = frozenset(product(WIDTHS, GROUPS))


def fitting(scales: float = 32) -> frozenset[tuple[int, int]]:
    """The pairs (bits, group) of at most MOST_BITS, if a group has so many bits of scales."""
    return frozenset((bits, group) for bits, group in PAIRS if bits + scales / group <= MOST_BITS)


def judge_fits(answer: Any) -> Wrong | None:
    """The pairs as a set; a pair too many or too few is named, and the slip that counts it."""
    try:
        given = {tuple(pair) for pair in answer}
    except TypeError:
        return Wrong(f"{show(answer)} is not a list of pairs.", "write pairs (bits, group), such as [(2, 16), (2, 32)]")
    truth = fitting()
    if given == truth:
        return None
    if unknown := [pair for pair in given if pair not in PAIRS]:
        return Wrong(f"{show(unknown[0])} is none of the choices.", f"bits: {list(WIDTHS)}; groups: {list(GROUPS)}")
    slips = {
        fitting(0): ("That counts the codes alone.", "each group also stores a scale and a minimum of 16 bits each"),
        fitting(16): ("That counts one number for each group.", "each group stores two: a scale and a minimum"),
        fitting(64): ("That counts scales of 32 bits.", "scale and minimum are stored in float16, 16 bits each"),
    }
    if frozenset(given) in slips:
        return Wrong(*slips[frozenset(given)])
    bits, group = sorted(given ^ truth)[0]
    does = "fits, and is missing" if (bits, group) in truth else "does not fit"
    hint = "compute the bits of each pair: the code, and its share of the two numbers of its group"
    return Wrong(f"{bits} bits in groups of {group}: {does}.", hint)


BODY, REST = 106_168_320, 28_311_552 + 35_136  # SmolLM2's weights in layers' matrices; in the head and norms
FLOAT_BYTES = 4 * (BODY + REST)
FEWER = FLOAT_BYTES / (BODY * bits_a_weight(4, 32) / 8 + 4 * REST)

judge_fewer = judge_number(
    FEWER,
    "times",
    {
        8: Wrong("That is 32 bits over 4.", "a weight takes more than its code, and not all weights are rounded"),
        32 / 5: Wrong("That is right for the layers alone.", "the head is not rounded, and each token reads all of it"),
        32 / 4.5: Wrong("That forgets the minimum of each group, and the head.", "16 bits of scale, 16 of minimum"),
        FLOAT_BYTES / (BODY * 4.5 / 8 + 4 * REST): Wrong(
            "That counts one number for each group.", "a group stores a scale and a minimum, 16 bits each"
        ),
        FLOAT_BYTES / (BODY * 4 / 8 + 4 * REST): Wrong(
            "That counts the codes alone.", "add the scale and the minimum of each group"
        ),
    },
    "add up the bytes of one token: layers in int4, head and norms in float32; then divide",
)

ERRORS = {"o": 0.110, "qkv": 0.166, "down": 0.195, "gate_up": 0.276}  # SmolLM2, 2 bits in groups of 32, one kind alone
PERPLEXITIES = {"o": 18.9, "gate_up": 108, "down": 279, "qkv": 837}  # of 256 tokens of Python's documentation


def _is_kind(one: object) -> bool:
    return isinstance(one, str) and one in ERRORS


def judge_pair(answer: Any) -> Wrong | None:
    """Two kinds of matrices: the first with the smaller weight error and the larger perplexity."""
    if not isinstance(answer, list | tuple | np.ndarray) or len(answer) != 2 or not all(map(_is_kind, answer)):
        return Wrong(f"{show(answer)} is not two kinds of matrices.", f"write two of {', '.join(map(repr, ERRORS))}")
    first, second = answer
    if first == second:
        return Wrong("Both are the same kind.", "compare two different lines of the table")
    smaller, worse = ERRORS[first] < ERRORS[second], PERPLEXITIES[first] > PERPLEXITIES[second]
    if smaller and worse:
        return None
    if smaller:
        return Wrong(f"{first} has the smaller weight error and is the better model, too.", "look for a worse one")
    if worse:
        return Wrong(f"{first} is worse, and its weight error is larger.", "such a pair surprises no reader: look on")
    return Wrong(f"{first} has the larger weight error and is the better model.", "the right kinds in the wrong order")


EXERCISES = (
    Exercise(
        "round_groups",
        judge_round,
        round_groups,
        "The scale is a group's range over its steps: one large weight makes every other weight of its group coarse.",
    ),
    Exercise("restore", judge_restore, restore, "A weight costs its code, and its share of scale and minimum."),
    Exercise(
        "fits",
        judge_fits,
        sorted(fitting()),
        "Four bits in small groups take more than three bits in large ones: scales are bits, too.",
    ),
    Exercise(
        "fewer bytes",
        judge_fewer,
        FEWER,
        "That is the most that decode can gain, on a backend that multiplies codes as they are. NumPy cannot.",
    ),
    Exercise(
        "pair",
        judge_pair,
        ("qkv", "gate_up"),
        "A model computes outputs, not weights. Lesson 06 rounds so that outputs stay, and lets weights move.",
    ),
)
