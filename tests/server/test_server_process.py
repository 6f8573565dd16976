"""The command as a process: OpenAI's own client, signals, and a port that is taken."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import pytest
from cli_helpers import folder, posix, start, unopened
from http_calls import eventually
from openai import APIStatusError, OpenAI
from pydantic import BaseModel

from tinyinfer import LLM, SamplingParams
from tinyinfer.cli import main
from tinyinfer.cli.serve import keys
from tinyinfer.replicas.on_ray import free_port

__all__ = ["folder"]
KEY = "a-key-of-a-test"
ON = {"ignore_eos": True}


class Process:
    """A server in a process of its own, ready."""

    def __init__(self, model: str, *words: str) -> None:
        self.port = free_port("127.0.0.1")
        self.process = start("serve", "-m", model, "--port", str(self.port), *words)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        until = time.monotonic() + 60
        while self.get("/health")[0] != 200:
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < until, self.lines
            time.sleep(0.05)

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines += iter(lambda: self.process.stderr.readline().decode(), "")  # type: ignore[union-attr]

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; 0 while there is no server."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {KEY}"})
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    @property
    def reading(self) -> bool:
        """Whether more lines may come."""
        return self._reader.is_alive()

    def running(self) -> float:
        """How many requests are in the engine's steps."""
        lines = self.get("/metrics")[1].splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))

    def client(self, **more: object) -> OpenAI:
        return OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=KEY, max_retries=0, timeout=60, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server(folder: str) -> Iterator[Process]:
    process = Process(folder, "--api-key", "another key", "--api-key", KEY, "--served-model-name", "tiny")
    yield process
    process.process.kill()
    process.process.wait()


def test_openais_client_completes_and_chats_whole_and_streamed(server: Process, folder: str) -> None:
    """A client that no one here wrote reads every field that it knows. Right: what LLM gives."""
    llm, client = LLM(folder), server.client()
    messages = [{"role": "user", "content": "hello"}]
    wanted = llm.chat(messages, SamplingParams(max_tokens=8)).text
    asked = {"model": "tiny", "messages": messages, "max_completion_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**asked)  # type: ignore[call-overload]
    assert whole.choices[0].message.content == wanted
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == wanted
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    text = client.completions.create(model="tiny", prompt="hello", max_tokens=4, temperature=0, logprobs=1)
    assert text.choices[0].text == llm.generate("hello", SamplingParams(max_tokens=4))[0].text
    assert text.choices[0].logprobs is not None
    assert [model.id for model in client.models.list()] == ["tiny"]
    several = client.completions.create(model="tiny", prompt=["hello", "x"], n=2, max_tokens=4, temperature=0)
    assert [choice.text for choice in several.choices[:2]] == [text.choices[0].text] * 2
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    extra = client.completions.create(model="tiny", prompt="x", max_tokens=3, extra_body={"top_k": 5, **ON})
    assert extra.usage is not None
    assert extra.usage.completion_tokens == 3


class Animal(BaseModel):
    """What a caller wants to read."""

    kind: Literal["cat", "dog"]
    old: bool


def test_openais_client_parses_a_form_of_its_own(server: Process) -> None:
    """Its helper turns a class into a schema of OpenAI's strict kind, and the answer into an object of that class."""
    client = server.client()
    messages = [{"role": "user", "content": "hello"}]
    asked = {"model": "tiny", "messages": messages, "temperature": 1, "seed": 3, "response_format": Animal}
    answer = client.chat.completions.parse(**asked)  # type: ignore[arg-type]
    assert isinstance(answer.choices[0].message.parsed, Animal)
    with client.chat.completions.stream(**asked) as stream:  # type: ignore[arg-type]
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == answer.choices[0].message.parsed
    assert final.choices[0].finish_reason == "stop"


def test_openais_client_raises_its_own_errors(server: Process) -> None:
    """By status: catches an error in another form, which the client would not read."""
    client = server.client()
    wrong = OpenAI(base_url=client.base_url, api_key="another", max_retries=0)
    for call, status in (
        (lambda: client.completions.create(model="tiny", prompt="x", temperature=-1), 400),
        (lambda: client.completions.create(model="other", prompt="x"), 404),
        (lambda: client.embeddings.create(model="tiny", input="x"), 404),
        (lambda: wrong.models.list(), 401),
    ):
        with pytest.raises(APIStatusError) as caught:
            call()
        assert caught.value.status_code == status
        assert caught.value.body["message"]  # type: ignore[index]


@pytest.mark.parametrize("stream", [False, True])
def test_13_a_client_that_closes_its_socket_is_noticed(server: Process, stream: bool) -> None:
    """Through uvicorn, while the engine computes. Right: its log line says so, and the next request is alone."""
    asked = {"prompt": "x", "max_tokens": 40_000, "ignore_eos": True, "stream": stream}
    body, before = json.dumps(asked).encode(), len(server.lines)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        assert eventually(lambda: server.running() == 1)
    assert eventually(lambda: any("finished=abort" in line for line in server.lines[before:]), 20)
    assert eventually(lambda: server.running() == 0)


@posix
def test_a_second_server_of_one_folder_ends_with_a_body_half_here(server: Process, folder: str) -> None:
    """Both read the same weights and answer the same. Catches a drain that waits 30 seconds for a body."""
    second = Process(folder, "--api-key", KEY)
    texts = [
        one.client().completions.create(model=name, prompt="hello", max_tokens=8, temperature=0).choices[0].text
        for one, name in ((server, "tiny"), (second, folder))
    ]
    assert texts[0] == texts[1]
    with socket.create_connection(("127.0.0.1", second.port)) as client:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        assert second.get("/health")[0] == 200
        second.process.send_signal(signal.SIGTERM)
        assert client.recv(65536).startswith(b"HTTP/1.1 503")
        assert second.process.wait(10) == 143


@posix
def test_sigterm_drains_and_a_second_one_ends_now(folder: str) -> None:
    """A stream that is in comes to its end; one that would take a minute is cut by the second signal."""
    process = Process(folder)
    client = process.client()
    asked = {"model": folder, "prompt": "x", "stream": True, "extra_body": ON}
    long = iter(client.completions.create(max_tokens=300, **asked))  # type: ignore[call-overload]
    next(long)
    process.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + 10
    while process.get("/ready")[0] not in (503, 0) and time.monotonic() < until:
        time.sleep(0.01)
    *_, last = long
    assert last.choices[0].finish_reason == "length"
    assert process.process.wait(20) == 143

    process = Process(folder)
    client = process.client()
    endless = iter(client.completions.create(max_tokens=40_000, **asked))  # type: ignore[call-overload]
    next(endless)
    process.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.process.poll() is None
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(20) == 143


@posix
def test_log_json_is_json_also_at_a_second_signal_and_for_what_is_no_http(folder: str) -> None:
    """A stream and a whole answer are cut. Catches tracebacks of uvicorn between the lines, and its bare warnings."""
    process = Process(folder, "--log-json")
    with ExitStack() as clients:
        for stream in (True, False):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", process.port)))
            asked = {"prompt": "x", "max_tokens": 40_000, "ignore_eos": True, "stream": stream}
            body = json.dumps(asked).encode()
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        garbage = clients.enter_context(socket.create_connection(("127.0.0.1", process.port)))
        garbage.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert garbage.recv(65536).startswith(b"HTTP/1.1 400")
        assert eventually(lambda: process.running() == 2)
        for _ in range(2):
            process.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        assert process.process.wait(20) == 143
    assert eventually(lambda: not process.reading)
    told = [json.loads(line) for line in process.lines]
    assert sum("Invalid HTTP" in line.get("note", "") for line in told) == 1
    assert not any("exception" in line for line in told)


@posix
@pytest.mark.parametrize(("sent", "status"), [("SIGINT", 130), ("SIGHUP", 129)])
def test_other_signals_drain_too_and_show_no_traceback(folder: str, sent: str, status: int) -> None:
    """In the middle of a stream, which comes to its end. Catches uvicorn's loop broken by an exception."""
    process = Process(folder)
    asked = {"model": folder, "prompt": "x", "stream": True, "extra_body": ON, "max_tokens": 50}
    client = process.client()
    stream = iter(client.completions.create(**asked))  # type: ignore[call-overload]
    next(stream)
    process.process.send_signal(getattr(signal, sent))
    assert [*stream][-1].choices[0].finish_reason == "length"
    assert process.process.wait(20) == status
    assert eventually(lambda: not process.reading)
    assert not any("Traceback" in line for line in process.lines)


def test_a_port_in_use_is_told_before_the_model_is_opened(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)], opener=unopened) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tinyinfer: error: --port={port} cannot be listened at on --host=127.0.0.1 (")
    assert error.count("\n") == 1


def test_a_host_that_is_no_name_is_told_with_its_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches the words of a codec, which no one typed."""
    assert main(["serve", "--host", "x" * 70, "--without-key"], opener=unopened) == 2
    assert f"on --host={'x' * 70} (" in capsys.readouterr().err


def test_keys_are_flags_or_lines_of_the_environment() -> None:
    """Catches a key that ends in the newline of its file, and one that is asked for beside those of the flags."""
    assert keys([], {"TINYINFER_API_KEY": "one\n\n two words \n"}) == ("one", "two words")
    assert keys(["flag"], {"TINYINFER_API_KEY": "one"}) == ("flag",)
    assert keys([], {}) == ()


def test_an_open_address_without_a_key_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TINYINFER_API_KEY", raising=False)
    assert main(["serve", "--host", "0.0.0.0"], opener=unopened) == 2
    assert "add --api-key, or --without-key to let everyone in" in capsys.readouterr().err


def test_a_missing_package_is_told_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback of an import."""
    for name in [name for name in sys.modules if name.startswith(("tinyinfer.server.", "starlette", "uvicorn"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("tinyinfer.server.process", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)  # type: ignore[arg-type]
    assert main(["serve"], opener=unopened) == 2
    error = capsys.readouterr().err
    assert "serve needs the module uvicorn" in error
    assert "pip install 'tinyinfer[serve]'" in error


def test_importing_tinyinfer_and_serves_help_load_no_server() -> None:
    """Catches a server that every user of LLM would pay for."""
    code = (
        "import sys, tinyinfer.llm; from tinyinfer.cli import main; main(['serve', '--help'])\n"
        "print('loaded:', [m for m in ('starlette', 'uvicorn', 'prometheus_client', 'anyio') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60)
    assert done.stdout.splitlines()[-1] == "loaded: []", done.stderr
