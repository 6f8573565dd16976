"""A deployment for Ray Serve: an LLM whose replicas come and go with the number of requests (extra `ray`).

>>> from ray import serve                                                                        # doctest: +SKIP
>>> handle = serve.run(app("smollm2-135m", max_replicas=4), route_prefix=None)                   # doctest: +SKIP
>>> handle.generate.remote("The capital of France is", max_tokens=8).result()["text"]            # doctest: +SKIP
>>> asyncio.run(Caller(handle).generate("The capital of France is", max_tokens=8))["text"]       # doctest: +SKIP

A handle works in any process of the cluster. The requests that a replica has at a time share the batches of its engine.
Ray Serve chooses the replica (of two that it draws, the one with fewer requests), and starts another one when they have
more requests than their engines run together. What a replica had not answered when its node died, a bare handle raises
as RayActorError; a Caller asks it again.

Wins: as many replicas as the load needs, on all machines of a cluster, and none is a front that must not die. Loses: a
request that is asked again begins anew, and Ray Serve does not know which prefixes a replica's cache has (replicas/
goes on from the tokens that there are, and routes by prefixes).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import SwitchError
from tinyinfer.llm import LLM
from tinyinfer.prompts import Prompt
from tinyinfer.replicas.on_ray import find_ray
from tinyinfer.replicas.queue import AHEAD
from tinyinfer.sampling import SamplingParams

HEALTH = {"health_check_period_s": 1.0, "health_check_timeout_s": 2.0}  # a node that is gone is noticed so soon
PACE = {"look_back_period_s": 4.0, "upscale_delay_s": 2.0}  # how soon a longer queue means another replica
PAUSES = (0.1, 0.5, 2.0, 5.0, 10.0)  # seconds before a request is asked for the second, third ... time


class Served:
    """A replica: an LLM in an actor of Ray, whose methods run in the actor's event loop, many at a time."""

    def __init__(self, model: str, switches: dict[str, Any]) -> None:
        self.llm = LLM(model, **switches)

    async def generate(self, prompt: Prompt, **params: Any) -> dict[str, Any]:
        """Continues a prompt. params: of SamplingParams. The fields of the RequestOutput, as a dict of plain values.

        Raises ValueError where `LLM.generate` does.
        """
        request = self.llm.submit(prompt, SamplingParams(**params))
        async for _ in request:  # a call that is cancelled cancels the request
            pass
        return asdict(request.result())

    async def stream(self, prompt: Prompt, **params: Any) -> AsyncIterator[str]:
        """Yields the continuation piece by piece; called by handle.options(stream=True)."""
        async for piece in self.llm.astream(prompt, SamplingParams(**params)):
            yield piece


class Caller:
    """Calls a deployment by its handle, and again where a replica has died: each request is answered once.

    A request without a seed gets one here, so that it has the same text when it is asked again.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    async def generate(self, prompt: Prompt, **params: Any) -> dict[str, Any]:
        """As Served.generate. Raises RayActorError when replicas die again and again."""
        ray, params = find_ray(), seeded(params)
        for pause in PAUSES:
            try:
                return dict(await self.handle.generate.remote(prompt, **params))
            except ray.exceptions.RayActorError:
                await asyncio.sleep(pause)
        return dict(await self.handle.generate.remote(prompt, **params))

    async def stream(self, prompt: Prompt, **params: Any) -> AsyncIterator[str]:
        """As Served.stream; of a text that begins anew it yields what comes behind the characters that it has yielded.
        """
        ray, params, shown = find_ray(), seeded(params), 0
        for pause in (*PAUSES, None):
            place = 0
            try:
                async for piece in self.handle.options(stream=True).stream.remote(prompt, **params):
                    new, place = piece[max(0, shown - place) :], place + len(piece)
                    if new:
                        shown = place
                        yield new
                return
            except ray.exceptions.RayActorError:
                if pause is None:
                    raise
                await asyncio.sleep(pause)


def seeded(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a request, with a seed."""
    return params if params.get("seed") not in (None, -1) else {**params, "seed": secrets.randbits(63)}


def app(
    model: str = "smollm2-135m", *, min_replicas: int = 1, max_replicas: int = 2, num_cpus: float = 1, **switches: Any
) -> Any:
    """What `serve.run` runs. num_cpus: what Ray sets aside for a replica; switches: those of LLM.

    Raises ValueError where EngineConfig does, for replicas of several processes, and where Ray is not installed.
    """
    config = EngineConfig.from_switches(**switches)
    for name in config.given("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        reason = "{field}={value} needs several processes, and a replica of Ray Serve is one"
        raise SwitchError(name, getattr(config, name), reason, "leave it out; max_replicas says how many replicas")
    find_ray()
    from ray import serve

    slots = config.max_num_seqs
    scaling = {"min_replicas": min_replicas, "max_replicas": max_replicas, "target_ongoing_requests": slots, **PACE}
    deployment = serve.deployment(
        name="tinyinfer", autoscaling_config=scaling, max_ongoing_requests=slots + AHEAD,
        ray_actor_options={"num_cpus": num_cpus}, **HEALTH,
    )  # fmt: skip
    return deployment(Served).bind(model, switches)
