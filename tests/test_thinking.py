"""A conversation with a reasoning model, in Python: out.text is the answer, out.reasoning what came before."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from scripted import scripted
from thinking_templates import DEEPSEEK_R1, PLAIN, QWEN3, QWEN3_THINKING, SEED_OSS

from tinyinfer import SamplingParams
from tinyinfer.text.reasoning import ChatPrompt

HELLO = [{"role": "user", "content": "Hi"}]
ANSWER = "<think>\nA greeting.\n</think>\n\nHello!"
LONG = SamplingParams(max_tokens=200)


@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize(
    ("template", "written"), [(QWEN3, ANSWER), (QWEN3_THINKING, ANSWER[8:]), (DEEPSEEK_R1, ANSWER[8:])]
)
def test_thinking_is_split_from_the_answer(template: str, written: str, drafts: bool, tmp_path: Path) -> None:
    """Whether the model or the prompt opens the block, and when one step brings several tokens, the marker among them.

    Catches text that waits for the next step, thinking that reaches `stream`, and tokens that are counted as fewer.
    """
    llm = scripted(tmp_path, template, written, drafts)
    out = llm.chat(HELLO, LONG)
    assert (out.reasoning, out.text, out.finish_reason) == ("A greeting.", "Hello!", "stop")
    assert llm.tokenizer.decode(out.token_ids) == written
    assert (out.metrics.acceptance_rate is not None) == drafts
    prompt = llm.chat_prompt(HELLO)
    assert "".join(llm.stream(prompt, LONG)) == "Hello!"
    assert [(o.reasoning, o.text) for o in llm.generate([prompt, prompt], LONG)] == [("A greeting.", "Hello!")] * 2
    assert [o.text for o in llm.generate(prompt, LONG)] == ["Hello!"]


def test_a_prompt_that_is_no_conversation_is_not_split(tmp_path: Path) -> None:
    """Text and plain token ids: the model continues them, and what it writes is the text, markers and all."""
    llm = scripted(tmp_path, QWEN3, ANSWER)
    for prompt in ("Hi", list(llm.chat_prompt(HELLO))):
        out = llm.generate([prompt], LONG)[0]
        assert (out.reasoning, out.text) == ("", ANSWER)


def test_a_template_without_thinking_splits_nothing(tmp_path: Path) -> None:
    out = scripted(tmp_path, PLAIN, ANSWER).chat(HELLO, LONG)
    assert (out.reasoning, out.text) == ("", ANSWER)


def test_thinking_is_switched_off_by_a_variable(tmp_path: Path) -> None:
    """Catches bug A15: no argument reached the template. Right: transformers' apply_chat_template."""
    llm = scripted(tmp_path, QWEN3, "Hello! <think>")
    off = {"enable_thinking": False}
    assert llm.tokenizer.decode(llm.chat_prompt(HELLO, off)).endswith("assistant\n<think>\n\n</think>\n\n")
    assert llm.chat_prompt(HELLO, {"enable_thinking": True}) == llm.chat_prompt(HELLO)
    out = llm.chat(HELLO, LONG, chat_template_kwargs=off)
    assert out.prompt_token_ids == llm.chat_prompt(HELLO, off)
    assert (out.reasoning, out.text) == ("", "Hello! <think>")


def test_a_block_that_max_tokens_cuts_is_thinking(tmp_path: Path) -> None:
    """Catches half of a thinking shown as the answer (vLLM: the content is empty)."""
    llm = scripted(tmp_path, QWEN3_THINKING, ANSWER[8:])
    out = llm.chat(HELLO, SamplingParams(max_tokens=8))
    assert (out.text, out.finish_reason) == ("", "length")
    assert out.reasoning
    assert "A greeting.".startswith(out.reasoning)


def test_a_stop_string_ends_thinking_too(tmp_path: Path) -> None:
    out = scripted(tmp_path, QWEN3, ANSWER).chat(HELLO, SamplingParams(max_tokens=200, stop=["greet"]))
    assert (out.reasoning, out.text, out.finish_reason) == ("A", "", "stop")


def test_a_conversation_gives_thinking_back_to_its_template(tmp_path: Path) -> None:
    """Qwen3's template drops that of earlier answers, Seed-OSS's keeps it. Catches thinking that comes back as text."""
    said = {"role": "assistant", "content": "Hello!", "reasoning_content": "A greeting."}
    for template, kept in [(QWEN3, False), (SEED_OSS, True)]:
        llm = scripted(tmp_path, template, "")
        text = llm.tokenizer.render([*HELLO, said, *HELLO])
        assert ("A greeting." in text) == kept
        assert "Hello!" in text


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ([("a", 1)], "is no dictionary of the chat template's variables"),
        ("{}", "is no dictionary"),
        ({1: 2}, "is no dictionary"),
        (np.zeros((2, 2)), "is no dictionary"),
        ({"messages": []}, "may not hold 'messages', which is the conversation itself; leave it out"),
        ({"x": object()}, "may only hold what JSON can"),
        ({"x": reduce(lambda inner, _: [inner], range(5000), [])}, "may only hold what JSON can"),
    ],
)
def test_variables_that_cannot_work_are_one_sentence(variables: object, why: str, tmp_path: Path) -> None:
    """Catches a TypeError from inside of jinja2."""
    llm = scripted(tmp_path, QWEN3, "")
    with pytest.raises(ValueError, match=f"^chat_template_kwargs.*{why}") as caught:
        llm.chat(HELLO, chat_template_kwargs=variables)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_variable_that_the_template_does_not_use_changes_nothing(tmp_path: Path) -> None:
    """As in transformers and llama.cpp; special tokens, tools and the generation prompt may be given, too."""
    llm = scripted(tmp_path, QWEN3, "")
    assert llm.chat_prompt(HELLO, {"unheard_of": 1, "tools": [], "self": 2}) == llm.chat_prompt(HELLO)
    bare = llm.chat_prompt(HELLO, {"add_generation_prompt": False})
    assert llm.chat_prompt(HELLO)[: len(bare)] == bare
    assert len(bare) < len(llm.chat_prompt(HELLO))
    assert isinstance(bare, ChatPrompt)
