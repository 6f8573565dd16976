"""The switches of parallelism: among how many ranks a model is divided, and how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tinyinfer.errors import SwitchError
from tinyinfer.switches import Switches, switch

LOADERS = {"alone": "tinyinfer.loading.build:load_alone", "several": "tinyinfer.parallel.start:load_part"}
MIRRORS = {"alone": "tinyinfer.kv_cache.base:itself", "several": "tinyinfer.parallel.lead:mirrored"}


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

    rank_timeout: float = switch(300.0, help="seconds after which a process that others wait for counts as dead")

    @property
    def num_ranks(self) -> int:
        """How many processes run one model."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def ranks(self) -> str:
        """Whether this process runs the model alone, or is one of several."""
        return "several" if self.num_ranks > 1 else "alone"

    def alone(self, name: str, value: object, why: str, cure: str) -> Iterator[SwitchError]:
        """The refusal of another switch that ranks cannot have; none for one process."""
        for field in self.given("tensor_parallel_size", "pipeline_parallel_size")[:1]:
            reason = f"{{{field}}}={{ranks}} divides the model, and {{field}}={{value}} " + why
            yield SwitchError(name, value, reason, cure, ranks=getattr(self, field))
