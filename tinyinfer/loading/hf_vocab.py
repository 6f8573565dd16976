"""A Hugging Face folder -> its tokenizer: tokenizer.json, and the small files beside it.

tokenizer.json says how text is split and merged. The tokens that begin and end a text and the chat template are in
tokenizer_config.json, special_tokens_map.json or chat_template.jinja, depending on the age of the folder; each of these
may be missing. All are read as transformers 5 reads them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyinfer.errors import ModelError
from tinyinfer.loading.json_fields import read_json
from tinyinfer.text.tokenizer import Vocabulary
from tinyinfer.units import show

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


def read_vocabulary(folder: str) -> Vocabulary:
    """The tokenizer of a model folder.

    Raises ModelError when tokenizer.json is missing or one of the files is broken.
    """
    backend = _read_backend(os.path.join(folder, "tokenizer.json"))
    config = _Config(folder)
    bos, eos = config.special_token("bos_token"), config.special_token("eos_token")
    _mark_special(backend, [token for token in (bos, eos) if token])
    template, source = config.chat_template()
    return Vocabulary(backend, bos, eos, config.around(backend, bos, eos), template, source)


def _read_backend(path: str) -> Backend:
    from tokenizers import Tokenizer as Backend

    if not os.path.isfile(path):
        raise ModelError(f"{path}: there is no such file; a model folder needs its tokenizer.json")
    try:
        backend = Backend.from_file(path)
        backend.encode("a")  # some faults show only on use
        return backend
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exceptions, and its panics are not even those
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: is not a tokenizer ({reason}); download the file again") from error


def _mark_special(backend: Backend, tokens: list[str]) -> None:
    """Marks BOS and EOS as special tokens: some folders say so in tokenizer_config.json only."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    backend.add_special_tokens([t for t in tokens if t not in known and backend.token_to_id(t) is not None])


class _Config:
    """The small files beside tokenizer.json; each may be missing. Raises ModelError for a value of the wrong type."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = os.path.join(folder, "tokenizer_config.json")
        self.values = _read_json(self.path)

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise ModelError(f"{self.path}: {key} is {show(value)}; it must be true or false")
        return value

    def special_token(self, key: str) -> str | None:
        path, value = self.path, self.values.get(key)
        if value is None:
            path = os.path.join(self.folder, "special_tokens_map.json")
            value = _read_json(path).get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if value is not None and not isinstance(value, str):
            raise ModelError(f"{path}: {key} must be a string or have a string as its content")
        return value

    def around(self, backend: Backend, bos: str | None, eos: str | None) -> tuple[int | None, int | None] | None:
        """The ids before and after a text, if the file has them; None: tokenizer.json decides."""
        flags = self.flag("add_bos_token"), self.flag("add_eos_token")
        if flags == (None, None):
            return None
        before, after = (
            backend.token_to_id(token) if flag and token else None
            for flag, token in zip(flags, (bos, eos), strict=True)
        )
        return before, after

    def chat_template(self) -> tuple[str | None, str]:
        """The chat template and the file that holds it: chat_template.jinja, else tokenizer_config.json."""
        path = os.path.join(self.folder, "chat_template.jinja")
        if os.path.exists(path):
            return _read_text(path), path
        template = self.values.get("chat_template")
        if isinstance(template, list):  # several, each {"name": ..., "template": ...}
            named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
            template = named[0].get("template") if named else None
        if template is not None and not isinstance(template, str):
            raise ModelError(f"{self.path}: chat_template must be a string or a list of named ones")
        return template, self.path


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read as text ({error}); download the file again") from error


def _read_json(path: str) -> dict[str, Any]:
    """The object in a JSON file, an empty one if there is no such file."""
    return read_json(Path(path)) if os.path.exists(path) else {}
