"""How much longer the steps of a tokenizer.json make a text: a bound, known before any text is tokenized.

A step may put a text in the place of a letter, and the next step one in the place of each of its letters: four steps
that make 1,000 letters of one make 10^12, which no machine holds, and the library then ends the interpreter. So a file
is refused whose steps could make more than MOST letters of one, by the product of what each can make:

    Replace        the letters of its content for each letter of its pattern
    Prepend        its letters, before a text of at least one letter
    ByteLevel      a letter for each of the four bytes of a letter, and a space
    NFC ... NFKD   18, of an Arabic ligature (U+FDFA), but only the first time
    Precompiled    the longest text in its table (SentencePiece's, compiled: a trie, then texts that end with a zero)

Wins: no text can exhaust memory here. Loses: the product is no measure of time. Real files make 540 at most.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tinyinfer.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

MOST = 1000  # letters made of one
OTHERS = {"ByteLevel": 5, "Metaspace": 2}
ONCE = {"NFC": 18, "NFD": 18, "NFKC": 18, "NFKD": 18, "Lowercase": 3, "BertNormalizer": 12}  # the next time: 1


def check_growth(path: str, backend: Backend) -> None:
    """Raises ModelError, naming `path`, when encoding or decoding could make more than MOST letters of one."""
    encoding = [*_steps(backend.normalizer), *_steps(backend.pre_tokenizer)]
    for where, steps in (("normalizer", encoding), ("decoder", list(_steps(backend.decoder)))):
        letters, before = 1, set[str]()
        for step in steps:
            kind = "NF" if step["type"].startswith("NF") else step["type"]
            letters *= _letters(step, kind in before)
            before.add(kind)
            if letters > MOST:
                grown = f"its {where} can make more than {MOST} letters of one, as no real one does"
                raise ModelError(f"{path}: {grown}; download the file again")


def _steps(component: Any) -> Iterator[dict[str, Any]]:
    """The steps of a part of the tokenizer, those of sequences inside sequences too."""
    found = [json.loads(component.__getstate__())] if component is not None else []
    while found:
        step = found.pop(0)
        inner = [step[key] for key in ("normalizers", "pretokenizers", "decoders") if key in step]
        if inner:
            found = [*inner[0], *found]
        else:
            yield step


def _letters(step: dict[str, Any], again: bool) -> int:
    """How many letters a step can make of one. again: a step of its kind was there before."""
    kind = step["type"]
    if kind == "Replace":
        old, new = step["pattern"].get("String"), len(step["content"])
        return -(-new // len(old)) or 1 if old else new + 1  # a regex may find a place without any letter
    if kind == "Prepend":
        return 1 + len(step["prepend"])
    if kind == "Precompiled":
        return _longest(base64.b64decode(step["precompiled_charsmap"]))
    return OTHERS.get(kind) or (1 if again else ONCE.get(kind, 1))


def _longest(table: bytes) -> int:
    """The letters of the longest text in a compiled table, or its bytes where it is no UTF-8."""
    texts = table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")
    return max(1, *(len(text.decode("utf-8", "replace")) for text in texts))
