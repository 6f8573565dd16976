"""Git LFS pointers: a clone made without Git LFS has a few lines of text in place of each large file.

The pointer names the real file by its hash and size, and every reader of the real format would blame the format. So a
reader that meets a file it cannot use asks here first. (Git LFS specification: key-value lines, `version` first, below
1024 bytes.)
"""

from __future__ import annotations

import os

from tinyinfer.errors import ModelError

MAX_BYTES = 1024  # a pointer is smaller, by its specification


def git_lfs_pointer(path: str | os.PathLike[str]) -> bool:
    """Whether the file is a Git LFS pointer; False for a file that cannot be read."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) >= MAX_BYTES:
            return False
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES)
    except OSError:
        return False
    return text.startswith(b"version ") and b"\noid sha256:" in text and b"\nsize " in text


def refuse_pointer(path: str | os.PathLike[str]) -> None:
    """Raises ModelError, which says how to fetch the real file, when the file is a Git LFS pointer."""
    if git_lfs_pointer(path):
        cure = "run `git lfs pull` in the folder, or download the file again"
        raise ModelError(f"{os.fspath(path)}: is a Git LFS pointer, which stands in place of the real file; {cure}")
