"""The switches of parallelism: among how many ranks a model is divided, and how many replicas of it there are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tinyinfer.errors import SwitchError
from tinyinfer.switches import Switches, switch

RANKS = {"alone": "tinyinfer.engine.single:no_others", "several": "tinyinfer.parallel.start:find_ranks"}
LOADERS = {"alone": "tinyinfer.loading.build:load_alone", "several": "tinyinfer.parallel.start:load_part"}
MIRRORS = {"alone": "tinyinfer.kv_cache.base:itself", "several": "tinyinfer.parallel.orders:mirrored"}
REPLICAS = {"one": "tinyinfer.engine.single:Single", "several": "tinyinfer.replicas.start:Replicas"}
ROUTERS = {
    "prefix": "tinyinfer.replicas.routing:SharedPrefix",
    "least-outstanding": "tinyinfer.replicas.routing:LeastOutstanding",
    "round-robin": "tinyinfer.replicas.routing:RoundRobin",
}


@dataclass(frozen=True)
class ParallelSwitches(Switches):
    """How many processes run one model together; each calls LLM with the same switches (start.py)."""

    tensor_parallel_size: int = switch(
        1, flags=("-tp",),
        help="processes among which every layer is divided; `tinyinfer launch -n N -- ...` starts them",
    )  # fmt: skip

    pipeline_parallel_size: int = switch(
        1, flags=("-pp",),
        help="processes, or groups of them, among which the layers are divided, one behind the other",
    )  # fmt: skip

    data_parallel_size: int = switch(
        1, flags=("-dp",),
        help="replicas of the model, each with requests of its own; `tinyinfer launch -n N -- ...` starts them",
    )  # fmt: skip
    routing: str = switch("prefix", choices=ROUTERS, help="which replica gets a request")
    rank_timeout: float = switch(300.0, help="seconds after which a process that others wait for counts as dead")

    @property
    def num_ranks(self) -> int:
        """How many processes run one model."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def ranks(self) -> str:
        """Whether this process runs the model alone, or is one of several."""
        return "several" if self.num_ranks > 1 else "alone"

    @property
    def replicas(self) -> str:
        """Whether the requests of the engine have one replica of the model, or several."""
        return "several" if self.data_parallel_size > 1 else "one"

    def refusals(self) -> Iterator[SwitchError]:
        """What needs several replicas, and a wait that is none."""
        seconds = self.rank_timeout
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 < seconds < math.inf:
            reason = "{field}={value!r} must be a number of seconds above 0"
            yield SwitchError("rank_timeout", seconds, reason)
        one = self.data_parallel_size == 1
        for name in self.given(*["routing"] * one, *["rank_timeout"] * (one and self.num_ranks == 1)):
            several = "replicas" if name == "routing" else "processes"
            reason = f"{{field}}={{value}} is for several {several}, and {{data_parallel_size}}=1 has one"
            yield SwitchError(name, getattr(self, name), reason, "leave it out, or add {data_parallel_size}=2")
        yield from super().refusals()

    def alone(self, name: str, value: object, why: str, cure: str) -> Iterator[SwitchError]:
        """The refusal of another switch that ranks cannot have; none for one process."""
        for field in self.given("tensor_parallel_size", "pipeline_parallel_size")[:1]:
            reason = f"{{{field}}}={{ranks}} divides the model, and {{field}}={{value}} " + why
            yield SwitchError(name, value, reason, cure, ranks=getattr(self, field))
