"""The same words are the same text, whatever program wrote them; what is no UTF-8 is told for what it is."""

from __future__ import annotations

import pytest

from tinyinfer.text.plain_text import decoded, plain


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("\ufeffone", "one"),
        ("\ufeff", ""),
        ("\ufeff\ufeffone", "\ufeffone"),  # one mark: a second one is text
        ("one\ufefftwo", "one\ufefftwo"),
        ("50%\r100%\n", "50%\r100%\n"),  # a CR alone is no line end
        ("one\r\r\n", "one\r\n"),
    ],
)
def test_one_mark_goes_and_lines_end_with_lf(written: str, meant: str) -> None:
    """Catches a mark or a CR that becomes tokens (bug B13), and text that is changed elsewhere."""
    assert plain(written) == meant
    assert decoded(written.encode(), "file") == meant


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_another_encoding_is_told_by_its_mark(encoding: str) -> None:
    """Catches "not UTF-8 text (byte 0)" for a file of Windows' editor, whose reader would not know the cure."""
    text = "one" if encoding in ("utf-16", "utf-32") else "\ufeffone"  # those two write a mark by themselves
    with pytest.raises(ValueError, match=f"^f: {encoding[:6].upper()} text; convert it to UTF-8 first$"):
        decoded(text.encode(encoding), "f")


def test_bytes_of_no_known_encoding_are_named_by_their_place() -> None:
    with pytest.raises(ValueError, match=r"^f: not UTF-8 text \(byte 3\); convert it to UTF-8 first$"):
        decoded(b"caf\xe9", "f")
