"""Bodies that are no JSON, too long or too slow: a status and a sentence, and the engine goes on."""

from __future__ import annotations

import asyncio

import pytest
from http_calls import JSON, Served

from tinyinfer import LLM
from tinyinfer.server.admission import Admission
from tinyinfer.server.body import ClientGone, read_body
from tinyinfer.server.errors import APIError

BAD = [b"", b"{", b"[1]", b"null", b'"x"', b"5", b"\xff\xfe", b'{"prompt": "\xff"}', b'{"prompt": NaN}',
       b'{"prompt": 1' + b"0" * 5000 + b"}",
       b"[" * 100_000, b'{"a":' * 50_000, b'{"prompt": "x"} trailing', b"{'prompt': 'x'}"]  # fmt: skip


@pytest.mark.parametrize("body", BAD, ids=[str(n) for n in range(len(BAD))])
def test_a_body_that_is_no_json_object_is_400(served: Served, body: bytes) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        answer = served.post(path, body)
        assert answer.status == 400
        assert answer.error["type"] == "invalid_request_error"
        assert len(answer.error["message"]) < 300
        assert "sys." not in answer.error["message"], "what Python's programmer may set is no advice for a caller"
    assert served.complete(max_tokens=1).status == 200


def test_a_body_that_says_it_is_too_long_is_refused_unread(served_llm: LLM) -> None:
    """By its header, and by its bytes where the header says nothing. The connection ends: the rest is not read."""
    served = Served(served_llm, max_body=100)
    for answer in (served.post("/v1/completions", {}, content_length="101"), served.complete("x" * 101)):
        assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert served.complete(max_tokens=1).status == 200


def test_a_body_that_comes_too_slowly_is_given_up() -> None:
    """A byte a minute would hold a place for ever (slow loris)."""

    async def never() -> dict[str, object]:
        await asyncio.Event().wait()
        return {}

    with pytest.raises(APIError, match="not here within") as caught:
        asyncio.run(Admission(1, 1).arrived(read_body(JSON, never, 100), 0.01))
    assert caught.value.status == 408


def test_a_client_that_leaves_in_its_body_leaves_nothing(served: Served) -> None:
    messages = iter([{"type": "http.request", "body": b'{"pro', "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, object]:
        return next(messages)

    with pytest.raises(ClientGone):
        asyncio.run(read_body(JSON, receive, 100))
    assert served.at_rest()
