"""loading/split_rules.py: every name of a rule splits text as llama.cpp does; a file without a name is not silent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from tinyinfer.errors import ModelError, ModelWarning
from tinyinfer.loading.gguf_vocab import read_vocabulary
from tinyinfer.loading.split_rules import RULES, SPLIT_RULES
from tinyinfer.text.tokenizer import Tokenizer

GOLDENS = json.loads((Path(__file__).parents[1] / "golden" / "vocabularies.json").read_text(encoding="utf-8"))
IDS: dict[str, list[list[int] | None]] = GOLDENS["byte_level"]["ids"]
P = "tokenizer.ggml."
# What Mistral's own package says: mistral_common 1.13.1, data/tekken_240911.json, config.pattern.
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def golden(**changes: Any) -> Tokenizer:
    """The golden byte-level vocabulary with other metadata; None takes a key out, `arch` is the architecture."""
    fields = GOLDENS["byte_level"]["fields"] | {P + key: value for key, value in changes.items() if key != "arch"}
    fields[P + "token_type"] = np.array(fields[P + "token_type"])
    fields["general.architecture"] = changes.get("arch")
    return Tokenizer(read_vocabulary({k: v for k, v in fields.items() if v is not None}, "model.gguf"), "model.gguf")


def revealing(arch: str | None = None, bos: str = "<s>", **changes: Any) -> Tokenizer:
    """A vocabulary whose merges cross the borders at which rules differ: digits, blank lines, a space before a sign."""
    letters, merges = sorted(pre_tokenizers.ByteLevel.alphabet()), ["! Ċ", "!Ċ Ċ", "1 2", "12 3", "Ġ (", "3 4", "123 4"]
    tokens = [*letters, *(merge.replace(" ", "") for merge in merges), bos]
    fields = {"model": "gpt2", "tokens": tokens, "merges": merges, "bos_token_id": 263} | changes
    metadata = {P + key: value for key, value in fields.items()} | {"general.architecture": arch}
    types = {P + "token_type": np.array([1] * 263 + [3])}
    return Tokenizer(read_vocabulary(metadata | types, "old.gguf"), "old.gguf")


def ids(tokenizer: Tokenizer) -> list[list[int]]:
    return [tokenizer.encode(text) for text in GOLDENS["texts"]]


@pytest.mark.parametrize("names", [names.split() for names, _ in RULES], ids=lambda names: names[0])
@pytest.mark.filterwarnings("ignore::tinyinfer.errors.ModelWarning")
def test_all_names_of_a_rule_give_the_ids_of_llama_cpp(names: list[str]) -> None:
    """Catches a wrong rule: digits one by one or by three, contractions, blank lines, whole words, BOS by default.

    A text that begins with BOS is given no other one; llama.cpp puts a second before it, and warns of it (B14).
    """
    bos = GOLDENS["byte_level"]["fields"][P + "bos_token_id"]
    for name in names:
        found = ids(golden(pre=name))
        for text, ours, expected in zip(GOLDENS["texts"], found, IDS[names[0]], strict=True):
            if text.startswith("<|bos|>") and expected[:2] == [bos, bos]:
                expected = expected[1:]
            assert expected is None or ours == expected, (name, text)


def test_every_rule_is_told_from_the_others() -> None:
    """Catches a rule without an oracle, and texts that cannot tell two rules from one another."""
    assert [names.split()[0] for names, _ in RULES] == list(IDS)
    assert len({json.dumps(found) for found in IDS.values()}) == len(set(SPLIT_RULES.values())) == len(RULES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deepseek-r1-qwen", ["!ĊĊ", "1", "2", "3", "4"]),
        ("falcon3", ["<s>", "!ĊĊ", "123", "4"]),
        ("pixtral", ["<s>", "!ĊĊ", "123", "4"]),
        ("smaug-bpe", ["!ĊĊ", "123", "4"]),
        ("tekken", ["<s>", "!ĊĊ", "1", "2", "3", "4"]),
        ("deepseek-coder", ["!", "Ċ", "Ċ", "1", "2", "3", "4"]),
    ],
)
def test_names_of_published_files(name: str, expected: list[str]) -> None:
    """Catches DeepSeek-R1-Distill-Qwen, Falcon 3, Pixtral, Smaug, Mistral Nemo refused (llama.cpp's ids, row A6)."""
    tokenizer = revealing(pre=name)
    tokens = {i: token for token, i in tokenizer._backend.get_vocab().items()}
    assert [tokens[i] for i in tokenizer.encode("!\n\n1234")] == expected


def test_a_rule_asks_for_no_token_that_is_not_there() -> None:
    """Catches Falcon 3 refused: its rule is Llama 3's, which begins texts with BOS, but Falcon 3 has no BOS."""
    assert golden(pre="falcon3", bos_token_id=None).encode("a") == golden(pre="falcon3").encode("a", False)


def test_tekken_is_as_published() -> None:
    """Catches llama.cpp's approximation, which has no capitals beyond ASCII and splits a mark from its letter."""
    assert SPLIT_RULES["tekken"].patterns == (TEKKEN,)
    words = golden(pre="tekken")._backend.pre_tokenizer.pre_tokenize_str("दुनिया e\u0301aÉcole")
    assert [end - start for _, (start, end) in words] == [6, 4, 5]


@pytest.mark.parametrize("pre", [None, "default", ""])
def test_a_file_without_a_rule_is_split_as_by_llama_cpp_and_says_so(pre: str | None) -> None:
    """Catches GPT-2's rule, silently, for a Llama file from before May 2024; llama.cpp 0.3.36's ids (row A8)."""
    with pytest.warns(ModelWarning, match=r"model\.gguf: names no rule for splitting text .* may answer worse"):
        assert ids(golden(pre=pre, arch="llama")) == IDS["default"]
    with pytest.warns(ModelWarning, match="default rule"):
        tokenizer = revealing() if pre is None else revealing(pre=pre)
    assert [tokenizer.encode(text) for text in ("1234", " (x", "!\n\n")] == [[259, 19], [220, 7, 87], [0, 198, 198]]


@pytest.mark.parametrize("pre", [None, "default"])
@pytest.mark.parametrize("arch", ["qwen2", "qwen3"])
def test_a_family_with_one_rule_needs_no_name(arch: str, pre: str | None) -> None:
    """Catches llama.cpp's default for Qwen 1.5, whose files cannot have the key and whose rule is known (row A8)."""
    with pytest.warns(ModelWarning, match=r"so qwen2's rule is used, which models of this family have"):
        assert ids(golden(pre=pre, arch=arch)) == IDS["qwen2"]
    with pytest.warns(ModelWarning):
        tokenizer = revealing(arch) if pre is None else revealing(arch, pre=pre)
    assert [tokenizer.encode(x) for x in ("1234", " (x", "!\n\n")] == [[16, 17, 18, 19], [260, 87], [257]]


@pytest.mark.parametrize(
    ("arch", "rule"),
    [("qwen2moe", "qwen2"), ("qwen3moe", "qwen2"), ("gpt2", "gpt-2"), ("gptneox", "olmo"), ("olmoe", "olmo")],
)
def test_families_older_than_the_key(arch: str, rule: str) -> None:
    """Catches llama.cpp's default for GPT-2, Pythia and Qwen1.5-MoE, whose first files name no rule."""
    with pytest.warns(ModelWarning, match=rf"so {rule}'s rule is used"):
        assert ids(golden(pre=None, arch=arch)) == IDS[rule]


@pytest.mark.parametrize("arch", ["phi3", "granite", "smollm3", "olmo2"])
def test_a_family_with_several_rules_has_none(arch: str) -> None:
    """Catches one model's rule taken for those of others, silently."""
    with pytest.warns(ModelWarning, match="default rule"):
        golden(pre=None, arch=arch)


def test_llama_3_is_known_by_its_vocabulary() -> None:
    """Catches the default rule for the Llama 3 files of April 2024, which have no name of a rule."""
    with pytest.warns(ModelWarning, match=r"so llama-bpe's rule is used"):
        tokenizer = revealing("llama", "<|begin_of_text|>")
    assert [tokenizer.encode(x) for x in ("1234", " (x", "!\n\n")] == [[263, 259, 19], [263, 260, 87], [263, 257]]


def test_an_unknown_rule_is_refused_with_a_cure() -> None:
    """Catches another rule taken, and a cure that cannot work: all GGUF files of a model name the same rule."""
    with pytest.raises(ModelError) as caught:
        golden(pre="kimi-k2")
    assert str(caught.value) == (
        "model.gguf: tokenizer.ggml.pre is 'kimi-k2', a rule for splitting text not known here; use this model's "
        "Hugging Face folder, whose tokenizer.json holds the rule itself"
    )
