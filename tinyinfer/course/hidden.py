"""Hidden tests: a folder that only the teacher has, and seeds that no student can compute.

    DIR/hidden_{NAME}.py    the hidden tests of the assignment NAME
    DIR/secret              32 random bytes, in hexadecimal

A seed is HMAC-SHA256 (RFC 2104) of "assignment/student/test" under the secret. So it is the same when a submission is
graded again, and another one for each student. Limit: who holds the secret can compute all seeds, so the secret
never leaves the teacher's machine or the grading container, and no process of the student's may read it. The seed of a
public test is the same for all students.
"""

from __future__ import annotations

import hmac
import os
import secrets
import zlib
from dataclasses import dataclass
from pathlib import Path

from tinyinfer.course.errors import CourseError

SECRET = "secret"  # the file's name in the folder
BYTES = 32


@dataclass(frozen=True)
class Hidden:
    """The folder of the hidden tests, opened: the file of the tests, and the secret of the seeds."""

    tests: Path
    secret: bytes

    def seed(self, assignment: str, student: str, test: str) -> int:
        """The seed of one hidden test for one student."""
        return seed(self.secret, assignment, student, test)


def seed(secret: bytes, assignment: str, student: str, test: str) -> int:
    """HMAC-SHA256(secret, "assignment/student/test") as a whole number below 2**256.

    >>> seed(bytes(32), "kv_cache", "ada", "test_x") == seed(bytes(32), "kv_cache", "ada", "test_x")
    True
    """
    message = f"{assignment}/{student}/{test}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hmac.digest(secret, message, "sha256"), "big")


def public_seed(test: str) -> int:
    """The seed of a public test's inputs, by its name."""
    return zlib.crc32(test.encode())


def open_hidden(folder: Path, assignment: str) -> Hidden:
    """The hidden tests of an assignment and their secret. Raises CourseError for a folder that lacks them."""
    tests, secret = folder / f"hidden_{assignment}.py", folder / SECRET
    for path, cure in ((tests, f"copy it from the folder that has the hidden tests of {assignment}"),
                       (secret, f"make it once for your class by: {HOW_TO_MAKE}")):  # fmt: skip
        if not path.is_file():
            raise CourseError(f"--hidden {folder}: there is no file {path.name}; {cure}")
    return Hidden(tests, read_secret(secret))


HOW_TO_MAKE = "python -c \"import secrets; print(secrets.token_hex(32))\" > secret"


def read_secret(path: Path) -> bytes:
    """The 32 bytes of a secret's file. Raises CourseError for any other content."""
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (ValueError, OSError):
        secret = b""
    if len(secret) != BYTES:
        raise CourseError(f"{path}: a secret is {2 * BYTES} hexadecimal digits; make a new one by: {HOW_TO_MAKE}")
    return secret


def write_secret(path: Path) -> bytes:
    """Makes a new secret in a new file that only its owner may read. Raises FileExistsError, OSError."""
    secret = secrets.token_bytes(BYTES)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secret.hex() + "\n")
    return secret
