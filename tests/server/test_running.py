"""Clients that leave, at every moment: what they held is free within a step, and others do not notice."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from golden import write_hf_folder
from http_calls import JSON, Answer, Served, eventually, talk, together
from listening import listening
from openai import APITimeoutError, OpenAI

from tinyinfer import LLM
from tinyinfer.server.running import Running

STREAMED = json.dumps(talk(ignore_eos=True, stream=True)).encode()
PATHS_STREAMED = "/v1/chat/completions", STREAMED
TWO = {"prompt": ["a", "b"], "max_tokens": 9000, "ignore_eos": True}
PATHS = [("/v1/chat/completions", talk(ignore_eos=True)), ("/v1/completions", TWO)]


async def leaving(served: Served, path: str, body: dict[str, Any], pieces: int) -> Answer:
    """A client that leaves after so many pieces of its stream."""
    seen = list[bytes]()

    def leave(piece: bytes) -> bool:
        seen.append(piece)
        return len(seen) > pieces

    return await served.asked(path, {**body, "stream": True}, leave)


@pytest.mark.parametrize("pieces", [0, 1, 7])
@pytest.mark.parametrize(("path", "body"), PATHS, ids=["chat", "completions"])
def test_13_a_stream_that_is_left_gives_its_blocks_back(served: Served, path: str, body: Any, pieces: int) -> None:
    """Catches a request that goes on to its 9,000 tokens unread."""
    asyncio.run(leaving(served, path, body, pieces))
    assert eventually(served.at_rest)
    assert served.number("generation_tokens_total") < 200
    assert served.number("request_success_total", finished_reason="abort") == (2 if "prompt" in body else 1)


@pytest.mark.parametrize(("path", "body"), PATHS, ids=["chat", "completions"])
def test_13_a_whole_answer_whose_client_leaves_gives_its_blocks_back(served: Served, path: str, body: Any) -> None:
    """Not one byte has gone out yet. Catches a server that looks at the connection only when it writes."""

    async def story() -> Answer:
        gone = asyncio.Event()
        call = asyncio.create_task(served.ask("POST", path, json.dumps(body).encode(), JSON, gone=gone))
        while not served.llm.engine.scheduler.running:
            await asyncio.sleep(0.001)
        gone.set()
        return await call

    assert asyncio.run(story()).status == 0
    assert eventually(served.at_rest)
    assert "status=499" in served.lines[-1]


@pytest.mark.parametrize("stream", [False, True])
def test_24_a_client_that_leaves_ends_all_answers_to_its_prompt(served: Served, stream: bool) -> None:
    """Catches the answers behind the first one that go on unread, and blocks that wait for them."""

    async def story() -> Answer:
        gone = asyncio.Event()
        body = json.dumps({"prompt": "hello", "n": 6, "max_tokens": 9000, "ignore_eos": True, "stream": stream})
        call = asyncio.create_task(served.ask("POST", "/v1/completions", body.encode(), JSON, gone=gone))
        while len(served.llm.engine.scheduler.running) < 4:
            await asyncio.sleep(0.001)
        gone.set()
        return await call

    asyncio.run(story())
    assert eventually(served.at_rest)
    assert not served.llm.engine.scheduler.kept
    assert served.number("request_success_total", finished_reason="abort") == 6


def test_14_the_next_request_of_a_conversation_that_was_left_is_right(served: Served) -> None:
    """Its prefix was half computed. Catches blocks in the tree that were never filled."""
    alone = served.chat("a long question " * 20, max_tokens=12).json["choices"][0]["message"]["content"]
    served.llm.engine.forget_prefixes()
    asyncio.run(leaving(served, "/v1/chat/completions", talk("a long question " * 20), 0))
    again = served.chat("a long question " * 20, max_tokens=12).json["choices"][0]["message"]["content"]
    assert again == alone


def test_23_a_client_that_gives_up_and_asks_again_is_computed_once(served: Served) -> None:
    """openai's client tries again after its timeout. Catches the first try that goes on beside the second."""
    for _ in range(5):
        asyncio.run(leaving(served, "/v1/chat/completions", talk(ignore_eos=True), 1))
    assert served.chat(max_tokens=3, ignore_eos=True).json["usage"]["completion_tokens"] == 3
    assert served.service.admission.open == 0
    assert eventually(lambda: not served.llm.engine.scheduler.members)


def test_23_openais_own_retries_after_its_timeout_leave_one_request(served: Served) -> None:
    """The client closes its connection before it asks again, so the try before gives all back. Catches tries that add
    up: of three, with the client's defaults but for the timeout, two more would run beside each other.
    """
    tries, at_once = list[str](), list[int]()
    began, running = served.service.metrics.began, served.llm.engine.scheduler.members

    def watched(requests: Any) -> None:
        at_once.append(len(running))
        began(requests)

    served.service.metrics.began = watched  # type: ignore[method-assign]
    with listening(served) as address:
        client = OpenAI(base_url=f"{address}/v1", api_key="none", timeout=0.5)
        client._client.event_hooks["request"] = [lambda request: tries.append(request.headers["x-request-id"])]
        with pytest.raises(APITimeoutError):
            client.completions.create(
                model="tiny", prompt="hello", max_tokens=19_000, extra_body={"ignore_eos": True},
                extra_headers={"X-Request-Id": "the same"},
            )  # fmt: skip
        assert eventually(served.at_rest)
    assert tries == ["the same"] * (1 + client.max_retries) == ["the same"] * 3
    assert len(at_once) == 3
    assert max(at_once) <= 1
    assert served.number("generation_tokens_total") < 19_000


def test_a_client_that_leaves_while_its_prompt_is_tokenized_starts_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread cannot be stopped, so what it brings is cancelled. Catches a request that nothing reads."""
    go, made = Event(), list[Any]()
    encode, submit = served.llm.tokenizer.encode, Running._submit

    def slow(*args: Any, **more: Any) -> list[int]:
        assert go.wait(10)
        return encode(*args, **more)

    def watched(self: Running, *args: Any) -> Any:
        made.extend(submit(self, *args))
        return made

    monkeypatch.setattr(served.llm.tokenizer, "encode", slow)
    monkeypatch.setattr(Running, "_submit", watched)

    async def story() -> None:
        gone = asyncio.Event()
        body = b'{"prompt": "x", "max_tokens": 9000, "ignore_eos": true}'
        call = asyncio.create_task(served.ask("POST", "/v1/completions", body, JSON, gone=gone))
        await asyncio.sleep(0.05)
        gone.set()
        assert (await call).status == 0
        go.set()

    asyncio.run(story())
    assert eventually(lambda: bool(made) and all(request.finish_reason == "abort" for request in made))
    assert eventually(served.at_rest)


def test_17_health_and_metrics_answer_while_a_prompt_is_tokenized(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer waits until they have answered. Catches tokenizing on the thread that serves all connections."""
    answered, encode = Event(), served.llm.tokenizer.encode

    def slow(*args: Any, **more: Any) -> list[int]:
        assert answered.wait(10), "nothing else was answered meanwhile"
        return encode(*args, **more)

    monkeypatch.setattr(served.llm.tokenizer, "encode", slow)

    async def story() -> Answer:
        call = asyncio.create_task(served.asked("/v1/completions", {"prompt": "x" * 1000, "max_tokens": 2}))
        await asyncio.sleep(0.02)
        for path in ("/health", "/ready", "/metrics", "/v1/models"):
            assert (await served.ask("GET", path, b"", {"host": "localhost"})).status == 200
        answered.set()
        return await call

    assert asyncio.run(story()).status == 200


def test_17_health_answers_and_new_calls_get_in_while_a_step_computes(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step waits until they have. Health means alive, not idle. Catches an event loop that waits for the engine."""
    answered, step = Event(), served.llm.engine.step

    def slow(*args: Any) -> Any:
        assert answered.wait(10), "nothing else was answered meanwhile"
        return step(*args)

    monkeypatch.setattr(served.llm.engine, "step", slow)

    async def story() -> list[Answer]:
        bodies = [{"prompt": "x" * 500, "max_tokens": 1}, {"prompt": "y", "max_tokens": 2, "stream": True}]
        calls = [asyncio.create_task(served.asked("/v1/completions", body)) for body in bodies]
        while len(served.service.metrics.open) < 2:
            await asyncio.sleep(0.001)
        for path in ("/health", "/ready", "/metrics", "/v1/models"):
            assert (await served.ask("GET", path, b"", {"host": "localhost"})).status == 200
        answered.set()
        return list(await asyncio.gather(*calls))

    assert [answer.status for answer in asyncio.run(story())] == [200, 200]


def test_a_stream_lives_while_its_prompt_is_computed(served_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies cut what is silent: a comment comes, which clients pass over."""
    served, go = Served(served_llm, patience=0.01), Event()
    step = served_llm.engine.step

    def slow(*args: Any) -> Any:
        assert go.wait(10)
        return step(*args)

    monkeypatch.setattr(served_llm.engine, "step", slow)

    def seen(piece: bytes) -> bool:
        if piece.startswith(b":"):
            go.set()
        return False

    answer = asyncio.run(served.asked("/v1/chat/completions", talk(max_tokens=3, stream=True), seen))
    assert answer.pieces[0].startswith(b": ")
    assert answer.choices[-1]["finish_reason"] in ("length", "stop")


def test_22_answers_are_the_same_alone_and_under_load_streamed_and_whole(served: Served) -> None:
    """Greedy. Catches answers that are mixed up, and a stream that loses what came while it waited."""
    prompts = [f"{n} bottles " * (n + 1) for n in range(6)]
    alone = [served.complete(prompt, max_tokens=15).json["choices"][0]["text"] for prompt in prompts]
    bodies = [{"prompt": p, "max_tokens": 15, "temperature": 0, "stream": s} for p in prompts for s in (False, True)]
    answers = together(*(served.asked("/v1/completions", body) for body in bodies))
    texts = [
        "".join(one["text"] for one in answer.choices) if body["stream"] else answer.json["choices"][0]["text"]
        for answer, body in zip(answers, bodies, strict=True)
    ]
    assert texts == [text for text in alone for _ in range(2)]


def test_15_a_prompt_that_can_never_fit_ends_at_once_and_the_others_run(served: Served) -> None:
    """Catches one that waits for room for ever, and those that wait behind it."""
    calls = [served.asked("/v1/completions", {"prompt": "x" * n, "max_tokens": 2}) for n in (30_000, 10)]
    long, short = together(*calls)
    assert (long.status, long.error["code"]) == (400, "context_length_exceeded")
    assert short.status == 200


def test_16_and_19_under_preemption_all_end_and_each_prompt_is_counted_once(tmp_path: Path) -> None:
    """Room for less than two. Catches requests that preempt each other for ever, and hit counters that count waits."""
    folder = write_hf_folder("llama", tmp_path)
    served = Served(LLM(str(folder), kv_cache="paged", num_blocks=12, block_size=4, prefix_cache=True))
    body = {"max_tokens": 30, "temperature": 0, "ignore_eos": True}
    prompts = [[5 + n] * 10 for n in range(3)]
    alone = [served.post("/v1/completions", {**body, "prompt": p}).json["choices"][0]["text"] for p in prompts]
    answers = together(*(served.asked("/v1/completions", {**body, "prompt": p}) for p in prompts))
    assert [answer.json["choices"][0]["text"] for answer in answers] == alone
    assert served.number("num_preemptions_total") > 0
    assert served.number("prefix_cache_queries_total") == served.number("prompt_tokens_total") == 60
    assert served.number("request_success_total") == 6


def test_a_request_that_takes_too_long_is_ended(served_llm: LLM) -> None:
    """Whole: a status. Streamed: an event with the error, since the status has gone out."""
    served = Served(served_llm, request_timeout=0.05)
    whole = served.chat(ignore_eos=True)
    assert (whole.status, whole.error["type"]) == (504, "timeout_error")
    chunks = served.chat(ignore_eos=True, stream=True).chunks
    assert chunks[-1]["error"]["type"] == "timeout_error"
    assert eventually(served.at_rest)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("leaves", [False, True])
def test_tokens_of_a_whole_answer_that_is_cut_are_counted(
    served_llm: LLM, monkeypatch: pytest.MonkeyPatch, n: int, leaves: bool
) -> None:
    """By time, or by a client that leaves, between two looks at the answer. Right: what the engine computed, but for
    the step that it is in. Catches tokens that are in no number, most of them with several answers.
    """
    monkeypatch.setattr("tinyinfer.server.answer.LOOKS", 1000.0)
    served = Served(served_llm, request_timeout=None if leaves else 0.3)
    served_llm.engine.forget_prefixes()
    before, body = served_llm.ledger.copy(), {"prompt": [5] * 8, "n": n, "ignore_eos": True}

    async def story() -> None:
        gone = asyncio.Event()
        data = json.dumps({**body, "max_tokens": 9000}).encode()
        call = asyncio.create_task(served.ask("POST", "/v1/completions", data, JSON, gone=gone))
        while leaves and (served_llm.ledger - before).steps < 20:
            await asyncio.sleep(0.005)
        if leaves:
            gone.set()
        await call

    asyncio.run(story())
    assert eventually(served.at_rest)
    computed = (served_llm.ledger - before).tokens_computed - 8  # rows of answers: all tokens but the last of each
    assert computed > 5 * n
    assert served.number("generation_tokens_total") >= computed - n
    assert served.number("request_success_total", finished_reason="abort" if leaves else "error") == n
    assert f"finished={','.join(['abort' if leaves else 'error'] * n)}" in served.lines[0]


@pytest.mark.parametrize("request_timeout", [None, 0.2])
def test_a_client_that_reads_nothing_loses_its_place(served_llm: LLM, request_timeout: float | None) -> None:
    """Its connection stays open, and takes no byte. Catches an answer that waits for it for ever, with its blocks and
    its place in the queue, and the end of the server with it.
    """
    served = Served(served_llm, stalled=0.3, request_timeout=request_timeout)

    async def story() -> None:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) > 3:
                await asyncio.Event().wait()

        await asyncio.wait_for(served.ask("POST", *PATHS_STREAMED, JSON, taken=send), 20)

    asyncio.run(story())
    assert eventually(served.at_rest)
    assert "status=" in served.lines[-1]


def test_an_error_of_the_engine_in_an_answer_is_not_the_callers(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a bug here that is told as a mistake in the prompt, and of which the log says nothing."""

    def failing(*more: Any) -> Any:
        raise ValueError("internal value")

    with monkeypatch.context() as patch:
        patch.setattr(served.llm.engine, "step", failing)
        answer = served.complete(max_tokens=3)
        assert (answer.status, answer.error["param"]) == (500, None)
        assert "internal value" not in answer.error["message"]
    assert "exception=\"ValueError: internal value\"" in served.lines[-1]
    assert served.complete(max_tokens=3).status == 200


LONG = json.dumps({"prompt": "x", "max_tokens": 1, "user": "u" * 100_000}).encode()


@pytest.mark.parametrize(("path", "name"), [("/v1/completions", "service.parse"), ("/tokenize", "service.parse"),
                                            ("/tokenize", "endpoints.encoded")])  # fmt: skip
def test_17_health_answers_while_a_long_body_is_read_or_a_long_answer_is_written(
    served: Served, monkeypatch: pytest.MonkeyPatch, path: str, name: str
) -> None:
    """Megabytes of small values take a second. Catches JSON of any length on the thread that serves all connections."""
    module, _, function = name.partition(".")
    place, answered = importlib.import_module("tinyinfer.server." + module), Event()
    work = getattr(place, function)

    def slow(value: Any) -> Any:
        assert answered.wait(10), "nothing else was answered meanwhile"
        return work(value)

    monkeypatch.setattr(place, function, slow)

    async def story() -> Answer:
        call = asyncio.create_task(served.asked(path, LONG))
        await asyncio.sleep(0.02)
        assert (await served.ask("GET", "/health", b"", {"host": "localhost"})).status == 200
        answered.set()
        return await call

    assert asyncio.run(story()).status == 200


def test_answers_that_are_sent_whole_seldom_wake_the_event_loop(served: Served) -> None:
    """Catches a system call of the engine's thread for each token of each connection."""
    woken = list[int]()

    async def story() -> list[Answer]:
        tasks = asyncio.get_running_loop()
        wake = tasks.call_soon_threadsafe

        def counted(*args: Any, **more: Any) -> Any:
            woken.append(threading.get_ident())
            return wake(*args, **more)

        tasks.call_soon_threadsafe = counted  # type: ignore[method-assign]
        body = {"prompt": "x", "max_tokens": 60, "ignore_eos": True}
        return list(await asyncio.gather(*(served.asked("/v1/completions", body) for _ in range(4))))

    before = served.llm.ledger.steps
    answers = asyncio.run(story())
    steps = served.llm.ledger.steps - before
    assert [answer.status for answer in answers] == [200] * 4
    engine = max(map(woken.count, set(woken)))  # its thread; those of the pool wake once for each prompt
    assert engine < steps < 4 * 60
