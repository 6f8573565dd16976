"""loading/checksums.py: every change of a file is found, wherever its checksum is known from; no more is claimed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tinyinfer.cli import main
from tinyinfer.errors import ModelError
from tinyinfer.loading.checksums import checksum, faults, known_checksums, read_sums, write_sums

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc": FIPS 180-2, appendix B
HELLO = "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object of "hello\n"

CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit flipped": lambda data: data[:900] + bytes([data[900] ^ 1]) + data[901:],
    "zeros": lambda data: data[:500] + bytes(300) + data[800:],
    "one byte cut": lambda data: data[:-1],
    "one byte more": lambda data: data + b"\0",
    "empty": lambda data: b"",
    "another file": lambda data: data[::-1],
}


@pytest.fixture
def folder(golden_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A model folder that has no checksums."""
    return Path(shutil.copytree(golden_folder("llama"), tmp_path / "model"))


def as_hub_cache(folder: Path) -> Path:
    """The same files as in the hub's cache: links to blobs, weights by SHA-256, small files by git's SHA-1."""
    root = folder.parent / "models--acme--tiny"
    snapshot = root / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    for file in folder.iterdir():
        name = checksum(file, "0" * (64 if file.suffix == ".safetensors" else 40))
        shutil.copy(file, root / "blobs" / name)
        (snapshot / file.name).symlink_to(Path("../../blobs", name))
    return snapshot


def as_hf_download(folder: Path) -> Path:
    """The same files as `hf download --local-dir` leaves them."""
    notes = folder / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    for file in folder.iterdir():
        if file.is_file():
            name = checksum(file, "0" * (64 if file.suffix == ".safetensors" else 40))
            (notes / f"{file.name}.metadata").write_text(f"0123abcd\n{name}\n1712656091.123\n")
    return folder


def as_quantized(folder: Path) -> Path:
    """What `tinyinfer quantize` makes of it."""
    assert main(["quantize", "-q", "-m", str(folder), "-o", str(folder.parent / "out")]) == 0
    return folder.parent / "out"


def as_summed(folder: Path) -> Path:
    """With checksums that the user has written."""
    if shutil.which("sha256sum") is None:
        pytest.skip("sha256sum is of coreutils")
    subprocess.run("sha256sum * > SHA256SUMS", shell=True, cwd=folder, check=True)
    return folder


SOURCES = [as_hub_cache, as_hf_download, as_quantized, as_summed]


def test_checksums_are_those_of_sha256sum_and_git(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"hello\n")
    assert checksum(tmp_path / "a") == ABC
    assert checksum(tmp_path / "b", HELLO) == HELLO


def test_sha256sum_proves_what_quantize_writes(folder: Path) -> None:
    """Catches a form of our own in a file that has the name of a standard one."""
    out = as_quantized(folder)
    assert set(read_sums(out)) == {file.name for file in out.iterdir()} - {"SHA256SUMS"}
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=out, check=True, capture_output=True)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_every_change_is_found(source: Callable[[Path], Path], name: str, folder: Path) -> None:
    """Of weights and of what is beside them. Catches a proof by size, by the first bytes, or of weights alone."""
    model = source(folder)
    checksums = known_checksums(model)
    assert {file.name for file in checksums} >= {"model.safetensors", "config.json", "tokenizer.json"}
    assert faults(checksums) == {}
    file = model / name
    right = file.read_bytes()
    for how, change in CHANGES.items():
        file.write_bytes(change(right))
        found = faults(known_checksums(model))
        assert list(found) == [file], how
        assert "is damaged (its SHA-" in found[file]
    file.unlink()
    if source in (as_quantized, as_summed):  # a list knows what should be there
        assert faults(known_checksums(model)) == {file: "is not there"}


def test_all_parts_of_a_split_model_are_proven(tmp_path: Path) -> None:
    for i in (1, 2):
        (tmp_path / f"m-0000{i}-of-00002.gguf").write_bytes(b"part %d" % i)
    (tmp_path / "other.gguf").write_bytes(b"a hundred GB that are not asked for")
    write_sums(tmp_path)
    second = tmp_path / "m-00002-of-00002.gguf"
    second.write_bytes(b"part 3")
    checksums = known_checksums(tmp_path / "m-00001-of-00002.gguf")
    assert len(checksums) == 2
    assert list(faults(checksums)) == [second]


def test_where_nothing_is_known_nothing_is_claimed(folder: Path) -> None:
    """Catches a proof of config.json alone that passes for one of the model."""
    with pytest.raises(ModelError, match=r"model.safetensors: no checksum of it is known, .*: sha256sum \* > SHA256"):
        known_checksums(folder)
    (folder / "SHA256SUMS").write_text(f"{checksum(folder / 'config.json')}  config.json\n")
    with pytest.raises(ModelError, match=r"model.safetensors: no checksum of it is known"):
        known_checksums(folder)


@pytest.mark.parametrize("text", ["no checksum\n", f"{ABC[:-1]}  model.safetensors\n", f"SHA256 (x) = {ABC}\n"])
def test_a_list_of_another_form_is_refused(text: str, folder: Path) -> None:
    """Catches a line passed over, and with it a file that is never proven."""
    (folder / "SHA256SUMS").write_text(text)
    with pytest.raises(ModelError, match=r"SHA256SUMS: .* is no checksum and file; write it again: sha256sum"):
        known_checksums(folder)


OTHER_FORMS = {
    "comments": f"# mine\n{ABC}  x.gguf\n",
    "files of other folders": f"{ABC[::-1]}  ./onnx/x.gguf\n{ABC[::-1]} */elsewhere/x.gguf\n{ABC}  ./x.gguf\n",
    "capitals": f"{ABC.upper()} *x.gguf\n",
    "lines of Windows": f"{ABC}  x.gguf\r\n\r\n",
}


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_a_list_that_sha256sum_takes_is_read(form: str, tmp_path: Path) -> None:
    """Catches a false alarm: `find -type f | xargs sha256sum` lists folders, coreutils takes comments and capitals."""
    (tmp_path / "x.gguf").write_bytes(b"abc")
    (tmp_path / "SHA256SUMS").write_bytes(OTHER_FORMS[form].encode())
    assert known_checksums(tmp_path / "x.gguf") == {tmp_path / "x.gguf": ABC}


def test_a_file_in_a_folder_of_a_repository_is_known(tmp_path: Path) -> None:
    """Catches notes looked for beside the file alone: hf download keeps them at the top, in the same folders."""
    file = tmp_path / "UD-Q4" / "x.gguf"
    note = tmp_path / ".cache" / "huggingface" / "download" / "UD-Q4" / "x.gguf.metadata"
    for path, text in ((file, "abc"), (note, f"0123abcd\n{ABC}\n1712656091.123\n")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert known_checksums(file) == {file: ABC}


def test_a_link_to_a_link_of_the_cache_is_known(folder: Path, tmp_path: Path) -> None:
    """Catches one step of a way of two: a link of the user to a link of the hub's cache. A circle of links ends."""
    weights = as_hub_cache(folder) / "model.safetensors"
    (tmp_path / "mine.safetensors").symlink_to(weights)
    assert list(known_checksums(tmp_path / "mine.safetensors").values()) == [os.readlink(weights)[-64:]]
    (tmp_path / "circle.gguf").symlink_to(tmp_path / "circle.gguf")
    with pytest.raises(ModelError, match="no checksum of it is known"):
        known_checksums(tmp_path / "circle.gguf")


def test_names_that_are_no_text_are_proven(tmp_path: Path) -> None:
    """Catches a list that is read as UTF-8 only, as sha256sum does not write it."""
    model = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.gguf"))
    try:
        model.write_bytes(b"abc")
    except OSError:
        pytest.skip("a file system that takes only text")
    (tmp_path / "SHA256SUMS").write_bytes(ABC.encode() + b"  ./\xff.gguf\n" + hashlib.sha256().hexdigest().encode()
                                          + b" *SHA256SUMS\n")  # fmt: skip
    assert known_checksums(model) == {model: ABC}
    assert faults(known_checksums(model)) == {}


def test_progress_counts_the_bytes_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(3 << 20))
    read: list[int] = []
    checksum(tmp_path / "a", report=read.append)
    assert sum(read) == 3 << 20
    assert len(read) == 3


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    """A failing disk: neither right nor damaged."""
    with pytest.raises(ModelError, match=r"cannot be read \(Is a directory\); change its permissions, or remove it"):
        checksum(tmp_path)
