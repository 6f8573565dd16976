"""The switches of parallelism: among how many ranks a model is divided."""

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

    @property
    def ranks(self) -> str:
        """Whether this process runs the model alone, or is one of several."""
        return "several" if self.tensor_parallel_size > 1 else "alone"

    def alone(self, name: str, value: object, why: str, cure: str) -> Iterator[SwitchError]:
        """The refusal of another switch that ranks cannot have; none for one process."""
        if self.tensor_parallel_size > 1:
            reason = "{tensor_parallel_size}={ranks} divides the model, and {field}={value} " + why
            yield SwitchError(name, value, reason, cure, ranks=self.tensor_parallel_size)
