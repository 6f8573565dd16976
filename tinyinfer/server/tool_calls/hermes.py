"""Hermes: each call is JSON between <tool_call> and </tool_call>, with text before, between and behind.

Written by Hermes 2 Pro and later ones, and by Qwen 2.5 and Qwen 3 (Nous Research, "Hermes Function Calling"; the chat
templates of both families).
"""

from __future__ import annotations

from tinyinfer.server.tool_calls.calls import Calls
from tinyinfer.server.tool_calls.json_call import call
from tinyinfer.server.tool_calls.json_letters import Reading, blank
from tinyinfer.server.tool_calls.splitter import Format


def rules(calls: Calls) -> Reading:
    """What stands between the marks."""
    letter = yield from blank((yield))
    return (yield from call(letter, calls))


CALL = '<tool_call>\n{"name": "NAME", "arguments": ARGUMENTS}\n</tool_call>'
HERMES = Format("<tool_call>", rules, CALL, ends=("</tool_call>",), between="\n")
