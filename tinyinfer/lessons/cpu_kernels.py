"""Lesson 17, CPU kernels: the exercises, from what memory allows to the sign that an instruction does not know.

The layout and the kernel that the student writes are judged in kernel_judge.py. Each exercise is aimed at a
misconception: a layout is only a shape; more rows are free; an instruction takes numbers as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyinfer.lessons.exercise import Exercise, Wrong, judge_number
from tinyinfer.lessons.kernel_judge import NOT_A_FUNCTION, judge_blocks, judge_product
from tinyinfer.lessons.kernel_ladder import LANES, block_product, in_blocks
from tinyinfer.lessons.roofline_by_hand import PAPER, SMOLLM2
from tinyinfer.model.config import held_matrices
from tinyinfer.units import show

GROUP = 32  # inputs that share a scale
NUMBERS = sum(matrix.numbers for matrix in held_matrices(SMOLLM2).values())  # SmolLM2's weights, the head among them


def token_bytes(code: float = 1, scale: float = 2) -> float:
    """Bytes of all matrices of SmolLM2, if a code and a scale take so many."""
    return NUMBERS * (code + scale / GROUP)


def predicted() -> tuple[float, dict[float, str]]:
    """Tokens a second that PAPER's memory allows for SmolLM2 in int8, and of each usual wrong guess the idea."""
    bandwidth = PAPER.read_bandwidth
    return bandwidth / token_bytes(), {
        bandwidth / token_bytes(scale=0): "That counts the codes alone: a group of 32 also has a scale of two bytes.",
        bandwidth / token_bytes(scale=4): "That counts scales of four bytes; these are float16.",
        bandwidth / token_bytes(4, 0): "That is float32, four bytes a weight; these codes take one.",
        bandwidth / token_bytes(2, 0): "That would be right for float16 weights, two bytes each.",
        PAPER.matrix_speed / (2 * NUMBERS): "That is the limit of arithmetic; here memory is the slower one.",
    }


# The exercises.

OUTPUTS, INPUTS, OUTPUT, INPUT = 960, 576, 200, 10  # of the exercise `place`
PLACE = (OUTPUT // LANES * INPUTS + INPUT) * LANES + OUTPUT % LANES
judge_place = judge_number(
    PLACE,
    "as an index",
    {
        OUTPUT * INPUTS + INPUT: Wrong(
            "That is the place in the textbook's order.", "in blocks, the outputs of one block lie side by side"
        ),
        INPUT * OUTPUTS + OUTPUT: Wrong(
            "That is the place if all outputs of an input lay side by side.", "only those of one block do: 64"
        ),
        INPUT * LANES + OUTPUT % LANES: Wrong(
            "That is the place inside its block.", "three whole blocks lie before it: how many codes has a block?"
        ),
        (OUTPUT // LANES * INPUTS + INPUT) * LANES: Wrong(
            "That is where input 10 of the block begins.", "the output has a place among the 64 of its block"
        ),
        (OUTPUT // LANES * INPUTS + INPUT) * LANES + OUTPUT: Wrong(
            "The output's place in the whole matrix was added.", "its place in its block is `200 % 64`"
        ),
    },
    "the array has shape (J, M, 64): find block, input and place in the block, and then the flat index",
    tolerance=1e-9,
)

READ, ADDED = 18e9, 59e9  # of the exercise `float limit`: weights read, and products added, in a second
judge_limit = judge_number(
    ADDED / READ,
    "times",
    {
        16: Wrong("That would be right if arithmetic took no time.", "sixteen rows need sixteen products a weight"),
        1: Wrong("More rows do gain: a weight is read once for all.", "how many products fit into one reading?"),
        READ / ADDED: Wrong("That is the inverse.", "rows a second of many rows, divided by those of one row"),
        16 * READ / ADDED: Wrong(
            "That is how much longer the step takes.", "it makes sixteen tokens in that time: divide sixteen by it"
        ),
        ADDED / READ / 16: Wrong(
            "That is what each of the sixteen gets, beside one row alone.", "the question is about all of them together"
        ),
    },
    "one row takes the time of reading; sixteen rows take the longer one of reading and sixteen products a weight",
)


def without_shift(total: np.ndarray, activations: np.ndarray) -> np.ndarray:  # (N,), (M,) -> (N,)
    """The sums of code · activation, out of the sums of (code + 128) · activation."""
    return total - 128 * activations.sum(dtype=np.int32)


def judge_shift(answer: Any) -> Wrong | None:
    """Whole numbers, exact: the student's sums beside ours, and beside those of each usual slip."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", NOT_A_FUNCTION)
    for inputs in (GROUP, 3):
        random = np.random.default_rng(inputs)
        codes = random.integers(-128, 128, (5, inputs))
        activations = random.integers(1, 128, inputs).astype(np.int8)
        total = (codes + 128) @ activations.astype(np.int64)
        with np.errstate(over="ignore"):
            given = answer(total.copy(), activations.copy())
        if wrong := _wrong_shift(given, total, activations):
            return wrong
    return None


def _wrong_shift(given: Any, total: np.ndarray, activations: np.ndarray) -> Wrong | None:
    if given is None:
        return Wrong("The function returned None.", "end it with `return`")
    truth, size = without_shift(total, activations), len(activations)
    if not isinstance(given, np.ndarray) or given.shape != truth.shape:
        return Wrong(f"The function returned {show(given)[:60]}.", "return an array of the shape of `total`")
    if np.array_equal(given, truth):
        return None
    shift = total - truth  # the same number for each output
    wrapped = int(activations.sum(dtype=np.int8))
    slips = {
        "Nothing was subtracted.": (total, "each product has 128 · activation too much"),
        "128 was subtracted once.": (total - 128, "each of the products has 128 · activation too much"),
        "128 was subtracted for each input.": (total - 128 * size, "a product has 128 · activation too much, not 128"),
        "The shift was added once more.": (total + shift, "(code + 128) · activation is too large by 128 · activation"),
        "The sum of the activations has left the range of int8.": (
            total - 128 * wrapped, "sum them up as int32: `activations.sum(dtype=np.int32)`, or `activations.sum()`"
        ),
    }  # fmt: skip
    for sentence, (slip, hint) in slips.items():
        if np.array_equal(given, slip):
            return Wrong(sentence, hint)
    return Wrong(f"The first sum is {show(given[0])}, not {truth[0]}.", "(code + 128) · a = code · a + 128 · a")


EXERCISES = (
    Exercise(
        "in blocks", judge_blocks, in_blocks,
        "Now the 64 codes that meet the same input lie side by side, in one line of memory.",
    ),
    Exercise(
        "block product", judge_product, block_product,
        "64 sums grow side by side, in as many lanes, and no sum ever has to be added to another one.",
    ),
    Exercise(
        "place", judge_place, PLACE,
        "The next code in memory belongs to the next output and the same input: one activation serves 64 codes.",
    ),
    Exercise(
        "float limit", judge_limit, ADDED / READ,
        "From the fourth row on such a core waits for its arithmetic. More products an instruction move that limit.",
    ),
    Exercise(
        "without shift", judge_shift, without_shift,
        "One sum for each group of activations serves all outputs, so the shift costs next to nothing.",
    ),
)  # fmt: skip
