"""GGUF metadata gives tokenizers with the ids of llama.cpp and SentencePiece; broken metadata is one clear line."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer.errors import ModelError
from tinyinfer.loading.gguf_vocab import merges_from_scores, read_vocabulary
from tinyinfer.text.tokenizer import Tokenizer

GOLDENS = json.loads((Path(__file__).parents[1] / "golden" / "vocabularies.json").read_text(encoding="utf-8"))
TEXTS: list[str] = GOLDENS["texts"]
P = "tokenizer.ggml."

Fields = dict[str, Any]


def fields(name: str, **changes: Any) -> Fields:
    """A golden vocabulary's metadata, arrays as a GGUF reader gives them; None takes a key out."""
    found = dict(GOLDENS[name]["fields"]) | ({P + "pre": "gpt-2"} if name == "byte_level" else {})
    for key in ("token_type", "scores"):
        if P + key in found:
            found[P + key] = np.array(found[P + key])
    found |= {P + key: value for key, value in changes.items()}
    return {key: value for key, value in found.items() if value is not None}


def tokenizer_of(metadata: Fields) -> Tokenizer:
    return Tokenizer(read_vocabulary(metadata, "model.gguf"), "model.gguf")


def build(name: str, **changes: Any) -> Tokenizer:
    return tokenizer_of(fields(name, **changes))


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_sentencepiece_ids_are_those_of_sentencepiece_and_llama_cpp(name: str) -> None:
    """Catches merges in a wrong order, a wrong space before a text or after a special token, missing byte tokens.

    A text that begins with <s> is given no other one; llama.cpp puts a second before it, and warns of it (B14).
    """
    tokenizer = build(name)
    pairs = zip(TEXTS, GOLDENS[name]["ids"], strict=True)
    expected = [ids[1:] if text.startswith("<s>") else ids for text, ids in pairs]
    assert [tokenizer.encode(text) for text in TEXTS] == expected


def test_a_template_sees_the_special_tokens_that_the_file_names() -> None:
    """Catches an empty pad_token in the prompt, and a file refused for a padding id that means "none"."""
    tokens = fields("llama")[P + "tokens"]
    template = "{{ bos_token }}{{ unk_token }}{{ pad_token }}{{ mask_token }}{{ sep_token }}"
    named = {"padding_token_id": 9, "seperator_token_id": len(tokens), "mask_token_id": np.uint32(8)}
    tokenizer = tokenizer_of(fields("llama", unknown_token_id=0, **named) | {"tokenizer.chat_template": template})
    said = tokenizer.render([{"role": "user", "content": "hi"}])
    assert said == "".join(["<s>", tokens[0], tokens[9], tokens[8]])


@pytest.mark.parametrize("name", ["byte_level", "llama", "gemma"])
def test_text_survives(name: str) -> None:
    """Catches a decoder that eats or adds a space, or shows byte tokens by name."""
    tokenizer = build(name)
    special = ("<|bos|>", "<|end|>", "<unk>", "<s>", "</s>", "▁")
    for text in TEXTS:
        if not any(token in text for token in special):
            assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("rule", ["qwen2", "olmo"])
def test_unicode_is_composed(rule: str) -> None:
    """Catches a missing NFC, which tokenizer.json of Qwen 2 and GPT-NeoX has: e + accent is the accented letter."""
    tokenizer = build("byte_level", pre=rule)
    text = "e\u0301"
    assert tokenizer.encode(text) == tokenizer.encode(unicodedata.normalize("NFC", text))
    assert build("byte_level", pre="gpt-2").encode(text) != tokenizer.encode(text)


@pytest.mark.parametrize(
    ("changes", "around"),
    [
        ({}, ["<|bos|>"]),
        ({"add_bos_token": False}, []),
        ({"add_eos_token": True}, ["<|bos|>", "<|end|>"]),
        ({"add_bos_token": False, "add_eos_token": True}, ["<|end|>"]),
    ],
)
def test_tokens_around_a_text(changes: Fields, around: list[str]) -> None:
    """Catches flags that are ignored, and tokens added although the caller asked for none."""
    tokenizer = build("byte_level", pre="llama-bpe", **changes)
    plain = tokenizer.encode("a", add_special_tokens=False)
    names = [GOLDENS["byte_level"]["fields"][P + "tokens"][i] for i in tokenizer.encode("a")]
    assert [name for name in names if name != "a"] == around
    assert len(plain) == 1


def test_sentencepiece_has_default_ids() -> None:
    """Catches a file without ids refused: SentencePiece's own are 1 and 2 (the golden names none)."""
    tokenizer = build("llama", add_eos_token=True, add_space_prefix=False)
    assert (tokenizer.encode("")[0], tokenizer.encode("")[-1]) == (1, 2)


def test_kinds_of_tokens() -> None:
    """Catches control tokens shown, user-defined ones hidden or split, and padding that decodes to its name."""
    tokenizer = build("byte_level", pre="smollm")
    tokens = GOLDENS["byte_level"]["fields"][P + "tokens"]
    end, tool, pad = (tokens.index(token) for token in ("<|end|>", "<tool>", "[PAD0]"))
    a = tokens.index("a")
    assert tokenizer.encode("a<tool>a<|end|>") == [a, tool, a, end]
    assert tokenizer.decode([a, tool, pad, a, end]) == "a<tool>a"
    assert pad not in tokenizer.encode("[PAD0]")


@pytest.mark.filterwarnings("ignore::tinyinfer.errors.ModelWarning")
def test_the_end_token_is_special_even_if_the_file_forgets() -> None:
    """Catches "<|end|>" at the end of every answer of a file that calls it a normal token."""
    types = np.ones(len(GOLDENS["byte_level"]["fields"][P + "tokens"]), dtype=np.int32)
    tokenizer = build("byte_level", token_type=types)
    end = tokenizer.encode("<|end|>")
    assert (len(end), tokenizer.decode(end)) == (1, "")


@pytest.mark.filterwarnings("ignore::tinyinfer.errors.ModelWarning")
def test_phi3_takes_the_space_behind_a_special_token() -> None:
    """Catches a line end after <|user|> kept: Phi-3's own tokenizer drops it, and llama.cpp knows that by its name."""
    changes = {"tokens": [*fields("llama")[P + "tokens"][:-2], "<|user|>", "<|endoftext|>"]}
    count = len(changes["tokens"])
    types = fields("llama")[P + "token_type"].copy()
    types[-2:] = 3  # control
    metadata = fields("llama", **changes, token_type=types, eos_token_id=count - 1)
    phi3, other = (tokenizer_of(metadata | {"general.architecture": arch}) for arch in ("phi3", "llama"))
    for tokenizer, taken in ((phi3, True), (other, False)):
        assert (tokenizer.encode("<|user|>\n a") == tokenizer.encode("<|user|>a")) == taken
        assert tokenizer.encode("<|endoftext|>\n") != tokenizer.encode("<|endoftext|>")
    assert phi3.encode("<|user|>")[1:] == [count - 2]


def test_token_types_may_be_missing() -> None:
    """Catches a KeyError for old files."""
    tokenizer = build("byte_level", token_type=None)
    assert tokenizer.decode(tokenizer.encode("Hello  world 12")) == "Hello  world 12"


def test_the_chat_template_knows_its_special_tokens() -> None:
    """Catches bos_token and eos_token swapped, or given as ids."""
    metadata = fields("byte_level") | {
        "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    }
    tokenizer = tokenizer_of(metadata)
    assert tokenizer.render([{"role": "user", "content": "hi"}]) == "<|bos|>hi<|end|>"


def by_score(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's BPE, word for word: the best union of two neighbours first, the leftmost of equals."""
    pieces = list(text)
    while True:
        unions = [(scores.get(pieces[i] + pieces[i + 1], -np.inf), -i) for i in range(len(pieces) - 1)]
        score, at = max(unions, default=(-np.inf, 0))
        if score == -np.inf:
            return pieces
        pieces[-at : 2 - at] = [pieces[-at] + pieces[1 - at]]


@given(
    pieces=st.lists(st.text("abc", min_size=2, max_size=5), max_size=12, unique=True),
    text=st.text("abc", max_size=30),
)
@settings(max_examples=200)
def test_merges_from_scores_merge_like_scores(pieces: list[str], text: str) -> None:
    """Catches merges ranked by anything but the score of their union, or pairs left out."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    ranked = ["a", "b", "c", *pieces]
    scores = {piece: -float(i) for i, piece in enumerate(ranked)}
    backend = Backend(models.BPE({piece: i for i, piece in enumerate(ranked)}, list(merges_from_scores(scores))))
    assert backend.encode(text).tokens == by_score(text, scores)


def of_pieces(pieces: list[str], **changes: Any) -> Fields:
    """A SentencePiece vocabulary of these pieces, the first with the best score."""
    tokens = ["<unk>", "<s>", "</s>", *pieces]
    scores = -np.arange(len(tokens), dtype=np.float32)
    types = np.array([2, 3, 3, *[1] * len(pieces)])
    return {P + "model": "llama", P + "tokens": tokens, P + "scores": scores, P + "token_type": types} | changes


RUNS = {
    "each the beginning of the next": ["Q" * i for i in range(1, 1500)],
    "one long piece": ["Q", "Q" * 100_000],
    "all words of two letters": [format(i, "b") for i in range(1, 1 << 15)],
}


@pytest.mark.parametrize("case", RUNS)
def test_more_merges_than_a_file_explains(case: str) -> None:
    """Catches H4 of the bug pages: 1.1 MB took 2.5 GB, 5 MB ended the interpreter, one piece of 400 kB took 23 s."""
    with pytest.raises(ModelError, match=r"^model\.gguf: tokenizer\.ggml\.tokens (make more merges|holds pieces of) "):
        tokenizer_of(of_pieces(RUNS[case]))


@pytest.mark.parametrize("length", [31, 64, 128])
def test_long_runs_of_spaces_are_single_tokens(length: int) -> None:
    """Catches a bound that real files pass: Gemma has runs of 31 spaces, models of code of 64 and more.

    The merges are those of transformers 5.23 (generate_merges): all pairs, n(n-1)/2 for each run up to n.
    """
    runs = ["\u2581" * i for i in range(1, length + 1)]
    merges = list(merges_from_scores({run: -float(i) for i, run in enumerate(runs)}))
    assert len(merges) == len(set(merges)) == length * (length - 1) // 2
    tokenizer = tokenizer_of(of_pieces([*runs, "a", "b"]) | {P + "add_space_prefix": False})
    assert tokenizer.encode(" " * length + "a", add_special_tokens=False) == [2 + length, 3 + length]


def test_a_half_of_a_merge_is_the_piece_itself() -> None:
    """Catches copies of both halves for every merge, which made the memory cubic."""
    pieces = ["ab", "abab", "ababab"]
    own = {id(piece) for piece in pieces}
    halves = [half for merge in merges_from_scores(dict.fromkeys(pieces, 0.0)) for half in merge]
    assert len(halves) == 6
    assert {id(half) for half in halves} <= own


def test_more_listed_merges_than_a_file_explains() -> None:
    """Catches one merge a million times, which is 4 bytes in the file and 250 in memory."""
    merges = GOLDENS["byte_level"]["fields"][P + "merges"]
    with pytest.raises(ModelError, match=r"^model\.gguf: tokenizer\.ggml\.tokens make more merges than a model of "):
        build("byte_level", merges=merges[:1] * 150_000)
    many = fields("byte_level", merges=merges + merges[:1] * 150_000)
    assert read_vocabulary(many, "model.gguf", size=3_000_000).backend.encode("the").ids


def test_more_tokens_than_a_file_explains() -> None:
    """Catches a count of merges alone: 27 MB of byte-level tokens without a merge took 640 MB, 24 times their size."""
    tokens = [f"{i:x}" for i in range(150_001)]
    many = {P + "model": "gpt2", P + "pre": "gpt-2", P + "tokens": tokens, P + "merges": []}
    with pytest.raises(ModelError, match=r"^model\.gguf: tokenizer\.ggml\.tokens holds 150001 tokens, more than a "):
        read_vocabulary(many, "model.gguf", size=2_500_000)
    assert read_vocabulary(many, "model.gguf", size=2_600_000).backend.get_vocab_size() == len(tokens)


def test_a_merge_of_many_words_is_not_cut_into_them() -> None:
    """Catches a merge of 30 MB that became a list of ten million words, 28 times its size, before it was refused."""
    tracemalloc.start()
    with pytest.raises(ModelError, match=r"tokenizer\.ggml\.merges holds 'ab ab .*, which is not two tokens"):
        build("byte_level", merges=["ab " * 1_000_000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_a_byte_token_is_never_made_of_letters() -> None:
    """Catches "<0x41>" typed by a user that becomes the byte of "A": byte tokens are no union of others."""
    tokens = ["<unk>", "<s>", "</s>", "<0x41>", *"<0x41>", "0x", "0x4", "0x41", "0x41>"]
    metadata = {"model": "llama", "tokens": tokens, "scores": [0.0] * 4 + [-float(i) for i in range(10)]}
    metadata |= {"token_type": [2, 3, 3, 6] + [1] * 10, "add_space_prefix": False, "add_bos_token": False}
    tokenizer = tokenizer_of({P + key: value for key, value in metadata.items()})
    assert [tokens[i] for i in tokenizer.encode("<0x41>A")] == ["<", "0x41>", "<0x41>"]
    assert tokenizer.decode(tokenizer.encode("<0x41>A")) == "<0x41>A"


def changed(values: list[Any], at: int, value: Any) -> list[Any]:
    return [*values[:at], value, *values[at + 1 :]]


TOKENS = GOLDENS["byte_level"]["fields"][P + "tokens"]
COUNT = len(TOKENS)
BROKEN: list[tuple[str, Fields, str]] = [
    ("byte_level", {"model": None}, "tokenizer.ggml.model is missing"),
    ("byte_level", {"model": "bert"}, "'bert'; supported are gpt2, llama"),
    ("byte_level", {"model": 3}, "tokenizer.ggml.model is of the wrong type"),
    ("byte_level", {"pre": "kimi-k2"}, "tokenizer.ggml.pre is 'kimi-k2'"),
    ("byte_level", {"pre": ["smollm"]}, "tokenizer.ggml.pre is of the wrong type"),
    ("byte_level", {"tokens": None}, "tokenizer.ggml.tokens is missing"),
    ("byte_level", {"tokens": []}, "tokenizer.ggml.tokens is empty"),
    ("byte_level", {"tokens": changed(TOKENS, 7, 7)}, "tokenizer.ggml.tokens is not a list of strings"),
    ("byte_level", {"tokens": np.arange(COUNT)}, "tokenizer.ggml.tokens is of the wrong type"),
    ("byte_level", {"tokens": changed(TOKENS, 7, TOKENS[3])}, "twice, as 3 and 7"),
    ("byte_level", {"token_type": np.ones(COUNT - 1, np.int32)}, f"entries, but there are {COUNT} tokens"),
    ("byte_level", {"token_type": np.ones((COUNT, 1), np.int32)}, "tokenizer.ggml.token_type is not a list of numbers"),
    ("byte_level", {"token_type": np.ones(COUNT)}, "tokenizer.ggml.token_type is not a list of numbers"),
    ("byte_level", {"merges": None}, "tokenizer.ggml.merges is missing"),
    ("byte_level", {"merges": ["a b c"]}, "'a b c', which is not two tokens"),
    ("byte_level", {"merges": ["ab"]}, "'ab', which is not two tokens"),
    ("byte_level", {"merges": ["a zzz"]}, "tokenizer.ggml.merges do not fit the tokens"),
    ("byte_level", {"merges": ["! $"]}, "tokenizer.ggml.merges do not fit the tokens"),
    ("byte_level", {"merges": [1, 2]}, "tokenizer.ggml.merges is not a list of strings"),
    ("byte_level", {"bos_token_id": COUNT}, f"is {COUNT}, but there are {COUNT} tokens"),
    ("byte_level", {"eos_token_id": -1}, "tokenizer.ggml.eos_token_id is -1"),
    ("byte_level", {"eos_token_id": True}, "tokenizer.ggml.eos_token_id is True"),
    ("byte_level", {"unknown_token_id": "0"}, "tokenizer.ggml.unknown_token_id is of the wrong type"),
    ("byte_level", {"add_bos_token": 1}, "tokenizer.ggml.add_bos_token is of the wrong type"),
    ("byte_level", {"add_bos_token": True, "bos_token_id": None}, "tokenizer.ggml.bos_token_id is missing"),
    ("llama", {"scores": None}, "tokenizer.ggml.scores is missing"),
    ("llama", {"scores": np.zeros(3, np.float32)}, "tokenizer.ggml.scores has 3 entries"),
    ("llama", {"scores": ["a"] * 640}, "tokenizer.ggml.scores is not a list of numbers"),
    ("llama", {"scores": np.full(len(GOLDENS["llama"]["fields"][P + "tokens"]), np.nan)}, "not finite"),
    ("llama", {"add_space_prefix": "yes"}, "tokenizer.ggml.add_space_prefix is of the wrong type"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "fault"), BROKEN, ids=lambda value: str(value)[:40])
def test_broken_metadata_is_one_clear_line(name: str, changes: Fields, fault: str) -> None:
    """Catches a KeyError, a TypeError or the library's bare Exception for a damaged file, or silence."""
    with pytest.raises(ModelError) as caught:
        build(name, **changes)
    message = str(caught.value)
    assert message.startswith("model.gguf: ")
    assert fault in message
    assert "\n" not in message


def test_a_chat_template_of_a_wrong_type_is_refused() -> None:
    with pytest.raises(ModelError, match="chat_template"):
        tokenizer_of(fields("byte_level") | {"tokenizer.chat_template": 3})


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3),
    st.lists(st.one_of(st.text(max_size=3), st.integers(-3, 700), st.none()), max_size=4),
    st.lists(st.integers(-9, 9), max_size=9).map(np.array),
)  # fmt: skip
KEYS = [key.removeprefix(P) for key in GOLDENS["byte_level"]["fields"] | GOLDENS["llama"]["fields"]]


@pytest.mark.filterwarnings("ignore::tinyinfer.errors.ModelWarning")
@given(
    name=st.sampled_from(["byte_level", "llama"]),
    changes=st.dictionaries(st.sampled_from([*KEYS, "pre", "unknown_token_id", "add_bos_token"]), VALUES, max_size=3),
    tokens=st.lists(st.text("ab▁ <0x4>é", max_size=6), max_size=8),
    kinds=st.lists(st.integers(-1, 7), min_size=8, max_size=8),
)
@settings(max_examples=300)
def test_any_metadata_either_works_or_is_refused(
    name: str, changes: Fields, tokens: list[str], kinds: list[int]
) -> None:
    """Catches any other exception than ModelError, with small vocabularies of any content too."""
    small = {"tokens": tokens, "token_type": np.array(kinds[: len(tokens)]), "merges": [], "bos_token_id": None}
    small |= {"eos_token_id": None, "scores": np.zeros(len(tokens))}
    for candidate in (changes, small | changes):
        with contextlib.suppress(ModelError):
            tokenizer = build(name, **candidate)
            tokenizer.decode(tokenizer.encode("ab <0x41> é"))
