"""The switches of quantization: bits, groups, methods, exceptions, and the text that some methods read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tinyinfer.errors import SwitchError, all_of
from tinyinfer.switches import Switches, switch

QUANTIZATIONS = ("off", "keep", "int8", "int4", "int3", "int2", "w8a8")
QUANTIZE_HEAD = ("off", "int8")
GROUP_SIZES: tuple[int | str, ...] = (32, 64, 128, "channel", "tensor")
QUANTIZE_METHODS = {
    "rtn": "tinyinfer.quantization.rtn:round_to_nearest",
    "hqq": "tinyinfer.quantization.hqq:hqq",
    "gptq": "tinyinfer.quantization.apply:by_gptq",
    "awq": "tinyinfer.quantization.apply:by_awq",
    "combined": "tinyinfer.quantization.apply:by_combination",
}
CALIBRATED = ("gptq", "awq", "combined")  # the methods that look at text
CALIBRATION = ("calibration", "calibration_tokens", "calibration_bos")  # the switches about that text
GROUPWISE = ("hqq", "combined")  # the methods that fit a grid to each group
LONGEST_NAME = 255  # characters of a file's name, on every usual file system
BITS = "{quantize}=int8, int4, int3 or int2"


@dataclass(frozen=True)
class QuantizationSwitches(Switches):
    """How many bits a weight takes, and how its code is chosen."""

    quantize: str = switch("off", choices=QUANTIZATIONS, help="bits of a weight in the body's matrices")
    group_size: int | str = switch(
        32, choices=GROUP_SIZES,
        help="inputs of an output that share a scale; channel: all of them, tensor: all of a matrix",
    )  # fmt: skip
    symmetric: bool | None = switch(
        None, help="whether zero stays zero, without a minimum per group (default: only at 8 bits)"
    )
    quantize_method: str = switch(
        "rtn", choices=QUANTIZE_METHODS,
        help="how codes are chosen; gptq, awq and combined (both, on the grid of hqq) read some text for it",
    )  # fmt: skip
    quantize_head: str = switch("off", choices=QUANTIZE_HEAD, help="quantize embedding and head, too")
    quantize_rules: str | None = switch(
        None, help="exceptions by name, the first that fits wins: 'layers.*.down int8 g64, layers.0.* off'"
    )
    calibration: str | None = switch(
        None, help="text file that a method may look at (default: prose that every Python has)"
    )
    calibration_tokens: int | None = switch(None, help="most tokens of that text")
    calibration_bos: bool = switch(
        True, help="whether each window of it begins with the token that the tokenizer puts before a text, if any"
    )

    @property
    def calibrated(self) -> bool:
        """Whether the model is quantized by text that it reads, once it is loaded."""
        return self.quantize_method in CALIBRATED or self.quantize == "w8a8"

    @property
    def quantizes(self) -> bool:
        """Whether weights are rounded, while the model is loaded or then; not where a file's own bits are kept."""
        wanted = self.quantize != "off" or self.quantize_head != "off" or self.quantize_rules is not None
        return self.calibrated or (wanted and self.quantize != "keep")

    @property
    def shared(self) -> Collection[str]:
        """The switches of this part that another idea uses, too; they are never without effect."""
        return ()

    def refusals(self) -> Iterator[SwitchError]:
        """Rules and paths that cannot be read, and switches without effect."""
        yield from super().refusals()
        yield from self._texts()
        yield from self._without_effect()
        method = self.quantize_method
        if self.quantize == "off" and method in CALIBRATED and self.quantize_rules is None:
            reason = "{field}={value} is for the layers, and {quantize}=off leaves them"
            yield SwitchError("quantize_method", method, reason, f"add {BITS}")
        if self.group_size == "tensor" and method in GROUPWISE:
            reason = "{field}={value} has one scale for a whole matrix, but {quantize_method}={method} fits one to each"
            reason += " group"
            cure = "choose another {field}, or {quantize_method}=rtn, gptq or awq"
            yield SwitchError("group_size", "tensor", reason, cure, method=method)

    def _texts(self) -> Iterator[SwitchError]:
        """Values of quantize_rules that hold no rule, and of calibration that are no path of a file."""
        rules, path = self.quantize_rules, self.calibration
        if rules is not None and not isinstance(rules, str):
            reason = "{field}={shown} must be text, as 'layers.*.down int8 g64, layers.0.* off'"
            yield SwitchError("quantize_rules", rules, reason, shown=_beginning(rules))
        elif rules is not None and not rules.strip(" ,\t\n"):
            cure = "write one, as 'layers.0.* off', or leave it out"
            yield SwitchError("quantize_rules", rules, "{field}={shown} holds no rule", cure, shown=_beginning(rules))
        if path is None:
            return
        cure = "give the path of a text file"
        if not isinstance(path, str):
            reason, cure = "{field}={shown} must be the path of a text file, as a str", ""
        elif not path:
            reason, cure = "{field}={shown} names no file", f"{cure}, or leave it out"
        elif "\0" in path:
            reason = "{field}={shown} is no path, as it holds a zero byte"
        elif "\n" in path or any(len(name) > LONGEST_NAME for name in path.split("/")):
            reason, cure = "{field}={shown} looks like the text itself", "write it into a file and give the file's path"
        else:
            return
        yield SwitchError("calibration", path, reason, cure, shown=_beginning(path))

    def _without_effect(self) -> Iterator[SwitchError]:
        """Switches that say how to round, where nothing is rounded or there is only one way."""
        how = [name for name in self.given("group_size", "symmetric", "quantize_method", *CALIBRATION)
               if name not in self.shared]  # fmt: skip
        ours = [*how, *self.given("quantize_head", "quantize_rules")]
        text = [name for name in how if name in CALIBRATION]
        scheme = [name for name in how if name not in text]
        if self.quantize == "off" and how and how == ours:
            reason = all_of(how) + " given, but {quantize}=off quantizes nothing"
            yield self._refuse(how, reason, f"leave it out, or add {BITS}")
        if self.quantize == "keep" and ours:
            reason = all_of(ours) + " given, but {quantize}=keep takes the file's own bits"
            yield self._refuse(ours, reason, f"leave it out, or choose {BITS}")
        if self.quantize == "w8a8" and scheme:
            reason = all_of(scheme) + " given, but {quantize}=w8a8 has one way: symmetric, one scale for each output"
            yield self._refuse(scheme, reason, "leave it out, or choose {quantize}=int8")
        if text and not self.calibrated:
            reason = all_of(text) + " given, but {quantize_method}={method} looks at no text"
            cure = f"choose {{quantize_method}}={' or '.join(CALIBRATED)}"
            yield self._refuse(text, reason, cure)

    def _refuse(self, names: list[str], reason: str, cure: str) -> SwitchError:
        return SwitchError(names[0], getattr(self, names[0]), reason, cure, method=self.quantize_method)


def _beginning(value: object) -> str:
    """The value in a line of a message, cut short."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:59] + "…"
