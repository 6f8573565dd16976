"""loading/pointers.py: a Git LFS pointer is told from the file that it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyinfer.errors import ModelError
from tinyinfer.loading.pointers import git_lfs_pointer, refuse_pointer

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 269060552\n".encode()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (POINTER, True),
        (POINTER.replace(b"\noid", b"\next-0-foo sha256:cd\noid"), True),  # extensions stand between, sorted
        (b"", False),
        (b"version 3\n", False),
        (b"GGUF" + POINTER, False),
        (POINTER + b" " * 1024, False),  # larger than any pointer
    ],
    ids=["pointer", "extension", "empty", "another text", "another beginning", "large"],
)
def test_what_is_a_pointer(tmp_path: Path, content: bytes, expected: bool) -> None:
    """Catches a small real file taken for a pointer, and a pointer whose optional lines hide it."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert git_lfs_pointer(path) is expected


def test_what_is_no_file_is_no_pointer(tmp_path: Path) -> None:
    """Catches an OSError of the question itself: the reader's own message about such a path is better."""
    assert not git_lfs_pointer(tmp_path)
    assert not git_lfs_pointer(tmp_path / "absent")


def test_the_message_says_what_fetches_the_file(tmp_path: Path) -> None:
    """Catches "download it again" alone, where a git clone gives the same pointer again."""
    path = tmp_path / "m.gguf"
    path.write_bytes(POINTER)
    with pytest.raises(ModelError, match=r"m\.gguf: is a Git LFS pointer, .*; run `git lfs pull`"):
        refuse_pointer(path)
    path.write_bytes(b"GGUF")
    refuse_pointer(path)
