"""The special tokens of a Hugging Face folder, from the small files beside tokenizer.json.

A special token is found in a text before the text is split, and is no text itself. tokenizer.json lists such tokens,
but files of many ages and tools list them elsewhere only, and a token that is missed falls to single bytes:

    tokenizer_config.json     added_tokens_decoder (id -> settings); names such as eos_token; extra_special_tokens,
                              which was additional_special_tokens before transformers 5
    special_tokens_map.json   names and additional tokens again } in folders
    added_tokens.json         token -> id                       } without added_tokens_decoder

The files are read as in transformers 5.23; where they contradict each other, what any of them calls special, and what
has a name, is special. A token that the vocabulary lacks gets the next id past it; where the model has no such row, a
prompt with that token is refused before it runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyinfer.errors import ModelError
from tinyinfer.loading.json_fields import read_json
from tinyinfer.loading.small_files import check_added, folder_size
from tinyinfer.units import show

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

STANDARD = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FLAGS = ("add_bos_token", "add_eos_token")
SETTINGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

Token = dict[str, Any]  # content, and those of SETTINGS that the file gives
Source = tuple[str, dict[str, Any]]  # a file's path and what it holds


@dataclass(frozen=True)
class SpecialTokens:
    """What the small files say. listed: tokens with their own settings, special or not, by id.

    named: by the name that a chat template knows (bos_token, ...). more: special tokens without a name.
    """

    named: dict[str, Token] = field(default_factory=dict)
    listed: list[Token] = field(default_factory=list)
    more: list[Token] = field(default_factory=list)

    def names(self) -> dict[str, str]:
        """The tokens that have a name, by their names."""
        return {name: token["content"] for name, token in self.named.items()}

    def add_to(self, backend: Backend) -> None:
        """Lets the tokenizer find these tokens in a text; what any file calls special stays special."""
        from tokenizers import AddedToken

        known = {token.content: token.__getstate__() for token in backend.get_added_tokens_decoder().values()}
        special = {token["content"] for token in self.named.values()}
        special |= {token["content"] for token in (*known.values(), *self.listed) if token["special"]}
        new = {token["content"]: known.get(token["content"], {}) | token for token in self.listed}
        for token in self.named.values():  # a name says nothing of the settings that tokenizer.json gives
            new.setdefault(token["content"], known.get(token["content"], token))
        for token in self.more:
            if token["content"] not in known:
                new.setdefault(token["content"], token)
        marked = [token | {"special": token.get("special", True) or text in special} for text, token in new.items()]
        backend.add_tokens([AddedToken(**token) for token in marked if token != known.get(token["content"])])


def read_special_tokens(folder: str, config: dict[str, Any]) -> SpecialTokens:
    """The special tokens that a folder's tokenizer_config.json (`config`) and the older files beside it name.

    Raises ModelError, naming file and field, for a value of the wrong type, and for more tokens than models have.
    """
    sources = [(os.path.join(folder, "tokenizer_config.json"), config)]
    _check_count(folder, *sources[0])
    if config.get("added_tokens_decoder") is not None:
        listed = _decoder(sources[0][0], config["added_tokens_decoder"])
        return SpecialTokens(_named(sources), listed, _more(sources))
    path = os.path.join(folder, "special_tokens_map.json")
    sources.append((path, read_small(path)))
    _check_count(folder, *sources[1])
    named, more = _named(sources), _more(sources)
    special = {token["content"] for token in (*named.values(), *more)}
    return SpecialTokens(named, _added(os.path.join(folder, "added_tokens.json"), special), more)


def read_small(path: str) -> dict[str, Any]:
    """The object in a small JSON file; an empty one if there is no such file. Raises ModelError for a broken file."""
    if not os.path.exists(path):
        return {}
    return read_json(Path(path))


def _check_count(folder: str, path: str, fields: dict[str, Any]) -> None:
    """Raises ModelError when a file lists more tokens than a model of this size has; nothing is made of them before."""
    listed = sum(len(value) for value in fields.values() if isinstance(value, list | dict))
    check_added(len(fields) + listed, path, folder_size(folder))


def _named(sources: list[Source]) -> dict[str, Token]:
    """The tokens with a name; a later file overrules an earlier one."""
    named: dict[str, Token] = {}
    for path, fields in sources:
        own = [key for key, value in fields.items() if key.endswith("_token") and isinstance(value, str)]
        keys = [*STANDARD, *(key for key in own if key not in (*STANDARD, *FLAGS))]
        named |= {key: _token(path, key, fields[key]) for key in keys if fields.get(key) is not None}
        for key, tokens in _lists(path, fields):
            if isinstance(tokens, dict):
                named |= {name: _token(path, key, value) for name, value in tokens.items()}
    return {key: named[key] for key in (*STANDARD, *named) if key in named}  # in the order in which new ones get ids


def _more(sources: list[Source]) -> list[Token]:
    """The special tokens without a name: the first list that is not empty, the newest form and file first."""
    for path, fields in sources:
        for key, tokens in _lists(path, fields):
            if isinstance(tokens, list) and tokens:
                return [_token(path, key, value) for value in tokens]
    return []


def _lists(path: str, fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of a file that hold several tokens: a list, or an object of names and tokens."""
    for key in ("extra_special_tokens", "additional_special_tokens"):
        tokens = fields.get(key)
        if not isinstance(tokens, list | dict | None):
            raise ModelError(f"{path}: {key} is {show(tokens)}; it must be a list or an object of tokens")
        yield key, tokens


def _decoder(path: str, table: Any) -> list[Token]:
    """The tokens of added_tokens_decoder, in the order of their ids."""
    if not isinstance(table, dict) or not all(key.isdecimal() and isinstance(table[key], dict) for key in table):
        raise ModelError(f"{path}: added_tokens_decoder is no object of ids and tokens; download the file again")
    # Tokens listed there without the setting are not special, as the library's own class has it.
    tokens = {int(key): {"special": False} | _token(path, "added_tokens_decoder", table[key]) for key in table}
    return [tokens[id] for id in sorted(tokens)]


def _added(path: str, special: set[str]) -> list[Token]:
    """The tokens of added_tokens.json in the order of their ids; special are those that another file calls so."""
    ids = read_small(path)
    _check_count(os.path.dirname(path), path, ids)
    if not all(isinstance(id, int) for id in ids.values()):
        raise ModelError(f"{path}: is no object of tokens and their ids; download the file again")
    tokens = [_token(path, "a token", text) for text in sorted(ids, key=ids.__getitem__)]
    return [token | {"special": token["content"] in special} for token in tokens]


def _token(path: str, key: str, value: Any) -> Token:
    """One token, which a file gives as a string or as an object with its settings."""
    token = {"content": value} if isinstance(value, str) else value
    if not isinstance(token, dict) or not isinstance(token.get("content"), str):
        raise ModelError(f"{path}: {key} must be a string or have a string as its content")
    token = {name: token[name] for name in ("content", *SETTINGS) if name in token}
    for fault in _faults(token):
        raise ModelError(f"{path}: {key} {fault}; download the file again")
    return token


def _faults(token: Token) -> Iterator[str]:
    """What makes a token unusable; the library would raise exceptions that name no file."""
    try:
        token["content"].encode()
    except UnicodeEncodeError:
        yield "is not valid Unicode"
    yield from (
        f"has {show(token[name])} as its {name}" for name in SETTINGS if type(token.get(name, True)) is not bool
    )
