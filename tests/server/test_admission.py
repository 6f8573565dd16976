"""A bounded queue: one more is told to come later, and a server that ends takes nothing and loses nothing."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from threading import Event
from typing import Any

import pytest
from http_calls import JSON, Answer, Served, eventually, talk, together

from tinyinfer import LLM
from tinyinfer.server.admission import LONGEST_WAIT, Admission
from tinyinfer.server.errors import APIError


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_places_are_counted_and_given_back() -> None:
    admission, clock = Admission(running=1, waiting=2), Clock()
    with admission.enter(2, clock):
        with admission.enter(1, clock), pytest.raises(APIError) as caught, admission.enter(1, clock):
            pytest.fail("there were three places")
        assert (caught.value.status, caught.value.headers["retry-after"]) == (429, "1")
        assert admission.open == 2
    assert admission.open == 0


def test_retry_after_is_what_a_place_lately_took() -> None:
    """Bounded on both sides. Catches a client that is told to come back in no time, or never."""
    admission, clock = Admission(running=2, waiting=1), Clock()
    for seconds in [40.0] * 60:
        with admission.enter(1, clock):
            clock.now += seconds
    assert admission.retry_after == 20
    for _ in range(100):
        with admission.enter(1, clock):
            clock.now += 1e6
    assert admission.retry_after == LONGEST_WAIT


def test_more_prompts_than_places_are_a_mistake_and_no_reason_to_wait() -> None:
    """429 would let the client try for ever."""
    with pytest.raises(APIError) as caught, Admission(1, 2).enter(4, Clock()):
        pytest.fail("there were three places")
    assert caught.value.status == 400


def test_draining_takes_nothing_more_and_tells_when_the_last_has_left() -> None:
    admission, ended = Admission(2, 2), list[str]()
    with ExitStack() as first:
        first.enter_context(admission.enter(1, Clock()))
        admission.drain(lambda: ended.append("idle"))
        assert not ended
        with pytest.raises(APIError) as caught, admission.enter(1, Clock()):
            pytest.fail("nothing more gets in")
        assert caught.value.status == 503
    assert ended == ["idle"]


@pytest.mark.parametrize(("fields", "param"), [({"n": 6}, "n"), ({"prompt": ["x"] * 6}, "prompt")])
def test_more_answers_than_places_name_the_field_that_asks_for_them(
    served_llm: LLM, fields: dict[str, Any], param: str
) -> None:
    """Catches an error that names a prompt of one text, which the caller cannot shorten."""
    answer = Served(served_llm, max_queue=1).complete(**fields)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert answer.error["message"].startswith(f"{param} ")


def test_a_full_queue_is_429_and_those_that_are_in_lose_nothing(served_llm: LLM) -> None:
    """Ten at once where five fit. Catches a request that is let in and then lost, and a count that does not add up."""
    served = Served(served_llm, max_queue=1)
    answers = together(*(served.asked("/v1/chat/completions", talk(max_tokens=20, ignore_eos=True)) for _ in range(10)))
    assert sorted(answer.status for answer in answers) == [200] * 5 + [429] * 5
    assert {answer.json["usage"]["completion_tokens"] for answer in answers if answer.status == 200} == {20}
    for answer in answers:
        if answer.status == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.error["type"] == "rate_limit_error"
    assert served.number("admission_rejections_total", reason="queue_full") == 5
    assert served.number("request_success_total") == 5
    assert eventually(served.at_rest)


def test_a_drain_ends_streams_at_their_own_end(served: Served) -> None:
    """What is in goes on, /ready says 503, /health 200, and what comes is told to go elsewhere."""
    ended = list[str]()

    async def story() -> None:
        begun = asyncio.Event()

        def first(piece: bytes) -> bool:
            begun.set()
            return False

        body = talk(max_tokens=40, ignore_eos=True, stream=True)
        stream = asyncio.create_task(served.asked("/v1/chat/completions", body, leave=first))
        assert (await served.ask("GET", "/ready", b"", {"host": "localhost"})).status == 200
        await begun.wait()
        served.service.admission.drain(lambda: ended.append("idle"))
        assert (await served.ask("GET", "/ready", b"", {"host": "localhost"})).status == 503
        assert (await served.ask("GET", "/health", b"", {"host": "localhost"})).status == 200
        late = await served.asked("/v1/chat/completions", body)
        assert (late.status, late.error["type"]) == (503, "service_unavailable_error")
        assert not ended
        answer = await stream
        assert answer.choices[-1]["finish_reason"] == "length"

    asyncio.run(story())
    assert ended == ["idle"]


async def never() -> dict[str, object]:
    """What a client sends that has stopped in the middle of its body."""
    await asyncio.Event().wait()
    return {}


def test_a_full_queue_refuses_a_call_before_its_body(served_llm: LLM) -> None:
    """Its body never comes. Catches a refusal that reads and parses first what it refuses."""
    served = Served(served_llm, max_queue=1)
    with served.service.admission.enter(5, served.service.clock):
        answer = asyncio.run(asyncio.wait_for(served.ask("POST", "/v1/completions", b"", JSON, receives=never), 5))
    assert answer.status == 429
    assert served.number("admission_rejections_total") == 1


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
def test_no_more_bodies_are_on_their_way_than_there_are_places(served_llm: LLM, path: str) -> None:
    """Clients that send all but the last byte. Catches a server whose memory they fill, a queue of one before it; and
    bodies of /tokenize that keep out answers.
    """
    served = Served(served_llm, max_queue=1)
    places = served.service.small.most if path == "/tokenize" else served.service.admission.most

    async def story() -> Answer:
        half = [asyncio.create_task(served.ask("POST", path, b"", JSON, receives=never)) for _ in range(places)]
        await asyncio.sleep(0.02)
        assert not any(call.done() for call in half)
        answer = await asyncio.wait_for(served.ask("POST", path, b"", JSON, receives=never), 5)
        if path == "/tokenize":
            assert (await served.asked("/v1/completions", {"prompt": "x", "max_tokens": 1})).status == 200
        for call in half:
            call.cancel()
        await asyncio.gather(*half, return_exceptions=True)
        assert (await served.asked(path, {"prompt": "x"})).status == 200
        return answer

    answer = asyncio.run(story())
    assert (answer.status, answer.error["code"]) == (429, "queue_full")
    assert served.number("admission_rejections_total", reason="queue_full") == 1


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize", "/detokenize"])
def test_a_draining_server_waits_for_no_body_that_begins(served: Served, path: str) -> None:
    """Catches small calls that a server takes while it ends, and 30 seconds that it waits for their bodies."""
    served.service.admission.drain(lambda: None)
    answer = asyncio.run(asyncio.wait_for(served.ask("POST", path, b"", JSON, receives=never), 5))
    assert (answer.status, answer.error["type"]) == (503, "service_unavailable_error")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_a_drain_refuses_a_body_that_is_half_here(served: Served, path: str) -> None:
    """At once: catches a server that ends only when the body has had its 30 seconds."""

    async def story() -> Answer:
        call = asyncio.create_task(served.ask("POST", path, b"", JSON, receives=never))
        await asyncio.sleep(0.02)
        served.service.admission.drain(lambda: None)
        return await asyncio.wait_for(call, 5)

    answer = asyncio.run(story())
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert served.number("admission_rejections_total", reason="draining") == 1


def test_calls_for_tokens_have_a_queue_of_their_own(served_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time, so many wait, more are told to come later; answers go on. Catches a flood that fills all threads.
    """
    served, go, encode = Served(served_llm, max_queue=2), Event(), served_llm.tokenizer.encode

    def slow(text: str, *args: object) -> list[int]:
        assert text != "slow" or go.wait(10)
        return encode(text, *args)

    monkeypatch.setattr(served_llm.tokenizer, "encode", slow)

    async def story() -> list[Answer]:
        calls = [asyncio.create_task(served.asked("/tokenize", {"prompt": "slow"})) for _ in range(5)]
        await asyncio.sleep(0.02)
        monkeypatch.undo()
        assert (await served.asked("/v1/completions", {"prompt": "x", "max_tokens": 2})).status == 200
        go.set()
        return list(await asyncio.gather(*calls))

    assert sorted(answer.status for answer in asyncio.run(story())) == [200] * 3 + [429] * 2
