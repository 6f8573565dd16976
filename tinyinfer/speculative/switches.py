"""The switches of speculative decoding: the drafter, how many tokens it drafts, and how drafts are verified."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tinyinfer.errors import SwitchError
from tinyinfer.switches import Switches, switch

DRAFTERS = {
    "off": "tinyinfer.speculative.base:no_drafter",
    "prompt-lookup": "tinyinfer.speculative.prompt_lookup:prompt_lookup",
    "draft": "tinyinfer.speculative.draft_model:draft_model",
    "self": "tinyinfer.speculative.draft_model:self_draft",
}
CANDIDATES = {
    "off": "tinyinfer.speculative.base:NoCandidates",
    "on": "tinyinfer.speculative.candidates:ForkedCandidates",
}
QUANTIZE_DRAFT = ("off", "int8", "int4", "int3", "int2")
SHIPPED_DRAFT = "smollm2-135m-draft"  # the draft head that comes with tinyinfer (loading/hub.py)
VERIFICATIONS = ("same-text", "best-coupling")


@dataclass(frozen=True)
class SpeculativeSwitches(Switches):
    """Which drafter, how many tokens it drafts, how many candidates, and what a sampled draft is accepted by."""

    speculative: str = switch("off", choices=DRAFTERS, help="how draft tokens are proposed, while that is faster")
    draft_model: str | None = switch(
        None,
        help=f"name, folder or file of what drafts, for --speculative draft (default, for SmolLM2: {SHIPPED_DRAFT})",
    )
    draft_layers: int | None = switch(
        None,
        help="layers of the model that draft, for --speculative self (default: a third; all that are quantized)",
    )
    draft_quantize: str = switch(
        "off", choices=QUANTIZE_DRAFT,
        help="bits of the layers that draft, for --speculative self (their head gets 8); --group-size and --symmetric "
        "hold for it",
    )  # fmt: skip
    num_draft_tokens: int | None = switch(
        None, help="most draft tokens in a step (default: 7 for prompt-lookup, else 4)"
    )
    num_draft_candidates: int = switch(1, help="draft candidates verified side by side; needs --kv-cache paged")
    verification: str = switch(
        "same-text", choices=VERIFICATIONS,
        help="of sampled drafts: same-text keeps the text of no drafts, best-coupling accepts more and keeps its law",
    )  # fmt: skip

    @property
    def second_model(self) -> str | None:
        """The second model that speculative=draft asks: the named one, else the one that comes with tinyinfer."""
        return (self.draft_model or SHIPPED_DRAFT) if self.speculative == "draft" else None

    def refusals(self) -> Iterator[SwitchError]:
        """What another way of drafting would need, or would have no use for."""
        yield from super().refusals()
        way, layers, model = self.speculative, self.draft_layers, self.draft_model
        unused = "{field} is given, but {speculative}={way} does not use it"
        none = "but {speculative}=off makes no drafts"
        drafters = "choose prompt-lookup, draft or self"
        if model == "":
            yield SwitchError("draft_model", model, "{field} is empty", "name a model, or leave it out")
        if model is not None and way != "draft":
            yield SwitchError("draft_model", model, unused, "add {speculative}=draft", way=way)
        if layers is not None and way != "self":
            yield SwitchError("draft_layers", layers, unused, "add {speculative}=self", way=way)
        if self.draft_quantize != "off" and way != "self":
            reason = "{field}={value} is for drafts of the model itself, but {speculative} is {way}"
            yield SwitchError("draft_quantize", self.draft_quantize, reason, "add {speculative}=self", way=way)
        if self.num_draft_tokens is not None and way == "off":
            yield SwitchError("num_draft_tokens", self.num_draft_tokens, "{field} is given, " + none, drafters)
        if self.num_draft_candidates > 1 and way == "off":
            yield SwitchError("num_draft_candidates", self.num_draft_candidates, "{field}={value}, " + none, drafters)
        yield from self._refusals_of_best_coupling()

    def _refusals_of_best_coupling(self) -> Iterator[SwitchError]:
        """It judges one drawn draft of a position."""
        if self.verification != "best-coupling":
            return
        if self.speculative not in ("draft", "self"):
            reason = "{field}={value} is for drafts that are drawn, but {speculative} is {way}"
            cure = "choose {speculative}=draft or self"
            yield SwitchError("verification", self.verification, reason, cure, way=self.speculative)
        if self.num_draft_candidates > 1:
            reason = "{field}={value} verifies one draft of a position, but {num_draft_candidates} is {n}"
            cure = "leave one of them out"
            yield SwitchError("verification", self.verification, reason, cure, n=self.num_draft_candidates)
