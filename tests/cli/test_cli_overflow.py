"""Overflow on the command line: one sentence, exit status 2, the others' answers, and JSON that is JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import chat_text, feed, short

from tinyinfer import LLM
from tinyinfer.cli import main
from tinyinfer.cli.arguments import open_model
from tinyinfer.cli.console import finite
from tinyinfer.engine.config import EngineConfig

__all__ = ["short"]  # a fixture
pytestmark = pytest.mark.filterwarnings("error")
OVERFLOW = (
    "the model's numbers overflow in the embedding, so that its logits are not finite; its weights are damaged or were "
    "converted wrongly, so get its files again\n"
)


def opener(name: str, config: EngineConfig, quiet: bool = False) -> LLM:
    """The model, with a vector of "H" that is infinite."""
    llm = open_model(name, config, quiet)
    llm.model.embedding.table.array[:, llm.tokenizer.encode("H")[-1]] = np.inf  # type: ignore[attr-defined]
    return llm


def strict(line: str) -> Any:
    """A line of JSON, without the words that Python adds to it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(line, parse_constant=refuse)


def test_one_prompt_is_told_in_one_line(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches token 0 for ever, `NaN` in the JSON, and NumPy's warnings before the sentence."""
    assert main(["generate", "-m", short, "-n", "4", "H"], opener) == 2
    assert capsys.readouterr() == ("\n", f"tinyinfer: error: {OVERFLOW}")
    assert main(["generate", "-m", short, "-n", "4", "--json", "--logprobs", "2", "--temp", "1", "H"], opener) == 2
    out, err = capsys.readouterr()
    assert (strict(out)["finish_reason"], strict(out)["token_ids"], strict(out)["logprobs"]) == ("abort", [], [])
    assert err == f"tinyinfer: error: {OVERFLOW}"


def test_other_prompts_get_their_answers_and_the_error_says_which_failed(
    short: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches answers that end where another prompt's overflow was found."""
    words = ["generate", "-m", short, "-n", "5", "one", "-p", "H", "-p", "two"]
    assert main(words, opener) == 2
    out, err = capsys.readouterr()
    answers = [chat_text(opener(short, EngineConfig()), text, 5) for text in ("one", "two")]
    titles = [f"==> prompt {i} of 3: {text} <==\n" for i, text in enumerate(("one", "H", "two"), 1)]
    assert out == f"{titles[0]}{answers[0]}\n\n{titles[1]}\n\n{titles[2]}{answers[1]}\n"
    assert err == f"tinyinfer: error: prompt 2 of 3: {OVERFLOW}"
    assert main([*words, "--json"], opener) == 2
    lines = [strict(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["finish_reason"] for line in lines] == ["length", "abort", "length"]
    assert [line["text"] for line in lines[::2]] == answers


def test_a_conversation_goes_on_after_it(
    short: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The question that overflowed is taken out of the conversation, whose next answer would overflow with it."""
    feed(monkeypatch, b"H\none\n")
    assert main(["chat", "-m", short, "-n", "4", "-q"], opener) == 0
    out, err = capsys.readouterr()
    assert out == "\n" + chat_text(opener(short, EngineConfig()), "one", 4) + "\n"
    assert err == OVERFLOW


@pytest.mark.parametrize("words", ["eval --text text.txt --window 9 --compare int8", "bench -p 4 -g 2"])
def test_other_commands_tell_it_too(
    words: str, short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches figures of a model that computes none."""

    def broken(name: str, config: EngineConfig, quiet: bool = False) -> LLM:
        llm = open_model(name, config, quiet)
        llm.model.final_norm.weight[:] = np.inf  # type: ignore[union-attr]
        return llm

    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("Once upon a time")
    assert main([*words.split(), "-m", short, "--json"], broken) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"tinyinfer: error: {OVERFLOW.replace('embedding', 'output head')}"


def test_no_line_of_json_holds_a_word_that_is_none() -> None:
    """At any depth; whole numbers and texts stay as they are."""
    record = {"a": [1.5, np.inf, (float("nan"), 2)], "b": {"c": -np.inf, "d": "inf"}, "e": True, "f": None}
    assert finite(record) == {"a": [1.5, None, [None, 2]], "b": {"c": None, "d": "inf"}, "e": True, "f": None}
