"""Llama 3: a call is a bare JSON object, {"name": ..., "parameters": {...}}; several have a semicolon between them.

There is no mark but the brace, so that an object at the beginning of a line is a call until its first key says
otherwise, and one inside a text is text. The special token <|python_tag|>, which some models write first, is no text.
Written by Llama 3.1, 3.2 and 3.3 (Meta's "Llama 3.1 prompt formats", JSON based tool calling).
"""

from __future__ import annotations

from tinyinfer.server.tool_calls.calls import Calls
from tinyinfer.server.tool_calls.json_call import call
from tinyinfer.server.tool_calls.json_letters import Reading
from tinyinfer.server.tool_calls.splitter import Format


def rules(calls: Calls) -> Reading:
    """The object whose brace has opened it."""
    return (yield from call("{", calls))


CALL = '{"name": "NAME", "parameters": ARGUMENTS}'
LLAMA3_JSON = Format("{", rules, CALL, ends=(";",), own_line=True, between="; ")
