"""Are these the bytes that were meant? A model's files against the checksums that are known of them.

    in the hub's cache        the link of a file leads to blobs/CHECKSUM: its SHA-256, or git's SHA-1 of a small file
    fetched by hf download    .cache/huggingface/download/FILE.metadata, second line: the same checksum; where FILE lies
                              in a folder of a repository, the notes lie beside that folder
    anywhere                  SHA256SUMS beside the files, which `tinyinfer quantize` and sha256sum write

A failing disk or a stray write changes weights, and a model with changed weights still answers. Size and headers do not
tell; only a checksum of all bytes does.

Wins: finds a single flipped bit. Loses: reads every byte, about a second for a GB. And a checksum that lies beside its
file does not prove where the file comes from: who can change one can change both.

Formats: sha256sum (coreutils), git's blob objects, the cache of huggingface_hub (its documentation).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tinyinfer.errors import ModelError
from tinyinfer.loading.gguf_parts import PART_NAME, part_paths
from tinyinfer.loading.hf_folder import model_folder

SUMS = "SHA256SUMS"
MOST_TEXT = 1 << 20  # characters that are read of a file that holds checksums
MOST_LINKS = 40  # one after another, as Linux follows them
WEIGHTS = (".safetensors", ".gguf")
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?([^\\]+)")
_CHECKSUM = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


def known_checksums(path: str | os.PathLike[str]) -> dict[Path, str]:
    """The checksum of each file of the model at `path` of which one is known.

    Raises ModelError for no model, and where no checksum of its weights is known.
    """
    files = _files(Path(path))
    checksums = {file: known for file in files if (known := _known(file))}
    weights = [file for file in files if file.suffix.lower() in WEIGHTS] or files
    for file in weights:
        if file not in checksums:
            cure = f"write those of files that you trust, in their folder: sha256sum * > {SUMS}"
            raise ModelError(f"{file}: no checksum of it is known, so nothing can be proven; {cure}")
    return checksums


def faults(checksums: dict[Path, str], report: Callable[[int], object] = lambda n: None) -> dict[Path, str]:
    """What is wrong with each file that is missing or has another checksum.

    report(n): called with the number of bytes of each chunk that is read. Raises ModelError for a file that cannot be
    read.
    """
    found = {}
    for file, expected in checksums.items():
        if not file.is_file():
            found[file] = "is not there"
        elif checksum(file, expected, report) != expected:
            found[file] = f"is damaged (its {'SHA-256' if len(expected) == 64 else 'SHA-1'} is not the expected one)"
    return found


def checksum(
    file: str | os.PathLike[str], like: str = "0" * 64, report: Callable[[int], object] = lambda n: None
) -> str:
    """The checksum of a file: its SHA-256 in hex, or git's SHA-1 where `like` is one, which has 40 digits.

    report: see faults. Raises ModelError when the file cannot be read.
    """
    try:
        with open(file, "rb") as opened:
            header = b"blob %d\0" % os.fstat(opened.fileno()).st_size
            digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(header, usedforsecurity=False)
            while chunk := opened.read(1 << 20):
                digest.update(chunk)
                report(len(chunk))
            return digest.hexdigest()
    except OSError as error:
        reason = error.strerror or error
        raise ModelError(f"{file}: cannot be read ({reason}); change its permissions, or remove it") from None


def read_sums(folder: Path) -> dict[str, str]:
    """The checksums in a folder's SHA256SUMS by the names of its files; none where there is no such file.

    Lines of files in other folders, and comments, are passed over. Raises ModelError for a line that sha256sum does not
    take.
    """
    path = folder / SUMS
    if not path.is_file():
        return {}
    sums = {}
    for line in _lines(path):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise ModelError(f"{path}: {line[:80]!r} is no checksum and file; write it again: sha256sum * > {SUMS}")
        if "/" not in found[2]:
            sums[found[2]] = found[1].lower()
    sums.pop(SUMS, None)  # of a second sha256sum *
    return sums


def write_sums(folder: Path) -> None:
    """Writes SHA256SUMS with the checksums of a folder's files; `sha256sum -c SHA256SUMS` proves them, too."""
    lines = [f"{checksum(file)}  {file.name}\n" for file in sorted(folder.iterdir())]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8", errors="surrogateescape", newline="\n")


def _files(path: Path) -> list[Path]:
    """The files of a model: of a folder, with those that its SHA256SUMS names and that are missing; or all parts."""
    if path.is_dir():
        folder = model_folder(path)
        files = {file for file in folder.iterdir() if not file.is_dir()}
        return sorted(files | {folder / name for name in read_sums(folder)})
    part = PART_NAME.fullmatch(path.name)
    return list(map(Path, part_paths(str(path), int(part[2]) - 1, int(part[3])))) if part else [path]


def _known(file: Path) -> str | None:
    """The checksum of a file by its place in the hub's cache, by what hf download noted, or by SHA256SUMS."""
    candidates = [target.name for target in _targets(file) if target.parent.name == "blobs"]
    for folder in file.absolute().parents if not candidates else ():
        noted = folder / ".cache" / "huggingface" / "download" / file.absolute().relative_to(folder)
        if (note := noted.with_name(f"{noted.name}.metadata")).is_file():
            candidates = _lines(note)[1:2]
            break
    by_hub = next((name for name in candidates if _CHECKSUM.fullmatch(name)), None)
    return by_hub or read_sums(file.parent).get(file.name)


def _targets(file: Path) -> Iterator[Path]:
    """Where a link leads, where that leads if it is a link, and so on; nothing for a file."""
    for _ in range(MOST_LINKS):
        if not file.is_symlink():
            return
        file = file.parent / os.readlink(file)
        yield file


def _lines(path: Path) -> list[str]:
    """The lines of a small text file. Raises ModelError when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(MOST_TEXT).split("\n")
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error}); change its permissions") from None
