"""A conversation remembers, forgets when it must or is told to, and survives Ctrl-C."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Callable

import pytest
from cli_helpers import base_model, feed, folder, interrupt_at, llm, posix, read_terminal, short, start

from tinyinfer import LLM, SamplingParams
from tinyinfer.cli import main

__all__ = ["base_model", "folder", "llm", "short"]  # fixtures
N = 8  # tokens an answer


def talk(llm: LLM, *questions: str, system: str | None = None) -> list[str]:
    """The answers to a conversation, as Python gives them."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    answers = []
    for question in questions:
        messages.append({"role": "user", "content": question})
        answers.append(llm.chat(messages, SamplingParams(max_tokens=N)).text)
        messages.append({"role": "assistant", "content": answers[-1]})
    return answers


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """A function from lines of input (and flags) to what `chat` wrote to stdout and stderr."""

    def run(model: str, text: str, *flags: str, status: int = 0) -> tuple[str, str]:
        feed(monkeypatch, text.encode("utf-8", "surrogateescape"))
        assert main(["chat", "-m", model, "-n", str(N), *flags]) == status
        return capsys.readouterr()

    return run


def test_each_answer_comes_from_the_whole_conversation(
    folder: str, llm: LLM, chat: Callable[..., tuple[str, str]]
) -> None:
    """Catches a history that lacks the answers, or the system prompt after the first question."""
    three = talk(llm, "one", "two é", "three", system="Be brief.")
    assert three[1:] != [talk(llm, "two é", system="Be brief.")[0], talk(llm, "three", system="Be brief.")[0]]
    out, err = chat(folder, "one\n\n  two é\r\nthree", "-q", "-sys", "Be brief.")
    assert out == "".join(answer + "\n" for answer in three)
    assert err == ""


def test_the_second_question_finds_the_conversation_in_the_cache(
    folder: str, chat: Callable[..., tuple[str, str]]
) -> None:
    """Catches a prefix cache that is off by default, forgotten between questions, or that changes the answers."""
    cached, system = {}, "Be brief, be clear, and never say more than what is asked."
    for flags in ([], ["--prefix-cache", "off"], ["--kv-cache", "contiguous"]):
        out, err = chat(folder, "one\ntwo\n", "-sys", system, *flags)
        cached[" ".join(flags)] = out, [re.search(r"\((\d+) cached\)", line) for line in err.splitlines()]
    first, second = cached[""][1]
    assert first is None
    assert second is not None
    assert int(second[1]) > 32, "more than the system prompt alone, in blocks of 16"
    assert [found for flags, (_, found) in cached.items() if flags] == [[None, None]] * 2
    assert len({out for out, _ in cached.values()}) == 1


def test_reset_forgets_all_but_the_system_prompt(folder: str, llm: LLM, chat: Callable[..., tuple[str, str]]) -> None:
    want = talk(llm, "one", system="Be brief.") + talk(llm, "two", system="Be brief.")
    out, _ = chat(folder, "one\n/reset\ntwo\n", "-q", "-sys", "Be brief.")
    assert out == "".join(answer + "\n" for answer in want)


def test_exit_ends_and_help_helps_on_stderr(folder: str, chat: Callable[..., tuple[str, str]]) -> None:
    out, err = chat(folder, "/help\n/nonsense x\n/exit\nnever asked\n")
    assert out == ""
    assert all(word in err for word in ["/reset", "/exit", "Ctrl-D", "there is no /nonsense;"])


def test_statistics_follow_each_answer(folder: str, chat: Callable[..., tuple[str, str]]) -> None:
    _, err = chat(folder, "one\ntwo\n")
    lines = err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("[Prompt: ") and f"Generation: {N} tokens" in line for line in lines)


def test_a_full_context_forgets_the_oldest_exchanges_and_says_so(
    short: str, chat: Callable[..., tuple[str, str]]
) -> None:
    """Catches a crash at the end of the context, and a system prompt that is forgotten first."""
    model, questions = LLM(short), ["first question", "second question", "third question"]
    out, err = chat(short, "\n".join(questions), "-sys", "Be brief.")
    forgot = [line for line in err.splitlines() if "the context is full: forgot the oldest 1" in line]
    assert len(forgot) == 1
    first, second, third, _ = out.split("\n")
    assert [first, second] == talk(model, *questions[:2], system="Be brief.")
    rest = [("system", "Be brief."), ("user", questions[1]), ("assistant", second), ("user", questions[2])]
    messages = [{"role": role, "content": content} for role, content in rest]
    assert third == model.chat(messages, SamplingParams(max_tokens=N)).text


def test_a_quarter_of_the_context_is_room_enough_for_an_answer(
    short: str, chat: Callable[..., tuple[str, str]]
) -> None:
    """Catches a conversation forgotten only because -n asks for more than the context could ever hold."""
    letter = talk(LLM(short), "one")[0][3]
    _, err = chat(short, "one\ntwo\n", "--max-tokens", "1000", "--stop", letter)
    assert len(err.splitlines()) == 2
    assert "forgot" not in err


def test_a_question_that_does_not_fit_is_refused_and_the_conversation_goes_on(
    short: str, chat: Callable[..., tuple[str, str]]
) -> None:
    out, err = chat(short, "x" * 200 + "\none\n")
    assert out == talk(LLM(short), "one")[0] + "\n"
    assert err.startswith("the prompt has 2")
    assert "context holds 128" in err
    assert "use a model with a longer context" in err


@pytest.mark.parametrize("question", ["x" * 200, "caf\udce9"])  # too long; a Latin-1 letter at a terminal, LC_ALL=C
def test_a_refused_question_leaves_the_conversation_as_it_was(
    question: str, short: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a bad question that stays, so that every later one is refused, and exchanges forgotten for nothing."""
    lines = iter(["one", question, "two"])
    monkeypatch.setattr("tinyinfer.cli.chat.read_line", lambda: next(lines, None))
    assert main(["chat", "-m", short, "-n", str(N), "-q"]) == 0
    assert capsys.readouterr().out == "".join(answer + "\n" for answer in talk(LLM(short), "one", "two"))


def test_ctrl_c_stops_an_answer_and_keeps_what_came_of_it(
    folder: str, llm: LLM, monkeypatch: pytest.MonkeyPatch, chat: Callable[..., tuple[str, str]]
) -> None:
    """Catches a conversation lost, a line not ended, an aborted sequence that blocks the next."""
    interrupt_at(monkeypatch, 4)  # after three tokens
    out, err = chat(folder, "one\ntwo\n")
    monkeypatch.undo()
    part = llm.chat([{"role": "user", "content": "one"}], SamplingParams(max_tokens=3)).text
    messages = [("user", "one"), ("assistant", part), ("user", "two")]
    second = llm.chat([{"role": r, "content": c} for r, c in messages], SamplingParams(max_tokens=N)).text
    first = out.removesuffix("\n" + second + "\n")
    assert out == first + "\n" + second + "\n"
    assert part.startswith(first)
    assert "Generation: 3 tokens" in err


def test_ctrl_c_at_the_prompt_ends_with_130(
    folder: str, monkeypatch: pytest.MonkeyPatch, chat: Callable[..., tuple[str, str]]
) -> None:
    def interrupted(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    assert chat(folder, "", status=130) == ("", "tinyinfer: interrupted\n")


def test_a_model_without_a_template_cannot_chat(base_model: str, chat: Callable[..., tuple[str, str]]) -> None:
    out, err = chat(base_model, "one\n", status=2)
    assert out == ""
    assert err.count("\n") == 1
    assert "no chat template" in err
    assert "tinyinfer generate" in err


def test_a_byte_order_mark_is_no_part_of_a_line(folder: str, chat: Callable[..., tuple[str, str]]) -> None:
    """Catches bug B13: "/exit" behind the mark that PowerShell writes into a pipe was answered as a question."""
    assert chat(folder, "\ufeff/exit\none\n") == ("", "")
    assert chat(folder, "\ufeffone\r\n", "-q") == chat(folder, "one\n", "-q")


def test_a_cr_alone_is_a_part_of_a_line(folder: str, llm: LLM, chat: Callable[..., tuple[str, str]]) -> None:
    """As in a file for -f. Catches the log of a progress bar taken for several questions."""
    assert chat(folder, "10%\r20%\r\ntwo", "-q")[0] == "".join(line + "\n" for line in talk(llm, "10%\r20%", "two"))


def test_piped_lines_are_utf8_whatever_the_console_says(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches bug B13: with PYTHONIOENCODING=cp1252 a piped "é" was read as two other letters."""
    answers = []
    for codepage in ("utf-8", "cp1252", "latin-1", "ascii"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Say é.\n/exit\nmore".encode()), codepage))
        assert main(["chat", "-m", folder, "-n", "3", "-q"]) == 0
        answers.append(capsys.readouterr())
        assert main(["chat", "-m", folder, "-n", "3", "-q"]) == 0  # the rest of the same pipe
        assert capsys.readouterr().err == ""
    assert answers == [answers[0]] * 4


def test_utf16_input_is_told_for_what_it_is(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, "one\n".encode("utf-16"))
    assert main(["chat", "-m", folder]) == 2
    assert capsys.readouterr().err == "tinyinfer: error: stdin: UTF-16 text; convert it to UTF-8 first\n"


def test_input_that_is_no_utf8_is_one_line(folder: str, chat: Callable[..., tuple[str, str]]) -> None:
    out, err = chat(folder, "\udcff\n", status=2)
    assert (out, err) == ("", "tinyinfer: error: stdin: not UTF-8 text (byte 0); convert it to UTF-8 first\n")


def test_a_closed_stdin_ends_the_conversation(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["chat", "-m", folder]) == 0


@posix
@pytest.mark.parametrize("where", ["terminal", "pipe"])
def test_a_terminal_is_asked_and_a_pipe_gets_answers_only(short: str, where: str) -> None:
    """Catches "> " in a file that only answers belong to, and a Ctrl-D or Ctrl-C that does not end it."""
    pty = pytest.importorskip("pty")
    terminal, end = pty.openpty()
    process = start("chat", "-m", short, "-n", "4", stdin=end, stderr=end, stdout=end if where == "terminal" else -1)
    os.close(end)
    read_terminal(terminal, until="> ")
    os.write(terminal, b"one\n")
    shown = read_terminal(terminal, until="> ")
    answer = talk4(short)
    assert (answer in shown.replace("\r\n", "\n")) == (where == "terminal")
    if where == "terminal":
        os.write(terminal, b"\x04")  # Ctrl-D
        assert process.wait(timeout=30) == 0
    else:
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        assert out.decode() == answer + "\n"
        assert process.returncode == 130
    os.close(terminal)


def talk4(model: str) -> str:
    return LLM(model).chat([{"role": "user", "content": "one"}], SamplingParams(max_tokens=4)).text
