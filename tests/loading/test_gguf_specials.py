"""loading/gguf_specials.py: a text ends where llama.cpp ends it; tokens that are typed as text by mistake are found."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from tinyinfer.errors import ModelError, ModelWarning
from tinyinfer.loading.gguf_vocab import read_end_tokens, read_vocabulary
from tinyinfer.text.tokenizer import Tokenizer

GOLDENS = json.loads((Path(__file__).parents[1] / "golden" / "vocabularies.json").read_text(encoding="utf-8"))
P = "tokenizer.ggml."
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())

Fields = dict[str, Any]


def byte_level(added: list[str], kind: int, merges: tuple[str, ...] = (), **ids: str | int) -> Fields:
    """The metadata of all bytes, the unions of `merges` and added tokens of one type; ids: keys and their tokens."""
    tokens = [*LETTERS, *(merge.replace(" ", "") for merge in merges), *added]
    types = [NORMAL] * (len(tokens) - len(added)) + [kind] * len(added)
    named = {f"{role}_token_id": tokens.index(i) if isinstance(i, str) else i for role, i in ids.items()}
    fields = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "merges": list(merges), "token_type": np.array(types)}
    return {P + key: value for key, value in (fields | named).items()}


def ends(metadata: Fields) -> list[str]:
    return [metadata[P + "tokens"][i] for i in read_end_tokens(metadata, "model.gguf")]


def tokenizer_of(metadata: Fields) -> Tokenizer:
    return Tokenizer(read_vocabulary(metadata, "model.gguf"), "model.gguf")


def tokens_of(metadata: Fields, text: str) -> list[str]:
    return [metadata[P + "tokens"][i] for i in tokenizer_of(metadata).encode(text, False)]


# What llama_vocab_is_eog of llama.cpp (llama-cpp-python 0.3.36) says of a vocabulary with these control tokens.
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"]
LLAMA_3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|eom_id|>", "<|eot_id|>"]
HARMONY = ["<|return|>", "<|call|>", "<|end|>"]
ENDS: list[tuple[list[str], str, set[str]]] = [
    (QWEN[:3], "<|im_end|>", {"<|im_end|>", "<|endoftext|>"}),  # as generation_config.json of Qwen 2.5 and 3
    (QWEN, "<|endoftext|>", {"<|im_end|>", "<|endoftext|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"}),
    (LLAMA_3, "<|eot_id|>", {"<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"}),  # as that of Llama 3.1
    (["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], "<eos>", {"<eos>", "<end_of_turn>"}),  # that of Gemma 3
    (["<|user|>", "<|end|>", "<|endoftext|>"], "<|endoftext|>", {"<|end|>", "<|endoftext|>"}),  # Phi 3
    (["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<x>"], "<x>", {"<｜end▁of▁sentence｜>", "<x>"}),
    (["<s>", "</s>", "[INST]", "[/INST]"], "</s>", {"</s>"}),
    (["[EOS]", "[EOT]", "<EOT>", "_<EOT>", "[e~["], "[EOS]", {"[EOS]", "[EOT]", "<EOT>", "_<EOT>", "[e~["}),
    (["<fim-pad>", "<reponame>", "<x>"], "<x>", {"<fim-pad>", "<reponame>", "<x>"}),
    (["<|end|>", "<|return|>"], "<|return|>", {"<|end|>", "<|return|>"}),
    (HARMONY, "<|return|>", {"<|return|>", "<|call|>"}),  # there <|end|> ends a message
    (["<|end|>", "<|calls|>", "<|flush|>"], "<|flush|>", {"<|calls|>", "<|flush|>"}),
    (["<|eos|>", "<end>", "<|eot|>", "<|assistant|>", "<x>"], "<x>", {"<x>"}),
]


@pytest.mark.parametrize(("tokens", "eos", "expected"), ENDS, ids=[" ".join(case[0]) for case in ENDS])
@pytest.mark.parametrize("kind", [CONTROL, NORMAL], ids=["control", "normal"])
def test_a_text_ends_where_llama_cpp_ends_it(tokens: list[str], eos: str, expected: set[str], kind: int) -> None:
    """Catches a chat that runs on because its file names one end token of several, or types them all as text."""
    found = ends(byte_level(tokens, kind, eos=eos))
    assert found[0] == eos
    assert set(found) == expected


def test_end_tokens_that_the_file_names() -> None:
    """Catches a named end token ignored, and a name looked for although the file says which token has the role."""
    names = ["<|im_end|>", "<|fim_pad|>", "q1", "q2", "q3"]
    assert ends(byte_level(names, CONTROL, eos="<|im_end|>", eot="q1", eom="q2", fim_pad="q3")) == [
        "<|im_end|>", "q1", "q2", "q3"
    ]  # fmt: skip
    assert ends(byte_level(names, CONTROL, eos="q1", eot=2**32 - 1, eom=261)) == ["q1", "<|im_end|>", "<|fim_pad|>"]
    with pytest.raises(ModelError, match=r"tokenizer\.ggml\.eot_token_id is -4"):
        ends(byte_level(names, CONTROL, eos="q1", eot=-4))


def test_sentencepiece_ends_with_its_own_id() -> None:
    """Catches an answer without an end for a file that names none: SentencePiece's own is 2."""
    fields = GOLDENS["llama"]["fields"] | {P + "token_type": np.array(GOLDENS["llama"]["fields"][P + "token_type"])}
    assert f"{P}eos_token_id" not in fields
    assert ends(fields) == ["</s>"]


def test_html_ends_no_text() -> None:
    """Catches llama.cpp's end at `</s>` for Qwen, whose vocabulary has made it, and for Gemma, to which it is HTML.

    generation_config.json of Qwen 2.5 (151645, 151643), Gemma 3 (1, 106) and Phi 3 (32000, 32001, 32007) leave it out.
    """
    qwen = byte_level(["<|im_end|>"], CONTROL, merges=("< /", "s >", "</ s>"), eos="<|im_end|>")
    assert ends(qwen) == ["<|im_end|>"]
    assert tokens_of(qwen, "<s>a</s>") == ["<", "s", ">", "a", "</", "s", ">"]
    assert tokenizer_of(qwen).decode([qwen[P + "tokens"].index("</s>")]) == "</s>"
    gemma = byte_level(["<eos>", "</s>"], USER_DEFINED, eos="<eos>")
    assert ends(gemma) == ["<eos>"]
    assert tokenizer_of(gemma).decode(tokenizer_of(gemma).encode("a</s>")) == "a</s>"


def test_control_tokens_typed_as_text_are_found_in_a_prompt() -> None:
    """Catches `<|im_start|>` split into six: the ids of the model's own tokenizer (row A9)."""
    tokens = ["<|im_start|>", "<|im_end|>", "<think>", "   ", "[PAD9]"]
    metadata = byte_level(tokens, NORMAL, merges=("q x",))
    with pytest.warns(ModelWarning, match=r"model\.gguf: types added tokens as normal text \(4: '<\|im_start\|>', "):
        tokenizer = tokenizer_of(metadata)
    text = "<|im_start|>hi<|im_end|><think>qx[PAD9]   "
    found = [metadata[P + "tokens"][i] for i in tokenizer.encode(text)]
    assert found == ["<|im_start|>", "h", "i", "<|im_end|>", "<think>", "qx", *"[PAD9]", "   "]
    assert tokenizer.decode(tokenizer.encode(text)) == "hi<think>qx[PAD9]   "  # control tokens are not shown


def sentencepiece(added: list[str], kind: int) -> Fields:
    """The golden of Gemma's kind with further tokens of one type."""
    fields = GOLDENS["gemma"]["fields"]
    types = np.array(fields[P + "token_type"] + [kind] * len(added))
    more = {"tokens": fields[P + "tokens"] + added, "scores": fields[P + "scores"] + [0.0] * len(added)}
    return fields | {P + key: value for key, value in more.items()} | {P + "token_type": types}


def test_a_sentencepiece_vocabulary_of_normal_tokens_gives_the_same_ids() -> None:
    """Catches Gemma's turns split to pieces, byte tokens found in a text by name, and pieces that training made."""
    added = ["<start_of_turn>", "<end_of_turn>", "<unused0>", "<table>"]
    right = sentencepiece(added, CONTROL)
    right[P + "token_type"][-1] = USER_DEFINED
    wrong = right | {P + "token_type": np.full(len(right[P + "tokens"]), NORMAL)}
    texts = ["<start_of_turn>user\nhi<end_of_turn>\n", "a<table>b", "<0x41>A\u4e00", "<b>bold", "<unused0>"]
    expected = [tokenizer_of(right).encode(text) for text in texts]
    with pytest.warns(ModelWarning, match="types added tokens as normal text"):
        tokenizer = tokenizer_of(wrong)
    assert [tokenizer.encode(text) for text in texts] == expected
    assert [tokenizer.decode(ids) for ids in expected] == [tokenizer_of(right).decode(ids) for ids in expected]


def test_tokens_that_training_made_stay_text() -> None:
    """Catches code vocabularies' `<div>`, `[...]`, `<|` taken for control tokens (17 real vocabularies were read)."""
    merges = ("< d", "<d i", "<di v", "<div >", ". .", "[ ..", "[.. .", "[... ]", "< |", "| >", "<| |>")
    metadata = byte_level(["<|end|>"], CONTROL, merges=merges, eos="<|end|>")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = tokenizer_of(metadata)
    assert tokens_of(metadata, "<div> <||>") == ["<", "d", "i", "v", ">", "Ġ", "<||>"]
    assert tokenizer.decode(tokenizer.encode("<||> [...]")) == "<||> [...]"
