"""Files -> Checkpoint: which loader reads a path is decided here, and nothing after it knows which one it was."""

from __future__ import annotations

import os
from pathlib import Path

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import Checkpoint

GGUF_MAGIC = b"GGUF"


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """The model at `path`: a Hugging Face folder or a GGUF file. Raises ModelError when it is neither, or broken."""
    path = os.fspath(path)
    if os.path.isdir(path):
        from tinyinfer.loading.hf_folder import load_folder

        return load_folder(path)
    if os.path.isfile(path) and (path.lower().endswith(".gguf") or _first_bytes(path) == GGUF_MAGIC):
        from tinyinfer.loading.gguf_model import load_gguf

        return load_gguf(path)
    if os.path.isfile(path):
        cure = f"give its folder, {str(Path(path).parent)!r}" if path.endswith(".safetensors") else "give one of those"
        raise ModelError(f"{path}: neither a model folder (config.json, model.safetensors) nor a GGUF file; {cure}")
    raise ModelError(f"{path!r}: there is no such folder or file; a Hugging Face folder or a .gguf file was looked for")


def _first_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None
