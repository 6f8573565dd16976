"""A file or a folder is whole or absent: it is made in a hidden folder beside its place, and then gets its name.

    .NAME.tinyinfer.RANDOM/lock    locked as long as its writer lives
    .NAME.tinyinfer.RANDOM/NAME    what is written; at the end it is renamed to NAME

An exception removes the hidden folder. A kill or a power cut leaves it, but not its lock: the operating system frees
the locks of a process that ends. So each writer first removes the hidden folders of its place whose locks are free.

Wins: no half of a file is ever read, and nothing stays for ever. Loses: on a file system without locks a dead writer
looks like a living one, so its hidden folder stays.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tinyinfer.errors import note
from tinyinfer.loading.download import NO_LOCKS

ATTEMPTS = 8  # hidden folders made until one of them can be locked
_HIDDEN = re.compile(r"\.(?P<name>.+)\.tinyinfer\.\w{8}", re.DOTALL)


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Gives the path at which to write a file or a folder; at the end of the block it is renamed to `target`.

    Removes what killed writers left beside the target. Raises OSError when the disk fails.
    """
    sweep(target.absolute().parent)
    hidden, lock = _claim(target)
    try:
        yield hidden / target.name
        (hidden / target.name).replace(target)
    finally:
        lock.release()
        shutil.rmtree(hidden, ignore_errors=True)


def sweep(folder: Path) -> set[str]:
    """Removes the hidden folders in `folder` whose writers are dead; returns the names that others are writing.

    Gives a ModelWarning for a hidden folder that cannot be removed.
    """
    written = set()
    for hidden in folder.glob(".*"):
        found = _HIDDEN.fullmatch(hidden.name)
        if found and hidden.is_dir() and not hidden.is_symlink():
            lock = FileLock(hidden / "lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                written.add(found["name"])
            except OSError:
                continue  # no locks here, or another user's: whether its writer lives cannot be told
            else:
                _remove(hidden, lock)
    return written


def try_place(target: Path) -> None:
    """Makes a hidden folder beside the target and removes it. Raises OSError where none can be made."""
    shutil.rmtree(_hidden_folder(target), ignore_errors=True)


def _remove(hidden: Path, lock: FileLock) -> None:
    """Removes a dead writer's hidden folder, whose lock is held, and releases the lock."""
    try:
        if os.name == "nt":  # where a file that is open cannot be removed
            lock.release()
        shutil.rmtree(hidden)
    except OSError as error:
        reason = error.strerror or error
        note(f"{hidden}: was left by a program that was killed, and stays ({reason}); remove it by hand")
    finally:
        lock.release()


def _claim(target: Path) -> tuple[Path, FileLock]:
    """A new hidden folder, and its lock, which is held. Raises OSError."""
    for _ in range(ATTEMPTS):
        hidden = _hidden_folder(target)
        lock = FileLock(hidden / "lock", timeout=0)
        try:
            lock.acquire()
        except (Timeout, FileNotFoundError, FileExistsError):  # another writer took the folder for a dead one's
            shutil.rmtree(hidden, ignore_errors=True)
            continue
        except OSError as error:
            if error.errno not in NO_LOCKS:
                shutil.rmtree(hidden, ignore_errors=True)
                raise
        return hidden, lock
    raise OSError(errno.ENOLCK, "another program locks whatever is made here")


def _hidden_folder(target: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{target.name}.tinyinfer.", dir=target.absolute().parent))
