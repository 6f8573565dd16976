"""Thinking and answer are split by the template's own markers, in every form and however the text is cut."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import thinking_templates
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from tinyinfer.text.chat_template import ChatTemplate
from tinyinfer.text.reasoning import Thinking, ThinkingSplit
from tinyinfer.text.stop_strings import text_output
from tinyinfer.text.tokenizer import Tokenizer, Vocabulary

HELLO = [{"role": "user", "content": "What does <think> mean?"}]
THINK = Thinking("<think>", "</think>")
OPENED = replace(THINK, opened=True)


def template(name: str) -> ChatTemplate:
    return ChatTemplate(getattr(thinking_templates, name), f"{name}.jinja", {"bos_token": "<s>", "eos_token": "</s>"})


# The markers


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("QWEN3", "<think>", "</think>"),
        ("QWEN3_THINKING", "<think>", "</think>"),
        ("DEEPSEEK_R1", "<think>", "</think>"),
        ("OLMO3_THINK", "<think>", "</think>"),
        ("MAGISTRAL", "[THINK]", "[/THINK]"),
        ("SEED_OSS", "<seed:think>", "</seed:think>"),
        ("GEMMA4", "<|channel>thought", "<channel|>"),
    ],
)
def test_a_templates_markers_are_found(name: str, start: str, end: str) -> None:
    """In what it writes around thinking, or in its source. Right: vLLM's reasoning parsers of these models."""
    assert template(name).thinking == Thinking(start, end)


def test_a_system_prompt_may_speak_of_the_markers() -> None:
    """Catches Magistral's own system prompt, which explains them, taken for marks that end every message."""
    source = "Write between <reflect> and </reflect>.{% for m in messages %}[{{ m.role }}]"
    source += "{% if m.thinking %}<reflect>{{ m.thinking }}</reflect>{% endif %}{{ m.content }}[end]{% endfor %}"
    assert ChatTemplate(source, "f").thinking == Thinking("<reflect>", "</reflect>")


@pytest.mark.parametrize(
    "source",
    [
        thinking_templates.PLAIN,
        "{% for m in messages %}<|{{ m.role }}|>{{ m.reasoning_content }}<|end|>{{ m.content }}<|end|>{% endfor %}",
        "{{ messages[thought] }}{% if reasoning < thinking %}{% endif %}",
        "{{ raise_exception('no assistant, please') }}",
        "{% if %}",
    ],
)
def test_a_template_without_markers_has_none(source: str) -> None:
    """Catches the marks of a turn, or jinja2's own brackets, taken for markers of thinking."""
    assert ChatTemplate(source, "f").thinking is None


@pytest.mark.parametrize(
    "source",
    [
        "{# </" + "think" * 200_000 + " #}",
        "{# <" + "thought" * 200_000 + " #}",
        "{{ '<a>some thinking<b>' * 400_000 }}",
    ],
)
def test_a_hostile_template_is_searched_as_fast_as_any(source: str) -> None:
    """Catches a search whose time grows with the square of the text: an hour for these, before the first answer."""
    assert ChatTemplate(source, "f").thinking is None


@pytest.mark.parametrize(
    ("name", "variables", "opened"),
    [
        ("QWEN3", {}, False),
        ("QWEN3", {"enable_thinking": False}, None),
        ("QWEN3_THINKING", {}, True),
        ("DEEPSEEK_R1", {}, True),
        ("OLMO3_THINK", {}, True),
        ("MAGISTRAL", {}, False),
        ("GEMMA4", {"enable_thinking": True}, False),
        ("GEMMA4", {}, None),
    ],
)
def test_the_prompt_says_where_the_answer_begins(name: str, variables: dict[str, bool], opened: bool | None) -> None:
    """Inside a block that the template opened, before one, or (None) behind an empty one: there all is the answer.

    Catches a marker in the user's words taken for the template's.
    """
    markers = template(name).thinking
    assert markers is not None
    found = markers.after(template(name).render(HELLO, **variables))
    assert (found and found.opened) == opened


# The split


def split(pieces: list[str], thinking: Thinking | None) -> tuple[str, str]:
    """Thinking and answer of a text that comes in pieces."""
    one = ThinkingSplit(thinking)
    given = [*[one.push(piece) for piece in pieces], one.finish()]
    return "".join(thought for thought, _ in given), "".join(answer for _, answer in given)


@pytest.mark.parametrize(
    ("written", "thinking", "thought", "answer"),
    [
        ("<think>\nIt is a\n\nmark.\n</think>\n\nA mark.\n", THINK, "It is a\n\nmark.", "A mark.\n"),
        ("It is a mark.\n</think>\n\nA mark.", OPENED, "It is a mark.", "A mark."),
        ("\n<think>\nIt is.</think>A mark.", OPENED, "It is.", "A mark."),  # the marker that the prompt has, again
        ("<think>It is", THINK, "It is", ""),  # cut short by max_tokens
        ("It is </thi", OPENED, "It is </thi", ""),
        ("<think>\n\n</think>\n\nA mark.", THINK, "", "A mark."),
        ("<think>a</think>b <think>c</think>", THINK, "a", "b <think>c</think>"),
        ("a</think>b</think>", OPENED, "a", "b</think>"),
        ("  A <think>mark</think>\n", THINK, "", "  A <think>mark</think>\n"),  # no block at the beginning
        ("<thi", THINK, "", "<thi"),
        ("\n<thi", OPENED, "<thi", ""),
        ("<think>It is \n", THINK, "It is", ""),
        ("<thinking>", THINK, "", "<thinking>"),
        ("</think>A mark.", THINK, "", "</think>A mark."),
        ("</think>A mark.", OPENED, "", "A mark."),
        ("<think>a</think>b", None, "", "<think>a</think>b"),
        ("", OPENED, "", ""),
        (" \n", THINK, "", " \n"),
    ],
)
def test_text_is_split_at_the_markers(written: str, thinking: Thinking | None, thought: str, answer: str) -> None:
    """Whole, letter by letter, and cut in two at each place: one step may bring marker and text together."""
    ways = [[written], list(written), *([written[:i], written[i:]] for i in range(len(written)))]
    assert {split(way, thinking) for way in ways} == {(thought, answer)}


WORDS = st.lists(st.sampled_from(["<think>", "</think>", "<", "</", "th", "ink>", "a", " ", "\n", ">\n"]), max_size=12)


@given(WORDS, st.sampled_from([THINK, OPENED, None]), st.data())
def test_the_split_does_not_depend_on_the_pieces(
    words: list[str], thinking: Thinking | None, data: st.DataObject
) -> None:
    """Catches a marker lost between pieces, and whitespace beside a marker that is shown too early."""
    written = "".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=8)))
    pieces = [written[a:b] for a, b in pairwise([0, *cuts, len(written)])]
    assert split(pieces, thinking) == split([written], thinking)


# Tokens


def small_tokenizer() -> Tokenizer:
    """Letters, and the markers as special tokens, which are no text."""
    letters = [*map(chr, range(ord("!"), ord("~") + 1)), "Ġ", "Ċ", "Ã", "ĥ"]  # the last two are bytes of Ã
    backend = Backend(models.BPE({word: i for i, word in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["[THINK]", "[/THINK]", "<|end|>"])
    return Tokenizer(Vocabulary(backend), "f")


@pytest.mark.parametrize(
    ("written", "opened", "thought", "answer"),
    [
        ("[THINK]a[/THINK]b", False, "a", "b"),
        ("<|end|>[THINK] a\n[/THINK]\nb[THINK]c[/THINK]", False, "a", "bc"),  # later ones are no text, as elsewhere
        ("b[THINK]c[/THINK]", False, "", "bc"),
        ("[/THINK]b", False, "", "b"),
        ("[THINK]a[/THINK]b", True, "a", "b"),
        ("a[/THINK]b[/THINK]", True, "a", "b"),
        ("a<|end|>", True, "a", ""),
    ],
)
def test_markers_may_be_special_tokens(written: str, opened: bool, thought: str, answer: str) -> None:
    """Catches Magistral's [THINK], which is no text and so would never be seen; and one that is shown as text."""
    tokenizer = small_tokenizer()
    out = text_output(tokenizer, [], (), Thinking("[THINK]", "[/THINK]", opened))
    for token in tokenizer.encode(written):
        assert not out.push(token)
    out.finish()
    assert (out.reasoning, out.text) == (thought, answer)


def test_one_marker_may_be_a_special_token_and_the_other_text() -> None:
    """A marker may also be a special token and some text (Gemma 4's). Catches an end that is awaited only after one."""
    tokenizer = small_tokenizer()
    for start, end in [("think!", "[/THINK]"), ("[THINK]think!", "[/THINK]"), ("[THINK]", "think!")]:
        out = text_output(tokenizer, [], (), Thinking(start, end))
        for token in tokenizer.encode(f"{start}a{end}b"):
            out.push(token)
        out.finish()
        assert (out.reasoning, out.text) == ("a", "b")


def test_half_a_character_before_a_marker_belongs_to_the_thinking() -> None:
    """Catches a broken letter that comes out behind the marker, as the first of the answer."""
    tokenizer = small_tokenizer()
    half, end = tokenizer.encode("Ã")[:1], tokenizer.encode("[/THINK]b")
    out = text_output(tokenizer, [], (), Thinking("[THINK]", "[/THINK]", opened=True))
    for token in [*half, *end]:
        out.push(token)
    out.finish()
    assert (out.reasoning, out.text) == ("\ufffd", "b")


def test_a_stop_string_matches_in_thinking_too() -> None:
    """As in vLLM, whose stop strings see all that the model writes. Catches a text shown behind the stop string."""
    tokenizer = small_tokenizer()
    for stop, thought, answer in [("b", "a", ""), ("d", "abc", "c"), ("</think>", "abc", "")]:
        out = text_output(tokenizer, [], (stop,), THINK)
        ids = tokenizer.encode("<think>abc</think>cde")
        assert any(out.push(token) for token in ids)  # no token behind the stop string
        out.finish()
        assert (out.reasoning, out.text) == (thought, answer)


def test_text_and_reasoning_only_grow() -> None:
    """What a stream shows is never taken back; thinking does not wait for its end."""
    tokenizer, seen = small_tokenizer(), [("", "")]
    out = text_output(tokenizer, [], (), OPENED)
    for token in tokenizer.encode("a < b </think> c </ d"):
        out.push(token)
        assert out.reasoning.startswith(seen[-1][0])
        assert out.text.startswith(seen[-1][1])
        seen.append((out.reasoning, out.text))
    assert seen[1] == ("a", "")
    assert seen[-1] == ("a < b", "c </ d")
