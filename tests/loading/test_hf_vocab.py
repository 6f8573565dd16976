"""Special tokens, first spaces and old forms of a Hugging Face folder; ids and texts are those of transformers 5.23."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from golden import write_hf_folder
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from tinyinfer import LLM
from tinyinfer.errors import ModelError
from tinyinfer.loading import hf_vocab, load
from tinyinfer.text.tokenizer import Tokenizer

HI = [{"role": "user", "content": "hi"}]
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())  # h is token 75, i is 76
BYTES = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", *LETTERS]  # 260 tokens
PIECES = ["<s>", "</s>", "<unk>", "▁", "h", "i", "hi", "▁hi"]
TEXT_END = "<|endoftext|>"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 269060552\n"


def byte_level(*added: AddedToken, post: Any = None) -> Backend:
    """A byte-level tokenizer whose tokenizer.json says only of these tokens that they are found in a text."""
    backend = Backend(models.BPE({token: i for i, token in enumerate(BYTES)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_tokens(list(added))
    if post:
        backend.post_processor = post
    return backend


def sentencepiece(post: Any = None, first: str = "prepend") -> Backend:
    """Llama 2's kind; first: what puts a space before a text: "prepend", "metaspace" (transformers 5) or "nothing"."""
    vocab = {token: i for i, token in enumerate(PIECES)}
    backend = Backend(
        models.BPE(vocab, [("h", "i"), ("▁", "hi")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.add_special_tokens(["<s>", "</s>", "<unk>"])
    if first == "metaspace":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        prepend = [normalizers.Prepend("▁")] * (first == "prepend")
        backend.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * (first != "nothing"))
    if post:
        backend.post_processor = post
    return backend


def bos_first() -> Any:
    return processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])


def write(folder: Path, backend: Backend | None = None, **files: Any) -> Path:
    """A folder with tokenizer.json, if there is a backend, and other files: JSON, or text as it is; __ is the dot."""
    if backend:
        backend.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def read(folder: Path) -> Tokenizer:
    return Tokenizer(hf_vocab.read_vocabulary(str(folder)), str(folder))


def token(content: str, **settings: bool) -> dict[str, Any]:
    """A token with its settings, as the small files write it."""
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {"content": content} | plain | settings


def config(**fields: Any) -> dict[str, Any]:
    return {"tokenizer_class": "PreTrainedTokenizerFast", **fields}


# Special tokens that only the small files name

MARKED = "<|im_start|>hi<|im_end|><tool>"
START, END, TOOL = "<|im_start|>", "<|im_end|>", "<tool>"
DECODER = {"260": token(TOOL, special=False), "3": token(END), "2": token(START)}
PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "added_tokens_decoder": ({"tokenizer_config__json": config(added_tokens_decoder=DECODER)}, "hi<tool>"),
    "additional_special_tokens": (
        {"tokenizer_config__json": config(additional_special_tokens=[START, END, TOOL])}, "hi"
    ),
    "extra_special_tokens": ({"tokenizer_config__json": config(extra_special_tokens=[START, END, TOOL])}, "hi"),
    "extra_special_tokens with names": (
        {"tokenizer_config__json": config(extra_special_tokens={"image_token": START, "x": END, "t": TOOL})}, "hi"
    ),
    "names": ({"tokenizer_config__json": config(pad_token=START, eos_token=END, unk_token=TOOL)}, "hi"),
    "a name of the model's own": (
        {"tokenizer_config__json": config(image_token=START, sep_token=END, mask_token=TOOL)}, "hi"
    ),
    "special_tokens_map.json": (
        {
            "tokenizer_config__json": config(),
            "special_tokens_map__json": {
                "pad_token": START, "eos_token": token(END), "additional_special_tokens": [TOOL]
            },
        },
        "hi",
    ),
    "added_tokens.json": (
        {
            "tokenizer_config__json": config(eos_token=END),
            "added_tokens__json": {TOOL: 260, END: 3, START: 2},
        },
        "<|im_start|>hi<tool>",
    ),
    "added_tokens.json and special_tokens_map.json": (  # as transformers 4; 5.23 shows <|im_start|>
        {
            "special_tokens_map__json": {"eos_token": END, "additional_special_tokens": [START]},
            "added_tokens__json": {START: 2, END: 3, TOOL: 260},
        },
        "hi<tool>",
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_special_tokens_that_only_a_small_file_names(tmp_path: Path, place: str) -> None:
    """Catches a marker of the chat format that falls to single bytes, and one shown in every answer."""
    files, shown = PLACES[place]
    tokenizer = read(write(tmp_path, byte_level(AddedToken("<s>", special=True)), **files))
    assert tokenizer.encode(MARKED, False) == [2, 75, 76, 3, 260]
    assert tokenizer.decode([2, 75, 76, 3, 260]) == shown
    stream = tokenizer.stream()
    assert "".join(map(stream.push, [2, 75, 76, 3, 260])) == shown


@pytest.mark.parametrize("place", PLACES)
def test_a_saved_tokenizer_has_the_same_special_tokens(tmp_path: Path, place: str) -> None:
    """Catches a quantized model that no longer knows its markers, or a template that no longer sees them."""
    files, shown = PLACES[place]
    names = "{{ eos_token }}{{ pad_token }}{{ image_token }}{{ x }}"
    tokenizer = read(write(tmp_path, byte_level(), chat_template__jinja=names, **files))
    (tmp_path / "saved").mkdir()
    tokenizer.save(str(tmp_path / "saved"))
    again = read(tmp_path / "saved")
    assert (again.encode(MARKED, False), again.decode([2, 75, 76, 3, 260])) == ([2, 75, 76, 3, 260], shown)
    assert again.end_token_ids == tokenizer.end_token_ids
    assert again.render(HI) == tokenizer.render(HI)


@pytest.mark.parametrize(
    ("added", "fields", "shown"),
    [
        (AddedToken(START, special=False), {"added_tokens_decoder": {"2": token(START)}}, "hi"),
        (AddedToken(START, special=True), {"added_tokens_decoder": {"2": token(START, special=False)}}, "hi"),
        (AddedToken(START, special=False), {"eos_token": START}, "hi"),
        (AddedToken(START, special=False), {"additional_special_tokens": [START]}, "<|im_start|>hi"),
        (AddedToken(START, special=False), {"eos_token": None, "extra_special_tokens": None}, "<|im_start|>hi"),
    ],
)
def test_files_that_disagree_on_what_is_special(
    tmp_path: Path, added: AddedToken, fields: dict[str, Any], shown: str
) -> None:
    """Catches a token that one way of decoding shows and another hides; decode and stream must agree, too."""
    tokenizer = read(write(tmp_path, byte_level(added), tokenizer_config__json=config(**fields)))
    assert tokenizer.encode("<|im_start|>hi") == [2, 75, 76]
    stream = tokenizer.stream()
    assert (tokenizer.decode([2, 75, 76]), "".join(map(stream.push, [2, 75, 76]))) == (shown, shown)


def test_settings_of_the_small_files_count(tmp_path: Path) -> None:
    """Catches <mask> that leaves the space before it in the prompt, and a name that overwrites tokenizer.json's."""
    spaced = AddedToken(END, lstrip=True, special=True)
    listed = config(added_tokens_decoder={"3": token(END, lstrip=True)})
    assert read(write(tmp_path, byte_level(), tokenizer_config__json=listed)).encode("h  <|im_end|>") == [75, 3]
    named = config(eos_token=END)
    assert read(write(tmp_path, byte_level(spaced), tokenizer_config__json=named)).encode("h  <|im_end|>") == [75, 3]
    plain = config(added_tokens_decoder={"3": token(END)})
    ids = read(write(tmp_path, byte_level(spaced), tokenizer_config__json=plain)).encode("h  <|im_end|>")
    assert ids == [75, 224, 224, 3]


def test_new_tokens_get_the_next_ids_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Catches the file's ids taken where the vocabulary has no such rows, and an order that another tool changed."""
    fields = config(added_tokens_decoder={"500": token("<b>"), "300": token("<a>")}, pad_token="[PAD]")
    tokenizer = read(write(tmp_path, byte_level(), tokenizer_config__json=fields))
    assert tokenizer.encode("<a><b>[PAD]") == [260, 261, 262]


def test_names_are_given_ids_in_one_order(tmp_path: Path) -> None:
    """Catches ids that depend on which file names a token: bos, eos, unk, sep, pad, cls, mask, then the model's own."""
    files = {
        "tokenizer_config__json": config(mask_token="<m>", image_token="<i>", additional_special_tokens=["<z>"]),
        "special_tokens_map__json": {"pad_token": "<p>", "bos_token": "<b>"},
    }
    assert read(write(tmp_path, byte_level(), **files)).encode("<b><p><m><i><z>") == [260, 261, 262, 263, 264]


def test_the_newest_list_of_special_tokens_counts(tmp_path: Path) -> None:
    """Catches an older list read beside a newer one, and an empty list that hides the older file's."""
    both = config(extra_special_tokens=[END], additional_special_tokens=[START])
    files = {"special_tokens_map__json": {"additional_special_tokens": ["</s>"]}}
    assert read(write(tmp_path, byte_level(), tokenizer_config__json=both, **files)).decode([2, 3, 1]) == START + "</s>"
    names = config(extra_special_tokens={"x": START}, additional_special_tokens=[])
    assert read(write(tmp_path, byte_level(), tokenizer_config__json=names, **files)).decode([2, 3, 1]) == END


def test_older_files_are_read_over_tokenizer_config_unless_it_lists_all_tokens(tmp_path: Path) -> None:
    """Catches an end token of a file that transformers does not read, or the base model's in place of a fine-tune's."""
    files = {"special_tokens_map__json": {"eos_token": END}, "chat_template__jinja": "{{ eos_token }}"}
    over = read(write(tmp_path, byte_level(), tokenizer_config__json=config(eos_token="</s>"), **files))
    assert over.render(HI) == END
    listed = config(eos_token="</s>", added_tokens_decoder={})
    assert read(write(tmp_path, byte_level(), tokenizer_config__json=listed, **files)).render(HI) == "</s>"


@pytest.mark.parametrize(
    ("model_type", "fields", "names"),
    [
        ("gpt2", {"model_max_length": 1024}, [TEXT_END, TEXT_END, TEXT_END, ""]),
        ("llama", {"tokenizer_class": "GPT2TokenizerFast", "eos_token": "<|x|>"}, [TEXT_END, "<|x|>", TEXT_END, ""]),
        ("qwen2", {"bos_token": None}, ["", TEXT_END, TEXT_END, TEXT_END]),
        ("qwen3", {"pad_token": None, "eos_token": None}, ["", "", TEXT_END, ""]),
        ("llama", {"tokenizer_class": "LlamaTokenizer"}, ["<s>", "</s>", "<unk>", ""]),
        ("llama", {"tokenizer_class": "PreTrainedTokenizerFast"}, ["", "", "", ""]),
    ],
)
def test_a_class_has_names_that_a_folder_need_not_say(
    tmp_path: Path, model_type: str, fields: dict[str, Any], names: list[str]
) -> None:
    """Catches templates without eos_token for GPT-2's own folder; the names are those of transformers 5.23."""
    backend = byte_level(*(AddedToken(text, special=True) for text in (TEXT_END, "<s>", "</s>", "<unk>")))
    template = "{{ bos_token }},{{ eos_token }},{{ unk_token }},{{ pad_token }}"
    files = {"config__json": {"model_type": model_type}, "tokenizer_config__json": fields}
    tokenizer = read(write(tmp_path, backend, chat_template__jinja=template, **files))
    assert tokenizer.render(HI).split(",") == names
    assert len(tokenizer.end_token_ids) == bool(names[1])


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({}, "old"),
        ({"chat_template__jinja": "new"}, "new"),
        ({"tokenizer_config__json": {"chat_template": "own"}}, "own"),
    ],
)
def test_a_template_in_the_processors_old_file(tmp_path: Path, files: dict[str, Any], text: str) -> None:
    """Catches a LLaVA or SmolVLM without its chat template: transformers' processors write it to chat_template.json."""
    files["chat_template__json"] = {"chat_template": "old"}
    assert read(write(tmp_path, byte_level(), **files)).render(HI) == text


def test_a_broken_template_file_is_named(tmp_path: Path) -> None:
    """Catches tokenizer_config.json blamed for a template of another file."""
    with pytest.raises(ModelError, match=r"chat_template\.json: chat_template must be a string"):
        read(write(tmp_path, byte_level(), chat_template__json={"chat_template": 5}))


def test_a_template_sees_every_special_token_that_has_a_name(tmp_path: Path) -> None:
    """Catches an empty pad_token, unk_token or image_token in the prompt."""
    template = "{{ bos_token }}{{ unk_token }}{{ pad_token }}{{ image_token }}{{ x }}{{ messages[0].content }}"
    names = config(bos_token="<s>", unk_token=token("</s>"), pad_token=START, image_token=END)
    tokenizer = read(
        write(tmp_path, byte_level(), tokenizer_config__json=names | {"extra_special_tokens": {"x": "<s>"}},
              chat_template__jinja=template)
    )  # fmt: skip
    assert tokenizer.render(HI) == "<s></s><|im_start|><|im_end|><s>hi"


def test_a_token_without_a_row_in_the_model_is_refused_before_it_runs(tmp_path: Path) -> None:
    """Catches an index error of the embedding: the golden model has 277 rows, six of them past its vocabulary."""
    folder = write_hf_folder("llama", tmp_path)
    fields = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    fields["additional_special_tokens"] = [f"<{i}>" for i in range(10)]
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    llm = LLM(str(folder))
    assert llm.tokenizer.encode("<5><6>", False) == [276, 277]
    with pytest.raises(ValueError, match=r"token id 277 is outside the vocabulary of 277; .* name the model whose"):
        llm.generate("<6>")
    with pytest.raises(ValueError, match=r"token id 281 is outside the vocabulary of 277$"):
        llm.generate([281])  # which the tokenizer does not know, either


# End tokens


def test_a_text_ends_with_the_end_token_of_any_file(tmp_path: Path) -> None:
    """Catches a fine-tune that never ends its turn: both configurations name the base model's end (vLLM joins)."""
    folder = write_hf_folder("qwen2", tmp_path, changes={"eos_token_id": 0})
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7]}))
    assert load(str(folder)).config.eos_token_ids == (0, 7, 2)  # <|im_end|>, the tokenizer's, is 2
    fields = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(fields | {"eos_token": None}))
    assert load(str(folder)).config.eos_token_ids == (0, 7)


# What stands around a text

FLAGS: list[dict[str, bool]] = [{}, {"add_bos_token": True}, {"add_bos_token": False}, {"add_eos_token": True}]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize(
    ("kind", "spelled", "post", "ids"),
    [
        ("PreTrainedTokenizerFast", "bytes", bos_first, [0, 75, 76]),  # Llama 3
        ("PreTrainedTokenizerFast", "bytes", None, [75, 76]),
        ("PreTrainedTokenizerFast", "bytes", processors.ByteLevel, [75, 76]),
        ("Qwen2Tokenizer", "bytes", processors.ByteLevel, [75, 76]),  # Qwen 2, 2.5 and 3
        ("Qwen2Tokenizer", "bytes", bos_first, [0, 75, 76]),
        ("GPT2Tokenizer", "bytes", processors.ByteLevel, [75, 76]),  # GPT-2, SmolLM2
        ("GPT2TokenizerFast", "bytes", None, [75, 76]),
        ("LlamaTokenizer", "pieces", bos_first, [0, 7]),  # Llama 2, TinyLlama, Mistral
        ("LlamaTokenizerFast", "pieces", bos_first, [0, 7]),
        ("GemmaTokenizer", "gemma", bos_first, [0, 6]),
        (None, "bytes", bos_first, [0, 75, 76]),
    ],
)
def test_tokenizer_json_decides_what_stands_around_a_text(
    tmp_path: Path, kind: str | None, spelled: str, post: Any, ids: list[int], flags: dict[str, bool]
) -> None:
    """Catches a prompt that loses its BOS, or gets an EOS, by flags that the class does not know (5.23: none does)."""
    post = post and post()
    kinds = {"bytes": byte_level(post=post), "pieces": sentencepiece(post), "gemma": sentencepiece(post, "nothing")}
    fields = {"tokenizer_class": kind, "bos_token": "<s>", "eos_token": "</s>"} | flags
    assert read(write(tmp_path, kinds[spelled], tokenizer_config__json=fields)).encode("hi") == ids


@pytest.mark.parametrize(
    ("flags", "ids"),
    [({}, [7]), ({"add_bos_token": True}, [0, 7]), ({"add_bos_token": True, "add_eos_token": True}, [0, 7, 1])],
)
@pytest.mark.parametrize("kind", ["LlamaTokenizer", "GemmaTokenizerFast"])
def test_flags_count_where_tokenizer_json_is_silent(
    tmp_path: Path, kind: str, flags: dict[str, bool], ids: list[int]
) -> None:
    """Catches a Llama or Gemma without its BOS: transformers 4.57 and llama.cpp's converter obey, 5.23 does not."""
    fields = {"tokenizer_class": kind, "bos_token": "<s>", "eos_token": "</s>"} | flags
    assert read(write(tmp_path, sentencepiece(), tokenizer_config__json=fields)).encode("hi") == ids


# The space before a text


@pytest.mark.parametrize(
    ("kind", "backend", "space", "ids"),
    [
        ("GPT2Tokenizer", byte_level, True, [224, 75, 76]),
        ("GPT2Tokenizer", byte_level, False, [75, 76]),
        ("Qwen2Tokenizer", byte_level, True, [224, 75, 76]),
        ("PreTrainedTokenizerFast", byte_level, True, [75, 76]),
        ("LlamaTokenizer", byte_level, False, [75, 76]),
        ("LlamaTokenizer", sentencepiece, True, [7]),
        ("LlamaTokenizer", sentencepiece, None, [7]),
        ("LlamaTokenizer", sentencepiece, False, [6]),
        ("LlamaTokenizer", lambda: sentencepiece(first="metaspace"), False, [6]),
    ],
)
def test_add_prefix_space(tmp_path: Path, kind: str, backend: Any, space: bool | None, ids: list[int]) -> None:
    """Catches "hi" without the space that the model was trained with, and a space that the model never saw."""
    fields = {"tokenizer_class": kind, "add_prefix_space": space}
    tokenizer = read(write(tmp_path, backend(), tokenizer_config__json=fields))
    assert tokenizer.encode("hi") == ids


def test_without_a_prefix_space_a_text_keeps_its_own(tmp_path: Path) -> None:
    """Catches the first space taken off a text of a model that never adds one."""
    fields = {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False}
    assert read(write(tmp_path, sentencepiece(), tokenizer_config__json=fields)).decode([7]) == " hi"


# Folders without tokenizer.json

OLD = [*LETTERS, "hi", "12", "!Ċ", "<|endoftext|>"]  # 256 letters; hi is 256, 12 is 257, "!\n" is 258
MERGES = "#version: 0.2\nh i\n1 2\n! Ċ\n"


def write_old(folder: Path, model_type: str | None, **fields: Any) -> Path:
    """A folder from before tokenizer.json: vocab.json and merges.txt."""
    more = {"config__json": {"model_type": model_type}} if model_type else {}
    vocab = {text: i for i, text in enumerate(OLD)}
    return write(folder, vocab__json=vocab, merges__txt=MERGES, tokenizer_config__json=fields, **more)


@pytest.mark.parametrize(
    ("model_type", "fields", "ids"),
    [
        (None, {"tokenizer_class": "GPT2Tokenizer"}, [256, 257, 0, 198, 198, 259]),
        ("gpt2", {}, [256, 257, 0, 198, 198, 259]),
        ("llama", {"tokenizer_class": "GPT2TokenizerFast"}, [256, 257, 0, 198, 198, 259]),
        ("gpt2", {"add_bos_token": True}, [259, 256, 257, 0, 198, 198, 259]),
        ("gpt2", {"bos_token": "<x>", "add_bos_token": True, "add_eos_token": True},
         [260, 256, 257, 0, 198, 198, 259, 259]),
        ("gpt2", {"add_prefix_space": True}, [220, 256, 257, 0, 198, 198, 259]),
        (None, {"tokenizer_class": "Qwen2Tokenizer"}, [256, 16, 17, 258, 198, 259]),
        ("qwen3", {}, [256, 16, 17, 258, 198, 259]),
        ("qwen2_moe", {}, [256, 16, 17, 258, 198, 259]),
    ],
)  # fmt: skip
def test_vocab_json_and_merges_txt(
    tmp_path: Path, model_type: str | None, fields: dict[str, Any], ids: list[int]
) -> None:
    """Catches GPT-2's own first files refused, another family's rule for words, and <|endoftext|> shown."""
    tokenizer = read(write_old(tmp_path, model_type, **fields))
    assert tokenizer.encode("hi12!\n\n<|endoftext|>") == ids
    assert tokenizer.decode(ids).strip() == "hi12!"


def test_special_tokens_of_a_folder_without_tokenizer_json(tmp_path: Path) -> None:
    """Catches Qwen's markers, which its vocab.json leaves out, and a text in another Unicode form."""
    added = {"400": token(END), "300": token(START)}
    tokenizer = read(write_old(tmp_path, "qwen2", eos_token=END, added_tokens_decoder=added))
    assert tokenizer.encode("<|im_start|>hi<|im_end|>") == [260, 256, 261]
    assert tokenizer.end_token_ids == (261,)
    assert tokenizer.encode("e\u0301") == tokenizer.encode("é")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no tokenizer.json, which a model folder needs; download it too$"),
        (
            {"tokenizer__model": "x"},
            r"make it from tokenizer\.model with transformers and sentencepiece: AutoTokenizer",
        ),
        ({"vocab__json": {"a": 0}}, r"make it from vocab\.json with transformers"),
        ({"vocab__json": {"a": 0}, "merges__txt": ""}, r"make it from vocab\.json with transformers"),  # whose class?
        ({"vocab__json": "{", "merges__txt": "", "config__json": {"model_type": "gpt2"}}, r"vocab\.json: is not"),
        ({"vocab__json": {"a": 0}, "merges__txt": "a b c", "config__json": {"model_type": "gpt2"}}, r"vocab\.json: is"),
    ],
)
def test_a_folder_without_a_vocabulary_that_can_be_read(tmp_path: Path, files: dict[str, Any], said: str) -> None:
    """Catches "needs its tokenizer.json" without a word on how to get one."""
    with pytest.raises(ModelError, match=said) as caught:
        read(write(tmp_path, **files))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"],
)
def test_a_pointer_in_place_of_a_file(tmp_path: Path, name: str) -> None:
    """Catches "is not a tokenizer (expected value at line 1)" of a clone without Git LFS."""
    write(tmp_path, byte_level())
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(ModelError, match=rf"{name}: is a Git LFS pointer, .*; run `git lfs pull`"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_pointer_in_place_of_an_old_file(tmp_path: Path, name: str) -> None:
    """Catches a broken vocabulary blamed where none was fetched."""
    write_old(tmp_path, "gpt2")
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(ModelError, match=rf"{name}: is a Git LFS pointer"):
        read(tmp_path)


# Broken files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", {"pad_token": "\ud800"}),
        ("tokenizer_config.json", {"added_tokens_decoder": ["<a>"]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": token("<a>")}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"3": "<a>"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"3": {"content": "<a>", "lstrip": "no"}}}),
        ("tokenizer_config.json", {"additional_special_tokens": "<a>"}),
        ("tokenizer_config.json", {"extra_special_tokens": [3]}),
        ("tokenizer_config.json", {"extra_special_tokens": {"x": ["<a>"]}}),
        ("tokenizer_config.json", {"add_prefix_space": "yes"}),
        ("special_tokens_map.json", {"mask_token": 3}),
        ("added_tokens.json", {"<a>": "3"}),
        ("added_tokens.json", {"\ud800": 3}),
    ],
    ids=str,
)
def test_a_broken_value_is_one_clear_line(tmp_path: Path, name: str, content: dict[str, Any]) -> None:
    """Catches the library's TypeError or UnicodeEncodeError, which names no file."""
    write(tmp_path, byte_level())
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ModelError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


def test_padding_of_training_is_left_out_before_the_first_use(tmp_path: Path) -> None:
    """Catches 4 TB asked for by the encoding of one letter, which ends the interpreter."""
    fields = json.loads(byte_level().to_str())
    fields["padding"] = {
        "strategy": {"Fixed": 2**40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "x",
    }  # fmt: skip
    folder = write(tmp_path, tokenizer__json=fields)
    code = "import sys; from tinyinfer.loading.hf_vocab import read_vocabulary; read_vocabulary(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=60)


def test_a_folder_whose_name_is_not_unicode(tmp_path: Path) -> None:
    """Catches the library's own opening of files, which cannot spell such a path."""
    folder = tmp_path / "a\udce9"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    backend = byte_level()
    (folder / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    assert read(folder).encode("hi") == [75, 76]
