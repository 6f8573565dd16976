"""Text to ids and back, whole and token by token; folders of every age; SmolLM2 as transformers has it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors

from tinyinfer.errors import ModelError
from tinyinfer.loading import gguf_vocab, hf_vocab
from tinyinfer.text.tokenizer import Tokenizer, Vocabulary

GOLDEN = Path(__file__).parents[1] / "golden"
VOCABULARIES = json.loads((GOLDEN / "vocabularies.json").read_text(encoding="utf-8"))
HI = [{"role": "user", "content": "hi"}]


def from_gguf(fields: dict[str, Any], path: str) -> Tokenizer:
    return Tokenizer(gguf_vocab.read_vocabulary(fields, path), path)


def golden(name: str) -> Tokenizer:
    return from_gguf(VOCABULARIES[name]["fields"] | {"tokenizer.ggml.pre": "smollm"}, "model.gguf")


def words() -> Tokenizer:
    """A tokenizer without a decoder: tokens are words with a space between them."""
    return Tokenizer(
        Vocabulary(Backend(models.WordLevel({"a": 0, " b": 1, "": 2, "<0x41>": 3}, unk_token="a"))), "words"
    )


@pytest.mark.parametrize("kind", [models.WordLevel, models.WordPiece])
def test_a_text_that_the_vocabulary_has_no_token_for(kind: Any) -> None:
    """Catches the library's bare Exception, which no caller can tell from a fault of ours; the model is named."""
    tokenizer = Tokenizer(Vocabulary(Backend(kind({"a": 0}, unk_token="b"))), "some/model")
    assert tokenizer.encode("a") == [0]
    with pytest.raises(ModelError, match=r"^some/model: its tokenizer fails on a text \(.*UNK.*\); use "):
        tokenizer.encode("c")


def test_a_panic_of_the_library_is_the_models_fault() -> None:
    """Catches a panic (index out of bounds, in Rust), which is no Exception and so passes every `except Exception`."""
    backend = Backend(models.WordLevel({"a": 0}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.FixedLength(0)
    with pytest.raises(ModelError, match=r"^some/model: its tokenizer fails on a text \(chunk size must be non-zero\)"):
        Tokenizer(Vocabulary(backend), "some/model").encode("a")


def strips_two() -> Tokenizer:
    """A decoder that takes up to two spaces off the beginning, which may come with different tokens."""
    backend = Backend(models.BPE({"▁": 0, "a": 1, "▁▁": 2, "<0x20>": 3}, []))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 2, 0)]
    )
    return Tokenizer(Vocabulary(backend), "strips")


def metaspace(scheme: str, byte_fallback: bool = True) -> Tokenizer:
    """The library's own pair for SentencePiece; the first token loses every mark of a space, whatever its place."""
    pieces = [("<unk>", 0.0), ("▁", -3.0), ("▁a", -1.0), ("b", -2.0), ("▁▁", -4.0), ("▁a▁b", -9.0), ("a", -8.0)]
    bytes_ = [(f"<0x{byte:02X}>", -10.0) for byte in range(256)]
    backend = Backend(models.Unigram([*pieces, *bytes_], unk_id=0, byte_fallback=byte_fallback))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    steps = [decoders.ByteFallback()] * byte_fallback + [decoders.Metaspace(prepend_scheme=scheme)]
    backend.decoder = decoders.Sequence(steps) if byte_fallback else steps[0]
    backend.add_special_tokens(["<unk>"])
    return Tokenizer(Vocabulary(backend), "metaspace")


TOKENIZERS = {"byte_level": golden("byte_level"), "llama": golden("llama"), "gemma": golden("gemma"), "words": words()}
TOKENIZERS["strips_two"] = strips_two()
TOKENIZERS |= {f"metaspace {scheme}": metaspace(scheme) for scheme in ("always", "first", "never")}
SPELLED = ["byte_level", "llama", "gemma"]  # by bytes: one letter a byte, or <0x0A>


def ids_of(name: str, *tokens: str) -> list[int]:
    """Ids of tokens by their names in the vocabulary."""
    names = VOCABULARIES[name]["fields"]["tokenizer.ggml.tokens"]
    return [names.index(token) for token in tokens]


def byte_ids(name: str, text: str) -> list[int]:
    """One token for each byte of a text, as no tokenizer but a model may choose them."""
    if name == "byte_level":
        splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return ids_of(name, *[letter for word, _ in splitter.pre_tokenize_str(text) for letter in word])
    return ids_of(name, *[f"<0x{byte:02X}>" for byte in text.encode()])


def pieces(name: str, ids: list[int]) -> list[str]:
    """What a stream says to each token, and at the end."""
    stream = TOKENIZERS[name].stream()
    return [*[stream.push(i) for i in ids], stream.finish()]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
@settings(max_examples=150)
def test_joined_pieces_are_the_decoded_text(name: str, data: st.DataObject) -> None:
    """Catches a stream that loses, repeats or changes text: broken bytes, special tokens, first spaces, unknown ids.

    Only where a run of byte tokens (<0x0A>) is broken does the library say less: one U+FFFD for each byte of the run.
    """
    tokenizer = TOKENIZERS[name]
    count = tokenizer.vocab_size + 3
    tokens = st.integers(0, min(300, count)) | st.integers(0, count)  # byte tokens and special tokens come first
    texts = st.text("aé你😀 \n\u0301", max_size=6).map(lambda text: tokenizer.encode(text))
    if name in SPELLED:
        texts |= st.text("é你😀 ", max_size=3).map(lambda text: byte_ids(name, text))
    parts = data.draw(st.lists(st.lists(tokens, max_size=4) | texts, max_size=6))
    ids = [i for part in parts for i in part]
    said = "".join(pieces(name, ids))
    if name == "byte_level" or "\ufffd" not in said:
        assert said == tokenizer.decode(ids)
    else:
        assert is_spoiled(said, tokenizer.decode(ids))


def is_spoiled(said: str, decoded: str) -> bool:
    """Whether a text is the other one with runs of bytes, of which one is broken, as U+FFFD for every byte."""
    pattern = "".join("\ufffd{1,3}" if letter == "\ufffd" else f"(?:{re.escape(letter)}|\ufffd+)" for letter in said)
    return re.fullmatch(pattern, decoded) is not None


@pytest.mark.parametrize("name", SPELLED)
@given(text=st.text("aé你😀", min_size=1, max_size=8))
@settings(max_examples=50)
def test_a_stream_never_shows_a_part_of_a_character(name: str, text: str) -> None:
    """Catches U+FFFD, or the wrong letter, for a character whose last byte is still to come."""
    said = pieces(name, byte_ids(name, text))
    assert "".join(said) == text
    assert all(piece in text and "\ufffd" not in piece for piece in said)


def test_a_byte_level_stream_says_a_character_with_its_last_byte() -> None:
    """Catches text that is held back for longer than it is uncertain."""
    assert pieces("byte_level", byte_ids("byte_level", "é😀a")) == ["", "é", "", "", "", "😀", "a", ""]


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_a_byte_token_is_said_as_soon_as_it_is_a_character(name: str) -> None:
    """Catches "\\n" held back until another token comes: a stop string is then seen too late (DecodeStream)."""
    run, after = byte_ids(name, "\n😀"), ids_of(name, "a")
    assert pieces(name, run + after) == ["\n", "", "", "", "😀", "a", ""]
    stream = decoders.DecodeStream(skip_special_tokens=True)
    backend = TOKENIZERS[name]._backend
    assert [stream.step(backend, i) or "" for i in run + after] == pieces(name, run + after)[:-1]


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_a_broken_byte_spoils_only_its_own_character(name: str) -> None:
    """Catches text that was shown and then changed: decode() turns the whole run to U+FFFD, llama.cpp does not."""
    run, after = byte_ids(name, "\n"), ids_of(name, "a")
    broken = ids_of(name, "<0xFF>")
    assert pieces(name, run + broken + after) == ["\n", "\ufffd", "a", ""]  # llama.cpp: b"\n\xffa"
    assert TOKENIZERS[name].decode(run + broken + after) == "\ufffd\ufffda"
    assert pieces(name, byte_ids(name, "😀")[:2] + after) == ["", "", "\ufffda", ""]


def test_broken_bytes_are_replaced_once_nothing_can_complete_them() -> None:
    """Catches a stream that falls silent for ever after a broken character."""
    first, *_ = byte_ids("byte_level", "😀")
    a = ids_of("byte_level", "a")
    assert pieces("byte_level", [first, *a, *a]) == ["", "\ufffda", "a", ""]
    assert pieces("byte_level", [first, first]) == ["", "\ufffd", "\ufffd"]


@pytest.mark.parametrize("name", SPELLED)
def test_special_tokens_do_not_divide_a_character(name: str) -> None:
    """Catches U+FFFD where the library, which skips special tokens before it decodes, finds a character."""
    special = ids_of(name, "<|end|>" if name == "byte_level" else "</s>")
    first, *rest = byte_ids(name, "你")
    assert "".join(pieces(name, [first, *special, *rest])) == "你"


def test_a_sentencepiece_text_begins_without_its_space() -> None:
    """Catches " Hello" as the first word shown, and a second space eaten with the first."""
    assert pieces("llama", ids_of("llama", "▁", "▁", "a", "▁", "a")) == ["", " ", "a", " ", "a", ""]
    assert pieces("gemma", ids_of("gemma", "▁", "a")) == [" ", "a", ""]


@pytest.mark.parametrize("byte_fallback", [True, False])
@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_a_metaspace_tokenizer_reads_its_own_text(scheme: str, byte_fallback: bool) -> None:
    """Catches the decoder that the library itself makes for SentencePiece models refused as something else."""
    tokenizer = metaspace(scheme, byte_fallback)
    ids = tokenizer.encode("ab ab")
    stream = tokenizer.stream()
    assert (tokenizer.decode(ids), "".join(map(stream.push, ids)) + stream.finish()) == ("ab ab", "ab ab")


def test_a_continuation_keeps_the_space_before_it() -> None:
    """Catches "helloworld": the first space of a SentencePiece text is taken off its beginning, not off an answer's."""
    the, spaces, begin = *ids_of("llama", "▁the"), *ids_of("llama", "▁▁▁▁"), *ids_of("llama", "<s>")
    assert continuation("llama", [the], [the]) == " the"  # llama.cpp, DecodeStream
    assert continuation("llama", [begin, the], [spaces]) == "    "
    assert continuation("llama", [begin], [the]) == "the"  # a prompt without text: transformers, DecodeStream
    assert continuation("llama", [], [the]) == "the"
    assert continuation("llama", ids_of("llama", "▁"), [the]) == " the"  # the prompt's own space is taken off
    assert continuation("gemma", ids_of("gemma", "a"), ids_of("gemma", "▁the")) == " the"


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
@settings(max_examples=50)
def test_prompt_and_continuation_are_the_decoded_text(name: str, data: st.DataObject) -> None:
    """Catches a join that loses or repeats text, for any prompt that ends with a whole character."""
    tokenizer = TOKENIZERS[name]
    prompt, answer = (tokenizer.encode(data.draw(st.text("ab  é你", max_size=6))) for _ in range(2))
    assert tokenizer.decode(prompt) + continuation(name, prompt, answer) == tokenizer.decode([*prompt, *answer])


@pytest.mark.parametrize("name", SPELLED)
def test_an_answer_completes_the_character_that_a_prompt_begins(name: str) -> None:
    """Catches U+FFFD for bytes whose beginning stands in the prompt (DecodeStream says 你, too)."""
    first, *rest = byte_ids(name, "你")
    assert continuation(name, [*ids_of(name, "a"), first], [*rest, *ids_of(name, "a")]) == "你a"


def continuation(name: str, prompt: list[int], answer: list[int]) -> str:
    """What a stream says to an answer after a prompt."""
    stream = TOKENIZERS[name].stream(prompt)
    return "".join([stream.push(i) for i in answer]) + stream.finish()


def test_an_added_token_stands_for_itself() -> None:
    """Catches letters of a token looked up as bytes although the vocabulary does not write it that way (two spaces)."""
    assert pieces("byte_level", ids_of("byte_level", "a", "  \t", "<tool>", "a")) == ["a", "  \t", "<tool>", "a", ""]


@pytest.mark.parametrize("name", SPELLED)
def test_streams_share_nothing(name: str) -> None:
    """Catches two answers of one batch that write into the same open character."""
    tokenizer = TOKENIZERS[name]
    first, second = tokenizer.stream(), tokenizer.stream()
    said: list[list[str]] = [[], []]
    for i, j in zip(byte_ids(name, "é你"), byte_ids(name, "你é"), strict=True):
        said[0].append(first.push(i))
        said[1].append(second.push(j))
    assert ["".join(said[0]) + first.finish(), "".join(said[1]) + second.finish()] == ["é你", "你é"]


def test_decode_takes_what_numpy_gives() -> None:
    """Catches a decoder that wants Python's own integers."""
    tokenizer = TOKENIZERS["byte_level"]
    ids = np.array(tokenizer.encode("Hello world"))
    assert tokenizer.decode(ids) == "Hello world"
    assert "".join(pieces("byte_level", list(ids))) == "Hello world"


@pytest.mark.parametrize("token_id", [-1, 2**32])
def test_an_impossible_id_is_a_value_error(token_id: int) -> None:
    """Catches the library's OverflowError."""
    with pytest.raises(ValueError, match="token id"):
        TOKENIZERS["llama"].decode([token_id])
    with pytest.raises(ValueError, match="token id"):
        TOKENIZERS["llama"].stream().push(token_id)


def test_text_that_is_not_unicode_is_a_value_error() -> None:
    """Catches the library's TypeError for what a shell passes on from a wrongly encoded argument."""
    with pytest.raises(ValueError, match="Unicode"):
        TOKENIZERS["llama"].encode("a\udce9")


def test_importing_is_light() -> None:
    """Catches an import that makes every start of the program wait for a library it may not need."""
    code = "import sys, tinyinfer.text.tokenizer; print({'tokenizers', 'jinja2', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


# Hugging Face folders


def write_folder(folder: Path, backend: Backend | None = None, **files: Any) -> Path:
    """A model folder with tokenizer.json and other files: JSON, or text as it is. Names have __ for the dot."""
    if backend is None:
        backend = Backend(models.BPE({"<s>": 0, "</s>": 1, "<pad>": 2, "a": 3, "b": 4}, []))
        backend.add_special_tokens(["<s>", "</s>"])
        backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def from_folder(folder: Path) -> Tokenizer:
    return Tokenizer(hf_vocab.read_vocabulary(str(folder)), str(folder))


def test_a_folder_needs_only_tokenizer_json(tmp_path: Path) -> None:
    """Catches a file that is optional required, and an invented chat template."""
    tokenizer = from_folder(write_folder(tmp_path))
    assert (tokenizer.encode("ab"), tokenizer.decode([0, 3, 4, 1]), tokenizer.vocab_size) == ([3, 4], "ab", 5)
    assert tokenizer.chat_template is None
    with pytest.raises(ValueError, match="no chat template; give a plain text"):
        tokenizer.render(HI)


@pytest.mark.parametrize("form", [str, lambda text: {"content": text, "lstrip": False}], ids=["text", "object"])
@pytest.mark.parametrize("place", ["tokenizer_config__json", "special_tokens_map__json"])
def test_special_tokens_stand_in_two_places_and_two_forms(tmp_path: Path, form: Any, place: str) -> None:
    """Catches a template without its BOS token because the file is older or newer than expected."""
    tokens = {"bos_token": form("<s>"), "eos_token": form("</s>")}
    template = {"chat_template__jinja": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"}
    assert from_folder(write_folder(tmp_path, **{place: tokens}, **template)).render(HI) == "<s>hi</s>"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config__json": {"chat_template": "config"}}, "config"),
        ({"tokenizer_config__json": {"chat_template": "config"}, "chat_template__jinja": "file"}, "file"),
        (
            {
                "tokenizer_config__json": {
                    "chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
                }
            },
            "d",
        ),
        ({"tokenizer_config__json": {"chat_template": [{"name": "tools", "template": "t"}]}}, None),
        ({"tokenizer_config__json": {"chat_template": None}}, None),
    ],
)
def test_where_a_chat_template_is_found(tmp_path: Path, files: dict[str, Any], expected: str | None) -> None:
    """Catches the wrong one of several templates, and a list taken for a template."""
    assert from_folder(write_folder(tmp_path, **files)).chat_template == expected


def test_line_ends_of_a_template_file_are_kept(tmp_path: Path) -> None:
    """Catches a file that is opened as lines of text: a carriage return inside is part of the prompt."""
    folder = write_folder(tmp_path)
    (folder / "chat_template.jinja").write_bytes(b"a\rb")
    assert from_folder(folder).chat_template == "a\rb"


def test_settings_of_training_are_left_out(tmp_path: Path) -> None:
    """Catches a prompt that is cut or padded because tokenizer.json says so."""
    folder = write_folder(tmp_path)
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(2)
    backend.enable_padding(length=8, pad_id=2, pad_token="<pad>")
    backend.save(str(folder / "tokenizer.json"))
    assert from_folder(folder).encode("abab") == [3, 4, 3, 4]


def test_a_token_named_special_in_the_configuration_is_not_shown(tmp_path: Path) -> None:
    """Catches "<pad>" at the end of every answer; a name that is no token becomes one, as in transformers."""
    config = {"eos_token": "<pad>", "bos_token": "<new>"}
    tokenizer = from_folder(write_folder(tmp_path, tokenizer_config__json=config))
    assert (tokenizer.encode("a<pad>"), tokenizer.decode([3, 2]), tokenizer.vocab_size) == ([3, 2], "a", 6)
    assert tokenizer.encode("<new>") == [5]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b""),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}'),
        ("tokenizer.json", b"[" * 100_000),
        ("tokenizer.json", b"\xff\xfe"),
        ("tokenizer_config.json", b'{"bos_token": '),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b"[" * 100_000),
        ("tokenizer_config.json", b"\xff"),
        ("tokenizer_config.json", b'{"bos_token": 3}'),
        ("tokenizer_config.json", b'{"eos_token": {"content": 3}}'),
        ("tokenizer_config.json", b'{"chat_template": 3}'),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "default", "template": 3}]}'),
        ("tokenizer_config.json", b'{"add_prefix_space": "yes"}'),
        ("special_tokens_map.json", b"nothing"),
        ("special_tokens_map.json", b'{"bos_token": ["<s>"]}'),
        ("chat_template.jinja", b"\xe9"),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_clear_line(tmp_path: Path, name: str, content: bytes) -> None:
    """Catches a traceback, or a message that names another file."""
    folder = write_folder(tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        from_folder(folder)
    assert str(caught.value).startswith(f"{folder / name}: ")
    assert "\n" not in str(caught.value)


def test_a_broken_template_names_its_file(tmp_path: Path) -> None:
    """Catches the folder blamed where the cure lies in one file of it."""
    folder = write_folder(tmp_path, chat_template__jinja="{% if %}")
    with pytest.raises(ModelError) as caught:
        from_folder(folder).render(HI)
    assert str(caught.value).startswith(f"{folder / 'chat_template.jinja'}: ")


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.WordPiece(),
        decoders.Sequence([decoders.Fuse(), decoders.Metaspace()]),
        decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " ")]),
        decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]),
        decoders.Sequence([decoders.Fuse(), decoders.Strip("_", 1, 0)]),
    ],
    ids=["wordpiece", "fused before", "order", "right", "underscore"],
)
def test_a_decoder_that_a_stream_cannot_follow_is_refused(tmp_path: Path, decoder: Any) -> None:
    """Catches a stream whose text silently differs from the decoded text."""
    backend = Backend(models.BPE({"a": 0}, []))
    backend.decoder = decoder
    with pytest.raises(ModelError, match="not supported"):
        from_folder(write_folder(tmp_path, backend))


# What stands before a text


@pytest.mark.parametrize(
    ("single", "expected"),
    [("<s> $A", [7]), ("<s> $A </s>", [7]), ("$A </s>", []), ("</s> <s> $A", [8, 7]), ("$A", []), (None, [])],
)
def test_the_beginning_is_what_encode_puts_before_every_text(single: str | None, expected: list[int]) -> None:
    """Catches an end token or a [SEP] that is taken for a beginning, and only the first of two tokens."""
    backend = Backend(models.BPE({"a": 0, "b": 1, "<s>": 7, "</s>": 8}, []))
    backend.add_special_tokens(["<s>", "</s>"])
    if single is not None:
        backend.post_processor = processors.TemplateProcessing(single, special_tokens=[("<s>", 7), ("</s>", 8)])
    tokenizer = Tokenizer(Vocabulary(backend), "beginning")
    assert tokenizer.beginning == expected
    assert tokenizer.encode("b")[: len(expected)] == expected
    assert Tokenizer(Vocabulary(backend, around=(8, 7)), "around").beginning == [8]


@pytest.mark.parametrize("letters", [["C", "G"], []])
def test_a_vocabulary_without_the_letter_a_has_the_same_beginning(letters: list[str]) -> None:
    """Catches <s> </s> before each window of a model of proteins or DNA, whose vocabulary drops other letters."""
    backend = Backend(models.BPE({letter: id for id, letter in enumerate(letters)}, []))
    backend.add_special_tokens(["<s>", "</s>"])
    begin, end = (backend.token_to_id(name) for name in ("<s>", "</s>"))
    special_tokens = [("<s>", begin), ("</s>", end)]
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=special_tokens)
    tokenizer = Tokenizer(Vocabulary(backend), "beginning")
    assert tokenizer.beginning == [begin]
    assert tokenizer.encode("".join(letters)) == [begin, *range(len(letters)), end]  # as the tokenizers library


# SmolLM2, the real one


@pytest.fixture(scope="module")
def smollm2_tokenizer(smollm2: Path) -> Tokenizer:
    from tinyinfer.loading.gguf import read_gguf

    return from_gguf(read_gguf(str(smollm2)).fields, str(smollm2))


SMOLLM2 = json.loads((GOLDEN / "smollm2_tokenizer.json").read_text(encoding="utf-8"))


@pytest.mark.weights
@pytest.mark.parametrize("case", SMOLLM2["texts"], ids=lambda case: ascii(case["text"])[:24])
def test_smollm2_ids(smollm2_tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    """Catches a difference on awkward text. transformers' GGUF reader forgets to split digits; its makers do not."""
    ids = case.get("split_digits", case["ids"])
    assert smollm2_tokenizer.encode(case["text"]) == ids
    stream = smollm2_tokenizer.stream()
    assert "".join([stream.push(i) for i in ids]) + stream.finish() == smollm2_tokenizer.decode(ids)


@pytest.mark.weights
@pytest.mark.parametrize("case", SMOLLM2["chats"], ids=range(len(SMOLLM2["chats"])))
def test_smollm2_chats(smollm2_tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    """Catches a prompt that differs from transformers': the default system prompt, spaces, special tokens of a user."""
    text = smollm2_tokenizer.render(case["messages"], case["add_generation_prompt"])
    assert text == case["text"]
    assert smollm2_tokenizer.encode(text, add_special_tokens=False) == case["ids"]


# The beginning token


def surrounded(single: str) -> Tokenizer:
    """A tokenizer that puts tokens around a text as `single` says; [L] is a control token, too, "a" is none."""
    backend = Backend(models.BPE({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "[L]": 4, "<": 5, "s": 6, ">": 7}, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>", "[L]"])
    around = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>", "[L]", "a")]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=around)
    return Tokenizer(Vocabulary(backend), "surrounded")


@pytest.mark.parametrize(
    ("single", "text", "ids"),
    [
        ("<s> $A", "ab", [0, 2, 3]),
        ("<s> $A", "<s>ab", [0, 2, 3]),  # transformers: 0, 0, 2, 3; llama.cpp: the same, and a warning
        ("<s> $A", "<s><s>a", [0, 0, 2]),  # who writes two wants two
        ("<s> $A", "<s>", [0]),
        ("<s> $A", "", [0]),
        ("<s> $A", "a<s>", [0, 2, 0]),
        ("<s> $A", "</s>a", [0, 1, 2]),
        ("$A", "<s>a", [0, 2]),
        ("$A </s>", "</s>a", [1, 2, 1]),
        ("<s> $A </s>", "<s>a", [0, 2, 1]),
        ("<s> $A </s>", "<s>", [0, 1]),
        ("<s> $A <s>", "", [0, 0]),
        ("<s> [L] $A", "<s>[L]a", [0, 4, 2]),
        ("<s> [L] $A", "<s>a", [0, 4, 0, 2]),  # another beginning than the tokenizer's
        ("<s> [L] $A", "[L]a", [0, 4, 4, 2]),
        ("a $A", "ab", [2, 2, 3]),  # the beginning token is ordinary text
    ],
)
def test_a_text_begins_once(single: str, text: str, ids: list[int]) -> None:
    """B14: a rendered conversation that is generated from. Catches a second beginning token, and one that is lost."""
    assert surrounded(single).encode(text) == ids


def test_tokens_of_the_text_alone_are_never_dropped() -> None:
    """Catches the rule at work where no token was added."""
    tokenizer = surrounded("<s> $A")
    assert tokenizer.encode("<s><s>a", add_special_tokens=False) == [0, 0, 2]
    assert tokenizer.beginning == [0]


@pytest.mark.parametrize("name", ["llama", "gemma", "byte_level"])
def test_a_gguf_text_begins_once(name: str) -> None:
    """Catches the rule for tokenizer.json alone: a GGUF says by a flag that a token stands before each text."""
    fields = VOCABULARIES[name]["fields"] | {"tokenizer.ggml.pre": "smollm", "tokenizer.ggml.add_bos_token": True}
    begin = "<|bos|>" if name == "byte_level" else "<s>"
    tokenizer = from_gguf(fields, "model.gguf")
    assert tokenizer.beginning == ids_of(name, begin)
    assert tokenizer.encode(f"{begin}Hello") == tokenizer.encode(f"{begin}Hello", add_special_tokens=False)
    assert tokenizer.encode(f"{begin}Hello").count(tokenizer.beginning[0]) == 1
