"""What only a process can show: Ctrl-C and other signals, pipes whose reader leaves, full disks, terminals."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from cli_helpers import (
    ROOT,
    STATISTICS,
    chat_text,
    folder,
    interrupt_at,
    llm,
    posix,
    resize,
    screen,
    short,
    start,
    terminal,
    unopened,
)

from tinyinfer import LLM
from tinyinfer.cli import console, main
from tinyinfer.cli.signals import ending_signals
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Sequence

__all__ = ["folder", "llm", "short"]  # fixtures


# --- Ctrl-C ---


def test_ctrl_c_ends_the_line_and_gives_the_statistics_so_far(
    folder: str, llm: LLM, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_at(monkeypatch, 8)
    assert main(["generate", "-m", folder, "-n", "50", "hello"]) == 130
    out, err = capsys.readouterr()
    counted = STATISTICS.fullmatch(err)
    assert counted
    assert counted[3] == "7"
    assert out.endswith("\n")
    assert chat_text(llm, "hello", 7).startswith(out[:-1])


def test_ctrl_c_during_the_prompt_says_that_nothing_came(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a division by no tokens and no seconds."""
    interrupt_at(monkeypatch, 1)
    assert main(["generate", "-m", folder, "hello"]) == 130
    out, err = capsys.readouterr()
    assert out == "\n"
    assert err.startswith("Prompt: 0 tokens, too few to time\nGeneration: 0 tokens, too few to time\n")


@pytest.mark.parametrize(("slots", "tokens"), [("1", [5, 2, 0]), ("2", [5, 5, 2]), ("3", [5, 5, 5])])
def test_ctrl_c_with_json_still_gives_one_line_a_prompt(
    folder: str, slots: str, tokens: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the middle of the eighth step, or of the sixth: one after another, two and then one, all three together."""
    interrupt_at(monkeypatch, 6 if slots == "3" else 8)
    words = ["-n", "5" if slots != "3" else "9", "--json", "-q", "--max-num-seqs", slots, "one", "-p", "two"]
    assert main(["generate", "-m", folder, *words, "-p", "three"]) == 130
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(line["token_ids"]) for line in lines] == tokens
    ended = ["length" if n == 5 and slots != "3" else "abort" for n in tokens]
    assert [line["finish_reason"] for line in lines] == ended
    assert [line["ttft_s"] is None for line in lines] == [n == 0 for n in tokens]


@pytest.mark.parametrize("place", ["tinyinfer.llm.load", "tinyinfer.loading.hub.find"])
def test_ctrl_c_while_loading_or_downloading_is_one_line(
    place: str, short: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupted)
    assert main(["generate", "-m", short]) == 130
    assert capsys.readouterr() == ("", "tinyinfer: interrupted\n")


@posix
def test_text_comes_while_it_is_generated_and_sigint_stops_it(folder: str) -> None:
    """Catches output that is buffered until the end, and a traceback that only a real signal brings out."""
    process = start("generate", "-m", folder, "-n", "40000", "--ignore-eos", "hello")
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    text = (first + out).decode("utf-8")  # strict: no half character at the end either
    assert text.endswith("\n")
    counted = STATISTICS.fullmatch(err.decode())
    assert counted, err
    assert 0 < int(counted[3]) < 40000


# --- SIGTERM and SIGHUP ---


@posix
def test_sigterm_ends_an_answer_without_a_word(folder: str) -> None:
    """The exit status that a shell reports of a terminated program; catches a traceback, and a signal not heard."""
    process = start("generate", "-m", folder, "-n", "40000", "--ignore-eos", "hello")
    assert process.stdout is not None
    os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[1] == b""
    assert process.returncode == 143


@posix
def test_signals_are_taken_only_while_a_command_runs() -> None:
    """Catches a handler that stays in a program that calls main, a nohup that no longer holds, and a thread's error."""
    number = signal.SIGHUP
    signal.signal(number, signal.SIG_IGN)
    try:
        with ending_signals():
            assert signal.getsignal(number) is signal.SIG_IGN
            with pytest.raises(SystemExit, match=r"^143$"):
                signal.raise_signal(signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # the second one ends without clean-up
    finally:
        signal.signal(number, signal.SIG_DFL)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(main(["--version"])))
    thread.start()
    thread.join()
    assert status == [0]


# --- pipes, disks, terminals ---


@posix
@pytest.mark.parametrize("words", [["--trace"], ["--trace", "--json"]])
def test_a_closed_pipe_is_quiet(folder: str, words: list[str]) -> None:
    """Catches a BrokenPipeError's traceback, also the one at exit; 141 is what a shell shows of other tools."""
    process = start("generate", "-m", folder, "-n", "300", *words, "-q", "hello")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"step of ")
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 141
    assert all(line.startswith((b"step of ", b"  ")) for line in err.splitlines()), err
    assert b"Error" not in err


@posix
def test_a_pipe_that_takes_both_outputs_and_closes_is_quiet_too(folder: str) -> None:
    read, write = os.pipe()
    process = start("generate", "-m", folder, "-n", "40000", "--ignore-eos", "hello", stdout=write, stderr=write)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    assert process.wait(timeout=30) == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_under_stdout_is_one_line(
    short: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches the same error told twice, by the answer and by the flush at exit."""
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert main(["generate", "-m", short, "-n", "3", "-q", "hello"]) == 2
    error = "tinyinfer: error: stdin or stdout: No space left on device\n"
    assert capsys.readouterr().err == error
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert main(["--version"]) == 2  # argparse does not flush what it prints
    assert capsys.readouterr().err == error


def test_a_closed_stderr_is_no_reason_to_fail(short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python makes of `2>&-`: a stream that is None. Catches statistics that land in stdout's place."""
    monkeypatch.setattr(sys, "stderr", None)
    stdout = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["generate", "-m", short, "-n", "2", "--json", "hello"]) == 0
    assert len(stdout.getvalue().splitlines()) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize(("words", "status"), [("-n 2 --json hello", 0), ("--nonsense", 2)])
def test_a_full_disk_under_stderr_is_no_reason_to_fail(
    short: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, status: int
) -> None:
    """Catches exit status 1: a log's disk without room, and the error about it that finds no room either."""
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        assert main(["generate", "-m", short, *words.split()]) == status
    assert len(capsys.readouterr().out.splitlines()) == (status == 0)


COMMANDS_THAT_WRITE = ["generate -n 2 hello", "generate --json -n 2 hello", "chat", "download", "inspect", "bench",
                       "eval --text x", "--help", "--version", "generate --help"]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS_THAT_WRITE)
def test_a_closed_stdout_is_told_before_any_work(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `cat x >&-` tells it. Catches an answer that is lost, with exit status 0."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(words.split(), unopened) == 2
    assert capsys.readouterr().err == "tinyinfer: error: stdout is closed; send it to a file, a pipe or a terminal\n"


def test_a_closed_stdout_is_no_reason_to_fail_for_a_command_that_writes_nothing_to_it(
    short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`quantize` writes a folder."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["quantize", "-m", short, "-o", str(tmp_path / "new"), "--quantize", "int8"]) == 0
    assert (tmp_path / "new" / "config.json").exists()


@posix
def test_ctrl_c_during_the_imports_is_no_traceback(tmp_path: Path) -> None:
    """Catches a KeyboardInterrupt outside of the command line's own care, and one that an import made another error of,
    as NumPy does. The signal comes from a module of the standard library's name, so that it comes in time.
    """
    lines = ["import os, signal", "try:", " os.kill(os.getpid(), signal.SIGINT)", "except: raise ImportError"]
    (tmp_path / "argparse.py").write_text("\n".join(lines))
    process = start("generate", "hello", env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 130
    script = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]["tinyinfer"]
    assert script == "tinyinfer.__main__:main", "the installed script is the same"


@posix
@pytest.mark.parametrize("width", [80, 20, 5, 1, 0])
def test_a_terminal_sees_a_progress_bar_that_wipes_itself(
    width: int, short: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never as wide as the terminal, whatever COLUMNS says and wherever stdout goes; 0: a terminal that does not know.
    Catches a bar that wraps, so that each of its pictures stays as a line of its own.
    """
    with terminal(monkeypatch, "stderr", width) as seen:
        monkeypatch.setenv("COLUMNS", "70" if not width else "200")
        assert main(["generate", "-m", short, "-n", "2", "hello"]) == 0
    bars = seen().partition("Prompt: ")[0].replace(console.ERASE, "").split("\r")
    assert max(map(len, bars)) == min((width or 70) - 1, len("loading llama0 [] 3/3") + console.BAR)
    if width >= 70:
        assert f"loading {os.path.basename(short)} [{'#' * console.BAR}] 3/3" in bars
    assert screen(seen())[0].startswith("Prompt: ")
    assert "loading" not in capsys.readouterr().out


@posix
def test_a_progress_bar_follows_a_terminal_that_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a width that is asked for once, and a narrower line padded to the length of the one before."""
    with terminal(monkeypatch, "stderr", 80) as seen, console.progress_bar("reading 日本") as show:
        show(1, 2, "note")
        resize(sys.stderr.fileno(), 11)
        show(2, 2)
    full = "#" * (console.BAR // 2)
    pictures = ["", "reading 日本", f"reading 日本 [{full:-<{console.BAR}}] 1/2, note", "reading 日", ""]
    assert seen().replace(console.ERASE, "").split("\r") == pictures


def test_a_terminal_that_knows_no_escapes_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "is_terminal", lambda stream: True)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(console, "say", lambda *text: pytest.fail(str(text)))
    with console.progress_bar("reading") as show:
        show(1, 2)


def ran(seq: Sequence, started: float, times: list[float], cached: int = 0) -> None:
    """Gives a sequence a history: when its first step began, and when each of its tokens came."""
    seq.start(started, cached)
    for time in times:
        seq.append(Choice(7), time)


def test_statistics_count_tokens_and_time_over_all_sequences(llm: LLM) -> None:
    """Catches a mean of rates, and the first token, which the prompt's time paid for, in the generation's rate."""
    one, two, never = llm.sequences([[5] * 10, [5] * 20, [5] * 40])
    for seq in (one, two, never):
        seq.arrive(1.0)
    ran(one, 1.0, [2.0, 3.0, 4.0])  # prompt: 1 s; then 2 tokens in 2 s
    ran(two, 4.0, [4.5, 5.5, 5.75, 6.0], cached=12)  # 0.5 s; 3 in 1.5 s
    prompt, generation, memory = console.statistics([one, two, never])
    assert prompt == "Prompt: 30 tokens (12 cached), 12.000 tokens-per-sec, TTFT 2.250 s on average"
    assert generation == f"Generation: 7 tokens, {5 / 3.5:.3f} tokens-per-sec"
    assert re.fullmatch(r"Peak memory: 0\.\d+ GB", memory)


def test_statistics_tell_how_many_guesses_stood(llm: LLM) -> None:
    """Catches a mean of the sequences' rates; without drafts there is nothing to tell."""
    one, two = llm.sequences([[5] * 10, [5] * 20])
    ran(one, 0.0, [1.0, 2.0])
    one.record_verification(10, 9)
    ran(two, 0.0, [1.0, 2.0])
    assert console.statistics([one, two])[1] == "Generation: 4 tokens, 2.000 tokens-per-sec, acceptance rate 0.900"
    two.record_verification(30, 0)
    assert console.statistics([one, two])[1].endswith("acceptance rate 0.225")
    assert "acceptance" not in " ".join(console.statistics(llm.sequences([[5] * 10])))


def test_a_guessing_engine_shows_it(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way from the flag to the line, text and JSON."""
    words = ["-m", folder, "-n", "30", "--raw", "--speculative", "self", "a b a b a b"]
    words += ["--verification", "best-coupling"]  # whose drafts do not depend on what was measured
    assert main(["generate", *words]) == 0
    assert "acceptance rate " in capsys.readouterr().err
    assert main(["generate", "--json", *words]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["acceptance_rate"] <= 1
