"""What a call leaves to the collector of garbage: nothing, unless the engine fails or the answer takes too long.

A circle of references (an error in a variable of a frame that its own traceback has) waits for a full collection, and
meanwhile no thread runs: of a flood of refused calls each left 73 objects, and a collection held the server for 0.1 s.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import Any

import pytest
from http_calls import Served

from tinyinfer.server.admission import Admission
from tinyinfer.server.errors import APIError

TOKENS = {"prompt": [5] * 8, "max_tokens": 2}
TALK = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
CALLS: dict[str, tuple[str, dict[str, Any], int]] = {
    "whole": ("/v1/completions", TOKENS, 200),
    "streamed": ("/v1/completions", {**TOKENS, "stream": True}, 200),
    "two answers": ("/v1/completions", {**TOKENS, "n": 2, "seed": 1}, 200),
    "a conversation": ("/v1/chat/completions", TALK, 200),
    "a response": ("/v1/responses", {"input": "hi", "max_output_tokens": 2}, 200),
    "a wrong field": ("/v1/completions", {**TOKENS, "max_tokens": "x"}, 400),
    "a prompt that is too long": ("/v1/completions", {**TOKENS, "prompt": [5] * 30_000}, 400),
    "a token that is none": ("/v1/completions", {**TOKENS, "prompt": [10**9]}, 400),
    "a regular expression that is none": ("/v1/completions", {**TOKENS, "structured_outputs": {"regex": "a("}}, 400),
    "a schema that is none": ("/v1/completions", {**TOKENS, "structured_outputs": {"json": {"type": "nothing"}}}, 400),
    "no tokens": ("/detokenize", {}, 400),
    "tokens": ("/detokenize", {"tokens": [5]}, 200),
    "another model": ("/v1/completions", {**TOKENS, "model": "other"}, 404),
    "no such path": ("/v1/other", {}, 404),
}  # fmt: skip


def left_by(served: Served, name: str, status: int) -> dict[str, int]:
    """The kinds of the objects that each of five calls leaves for a collection, all in one event loop.

    What comes less often is of another thread, or of a test before.
    """
    path, body, _ = CALLS[name]

    async def calls(count: int) -> None:
        for _ in range(count):
            assert (await served.asked(path, body)).status == status

    async def collected() -> dict[str, int]:
        await calls(1)  # what is made once is made
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await calls(5)
            gc.collect()
            found = Counter(type(one).__qualname__ for one in gc.garbage)
            return {kind: count for kind, count in found.items() if count >= 5}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    return asyncio.run(collected())


def leaves_nothing(served: Served, name: str, status: int) -> bool:
    """Whether one of three tries leaves nothing: a circle of the calls is in each, that of another test is not."""
    return any(not left_by(served, name, status) for _ in range(3))


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_no_circle(served: Served, name: str) -> None:
    """Catches an error, a request or a connection that keeps itself alive."""
    assert leaves_nothing(served, name, CALLS[name][2])


def test_a_refused_call_leaves_no_circle(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a server that stands still the longer, the more calls it refuses."""

    def full(self: Admission) -> None:
        raise APIError(429, "full", retry_after="1")

    monkeypatch.setattr(Admission, "check", full)
    assert leaves_nothing(served, "whole", 429)
