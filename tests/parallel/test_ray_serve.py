"""A deployment of Ray Serve on a cluster of two nodes of this machine, one of which is killed under load."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from on_nodes import processes, two_nodes, within

from tinyinfer import LLM, SamplingParams
from tinyinfer.ray_serve import Caller, Served, app

TOKENS = {"max_tokens": 100, "ignore_eos": True}
SWITCHES = {"max_num_seqs": 4, "kv_cache": "paged", "threads": 1}
REPLICA = "ServeReplica:test:tinyinfer"


def drawn(n: int) -> list[str]:
    """Prompts, by a seed."""
    rng = random.Random(5)
    return [" ".join(rng.choices(["the", "in", "er", "an", "on", "a"], k=rng.randint(1, 20))) for _ in range(n)]


PROMPTS = drawn(80)
STREAMED = PROMPTS[:16]


@pytest.fixture(scope="module")
def model(golden_folder: Any) -> str:
    """A model of 9 query heads that share 3 key/value heads."""
    return str(golden_folder("smollm2"))


@pytest.fixture(scope="module")
def expected(model: str) -> list[str]:
    """What one process says."""
    with LLM(model) as llm:
        return [out.text for out in llm.generate(PROMPTS, SamplingParams(**TOKENS))]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, and Ray Serve without its HTTP server."""
    with two_nodes() as nodes:
        from ray import serve

        serve.start(proxy_location="Disabled")
        yield nodes
        serve.shutdown()


@pytest.fixture(scope="module")
def handle(cluster: Any, model: str) -> Any:
    """The handle of a deployment that has one replica, and may have two."""
    from ray import serve

    return serve.run(app(model, **SWITCHES), name="test", route_prefix=None)


async def streamed(caller: Caller, prompt: str, begun: asyncio.Event) -> str:
    """A text by its pieces. begun: set with the first one."""
    text = ""
    async for piece in caller.stream(prompt, **TOKENS):
        text += piece
        begun.set()
    return text


class Counted:
    """A handle that counts its calls."""

    def __init__(self, handle: Any) -> None:
        self.handle, self.calls = handle, 0
        self.generate = SimpleNamespace(remote=self.ask)
        self.stream = SimpleNamespace(remote=self.pieces)

    def options(self, stream: bool) -> Counted:
        return self

    def ask(self, *args: Any, **params: Any) -> Any:
        self.calls += 1
        return self.handle.generate.remote(*args, **params)

    def pieces(self, *args: Any, **params: Any) -> Any:
        self.calls += 1
        return self.handle.options(stream=True).stream.remote(*args, **params)


async def answered(handle: Any, kill: Callable[[], object] = lambda: None) -> list[str]:
    """The texts of all prompts, asked at once, some of them as streams. kill: called when the first text has begun."""
    caller, begun = Caller(handle), asyncio.Event()
    streams = [asyncio.create_task(streamed(caller, prompt, begun)) for prompt in STREAMED]
    others = [asyncio.create_task(caller.generate(prompt, **TOKENS)) for prompt in PROMPTS[len(STREAMED) :]]
    await begun.wait()
    await asyncio.to_thread(kill)
    return [*await asyncio.gather(*streams), *(out["text"] for out in await asyncio.gather(*others))]


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_a_node_that_is_killed_under_load_loses_no_request(handle: Any, cluster: Any, expected: list[str]) -> None:
    """64 requests and 16 streams, which make a second replica start; the node of one is killed when the first text has
    begun, so that some requests are asked again. Catches a request that is lost, a stream that gives characters twice,
    a queue that starts no replica, and a replica that is not replaced.
    """
    nodes = [cluster.head_node, *cluster.worker_nodes]
    assert sum(processes(node, REPLICA) for node in nodes) == 1
    rounds = 0
    while not all(processes(node, REPLICA) for node in nodes):
        assert asyncio.run(answered(handle)) == expected
        assert (rounds := rounds + 1) < 50

    counted = Counted(handle)
    found = asyncio.run(answered(counted, lambda: cluster.remove_node(nodes[1], allow_graceful=False)))
    print(f"{counted.calls} calls for {len(PROMPTS)} requests")
    assert counted.calls > len(PROMPTS)
    assert [text == wanted for text, wanted in zip(found, expected, strict=True)] == [True] * len(expected)
    assert within(60, lambda: processes(nodes[0], REPLICA) == 2)
    assert asyncio.run(answered(handle)) == expected


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_a_bare_handle_gives_plain_values_and_errors(handle: Any, model: str) -> None:
    """Catches objects that only a process with the same classes can read, and errors that end the replica."""
    out = handle.generate.remote("the in er", max_tokens=5, logprobs=1).result(timeout_s=60)
    with LLM(model) as llm:
        [one] = llm.generate(["the in er"], SamplingParams(max_tokens=5, logprobs=1))
    assert (out["text"], out["token_ids"], out["finish_reason"]) == (one.text, one.token_ids, one.finish_reason)
    assert out["logprobs"][0]["token"] == one.token_ids[0]
    with pytest.raises(ValueError, match="the prompt is empty"):
        handle.generate.remote("").result(timeout_s=60)
    with pytest.raises(ValueError, match="max_tokens=0 must be"):
        handle.generate.remote("the", max_tokens=0).result(timeout_s=60)


# Without Ray.


class ActorGone(Exception):
    """As Ray's RayActorError."""


class Dying:
    """A handle to replicas that die: each call gives one letter more than the one before, and then the error.

    seeds: what each call was told.
    """

    def __init__(self, text: str) -> None:
        self.text, self.seeds = text, list[int]()
        self.generate = SimpleNamespace(remote=self.ask)
        self.stream = SimpleNamespace(remote=self.pieces)

    def options(self, stream: bool) -> Dying:
        assert stream
        return self

    async def ask(self, prompt: str, seed: int) -> dict[str, str]:
        self.seeds.append(seed)
        if len(self.seeds) < 4:
            raise ActorGone
        return {"text": self.text}

    async def pieces(self, prompt: str, seed: int) -> AsyncIterator[str]:
        self.seeds.append(seed)
        size = 1 + len(self.seeds) % 2  # pieces that end elsewhere than those before
        for start in range(0, len(self.seeds) + 1, size):
            yield self.text[start : start + size]
        if len(self.seeds) < 4:
            raise ActorGone
        yield self.text[start + size :]


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors of Ray, whether it is installed or not, and no wait before a request is asked again."""
    ray = ModuleType("ray")
    ray.exceptions = SimpleNamespace(RayActorError=ActorGone)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr("tinyinfer.ray_serve.PAUSES", (0.0,) * 5)


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("seed", [None, -1, 7])
def test_a_request_is_asked_again_with_its_seed(seed: int | None) -> None:
    """Catches a text that begins anew with another seed, and characters that come twice or never."""

    async def all_of(handle: Dying) -> str:
        return "".join([piece async for piece in Caller(handle).stream("the", seed=seed)])

    streamed, asked = Dying("abcdefghijkl"), Dying("abcdefghijkl")
    assert asyncio.run(all_of(streamed)) == "abcdefghijkl"
    assert asyncio.run(Caller(asked).generate("the", seed=seed)) == {"text": "abcdefghijkl"}
    for handle in (streamed, asked):
        assert len(handle.seeds) == 4
        assert len(set(handle.seeds)) == 1
        assert seed in (None, -1, handle.seeds[0])


@pytest.mark.usefixtures("no_pause")
def test_replicas_that_die_again_and_again_are_an_error() -> None:
    """Catches a caller that asks for ever, and a stream that seems to have ended."""

    async def all_of() -> None:
        async for _ in Caller(Always()).stream("the"):
            pass

    class Always(Dying):
        def __init__(self) -> None:
            super().__init__("abc")

        async def ask(self, prompt: str, seed: int) -> dict[str, str]:
            raise ActorGone

        async def pieces(self, prompt: str, seed: int) -> AsyncIterator[str]:
            yield "a"
            raise ActorGone

    with pytest.raises(ActorGone):
        asyncio.run(all_of())
    with pytest.raises(ActorGone):
        asyncio.run(Caller(Always()).generate("the"))


def test_requests_of_a_replica_share_its_batches(model: str, expected: list[str]) -> None:
    """Catches requests that wait for each other, and a call that is given up and goes on in the engine."""
    served = Served(model, {"max_num_seqs": 4})

    async def both() -> list[str]:
        given_up = asyncio.create_task(served.generate(PROMPTS[0], max_tokens=None, ignore_eos=True))
        await asyncio.sleep(0)
        given_up.cancel()
        calls = [served.generate(prompt, **TOKENS) for prompt in PROMPTS[:8]]
        return [out["text"] for out in await asyncio.gather(*calls)]

    assert asyncio.run(both()) == expected[:8]
    assert not served.llm.engine.busy
    assert served.llm.ledger.steps < 8 * TOKENS["max_tokens"]


def test_what_cannot_be_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a sentence that only a replica's log would have: each is said before anything starts."""
    monkeypatch.setitem(sys.modules, "ray", None)
    for switches, sentence in (
        ({}, "Ray is not installed .*; pip install 'tinyinfer\\[ray\\]'"),
        ({"data_parallel_size": 2}, "data_parallel_size=2 needs several processes, .* max_replicas says how many"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size=2 needs several processes"),
        ({"kv_cache": "big"}, "kv_cache='big'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            app("smollm2-135m", **switches)
