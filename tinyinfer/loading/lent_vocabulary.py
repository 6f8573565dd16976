"""Whose tokens a folder without a tokenizer has: a draft head reads and writes those of its target.

    vocabulary.json    {"of": "smollm2-135m", "tokens": 49152, "sha256": "..."}

SmolLM2's tokenizer is larger than its draft head, so the head's folder names it and a checksum of its tokens.

Wins: a model of other tokens is refused before anything is read. Loses: the folder is of no use by itself.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tinyinfer.errors import ModelError
from tinyinfer.loading.json_fields import MAX_SIZE, read_json
from tinyinfer.text.tokenizer import Tokenizer

FILE = "vocabulary.json"


@dataclass(frozen=True)
class LentVocabulary:
    """Whose tokens they are, how many of them, and their checksum. of: the name of the model, to be told."""

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


def read_lent(folder: Path) -> LentVocabulary:
    """What the folder says of its vocabulary. Raises ModelError where it does not say it."""
    file = folder / FILE
    if not file.exists():
        raise ModelError(f"{folder}: {FILE} is missing, which says whose tokens these are; download the folder again")
    fields = read_json(file)
    of, tokens, digest = (fields.get(name) for name in ("of", "tokens", "sha256"))
    if isinstance(of, str) and type(tokens) is int and 0 < tokens <= MAX_SIZE and isinstance(digest, str):
        return LentVocabulary(of, tokens, digest)
    lacks = 'does not say whose tokens these are ("of", "tokens", "sha256")'
    raise ModelError(f"{file}: {lacks}; download the folder again")


def checksum(tokenizer: Tokenizer, tokens: int) -> str:
    """SHA-256 of the first tokens' names, in the order of their ids."""
    return hashlib.sha256(json.dumps(tokenizer.names(tokens)).encode()).hexdigest()
