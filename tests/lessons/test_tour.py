"""Lesson 00: right answers pass, and each usual mistake gets the hint that names its reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinyinfer.ledger import Ledger
from tinyinfer.lessons.exercise import Wrong
from tinyinfer.lessons.tour import ANSWER, EXERCISES, PAPER, PROMPT, SETTINGS, HashModel, chip_factor, write
from tinyinfer.lessons.tour_runs import Run, at_least, counts, times, told_by_counts, told_by_times

BY_NAME = {exercise.name: exercise for exercise in EXERCISES}


def hint_of(name: str, answer: object) -> str:
    """What a wrong answer is told, sentence and hint."""
    wrong = BY_NAME[name].judged(answer)
    assert isinstance(wrong, Wrong)
    return f"{wrong.sentence} {wrong.hint}"


def test_other_loops_of_the_same_meaning_are_right() -> None:
    """Catches a judge that wants our words: NumPy integers, a tuple, a copied list are right, too."""

    def in_numpy(llm: Any, tokens: list[int], count: int) -> tuple[Any, ...]:
        text = np.array(tokens)
        for _ in range(count):
            text = np.append(text, llm.logits(text.tolist())[-1].argmax())
        return tuple(text[len(tokens) :])

    def one_by_one(llm: Any, tokens: list[int], count: int) -> Any:
        yield from write(llm, tokens, count)

    assert BY_NAME["generation loop"].judged(in_numpy) is None
    assert BY_NAME["generation loop"].judged(one_by_one) is None


def all_rows_at_once(llm: Any, tokens: list[int], count: int) -> list[int]:
    return [int(row.argmax()) for row in llm.logits(tokens)][:count]


def never_appended(llm: Any, tokens: list[int], count: int) -> list[int]:
    return [int(llm.logits(tokens)[-1].argmax()) for _ in range(count)]


def first_row(llm: Any, tokens: list[int], count: int) -> list[int]:
    new: list[int] = []
    for _ in range(count):
        new.append(int(llm.logits(tokens + new)[0].argmax()))
    return new


def last_token_only(llm: Any, tokens: list[int], count: int) -> list[int]:
    new = [tokens[-1]]
    for _ in range(count):
        new.append(int(llm.logits(new[-1:])[-1].argmax()))
    return new[1:]


def with_the_prompt(llm: Any, tokens: list[int], count: int) -> list[int]:
    return tokens + write(llm, tokens, count)


def one_too_few(llm: Any, tokens: list[int], count: int) -> list[int]:
    return write(llm, tokens, count - 1)


def ended_in_the_first_turn(llm: Any, tokens: list[int], count: int) -> list[int]:
    return write(llm, tokens, 1)


def one_too_many(llm: Any, tokens: list[int], count: int) -> list[int]:
    return write(llm, tokens, count + 1)


def forgot_after_the_first(llm: Any, tokens: list[int], count: int) -> list[int]:
    new = write(llm, tokens, 1)
    while len(new) < count:
        new += write(llm, new[-1:], 1)
    return new


def dropped_the_prompt(llm: Any, tokens: list[int], count: int) -> list[int]:
    new = write(llm, tokens, 1)
    return new + write(llm, new, count - 1)


def changed_prompt(llm: Any, tokens: list[int], count: int) -> list[int]:
    new = write(llm, tokens, count)
    tokens.extend(new)
    return new


def nothing(llm: Any, tokens: list[int], count: int) -> None:
    write(llm, tokens, count)


def words(llm: Any, tokens: list[int], count: int) -> list[str]:
    return [str(token) for token in write(llm, tokens, count)]


def asks_the_engine(llm: Any, tokens: list[int], count: int) -> list[int]:
    return list(llm.generate([tokens])[0].token_ids)


@pytest.mark.parametrize(
    ("loop", "said"),
    [
        (all_rows_at_once, "one call gives a row for each token that is there already"),
        (never_appended, "put each new token behind the text"),
        (first_row, "that is the first row"),
        (last_token_only, "sees only the last token"),
        (with_the_prompt, "only the new tokens"),
        (one_too_few, "one token is missing"),
        (one_too_many, "writes 1 too many"),
        (ended_in_the_first_turn, "ends in its first turn"),
        (forgot_after_the_first, "after the first turn the model sees a single token"),
        (dropped_the_prompt, "sees no prompt"),
        (changed_prompt, "the caller's list has grown"),
        (nothing, "gives nothing back"),
        (words, "not token ids"),
        (asks_the_engine, "the loop is yours"),
    ],
)
def test_a_wrong_loop_is_told_its_reason(loop: Any, said: str) -> None:
    """Catches a loop that writes plausible tokens of another text."""
    assert said in hint_of("generation loop", loop)


def test_the_judges_model_depends_on_every_token_before() -> None:
    """Catches a stand-in on which a loop without memory would be right."""
    model = HashModel()
    a, b = (model.logits(tokens)[-1].argmax() for tokens in ([1, 2, 3], [9, 2, 3]))
    assert a != b
    assert list(model.logits([1, 2, 3])[1]) == list(model.logits([1, 2])[1])


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("steps", 1, "no sentence at once"),
        ("steps", PROMPT + ANSWER, "those of the prompt included"),
        ("steps", ANSWER + 1, "more than reading the prompt"),
        ("steps", 2, "the answer beforehand"),
        ("steps", 17, "column of steps"),
        ("steps", ANSWER - 1, "behind the prompt's"),
        ("steps", ANSWER + 0.01, "column of steps"),
        ("faster chip", 0.1, "ten times as slow"),
        ("faster chip", 1.0832, "computes afterwards"),
        ("other numbers", {"eight bits", "as it comes"}, "no switch"),
        ("faster chip", 10, "do not make ten times the speed"),
        ("faster chip", 1.09, "computes afterwards"),
        ("faster chip", 3.0, "the time of a token on both machines"),
        ("other numbers", set(), "one setting rounds"),
        ("other numbers", set(SETTINGS), "a draft is verified"),
        ("other numbers", ["no cache", "eight bits"], "computed again"),
        ("other numbers", {"int8"}, "none of the settings"),
    ],
)
def test_each_misconception_has_a_hint_of_its_own(name: str, answer: object, said: str) -> None:
    """Catches a hint that fits everything and explains nothing."""
    assert said in hint_of(name, answer)


def test_a_name_alone_or_a_list_of_names_is_an_answer() -> None:
    """Catches a judge that wants a set and nothing else."""
    for answer in (np.array(["eight bits"]), "eight bits", ["eight bits"], ("eight bits",), frozenset({"eight bits"})):
        assert BY_NAME["other numbers"].judged(answer) is None


def test_the_token_of_the_small_machine_waits_for_memory() -> None:
    """Catches sizes or a machine for which the exercise's sentence would be false."""
    assert chip_factor() == 1.0
    assert chip_factor(0.05) < 1.0


def run(seconds: float, text: str = "a", readers: int = 1, **counted: int) -> Run:
    """A run that did not happen."""
    return Run(frozenset({text}), Ledger(**counted), seconds, readers)


def test_what_is_said_about_times_is_what_was_measured() -> None:
    """Catches a sentence that tells of a surprise which this machine did not have."""
    plain, small = run(2.0, weight_bytes=100, steps=16), {"weight_bytes": 40, "steps": 10}
    slow = told_by_times({"as it comes": plain, "eight bits": run(3.0, **small), "prompt lookup": run(2.5, **small)})
    fast = told_by_times({"as it comes": plain, "eight bits": run(1.0, **small), "prompt lookup": run(1.5, **small)})
    assert "40% of the bytes, and took **more** time" in slow
    assert "10 steps instead of 16, and still was not faster" in slow
    assert "took less time" in fast
    assert "was faster here" in fast
    none = told_by_times({"as it comes": plain, "eight bits": plain, "prompt lookup": plain})
    assert none.endswith("saved no step: no draft was accepted.")


def test_what_is_said_about_counts_follows_from_the_roofline() -> None:
    """Catches a winner that only the stopwatch saw, and a batch whose cost is not shared out."""
    runs = {
        "plain": run(1.0, weight_bytes=37_000_000_000),
        "four": run(9.0, weight_bytes=37_000_000_000, readers=4),
        "less": run(9.0, "b", weight_bytes=37_000_000),
        "more": run(0.1, weight_bytes=74_000_000_000),
        "same": run(0.1, weight_bytes=37_000_000_000),
    }
    said = "Better than as it comes: **four, less**. Worse: **more**. 1 of the others tie with it."
    assert told_by_counts(runs, PAPER) == said
    assert [row[-1] for row in at_least(runs, PAPER)[1]] == ["1000.0", "250.0", "1.0", "2000.0", "1000.0"]
    assert [row[-1] for row in counts(runs)[1]] == ["yes", "yes", "no", "yes", "yes"]


def test_times_are_parts_of_the_plain_settings() -> None:
    """Catches a table that compares with another setting, or forgets the readers."""
    runs = {"plain": run(2.0, flops=10, weight_bytes=10), "four": run(4.0, readers=4, flops=20, weight_bytes=10)}
    assert times(runs)[1] == [["plain", "100%", "100%", "100%"], ["four", "50%", "25%", "50%"]]
