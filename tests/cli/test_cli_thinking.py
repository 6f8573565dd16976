"""Thinking on the command line: dimmed on a terminal, apart from the answer in a pipe, hidden when asked."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import base_model, feed, posix, screen, short, terminal, unopened
from scripted import scripted
from thinking_templates import PLAIN, QWEN3, SEED_OSS

from tinyinfer import LLM
from tinyinfer.cli import console, main
from tinyinfer.sequence import Batch

__all__ = ["base_model", "short"]  # fixtures

ANSWER = "<think>\nA greeting.\n</think>\n\nHello!"
OFF = '{"enable_thinking": false}'
Run = Callable[..., tuple[str, str]]


@pytest.fixture
def model(tmp_path: Path) -> LLM:
    return scripted(tmp_path, QWEN3, ANSWER)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function from a model and a command line to stdout and stderr. terminal: whether stdout claims to be one."""

    def run(llm: LLM, *words: str, terminal: bool = False) -> tuple[str, str]:
        monkeypatch.setattr(console, "is_terminal", lambda stream: terminal and stream is sys.stdout)
        monkeypatch.setattr("tinyinfer.cli.generate.is_terminal", console.is_terminal)
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        assert main([*words, "-n", "200"], lambda name, config, quiet: llm) == 0
        return capsys.readouterr()

    return run


def undimmed(text: str) -> str:
    """What a terminal shows, its dimmed letters in brackets."""
    return text.replace("\x1b[22m\x1b[2m", "").replace("\x1b[2m", "{").replace("\x1b[22m", "}")


def test_a_terminal_shows_thinking_dimmed_above_the_answer(model: LLM, run: Run) -> None:
    """In pieces as it comes. Catches a terminal that is left dim, and markers that are shown."""
    out, _ = run(model, "generate", "Hi", "-q", terminal=True)
    assert undimmed(out) == "{A greeting.}\n\nHello!\n"
    assert out.count("\x1b[2m") > 3


def test_a_pipe_holds_the_answer_alone(model: LLM, run: Run) -> None:
    """Thinking goes to stderr, which -q leaves empty. Catches escape codes in a file."""
    assert run(model, "generate", "Hi", "-q") == ("Hello!\n", "")
    out, err = run(model, "generate", "Hi")
    assert out == "Hello!\n"
    assert err.startswith("A greeting.\nPrompt: ")


@pytest.mark.parametrize("terminal", [False, True])
def test_thinking_is_hidden_when_asked(model: LLM, run: Run, terminal: bool) -> None:
    out, err = run(model, "generate", "Hi", "--hide-thinking", terminal=terminal)
    assert out == "Hello!\n"
    assert err.startswith("Prompt: ")


@pytest.mark.parametrize("setting", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colours_where_none_are_wanted(
    setting: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "is_terminal", lambda stream: True)
    assert console.dimmed("a", sys.stdout) == "\x1b[2ma\x1b[22m"
    monkeypatch.setenv(*setting)
    assert console.dimmed("a", sys.stdout) == "a"


def test_an_answer_that_is_all_thinking_ends_its_line(tmp_path: Path, run: Run) -> None:
    """Cut short by max_tokens, or a block that is never closed; several prompts keep their titles apart."""
    llm = scripted(tmp_path, QWEN3, "<think>A greet")
    assert undimmed(run(llm, "generate", "Hi", "-q", terminal=True)[0]) == "{A greet}\n"
    assert run(llm, "generate", "Hi", "--hide-thinking", "-q") == ("\n", "")
    out, _ = run(llm, "generate", "Hi", "-p", "Ho", "-q", terminal=True)
    assert undimmed(out) == "==> prompt 1 of 2: Hi <==\n{A greet}\n\n==> prompt 2 of 2: Ho <==\n{A greet}\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_traces_and_statistics_begin_their_own_lines(
    model: LLM, run: Run, terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where thinking and they share stderr. Catches "A greeidle step ...", "A greePrompt: 19 tokens", and blank lines
    in a file of traces while the answer is on a terminal.
    """
    _, err = run(model, "generate", "Hi", "--trace", terminal=terminal)
    assert not [line for line in err.split("\n") if re.search("^.+(step|Prompt:)", line) and line[:5] != "idle "]
    assert not terminal or "\n\n" not in err
    forward, batches = model.engine.forward, iter(range(12))

    def interrupted(batch: Batch) -> np.ndarray:  # -> (R, V)
        if next(batches, None) is None:
            raise KeyboardInterrupt
        return forward(batch)

    monkeypatch.setattr(model.engine, "forward", interrupted)
    assert main(["generate", "Hi", "-n", "200"], lambda name, config, quiet: model) == 130
    assert re.search(r"\nPrompt: ", "".join(capsys.readouterr()))


@posix
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_a_terminal_shows_whole_lines_between_traces(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a trace in the middle of a line of the answer, and an answer in pieces of one token a line."""
    llm = scripted(tmp_path, QWEN3, "<think>\nA greeting.\nShort.\n</think>\n\nHello!\nWho are you?")
    feed(monkeypatch, b"Hi\n")
    monkeypatch.setenv("TERM", "xterm")
    words = [command, *(["Hi"] if command == "generate" else []), "--trace", "-n", "200"]
    with terminal(monkeypatch, "stdout stderr") as seen:
        assert main(words, lambda name, config, quiet: llm) == 0
    lines = screen(re.sub(r"\x1b\[\d+m", "", seen()))
    answer = [line for line in lines if not re.match(r"  |step of|\[?Prompt|Generation|Peak", line)]
    assert answer[:5] == ["A greeting.", "Short.", "", "Hello!", "Who are you?"]
    assert sum(line.startswith("step of") for line in lines) > 20
    assert lines.index("Who are you?") > lines.index("Hello!") + 1, "a line is shown when it is whole"


@posix
def test_ctrl_c_shows_the_rest_of_a_line_that_was_held_back(
    model: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the answer, and of thinking. Catches text that was generated and never shown."""
    forward = model.engine.forward
    for steps, shown in ((14, "{A greeting}"), (30, "Hello")):
        batches = iter(range(steps))

        def interrupted(batch: Batch, batches: Iterator[int] = batches) -> np.ndarray:  # -> (R, V)
            if next(batches, None) is None:
                raise KeyboardInterrupt
            return forward(batch)

        monkeypatch.setattr(model.engine, "forward", interrupted)
        with terminal(monkeypatch, "stdout stderr") as seen:
            assert main(["generate", "Hi", "-q", "--trace"], lambda name, config, quiet: model) == 130
        assert shown in screen(undimmed(seen())), seen()


def test_json_holds_thinking_and_answer_apart(model: LLM, run: Run) -> None:
    """Statistics count all tokens. Catches thinking in the text, or on stdout beside the JSON."""
    out, err = run(model, "generate", "Hi", "--json", "-q")
    line = json.loads(out)
    assert (line["reasoning"], line["text"], err) == ("A greeting.", "Hello!", "")
    assert model.tokenizer.decode(line["token_ids"]) == ANSWER


def test_raw_prompts_are_not_split(model: LLM, run: Run) -> None:
    assert run(model, "generate", "Hi", "--raw", "-q")[0] == ANSWER + "\n"


def test_a_variable_switches_thinking_off(model: LLM, run: Run) -> None:
    """Catches bug A15: no flag reached the template."""
    flags = ("--chat-template-kwargs", OFF, "--json", "-q")
    line = json.loads(run(model, "generate", "Hi", *flags)[0])
    want = model.chat_prompt([{"role": "user", "content": "Hi"}], {"enable_thinking": False})
    assert line["prompt_token_ids"] == want
    assert (line["reasoning"], line["text"]) == ("", ANSWER)


def test_a_variable_that_the_template_does_not_have_is_noted(model: LLM, run: Run) -> None:
    """Harmless, but perhaps misspelt; -q says nothing."""
    flags = ("generate", "Hi", "--chat-template-kwargs", '{"enable_thinkng": false}')
    assert "no variable 'enable_thinkng', so it changes nothing\n" in run(model, *flags)[1]
    assert run(model, *flags, "-q") == ("Hello!\n", "")
    assert "variable" not in run(model, "generate", "Hi", "--chat-template-kwargs", OFF)[1]


def test_chat_shows_and_remembers_thinking_as_its_template_wants(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a conversation that gives thinking back as text, or not at all."""
    for template, written in [(QWEN3, ANSWER), (SEED_OSS, ANSWER.replace("think", "seed:think"))]:
        llm, asked = scripted(tmp_path, template, written), []
        plain = llm.chat_prompt
        monkeypatch.setattr(llm, "chat_prompt", lambda *given, p=plain, a=asked: a.append(list(given[0])) or p(*given))
        feed(monkeypatch, b"Hi\nHo\n")
        assert run(llm, "chat", "-q") == ("Hello!\nHello!\n", "")
        assert asked[-1] == [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello!", "reasoning_content": "A greeting."},
            {"role": "user", "content": "Ho"},
        ]
        feed(monkeypatch, b"Hi\n")
        out, _ = run(llm, "chat", "-q", terminal=True)
        assert undimmed(out).endswith("{A greeting.}\n\nHello!\n")


@pytest.mark.parametrize("given", ["", "{", "[]", "7", '"x"', "{'enable_thinking': False}", "[" * 100000])
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_what_is_no_json_object_is_one_sentence(
    command: str, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--chat-template-kwargs", given], unopened) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert len(err) < 300
    assert "--chat-template-kwargs" in err
    assert """is no JSON object, such as '{"enable_thinking": false}'""" in err


def test_variables_without_a_template_are_refused(base_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["generate", "Hi", "-m", base_model, "--chat-template-kwargs", OFF]
    assert main([*flags, "--raw"], unopened) == 2
    assert "are for the chat template that --raw leaves out" in capsys.readouterr().err
    assert main(flags) == 2
    assert "no chat template for --chat-template-kwargs" in capsys.readouterr().err


def test_the_conversation_is_no_variable(model: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "Hi", "--chat-template-kwargs", '{"messages": 1}'], lambda *asked: model) == 2
    assert "--chat-template-kwargs may not hold 'messages'" in capsys.readouterr().err


def test_plain_models_are_as_before(tmp_path: Path, run: Run) -> None:
    llm = scripted(tmp_path, PLAIN, ANSWER)
    assert undimmed(run(llm, "generate", "Hi", "-q", terminal=True)[0]) == ANSWER + "\n"
