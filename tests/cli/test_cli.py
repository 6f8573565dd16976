"""Prompts come in every way and answers go out in two, with the flags that Python has parameters for.

Most tests call `main` in this process; what only a process can show is in test_cli_process.py.
"""

from __future__ import annotations

import dataclasses
import doctest
import io
import json
import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from cli_helpers import ROOT, STATISTICS, base_model, chat_text, feed, folder, llm, posix, short, start, unopened

from tinyinfer import LLM, SamplingParams, errors
from tinyinfer.cli import COMMANDS, arguments, console, main, parse
from tinyinfer.cli.arguments import typed_text
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import SwitchError, placed
from tinyinfer.switches import switch

__all__ = ["base_model", "folder", "llm", "short"]  # fixtures

# --- answers ---


def test_the_prompt_is_answered_by_the_chat_template(folder: str, llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a template left out, a system prompt dropped, a stream that differs from the whole text."""
    assert main(["generate", "-m", folder, "-n", "12", "-q", "What is rain?"]) == 0
    assert capsys.readouterr().out == chat_text(llm, "What is rain?", 12) + "\n"
    assert main(["generate", "-m", folder, "-n", "12", "-q", "-sys", "Be brief.", "-p", "What is rain?"]) == 0
    assert capsys.readouterr().out == chat_text(llm, "What is rain?", 12, "Be brief.") + "\n"


@pytest.mark.parametrize("shown", [True, False])
def test_a_note_about_a_file_is_one_line_unless_quiet(shown: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches Python's two lines with a path of ours, a note given twice, and another library's warning swallowed."""

    def load() -> None:
        with console.notes(shown):
            for _ in range(2):
                errors.note("m.gguf: says nothing\nof its rule")
            warnings.warn("of another", ResourceWarning, stacklevel=1)

    with pytest.warns(ResourceWarning, match="of another"):
        load()
    assert capsys.readouterr().err == ("tinyinfer: note: m.gguf: says nothing of its rule\n" if shown else "")


def test_raw_continues_the_prompt_itself(folder: str, llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "-m", folder, "-n", "12", "-q", "--raw", "Rain is"]) == 0
    assert capsys.readouterr().out == llm.generate("Rain is", SamplingParams(max_tokens=12))[0].text + "\n"


def test_a_base_model_continues_the_prompt_without_being_asked(
    base_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "-m", base_model, "-n", "12", "Rain is"]) == 0
    out, err = capsys.readouterr()
    assert out == LLM(base_model).generate("Rain is", SamplingParams(max_tokens=12))[0].text + "\n"
    assert STATISTICS.fullmatch(err)


def test_several_prompts_in_the_order_of_the_help_each_under_its_title(
    folder: str, llm: LLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches mixed-up answers, and statistics of the last prompt only."""
    (tmp_path / "three.txt").write_bytes("drei é\r\n".encode())
    args = ["-n", "6", "-f", str(tmp_path / "three.txt"), "-p", "two\nlines " + "x" * 60, "one"]
    assert main(["generate", "-m", folder, *args]) == 0
    out, err = capsys.readouterr()
    prompts = ["one", "two\nlines " + "x" * 60, "drei é"]
    titles = ["one", "two lines " + "x" * 49 + "…", "drei é"]
    blocks = [
        f"==> prompt {i + 1} of 3: {titles[i]} <==\n{chat_text(llm, prompts[i], 6)}\n" for i in range(len(prompts))
    ]
    assert out == "\n".join(blocks)
    counted = STATISTICS.fullmatch(err)
    assert counted
    assert counted[1] == str(sum(len(llm.chat_prompt([{"role": "user", "content": p}])) for p in prompts))
    assert (counted[2], counted[3]) == (" on average", "18")


def test_a_prompt_has_the_same_tokens_by_every_way_in(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches bug B13: -f kept a CR inside a text (41 tokens for 40), where a line of chat had none."""
    text = "\ufeffone\r\ntwo é"
    (tmp_path / "f").write_bytes(text.encode())
    ids = []
    for way in (["one\ntwo é"], [text], ["-p", text], ["-f", f"{tmp_path}/f"], ["-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), "cp1252"))
        assert main(["generate", "-m", folder, "-n", "1", "-q", "--json", "-sys", text, *way]) == 0
        ids.append(json.loads(capsys.readouterr().out)["prompt_token_ids"])
    assert ids == [ids[0]] * 5


@pytest.mark.parametrize("args", [["-"], ["-p", "-"], ["-f", "-"]])
def test_stdin_is_a_prompt_when_asked_for(
    folder: str, llm: LLM, args: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches text decoded by the locale instead of as UTF-8, and a last newline that changes the tokens."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeffWas heißt\nregnen?\n".encode()), "ascii"))
    assert main(["generate", "-m", folder, "-n", "8", "-q", *args]) == 0
    assert capsys.readouterr().out == chat_text(llm, "Was heißt\nregnen?", 8) + "\n"


def test_without_a_prompt_there_is_one_and_a_hint_and_stdin_is_left_alone(
    folder: str, llm: LLM, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, b"another prompt")
    assert main(["generate", "-m", folder, "-n", "8"]) == 0
    out, err = capsys.readouterr()
    assert out == chat_text(llm, "What is gravity?", 8) + "\n"
    hint, statistics = err.split("\n", 1)
    assert '"What is gravity?"' in hint
    assert "tinyinfer generate" in hint
    assert STATISTICS.fullmatch(statistics)
    assert sys.stdin.read() == "another prompt"


def test_quiet_leaves_stderr_empty(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "-m", folder, "-n", "2", "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_a_character_that_stdout_cannot_show_becomes_a_question_mark(
    folder: str, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a UnicodeEncodeError in the middle of an answer."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["generate", "-m", folder, "-n", "20", "-q", "hello"]) == 0
    text = chat_text(llm, "hello", 20)
    assert not text.isascii()
    assert stdout.buffer.getvalue() == (text + "\n").encode("ascii", "replace")  # type: ignore[attr-defined]


# --- JSON ---


def test_json_lines_hold_what_python_returns(folder: str, llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a missing field, ids or figures of another prompt, statistics on stdout."""
    args = ["--json", "--logprobs", "2", "-n", "6", "-c", "300", "--kv-cache", "none", "-t", "1"]
    assert main(["generate", "-m", folder, *args, "one", "-p", "two is longer"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 2
    for line, prompt in zip(lines, ["one", "two is longer"], strict=True):
        want = llm.chat([{"role": "user", "content": prompt}], SamplingParams(max_tokens=6, logprobs=2))
        assert line["text"] == want.text
        assert line["prompt_token_ids"] == want.prompt_token_ids
        assert line["token_ids"] == want.token_ids
        assert line["finish_reason"] == want.finish_reason
        assert [step["token"] for step in line["logprobs"]] == want.token_ids
        for step in line["logprobs"]:
            assert len(step["top"]) == 2
            assert step["logprob"] == max(step["top"].values())  # greedy
        assert line["ttft_s"] > 0
        assert line["generation_tps"] == pytest.approx(2 / line["tpot_s"]), "both, side by side"
        assert line["prompt_tps"] > 0
        assert line["peak_memory_bytes"] > 10_000_000
        assert line["cached_tokens"] == 0
        assert line["acceptance_rate"] is None
        given = EngineConfig(kv_cache="none", max_model_len=300, threads=1)
        assert line["engine"] == {"model": folder, **dataclasses.asdict(given)}
    rows = sum(len(line["prompt_token_ids"]) * 6 + 15 for line in lines)  # without a cache: n, n + 1, ... n + 5
    for line in lines:
        assert line["ledger"]["steps"] == 6
        assert line["ledger"]["tokens_computed"] == rows
    assert STATISTICS.fullmatch(err)


def test_json_is_ascii_so_that_no_encoding_can_break_it(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "-m", folder, "--json", "-n", "20", "-q", "hello"]) == 0
    line = capsys.readouterr().out
    assert line.isascii()
    assert not json.loads(line)["text"].isascii()
    assert "logprobs" not in json.loads(line)


def test_trace_describes_every_step_on_stderr(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "-m", folder, "--trace", "--json", "-n", "5", "-q", "hello"]) == 0
    out, err = capsys.readouterr()
    assert err.count("\nstep of ") + err.startswith("step of ") == json.loads(out)["ledger"]["steps"] == 5
    assert "prefill" in err


# --- flags ---


def test_without_flags_sampling_and_engine_are_python_s_defaults() -> None:
    """Catches a default of the command line that drifts away from that of the library."""
    args = parse(["generate"])
    assert arguments.sampling_params(args) == SamplingParams()
    assert arguments.engine_config(args) == EngineConfig()
    assert args.model == "smollm2-135m"


SAMPLING = {
    "max_tokens": (["-n", "3"], 3),
    "temperature": (["--temp", "0.7"], 0.7),
    "top_p": (["--top-p", "0.9"], 0.9),
    "top_k": (["--top-k", "40"], 40),
    "min_p": (["--min-p", "0.05"], 0.05),
    "repetition_penalty": (["--repeat-penalty", "1.1"], 1.1),
    "presence_penalty": (["--presence-penalty", "-0.5"], -0.5),
    "frequency_penalty": (["--frequency-penalty", "0.5"], 0.5),
    "seed": (["-s", "7"], 7),
    "stop": (["--stop", "a b", "--stop", "c"], ("a b", "c")),
    "stop_token_ids": (["--stop-token-ids", "5", "--stop-token-ids", "6"], (5, 6)),
    "ignore_eos": (["--ignore-eos"], True),
    "logprobs": (["--logprobs", "0"], 0),
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(SamplingParams) if field.metadata])
def test_every_sampling_parameter_has_its_flag(name: str) -> None:
    """Catches a flag that sets nothing, or another field."""
    words, value = SAMPLING[name]
    for command in ("generate", "chat"):
        params = arguments.sampling_params(parse([command, *words]))
        assert params == dataclasses.replace(SamplingParams(), **{name: value})


def test_minus_one_means_what_llama_cpp_means_by_it() -> None:
    """Catches bug B15, and a -1 that argparse takes for a flag: any length, no top-k, a random seed."""
    words = ["-n", "-1", "--top-k", "-1", "-s", "-1"]
    assert arguments.sampling_params(parse(["generate", *words])) == SamplingParams(max_tokens=None)


def test_long_spellings_mean_the_same() -> None:
    words = ["--max-tokens", "3", "--temperature", "0.7", "--seed", "7", "--model", "m", "--max-model-len", "9"]
    args = parse(["generate", *words, "--threads", "2", "--prompt", "x", "--file", "y", "--system-prompt", "z"])
    same = ["-n", "3", "--temp", "0.7", "-s", "7", "-m", "m", "-c", "9", "-t", "2", "-p", "x", "-f", "y", "-sys", "z"]
    assert args == parse(["generate", *same])


def test_a_new_switch_has_its_flag_by_being_a_field() -> None:
    """Name, type, default, choices and help: one line, in the place where the switch is."""
    parser = arguments.Parser()
    arguments.add_fields(parser, "things", Config)
    assert Config(**vars(parser.parse_args([]))) == Config()
    words = ["--prefix-cache", "on", "-b", "7", "--price", "2", "--draft", "self", "--bits", "4"]
    assert Config(**vars(parser.parse_args(words))) == Config(True, 7, 2.0, "self", 4)
    assert not parser.parse_args(["--prefix-cache", "off"]).prefix_cache
    with pytest.raises(arguments.UsageError, match="'maybe' is neither 'on' nor 'off'"):
        parser.parse_args(["--prefix-cache", "maybe"])
    with pytest.raises(arguments.UsageError, match="--bits: invalid choice: 3"):
        parser.parse_args(["--bits", "3"])
    shown = " ".join(parser.format_help().split())
    for line in ("things:", "--prefix-cache {off,on} kept once (default: off)", "--num-blocks N how many (all)",
                 "--price X of an hour (default: 1.5)", "--draft X who drafts", "--bits {off,4} of a number"):
        assert line in shown


@dataclasses.dataclass
class Config:
    """Some switches."""

    prefix_cache: bool = switch(False, help="kept once")
    num_blocks: int | None = switch(None, flags=("-b",), help="how many (all)")
    price: float = switch(1.5, help="of an hour")
    speculative: str = switch("off", flags=("--draft",), help="who drafts")
    kv_bits: int | str = switch("off", choices=("off", 4), flags=("--bits",), help="of a number")


def test_a_seed_and_a_stop_reach_the_model(folder: str, llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    greedy = chat_text(llm, "hello", 20)
    words = ["generate", "-m", folder, "-q", "hello", "-n", "20"]
    assert main([*words, "--stop", greedy[4:6]]) == 0
    assert capsys.readouterr().out == greedy[: greedy.index(greedy[4:6])] + "\n"
    texts = []
    for seed in ("1", "1", "2"):
        assert main([*words, "--temp", "2", "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


# --- help ---


def test_help_lists_every_command_and_imports_no_numpy() -> None:
    """Catches a heavy import at the top of a command module, which every start would pay for."""
    program = "import sys; from tinyinfer.cli import main; s = main(sys.argv[1:]); print('numpy' in sys.modules, s)"
    done = subprocess.run([sys.executable, "-c", program, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("False 0\n")
    assert all(re.search(rf"^ +{command} +\w", done.stdout, re.MULTILINE) for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: tinyinfer {command}")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"tinyinfer \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_no_command_shows_the_help_as_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(command in err for command in COMMANDS)


def test_messages_about_fields_become_messages_about_flags() -> None:
    """Each door spells the names of fields, and nothing else of the sentence; a value is shown as it was given."""
    cure = "raise {max_model_len} or {temperature}=3"
    error = SwitchError("seed", 1, "{field}={value}: stop, {text}", cure, text="{x}")
    assert arguments.worded(error) == "--seed=1: stop, {x}; raise --max-model-len or --temp=3"
    assert str(error) == "seed=1: stop, {x}; raise max_model_len or temperature=3"
    assert arguments.worded(ValueError("what top_k and seed mean")) == "what top_k and seed mean"
    assert arguments.worded(placed("top_k", error)).startswith("top_k: --seed=1: ")
    assert arguments.worded(placed("top_k", ValueError("no top_p"))) == "top_k: no top_p"


def test_an_error_is_data() -> None:
    """Catches a field or a value that can only be had by reading the sentence, and an error that cannot be copied."""
    with pytest.raises(SwitchError) as caught:
        EngineConfig(prefix_cache=True)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.field, error.value, error.cure) == ("prefix_cache", True, "add {kv_cache}=paged")
    assert str(error) == "prefix_cache=on shares blocks, and kv_cache=contiguous has none; add kv_cache=paged"
    assert doctest.testmod(errors) == (0, 4)


# --- download ---


def test_download_prints_the_path_and_nothing_else(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", short]) == 0
    assert capsys.readouterr() == (short + "\n", "")


def test_download_without_a_name_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download"]) == 0
    assert re.search(r"^smollm2-135m +SmolLM2-135M-Instruct, Apache-2.0, 98.4 MB$", capsys.readouterr().out, re.M)


@posix
def test_words_of_the_command_line_are_utf8_whatever_the_locale_says(short: str, llm: LLM, tmp_path: Path) -> None:
    """Catches bug L13: in the C locale Python reads "Ü" as two surrogates, so that a prompt was refused, a stop string
    never found, and a file not opened if its name was decoded anew.
    """
    (tmp_path / "ü").write_text("Übersetze", encoding="utf-8")
    words = ["-sys", "ö", "-f", str(tmp_path / "ü"), "--stop", "ß", "--chat-template-kwargs", '{"a": "ü"}', "--json"]
    process = start(
        "generate", "-m", short, "-q", "-n", "2", "Übersetze", "-p", "Übersetze", *words,
        env={**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C"},
    )  # fmt: skip
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    messages = [{"role": "system", "content": "ö"}, {"role": "user", "content": "Übersetze"}]
    ids = [json.loads(line)["prompt_token_ids"] for line in out.decode().splitlines()]
    assert ids == [llm.chat_prompt(messages)] * 3


def test_a_word_of_other_bytes_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Latin-1 in a UTF-8 locale: a stop string that is never found is no help. Names of files may be any bytes."""
    for flag in ("--prompt", "--stop", "--system-prompt"):
        assert main(["generate", flag, os.fsdecode(b"\xdcber")], unopened) == 2
        assert "is not UTF-8 text; convert it to UTF-8 first" in capsys.readouterr().err
    assert typed_text("Ü\n" + chr(0x1F600)) == "Ü\n" + chr(0x1F600)
    assert typed_text(os.fsdecode("Ü".encode())) == "Ü"
