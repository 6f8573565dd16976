"""JSON that comes letter by letter: which letters can still become a value?

`json.loads` needs all of a text. A stream has its beginning, and must know at each letter whether this is still JSON
and where the value ends: a brace inside a string ends nothing. Each rule of the grammar is a generator here. A rule is
sent letters, one at a time, keeps those that are its own, and returns the first one that is not; a letter that cannot
follow raises Broken. So the rules read as the grammar does (RFC 8259, sections 2 to 7), and a text may be cut anywhere.

Wins: constant work for each letter, and the error is known at the letter that makes it. Loses: some microseconds a
letter in Python, where `json.loads` takes some nanoseconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator

Reading = Generator[None, str, str]  # is sent letters, and returns the first one that is not its own
Keep = Callable[[str], None]  # takes each letter that belongs to a value
Member = Callable[[str, str], Reading]  # of a key and the first letter of its value
END = ""  # stands behind the last letter of a text
BLANK, DIGITS, HEX = frozenset(" \t\n\r"), frozenset("0123456789"), frozenset("0123456789abcdefABCDEF")
ESCAPES = frozenset('"\\/bfnrtu')
WORDS = {"t": "true", "f": "false", "n": "null"}
DEEPEST = 50  # levels: each is two generators, through which every letter goes


class Broken(Exception):
    """A letter that cannot follow those before it."""


def expect(letter: str, wanted: str) -> None:
    """Raises Broken for another letter."""
    if letter != wanted:
        raise Broken


def ignore(letter: str) -> None:
    """Keeps nothing of a value."""


def blank(letter: str, keep: Keep = ignore) -> Reading:
    """Whitespace, also none of it."""
    while letter in BLANK:
        keep(letter)
        letter = yield
    return letter


def value(letter: str, keep: Keep, depth: int = 0) -> Reading:
    """Any value, of which `letter` is the first. Raises Broken for one of more than DEEPEST levels."""
    if depth > DEEPEST:
        raise Broken
    if letter == '"':
        return (yield from string(letter, keep))
    if letter == "[":
        return (yield from array(letter, keep, depth))
    if letter == "{":
        return (yield from members(letter, keep, lambda key, first: value(first, keep, depth + 1)))
    if letter in WORDS:
        return (yield from word(letter, keep))
    return (yield from number(letter, keep))


def members(letter: str, keep: Keep, member: Member) -> Reading:
    """An object. member(key, first letter): reads the value of a key."""
    expect(letter, "{")
    keep(letter)
    letter = yield from blank((yield), keep)
    while letter != "}":
        key: list[str] = []
        letter = yield from string(letter, both(keep, key.append))
        letter = yield from blank(letter, keep)
        expect(letter, ":")
        keep(letter)
        letter = yield from blank((yield), keep)
        letter = yield from member(json.loads("".join(key)), letter)
        letter = yield from blank(letter, keep)
        if letter == ",":
            keep(letter)
            letter = yield from blank((yield), keep)
            expect(letter, '"')
        else:
            expect(letter, "}")
    keep(letter)
    return (yield)


def array(letter: str, keep: Keep, depth: int = 0) -> Reading:
    """A list of values."""
    keep(letter)
    letter = yield from blank((yield), keep)
    while letter != "]":
        letter = yield from value(letter, keep, depth + 1)
        letter = yield from blank(letter, keep)
        if letter == ",":
            keep(letter)
            letter = yield from blank((yield), keep)
            if letter == "]":
                raise Broken
        else:
            expect(letter, "]")
    keep(letter)
    return (yield)


def string(letter: str, keep: Keep) -> Reading:
    """A string with its quotes; its escapes stay as they are."""
    expect(letter, '"')
    keep(letter)
    while (letter := (yield)) != '"':
        if letter < " ":  # the end, too
            raise Broken
        keep(letter)
        if letter == "\\":
            letter = yield
            allowed(letter, ESCAPES, keep)
            for _ in range(4 if letter == "u" else 0):
                allowed((yield), HEX, keep)
    keep(letter)
    return (yield)


def number(letter: str, keep: Keep) -> Reading:
    """A number: minus, digits without a zero before them, a fraction, an exponent."""
    if letter == "-":
        keep(letter)
        letter = yield
    if letter == "0":
        keep(letter)
        letter = yield
    else:
        letter = yield from digits(letter, keep)
    if letter == ".":
        keep(letter)
        letter = yield from digits((yield), keep)
    if letter in frozenset("eE"):
        keep(letter)
        letter = yield
        if letter in frozenset("+-"):
            keep(letter)
            letter = yield
        letter = yield from digits(letter, keep)
    return letter


def digits(letter: str, keep: Keep) -> Reading:
    """At least one digit of a number."""
    allowed(letter, DIGITS, keep)
    while (letter := (yield)) in DIGITS:
        keep(letter)
    return letter


def word(letter: str, keep: Keep) -> Reading:
    """One of true, false and null."""
    for wanted in WORDS[letter]:
        expect(letter, wanted)
        keep(letter)
        letter = yield
    return letter


def allowed(letter: str, letters: frozenset[str], keep: Keep) -> None:
    """Keeps a letter that is one of these. Raises Broken for another one."""
    if letter not in letters:
        raise Broken
    keep(letter)


def both(one: Keep, other: Keep) -> Keep:
    """Keeps each letter in two places."""

    def keep(letter: str) -> None:
        one(letter)
        other(letter)

    return keep
