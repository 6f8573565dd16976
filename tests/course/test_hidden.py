"""Seeds of hidden tests: the same when graded again, others for each student, computed only with the secret."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat

import pytest

from tinyinfer.course.errors import CourseError
from tinyinfer.course.hidden import open_hidden, public_seed, read_secret, seed, write_secret

SECRET = bytes(range(32))


def test_a_seed_is_the_hmac_of_assignment_student_and_test():
    """Catches a plain hash, which a student computes without the secret; the formula is RFC 2104's own."""
    key = SECRET + bytes(32)
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in key) + b"kv_cache/ada/test_x").digest()
    outer = hashlib.sha256(bytes(b ^ 0x5C for b in key) + inner).digest()
    assert seed(SECRET, "kv_cache", "ada", "test_x") == int.from_bytes(outer, "big")
    assert outer == hmac.digest(SECRET, b"kv_cache/ada/test_x", "sha256")


def test_every_part_of_the_name_changes_the_seed():
    """Catches inputs that two students or two tests share."""
    seeds = {
        seed(secret, a, student, test)
        for secret in (SECRET, bytes(32))
        for a in ("kv_cache", "sampling")
        for student in ("ada", "bob", "ada ", "")
        for test in ("test_x", "test_y")
    }
    assert len(seeds) == 2 * 2 * 4 * 2


def test_a_student_id_may_be_any_text():
    """Catches an id that ends the grader: other alphabets, and bytes that are no UTF-8."""
    ids = ("李雷", "a/b", "x" * 10_000, os.fsdecode(b"\xff"))
    assert len({seed(SECRET, "a", name, "t") for name in ids}) == len(ids)


def test_a_new_secret_is_random_and_only_its_owners(tmp_path):
    """Catches a secret that others on the machine may read, and one that replaces another."""
    first, second = write_secret(tmp_path / "one"), write_secret(tmp_path / "two")
    assert first != second
    assert len(first) == 32
    assert read_secret(tmp_path / "one") == first
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        write_secret(tmp_path / "one")


@pytest.mark.parametrize("content", [b"", b"abc", b"zz" * 32, b"00" * 31, b"00" * 33, b"\xff" * 64])
def test_a_broken_secret_is_refused(tmp_path, content):
    """Catches a secret of fewer bytes, which can be tried out."""
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(CourseError, match="64 hexadecimal digits"):
        read_secret(tmp_path / "secret")


@pytest.mark.parametrize("lacking", ["hidden_small.py", "secret"])
def test_a_folder_that_lacks_a_file_is_refused(tmp_path, lacking):
    """Catches grading without the hidden tests, which would look like full marks."""
    (tmp_path / "hidden_small.py").write_text("")
    write_secret(tmp_path / "secret")
    assert open_hidden(tmp_path, "small").secret == read_secret(tmp_path / "secret")
    (tmp_path / lacking).unlink()
    with pytest.raises(CourseError, match=f"there is no file {lacking}"):
        open_hidden(tmp_path, "small")


def test_public_seeds_are_the_same_in_every_process():
    """Catches `hash`, which Python draws anew at each start."""
    assert public_seed("test_rows_come_back") == 3687613070
