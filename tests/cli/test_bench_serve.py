"""`bench serve` against a server that runs, and what it refuses."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from golden import write_hf_folder
from http_calls import Served

from tinyinfer import LLM
from tinyinfer.cli import main

SHORT = ["--num-prompts", "6", "--random-input-len", "9", "--random-output-len", "5", "--ignore-eos"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """A tiny model at a port of this machine."""
    folder = write_hf_folder("llama", tmp_path_factory.mktemp("served"))
    with socket.socket() as bound, LLM(str(folder), kv_cache="paged", prefix_cache=True) as llm:
        bound.bind(("127.0.0.1", 0))
        served = Served(llm)
        server = uvicorn.Server(uvicorn.Config(served.app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield served, f"http://127.0.0.1:{bound.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


def test_a_load_is_what_the_server_counts(served: tuple[Served, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Catches tokens that are counted by the client's pieces, prompts of another length, requests that are lost."""
    server, url = served
    before = [server.number(name) for name in ("prompt_tokens_total", "generation_tokens_total")]
    assert main(["bench", "serve", "--base-url", url, *SHORT, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["completed"], record["failed"], record["experiment"]) == (6, 0, "open loop")
    assert (record["total_input_tokens"], record["total_output_tokens"]) == (54, 30)
    asked, given = (server.number(name) for name in ("prompt_tokens_total", "generation_tokens_total"))
    assert given - before[1] == 30 + 1  # and the request by which the server was found
    assert asked - before[0] > 54
    assert server.number("prefix_cache_hits_total") == 0


def test_a_closed_loop_in_words_and_a_file(
    served: tuple[Served, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--max-concurrency", "2", "--goodput", "ttft:60000", "--save-result", "--result-dir", str(tmp_path)]
    assert main(["bench", "serve", "--base-url", served[1] + "/v1", *SHORT, *words, "--label", "a test"]) == 0
    shown = capsys.readouterr()
    assert "closed loop" in shown.out
    assert "wait inside the client" in shown.out
    [file] = tmp_path.iterdir()
    record = json.loads(file.read_text())
    assert (record["label"], record["max_concurrent_requests"]) == ("a test", 2)
    assert record["request_goodput"] == pytest.approx(record["request_throughput"])
    assert record["output_lens"] == [5] * 6
    assert all(len(gaps) <= 4 for gaps in record["itls"])


def test_a_sweep_lies_between_its_two_ends(
    served: tuple[Served, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Catches loads that repeat their prompts, and rates outside."""
    words = ["--sweep", "3", "--plot", str(tmp_path / "knee.svg"), "--json"]
    assert main(["bench", "serve", "--base-url", served[1], *SHORT, *words]) == 0
    one, all_at_once, between = map(json.loads, capsys.readouterr().out.splitlines())
    assert (one["max_concurrency"], one["num_prompts"], all_at_once["load"]) == (1, 4, "all at once")
    ends = sorted([one["request_throughput"], all_at_once["request_throughput"]])
    assert between["request_rate"] == pytest.approx(sum(ends) / 2)
    assert served[0].number("prefix_cache_hits_total") == 0
    assert (tmp_path / "knee.svg").stat().st_size > 1000


@pytest.mark.parametrize("words", [
    ["--backend", "openai-chat"],
    ["--dataset-name", "prefix_repetition", "--prefix-repetition-num-prefixes", "2"],
])  # fmt: skip
def test_other_kinds_of_requests(
    served: tuple[Served, str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--prefix-repetition-prefix-len", "32", "--prefix-repetition-suffix-len", "3"]
    sizes += ["--prefix-repetition-output-len", "5"]
    assert main(["bench", "serve", "--base-url", served[1], *SHORT, *sizes, *words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["completed"], record["total_output_tokens"]) == (6, 30)
    assert (served[0].number("prefix_cache_hits_total") > 0) == ("prefix_repetition" in words)


def test_requests_that_fail_are_told(served: tuple[Served, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Prompts that no context holds. Catches figures of nothing, and a status that says all is well."""
    words = ["--num-prompts", "2", "--random-input-len", "100000"]
    assert main(["bench", "serve", "--base-url", served[1], *words]) == 1
    assert "2 failed: HTTP 400: the prompt has 100000 tokens" in capsys.readouterr().out


def test_no_server_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", "--port", "1"]) == 2
    error = capsys.readouterr().err
    assert "there is no server that answers at http://127.0.0.1:1" in error
    assert "start one, as in `tinyinfer serve`" in error
    assert error.count("\n") == 1


@contextmanager
def answering(reply: Callable[[bytes], bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that closes each connection after `reply` to its request; its port, and the requests."""
    asked: list[bytes] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data = self.request.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            while len(body) < size:
                body += self.request.recv(65536)
            asked.append(head + body)
            self.request.sendall(reply(head + body))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield str(server.server_address[1]), asked
        server.shutdown()


def streamed(*events: object) -> bytes:
    """An answer of these events."""
    lines = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in events)
    return b"HTTP/1.1 200 OK\r\n\r\n" + lines + b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("reply", "why"),
    [(b"SSH-2.0-OpenSSH_9\r\n\r\n", "illegal"), (b"HTTP/1.1 200 OK\r\n\r\n{}", "its /v1/models names no model"),
     (b"HTTP/1.1 200 OK\r\n\r\n[]", "its /v1/models names no model"),
     (b'HTTP/1.1 200 OK\r\n\r\n{"data": []}', "its /v1/models names no model")],
)  # fmt: skip
def test_a_port_of_another_kind_is_one_sentence(
    reply: bytes, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback for SSH, or for a server without OpenAI's list of models."""
    with answering(lambda request: reply) as (port, _):
        assert main(["bench", "serve", "--port", port]) == 2
    error = capsys.readouterr().err
    assert f"there is no server that answers at http://127.0.0.1:{port} ({why}" in error
    assert error.count("\n") == 1


def test_a_key_that_no_header_takes_is_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback that shows the key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hidden\n")
    assert main(["bench", "serve"]) == 2
    error = capsys.readouterr().err
    assert "OPENAI_API_KEY holds a space, a line's end" in error
    assert "sk-hidden" not in error


def test_a_sweep_without_an_answer_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    """As a load without one does. Catches a server's failure that is told as a mistake of the command line."""
    reply = streamed({"error": {"message": "boom"}})
    with answering(lambda request: reply) as (port, _):
        assert main(["bench", "serve", "--port", port, "-m", "m", "--num-prompts", "2", "--sweep", "3"]) == 1
    shown = capsys.readouterr()
    assert shown.out.count("failed: boom") == 2
    assert "no request of a load was answered" in shown.err


def test_the_loads_of_a_sweep_take_other_lines_of_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Catches a load that finds in the server's cache what the load before it asked; too few lines are refused."""
    file = tmp_path / "lines.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"line {n}."}) for n in range(12)), encoding="utf-8")
    reply = streamed({"choices": [{"text": "x"}]})
    words = ["-m", "m", "--num-prompts", "4", "--sweep", "3", "--dataset-name", "custom", "--dataset-path", str(file)]
    with answering(lambda request: reply) as (port, asked):
        assert main(["bench", "serve", "--port", port, *words, "--json"]) == 0
        times = [sum(f"line {n}.".encode() in one for one in asked) for n in range(12)]
        assert times == [1] * 12
        assert main(["bench", "serve", "--port", port, *words, "--num-prompts", "5"]) == 2
    assert "takes 14 different prompts, and " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--num-prompts", "0"], "--num-prompts 0 must be at least 1"),
        (["--request-rate", "0"], "--request-rate 0 must be a number above 0"),
        (["--request-rate", "nan"], "--request-rate nan must be a number above 0"),
        (["--burstiness", "inf"], "--burstiness inf must be a number above 0"),
        (["--random-range-ratio", "1"], "--random-range-ratio 1 must be from 0 to below 1"),
        (["--ramp-up-strategy", "linear"], "--ramp-up-strategy needs --ramp-up-start-rps and --ramp-up-end-rps"),
        (["--dataset-name", "custom"], "--dataset-name custom needs --dataset-path"),
        (["--dataset-path", "x"], "--dataset-name random reads no --dataset-path"),
        (["--sweep", "2"], "--sweep 2 must be at least 3"),
        (["--sweep", "4", "--max-concurrency", "2"], "--sweep sets the load itself"),
        (["--plot", "x.png"], "--plot draws a sweep"),
        (["--goodput", "ttft"], "--goodput 'ttft' must be ttft:MS"),
        (["--goodput", "itl:5"], "--goodput 'itl:5' must be ttft:MS"),
        (["--metric-percentiles", "101"], "--metric-percentiles '101' must be numbers from 0 to 100"),
        (["--percentile-metrics", "pace"], "--percentile-metrics 'pace': the metrics are"),
        (["--base-url", "127.0.0.1:8000"], "must begin with http:// or https://"),
        (["--extra-body", "[]"], "'[]' is no JSON object"),
        (["--save-result", "--result-dir", "no/such/folder"], "is no folder that can be written to"),
        (["--save-result", "--result-filename", "no/x.json"], "--result-filename no/x.json: no file can be written"),
        (["--save-result", "--result-filename", "."], "--result-filename .: no file can be written there"),
        (["--dataset-name", "timed_trace", "--dataset-path", "x", "--sweep", "4"], "says itself when requests are due"),
    ],
)
def test_flags_that_cannot_be(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", *words]) == 2
    assert sentence in capsys.readouterr().err
