"""Tokens as they can be seen: spaces, ends of lines, control characters and pieces of a character included.

A token is not a word. It may begin with a space, be nothing but the end of a line, or be one of the three bytes of a
letter. A drawing that hides this hides what a tokenizer does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tinyinfer.views.page import visible

if TYPE_CHECKING:
    from tinyinfer.text.tokenizer import Tokenizer


def token_texts(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """What each token adds to a text; a byte that is no whole character as <0xE2>, a special token as its name.

    Raises ValueError when an id is negative or 2**32 and more.
    """
    return [token_text(tokenizer, int(id)) for id in ids]


def token_text(tokenizer: Tokenizer, id: int) -> str:
    """The text of one token, as in `token_texts`."""
    piece = tokenizer.piece(id)
    if not piece:
        return tokenizer.stream().name(id) or f"<{id}>"
    text = piece.decode("utf-8", "surrogateescape") if isinstance(piece, bytes) else piece
    return "".join(f"<0x{ord(sign) - 0xDC00:02X}>" if 0xDC80 <= ord(sign) <= 0xDCFF else sign for sign in text)


def readable(token: str) -> str:
    """A token's text in which each character can be seen; spaces at its ends are dots.

    >>> readable(" the\\n")
    '·the↵'
    """
    shown = visible(token)
    inner = shown.strip(" ")
    if not inner:
        return "·" * len(shown)
    before = len(shown) - len(shown.lstrip(" "))
    return "·" * before + inner + "·" * (len(shown) - before - len(inner))
