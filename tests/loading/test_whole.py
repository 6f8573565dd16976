"""loading/whole.py: no half of a folder has a name, and what killed writers leave the next writer removes."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from tinyinfer.cli import main
from tinyinfer.errors import ModelWarning
from tinyinfer.loading import whole as module
from tinyinfer.loading.checksums import faults, known_checksums
from tinyinfer.loading.whole import sweep, whole

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and permissions of POSIX")


def leftover(folder: Path, name: str = "out") -> Path:
    """What a killed writer leaves."""
    hidden = folder / f".{name}.tinyinfer.abcd_123"
    (hidden / name).mkdir(parents=True)
    (hidden / name / "model.safetensors").write_bytes(b"half")
    (hidden / "lock").touch()
    return hidden


def write(target: Path) -> None:
    with whole(target) as part:
        part.write_text("whole")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- what is left behind ---


def test_the_next_writer_removes_what_killed_ones_left(tmp_path: Path) -> None:
    """Of any name in the same place, also when the kill came before the lock. Catches tens of GB, hidden for ever."""
    leftover(tmp_path)
    leftover(tmp_path, "of another name")
    (leftover(tmp_path, "two\nlines") / "lock").unlink()
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    """Catches a cleaner that takes the folder of a writer at work, of another process or of this one."""
    with whole(tmp_path / "a") as part:
        part.write_text("a")
        assert sweep(tmp_path) == {"a"}
        write(tmp_path / "b")
        assert part.read_text() == "a"
    assert names(tmp_path) == ["a", "b"]
    assert sweep(tmp_path) == set()


def test_only_folders_of_ours_are_removed(tmp_path: Path) -> None:
    """Catches a hidden folder of another program taken for a leftover, and a link that leads to one."""
    theirs = tmp_path / "theirs"
    leftover(theirs)
    kept = [".git", ".out.part", ".out.tinyinfer", ".out.tinyinfer.abc", ".tinyinfer.abcd_123"]
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / ".link.tinyinfer.abcd_123").symlink_to(theirs)
    (tmp_path / ".file.tinyinfer.abcd_123").touch()
    before = names(tmp_path)
    write(tmp_path / "out")
    assert names(tmp_path) == sorted([*before, "out"])
    assert names(theirs) == [".out.tinyinfer.abcd_123"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EACCES], ids=["no locks", "another user's"])
def test_where_a_lock_tells_nothing_nothing_is_removed(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """A dead writer looks like a living one; catches a write refused on a network disk, and a wrong note."""
    acquire, hidden = FileLock.acquire, leftover(tmp_path)

    def no_lock(self: FileLock, **options: float) -> object:
        if code == errno.ENOLCK or hidden in Path(self.lock_file).parents:
            raise OSError(code, "no")
        return acquire(self, **options)

    monkeypatch.setattr(FileLock, "acquire", no_lock)
    write(tmp_path / "out")
    assert not recwarn.list
    assert names(tmp_path) == [hidden.name, "out"]
    assert (hidden / "out" / "model.safetensors").exists()


def test_what_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's, or on a disk that became read-only: a note, and the work goes on."""

    def refuse(path: Path, ignore_errors: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    hidden = leftover(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", refuse)
        with pytest.warns(ModelWarning, match=r"killed, and stays \(Permission denied\)"):
            sweep(tmp_path)
    write(tmp_path / "out")
    assert not hidden.exists()


def test_a_writer_whose_folder_another_one_takes_for_dead_makes_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two lines that make a hidden folder and lock it, another writer may lock it to remove it."""
    taken, make = leftover(tmp_path), module._hidden_folder
    folders = iter([lambda target: taken, make])
    monkeypatch.setattr(module, "sweep", lambda folder: set())
    monkeypatch.setattr(module, "_hidden_folder", lambda target: next(folders)(target))
    with FileLock(taken / "lock"):
        write(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_writer_that_gets_no_lock_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a loop without an end."""

    def busy(self: FileLock, **options: float) -> None:
        raise Timeout(self.lock_file)

    monkeypatch.setattr(FileLock, "acquire", busy)
    with pytest.raises(OSError, match="another program locks"):
        write(tmp_path / "out")
    assert names(tmp_path) == []


@posix
@pytest.mark.parametrize(("mask", "folder", "file"), [(0o077, 0o700, 0o600), (0o022, 0o755, 0o644)])
def test_a_saved_model_obeys_the_umask(
    mask: int, folder: int, file: int, golden_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Catches a private model that all users may read, and a public one that only its owner may read."""
    before = os.umask(mask)
    try:
        assert main(["quantize", "-q", "-m", str(golden_folder("llama")), "-o", str(tmp_path / "out")]) == 0
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == folder
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {file}


# --- real signals ---

PROGRAM = """
import os, sys, time
from tinyinfer.cli import main
from tinyinfer.loading import saving

def stop(arrays, path, metadata):
    path.write_bytes(b"half")
    os.write(1, b"writing\\n")
    time.sleep(60)

saving.save_file = stop
writers = []
for target in sys.argv[2:]:
    writers.append(os.fork())
    if not writers[-1]:
        sys.exit(main(["quantize", "-q", "-m", sys.argv[1], "-o", target]))
print(*writers, flush=True)
print(*(os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) for writer in writers), flush=True)
"""


@posix
def test_signals_run_the_clean_up_and_the_next_run_does_what_they_cannot(
    golden_folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM and SIGHUP leave nothing, SIGKILL what the next quantization removes; none of them half a target.

    While the writers live, their folders stay, and a second one into the same folder is told at once.
    """
    source, ends = str(golden_folder("llama")), {"SIGTERM": 143, "SIGHUP": 129, "SIGKILL": -signal.SIGKILL}
    command = [sys.executable, "-c", PROGRAM, source, *(str(tmp_path / name) for name in ends)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    [pids] = [line.split() for line in (process.stdout.readline() for _ in range(4)) if line != "writing\n"]
    assert main(["quantize", "-m", source, "-o", str(tmp_path / "SIGTERM")]) == 2
    told = "SIGTERM: is being written by another program; wait for it, or give another name\n"
    assert capsys.readouterr().err.endswith(told)
    assert len(names(tmp_path)) == 3
    for name, pid in zip(ends, pids, strict=True):
        os.kill(int(pid), getattr(signal, name))
    assert process.communicate(timeout=30) == (" ".join(map(str, ends.values())) + "\n", "")
    [left] = names(tmp_path)
    assert left.startswith(".SIGKILL.tinyinfer.")
    assert main(["quantize", "-q", "-m", source, "-o", str(tmp_path / "out")]) == 0
    assert names(tmp_path) == ["out"]


@pytest.mark.full
@posix
def test_kills_at_random_moments_leave_nothing_for_long(golden_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Thirty, a third of them SIGKILL: a target is whole or absent, and the next run leaves nothing hidden."""
    source, moments = str(golden_folder("llama")), random.Random(11)
    for i in range(30):
        how = [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL][i % 3]
        command = [sys.executable, "-m", "tinyinfer", "quantize", "-q", "-m", source, "-o", str(tmp_path / f"q{i}")]
        before = set(names(tmp_path))
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
        while i % 2 and process.poll() is None and set(names(tmp_path)) <= before:
            time.sleep(0.001)
        time.sleep(moments.random() / 3)
        process.send_signal(how)
        assert process.communicate(timeout=30)[1] == b""
        if (tmp_path / f"q{i}").exists():
            assert faults(known_checksums(tmp_path / f"q{i}")) == {}
    assert main(["quantize", "-q", "-m", source, "-o", str(tmp_path / "out")]) == 0
    assert not [name for name in names(tmp_path) if name.startswith(".")]
