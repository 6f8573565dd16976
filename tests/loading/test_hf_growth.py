"""loading/hf_growth.py: a tokenizer.json whose steps multiply a text is refused before a text is tokenized."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from golden import golden_tokenizer
from tokenizers import Tokenizer as Backend

from tinyinfer.errors import ModelError
from tinyinfer.loading.hf_growth import _letters, check_growth


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
    "one of many letters": ("normalizer", replace("a", "b" * 1001)),
    "twice as many, ten times": ("normalizer", sequence(*[replace("a", "aa")] * 10)),
    "in sequences inside": ("normalizer", sequence(*[sequence(*[replace("a", "aa")] * 5)] * 2)),
    "a regex that may find nothing": (
        "normalizer",
        {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "y" * 1000},
    ),
    "long texts before": ("normalizer", sequence(*[{"type": "Prepend", "prepend": "x" * 100}] * 3)),
    "bytes of bytes of bytes": ("normalizer", sequence(*[{"type": "ByteLevel"}] * 6)),
    "bytes of bytes in words": ("pre_tokenizer", sequence(*[BYTES] * 6, key="pretokenizers")),
    "on the way back": ("decoder", sequence(*[replace("a", "a" * 100)] * 2, {"type": "Fuse"}, key="decoders")),
}


@pytest.mark.parametrize("case", GROWING)
def test_growth_is_refused(case: str) -> None:
    """Catches 10^12 bytes made of one letter: the library ends the interpreter, which no `except` catches."""
    with pytest.raises(ModelError, match=r"^x: its (normalizer|decoder) can make more than 1000 letters of one"):
        check_growth("x", with_part(*GROWING[case]))


REAL = {
    "Llama": ("normalizer", sequence({"type": "Prepend", "prepend": "\u2581"}, replace(" ", "\u2581"))),
    "Qwen": ("normalizer", {"type": "NFC"}),
    "several forms": ("normalizer", sequence(*[{"type": "NFKC"}, {"type": "NFD"}, {"type": "Lowercase"}] * 3)),
    "quotes": ("normalizer", sequence(replace("``", '"'), replace("''", '"'), replace("\u2026", "..."))),
    "Gemma back": ("decoder", sequence(replace("\u2581", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                                       key="decoders")),
    "none": ("normalizer", None),
}  # fmt: skip


@pytest.mark.parametrize("case", REAL)
def test_real_parts_pass(case: str) -> None:
    """Catches a bound that refuses what published tokenizers have."""
    check_growth("x", with_part(*REAL[case]))


def test_a_compiled_table_makes_its_longest_text() -> None:
    """Catches a table of SentencePiece's form whose one text is a million letters: applied twice, 10^12."""
    table = (8).to_bytes(4, "little") + bytes(8) + "ab\0\u00e9\u00e9\u00e9\0".encode()
    step = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}
    assert _letters(step, again=False) == _letters(step, again=True) == 3
