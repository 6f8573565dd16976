"""Lesson 02: the formulas are the engine's counts, right answers pass, and each slip gets the hint that names it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinyinfer import LLM, SamplingParams
from tinyinfer.lessons.exercise import Wrong
from tinyinfer.lessons.prefill_and_decode import (
    EXERCISES,
    batch_factors,
    batch_step,
    overtaking,
    times_moved,
)
from tinyinfer.lessons.roofline_by_hand import BYTE_SLIPS, FLOP_SLIPS, PAPER, PRIMES, SMOLLM2, parts_of, step_cost
from tinyinfer.lessons.roofline_found import RECORDED, RECORDED_ON, kind_of_rest, promised, roof, worst
from tinyinfer.lessons.tiny_model import write_tiny_model
from tinyinfer.measure.roofline import expected_prefill, expected_step, predict_seconds

BY_NAME = {exercise.name: exercise for exercise in EXERCISES}
SOURCE = inspect.getsource(step_cost).replace(
    "(c: ModelConfig, rows: int, machine: Machine) -> tuple[int, int, float]", "(c, rows, machine)"
)


def hint_of(name: str, answer: object) -> str:
    """What a wrong answer is told, sentence and hint."""
    wrong = BY_NAME[name].judged(answer)
    assert isinstance(wrong, Wrong)
    return f"{wrong.sentence} {wrong.hint}"


def changed(old: str, new: str) -> Callable[..., Any]:
    """Our solution with one place changed, as a student may have written it."""
    assert SOURCE.count(old) == 1
    names: dict[str, Any] = {}
    exec(SOURCE.replace(old, new), names)
    return names["step_cost"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("c", [PRIMES, SMOLLM2], ids=["primes", "smollm2"])
@pytest.mark.parametrize("rows", [1, 2, 7, 128])
def test_the_solution_counts_what_the_library_counts(c: Any, rows: int) -> None:
    """Catches a formula that agrees only where sizes happen to be equal."""
    expected, parts = expected_step(c, 0, rows), parts_of(c, rows)
    assert step_cost(c, rows, PAPER) == (expected.flops, expected.bytes_moved, predict_seconds(expected, PAPER))
    assert (parts.flops, parts.moved) == (expected.flops, expected.bytes_moved)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("+ 2 * D * V", "+ 2 * D * V * rows", "the head is asked for the logits of the last row only"),
        ("pairs = rows * (rows + 1) // 2", "pairs = rows * rows", "not the later ones"),
        ("2 * rows * body + 4 * H * E * L * pairs + 2 * D * V",
         "rows * body + 2 * H * E * L * pairs + D * V", "multiplied and added"),
        (" + 2 * D * V\n", "\n", "the head is a matrix, too"),
        (" + 4 * H * E * L * pairs", "", "attention is missing"),
        ("4 * H * E * L * pairs", "4 * H * E * pairs", "attention runs in every layer"),
        ("2 * rows * body", "2 * body", "FLOPs grow with the rows"),
        ("3 * D * F", "2 * D * F", "three matrices"),
        ("weights = body + D * V", "weights = rows * (body + D * V)", "a step reads each matrix once"),
        ("weights = body", "weights = rows * body", "a step reads each matrix once"),
        ("moved = 4 *", "moved =", "numbers, not bytes"),
        ("cache = 2 * (2 * L * K * E * rows)", "cache = 0", "keys and values are missing"),
        ("cache = 2 * (", "cache = 1 * (", "move twice"),
        ("2 * L * K * E * rows", "2 * L * H * E * rows", "only K heads"),
        (" + (2 * L + 1) * D", "", "norms are missing"),
        (" + rows * D\n", "\n", "the embedding is missing"),
        (" + rows * D\n", " + V * D\n", "not the whole table"),
        ("weights = body + D * V", "weights = body", "the head is read, too"),
        ("max(flops / machine.matrix_speed, ", "(flops / machine.matrix_speed + ", "not the sum"),
        ("max(flops", "min(flops", "both have to be done"),
        ("flops / machine.matrix_speed", "flops / machine.read_bandwidth", "FLOPs over matrix speed"),
        ("return flops, moved, ", "return ", "three numbers"),
        ("(D * (H + 2 * K) * E +", "(D * (H + K) * E +", "part by part"),
    ],
)  # fmt: skip
def test_a_slip_in_the_lines_is_named(old: str, new: str, said: str) -> None:
    """Catches a judge that accepts a planted mistake, or names another one."""
    assert said in hint_of("step cost", changed(old, new))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("flops / machine.matrix_speed", "flops / PAPER.matrix_speed", "FLOPs over matrix speed"),
        ("max(flops", "1e3 * max(flops", "not milliseconds"),
        ("4 * H * E * L * pairs", "2 * H * E * L * pairs", "attention 39200"),
        ("(2 * L + 1) * D", "2 * L * D", "norms 748"),
    ],
)
def test_another_slip_is_told_where_it_is(old: str, new: str, said: str) -> None:
    """Catches a hint that leaves a student alone with one large number."""
    assert said in hint_of("step cost", changed(old, new.replace("PAPER.matrix_speed", "200e9")))


def test_a_step_for_another_machine_is_told_so() -> None:
    """Catches lines that forget the machine they were given."""
    assert "another machine" in hint_of("step cost", lambda c, rows, machine: step_cost(c, rows, PAPER))


@pytest.mark.parametrize("kind", [list, np.array], ids=["list", "array"])
def test_three_numbers_are_right_in_any_row(kind: Any) -> None:
    """Catches a judge that refuses a list of the right numbers as "not three numbers"."""
    assert BY_NAME["step cost"].judged(lambda *case: kind(step_cost(*case))) is None
    assert BY_NAME["sixteen together"].judged(kind(batch_factors())) is None


@pytest.mark.parametrize("slips", [FLOP_SLIPS, BYTE_SLIPS], ids=["FLOPs", "bytes"])
def test_no_two_slips_count_the_same(slips: Any) -> None:
    """Catches sizes for which two mistakes could not be told apart."""
    counts = [wrong(parts_of(PRIMES, 7), PRIMES) for wrong, _ in slips]
    truth = expected_step(PRIMES, 0, 7)
    assert len({*counts, truth.flops, truth.bytes_moved}) == len(counts) + 2


def test_attention_overtakes_where_the_solution_says() -> None:
    """Catches an off-by-one in the search, and a claim about n² that the counts do not bear out."""
    at, before = (expected_prefill(SMOLLM2, n) for n in (overtaking(), overtaking() - 1))
    assert 2 * at.attention_flops >= at.flops
    assert 2 * before.attention_flops < before.flops


def test_a_batchs_step_is_what_the_engine_counts(tmp_path: Any) -> None:
    """Catches weights counted once for each sequence, or keys and values counted once for all."""
    write_tiny_model(tmp_path)
    llm = LLM(str(tmp_path))
    prompts = [[3 + i, 4, 5, 6] for i in range(5)]
    *_, last = llm.steps(prompts, SamplingParams(max_tokens=3, ignore_eos=True))
    assert len(last.batch) == 5
    expected = batch_step(5, 5, llm.config)
    assert (last.ledger.flops, last.ledger.bytes_moved) == (expected.flops, expected.bytes_moved)


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("attention overtakes", overtaking() / 2, "the mask is causal"),
        ("attention overtakes", 2 * overtaking(), "a pair costs twice"),
        ("attention overtakes", 512, "less than a tenth"),
        ("attention overtakes", 1, "next to nothing"),
        ("attention overtakes", 2000, "formulas in n"),
        ("sixteen together", (16, 16), "speeds up no answer"),
        ("sixteen together", (16, 1), "only if the step takes no longer"),
        ("sixteen together", (1, 1 / 16), "do not take turns"),
        ("sixteen together", batch_factors()[::-1], "the order is"),
        ("sixteen together", (batch_factors()[0], 1), "each sequence waits"),
        ("sixteen together", (batch_factors()[0], 1 / batch_factors()[1]), "divide the step of one"),
        ("sixteen together", (5, 0.2), "predict_seconds"),
        ("sixteen together", (batch_factors()[0], 1 / 16), "a token in every step"),
        ("sixteen together", (math.nan, math.nan), "predict_seconds"),
        ("weights moved", 1, "hoped for"),
        ("weights moved", RECORDED[4] / RECORDED[1], "one row is not at the roofline"),
        ("weights moved", 1 / times_moved(), "the inverse"),
        ("weights moved", 8, "seconds times bandwidth"),
    ],
)
def test_each_misconception_has_a_hint_of_its_own(name: str, answer: object, said: str) -> None:
    """Catches a hint that fits everything and explains nothing."""
    assert said in hint_of(name, answer)


def test_what_was_recorded_shows_what_the_lesson_says() -> None:
    """Catches another recording under the same text: the roofline is worst at few rows, and no step beats it."""
    predicted = roof(SMOLLM2, RECORDED, RECORDED_ON)
    ratio = {n: RECORDED[n] / predicted[n] for n in RECORDED}
    assert min(ratio.values()) > 1
    assert max(ratio, key=ratio.__getitem__) in (4, 6, 8, 16)
    assert ratio[4] > 2 * ratio[1]
    assert ratio[4] > 2 * ratio[256]
    assert "**The formula misses" in worst(predicted, RECORDED)
    assert "8 readers would cost no more" in promised(predicted, RECORDED_ON)


def test_where_few_rows_do_not_stand_out_the_lesson_says_so() -> None:
    """Catches a bump that is told on a machine without one."""
    predicted = roof(SMOLLM2, RECORDED, RECORDED_ON)
    assert "do not stand out" in worst(predicted, {n: 1.5 * predicted[n] for n in predicted})
    assert "do not stand out" in worst(predicted, {n: (2 if n == 256 else 1) * predicted[n] for n in predicted})


@pytest.mark.parametrize(
    ("rest", "of_each_weight"),
    [
        ({1: 1.0, 4: 3.6, 8: 3.6, 16: 3.5, 32: 3.7}, True),
        ({1: 1.0, 4: 1.1, 8: 1.0, 16: 0.9, 32: 1.0}, False),  # nothing is missing
        ({1: 0.5, 4: 2.0, 8: 4.0, 16: 8.0, 32: 16.0}, False),  # a cost of each row
        ({1: 3.0, 4: 3.1, 8: 3.0, 16: 3.0, 32: 3.1}, False),  # a cost of each product, of one row as well
        ({1: 1.0, 4: -0.5, 8: 1.0, 16: 2.0, 32: -3.0}, False),
    ],
)
def test_the_cost_of_each_weight_is_told_only_where_it_shows(rest: Any, of_each_weight: bool) -> None:
    """Catches an explanation that the student's own numbers do not bear out."""
    assert ("each **weight**" in kind_of_rest(rest)) is of_each_weight
