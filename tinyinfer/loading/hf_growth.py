"""How much longer the steps of a tokenizer.json make a text, and how many they are: bounds on both.

A step may put a text in the place of a letter, and the next step one in the place of each of its letters: four steps
that make 1,000 letters of one make 10^12, which no machine holds, and the library then ends the interpreter. So a file
is refused whose steps could make more than MOST letters of one, by the product of what each can make:

    Replace        the letters of its content for each letter of its pattern
    Prepend        its letters, before a text of at least one letter
    ByteLevel      a letter for each of the four bytes of a letter, and a space
    NFC ... NFKD   18, of an Arabic ligature (U+FDFA), but only the first time
    Precompiled    the longest text in its table (SentencePiece's, compiled: a trie, then texts that end with a zero)
    Template       the ids that it puts around a text, and the text as often as it names it

A step takes memory before any text is there: a regular expression of five letters, `\\p{L}`, becomes a table of some
kB, 16,000 of them half a GB and seven seconds. So `check_steps` counts the steps and the bytes of their expressions in
the file, before the library compiles them. A key that spells a letter by its number (`\\u0065`) would not be found
there, so such letters are refused; no writer of JSON makes them. `check_pieces` counts what a Unigram vocabulary takes.

Wins: no text can exhaust memory here. Loses: the product is no measure of time. ALBERT's file makes 3,888.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tinyinfer.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

MOST = 4000  # letters made of one
MOST_STEPS = 1000  # real files have 20
MOST_REGEX = 10_000  # bytes of all regular expressions of a file; real files have 2,000
MOST_TABLE = 1 << 22  # bytes of a compiled table that is looked through; real ones have 250,000
OTHERS = {"ByteLevel": 5, "Metaspace": 2}
ONCE = {"NFC": 18, "NFD": 18, "NFKC": 18, "NFKD": 18, "Lowercase": 3, "BertNormalizer": 12}  # the next time: 1
NODES = 150_000  # of the tree of pieces of a model of any size; 50 MB
BYTES_A_NODE = 17  # of a larger model
MOST_PIECE = 1000  # bytes; real ones have 50
_PIECE = re.compile(rb'\[\s*"((?:[^"\\]++|\\.)*+)"\s*,\s*[-\d]')  # with its score
_STEP = re.compile(rb'"type"\s*:')
_REGEX = re.compile(rb'"Regex"\s*:\s*"((?:[^"\\]++|\\.)*+)"')
_SPELLED = re.compile(rb"\\u00(?:[46][1-9a-fA-F]|[57][0-9aA]|5[fF])")  # a letter of a key, unless its backslash is one
_PREFIXED = re.compile(rb'"continuing_subword_prefix"\s*:\s*"(?!")')
_MERGES = re.compile(rb'"merges"\s*:\s*\[\s*[^\s\]]')


def check_steps(path: str, data: bytes) -> None:
    """Raises ModelError, naming `path`, when a tokenizer's JSON text has more steps or longer ones than real files."""
    steps, size = len(_STEP.findall(data)), sum(map(len, _REGEX.findall(data)))
    if steps > MOST_STEPS or size > MOST_REGEX:
        found = f"has {steps} steps and {size} bytes of regular expressions"
        raise ModelError(f"{path}: {found}, as no real one does; download the file again")
    if any(_is_escape(data, found.start()) for found in _SPELLED.finditer(data)):
        raise ModelError(f"{path}: spells letters by their numbers, as no real one does; download the file again")
    if _PREFIXED.search(data) and _MERGES.search(data):  # the library cuts the prefix off each merge, letters or not
        prefixed = "has merges and a continuing_subword_prefix, as no language model's vocabulary has"
        raise ModelError(f"{path}: {prefixed}; use another tokenizer of this model")


def check_pieces(path: str, data: bytes, size: int) -> None:
    """Raises ModelError when the pieces of a Unigram vocabulary are longer, or make a larger tree, than real ones.

    The library keeps them in a tree with a node of 340 bytes for each byte that no other piece begins with. data: the
    JSON text. size: bytes of the whole model.
    """
    pieces = _PIECE.findall(data)
    longest, nodes = max(map(len, pieces), default=0), sum(map(len, pieces))
    most = max(NODES, size // BYTES_A_NODE)
    if nodes > most and longest <= MOST_PIECE:  # then counted without what pieces share
        nodes -= sum(_shared(*both) for both in pairwise(sorted(pieces)))
    if longest > MOST_PIECE or nodes > most:
        large = f"has pieces of up to {longest} bytes, {nodes} bytes that they do not share"
        raise ModelError(f"{path}: its vocabulary {large}, as no model of {size} bytes has; download the file again")


def _shared(first: bytes, second: bytes) -> int:
    """How many bytes the two begin with alike."""
    unlike = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(unlike, min(len(first), len(second)))


def _is_escape(data: bytes, place: int) -> bool:
    """Whether the backslash at `place` of a JSON text begins an escape, and is not itself the end of one."""
    before = data[max(0, place - 1000) : place]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 0


def check_growth(path: str, backend: Backend) -> None:
    """Raises ModelError, naming `path`, when encoding or decoding could make more than MOST letters of one."""
    encoding = [*_steps(backend.normalizer), *_steps(backend.pre_tokenizer)]
    processing = list(_steps(backend.post_processor))
    parts = {"normalizer": encoding, "post_processor": processing, "decoder": list(_steps(backend.decoder))}
    for where, steps in parts.items():
        letters, before = 1, set[str]()
        for step in steps:
            kind = "NF" if step["type"].startswith("NF") else step["type"]
            letters *= _letters(step, kind in before)
            before.add(kind)
            if letters > MOST:
                what = "tokens" if where == "post_processor" else "letters"
                grown = f"its {where} can make more than {MOST} {what} of one, as no real one does"
                raise ModelError(f"{path}: {grown}; download the file again")


def _steps(component: Any) -> Iterator[dict[str, Any]]:
    """The steps of a part of the tokenizer, those of sequences inside sequences too."""
    found = [json.loads(component.__getstate__())] if component is not None else []
    while found:
        step = found.pop(0)
        inner = [step[key] for key in ("normalizers", "pretokenizers", "processors", "decoders") if key in step]
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
    if kind == "TemplateProcessing":
        return sum(_template_piece(piece, step["special_tokens"]) for piece in step["single"])
    return OTHERS.get(kind) or (1 if again else ONCE.get(kind, 1))


def _template_piece(piece: dict[str, Any], special: dict[str, Any]) -> int:
    """How many tokens a piece of a template makes of a text of one token."""
    return len(special[piece["SpecialToken"]["id"]]["ids"]) if "SpecialToken" in piece else 1


def _longest(table: bytes) -> int:
    """The letters of the longest text in a compiled table; more where it is no UTF-8, or no table of a real size."""
    if len(table) > MOST_TABLE:
        return len(table)
    texts = re.compile(rb"[^\0]+").finditer(table, 4 + int.from_bytes(table[:4], "little"))
    return max((len(text[0].decode("utf-8", "replace")) for text in texts), default=1)
