"""Mistral: [TOOL_CALLS] and a list of JSON objects, or, in newer models, [TOOL_CALLS]name[ARGS]{...} for each call.

The marks are special tokens, which are no text elsewhere, so that they must be spelled for the parser. The templates
refuse an id that is not of nine letters and digits (mistral-common, "tokenizers" v3 to v13).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import replace
from string import ascii_letters, digits

from tinyinfer.server.tool_calls.calls import Calls
from tinyinfer.server.tool_calls.json_call import arguments, call
from tinyinfer.server.tool_calls.json_letters import Broken, Reading, blank, expect
from tinyinfer.server.tool_calls.splitter import Format

HEAD = re.compile(r"([\w.-]{1,64})(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?\s*")
LONGEST_HEAD = 200


def rules(calls: Calls) -> Reading:
    """A list of calls, or one call with its name before its arguments."""
    letter = yield from blank((yield))
    if letter != "[":
        return (yield from named(letter, calls))
    while letter != "]":
        letter = yield from blank((yield))
        letter = yield from call(letter, calls)
        letter = yield from blank(letter)
        if letter != ",":
            expect(letter, "]")
    return (yield)


def named(letter: str, calls: Calls) -> Reading:
    """One name[ARGS]{...}, where the mark is not in every model."""
    head = ""
    while letter != "{":
        head += letter
        if not letter or len(head) > LONGEST_HEAD:
            raise Broken
        letter = yield
    found = HEAD.fullmatch(head)
    if found is None:
        raise Broken
    calls.named(found[1])
    letter = yield from arguments(letter, calls)
    calls.close()
    return letter


def nine_letters() -> str:
    """An id as the templates want one."""
    return "".join(secrets.choice(ascii_letters + digits) for _ in range(9))


MARKS = ("[CALL_ID]", "[ARGS]")
MISTRAL = Format(
    "[TOOL_CALLS]", rules, '{"name": "NAME", "arguments": ARGUMENTS}', marks=MARKS, new_id=nine_letters,
    before="[TOOL_CALLS][", between=", ", after="]",
)  # fmt: skip
NEWER_MISTRAL = replace(MISTRAL, call="[TOOL_CALLS]NAME[ARGS]ARGUMENTS", before="", between="", after="")
