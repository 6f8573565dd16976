"""What the model is (ModelConfig) and which optimizations are on (EngineConfig): two plain records, nothing else.

ModelConfig describes every supported family by the few ways in which they differ, so that transformer.py is written
once. Loaders fill it in from config.json or GGUF metadata; nothing later asks which file it came from.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, fields

from tinyinfer.switches import (
    BACKENDS,
    CACHES,
    CALIBRATED,
    DRAFTERS,
    DTYPES,
    GROUP_SIZES,
    GROUPWISE,
    KV_BITS,
    QUANTIZATIONS,
    QUANTIZE_DRAFT,
    QUANTIZE_HEAD,
    QUANTIZE_METHODS,
    QUANTIZED_CACHES,
    SCHEDULERS,
)

SWITCHES: dict[str, Collection[str | int]] = {
    "kv_cache": CACHES,
    "kv_bits": KV_BITS,
    "batching": SCHEDULERS,
    "speculative": DRAFTERS,
    "draft_quantize": QUANTIZE_DRAFT,
    "quantize": QUANTIZATIONS,
    "group_size": GROUP_SIZES,
    "quantize_method": QUANTIZE_METHODS,
    "quantize_head": QUANTIZE_HEAD,
    "dtype": DTYPES,
    "backend": BACKENDS,
}
COUNTS = ("block_size", "num_blocks", "kv_group_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len",
          "draft_layers", "num_draft_tokens", "num_draft_candidates", "calibration_tokens", "threads")  # fmt: skip


LONGEST_NAME = 255  # characters of a file's name, on every usual file system


@dataclass(frozen=True)
class EngineConfig:
    """Which optimizations are on. Each field is a switch with a command line flag of the same name (README lists them).

    Raises ValueError, in one sentence that names the cure, for a value or a combination that cannot work.
    """

    kv_cache: str = "contiguous"
    block_size: int = 16  # positions in a block of the paged cache, and of quantized keys and values
    num_blocks: int | None = None  # blocks in its pool; None: see paged_cache.default_num_blocks
    kv_bits: int | str = "off"  # of a number in the cache: 8, 4, 2, or "off" for floats
    kv_group_size: int | None = None  # channels of a value that share a scale; None: 32, or what divides the head
    prefix_cache: bool = False
    batching: str = "continuous"
    batch_timeout: float = 0.05  # seconds; of dynamic batching
    max_num_seqs: int = 16  # of one step
    max_num_batched_tokens: int = 2048  # rows of one step; longer prompts are computed in chunks
    max_model_len: int | None = None  # None: the model's own
    speculative: str = "off"
    draft_model: str | None = None  # a name, folder or file; of speculative=draft
    draft_layers: int | None = None  # of speculative=self; None: a third of the model's, all with draft_quantize
    draft_quantize: str = "off"  # of speculative=self: the layers that guess, in so many bits
    num_draft_tokens: int | None = None  # None: 7 for prompt-lookup, else 4
    num_draft_candidates: int = 1  # different guesses verified side by side
    quantize: str = "off"  # the body's matrices, in so many bits
    group_size: int | str = 32  # inputs that share a step; "channel": all of an output's, "tensor": all of a matrix's
    symmetric: bool | None = None  # zero stays zero, no minimum; None: only at 8 bits
    quantize_method: str = "rtn"  # how codes are chosen
    quantize_head: str = "off"  # embedding and head, too
    quantize_rules: str | None = None  # exceptions by name, see quantization/recipe.py
    calibration: str | None = None  # a text file, for methods that look at text; None: prose that every Python has
    calibration_tokens: int | None = None  # of that text; None: see quantization/calibration.py
    dtype: str = "float32"  # how weights are stored; arithmetic is float32
    backend: str = "numpy"
    threads: int | None = None  # None: all cores

    def __post_init__(self) -> None:
        for name, known in SWITCHES.items():
            value = getattr(self, name)
            if not isinstance(value, (str, int)) or value not in known:
                raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(map(str, known))}")
        for name in COUNTS:
            value = getattr(self, name)
            if value is None and getattr(EngineConfig, name) is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
        if not isinstance(self.prefix_cache, bool):
            raise ValueError(f"prefix_cache={self.prefix_cache!r} must be True or False")
        if self.symmetric is not None and not isinstance(self.symmetric, bool):
            raise ValueError(f"symmetric={self.symmetric!r} must be True or False")
        seconds = self.batch_timeout
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds < math.inf:
            raise ValueError(f"batch_timeout={self.batch_timeout!r} must be a number of seconds of at least 0")
        for refused, why in self._texts() + self._combinations() + self._quantizations():
            if refused:
                raise ValueError(why)

    def _texts(self) -> list[tuple[bool, str]]:
        """What is no rule and no path of a file, with the reason and the cure."""
        rules, path = self.quantize_rules, self.calibration
        rules_text, path_text = (text if isinstance(text, str) else "-" for text in (rules, path))
        return [
            (rules is not None and not isinstance(rules, str),
             f"quantize_rules={_beginning(rules)} must be text, as 'layers.*.down int8 g64, layers.0.* off'"),
            (not rules_text.strip(" ,\t\n"),
             f"quantize_rules={_beginning(rules)} holds no rule; write one, as 'layers.0.* off', or leave it out"),
            (path is not None and not isinstance(path, str),
             f"calibration={_beginning(path)} must be the path of a text file, as a str"),
            (not path_text, "calibration='' names no file; give the path of a text file, or leave it out"),
            ("\0" in path_text,
             f"calibration={_beginning(path)} is no path, as it holds a zero byte; give the path of a text file"),
            ("\n" in path_text or any(len(name) > LONGEST_NAME for name in path_text.split("/")),
             f"calibration={_beginning(path)} looks like the text itself; write it into a file and give the file's "
             "path"),
        ]  # fmt: skip

    def _combinations(self) -> list[tuple[bool, str]]:
        """What cannot work together, with the reason and the cure."""
        lowered = self.max_num_batched_tokens < EngineConfig.max_num_batched_tokens
        return [
            (self.prefix_cache and self.kv_cache != "paged",
             f"prefix_cache=on shares blocks, and kv_cache={self.kv_cache} has none; add kv_cache=paged"),
            (self.num_blocks is not None and self.kv_cache != "paged",
             f"num_blocks counts blocks, and kv_cache={self.kv_cache} has none; add kv_cache=paged"),
            (self.kv_bits != "off" and self.kv_cache not in QUANTIZED_CACHES,
             f"kv_bits={self.kv_bits} quantizes what the cache keeps, and kv_cache={self.kv_cache} keeps nothing; "
             f"choose {' or '.join(QUANTIZED_CACHES)}"),
            (self.kv_group_size is not None and self.kv_bits == "off",
             "kv_group_size is given, but kv_bits=off quantizes nothing; add kv_bits=8, 4 or 2"),
            (self.kv_cache == "none" and lowered,
             f"max_num_batched_tokens={self.max_num_batched_tokens} cuts prompts into chunks, and kv_cache=none "
             "forgets one chunk before the next; leave it out or choose another kv_cache"),
            (self.speculative == "draft" and self.draft_model is None,
             "speculative=draft needs a second model to guess with; name it with draft_model"),
            (self.draft_model is not None and self.speculative != "draft",
             f"draft_model is given, but speculative={self.speculative} does not use it; add speculative=draft"),
            (self.draft_layers is not None and self.speculative != "self",
             f"draft_layers is given, but speculative={self.speculative} does not use it; add speculative=self"),
            (self.draft_quantize != "off" and self.speculative != "self",
             f"draft_quantize={self.draft_quantize} is for guesses of the model itself, but speculative is "
             f"{self.speculative}; add speculative=self"),
            (self.num_draft_tokens is not None and self.speculative == "off",
             "num_draft_tokens is given, but speculative=off makes no guesses; choose prompt-lookup, draft or self"),
            (self.num_draft_candidates > 1 and self.speculative == "off",
             f"num_draft_candidates={self.num_draft_candidates}, but speculative=off makes no guesses; choose "
             "prompt-lookup, draft or self"),
            (self.num_draft_candidates > 1 and self.kv_cache != "paged",
             f"num_draft_candidates={self.num_draft_candidates} lets branches share blocks, and "
             f"kv_cache={self.kv_cache} has none; add kv_cache=paged"),
        ]  # fmt: skip

    @property
    def calibrated(self) -> bool:
        """Whether the model is quantized by text that it reads, once it is loaded."""
        return self.quantize_method in CALIBRATED or self.quantize == "w8a8"

    @property
    def quantizes(self) -> bool:
        """Whether weights are rounded, while the model is loaded or then; not where a file's own bits are kept."""
        wanted = self.quantize != "off" or self.quantize_head != "off" or self.quantize_rules is not None
        return self.calibrated or (wanted and self.quantize != "keep")

    def _quantizations(self) -> list[tuple[bool, str]]:
        """What cannot work together in quantization, with the reason and the cure."""
        how = [name for name in ("group_size", "symmetric", "quantize_method", "calibration", "calibration_tokens")
               if getattr(self, name) != getattr(EngineConfig, name)]  # fmt: skip
        if self.draft_quantize != "off":  # they are the draft's, too
            how = [name for name in how if name not in ("group_size", "symmetric")]
        ours = [*how, *(name for name in ("quantize_head", "quantize_rules")
                        if getattr(self, name) != getattr(EngineConfig, name))]  # fmt: skip
        grid = [name for name in how if not name.startswith("calibration")]
        text = [name for name in how if name.startswith("calibration")]
        of_drafts = self.speculative == "self" and {*how} <= {"group_size", "symmetric"}
        return [
            (self.quantize == "off" and bool(how) and how == ours,
             f"{' and '.join(how)} given, but quantize=off quantizes nothing; leave it out, or add quantize=int8, "
             f"int4, int3 or int2{', or draft_quantize=one of these' if of_drafts else ''}"),
            (self.quantize == "keep" and bool(ours),
             f"{' and '.join(ours)} given, but quantize=keep takes the file's own bits; leave it out, or choose "
             "quantize=int8, int4, int3 or int2"),
            (self.quantize == "w8a8" and bool(grid),
             f"{' and '.join(grid)} given, but quantize=w8a8 has one way: symmetric, a step for each output; leave it "
             "out, or choose quantize=int8"),
            (self.quantize == "off" and self.quantize_method in CALIBRATED and self.quantize_rules is None,
             f"quantize_method={self.quantize_method} is for the layers, and quantize=off leaves them; add "
             "quantize=int8, int4, int3 or int2"),
            (bool(text) and not self.calibrated,
             f"{' and '.join(text)} given, but quantize_method={self.quantize_method} looks at no text; choose "
             f"quantize_method={' or '.join(CALIBRATED)}"),
            (self.group_size == "tensor" and self.quantize_method in GROUPWISE,
             f"group_size=tensor has one step for a whole matrix, but quantize_method={self.quantize_method} fits one "
             "to each group; choose another group_size, or quantize_method=rtn, gptq or awq"),
        ]  # fmt: skip

    @classmethod
    def from_switches(cls, **switches: object) -> EngineConfig:
        """An EngineConfig from keyword arguments; a misspelt switch is refused with the list of those that exist."""
        known = [f.name for f in fields(cls)]
        for name in switches:
            if name not in known:
                raise ValueError(f"there is no switch {name!r}; the switches are {', '.join(known)}")
        return cls(**switches)  # type: ignore[arg-type]


def _beginning(value: object) -> str:
    """The value in a line of a message, cut short."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:59] + "…"
