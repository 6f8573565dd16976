"""The switches of pruning: single weights by a method and a pattern, and whole layers, neurons, heads and width."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tinyinfer.errors import SwitchError
from tinyinfer.quantization.switches import CALIBRATED, CALIBRATION, GROUPWISE, QuantizationSwitches
from tinyinfer.switches import Switches, switch

PRUNE_METHODS = {
    "off": "",
    "magnitude": "tinyinfer.pruning.apply:by_magnitude",
    "wanda": "tinyinfer.pruning.apply:by_wanda",
    "sparsegpt": "tinyinfer.pruning.apply:by_sparsegpt",
}
READING = ("wanda", "sparsegpt")  # the methods that look at text
GROUPED = re.compile(r"([1-9]\d{0,2}):([1-9]\d{0,2})")
STRUCTURED = ("drop_layers", "width", "keep_kv_heads", "keep_hidden")  # whole parts, which text chooses


@dataclass(frozen=True)
class PruningSwitches(Switches):
    """Which weights are removed."""

    prune: str = switch(
        "off", choices=PRUNE_METHODS,
        help="single weights are removed, those of the lowest scores; wanda and sparsegpt read some text for it",
    )  # fmt: skip
    sparsity: float | str = switch(
        "0.5", help="which of them: a share of each matrix, or as 2:4 how many of how many neighbouring inputs stay"
    )
    drop_layers: int | None = switch(None, help="how many layers are removed, those that change their input least")
    width: float | None = switch(None, help="which share of each MLP's neurons stays, the most active ones")
    keep_kv_heads: int | None = switch(
        None, help="how many key/value heads of each layer stay, with their query heads, the most active ones"
    )
    keep_hidden: int | None = switch(None, help="how many numbers of the model width stay, the most active ones")
    refit: bool = switch(False, help="each down matrix makes up for whole parts that are removed")

    @property
    def prunes(self) -> bool:
        """Whether any weight is removed."""
        return self.prune != "off" or self.narrows

    @property
    def narrows(self) -> bool:
        """Whether whole parts are removed."""
        return bool(self.given(*STRUCTURED))

    @property
    def prunes_by_text(self) -> bool:
        """Whether text chooses what is removed."""
        return self.prune in READING or self.narrows

    def refusals(self) -> Iterator[SwitchError]:
        """A pattern that cannot be read, shares that leave nothing, and a pattern without a method."""
        yield from super().refusals()
        try:
            read_sparsity(self.sparsity)
        except ValueError as error:
            reason, cure = "{field}={value} " + str(error).partition(";")[0], "give a share, as 0.5, or 2:4"
            yield SwitchError("sparsity", self.sparsity, reason, cure)
        if self.width is not None and not (isinstance(self.width, float) and 0 < self.width < 1):
            reason = "{field}={value} must lie between 0, which leaves nothing, and 1, which removes nothing"
            yield SwitchError("width", self.width, reason, "give a share, as 0.75")
        if self.prune == "off" and str(self.sparsity) != type(self).sparsity:
            reason = "{field}={value} is given, but {prune}=off removes no single weight"
            yield SwitchError("sparsity", self.sparsity, reason, "leave it out, or add {prune}=wanda")
        if self.refit and not self.narrows:
            reason = "{field}=on is given, but no whole part is removed"
            yield SwitchError("refit", True, reason, "leave it out, or add {drop_layers}, {width} or {keep_kv_heads}")
        if self.refit and self.keep_hidden is not None:
            reason = "{field}=on needs rows as wide as the whole model's, and {keep_hidden}={hidden} cuts them"
            yield SwitchError("refit", True, reason, "leave one of the two out", hidden=self.keep_hidden)


def read_sparsity(text: str | float) -> tuple[float, tuple[int, int] | None]:
    """Which share of the weights goes, and of "2:4" (2, 4): how many of how many neighbours stay.

    Raises ValueError, saying what is wrong, for a text that is neither a share nor a pattern.
    """
    word = str(text).strip()
    parts = GROUPED.fullmatch(word)
    if parts:
        keep, group = map(int, parts.groups())
        if keep >= group:
            raise ValueError(f"keeps {keep} of {group}, and so removes nothing; N:M needs an N below M")
        return 1 - keep / group, (keep, group)
    try:
        share = float(word)
    except ValueError:
        raise ValueError("is neither a share, as 0.5, nor a pattern, as 2:4") from None
    if not 0 < share < 1:
        raise ValueError("must lie between 0, which removes nothing, and 1, which leaves nothing")
    return share, None


@dataclass(frozen=True)
class WeightSwitches(PruningSwitches, QuantizationSwitches):
    """Which weights are in memory: pruned, rounded, or both."""

    @property
    def shared(self) -> Collection[str]:
        """The switches of quantization that pruning uses, too: text is read for it."""
        return (*super().shared, *(CALIBRATION if self.prunes_by_text else ()))

    @property
    def reads_text(self) -> bool:
        """Whether the model is changed by text that it reads, once it is loaded."""
        return self.calibrated or self.prunes_by_text

    @property
    def changes(self) -> bool:
        """Whether weights in memory are others than those of the file."""
        return self.quantizes or self.prunes

    def refusals(self) -> Iterator[SwitchError]:
        """What pruning and quantization cannot do together: a pruned weight must stay zero when it is rounded."""
        if self.quantize == "keep" and self.prunes:
            name = self.given("prune", *STRUCTURED)[0]
            reason = "{field}={value} changes weights, and {quantize}=keep takes them as they are in the file"
            yield SwitchError(name, getattr(self, name), reason, "leave one of the two out")
        text = self.given(*CALIBRATION)
        if text and self.prune == "magnitude" and not self.reads_text:
            reason = "{field}={value} is given, but {prune}=magnitude reads no text"
            cure = "leave it out, or choose {prune}=wanda or sparsegpt"
            yield SwitchError(text[0], getattr(self, text[0]), reason, cure)
        yield from super().refusals()
        if self.prune == "off" or not self.quantizes:
            return
        if self.quantize == "w8a8" or self.quantize_method in (*CALIBRATED, *GROUPWISE):
            other = "quantize" if self.quantize == "w8a8" else "quantize_method"
            value = getattr(self, other)
            reason = "{field}={value} moves weights that {prune}={method} has set to zero"
            yield SwitchError(other, value, reason, "choose {quantize_method}=rtn", method=self.prune)
        if self.symmetric is False:
            reason = "{field}=off rounds zero to another number, and {prune}={method} has set weights to zero"
            yield SwitchError("symmetric", False, reason, "leave it out", method=self.prune)

