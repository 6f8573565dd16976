"""Prompts by number: deterministic, plenty, unlike each other, and whole sentences; a file's lines in turn."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tinyinfer.distillation import words
from tinyinfer.distillation.prompts import GAPS, KINDS, STORIES, TEMPLATES, Drawn, file_prompts, prompt_source


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_always_has_the_same_prompt(kind: str) -> None:
    """In any order, so that a run can go on anywhere. Catches a generator that is shared by all prompts."""
    prompts = [KINDS[kind](3, i) for i in range(50)]
    assert [KINDS[kind](3, i) for i in reversed(range(50))] == prompts[::-1]
    assert prompts != [KINDS[kind](4, i) for i in range(50)]


@pytest.mark.parametrize(("kind", "share"), [("questions", 0.9), ("stories", 0.999)])
def test_prompts_seldom_come_twice(kind: str, share: float) -> None:
    """Catches a gap that always gets the same word."""
    assert len({KINDS[kind](0, i) for i in range(2000)}) > share * 2000


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_whole_sentences(kind: str) -> None:
    """Catches a gap that is left open, two spaces, a list's line break inside a word, "a apple"."""
    for i in range(2000):
        prompt = KINDS[kind](1, i)
        assert not re.search(r"[{}\n]|  |\b[Aa] [aeio]", prompt), prompt
        assert prompt[0].isupper()
        assert prompt[-1] in '.?"'


def test_no_gap_of_a_prompt_repeats_another() -> None:
    """Catches "What do bees and bees have in common?", and a topic that is compared with one of another kind."""
    for i in range(300):
        drawn = Drawn(np.random.default_rng(i))
        pair = {drawn["topic"], drawn["topic2"]}
        assert len(pair) == 2
        assert any(pair <= set(one) for one in words.TOPIC_LISTS)


def test_there_are_plenty_of_words() -> None:
    """As many as were asked for, each of them once: a word twice in a list would come twice as often."""
    least = {"topic": 300, "character": 100, "object": 100, "scene": 60, "trait": 40, "event": 30}
    assert len(set(TEMPLATES)) >= 60
    assert {gap: len(set(GAPS[gap])) for gap, n in least.items() if len(set(GAPS[gap])) < n} == {}
    for gap, choices in GAPS.items():
        assert len(set(choices)) == len(choices) or gap in ("wish", "language"), gap


def test_every_list_is_used() -> None:
    """Catches words that no template asks for."""
    asked = {
        gap.removeprefix("a_").rstrip("23") for text in (*TEMPLATES, *STORIES) for gap in re.findall(r"{(\w+)}", text)
    }
    assert asked == set(GAPS)


def test_a_files_lines_come_in_turn(tmp_path: Path) -> None:
    """Empty lines, a byte order mark and CRLF are no part of a prompt; after the last line comes the first."""
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeffOne?\r\n\r\n  Zwei – zwei? \nThree\u2028three?".encode())
    source = prompt_source(str(path), 0)
    assert [source.prompts(i) for i in range(4)] == ["One?", "Zwei – zwei?", "Three\u2028three?", "One?"]
    assert source.name.startswith("mine.txt (SHA-256 ")


def test_a_files_name_changes_with_its_text(tmp_path: Path) -> None:
    """Else a run would go on with other prompts under the same name."""
    names = []
    for text in ("One?", "Two?"):
        (tmp_path / "mine.txt").write_text(text)
        names.append(file_prompts(str(tmp_path / "mine.txt")).name)
    assert names[0] != names[1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "mine.txt: holds no prompt; write one prompt a line"),
        (b" \n\n", "holds no prompt"),
        (b"caf\xe9", "not UTF-8 text"),
        (None, "cannot be read (No such file or directory); give questions, stories or a text file"),
    ],
)
def test_files_without_prompts(data: bytes | None, message: str, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / "mine.txt").write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(message)):
        file_prompts(str(tmp_path / "mine.txt"))
