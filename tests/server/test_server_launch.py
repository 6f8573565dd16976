"""`serve` in several processes: ranks that share a model, and replicas of it; one of them has the socket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from golden import write_hf_folder
from http_calls import eventually

from tinyinfer import LLM, SamplingParams
from tinyinfer.replicas.on_ray import free_port

PROMPT = "the in er an on"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with room for long answers."""
    changes = {"max_position_embeddings": 20_000}
    return str(write_hf_folder("smollm2", tmp_path_factory.mktemp("launched"), changes=changes))


class Launched:
    """A server that `launch` has started."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.address = process, f"http://127.0.0.1:{port}"

    def get(self, path: str) -> str:
        """What is at a path; nothing while there is no server."""
        with suppress(OSError), urllib.request.urlopen(self.address + path, timeout=10) as answer:
            return str(answer.read().decode())
        return ""

    def ask(self, **fields: Any) -> Any:
        """An open answer."""
        body = json.dumps({"prompt": PROMPT, "temperature": 0, "ignore_eos": True, **fields}).encode()
        call = urllib.request.Request(self.address + "/v1/completions", body, {"Content-Type": "application/json"})
        return urllib.request.urlopen(call, timeout=30)

    def number(self, name: str) -> float:
        """The sum of a metric."""
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith(f"vllm:{name}{{")]
        return sum(float(line.split()[-1]) for line in lines)


@contextmanager
def launched(model: str, *words: str) -> Iterator[Launched]:
    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "tinyinfer", "launch", "-n", "2", "--", "serve", "-m", model, "--port", str(port)]
    process = subprocess.Popen([*command, *words], start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        server = Launched(process, port)
        assert eventually(lambda: bool(server.get("/ready")), 60)
        yield server
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.mpi
@pytest.mark.parametrize("words", [("-tp", "2"), ("-pp", "2"), ("-dp", "2")], ids=" ".join)
def test_ranks_and_replicas_answer_as_one_process_and_end_with_ctrl_c(model: str, words: tuple[str, ...]) -> None:
    """A client that leaves, too, and a drain. Catches a rank that waits for ever, and a stream that is cut."""
    wanted = LLM(model).generate(PROMPT, SamplingParams(max_tokens=20, ignore_eos=True))[0].text
    with launched(model, *words) as server:
        assert [json.load(server.ask(max_tokens=20))["choices"][0]["text"] for _ in range(3)] == [wanted] * 3
        left = server.ask(max_tokens=15_000, stream=True)
        left.readline()
        assert server.number("num_requests_running") == 1
        left.close()
        assert eventually(lambda: server.number("num_requests_running") == 0, 20)
        assert eventually(lambda: server.number("kv_cache_usage_perc") == 0, 20)
        stream = server.ask(max_tokens=100, stream=True)
        stream.readline()
        os.killpg(server.process.pid, signal.SIGINT)
        assert b'"finish_reason":"length"' in stream.read()
        assert server.process.wait(20) == 130


@pytest.mark.mpi
def test_each_replica_has_its_own_numbers(model: str) -> None:
    """Four answers at once. Catches numbers of replica 0 that stand for all."""
    with launched(model, "-dp", "2") as server:
        answers = [server.ask(max_tokens=200, stream=True) for _ in range(4)]
        for answer in answers:
            answer.readline()
        text = server.get("/metrics")
        for answer in answers:
            answer.read()
    for name in ("iteration_tokens_total_count", "kv_cache_usage_perc"):
        for engine in ("0", "1"):
            line = next(one for one in text.splitlines() if one.startswith(f'vllm:{name}{{engine="{engine}"'))
            assert float(line.split()[-1]) > 0
