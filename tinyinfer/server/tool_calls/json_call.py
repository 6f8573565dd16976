"""A call as a JSON object: {"name": "get_weather", "arguments": {"city": "Paris"}}.

Three of the four formats write it, with other marks around it. Arguments reach the client as the model wrote them,
letter by letter: reading them and writing them again would change numbers, escapes and the order of keys.
"""

from __future__ import annotations

import json
from functools import partial

from tinyinfer.server.tool_calls.calls import Calls
from tinyinfer.server.tool_calls.json_letters import Broken, Reading, expect, ignore, members, string, value

ARGUMENTS = ("arguments", "parameters")
BEFORE_THE_NAME = ("type", "id")  # other keys that may be first; any other object is no call


def call(letter: str, calls: Calls) -> Reading:
    """One object that is a call. Raises Broken for any other one."""
    letter = yield from members(letter, ignore, partial(member, calls))
    calls.close()
    return letter


def member(calls: Calls, key: str, letter: str) -> Reading:
    """The value of one key of a call."""
    if key == "name":
        name: list[str] = []
        letter = yield from string(letter, name.append)
        calls.named(json.loads("".join(name)))
        return letter
    if key in ARGUMENTS:
        return (yield from arguments(letter, calls))
    if calls.has_name or key in BEFORE_THE_NAME:
        return (yield from value(letter, ignore))
    raise Broken


def arguments(letter: str, calls: Calls) -> Reading:
    """The arguments of a call: an object. Raises Broken for any other value."""

    def argument(key: str, letter: str) -> Reading:
        calls.sure()
        return (yield from value(letter, calls.argue))

    expect(letter, "{")
    letter = yield from members(letter, calls.argue, argument)
    calls.whole()
    return letter
