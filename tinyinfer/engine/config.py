"""EngineConfig: which optimizations are on. Each idea has its switches in its own folder; here they are joined.

A new idea brings a class of switches in its own folder and adds it to the bases of EngineConfig. Beside the bases, this
file has only the refusals that concern two ideas at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields

from tinyinfer.backends.switches import BackendSwitches
from tinyinfer.batching.switches import BatchingSwitches
from tinyinfer.errors import SwitchError, all_of
from tinyinfer.kv_cache.switches import KVCacheSwitches
from tinyinfer.parallel.switches import ParallelSwitches
from tinyinfer.pruning.switches import WeightSwitches
from tinyinfer.quantization.switches import BITS, QuantizationSwitches
from tinyinfer.speculative.switches import SpeculativeSwitches

SERVING = {"routing", "rank_timeout"}
WEIGHTS = {"second_model", "draft_quantize"} | {
    one.name for part in (WeightSwitches, BackendSwitches, ParallelSwitches) for one in fields(part)
} - SERVING  # the switches, or what follows from them, that decide which weights are in memory; others: how it serves


@dataclass(frozen=True)
class EngineConfig(
    # The last base comes first: a dataclass takes the fields of its last base first, and `--help` lists them so.
    ParallelSwitches, BackendSwitches, WeightSwitches, SpeculativeSwitches, BatchingSwitches, KVCacheSwitches,
):  # fmt: skip
    """Which optimizations are on. Each field is a switch with a command line flag of the same name (README lists them).

    Raises SwitchError, one sentence that names the cure, for a value or a combination that cannot work.
    """

    @property
    def shared(self) -> Collection[str]:
        """The switches of quantization that others use: a quantized draft has groups, too, and pruning reads text."""
        return (*super().shared, *(("group_size", "symmetric") if self.draft_quantize != "off" else ()))

    def refusals(self) -> Iterator[SwitchError]:
        """What two ideas cannot do together, before what each of them refuses by itself."""
        cache, rows = self.kv_cache, self.max_num_batched_tokens
        if cache == "none" and rows < EngineConfig.max_num_batched_tokens:
            reason = "{field}={value} cuts prompts into chunks, and {kv_cache}=none drops one chunk before the next"
            yield SwitchError("max_num_batched_tokens", rows, reason, "leave it out or choose another {kv_cache}")
        if self.num_draft_candidates > 1 and self.speculative != "off" and cache != "paged":
            reason = "{field}={value} lets candidates share blocks, and {kv_cache}={cache} has none"
            yield SwitchError(
                "num_draft_candidates", self.num_draft_candidates, reason, "add {kv_cache}=paged", cache=cache
            )
        scheme = self.given("group_size", "symmetric")
        alone = scheme == self.given(*(one.name for one in fields(QuantizationSwitches)))
        if scheme and alone and self.speculative == "self" and self.draft_quantize == "off":
            reason = all_of(scheme) + " given, but {quantize}=off quantizes nothing"
            cure = f"leave it out, or add {BITS}, or {{draft_quantize}}=one of these"
            yield SwitchError(scheme[0], getattr(self, scheme[0]), reason, cure)
        other = self.second_model or self.given("quantize_head", "quantize_rules", "draft_quantize")
        if self.activations != "float" and self.quantize == "w8a8" and not other:
            reason = "{field}={value} rounds the inputs of quantized matrices, and {quantize}=w8a8 does so already"
            yield SwitchError("activations", self.activations, reason, "leave it out, or choose {quantize}=int8")
        if self.activations != "float" and self.prune != "off":
            reason = "{field}={value} has no product with sparse weights, and {prune}={method} makes the weights sparse"
            yield SwitchError("activations", self.activations, reason, "leave it out", method=self.prune)
        yield from self.refusals_of_ranks()
        yield from super().refusals()

    def refusals_of_ranks(self) -> Iterator[SwitchError]:
        """What several ranks cannot do, or not yet."""
        if self.speculative == "self" or (self.speculative == "draft" and not self.draft_model):
            own = self.speculative == "self"
            why = "drafts with the model's own layers" if own else "reads the values of all heads"
            cure = "choose {field}=prompt-lookup, or {field}=draft with a {draft_model} of its own"
            yield from self.alone("speculative", self.speculative, why, cure)
        if self.gpu_decode in ("kernels", "persistent"):
            why = "runs a step without a word to other ranks"
            yield from self.alone("gpu_decode", self.gpu_decode, why, "leave it out")
        if self.pipeline_parallel_size > 1 and self.num_draft_candidates > 1 and self.speculative != "off":
            why = "keeps the candidates of one step, where several are computed at once"
            yield from self.alone("num_draft_candidates", self.num_draft_candidates, why, "leave it out")
        if self.tensor_parallel_size == 1:
            return
        if self.quantize == "w8a8":
            why = "rounds inputs by one scale for all of them, of which a rank has some"
            yield from self.alone("quantize", self.quantize, why, "choose {field}=int8 with {activations}=int8")
        if self.activations == "int8" and self.group_size in ("channel", "tensor"):
            why = "rounds inputs by one scale for all of them, of which a rank has some"
            yield from self.alone("group_size", self.group_size, why, "choose {field}=32")

    def same_weights(self, other: EngineConfig) -> bool:
        """Whether both need the same weights in memory, and differ at most in how they serve."""
        return all(getattr(self, name) == getattr(other, name) for name in WEIGHTS)

    @classmethod
    def from_switches(cls, **switches: object) -> EngineConfig:
        """An EngineConfig from keyword arguments; a misspelt switch is refused with the list of those that exist."""
        known = [one.name for one in fields(cls)]
        for name in switches:
            if name not in known:
                reason, cure = "there is no switch {given!r}", "the switches are {known}"
                raise SwitchError(name, switches[name], reason, cure, given=name, known=", ".join(known))
        return cls(**switches)  # type: ignore[arg-type]
