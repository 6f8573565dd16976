"""Text to ids and back, whole and token by token; folders of every age; SmolLM2 as transformers and its makers have it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, processors

from tinyinfer.errors import ModelError
from tinyinfer.tokenizer import Tokenizer, Vocabulary

GOLDEN = Path(__file__).parent / "golden"
VOCABULARIES = json.loads((GOLDEN / "vocabularies.json").read_text(encoding="utf-8"))
HI = [{"role": "user", "content": "hi"}]


def golden(name: str) -> Tokenizer:
    return Tokenizer.from_gguf(VOCABULARIES[name]["fields"] | {"tokenizer.ggml.pre": "smollm"}, "model.gguf")


def words() -> Tokenizer:
    """A tokenizer without a decoder: tokens are words with a space between them."""
    return Tokenizer(Vocabulary(Backend(models.WordLevel({"a": 0, " b": 1, "": 2, "<0x41>": 3}, unk_token="a"))), "words")


TOKENIZERS = {"byte_level": golden("byte_level"), "llama": golden("llama"), "gemma": golden("gemma"), "words": words()}


def ids_of(name: str, *tokens: str) -> list[int]:
    """Ids of tokens by their names in the vocabulary."""
    names = VOCABULARIES[name]["fields"]["tokenizer.ggml.tokens"]
    return [names.index(token) for token in tokens]


def byte_tokens(name: str, data: bytes) -> list[int]:
    """One token a byte."""
    if name == "byte_level":
        return [i for byte in data for i in TOKENIZERS[name].encode(chr(byte), False)] if data.isascii() else [
            _BYTE_LEVEL[byte] for byte in data
        ]  # fmt: skip
    return ids_of(name, *[f"<0x{byte:02X}>" for byte in data])


# Every byte's letter, found by encoding all characters that UTF-8 spells with it.
_BYTE_LEVEL: dict[int, int] = {}


def pieces(name: str, ids: list[int]) -> list[str]:
    stream = TOKENIZERS[name].stream()
    return [*[stream.push(i) for i in ids], stream.finish()]
