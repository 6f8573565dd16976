"""The story-teller that comes with tinyinfer, and benchmarks/story_teller.py, which makes it."""

from __future__ import annotations

import json
import math
import re
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import story_teller
from story_plans import FOUND, LOST, NAMES, TROUBLES, WANTED, plan, rows
from story_teller import DRAWN, Story, bits_as_drawn, bits_per_character, kept, mixed, read, settings, weigh

from tinyinfer import LLM, SamplingParams
from tinyinfer.loading.hub import STORY_TELLER, find

HELD_OUT = Path(__file__).parent / "golden" / "held_out_stories.jsonl"  # written by SmolLM2, see the benchmark
BITS = 0.4229  # a character of them, as measured


@pytest.fixture(scope="module")
def llm() -> LLM:
    """The model as `generate` opens it without a network."""
    return LLM(STORY_TELLER)


# The model.


def test_it_says_what_smollm2_wrote_at_the_stated_price(llm: LLM) -> None:
    """Catches weights that are damaged, worse than stated, or of another tokenizer."""
    assert bits_per_character(llm, read(HELD_OUT)) == pytest.approx(BITS, rel=0.01)


def test_its_stories_end_and_are_made_of_sentences(llm: LLM) -> None:
    """Catches a student that was not told where a story ends, and one that babbles."""
    for seed in range(4):
        params = SamplingParams(temperature=0.7, min_p=0.05, max_tokens=300, seed=seed)
        [told] = llm.generate(["Once upon a time"], params)
        assert told.finish_reason == "stop"
        assert told.text.count(".") >= 7
        assert told.text.isascii()
        assert told.text.rstrip('"').endswith((".", "!", "?"))


def test_it_is_small_with_its_vocabulary() -> None:
    """The repository grows by little, and by this model at most 3 MB."""
    assert sum(file.stat().st_size for file in Path(find(STORY_TELLER)).iterdir()) <= 3_000_000


# How it was made.


def test_a_story_can_be_made_again_from_its_number() -> None:
    """Catches word lists whose order depends on the run, and stories that are all alike."""
    told = [plan(1, i) for i in range(50)]
    plan.cache_clear()
    assert told == [plan(1, i) for i in range(50)]
    assert len({tuple(one.beginnings) for one in told}) == 50


def test_every_story_keeps_to_one_thing_and_one_helper() -> None:
    """What was found, lost or wanted comes again, and so does who helps. Catches a form whose sentences have nothing to
    do with each other, and words in braces that were not filled in.
    """
    for i in range(200):
        beginnings = [one.text for one in plan(1, i).beginnings]
        assert len(beginnings) in (11, 12)
        assert not any(mark in " ".join(beginnings) for mark in "{}|*")
        [helper] = re.findall(r"Then an? ([a-z]+) came by", " ".join(beginnings))
        happening = " ".join(beginnings[2:])
        thing = re.findall(r"But(?: then)? the ([a-z]+)|without the ([a-z]+)", happening)[0]
        assert sum(max(thing) in one for one in beginnings) >= 3, beginnings
        assert sum(helper in one for one in beginnings) >= 2, beginnings


def test_the_tables_of_the_plans_are_whole() -> None:
    """Catches a cell that is missing, and a thing with a trouble that is not in the list."""
    assert {len(row) for row in rows(FOUND)} == {4}
    assert {len(row) for row in rows(TROUBLES)} == {5}
    assert {len(row) for row in rows(WANTED)} == {8}
    assert {len(row) for row in rows(LOST)} == {3}
    known = {row[0].split(":")[0] for row in rows(TROUBLES)}
    assert known == {one.strip() for row in rows(FOUND) for one in row[2].split(",")}


@pytest.mark.parametrize("i", range(8))
def test_what_a_plan_says_whole_is_not_asked_for(i: int) -> None:
    """SmolLM2 continues only what is begun. Catches a sentence with two ends, or with none, a speech that never ends,
    and chances of words that SmolLM2 never said.
    """
    story, asked = Story(1, i), 0
    while not story.done:
        assert story.asked().endswith(f"{story.text} {story.next.text}".strip())
        story.take(f" {'abcdefgh'[asked]} word", "!", [(1, {1: 0.0})])
        asked += 1
    whole = [one for one in plan(1, i).beginnings if one.whole]
    assert asked == len(story.parts) - len(whole) < len(story.parts)
    assert [part for part in story.parts if not part[1]] == [[one.text, ""] for one in whole]
    assert [bool(end) for _, end in story.parts] == [bool(said) for said in story.said]
    assert story.text.count('"') == 2 * sum(one.text.count('"') > 0 for one in plan(1, i).beginnings)


@pytest.mark.parametrize(
    ("end", "taken"),
    [
        (" a house with a bear", True),  # who will help
        (" a house with a lion", False),
        (" a house with lions", False),
        (" a house with Rosa", False),
        (" a house with her", False),  # the hen is a he
        (" a house until one day he went", False),
        (" a house where he ate a drum", False),
    ],
)
def test_an_end_that_leaves_the_thread_is_refused(end: str, taken: bool) -> None:
    """Catches creatures that come from nowhere, a second story in a sentence, and meals of what is none."""
    story = Story(1, 7)
    story.take(end, ".", [])
    assert bool(story.parts) == taken


@pytest.mark.parametrize(
    ("end", "mark", "taken"),
    [
        (" a house by the sea", ".", True),
        (" a house by the sea", "!", True),
        (" a house by the sea", "", False),  # its tokens were used up
        (" a house by the sea", "\n", False),
        (" a house with 3 doors", ".", False),
        (' a house. "Oh', "!", False),
        (" there", ".", False),  # one word
        (" a house of Mr", ".", False),  # whose dot ends no sentence
        (" a house where he killed a bear", ".", False),
        (" a house. Kill it", ".", False),
        ("by the sea", ".", False),  # "lived inby the sea"
    ],
)
def test_an_end_is_a_plain_sentence_that_says_something_new(end: str, mark: str, taken: bool) -> None:
    """Catches stories with half sentences, with loops, and with what no child should read."""
    story = Story(1, 7)
    story.take(end, mark, [(1, {1: 0.0})])
    assert (len(story.parts), story.tries) == ((1, 0) if taken else (0, 1))
    if taken:
        first, second, *_ = plan(1, 7).beginnings
        assert story.text == first.text + end + mark
        assert story.asked().endswith(f"{story.text} {second.text}")


def test_an_end_says_what_the_story_has_not_said_yet() -> None:
    """Catches a story that goes round in a circle."""
    story = Story(1, 7)
    story.take(" a house by the sea", ".", [])
    story.take(" went to the house by the sea", ".", [])
    assert story.tries == 1
    story.take(" met his friend on the way", ".", [])
    assert story.tries == 0


def test_mixed_stories_are_other_plans_with_ends_that_were_written() -> None:
    """Each end in the place of one that begins alike. Catches another hero's name, an end that leaves the thread, what
    SmolLM2 said of another end, and a text that is not its parts.
    """

    def told(i: int) -> dict[str, Any]:
        story = Story(1, i)
        while not story.done:
            end = f" {'quietly' if i % 2 else 'loudly'} number {len(story.parts)}"
            story.take(re.sub(r"\d", lambda digit: "abcdefghijkl"[int(digit[0])], end), ".", [(i, {i: 0.0})])
        return story.line

    pool = [told(i) for i in range(400)]
    more = list(islice(mixed(pool), 30))
    assert len({one["text"] for one in more}) == 30
    written = {end for one in pool for _, end in one["parts"]}
    for one in more:
        assert one["text"] == " ".join(beginning + end for beginning, end in one["parts"])
        assert {end for _, end in one["parts"]} <= written
        assert [bool(end) for _, end in one["parts"]] == [bool(said) for said in one["said"]]
        for (_, end), said in zip(one["parts"], one["said"], strict=True):
            assert not end or ("quietly" in end) == bool(said[0][0] % 2)
        names = {name for names in NAMES.values() for name in names if re.search(rf"\b{name}\b", one["text"])}
        assert len(names) == 1


class Words:
    """A teacher's tokenizer whose tokens are these words."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def decode(self, ids: list[int]) -> str:
        """Their text."""
        return "".join(self.words[id] for id in ids)


def test_what_smollm2_said_counts_for_the_student_s_tokens(llm: LLM) -> None:
    """Catches distributions that are a token late or hide what we wrote ourselves, and a word that is taken for its
    second piece.
    """
    t, teacher = llm.tokenizer, Words(" chimneysweep", " big", ".", "!")
    said = [(0, {0: math.log(0.6), 1: math.log(0.3)}), (2, {2: math.log(0.9), 3: math.log(0.1)})]
    story = {"text": "Rosa was a chimneysweep.", "parts": [["Rosa was a", " chimneysweep."]], "said": [said]}
    ids = np.array(t.encode(story["text"]))
    ours, pieces = len(t.encode("Rosa was a")), t.encode(" chimneysweep")
    assert len(pieces) > 1
    rows = kept([story], [ids], t, teacher).rows
    found = [
        {int(token): float(np.exp(log_p)) for token, log_p in zip(row["tokens"], row["log_p"], strict=True)}
        for row in rows
    ]
    known = [{token: p for token, p in row.items() if p > 1e-6} for row in found]
    likelier, other = weigh(said[0][1]).values()
    words = [likelier, other / (1 + other)]  # the second was never taken, and should have been: it counts less
    words = [word / sum(words) for word in words]
    likelier, other = weigh(said[1][1]).values()
    marks = [likelier, other / (1 + other)]
    marks = [mark / sum(marks) for mark in marks]
    alone = [{int(token): 1.0} for token in ids[1:]]
    assert known[: ours - 1] == alone[: ours - 1], "what we wrote ourselves"
    first = dict(zip([pieces[0], t.encode(" big")[0]], words, strict=True))
    assert known[ours - 1] == pytest.approx(first, rel=2e-3)
    assert known[ours:-1] == alone[ours:-1], "the other pieces of the word"
    last = dict(zip([t.encode(".")[0], t.encode("!")[0]], marks, strict=True))
    assert known[-1] == pytest.approx(last, rel=2e-3)
    assert all(len(row) == len(rows[0]["tokens"]) for row in found), "a token twice"
    assert not rows["rest"].any()


def test_likely_tokens_are_drawn_more_often_than_they_are_likely() -> None:
    """At a temperature below 1, as the text was. Catches a student that learns from what was never drawn."""
    one, two, three = weigh({1: math.log(0.5), 2: math.log(0.25), 3: math.log(0.06)}).values()
    sharper = 1 / DRAWN.temperature
    assert sharper > 1
    assert one + two + three == pytest.approx(1)
    assert (one / two, two / three) == pytest.approx((2**sharper, (0.25 / 0.06) ** sharper))


def test_a_token_that_was_drawn_beside_the_list_is_learned_from_the_text(llm: LLM) -> None:
    """Catches a target that forbids what the text says."""
    t, teacher = llm.tokenizer, Words(" big", " small", " old")
    story = {"text": "Rosa was small", "parts": [["Rosa was", " small"]], "said": [[(1, {0: -0.5, 2: -1.5})]]}
    row = kept([story], [np.array(t.encode(story["text"]))], t, teacher).rows[-1]
    assert (row["tokens"][0], row["log_p"][0]) == (t.encode(" small")[0], 0)


def test_a_line_that_a_kill_has_cut_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run of an hour that cannot go on, and two stories in one line."""
    file = tmp_path / "stories.jsonl"
    (tmp_path / "stories.jsonl.part.json").write_text(json.dumps(settings(1, "smollm2-135m")), encoding="utf-8")
    cut = '{"i": 0, "text": "One."}\n{"i": 2, "text": "Two."}\n{"i": 1, "te'
    (tmp_path / "stories.jsonl.part").write_text(cut, encoding="utf-8")
    monkeypatch.setattr(story_teller, "LLM", lambda *args, **switches: None)
    monkeypatch.setattr(story_teller, "stories", lambda llm, seed, first: iter([Story(seed, first)]))
    story_teller.write(file, 3, 1, "smollm2-135m", {})
    assert [story["i"] for story in read(file)] == [0, 2, 3]


def test_the_price_as_drawn_is_that_of_the_sharpened_distribution() -> None:
    """Catches SmolLM2's own price at another temperature than the one at which it wrote."""
    story = {"parts": [["A", " bb."]], "said": [[[1, {"1": math.log(0.8), "2": math.log(0.2)}], [3, {"3": 0.0}]]]}
    sharper = 1 / DRAWN.temperature
    likely = 0.8**sharper / (0.8**sharper + 0.2**sharper)
    assert bits_as_drawn([story]) == pytest.approx(-math.log2(likely) / 4)
