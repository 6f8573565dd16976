"""Text as people have it: the same words are the same tokens, whatever program wrote the file or the pipe.

Editors and consoles of other systems put a byte order mark (U+FEFF) before a text, end its lines with CRLF, or write it
as UTF-16. A mark would be three tokens and every CR one more, which the model has hardly seen. So every way in comes
through here: one mark at the beginning is dropped, CRLF is LF, and bytes are UTF-8 whatever the locale's code page is.
A CR alone stays: programs write it on purpose.

Byte order mark: The Unicode Standard, section 23.8.
"""

from __future__ import annotations

import codecs

MARKS = {  # UTF-32 first: its little-endian mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def plain(text: str) -> str:
    """The text without a byte order mark before it, and with LF at the end of its lines.

    >>> plain(chr(0xFEFF) + "one\\r\\ntwo")
    'one\\ntwo'
    """
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def decoded(data: bytes, name: str) -> str:
    """The plain text of a file or of stdin, by its name. Raises ValueError when it is not UTF-8."""
    try:
        return plain(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise not_utf8(error, name) from None


def not_utf8(error: UnicodeDecodeError, name: str) -> ValueError:
    """The sentence about bytes that are no UTF-8: another encoding where a byte order mark names it."""
    encoding = next((known for mark, known in MARKS.items() if error.object.startswith(mark)), None)
    what = f"{encoding} text" if encoding else f"not UTF-8 text (byte {error.start})"
    return ValueError(f"{name}: {what}; convert it to UTF-8 first")
