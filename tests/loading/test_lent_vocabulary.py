"""lent_vocabulary.py: a folder without a tokenizer says whose tokens it has, and by a checksum which these are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tinyinfer.errors import ModelError
from tinyinfer.loading import load
from tinyinfer.loading.lent_vocabulary import FILE, LentVocabulary, read_lent
from tinyinfer.text.tokenizer import Tokenizer

Folder = Callable[[str], Path]


@pytest.fixture
def tokenizer(golden_folder: Folder) -> Tokenizer:
    return load(golden_folder("llama")).tokenizer


def test_it_fits_the_tokens_that_it_was_made_of(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a checksum that does not depend on the tokens, and one that is read as another."""
    LentVocabulary.lent("its name", tokenizer, tokenizer.vocab_size).write(tmp_path)
    lent = read_lent(tmp_path)
    assert lent.fits(tokenizer)
    names = tokenizer.names(tokenizer.vocab_size)
    monkeypatch.setattr(tokenizer, "names", lambda count: [names[1], names[0], *names[2:]][:count])
    assert not lent.fits(tokenizer)
    assert LentVocabulary.lent("its name", tokenizer, 5).sha256 != lent.sha256


def test_more_tokens_than_a_tokenizer_has_never_fit(tokenizer: Tokenizer) -> None:
    """A large number would be counted through."""
    assert not LentVocabulary("its name", 1 << 30, "").fits(tokenizer)


WRONG = [{"of": 3}, {"tokens": 0}, {"tokens": True}, {"tokens": "9"}, {"tokens": 1 << 31}, {"sha256": None}]


@pytest.mark.parametrize("fields", WRONG, ids=str)
def test_a_file_that_does_not_say_it_is_refused(fields: dict[str, object], tmp_path: Path) -> None:
    """A damaged file is named, not met as a crash further on."""
    (tmp_path / FILE).write_text(json.dumps({"of": "a", "tokens": 3, "sha256": "x"} | fields), encoding="utf-8")
    with pytest.raises(ModelError, match=FILE):
        read_lent(tmp_path)


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"vocabulary\.json is missing, which says whose tokens these are; download"):
        read_lent(tmp_path)
