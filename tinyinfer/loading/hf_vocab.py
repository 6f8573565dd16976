"""A Hugging Face folder -> its tokenizer: tokenizer.json, and the small files beside it.

tokenizer.json says how text is split and merged, and what stands before and after it. Folders from before 2020 have
vocab.json and merges.txt in its place; the rule that splits their text then follows from the tokenizer's class. Special
tokens (hf_tokens.py) and the chat template are in other files, depending on the age of the folder; each of these may be
missing. All are read as transformers 5.23 reads them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tinyinfer.errors import ModelError
from tinyinfer.loading.hf_growth import check_growth, check_pieces, check_steps
from tinyinfer.loading.hf_tokens import read_small, read_special_tokens
from tinyinfer.loading.small_files import check_values, folder_size, read_whole
from tinyinfer.loading.split_rules import SPLIT_RULES, split_words
from tinyinfer.text.tokenizer import Vocabulary
from tinyinfer.units import show

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

CLASSES = {"gpt2": "GPT2Tokenizer"} | dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), "Qwen2Tokenizer")
END = "<|endoftext|>"
NAMES = {  # by class: the special tokens that a folder need not name
    "GPT2Tokenizer": {"bos_token": END, "eos_token": END, "unk_token": END},
    "Qwen2Tokenizer": {"eos_token": END, "unk_token": END, "pad_token": END},
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "GemmaTokenizer": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
}
# The classes that split text by a rule of their own, and its name in split_rules.py.
MERGED = {"GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}
SENTENCEPIECE = ("LlamaTokenizer", "GemmaTokenizer")


def read_vocabulary(folder: str) -> Vocabulary:
    """The tokenizer of a model folder.

    Raises ModelError when there is neither tokenizer.json nor vocab.json and merges.txt, or when a file is broken.
    """
    config = _Config(folder)
    path = os.path.join(folder, "tokenizer.json")
    whole = os.path.exists(path)
    backend = _read_backend(path, folder_size(folder)) if whole else _read_merges(config)
    if (space := config.flag("add_prefix_space")) is not None:
        _set_prefix_space(backend, config.kind, space)
    names = NAMES.get(config.kind, {})
    if whole:
        known = {token.content for token in backend.get_added_tokens_decoder().values()}
        names = {name: token for name, token in names.items() if token in known}
    tokens = read_special_tokens(folder, names | config.values)
    tokens.add_to(backend)
    # transformers 5.23 ignores add_bos_token and add_eos_token beside tokenizer.json. They count here, as in 4.57 and
    # in llama.cpp's converter, where tokenizer.json is silent and the class knows them: a model that was trained with
    # BOS is much worse without it.
    silent = backend.post_processor is None and (not whole or config.kind in SENTENCEPIECE)
    around = config.around(backend, tokens.names()) if silent else None
    template, source = config.chat_template()
    return Vocabulary(backend, tokens.names(), around, template, source)


def _read_backend(path: str, size: int) -> Backend:
    """The library's tokenizer in a tokenizer.json; size: bytes of the whole model, which its values must suit."""
    from tokenizers import Tokenizer as Backend

    data = read_whole(path)
    check_values(data, path, size)
    check_steps(path, data)
    check_pieces(path, data, size)
    try:
        backend = Backend.from_buffer(data)
        backend.no_truncation()  # settings of training, which some files still hold
        backend.no_padding()
        check_growth(path, backend)
        backend.encode("a")  # some faults show only on use
        return backend
    except (KeyboardInterrupt, SystemExit, ModelError):
        raise
    except BaseException as error:  # the library raises bare Exceptions, and its panics are not even those
        raise _broken(path, "a tokenizer", error) from error


def _read_merges(config: _Config) -> Backend:
    """The byte-level tokenizer of a folder that has vocab.json and merges.txt in place of tokenizer.json."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    vocab, merges = config.file("vocab.json"), config.file("merges.txt")
    if not os.path.isfile(vocab) or not os.path.isfile(merges) or config.kind not in MERGED:
        raise ModelError(f"{config.folder}: has no tokenizer.json, which a model folder needs; {_cure(config)}")
    check_values(read_whole(vocab), vocab, folder_size(config.folder))
    check_values(read_whole(merges), merges, folder_size(config.folder), (b" ", b"\n"))
    try:
        backend = Backend(models.BPE(*models.BPE.read_file(vocab, merges)))
    except Exception as error:
        raise _broken(vocab, "with merges.txt beside it, a vocabulary", error) from error
    split_words(backend, SPLIT_RULES[MERGED[config.kind]])
    return backend


def _cure(config: _Config) -> str:
    """How the tokenizer.json that a folder lacks is made from what the folder has."""
    found = [name for name in ("tokenizer.model", "vocab.json", "vocab.txt") if os.path.exists(config.file(name))]
    if not found:
        return "download it too"
    tools = "transformers and sentencepiece" if found[0] == "tokenizer.model" else "transformers"
    return f"make it from {found[0]} with {tools}: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"


def _broken(path: str, what: str, error: BaseException) -> ModelError:
    reason = " ".join(str(error).split())[:200]
    return ModelError(f"{path}: is not {what} ({reason}); download the file again")


def _set_prefix_space(backend: Backend, kind: str, space: bool) -> None:
    """Whether a text begins with a space, for the classes in which tokenizer_config.json overrules tokenizer.json."""
    if kind in MERGED:
        backend.pre_tokenizer = _edited(backend.pre_tokenizer, {"ByteLevel": {"add_prefix_space": space}})
    elif kind == "LlamaTokenizer" and not space:
        never = {"Metaspace": {"prepend_scheme": "never"}}
        backend.normalizer = _edited(backend.normalizer, {"Prepend": None})
        backend.pre_tokenizer = _edited(backend.pre_tokenizer, never)
        backend.decoder = _edited(backend.decoder, never | {"Strip": None})


def _edited(component: Any, changes: Mapping[str, Mapping[str, Any] | None]) -> Any:
    """A part of the library's tokenizer with other settings for its steps of these types; None: without such a step."""
    if component is None:
        return None
    state = json.loads(component.__getstate__())
    key = next((name for name in ("normalizers", "pretokenizers", "decoders") if name in state), "")
    kept = [step for step in state.get(key, [state]) if changes.get(step["type"], {}) is not None]
    steps = [{**step, **(changes.get(step["type"]) or {})} for step in kept]
    if not steps:
        return None
    component.__setstate__(json.dumps(state | {key: steps} if key else steps[0]).encode())
    return component


class _Config:
    """The small files beside tokenizer.json; each may be missing. Raises ModelError for a value of the wrong type."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = self.file("tokenizer_config.json")
        self.values = read_small(self.path)

    def file(self, name: str) -> str:
        return os.path.join(self.folder, name)

    @cached_property
    def kind(self) -> str:
        """The tokenizer's class, as either configuration names it, or as follows from the kind of model."""
        model = read_small(self.file("config.json"))
        named = self.values.get("tokenizer_class") or model.get("tokenizer_class")
        return str(named or CLASSES.get(str(model.get("model_type")))).removesuffix("Fast")

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise ModelError(f"{self.path}: {key} is {show(value)}; it must be true or false")
        return value

    def around(self, backend: Backend, names: dict[str, str]) -> tuple[int | None, int | None]:
        """The ids before and after a text, by the flags of tokenizer_config.json."""
        before, after = (
            backend.token_to_id(names[f"{name}_token"])
            if self.flag(f"add_{name}_token") and f"{name}_token" in names
            else None
            for name in ("bos", "eos")
        )
        return before, after

    def chat_template(self) -> tuple[str | None, str]:
        """The chat template and the file that holds it: chat_template.jinja, else tokenizer_config.json.

        Where neither has one, chat_template.json, which older models that also read images have (LLaVA, SmolVLM).
        """
        path = self.file("chat_template.jinja")
        if os.path.exists(path):
            return _read_text(path), path
        path, template = self.path, self.values.get("chat_template")
        if template is None:
            path = self.file("chat_template.json")
            template = read_small(path).get("chat_template")
        if isinstance(template, list):  # several, each {"name": ..., "template": ...}
            named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
            template = named[0].get("template") if named else None
        if template is not None and not isinstance(template, str):
            raise ModelError(f"{path}: chat_template must be a string or a list of named ones")
        return template, path


def _read_text(path: str) -> str:
    try:
        return read_whole(path).decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: cannot be read as text ({error}); download the file again") from error
