"""A model folder without a tokenizer, whose tokens are the first ones of another model's: a draft beside its target.

    vocabulary.json    {"of": "smollm2-135m", "tokens": 16384, "sha256": "..."} in the place of tokenizer.json

A draft model has the tokens of the model that it drafts for, so its folder need not hold them again: SmolLM2's
tokenizer is as large as a draft model of seven million weights. Beside its target the target's tokenizer is taken; a
folder that is opened by itself looks for the model that it names, which must be one that tinyinfer knows by name (a
stranger's folder opens no other file). Either way a checksum says whether these are the tokens it was trained with.

Wins: a small model's folder is small. Loses: it cannot be read without the other model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tinyinfer.errors import ModelError
from tinyinfer.loading.json_fields import MAX_SIZE, read_json
from tinyinfer.text.tokenizer import Tokenizer
from tinyinfer.units import show

FILE = "vocabulary.json"


@dataclass(frozen=True)
class LentVocabulary:
    """Whose tokens a model has, how many of them, and their checksum. of: a known name (hub.py)."""

    of: str
    tokens: int
    sha256: str

    @classmethod
    def lent(cls, of: str, tokenizer: Tokenizer, tokens: int) -> LentVocabulary:
        """The first tokens of a tokenizer, which is that of the model called `of`."""
        return cls(of, tokens, checksum(tokenizer, tokens))

    def fits(self, tokenizer: Tokenizer) -> bool:
        """Whether the tokenizer begins with these tokens."""
        return self.tokens <= tokenizer.vocab_size and checksum(tokenizer, self.tokens) == self.sha256

    def write(self, folder: Path) -> None:
        """Writes the file into the folder of the model."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_lent(folder: Path) -> LentVocabulary | None:
    """What the folder says of its vocabulary; None for a folder with a tokenizer of its own, or with none at all.

    Raises ModelError for a file that does not say it.
    """
    file = folder / FILE
    if not file.exists() or any((folder / own).exists() for own in ("tokenizer.json", "vocab.json")):
        return None
    fields = read_json(file)
    of, tokens, digest = (fields.get(name) for name in ("of", "tokens", "sha256"))
    if isinstance(of, str) and type(tokens) is int and 0 < tokens <= MAX_SIZE and isinstance(digest, str):
        return LentVocabulary(of, tokens, digest)
    lacks = 'does not say whose tokens these are ("of", "tokens", "sha256")'
    raise ModelError(f"{file}: {lacks}; download the folder again")


def check_lender(folder: Path, lent: LentVocabulary, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raises ModelError for a tokenizer with other tokens than those of the folder's model, which has vocab_size."""
    its = f"{folder}: has no tokenizer, its tokens are the first {lent.tokens:,} of {show(lent.of)}"
    if not lent.fits(tokenizer):
        raise ModelError(f"{its}, and those here are others; download the folder again")
    if lent.tokens < min(vocab_size, tokenizer.vocab_size):
        raise ModelError(f"{its}, and its model has {vocab_size:,}; download the folder again")


def checksum(tokenizer: Tokenizer, tokens: int) -> str:
    """SHA-256 of the first tokens' names, in the order of their ids."""
    return hashlib.sha256(json.dumps(tokenizer.names(tokens)).encode()).hexdigest()
