"""Every sentence about a stranger's file is one line that a terminal shows and does not obey."""

from __future__ import annotations

import json
import pickle
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from golden import golden_tokenizer

from tinyinfer.cli import console, main
from tinyinfer.cli.arguments import worded
from tinyinfer.errors import ModelError, ModelWarning, SwitchError, note, one_line
from tinyinfer.loading import hf_vocab
from tinyinfer.text.chat_template import ChatTemplate

WORDS = "\x1b]0;owned\x07\x1b[2J\r\x9b1m\u202e\u2028\ud800all\nis well"  # title, clear, back, colour, right to left
SEEN = r"\x1b]0;owned\x07\x1b[2J\r\x9b1m\u202e\u2028\ud800all is well"


def is_seen(text: str) -> bool:
    """Whether a text has no letters that a terminal obeys."""
    return not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in text)


def test_what_a_terminal_obeys_is_written_as_python_does() -> None:
    """Catches letters of other scripts, spaces of theirs and paths of Windows changed with it."""
    assert one_line(WORDS) == SEEN == one_line(SEEN)
    plain = r"C:\new\x: Grüße 你好\u3000ａ 😀 ½"
    assert one_line(plain) == plain
    assert one_line("a\u3000b\u00a0c") == "a\u3000b\u00a0c"


def test_every_kind_of_sentence_is_safe(capsys: pytest.CaptureFixture[str]) -> None:
    """L9. Catches a kind that was forgotten: of a file, of a value, a note, and what only the console says."""
    assert str(ModelError(WORDS)) == SEEN
    assert str(pickle.loads(pickle.dumps(ModelError(WORDS)))) == SEEN
    assert str(SwitchError("", WORDS, "the prompt {value} is long")) == f"the prompt {SEEN} is long"
    assert worded(ValueError(WORDS)) == SEEN
    with pytest.warns(ModelWarning) as caught:
        note(WORDS)
    assert str(caught[0].message) == SEEN
    with console.notes():
        note(WORDS)
    console.fail(WORDS)
    assert capsys.readouterr().err == f"tinyinfer: note: {SEEN}\ntinyinfer: error: {SEEN}\n"


def test_a_template_s_own_message_does_not_reach_the_terminal() -> None:
    """L9's row: the title of the window and a cleared screen, by a model's file."""
    source = r"{{ raise_exception('\x1b]0;owned\x07\x1b[2Jall is well') }}"
    with pytest.raises(ModelError) as caught:
        ChatTemplate(source, "model.gguf").render([{"role": "user", "content": "hi"}])
    assert r"fails (\x1b]0;owned\x07\x1b[2Jall is well);" in str(caught.value)
    assert is_seen(str(caught.value))


def test_a_tokenizer_s_error_does_not_reach_the_terminal(tmp_path: Path) -> None:
    """Catches the library's words, which quote the file."""
    spec = json.loads(golden_tokenizer().to_str())
    spec["model"]["merges"].append([WORDS.replace("\ud800", ""), "b"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(ModelError, match=r"\\x1b\]0;owned") as caught:
        hf_vocab.read_vocabulary(str(tmp_path))
    assert is_seen(str(caught.value))


def test_a_name_of_a_file_does_not_reach_the_terminal(
    golden_folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches the operating system's own error, which names a stranger's file: a folder that was unpacked somewhere."""
    folder = tmp_path / "a\x1b[2Jb"
    folder.mkdir()
    for file in golden_folder("llama").iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    (folder / "config.json").mkdir()
    assert main(["generate", "-m", str(folder), "-p", "hi"]) == 2
    err = capsys.readouterr().err
    assert r"a\x1b[2Jb" in err
    assert is_seen(err.removesuffix("\n"))
