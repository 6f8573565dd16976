"""loading/hf_growth.py: a tokenizer.json whose steps multiply a text is refused before a text is tokenized."""

from __future__ import annotations

import base64
import json
import unicodedata
from typing import Any

import pytest
from golden import golden_tokenizer
from tokenizers import Tokenizer as Backend

from tinyinfer.errors import ModelError
from tinyinfer.loading.hf_growth import (
    MOST_REGEX,
    MOST_STEPS,
    MOST_TABLE,
    _letters,
    check_growth,
    check_pieces,
    check_steps,
)


def replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def sequence(*steps: dict[str, Any], key: str = "normalizers") -> dict[str, Any]:
    return {"type": "Sequence", key: list(steps)}


def with_part(name: str, part: dict[str, Any] | None) -> Backend:
    """The golden tokenizer with another part."""
    return Backend.from_str(json.dumps(json.loads(golden_tokenizer().to_str()) | {name: part}))


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GROWING = {
    "H5's four of a thousand": ("normalizer", sequence(*[replace("a", "a" * 1000)] * 4)),
    "one of many letters": ("normalizer", replace("a", "b" * 4001)),
    "twice as many, twelve times": ("normalizer", sequence(*[replace("a", "aa")] * 12)),
    "in sequences inside": ("normalizer", sequence(*[sequence(*[replace("a", "aa")] * 6)] * 2)),
    "a regex that may find nothing": (
        "normalizer",
        {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "y" * 4000},
    ),
    "long texts before": ("normalizer", sequence(*[{"type": "Prepend", "prepend": "x" * 100}] * 3)),
    "bytes of bytes of bytes": ("normalizer", sequence(*[{"type": "ByteLevel"}] * 6)),
    "bytes of bytes in words": ("pre_tokenizer", sequence(*[BYTES] * 6, key="pretokenizers")),
    "on the way back": ("decoder", sequence(*[replace("a", "a" * 100)] * 2, {"type": "Fuse"}, key="decoders")),
}


@pytest.mark.parametrize("case", GROWING)
def test_growth_is_refused(case: str) -> None:
    """Catches 10^12 bytes made of one letter: the library ends the interpreter, which no `except` catches."""
    with pytest.raises(ModelError, match=r"^x: its (normalizer|decoder) can make more than 4000 letters of one"):
        check_growth("x", with_part(*GROWING[case]))


# Of SentencePiece's form: a trie of one node, a zero, and U+FDFA's 18 letters, the longest text of real tables.
LONGEST = unicodedata.normalize("NFKC", "\ufdfa")
TABLE = {
    "type": "Precompiled",
    "precompiled_charsmap": base64.b64encode((4).to_bytes(4, "little") + bytes(4) + LONGEST.encode() + b"\0").decode(),
}


def around(ids: list[int], times: int) -> dict[str, Any]:
    """A template with these ids before a text, and the text itself so many times."""
    text = [{"Sequence": {"id": "A", "type_id": 0}}] * times
    special = {"<s>": {"id": "<s>", "ids": ids, "tokens": ["<s>"] * len(ids)}}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, *text]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


TEMPLATES = {
    "ids": around([1] * 4000, 1),
    "ids as often as there are ids": around([1] * 80, 1) | {"single": around([], 1)["single"] * 80},
    "texts of texts": sequence(*[around([], 20)] * 3, key="processors"),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_template_that_multiplies_is_refused(case: str) -> None:
    """Catches 0.2 MB that made nine million tokens of one, 1.7 GB: a template repeats its ids, and a text."""
    with pytest.raises(ModelError, match=r"^x: its post_processor can make more than 4000 tokens of one"):
        check_growth("x", with_part("post_processor", TEMPLATES[case]))


REAL = {
    "Llama": ("normalizer", sequence({"type": "Prepend", "prepend": "\u2581"}, replace(" ", "\u2581"))),
    "Qwen": ("normalizer", {"type": "NFC"}),
    "several forms": ("normalizer", sequence(*[{"type": "NFKC"}, {"type": "NFD"}, {"type": "Lowercase"}] * 3)),
    "quotes": ("normalizer", sequence(replace("``", '"'), replace("''", '"'), replace("\u2026", "..."))),
    "Gemma back": ("decoder", sequence(replace("\u2581", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                                       key="decoders")),
    "Llama 3 around": ("post_processor", sequence(BYTES, around([5], 1), key="processors")),
    "none": ("normalizer", None),
}  # fmt: skip


@pytest.mark.parametrize("case", REAL)
def test_real_parts_pass(case: str) -> None:
    """Catches a bound that refuses what published tokenizers have."""
    check_growth("x", with_part(*REAL[case]))


STEPS = {
    "steps": '{"type":"NFC"},' * (MOST_STEPS + 1),
    "expressions": r'{"type": "Split", "pattern": {"Regex" : "\\p{L}"}},' * (MOST_REGEX // 6 + 1),
    "a long expression": '{"Regex":"' + r"[^\"]" * (MOST_REGEX // 5 + 1) + '"}',
    "a key by numbers": r'{"\u0052egex":"a"}',
    "a key by numbers behind a backslash": r'"\\\u0079"',
}


@pytest.mark.parametrize("case", STEPS)
def test_more_steps_than_a_real_file_has(case: str) -> None:
    """Catches 16,000 expressions of 24 bytes that took 555 MB and 7 s before any text was there."""
    with pytest.raises(ModelError, match=r"^x: .*, as no real one does; download the file again"):
        check_steps("x", STEPS[case].encode())


def test_pieces_that_make_a_large_tree() -> None:
    """Catches a Unigram piece of 20 MB that took 6.8 GB, and many of 32 letters, 250 times their size."""
    for pieces in (["b" * 1001], [f"{i:x}" * 8 for i in range(10_000)]):
        text = json.dumps({"vocab": [[piece, -1.5] for piece in pieces]}).encode()
        with pytest.raises(ModelError, match=r"^x: its vocabulary has .* bytes has; download the file again"):
            check_pieces("x", text, 1_000_000)
    check_pieces("x", text, 10_000_000)
    check_pieces("x", json.dumps({"vocab": [[f"{i:06x}", -i] for i in range(100_000)]}).encode(), 0)
    check_pieces("x", json.dumps({"merges": [[f"{i:x}" * 8, "a"] for i in range(10_000)]}).encode(), 0)


@pytest.mark.parametrize("key", ["continuing_subword_prefix", "\\u0063ontinuing_subword_prefix"])
def test_merges_of_pieces_with_a_prefix(key: str) -> None:
    """Catches an abort of Python found by fuzz.py: tokenizers 0.23 cuts "on" off the three bytes of U+2581."""
    with pytest.raises(ModelError, match=r"no language model's|spells letters"):
        check_steps("x", b'{"%s": "on", "merges": [ ["\xe2\x96\x81", "\xe2\x96\x81"] ]}' % key.encode())
    for harmless in (b'"", "merges": ["a b"]', b'null, "merges": ["a b"]', b'"##"', b'"##", "merges": [ ]'):
        check_steps("x", b'{"continuing_subword_prefix": %s}' % harmless)


def test_a_token_that_looks_like_a_key_is_none() -> None:
    """Catches a refusal of vocabularies of code: "type" is a token of theirs, and so is a backslash before u0065."""
    check_steps("x", rb'{"type": 7, "Regex": 8, "\\u0065": 9, "\u00e9": 10, "\u0120": 11, "\\\\u0078": 12}')


def test_albert_passes() -> None:
    """Catches a bound of 1,000, which refused ALBERT's steps (3,888) and CPM's, which have no Lowercase (1,296).

    The steps are those of transformers 5.23 (convert_slow_tokenizer, AlbertConverter).
    """
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    quotes = replace("``", '"'), replace("''", '"')
    forms = [{"type": name} for name in ("NFKD", "StripAccents", "Lowercase")]
    words = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    state = json.loads(golden_tokenizer().to_str())
    state |= {"normalizer": sequence(*quotes, *forms, TABLE, spaces), "pre_tokenizer": words}
    check_growth("x", Backend.from_str(json.dumps(state)))


def test_a_compiled_table_makes_its_longest_text() -> None:
    """Catches a table of SentencePiece's form whose one text is a million letters: applied twice, 10^12."""
    table = (8).to_bytes(4, "little") + bytes(8) + "ab\0\u00e9\u00e9\u00e9\0".encode()
    step = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}
    assert _letters(step, again=False) == _letters(step, again=True) == 3
    large = base64.b64encode(table + b"a\0" * (MOST_TABLE // 2)).decode()
    assert _letters(step | {"precompiled_charsmap": large}, again=False) > MOST_TABLE
