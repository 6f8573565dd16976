"""An answer is split into text and calls, letter by letter, so that it does not matter how a stream cuts it.

A format says how a call opens (`<tool_call>`) and by which rules its letters are read. Letters that may open a call
wait until they do or do not; so does whitespace, which belongs to the calls that it stands beside. Where the rules end
or break, the splitter looks at text again, from that very letter on.

Wins: one pass, no search in what was read before, and some 10 us for a token of text. Loses: text that looks like the
beginning of a call comes late. Parsers that search the text so far at each token do quadratic work, and must compare
what they found before.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinyinfer.guided.schemas import plainer
from tinyinfer.server.tool_calls.calls import Calls, Piece
from tinyinfer.server.tool_calls.json_letters import END, Broken, Reading


def usual_id() -> str:
    """An id as OpenAI's are."""
    return "call_" + secrets.token_hex(12)


def json_arguments(schema: dict[str, Any], name: str) -> tuple[str, list[str]]:
    """Arguments as JSON of their schema, as an expression and rules of Lark."""
    return name, [f"{name}: {json_rule(schema)}"]


def json_rule(schema: Any) -> str:
    """JSON of a schema, with spaces where chat templates write them, and no others: a model may love blanks."""
    spaces = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    plain = plainer(schema)
    return f"%json {json.dumps({**(plain if isinstance(plain, dict) else {'allOf': [plain]}), 'x-guidance': spaces})}"


@dataclass(frozen=True)
class Format:
    """How a family of models writes calls.

    start: what opens them; rules: reads the letters behind it. ends: what may stand behind a call, and is no text.
    own_line: whether only blanks may stand before `start` on its line. marks: further names of special tokens that are
    to be spelled in an answer. new_id: makes the id of a call.

    For a call that must come (forced.py): call: one, with NAME and ARGUMENTS in it; before, between, after: what stands
    around calls; arguments: an expression and rules of Lark, of a schema and a name for the rules.
    """

    start: str
    rules: Callable[[Calls], Reading]
    call: str
    ends: tuple[str, ...] = ()
    own_line: bool = False
    marks: tuple[str, ...] = ()
    new_id: Callable[[], str] = usual_id
    before: str = ""
    between: str = ""
    after: str = ""
    arguments: Callable[[dict[str, Any], str], tuple[str, list[str]]] = json_arguments

    @property
    def names(self) -> tuple[str, ...]:
        return (self.start, *self.ends, *self.marks)


class CallSplitter:
    """Splits one answer; its pieces joined are the same however the text was cut."""

    def __init__(self, format: Format) -> None:
        self._format, self._calls = format, Calls()
        firsts = re.escape("".join(mark[0] for mark in (format.start, *format.ends)))
        self._plain = re.compile(rf"(?:\s*[^\s{firsts}])+")  # text in which no call can open: most of it
        self._reading: Reading | None = None  # the rules, inside a call
        self._blanks: list[str] = []  # held back, before what may open a call or end one
        self._held = ""  # what may open a call or end one
        self._beside = False  # whether nothing but blanks and ends was there since the last call
        self._new_line = True  # whether the line so far is blank

    @property
    def complete(self) -> int:
        """How many calls have all of their arguments."""
        return self._calls.complete

    def push(self, text: str) -> list[Piece]:
        """What is certain with this text."""
        at = 0
        while at < len(text):
            plain = self._plain.match(text, at) if self._reading is None and not self._waits else None
            if plain is not None:
                self._say(plain[0])
                at = plain.end()
            else:
                self._feed(text[at])
                at += 1
        return self._calls.take()

    def finish(self) -> list[Piece]:
        """What was held back, when no text follows."""
        self._feed(END)
        if not (self._beside and (not self._held or any(end.startswith(self._held) for end in self._format.ends))):
            self._say("".join((*self._blanks, self._held)))
        self._blanks, self._held = [], ""
        return self._calls.take()

    @property
    def _waits(self) -> bool:
        return bool(self._held or self._blanks)

    def _feed(self, letter: str) -> None:
        if self._reading is None or not self._read(self._reading, letter):
            self._look(letter)

    def _read(self, reading: Reading, letter: str) -> bool:
        """Whether the rules take the letter; none takes the end."""
        left = ""
        try:
            reading.send(letter)
            if letter != END:
                self._calls.took(letter)
                return True
            left = self._calls.end()
        except Broken:
            left = self._calls.end()
        except StopIteration:
            self._calls.end()  # its letters are those of calls
        self._reading, self._beside = None, not left
        self._say(left)
        return False

    def _look(self, letter: str) -> None:
        """Looks for an opening, or for an end behind a call, in the text held back and this letter."""
        self._hold(self._held + letter)
        while self._held and not any(mark.startswith(self._held) for mark in self._marks()):
            first, rest = self._held[0], self._held[1:]
            self._say("".join((*self._blanks, first)))
            self._blanks = []
            self._hold(rest)
        if self._held and self._held in self._marks():
            mark, opening = self._held, "".join((*self._blanks, self._held))
            self._blanks, self._held = [], ""
            if mark == self._format.start:
                self._calls.begin(opening)
                self._new_line = True  # blanks before the call are gone with it
                self._reading = self._format.rules(self._calls)
                next(self._reading)

    def _hold(self, text: str) -> None:
        """Holds back a text, its blanks apart: to look at a thousand of them at each letter is quadratic work."""
        self._held = text.lstrip()
        if len(self._held) < len(text):
            self._blanks.append(text[: len(text) - len(self._held)])

    def _marks(self) -> list[str]:
        """What may stand behind the blanks that are held back."""
        opens = not self._format.own_line or self._new_line or any("\n" in blank for blank in self._blanks)
        return [self._format.start] * opens + list(self._format.ends) * self._beside

    def _say(self, text: str) -> None:
        if text:
            self._calls.say(text)
            _, newline, line = text.rpartition("\n")
            self._new_line = not line.strip() and (bool(newline) or self._new_line)
            self._beside = False
