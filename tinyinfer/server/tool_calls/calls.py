"""What is found of a model's calls while their text still comes: names, arguments, and letters that are neither.

What was sent to a client cannot be taken back. So a call is told as soon as its name is known and the value of its
first argument has begun; until then its letters wait, and come back as text if they break. Later letters of its
arguments are told as they come. If these break, the call keeps what it has, a beginning of JSON that no client takes
for the whole, and the rest is text. Each letter is in one place, and nothing is lost.

Wins: a client sees a long argument grow, as it sees text. Loses: a call that breaks late has been told already; waiting
for its end would show no broken call, and nothing at all for as long as the model writes one.

OpenAI's API reference says the same of its own models: arguments may be no valid JSON, and a client must look.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

from tinyinfer.server.tool_calls.json_letters import Broken


class Piece(NamedTuple):
    """What is new of an answer. call: the number of the call whose arguments the text is; None: the text is content.

    name: of a call that begins here; None elsewhere.
    """

    text: str
    call: int | None = None
    name: str | None = None


class Calls:
    """The calls of one answer; told by the rules of a format, and by the splitter for each letter that they took.

    complete: how many calls have all of their arguments.
    """

    def __init__(self) -> None:
        self.complete = 0
        self._pieces: list[Piece] = []
        self._count = 0
        self.begin("")

    def begin(self, opening: str) -> None:
        """A call may begin; opening: the letters that say so, text if none does."""
        self._letters = [opening]  # that are in no piece
        self._name: str | None = None
        self._arguments: list[str] = []
        self._sure = self._whole = self._told = self._new = False

    # What a format's rules tell.

    def named(self, name: str) -> None:
        """The name of the function. Raises Broken for an empty one, and for a second one."""
        if not name or self._name is not None:
            raise Broken
        self._name = name

    @property
    def has_name(self) -> bool:
        return self._name is not None

    def argue(self, text: str) -> None:
        """More of the arguments, as JSON. Raises Broken behind their end."""
        if self._whole:
            raise Broken
        self._arguments.append(text)
        self._new = True

    def sure(self) -> None:
        """With the next letter that is taken, these are arguments."""
        self._sure = True

    def whole(self) -> None:
        """The arguments are complete."""
        self._sure = self._whole = True

    def close(self) -> None:
        """The call has ended, and another one may begin. Raises Broken for one without a name or arguments."""
        if self._name is None or not self._whole:
            raise Broken
        self.end()

    # What the splitter tells and takes.

    def took(self, letter: str) -> None:
        """The rules have taken a letter."""
        self._letters.append(letter)
        told = self._sure and self._name is not None
        if told and (self._new or not self._told):
            self._letters.clear()
        self._told, self._new = told, False

    def end(self) -> str:
        """No rule reads on: the letters that are in no piece, so that they are text."""
        if self._whole and self._name is not None and not self._told:  # its last letter was that of the arguments
            self._told = True
            self._letters.clear()
        self._tell()
        left = "".join(self._letters)
        if self._told:
            self._count += 1
            self.complete += self._whole
            left = "" if self._whole and not left.strip() else left
        self.begin("")
        return left

    def say(self, text: str) -> None:
        """Text beside the calls."""
        self._pieces.append(Piece(text))

    def take(self) -> list[Piece]:
        """The pieces since the last time, as few as can be."""
        self._tell()
        taken, self._pieces = self._pieces, []
        return list(joined(taken))

    def _tell(self) -> None:
        if self._told:
            if self._name:
                self._pieces.append(Piece("", self._count, self._name))
                self._name = ""
            self._pieces.append(Piece("".join(self._arguments), self._count))
            self._arguments.clear()


def joined(pieces: Iterable[Piece]) -> Iterable[Piece]:
    """Neighbours of one kind as one piece, and none that is empty."""
    for (call, name), some in groupby(pieces, lambda piece: (piece.call, piece.name)):
        text = "".join(piece.text for piece in some)
        if text or name:
            yield Piece(text, call, name)
