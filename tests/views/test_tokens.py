"""Texts as tokens: numbers, signs and drafts are those of the run, and nothing of a text becomes HTML."""

from __future__ import annotations

from math import exp

import pytest
from markup import read

from tinyinfer import LLM, SamplingParams
from tinyinfer.engine.trace import Turn
from tinyinfer.lessons.tiny_model import write_tiny_model
from tinyinfer.views.spelling import readable, token_texts
from tinyinfer.views.tokens import DraftSpans, TokenSpans

HOSTILE = "</span><script>alert(1)</script>\"'&"


@pytest.fixture(scope="module")
def llm(tmp_path_factory) -> LLM:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_model(folder)
    return LLM(str(folder))


def spans(view) -> list[dict[str, str]]:
    """The attributes of the tokens of a drawing, in order."""
    return [span for span in read(view._repr_html_()).named("span") if "tabindex" in span]


def test_each_token_has_the_probability_that_score_gives(llm):
    """Catches numbers that are shifted by one token, and a probability of the first."""
    text = "to be or not"
    view = TokenSpans.of(llm, text)
    tokens = llm.tokenizer.encode(text)
    assert view.probabilities[0] is None
    assert view.probabilities[1:] == [exp(score) for score in llm.score(tokens)]
    titles = [span["title"] for span in spans(view)]
    assert titles[0] == "token 0; no probability"
    assert titles[3].startswith(f"token 3; probability {view.probabilities[3]:.3g}; likeliest: ")


def test_alternatives_are_the_likeliest_tokens_there(llm):
    """Catches alternatives of another position, and worse tokens than the best."""
    tokens = llm.tokenizer.encode("to be")
    best = int(llm.logits(tokens)[1].argmax())
    [name] = token_texts(llm.tokenizer, [best])
    first = TokenSpans.of(llm, "to be", alternatives=2).labels[2]
    assert first.startswith(f"likeliest: “{readable(name)}” ")
    assert first.count("“") == 2
    assert TokenSpans.of(llm, "to be", alternatives=0).labels == [""] * len(tokens)


def test_the_colour_is_the_surprise():
    """Catches a scale on which 0.1 and 0.0001 look alike, and a probability of 0 that has no logarithm."""
    view = TokenSpans(["a", "b", "c", "d", "e"], [None, 1.0, 0.5, 1 / 32, 0.0])
    assert [span.get("style", "") for span in spans(view)] == ["", "", "--a:10%", "--a:50%", "--a:100%"]
    assert [span["class"] for span in spans(view)] == ["first", "seen", "seen", "seen", "seen"]
    assert [span["tabindex"] for span in spans(view)] == ["0", "-1", "-1", "-1", "-1"]


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "·the"),
        ("  ", "··"),
        ("a b ", "a b·"),
        ("\n", "↵"),
        ("x\t", "x⇥"),
        ("\x07", "\\x07"),
        ("\u202e", "\\u202e"),
        ("é", "é"),
        ("", ""),
    ],
)
def test_every_character_can_be_seen(token, shown):
    """Catches a space that vanishes at the edge of its box, and a character that turns the text around."""
    assert readable(token) == shown


def test_bytes_that_are_no_character_are_shown_as_bytes(llm):
    """Catches U+FFFD in the place of three different bytes; special tokens have names."""
    ids = llm.tokenizer.encode("a€")
    assert token_texts(llm.tokenizer, ids) == ["a", "<0xE2>", "<0x82>", "<0xAC>"]
    end = llm.tokenizer.end_token_ids[0]
    assert token_texts(llm.tokenizer, [end, 4000]) == ["<|im_end|>", "<4000>"]


def test_hostile_text_stays_text(llm):
    """Catches a token, a label or a title that becomes an element of the page."""
    view = TokenSpans([HOSTILE, "b"], [0.5, 0.5], [HOSTILE, ""], title=HOSTILE)
    found = read(view._repr_html_())
    assert not [script for script in found.scripts if "alert" in script]
    assert found.words.count(HOSTILE) == 2, "the title, and the token"
    assert HOSTILE in spans(view)[0]["title"]
    read(TokenSpans.of(llm, HOSTILE)._repr_html_())


def test_lists_that_do_not_fit_and_numbers_that_are_no_probabilities():
    """Catches logarithms given as probabilities, which would all be painted alike."""
    with pytest.raises(ValueError, match="2 texts, 1 probabilities"):
        TokenSpans(["a", "b"], [0.5])
    with pytest.raises(ValueError, match=r"-1\.5 is no probability"):
        TokenSpans(["a"], [-1.5])


def test_the_text_of_tokens_says_the_same():
    """Catches a text form without the numbers; a terminal has only the text."""
    lines = str(TokenSpans(["The", " cat"], [None, 0.25], ["", "likeliest: x"])).splitlines()
    assert lines[-2:] == [
        "The   token 0; no probability",
        "·cat  token 1; probability 0.25; likeliest: x",
    ]


# Drafts


def turn(drafts: str, tokens: str, id: int = 0, phase: str = "decode", ended: str = "") -> Turn:
    """What a sequence did in a step, its tokens being letters."""
    ids = [tuple(letter_ids(text)) for text in (drafts, tokens)]
    return Turn(id, phase, 0, 1 + len(drafts), 0, 0, ids[0], tokens=ids[1], ended=ended)


def letter_ids(text: str) -> list[int]:
    """The tiny tokenizer's ids of letters: 3 special tokens, then the bytes in GPT-2's order, from "!" on."""
    return [3 + ord(letter) - ord("!") for letter in text]


@pytest.mark.parametrize(
    ("drafts", "tokens", "ended", "line"),
    [
        ("abc", "abcd", "", "+a +b +c =d"),  # all accepted, and a bonus
        ("abc", "ax", "", "+a -b =x ~c"),  # one rejected, and what was drafted behind it
        ("ab", "x", "", "-a =x ~b"),
        ("abc", "ab", "stop", "+a +b ~c"),  # the text ended with an accepted draft
        ("", "x", "", "=x"),
    ],
)
def test_what_became_of_each_draft(drafts, tokens, ended, line, llm):
    """Catches a token shown as a draft that was accepted, and drafts behind a rejected one that were never judged."""
    view = DraftSpans([(1, turn(drafts, tokens, ended=ended))], llm.tokenizer)
    assert view.text().splitlines()[1] == f"step 1  {line}"
    kinds = {"+": "good accepted", "-": "bad rejected", "=": "own", "~": "unused"}
    assert [span["class"] for span in spans(view)] == [kinds[word[0]] for word in line.split()]


def test_of_several_candidates_one_counts(llm):
    """The trace shows the step's tokens with the owner, too. Catches tokens shown twice, and drafts counted twice."""
    turns = [turn("ab", "xy"), turn("xz", "xy", phase="candidate"), turn("cd", "", phase="candidate")]
    lines = DraftSpans([(3, one) for one in turns], llm.tokenizer).text().splitlines()
    assert lines[0] == "1 of 2 drafts accepted: 2 tokens in 1 step."
    assert lines[1:4] == ["step 3             -a ~b", "candidate, step 3  +x -z =y", "candidate, step 3  -c ~d"]


def test_steps_without_drafts_share_a_line_and_sequences_do_not(llm):
    """Catches a page of single tokens, and tokens of two sequences in one text."""
    turns = [turn("", "a"), turn("", "b"), turn("c", "cd"), turn("", "e")]
    lines = DraftSpans([*enumerate(turns, 1)], llm.tokenizer).text().splitlines()
    assert lines[0] == "1 of 1 draft accepted: 5 tokens in 4 steps."
    assert [line.split("  ")[0] for line in lines[1:4]] == ["steps 1-2", "step 3", "step 4"]
    both = [(1, turn("", "a", id=7)), (1, turn("", "x", id=9)), (2, turn("", "b", id=7))]
    shown = DraftSpans(both, llm.tokenizer).text().splitlines()
    assert shown[1:3] == ["sequence 7, steps 1-2  =a =b", "sequence 9, step 1     =x"]


def test_drafts_of_a_run(tiny):
    """Counts as in the ledger, tokens as in the answer. Catches steps left out, and drafts counted twice."""
    engine = llm = tiny(speculative="prompt-lookup")  # on a simulated clock: how many are drafted depends on time
    prompt = "abcabcabcabcabcabcabc"
    before = engine.ledger.copy()
    traces = list(engine.steps(prompt, SamplingParams(max_tokens=12, ignore_eos=True)))
    work = engine.ledger - before
    view = TokenSpans.drafts(traces, llm.tokenizer)
    assert work.drafts_proposed > 1, "choose another prompt"
    assert f"{work.drafts_accepted} of {work.drafts_proposed} drafts accepted: 12 tokens" in str(view)
    kept = [token.text for _, line in view.lines() for token in line if token.kind in ("good accepted", "own")]
    new = [token for trace in traces for one in trace.turns for token in one.tokens]
    assert kept == [readable(text) for text in token_texts(llm.tokenizer, new)]
    assert not TokenSpans.drafts(traces, llm.tokenizer, sequence=-1).lines()
