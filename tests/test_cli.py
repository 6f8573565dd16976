"""The command line answers, streams, counts, and turns every mistake into one line and exit status 2.

Most tests call `main` in this process; what only a process can show (signals, pipes, terminals) runs in one of its own.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden import write_hf_folder

from tinyinfer import LLM, ModelError, SamplingParams
from tinyinfer.cli import COMMANDS, arguments, console, main, parse
from tinyinfer.config import EngineConfig
from tinyinfer.engine import Engine

ROOT = Path(__file__).parents[1]
STATISTICS = re.compile(
    r"Prompt: (\d+) tokens, [\d.]+ tokens-per-sec, TTFT [\d.]+ s( on average)?\n"
    r"Generation: (\d+) tokens, [\d.]+ tokens-per-sec\n"
    r"Peak memory: \d+\.\d+ GB\n"
)
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and terminals of POSIX")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that could go on for a minute."""
    return str(write_hf_folder("llama", tmp_path_factory.mktemp("long"), changes={"max_position_embeddings": 50_000}))


@pytest.fixture(scope="session")
def llm(folder: str) -> LLM:
    """The same model in Python: what the command line must agree with."""
    return LLM(folder)


@pytest.fixture
def short(golden_folder: Callable[[str], Path]) -> str:
    """A model with a context of 128."""
    return str(golden_folder("llama"))


def chat_text(llm: LLM, prompt: str, n: int, system: str | None = None) -> str:
    start = [] if system is None else [{"role": "system", "content": system}]
    return llm.chat([*start, {"role": "user", "content": prompt}], SamplingParams(max_tokens=n)).text


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C in the middle of the engine's step of that number (from 1)."""
    forward, steps = Engine.forward, []

    def wrapped(self: Engine, batch: Any) -> Any:
        steps.append(batch)
        if len(steps) == step:
            raise KeyboardInterrupt
        return forward(self, batch)

    monkeypatch.setattr(Engine, "forward", wrapped)


# --- answers ---


def test_the_prompt_is_answered_by_the_chat_template(
    folder: str, llm: LLM, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a template left out, a system prompt dropped, a stream that differs from the whole text."""
    assert main(["generate", "-m", folder, "-n", "12", "-q", "What is rain?"]) == 0
    assert capsys.readouterr().out == chat_text(llm, "What is rain?", 12) + "\n"
    assert main(["generate", "-m", folder, "-n", "12", "-q", "-sys", "Be brief.", "-p", "What is rain?"]) == 0
    assert capsys.readouterr().out == chat_text(llm, "What is rain?", 12, "Be brief.") + "\n"


def test_raw_continues_the_prompt_itself(folder: str, llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "-m", folder, "-n", "12", "-q", "--raw", "Rain is"]) == 0
    assert capsys.readouterr().out == llm.generate("Rain is", SamplingParams(max_tokens=12))[0].text + "\n"


@pytest.fixture
def base_model(short: str, tmp_path: Path) -> str:
    """A model without a chat template; the weights are links to another's."""
    for file in Path(short).iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return str(tmp_path)


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


def test_json_lines_hold_what_python_returns(
    folder: str, llm: LLM, capsys: pytest.CaptureFixture[str]
) -> None:
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
        assert line["tpot_s"] == pytest.approx(1 / line["generation_tps"])
        assert line["prompt_tps"] > 0
        assert line["peak_memory_bytes"] > 10_000_000
        assert line["cached_tokens"] == 0
        assert line["acceptance_rate"] is None
        assert line["engine"] == {
            "model": folder, "kv_cache": "none", "max_model_len": 300, "dtype": "float32", "backend": "numpy",
            "threads": 1,
        }  # fmt: skip
    steps = sum(len(line["token_ids"]) for line in lines)
    rows = sum(len(line["prompt_token_ids"]) * 6 + 15 for line in lines)  # without a cache: n, n + 1, ... n + 5
    for line in lines:
        assert line["ledger"]["steps"] == steps
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
    assert EngineConfig(**arguments.switches(args)) == EngineConfig()
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


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(SamplingParams)])
def test_every_sampling_parameter_has_its_flag(name: str) -> None:
    """Catches a flag that sets nothing, or another field."""
    words, value = SAMPLING[name]
    for command in ("generate", "chat"):
        params = arguments.sampling_params(parse([command, *words]))
        assert params == dataclasses.replace(SamplingParams(), **{name: value})


def test_long_spellings_mean_the_same() -> None:
    words = ["--max-tokens", "3", "--temperature", "0.7", "--seed", "7", "--model", "m", "--max-model-len", "9"]
    args = parse(["generate", *words, "--threads", "2", "--prompt", "x", "--file", "y", "--system-prompt", "z"])
    same = ["-n", "3", "--temp", "0.7", "-s", "7", "-m", "m", "-c", "9", "-t", "2", "-p", "x", "-f", "y", "-sys", "z"]
    assert args == parse(["generate", *same])


def test_a_new_switch_has_its_flag_by_being_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass
    class Config:
        prefix_cache: bool = False
        num_blocks: int | None = None
        price: float = 1.5
        speculative: str = "off"
        kv_cache: str = "contiguous"

    for field in dataclasses.fields(Config):
        field.type = {"prefix_cache": "bool", "num_blocks": "int | None", "price": "float"}.get(field.name, "str")
    monkeypatch.setattr(arguments, "EngineConfig", Config)
    parser = arguments.Parser()
    arguments.add_switches(parser)
    assert Config(**arguments.switches(parser.parse_args([]))) == Config()
    words = ["--prefix-cache", "on", "--num-blocks", "7", "--price", "2", "--speculative", "self", "--kv-cache", "none"]
    assert Config(**arguments.switches(parser.parse_args(words))) == Config(True, 7, 2.0, "self", "none")
    with pytest.raises(arguments.UsageError, match="'maybe' is neither 'on' nor 'off'"):
        parser.parse_args(["--prefix-cache", "maybe"])
    assert "--prefix-cache {off,on}" in parser.format_help()


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


# --- mistakes: exit status 2, one line, no traceback ---


def mistake(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that the command line answers with."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"tinyinfer: error: [^\n]+\n", err), err
    return err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("genrate", "no command 'genrate' (did you mean 'generate'?); the commands are generate, chat, download"),
        ("--verison", "did you mean '--version'"),
        ("generate --tmep 1", "no flag '--tmep' (did you mean '--temp'?)"),
        ("generate --max 1", "did you mean '--max-tokens'"),
        ("chat --system=x", "did you mean '--system-prompt'"),
        ("generate what is rain", "unexpected argument 'is': put text of several words in quotes"),
        ("generate -n", "-n/--max-tokens: expected one argument"),
        ("generate -n many", "-n/--max-tokens: invalid int value: 'many'"),
        ("generate -n 0", "--max-tokens=0 must be a whole number of at least 1"),
        ("generate --temp nan", "--temp=nan must be"),
        ("generate --temp=-inf", "--temp=-inf must be"),
        ("generate --temp -1", "--temp=-1.0 must be"),
        ("chat --temp nan", "--temp=nan must be"),
        ("generate --top-p 0", "--top-p=0.0 must be"),
        ("generate --top-p 1.5", "--top-p=1.5 must be"),
        ("generate --top-k -1", "--top-k=-1 must be"),
        ("generate --min-p 2", "--min-p=2.0 must be"),
        ("generate --repeat-penalty 0", "--repeat-penalty=0.0 must be"),
        ("generate --presence-penalty inf", "--presence-penalty=inf must be"),
        ("generate --seed -1", "--seed=-1 must be"),
        ("generate --stop=", "--stop holds an empty string"),
        ("generate --logprobs 1", "--json"),
        ("chat --logprobs 1", "--json"),
        ("generate --json --logprobs 9999", "--logprobs=9999 must be"),
        ("generate --kv-cache foo", "--kv-cache: invalid choice: 'foo' (choose from "),
        ("generate --dtype int3", "--dtype: invalid choice: 'int3' (choose from "),
        ("generate --backend gpu", "--backend: invalid choice: 'gpu' (choose from "),
        ("generate -c 0", "--max-model-len=0 must be"),
        ("generate -t 0", "--threads=0 must be"),
        ("generate -c 99999 -p x", "--max-model-len=99999 is more than the 128 positions"),
        ("generate --stop-token-ids 999 -p x", "token id 999 is outside the vocabulary of 277"),
        ("generate -p x -p=", "a prompt is empty"),
        ("generate - -p -", "only once"),
        ("generate --raw -sys x", "--system-prompt needs the chat template"),
        ("generate -f no/such/file", "no/such/file: No such file or directory"),
        ("generate -f tests", "tests: Is a directory"),
        ("download no-such-model", "'no-such-model'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_flag(
    words: str, message: str, short: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    command = words.split()
    if command[0] in ("generate", "chat"):
        command[1:1] = ["-m", short]
    assert message in mistake(capsys, *command)


def test_a_prompt_longer_than_the_context_is_refused_before_any_work(
    short: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = mistake(capsys, "generate", "-m", short, "fits", "-p", "x" * 200)
    assert "the prompt has 2" in error
    assert "the context holds 128" in error


def test_the_flag_to_raise_is_named_when_a_short_context_is_too_short(
    short: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "raise --max-model-len" in mistake(capsys, "generate", "-m", short, "-c", "9", "a longer prompt")


def test_text_that_is_no_utf8_is_refused_by_name(
    short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latin1").write_bytes(b"caf\xe9")
    assert f"{tmp_path}/latin1: not UTF-8 text (byte 3)" in mistake(
        capsys, "generate", "-m", short, "-f", f"{tmp_path}/latin1"
    )
    feed(monkeypatch, b"\xff")
    assert "stdin: not UTF-8 text (byte 0)" in mistake(capsys, "generate", "-m", short, "-")
    assert "UTF-8" in mistake(capsys, "generate", "-m", short, "caf\udce9")  # how Python hands over such an argument


def test_a_closed_stdin_is_one_line(
    short: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert "stdin is closed" in mistake(capsys, "generate", "-m", short, "-")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing", None, "no such folder"),
        ("folder/", None, "config.json"),
        ("a.gguf", b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f", "a.gguf"),
        ("a.txt", b"hello", "neither"),
    ],
)
def test_a_model_that_is_none_is_one_line_that_names_it(
    name: str, content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if name.endswith("/"):
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    error = mistake(capsys, "generate", "-m", str(path))
    assert str(path) in error
    assert message in error


TEMPLATES = {
    "raises": "{{ raise_exception('no\nsystem prompts') }}",
    "is no template": "{% for %}",
    "breaks out": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "divides by zero": "{{ 1 / 0 }}",
}


def test_broken_files_of_a_model_are_one_line_that_names_the_file(
    short: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a loader's or a template's exception that main does not know."""
    for file in Path(short).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())

    def error_with(name: str, content: bytes) -> str:
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content)
        error = mistake(capsys, "generate", "-m", str(tmp_path), "-n", "2", "hello")
        (tmp_path / name).write_bytes(whole)
        return error

    weights = (tmp_path / "model.safetensors").read_bytes()
    for name, content in [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "mamba"}'),
        ("tokenizer.json", b"{}"),
        ("model.safetensors", weights[:1000]),
        ("model.safetensors", weights[:-1]),
        ("model.safetensors", b"\xff" * 8 + weights[8:]),
    ]:
        assert f"{tmp_path}/{name}" in error_with(name, content)
    tokenizer = json.loads((tmp_path / "tokenizer_config.json").read_bytes())
    for template in TEMPLATES.values():
        changed = json.dumps(tokenizer | {"chat_template": template}).encode()
        error = error_with("tokenizer_config.json", changed)
        assert f"{tmp_path}/tokenizer_config.json" in error
        assert "--raw" in error


def test_a_system_prompt_without_a_template_is_refused(
    base_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = mistake(capsys, "generate", "-m", base_model, "-sys", "Be brief.", "hello")
    assert "no chat template" in error


def test_no_network_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With pip pointed at an empty folder; what else a network can do is tested in test_hub.py."""
    monkeypatch.setenv("TINYINFER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "check the network" in mistake(capsys, "generate", "-q", "hello")
    assert not list((tmp_path / "home").glob("*.gguf*"))


@pytest.mark.parametrize("text", ["", "Unable to allocate 9 TiB"])
def test_too_little_memory_is_one_line_with_what_to_try(
    text: str, short: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raising(*args: object, **switches: object) -> None:
        raise MemoryError(text)

    monkeypatch.setattr("tinyinfer.llm.load", raising)
    error = mistake(capsys, "generate", "-m", short)
    assert "not enough memory" in error
    assert text in error
    assert "--max-model-len" in error


def test_a_bug_is_not_called_a_mistake(short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a `main` that hides our own faults behind exit status 2."""
    interrupt_at(monkeypatch, 99)
    monkeypatch.setattr("tinyinfer.engine.choose_all", lambda logits, batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["generate", "-m", short, "-q"])


# --- download ---


def test_download_prints_the_path_and_nothing_else(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", short]) == 0
    assert capsys.readouterr() == (short + "\n", "")


def test_download_without_a_name_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download"]) == 0
    assert re.search(r"^smollm2-135m +SmolLM2-135M-Instruct, Apache-2.0, 98.4 MB$", capsys.readouterr().out, re.M)


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


def test_ctrl_c_with_json_still_gives_one_line_a_prompt(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_at(monkeypatch, 8)
    assert main(["generate", "-m", folder, "-n", "5", "--json", "-q", "one", "-p", "two", "-p", "three"]) == 130
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["finish_reason"] for line in lines] == ["length", "abort", "abort"]
    assert [len(line["token_ids"]) for line in lines] == [5, 2, 0]
    assert lines[2]["ttft_s"] is None


@pytest.mark.parametrize("place", ["tinyinfer.llm.load", "tinyinfer.loading.hub.find"])
def test_ctrl_c_while_loading_or_downloading_is_one_line(
    place: str, short: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupted)
    assert main(["generate", "-m", short]) == 130
    assert capsys.readouterr() == ("", "tinyinfer: interrupted\n")


def start(*words: str, **options: Any) -> subprocess.Popen[bytes]:
    """The command line in a process of its own; Ctrl-C reaches it whatever this process was told about signals."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
    return subprocess.Popen(
        [sys.executable, "-m", "tinyinfer", *words], cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes,
    )  # fmt: skip


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
    assert all(line.startswith((b"step of ", b"  sequence ")) for line in err.splitlines()), err


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
    assert re.fullmatch("tinyinfer: error: stdin or stdout: No space left on device\n", capsys.readouterr().err)


def test_closed_outputs_are_no_reason_to_fail(short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python makes of `>&- 2>&-`: streams that are None. Catches statistics that land in stdout's place."""
    monkeypatch.setattr(sys, "stderr", None)
    stdout = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["generate", "-m", short, "-n", "2", "--json", "hello"]) == 0
    assert len(stdout.getvalue().splitlines()) == 1
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["generate", "-m", short, "-n", "2", "hello"]) == 0


@posix
def test_a_terminal_sees_a_progress_bar_that_wipes_itself(folder: str) -> None:
    pty = pytest.importorskip("pty")
    terminal, end = pty.openpty()
    process = start("generate", "-m", folder, "-n", "2", "hello", stderr=end)
    os.close(end)
    seen = read_terminal(terminal)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    name = os.path.basename(folder)
    assert f"\rloading {name} [{'#' * console.BAR}] 3/3\r" in seen
    assert screen(seen)[0].startswith("Prompt: ")
    assert b"loading" not in out


def read_terminal(terminal: int, until: str | None = None) -> str:
    """What is written to a terminal until its other side closes, or until it ends with `until`."""
    seen = b""
    while until is None or not seen.decode(errors="ignore").endswith(until):
        ready, _, _ = select.select([terminal], [], [], 30)
        assert ready, seen
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # Linux's way to say that it has closed
            break
        if not piece:
            break
        seen += piece
    return seen.decode()


def screen(seen: str) -> list[str]:
    """The lines that a terminal shows at last: after \\r, text writes over what is there."""
    lines = []
    for line in seen.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def test_rates_count_time_that_sequences_share_once() -> None:
    """Catches a batch's throughput computed from the sum of its sequences' times."""
    assert console._rate(30, [(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)]) == "7.500 tokens-per-sec"
    assert console._rate(30, [(0.0, 9.0), (1.0, 2.0), (8.0, 10.0)]) == "3.000 tokens-per-sec"


def test_messages_about_fields_become_messages_about_flags() -> None:
    assert arguments.in_flags("seed=1: raise max_model_len or top_k=3") == "--seed=1: raise --max-model-len or --top-k=3"
    assert arguments.in_flags("what stop and seed mean in English") == "what stop and seed mean in English"
    assert arguments.in_flags("raise --max-model-len") == "raise --max-model-len"


def test_the_errors_of_the_model_loader_are_shown_as_they_are(
    short: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file may be called like a flag; and whatever a message holds, it is one line."""

    def raising(*args: object) -> None:
        raise ModelError("max_model_len/config.json: broken\nbadly")

    monkeypatch.setattr("tinyinfer.llm.load", raising)
    assert mistake(capsys, "generate", "-m", short).endswith("error: max_model_len/config.json: broken badly\n")
