"""The switches of batching: which sequences share a step, and how much a step may hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tinyinfer.errors import SwitchError
from tinyinfer.switches import Switches, switch

SCHEDULERS = {  # the policy of the scheduler
    "continuous": "tinyinfer.batching.policies:Continuous",
    "static": "tinyinfer.batching.policies:Static",
    "dynamic": "tinyinfer.batching.policies:Dynamic",
}


@dataclass(frozen=True)
class BatchingSwitches(Switches):
    """Which sequences share a step, and the limits of a step."""

    batching: str = switch("continuous", choices=SCHEDULERS, help="which sequences share a step")
    batch_timeout: float = switch(0.05, help="seconds that the first of a dynamic batch waits for others")
    max_num_seqs: int = switch(16, help="most sequences in a step")
    max_num_batched_tokens: int = switch(2048, help="most rows in a step; longer prompts are computed in chunks")
    max_model_len: int | None = switch(
        None, flags=("-c",),
        help="most tokens of prompt and answer together; given, each sequence reserves them (default: the model's own)",
    )  # fmt: skip

    def refusals(self) -> Iterator[SwitchError]:
        """A time-out that is no number of seconds. NaN is refused, too: it is neither below nor above any number.

        A time-out is accepted with any policy: only the dynamic one waits.
        """
        yield from super().refusals()
        seconds = self.batch_timeout
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds < math.inf:
            reason = "{field}={value!r} must be a number of seconds of at least 0"
            yield SwitchError("batch_timeout", seconds, reason)
