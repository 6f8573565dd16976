"""A file that grows for hours and may be interrupted at any moment: FILE.part, line by line, then FILE.

    FILE.part         whole lines of JSON, each written at once; a kill may leave a torn last line, which is dropped
    FILE.part.json    the settings that the lines were made with, on the disk before the first line is
    FILE.part.lock    locked as long as its writer lives

The same settings go on after the last whole line. Other settings are refused: the result would be a file of two halves,
which no command makes again. At the end FILE.part is synced and renamed, so FILE is whole or absent.

Wins: nothing that was paid for is lost, and no half of a file is taken for a whole one. Loses: FILE cannot be a pipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import RawIOBase
from pathlib import Path
from typing import Any

from tinyinfer.errors import ModelError
from tinyinfer.loading.download import locked
from tinyinfer.loading.saving import sync
from tinyinfer.loading.whole import try_place
from tinyinfer.units import show

Settings = dict[str, Any]  # what JSON holds
Record = dict[str, Any]  # of one line


def check_place(target: Path) -> None:
    """Raises ValueError, before any work, for a file that is there already or that cannot be made."""
    folder = target.absolute().parent
    if target.is_dir():
        raise ValueError(f"{target}: is a folder; give the name of a new file in it")
    if target.exists() or target.is_symlink():
        raise ValueError(f"{target}: is there already; remove it or give the name of a new file")
    if not folder.is_dir():
        raise ValueError(f"{target}: there is no folder {str(target.parent)!r} to write it in; create that first")
    try:
        try_place(target)  # permissions alone do not tell
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{target}: cannot be made in {str(folder)!r} ({reason}); choose another place") from None


def beside(target: Path, end: str) -> Path:
    """The file with the target's name and a longer end."""
    return target.with_name(target.name + end)


class PartFile:
    """The lines of an unfinished file: `records` gives those that are there already, and then `write` adds to them.

    Raises ModelError for a disk that is full or fails; what was written before stays.
    """

    def __init__(self, target: Path, file: RawIOBase) -> None:
        self.target, self.path, self._file = target, beside(target, ".part"), file

    def records(self) -> Iterator[Record]:
        """The whole lines. A torn last line is cut off. Raises ValueError for a line that is no JSON object."""
        number = end = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                yield self._read(line, number)
        self._file.truncate(end)
        self._file.seek(end)

    def _read(self, line: bytes, number: int) -> Record:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            cure = "another program has changed the file; remove it, or give another name"
            raise ValueError(f"{self.path}: line {number} is no JSON object; {cure}")
        return record

    def write(self, record: Record) -> None:
        """Adds a line, which is with the operating system when this returns."""
        line = memoryview(json.dumps(record).encode() + b"\n")
        with writing(self.path):
            while line:
                line = line[self._file.write(line) :]

    def finish(self) -> None:
        """Gives the file its name. Raises ValueError when another program has made a file of that name meanwhile."""
        self._file.close()
        if self.target.exists():
            raise ValueError(f"{self.target}: another program has made it meanwhile; {self.path} has all lines")
        with writing(self.path):
            sync(self.path)
            self.path.replace(self.target)
        settings_file(self.target).unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises ModelError in the place of an OSError of a disk, with the way to go on."""
    try:
        yield
    except OSError as error:
        cure = "make room, and run the same command again: it goes on after the last whole line"
        raise ModelError(f"{path}: cannot be written ({error.strerror or error}); {cure}") from None


@contextmanager
def part_file(target: Path, settings: Settings) -> Iterator[PartFile]:
    """The unfinished lines of a file, made with these settings; locked, and closed at the end of the block.

    Raises ValueError for other settings than those of the lines that are there, and for a file that another program is
    writing; ModelError for a disk that is full or fails.
    """
    with alone(target):
        check_settings(target, settings)
        path = beside(target, ".part")
        with writing(path):
            path.touch()
        with open(path, "r+b", buffering=0) as file:
            yield PartFile(target, file)


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Only one program at a time writes the lines. Raises ValueError for the second one."""
    path = beside(target, ".part.lock")

    def refuse() -> None:
        raise ValueError(f"{target}: is being written by another program; wait for it, or give another name") from None

    with locked(str(path), refuse):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file
                path.unlink()


def settings_file(target: Path) -> Path:
    """Where the settings are while the lines are written."""
    return beside(target, ".part.json")


def check_settings(target: Path, settings: Settings) -> None:
    """Writes the settings of new lines; raises ValueError for lines that were made with others."""
    part, file = beside(target, ".part"), settings_file(target)
    if not (part.exists() and part.stat().st_size):
        with writing(file):
            file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            sync(file)
        return
    cure = f"remove {part} to begin anew, or give another name to -o"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError
    except (OSError, ValueError):
        raise ValueError(
            f"{part}: was begun, but {file.name} beside it does not say with which settings; {cure}"
        ) from None
    names = [name for name in {**found, **settings} if found.get(name) != settings.get(name)]
    if names:
        pairs = (f"{name} was {show(found.get(name))} and is now {show(settings.get(name))}" for name in names)
        raise ValueError(f"{part}: was begun with other settings ({', '.join(pairs)}); give the same ones, or {cure}")
