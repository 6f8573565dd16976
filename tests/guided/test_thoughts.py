"""guided/thoughts.py: a model that thinks does so freely, and the form holds for its answer alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden import write_hf_folder
from scripted import scripted
from thinking_templates import DEEPSEEK_R1, GEMMA4, MAGISTRAL, QWEN3, QWEN3_THINKING, SEED_OSS

from tinyinfer import LLM, SamplingParams
from tinyinfer.guided.grammar import GrammarMatcher, bars, behind
from tinyinfer.guided.thoughts import literal
from tinyinfer.text.reasoning import ChatPrompt, Thinking

pytest.importorskip("llguidance")
HELLO = [{"role": "user", "content": "Hi"}]
WORDS = 'Is it {"x": 5}? Or 123/é, (((x))).\nYes.'  # a text of each form, before the thought has ended
FORMS: dict[str, tuple[dict[str, Any], str, str]] = {  # parameters, an answer, and what every answer matches
    "regex": ({"regex": r"[0-9]{3}/é"}, "123/é", "[0-9]{3}/é"),
    "grammar": ({"grammar": 'start: "(" start ")" | "x"'}, "((x))", r"\(*x\)*"),
    "schema": ({"json_schema": {"type": "object", "properties": {"x": {"enum": [5]}}, "required": ["x"],
                                "additionalProperties": False}}, '{"x": 5}', r'\{\s*"x"\s*:\s*5\s*\}'),
}  # fmt: skip
WRITTEN: dict[str, tuple[str, str, str]] = {  # a template, and what its model writes before and behind its thought
    "opened by the model": (QWEN3, "<think>\n", "\n</think>\n\n"),
    "opened by the prompt": (QWEN3_THINKING, "", "\n</think>\n\n"),
    "only in the source": (DEEPSEEK_R1, "", "\n</think>\n\n"),
    "in parts": (MAGISTRAL, "[THINK]", "[/THINK]"),
    "its own names": (SEED_OSS, "<seed:think>", "</seed:think>"),
    "with a word": (GEMMA4, "<|channel>thought\n", "\n<channel|>"),
}
ON = {"enable_thinking": True}
LONG = 300


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    """Random weights: what conforms does so by the grammar alone."""
    changes = {"max_position_embeddings": 2000}
    return LLM(str(write_hf_folder("llama", tmp_path_factory.mktemp("thoughts"), changes=changes)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", WRITTEN)
def test_a_thought_is_free_and_the_form_begins_behind_it(tmp_path: Path, way: str, form: str) -> None:
    """Catches a model that is kept from thinking, a thought that is bent into the form, and one whose text of the form
    is taken for the answer. Right: what vLLM does, reasoning free and the answer in its form."""
    (template, before, after), (asked, answer, _) = WRITTEN[way], FORMS[form]
    llm = scripted(tmp_path, template, f"{before}{WORDS}{after}{answer}")
    out = llm.chat(HELLO, SamplingParams(max_tokens=LONG, **asked), chat_template_kwargs=ON)
    assert (out.reasoning, out.text, out.finish_reason) == (WORDS, answer, "stop")


SWITCHES: dict[str, dict[str, Any]] = {
    "contiguous": {}, "drafts": {"drafts": True}, "static": {"batching": "static"},
    "paged": {"kv_cache": "paged", "block_size": 4, "prefix_cache": True, "max_num_batched_tokens": 5},
}  # fmt: skip


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_every_switch_leaves_thought_and_answer_as_they_are(tmp_path: Path, switches: dict[str, Any]) -> None:
    """Whole, as a stream and several at once. Catches a draft behind a marker that the form rejects."""
    asked, answer, _ = FORMS["schema"]
    llm = scripted(tmp_path, QWEN3, f"<think>\n{WORDS}\n</think>\n\n{answer}", **switches)
    prompt, params = llm.chat_prompt(HELLO), SamplingParams(max_tokens=LONG, n=3, **asked)
    [out] = llm.generate(prompt, params)
    assert [(one.reasoning, one.text) for one in (out, *out.others)] == [(WORDS, answer)] * 3
    assert "".join(llm.stream(prompt, SamplingParams(max_tokens=LONG, **asked))) == answer


@pytest.mark.parametrize("form", FORMS)
def test_a_model_that_may_think_may_also_answer_at_once(tmp_path: Path, form: str) -> None:
    """Catches a thought that is forced on a model that opens none."""
    asked, answer, _ = FORMS[form]
    out = scripted(tmp_path, QWEN3, answer).chat(HELLO, SamplingParams(max_tokens=LONG, **asked))
    assert (out.reasoning, out.text, out.finish_reason) == ("", answer, "stop")


@pytest.mark.parametrize("template", [QWEN3, SEED_OSS], ids=["an empty block", "a template that knows no switch"])
@pytest.mark.parametrize("form", FORMS)
def test_with_thinking_off_the_form_begins_at_once(tmp_path: Path, template: str, form: str) -> None:
    asked, answer, _ = FORMS[form]
    llm = scripted(tmp_path, template, f"<seed:think>{WORDS}</seed:think>")
    out = llm.chat(HELLO, SamplingParams(max_tokens=LONG, **asked), chat_template_kwargs={"enable_thinking": False})
    assert out.reasoning == ""
    assert out.text[0] in {"0", "x", answer[0]}


def test_a_prompt_that_opens_a_thought_is_answered_behind_it_whatever_the_caller_switches(tmp_path: Path) -> None:
    """The answer begins inside the thought. Catches JSON in it, of which the caller sees no answer."""
    asked, answer, _ = FORMS["schema"]
    llm = scripted(tmp_path, DEEPSEEK_R1, f"{WORDS}</think>{answer}")
    out = llm.chat(HELLO, SamplingParams(max_tokens=LONG, **asked), chat_template_kwargs={"enable_thinking": False})
    assert (out.reasoning, out.text) == (WORDS, answer)


ALIKE = {'start: "<" name ">"\nname: /[a-z]+/': "<table>", "start: /<[a-z]+>/": "<thing>",
         'start: "<" "table>"': "<table>", "start: /(?s:.{1,7})/": "<th ink"}  # fmt: skip
APART = {'start: "<tool>"': "<tool>", 'start: "<" "body>"': "<body>"}


@pytest.mark.parametrize("grammar", APART)
def test_a_form_that_only_shares_letters_with_a_marker_stands_behind_a_thought(tmp_path: Path, grammar: str) -> None:
    """Or at once. Catches a model that may not think before a call of a tool."""
    for before in ("", f"<think>\n{WORDS}\n</think>\n\n"):
        (folder := tmp_path / str(len(before))).mkdir()
        llm = scripted(folder, QWEN3, before + APART[grammar])
        out = llm.chat(HELLO, SamplingParams(max_tokens=LONG, grammar=grammar), chat_template_kwargs=ON)
        assert (out.reasoning, out.text) == (WORDS * bool(before), APART[grammar])


@pytest.mark.parametrize("grammar", ALIKE)
def test_a_form_that_may_begin_like_a_marker_in_letters_begins_at_once(tmp_path: Path, grammar: str) -> None:
    """Catches a model that is forced into a thought behind "<t", as the longest match would have it."""
    llm = scripted(tmp_path, QWEN3, ALIKE[grammar])
    out = llm.chat(HELLO, SamplingParams(max_tokens=LONG, grammar=grammar), chat_template_kwargs=ON)
    assert (out.reasoning, out.text, out.finish_reason) == ("", ALIKE[grammar], "stop")


@pytest.mark.parametrize("template", [QWEN3, QWEN3_THINKING])
def test_a_grammar_stands_behind_a_thought_as_it_is(tmp_path: Path, template: str) -> None:
    """Catches one that closes the part in which it stands, and is taken for two."""
    llm = scripted(tmp_path, template, "x")
    grammar = 'start: "x"\n}\nanswer2: %lark {\nstart: "y"'
    with pytest.raises(ValueError, match="cannot be followed"):
        llm.chat(HELLO, SamplingParams(max_tokens=LONG, grammar=grammar), chat_template_kwargs=ON)


def test_max_tokens_bounds_thought_and_answer_together(tmp_path: Path) -> None:
    """Catches half of a thought that is shown as the answer."""
    asked, answer, _ = FORMS["schema"]
    llm = scripted(tmp_path, QWEN3, f"<think>\n{WORDS}\n</think>\n\n{answer}")
    out = llm.chat(HELLO, SamplingParams(max_tokens=12, **asked))
    assert (out.text, out.finish_reason) == ("", "length")
    assert out.reasoning
    assert WORDS.startswith(out.reasoning)


MARKERS = {"control tokens": ("<|bos|>", "<|im_start|>"), "letters": ("[", "a"), "both": ("<|bos|>b", "a")}


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("markers", MARKERS.values(), ids=MARKERS)
@pytest.mark.parametrize("form", FORMS)
def test_markers_may_be_control_tokens_or_letters(llm: LLM, markers: tuple[str, str], form: str, opened: bool) -> None:
    """A model without any will ends the thought as soon as it likes the marker. Catches a marker of a control token
    that is spelled by letters, which the model has never seen."""
    asked, _, right = FORMS[form]
    start, end = (llm.tokenizer.encode(mark, add_special_tokens=False) for mark in markers)
    for bias, thinks in ((100, False), (4, True)) if opened else ((100, False),):
        liked = {**({} if opened else {start[0]: 60}), end[-1]: bias}
        params = SamplingParams(max_tokens=400, temperature=1.0, seed=2, logit_bias=liked, **asked)
        [out] = llm.generate([ChatPrompt(llm.tokenizer.encode("hello"), Thinking(*markers, opened))], params)
        assert out.finish_reason == "stop"
        assert re.fullmatch(right, out.text)
        assert opened or out.token_ids[0] == start[0]
        assert bool(out.reasoning) == thinks


def test_preempted_thoughts_go_on(golden_folder: Callable[[str], Path]) -> None:
    """Catches a matcher that begins anew inside the thought, or takes its beginning for the answer."""
    thinking = Thinking("[", "a")
    found = []
    for switches in ({}, {"kv_cache": "paged", "block_size": 4, "num_blocks": 40, "max_model_len": 120}):
        llm = LLM(str(golden_folder("llama")), **switches)
        bias = {llm.tokenizer.encode("[", False)[-1]: 40}
        params = [SamplingParams(max_tokens=60, temperature=1.0, seed=seed, logit_bias=bias, regex="[0-9]{9}")
                  for seed in range(4)]  # fmt: skip
        prompts = [ChatPrompt(llm.tokenizer.encode("hello"), thinking) for _ in params]
        found.append([out.token_ids for out in llm.generate(prompts, params)])
    assert found[0] == found[1]
    assert llm.engine.ledger.preemptions > 0


def test_a_matcher_is_made_anew_inside_a_thought(llm: LLM) -> None:
    """As for a replica. Catches one that is told of the form, and not of the thought."""
    matcher = bars(llm.tokenizer, SamplingParams(regex="[0-9]{3}"), frozenset(), Thinking("[", "a")).matcher
    assert isinstance(matcher, GrammarMatcher)
    for token in llm.tokenizer.encode("[xy", add_special_tokens=False):
        assert matcher.allowed().tokens[token]
        matcher.follow(token)
    again = behind(*matcher.__reduce__()[1])
    assert (again.allowed().tokens == matcher.allowed().tokens).all()
    assert matcher.fault == again.fault == ""


def test_marks_that_are_special_tokens_stand_by_their_ids() -> None:
    """Catches [TOOL_CALLS] spelled letter by letter, which the model has never seen."""
    assert literal("a[X]b", {"[X]": 7}) == '"a" <[7]> "b"'
    assert literal('"\n', {}) == '"\\"\\n"'
