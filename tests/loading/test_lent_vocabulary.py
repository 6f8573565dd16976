"""lent_vocabulary.py: a folder without a tokenizer has the tokens of another model, and never of a wrong one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tinyinfer import LLM, SamplingParams
from tinyinfer.errors import ModelError
from tinyinfer.loading import hub, load
from tinyinfer.loading.lent_vocabulary import FILE, LentVocabulary
from tinyinfer.loading.saving import save_model
from tinyinfer.text.tokenizer import Tokenizer

Folder = Callable[[str], Path]
NAME = "smollm2-135m"


def save_lent(golden: Path, target: Path) -> Tokenizer:
    """A quantized model whose tokens are said to be SmolLM2's, and the tokenizer that it really had."""
    source = load(golden)
    lent = LentVocabulary.lent(NAME, source.tokenizer, source.tokenizer.vocab_size)
    save_model(target, LLM(str(golden), quantize="int8").model, replace(source, lent=lent), {"method": "rtn"})
    return source.tokenizer


@pytest.fixture
def folder(golden_folder: Folder, tmp_path: Path) -> Path:
    """A folder of the llama's weights without a tokenizer."""
    save_lent(golden_folder("llama"), tmp_path / "draft")
    return tmp_path / "draft"


@pytest.fixture
def other(golden_folder: Folder, tmp_path: Path) -> Path:
    """The llama with two tokens exchanged."""
    shutil.copytree(golden_folder("llama"), tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    words = json.loads(file.read_text(encoding="utf-8"))
    vocab = words["model"]["vocab"]
    a, b = sorted(vocab, key=vocab.__getitem__)[40:42]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    file.write_text(json.dumps(words), encoding="utf-8")
    return tmp_path / "other"


def rewrite(folder: Path, **fields: object) -> None:
    """The folder says something else of its vocabulary."""
    (folder / FILE).write_text(json.dumps(json.loads((folder / FILE).read_text()) | fields), encoding="utf-8")


def test_the_folder_holds_no_tokenizer_and_drafts_for_the_lender(folder: Path, golden_folder: Folder) -> None:
    """Catches a tokenizer copied all the same, checksums of a file that is not there, and other texts."""
    assert sorted(file.name for file in folder.glob("*token*")) == []
    assert (folder / FILE).exists()
    target = str(golden_folder("llama"))
    greedy = SamplingParams(max_tokens=12, ignore_eos=True)
    plain = LLM(target).generate([[5, 6, 7]], greedy)[0].token_ids
    assert LLM(target, speculative="draft", draft_model=str(folder)).generate([[5, 6, 7]], greedy)[0].token_ids == plain
    assert hub.find(folder, verify=True) == str(folder)


def test_a_lender_of_other_tokens_is_refused(folder: Path, other: Path) -> None:
    """Every draft would mean another token, and no error would say so."""
    with pytest.raises(ModelError, match="those here are others"):
        load(folder, load(other).tokenizer)


def test_by_itself_it_takes_the_tokenizer_of_the_model_that_it_names(
    folder: Path, other: Path, golden_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a folder that only drafts, and a lender that has changed since."""
    found = [str(golden_folder("llama")), str(other)]
    monkeypatch.setattr(hub, "install", lambda model, *args, **options: found[0])
    assert LLM(str(folder)).generate(["a b"], SamplingParams(max_tokens=2))[0].token_ids
    del found[0]
    with pytest.raises(ModelError, match="those here are others"):
        load(folder)


def test_it_opens_no_other_file(folder: Path, golden_folder: Folder) -> None:
    """A stranger's folder may name a path, itself, or a repository that is then downloaded."""
    for of in (str(golden_folder("llama")), str(folder), ".", "owner/name", "/etc/passwd"):
        rewrite(folder, of=of)
        with pytest.raises(ModelError, match="no known name"):
            load(folder)


def test_a_folder_called_like_the_lender_is_not_the_lender(
    folder: Path, golden_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside such a folder it would be read in the lender's place; of a copy of itself there would be no end."""
    shutil.copytree(folder, tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "install", lambda model, *args, **options: str(golden_folder("llama")))
    assert load(NAME).tokenizer.vocab_size == load(golden_folder("llama")).tokenizer.vocab_size


WRONG = [{"of": 3}, {"tokens": 0}, {"tokens": True}, {"tokens": "9"}, {"tokens": 1 << 31}, {"sha256": None}]


@pytest.mark.parametrize("fields", WRONG, ids=str)
def test_a_file_that_does_not_say_it_is_refused(folder: Path, fields: dict[str, object]) -> None:
    """A damaged file is named, not met as a crash further on."""
    rewrite(folder, **fields)
    with pytest.raises(ModelError, match=FILE):
        load(folder)


def test_more_tokens_than_the_lender_has_are_refused_at_once(folder: Path, golden_folder: Folder) -> None:
    """A large number would be counted through."""
    rewrite(folder, tokens=1 << 30)
    with pytest.raises(ModelError, match="are others"):
        load(folder, load(golden_folder("llama")).tokenizer)


def test_fewer_tokens_than_the_model_has_are_refused(folder: Path, golden_folder: Folder) -> None:
    """The checksum of one token says nothing of the others."""
    tokenizer = load(golden_folder("llama")).tokenizer
    LentVocabulary.lent(NAME, tokenizer, 1).write(folder)
    with pytest.raises(ModelError, match="the first 1 of 'smollm2-135m', and its model has"):
        load(folder, tokenizer)


def test_a_tokenizer_beside_it_wins(folder: Path, golden_folder: Folder) -> None:
    """A folder to which its tokenizer was added is a folder like any other."""
    load(golden_folder("llama")).tokenizer.save(str(folder))
    assert load(folder).lent is None
