"""How tokens are written in a vocabulary, and so what text, or which bytes, one of them stands for.

The library's decoder (`decoder` of tokenizer.json) turns a whole list of tokens into text. A stream has one token at a
time, so it needs the decoder's rules as a table. The two kinds that language models use are known, and any other is
refused: a stream that silently differs from the decoded text would be worse.

Byte-level: GPT-2 (Radford et al. 2019). The other: SentencePiece (Kudo & Richardson 2018).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from tinyinfer.errors import ModelError

if TYPE_CHECKING:  # loaded on use: the library costs start-up time
    from tokenizers import Tokenizer as Backend


@dataclass(frozen=True)
class Spelling:
    """How tokens are written in the vocabulary (`decoder` of tokenizer.json), for the two kinds of language models.

    byte_level (Radford et al. 2019, GPT-2): every letter of a token is a byte. Otherwise SentencePiece's: letters are
    replaced (U+2581 by a space), `<0x0A>` is a byte, and the first `strip` spaces of a text are removed; or all that
    the first token has are removed, where U+2581 marks the beginnings of words (first_without_marks).
    """

    byte_level: bool = False
    replace: tuple[tuple[str, str], ...] = ()
    byte_fallback: bool = False
    prefix: str = ""
    strip: int = 0
    first_without_marks: bool = False

    def piece(self, token: str, first: bool) -> bytes | str:
        """The text of a token; bytes where the next tokens' bytes may be needed for a character.

        first: whether no token of the text stands before it.
        """
        if self.byte_level:
            byte_of = _byte_alphabet()
            known = all(letter in byte_of for letter in token)  # else an added token, whose text is the token
            return bytes(byte_of[letter] for letter in token) if known else token.encode()
        for old, new in self.replace:
            token = token.replace(old, "" if first and self.first_without_marks else new)
        if self.byte_fallback and re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
            return bytes([int(token[3:5], 16)])
        return self.prefix + token


@cache
def _byte_alphabet() -> dict[str, int]:
    """The letter of each byte in a byte-level vocabulary: itself if it can be seen, else one from U+0100 on (GPT-2)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = sorted(set(range(256)) - set(visible))
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def read_spelling(backend: Backend, path: str) -> Spelling:
    """The spelling that a tokenizer's decoder undoes. Raises ModelError, naming path, for a decoder of another kind."""
    if backend.decoder is None:
        return Spelling(prefix=" ", strip=1)  # tokens are words, with a space between them
    decoder = json.loads(backend.decoder.__getstate__())
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    kinds = " ".join(step["type"] for step in steps)
    if kinds == "ByteLevel":
        return Spelling(byte_level=True)
    if re.fullmatch("(ByteFallback )?Metaspace( Fuse)?", kinds):
        [marks] = [step for step in steps if step["type"] == "Metaspace"]
        first = marks["prepend_scheme"] != "never"
        return Spelling(False, ((marks["replacement"], " "),), "Byte" in kinds, first_without_marks=first)
    replace = tuple((step["pattern"].get("String"), step["content"]) for step in steps if step["type"] == "Replace")
    strip = [step for step in steps if step["type"] == "Strip"]
    known = re.fullmatch("(Replace )*(ByteFallback )?Fuse( Strip)?", kinds) and all(old for old, _ in replace)
    if not known or any(step["content"] != " " or step["stop"] for step in strip):
        raise ModelError(f"{path}: its decoder ({kinds}) is not supported; use a ByteLevel or SentencePiece tokenizer")
    return Spelling(replace=replace, byte_fallback="ByteFallback" in kinds, strip=sum(step["start"] for step in strip))
