"""What a load generator asks, and when."""

from __future__ import annotations

import json
import math
import random
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tinyinfer.errors import SwitchError
from tinyinfer.measure.serving_requests import (
    BLOCK,
    Lengths,
    Ramp,
    Source,
    arrivals,
    custom,
    random_asks,
    repeated_prefixes,
    sharegpt,
    timed_trace,
)

IDS = Source(lambda text: [len(word) + 100 * ord(word[0]) for word in text.split()])
TEXT = Source(None)


def written(tmp_path: Path, *lines: Any) -> str:
    path = tmp_path / "asked"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return str(path)


def test_random_prompts_share_their_prefix_alone() -> None:
    """Catches prompts that are found in a prefix cache, which makes a server look faster than it is."""
    asks = random_asks(IDS, 50, Lengths(20, 8, prefix=5), random.Random(0))
    assert {tuple(ask.prompt[:5]) for ask in asks} == {tuple(asks[0].prompt[:5])}
    assert len({tuple(ask.prompt[5:]) for ask in asks}) == 50
    assert {len(ask.prompt) for ask in asks} == {25}
    assert {ask.output_tokens for ask in asks} == {8}


def test_lengths_lie_around_what_was_asked() -> None:
    """Catches a range that is one-sided."""
    asks = random_asks(IDS, 400, Lengths(100, 50, spread=0.5), random.Random(0))
    lengths = [len(ask.prompt) for ask in asks]
    assert min(lengths) in range(50, 60)
    assert max(lengths) in range(140, 151)
    assert abs(statistics.fmean(lengths) - 100) < 6  # four standard errors


def test_a_server_that_does_not_tokenize_gets_words() -> None:
    prompt = random_asks(TEXT, 1, Lengths(7, 1, prefix=2), random.Random(0))[0].prompt
    assert isinstance(prompt, str)
    assert len(prompt.split()) == 9
    assert IDS.tokenize
    assert isinstance(random_asks(Source(IDS.tokenize, as_ids=False), 1, Lengths(7), random.Random(0))[0].prompt, str)


def test_the_same_seed_asks_the_same() -> None:
    one, same, other = (random_asks(IDS, 5, Lengths(9, 3, 0.4), random.Random(seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_each_prefix_has_several_continuations() -> None:
    """Catches prefixes that are not repeated, and ones that come one after the other."""
    asks = repeated_prefixes(IDS, 40, 4, 10, 6, 3, random.Random(0))
    first = [tuple(ask.prompt[:10]) for ask in asks]
    assert [first.count(one) for one in set(first)] == [10] * 4
    assert first != sorted(first)
    assert {len(ask.prompt) for ask in asks} == {16}


def test_arrivals_are_a_poisson_process() -> None:
    """Mean and variance of an exponential distribution. Catches even gaps, under which no queue forms."""
    due = arrivals(20_000, 4.0, 1.0, random.Random(0))
    gaps = [b - a for a, b in pairwise(due)]
    assert due[0] == 0
    assert statistics.fmean(gaps) == pytest.approx(0.25, rel=0.03)
    assert statistics.pstdev(gaps) == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize("burstiness", [0.25, 4.0])
def test_burstiness_changes_the_gaps_spread_and_not_their_mean(burstiness: float) -> None:
    """The variance of a gamma distribution of that shape. Catches a rate that depends on the burstiness."""
    gaps = [b - a for a, b in pairwise(arrivals(40_000, 2.0, burstiness, random.Random(0)))]
    assert statistics.fmean(gaps) == pytest.approx(0.5, rel=0.05)
    assert statistics.pstdev(gaps) == pytest.approx(0.5 / math.sqrt(burstiness), rel=0.06)


def test_a_rate_without_end_asks_all_at_once() -> None:
    assert arrivals(5, math.inf, 1.0, random.Random(0)) == [0.0] * 5


def test_a_ramp_goes_from_one_rate_to_the_other() -> None:
    linear, exponential = Ramp("linear", 1, 16), Ramp("exponential", 1, 16)
    assert [linear.rate(n, 5) for n in range(5)] == [1, 4.75, 8.5, 12.25, 16]
    assert [exponential.rate(n, 5) for n in range(5)] == pytest.approx([1, 2, 4, 8, 16])
    due = arrivals(4000, math.inf, 1.0, random.Random(0), linear)
    assert due[400] / 400 > 5 * (due[-1] - due[-401]) / 400  # the first gaps are the long ones


def test_conversations_of_a_fitting_length_are_asked(tmp_path: Path) -> None:
    """Catches answers of another length than those that were given, and questions that no model can read."""
    talk = {"conversations": [{"value": "one two three four five"}, {"value": "a b c d e f"}]}
    short = {"conversations": [{"value": "Hi"}, {"value": "a b c d e f"}]}
    long = {"conversations": [{"value": "x " * 2000}, {"value": "a b c d e f"}]}
    none = [{"conversations": no} for no in ([], None, 5, "ab", {"a": 1, "b": 2}, [1, 2])]
    path = written(tmp_path, [talk, short, long, *none, {}])
    [ask] = sharegpt(IDS, path, 10, None, random.Random(0))
    assert (ask.prompt, ask.output_tokens) == ("one two three four five", 6)
    assert sharegpt(IDS, path, 10, 9, random.Random(0))[0].output_tokens == 9


def test_lines_of_a_file_are_asked_again_when_they_are_few(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "a", "output_tokens": None}, {"prompt": [1, 2], "output_tokens": 3})
    assert [(ask.prompt, ask.output_tokens) for ask in custom(path, 3, 7)] == [("a", 7), ([1, 2], 3), ("a", 7)]


def test_a_trace_is_asked_in_its_own_time(tmp_path: Path) -> None:
    """Catches blocks of one name that differ, and times that are not milliseconds."""
    one = {"timestamp": 3000, "input_length": BLOCK + 10, "output_length": 5, "hash_ids": [7, 8]}
    other = {"timestamp": 4500, "input_length": 2 * BLOCK, "output_length": 6, "hash_ids": [7, 9]}
    first, second = timed_trace(IDS, written(tmp_path, one, other), 5, seed=0)
    assert (first.due, second.due) == (0.0, 1.5)
    assert (len(first.prompt), len(second.prompt)) == (BLOCK + 10, 2 * BLOCK)
    assert first.prompt[:BLOCK] == second.prompt[:BLOCK]
    assert first.prompt[BLOCK:] != second.prompt[BLOCK : BLOCK + 10]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ":1: no JSON"),
        ("[]", ":1: a request is a JSON object"),
        ('{"prompt": 3}', ':1: "prompt" must be a text'),
        ('{"prompt": ""}', ':1: "prompt" must be a text'),
        ('{"prompt": "a", "output_tokens": 0}', ':1: "output_tokens" must be a whole number'),
        ("", "holds no line"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(SwitchError, match=words):
        custom(written(tmp_path, line), 1, 1)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        *(({"timestamp": wrong}, '"timestamp" must be a number') for wrong in ("now", -1, True, math.inf, math.nan)),
        *(({"hash_ids": wrong}, '"hash_ids" must be a list') for wrong in (5, "ab", {"a": 1})),
        ({"input_length": True}, '"input_length" and "output_length" must be'),
        ({"input_length": 0}, '"input_length" and "output_length" must be'),
        ({"output_length": None}, '"input_length" and "output_length" must be'),
    ],
)  # fmt: skip
def test_a_wrong_line_of_a_trace_is_named(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    line = {"timestamp": 0, "input_length": 5, "output_length": 5} | changed
    with pytest.raises(SwitchError, match=words):
        timed_trace(IDS, written(tmp_path, line), 1, 0)


def test_a_file_that_is_no_list_of_conversations_is_refused(tmp_path: Path) -> None:
    for text, words in (("{", "is no JSON"), ("{}", "must hold a list"), ("[1]", 'holds no {"conversations"')):
        with pytest.raises(SwitchError, match=words):
            sharegpt(IDS, written(tmp_path, text), 1, None, random.Random(0))
    with pytest.raises(SwitchError, match="No such file"):
        custom(str(tmp_path / "absent"), 1, 1)
