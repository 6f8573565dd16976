"""Server-sent events: how an answer reaches a client while it is made (WHATWG HTML, "Server-sent events").

An event is a line `data: ...`, of which a stream here holds JSON, perhaps after a line that names its kind, and then an
empty line. A line that begins with a colon is a comment, which says that the connection lives.
"""

from __future__ import annotations

import json
from typing import Any

COMMENT = b": the answer is being computed\n\n"
DONE = b"data: [DONE]\n\n"  # the last one of a stream of chunks


def encoded(value: Any) -> bytes:
    """JSON in UTF-8, as short as can be."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


def event(value: dict[str, Any]) -> bytes:
    """An event without a name."""
    return b"data: " + encoded(value) + b"\n\n"


def named_event(value: dict[str, Any]) -> bytes:
    """An event that is named by its type."""
    return b"event: " + value["type"].encode() + b"\n" + event(value)
