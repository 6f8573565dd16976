"""The files of a model that are read whole: regular files, not larger than such files are, nor full of tiny values.

A stranger's folder may hold a pipe, which keeps its reader waiting for ever; a device, which has no end; or a text of
100 MB where others have a page. So a file is looked at before it is opened, and no more is read than its kind has room
for. Links are followed: the hub's cache is made of them.

    file                           the largest known                                          limit
    tokenizer.json                  33 MB: 262,144 tokens and 514,906 merges (Gemma 3)         100 MB
    model.safetensors.index.json     9 MB: 91,991 tensors (DeepSeek V3)                         32 MB
    tokenizer_config.json            6 MB: 28,683 added tokens of sound (Orpheus)               16 MB
    vocab.json, merges.txt           4 MB: 151,643 tokens (Qwen 2 and 3)                        16 MB
    chat_template.jinja            0.1 MB                                                         1 MB
    any other                        1 MB: a list of labels or of layers in config.json          4 MB

Size alone is no bound: `{},` takes 26 times its bytes in Python, a merge of two letters 52 times in the `tokenizers`
library. A value takes up to 175 bytes there, but stands in a real file with 9 bytes or more. So no more values are
accepted than that, counted by their commas, colons and brackets before anything is parsed. A few are always accepted:
260,000 values take at most 46 MB. The header of a safetensors file is compared with the whole file: a tensor has data.
A token that is found in a text before the text is split takes some kB in that library, wherever a file lists it; the
models with the most have 28,683, and 250 bytes for each.

Wins: memory of no more than 20 times the size. Loses: no file that we know of.
"""

from __future__ import annotations

import os
import stat

from tinyinfer.errors import ModelError
from tinyinfer.loading.pointers import refuse_pointer

LIMITS = {  # bytes
    "tokenizer.json": 100_000_000,
    "model.safetensors.index.json": 32_000_000,
    "tokenizer_config.json": 16_000_000,
    "vocab.json": 16_000_000,
    "merges.txt": 16_000_000,
    "chat_template.jinja": 1_000_000,
}
LIMIT = 4_000_000  # of any other
VALUES = 260_000  # in a JSON text of any size
BYTES_A_VALUE = 9
ADDED = 15_000  # added tokens of a model of any size
BYTES_AN_ADDED = 250

DOWNLOAD = "download it again"  # the cure of a model's file, which no one writes by hand

Path = str | os.PathLike[str]


def read_whole(path: Path, cure: str = DOWNLOAD) -> bytes:
    """The bytes of a file. cure: the end of the message about one that is too large.

    Raises ModelError when it is missing, unreadable, no regular file, a Git LFS pointer or larger than its kind is.
    """
    check_file(path)
    most = LIMITS.get(os.path.basename(path), LIMIT)
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        where = os.fspath(path)
        raise ModelError(f"{where}: the file is missing, and a model folder needs it; download it again") from None
    except OSError as error:
        cure = "check the file and its permissions"
        raise ModelError(f"{os.fspath(path)}: cannot be read ({error.strerror}); {cure}") from None
    refuse_pointer(path)
    if len(data) > most:
        raise ModelError(f"{os.fspath(path)}: is larger than {most} bytes, which no such file is; {cure}")
    return data


def check_file(path: Path) -> None:
    """Raises ModelError for a pipe, a socket or a device; a file that is not there is left to its reader."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ModelError(f"{os.fspath(path)}: is a pipe, a socket or a device; put a regular file in its place")


def check_values(
    text: bytes, where: str, size: int, signs: tuple[bytes, ...] = (b",", b":", b"[", b"{"), cure: str = DOWNLOAD
) -> None:
    """Raises ModelError for a text of more values than a file of `size` bytes holds; `where` names it.

    signs: what stands beside a value; those of JSON. cure: the end of the message.
    """
    values = sum(text.count(sign) for sign in signs)
    if values > max(VALUES, size // BYTES_A_VALUE):
        many = f"holds about {values} values in {size} bytes, as no such file does"
        raise ModelError(f"{where}: {many}; {cure}")


def check_added(count: int, where: str, size: int) -> None:
    """Raises ModelError for more added tokens than a model of `size` bytes has; `where` names it."""
    if count > max(ADDED, size // BYTES_AN_ADDED):
        many = f"lists {count} added tokens in a model of {size} bytes, as no such model does"
        raise ModelError(f"{where}: {many}; download it again")


def folder_size(folder: str) -> int:
    """The bytes of all files in a folder, links followed."""
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.is_file())
