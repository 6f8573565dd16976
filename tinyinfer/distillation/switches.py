"""The switches of distillation: what a student learns from, how much of it, and how fast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tinyinfer.errors import SwitchError
from tinyinfer.switches import Switches, switch

LOSSES = ("forward-kl", "reverse-kl", "cross-entropy")
POSITIVE = ("rate", "temperature", "clip")


@dataclass(frozen=True)
class TrainingSwitches(Switches):
    """How a student is trained."""

    loss: str = switch(
        "forward-kl", choices=dict.fromkeys(LOSSES, ""),
        help="what is made small: a divergence from the teacher's distributions, or -log of each token of the text",
    )  # fmt: skip
    temperature: float = switch(
        1.0, flags=("--temp", "--temperature"),
        help="by which the logits of teacher and student are divided in a divergence",
    )  # fmt: skip
    text_share: float = switch(0.0, help="the share that cross entropy has in the loss beside a divergence")
    hidden: float = switch(0.0, help="how much the last hidden states count, which must be as wide as the teacher's")
    on_policy: float = switch(0.0, help="the share of batches that the student writes itself, from a text's beginning")
    top_k: int | None = switch(
        None, help="keep so many of the teacher's likeliest tokens of each row on disk, and run the teacher only once"
    )
    tokens: int = switch(1_000_000, help="how many tokens are read in all")
    window: int = switch(512, help="the most tokens that a document has; a longer one is cut")
    batch_tokens: int = switch(512, help="how many tokens a pass has")
    accumulate: int = switch(1, help="of how many passes the gradients are added up for a step")
    rate: float = switch(2e-4, help="the learning rate after the warm-up; it falls along a cosine to 0")
    warm_up: int = switch(10, help="the steps in which the rate rises, at most a fifth of all")
    decay: float = switch(0.0, help="the weight decay of matrices")
    clip: float = switch(1.0, help="the most that all gradients together are long")
    recompute: bool = switch(False, help="keep only the inputs of layers: less memory, one forward pass more")
    seed: int = switch(1, help="of the order of the documents, and of a student without weights")
    save_every: int = switch(50, help="after how many steps a checkpoint is written")

    def refusals(self) -> Iterator[SwitchError]:
        """Numbers that no run can have, and losses that need what is not there."""
        yield from super().refusals()
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                yield SwitchError(name, getattr(self, name), "{field}={value} must be above 0", "choose a larger one")
        for name in ("decay", "hidden"):
            if not getattr(self, name) >= 0:
                yield SwitchError(name, getattr(self, name), "{field}={value} is below 0", "choose 0 or more")
        for name in ("text_share", "on_policy"):
            if not 0 <= getattr(self, name) <= 1:
                yield SwitchError(name, getattr(self, name), "{field}={value} is no share", "choose from 0 to 1")
        live = [name for name in ("hidden", "on_policy") if getattr(self, name)]
        live += ["loss"] * (self.loss == "reverse-kl")
        if self.top_k and live:
            reason = "{field}={value} needs the teacher itself, and {top_k}={k} keeps only some of what it says"
            yield SwitchError(live[0], getattr(self, live[0]), reason, "leave out {top_k}", k=self.top_k)
        if self.on_policy and self.text_share:
            reason = "{field}={value} takes the text for right, and {on_policy} text is the student's own"
            yield SwitchError("text_share", self.text_share, reason, "leave out one of them")
        asking = [name for name in ("top_k", "on_policy") if getattr(self, name)]
        asking += self.given("temperature", "text_share")
        if asking and not self.asks_teacher:
            reason = "{field}={value} needs a teacher, and {loss}=cross-entropy asks none"
            yield SwitchError(asking[0], getattr(self, asking[0]), reason, "choose {loss}=forward-kl")
        if self.window < 8:
            yield SwitchError("window", self.window, "{field}={value} is too short to learn from", "choose 8 or more")

    @property
    def asks_teacher(self) -> bool:
        """Whether a teacher is run or read: else the text alone teaches."""
        return self.loss != "cross-entropy" or self.hidden > 0

    @property
    def about(self) -> dict[str, Any]:
        """All that decides a run's numbers; how often a checkpoint is written does not."""
        return {name: value for name, value in asdict(self).items() if name != "save_every"}
