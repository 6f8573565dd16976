"""The seats as a timeline: of a run and of a schedule on paper."""

from __future__ import annotations

import re

import pytest
from markup import read

from tinyinfer import SamplingParams
from tinyinfer.views.recording import record
from tinyinfer.views.seats import Seats


def lengths(*most: int) -> list[SamplingParams]:
    """Greedy answers of exactly these lengths."""
    return [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True) for n in most]


def test_a_static_batch_pads_and_a_continuous_one_does_not(tiny):
    """Three answers of 2, 4 and 3 tokens on two seats, by hand."""
    prompts, params = ["one", "two", "three"], lengths(2, 4, 3)
    static = Seats(record(tiny(batching="static", max_num_seqs=2), prompts, params))
    assert str(static) == (
        "seat 0  0 0 / / 2 2 2\nseat 1  1 1 1 1 . . .\n"
        "7 steps on 2 seats: 9 of 14 places busy, 3 empty, 2 padding"
    )  # fmt: skip
    continuous = Seats(record(tiny(max_num_seqs=2), prompts, params), title="Continuous")
    assert str(continuous) == (
        "Continuous\nseat 0  0 0 2 2 2\nseat 1  1 1 1 1 .\n5 steps on 2 seats: 9 of 10 places busy, 1 empty"
    )


def test_bars_stand_where_their_steps_are(tiny):
    """Catches a bar that is shifted by a step: each begins behind the one before it, and the last ends at the end."""
    seats = Seats(record(tiny(batching="static", max_num_seqs=2), ["one", "two", "three"], lengths(2, 4, 3)))
    found = read(seats._repr_html_())
    bars = [bar for bar in found.named("span") if "left:" in bar.get("style", "")]
    words = [bar["title"] for bar in bars]
    assert words == [
        "sequence 0: prompt, steps 1 to 1", "sequence 0: decode, steps 2 to 2", "sequence 0: padding, steps 3 to 4",
        "sequence 2: prompt, steps 5 to 5", "sequence 2: decode, steps 6 to 7",
        "sequence 1: prompt, steps 1 to 1", "sequence 1: decode, steps 2 to 4", "1 waiting",
    ]  # fmt: skip
    for bar in bars[:-1]:
        left, width = map(float, re.findall(r"(?:left|width): ([\d.]+)%", bar["style"]))
        first, last = map(int, re.findall(r"\d+", bar["title"].partition("steps")[2]))
        assert left == pytest.approx(100 * (first - 1) / 7, abs=0.01)
        assert width == pytest.approx(100 * (last - first + 1) / 7, abs=0.01)
    assert [bar["class"] for bar in bars][:3] == ["fill prompt", "fill", "hatched"]
    [lanes] = [part for part in found.named("div") if part.get("role") == "img"]
    assert lanes["aria-label"] == seats.summary()


def test_a_schedule_on_paper():
    """None is an empty seat; a place that a finished sequence keeps is hatched."""
    seats = Seats.of_schedule([[0, 1], [0, 1], [0, None]], title="<mine>", padding=[(1, 1)])
    assert str(seats).splitlines() == [
        "<mine>", "seat 0  0 0 0", "seat 1  1 / .", "3 steps on 2 seats: 4 of 6 places busy, 1 empty, 1 padding",
    ]  # fmt: skip
    found = read(seats._repr_html_())
    assert found.words[0] == "<mine>"
    assert "padding" in found.words
    assert "waiting" not in found.words
    with pytest.raises(ValueError, match="same number of seats"):
        Seats.of_schedule([[0, 1], [0]])


def test_two_timelines_that_are_compared_have_one_scale():
    """Catches a short run that is drawn as long as the long one."""
    found = read(Seats.of_schedule([[0], [0], [0]], columns=4)._repr_html_())
    [bar] = [bar for bar in found.named("span") if "left:" in bar.get("style", "")]
    assert bar["style"].endswith("left: 0.000%; width: 75.000%")
    assert found.words[1:4] == ["0", "step", "1"]


def test_a_schedule_without_steps():
    """Catches a division by no steps: a student's first try may be empty."""
    assert Seats.of_schedule([]).text() == "0 steps on 0 seats: 0 of 0 places busy, 0 empty"
    assert read(Seats.of_schedule([])._repr_html_())
