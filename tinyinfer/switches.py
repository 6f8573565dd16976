"""Every switch's values by name, in one place: the engine takes its parts from here and the command line lists them.

Values are "module:attribute", resolved on use, so that listing the choices imports nothing and a part that nobody
switched on is never loaded (its file may even be deleted).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

CACHES = {
    "contiguous": "tinyinfer.kv_cache.contiguous:ContiguousCache",
    "none": "tinyinfer.kv_cache.base:NoCache",
    "paged": "tinyinfer.kv_cache.paged:PagedCache",
}
QUANTIZED_CACHES = {
    "contiguous": "tinyinfer.kv_cache.quantized:QuantizedContiguousCache",
    "paged": "tinyinfer.kv_cache.quantized:QuantizedPagedCache",
}
KV_BITS: dict[str | int, dict[str, str]] = {  # the caches that keep keys and values in so many bits a number
    "off": CACHES, 8: QUANTIZED_CACHES, 4: QUANTIZED_CACHES, 2: QUANTIZED_CACHES,
}  # fmt: skip
PREFIX_CACHES = {"off": "tinyinfer.kv_cache.base:NoPrefixes", "on": "tinyinfer.kv_cache.prefix_cache:PrefixCache"}
SCHEDULERS = {  # the policy of the scheduler
    "continuous": "tinyinfer.batching.policies:Continuous",
    "static": "tinyinfer.batching.policies:Static",
    "dynamic": "tinyinfer.batching.policies:Dynamic",
}
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
QUANTIZATIONS = ("off", "keep", "int8", "int4", "int3", "int2", "w8a8")
TAKERS = {  # who takes the matrices out of the file
    "off": "tinyinfer.loading.build:FloatTaker",
    "keep": "tinyinfer.loading.keep:KeepTaker",
    "round": "tinyinfer.loading.rounding:RoundingTaker",
}
QUANTIZE_HEAD = ("off", "int8")
QUANTIZE_DRAFT = ("off", "int8", "int4", "int3", "int2")
GROUP_SIZES: tuple[int | str, ...] = (32, 64, 128, "channel", "tensor")
QUANTIZE_METHODS = {
    "rtn": "tinyinfer.quantization.rtn:round_to_nearest",
    "hqq": "tinyinfer.quantization.hqq:hqq",
    "gptq": "tinyinfer.quantization.apply:by_gptq",
    "awq": "tinyinfer.quantization.apply:by_awq",
    "combined": "tinyinfer.quantization.apply:by_combination",
}
CALIBRATED = ("gptq", "awq", "combined")  # the methods that look at text
GROUPWISE = ("hqq", "combined")  # the methods that fit a grid to each group
BACKENDS = {"numpy": "tinyinfer.backends.numpy_ops:NumpyOps"}
DTYPES = {"float32": "numpy:float32", "bfloat16": "ml_dtypes:bfloat16", "float16": "numpy:float16"}


def resolve(table: dict[str, str], name: str) -> Any:
    """The object that `name` stands for in `table`."""
    module, attribute = table[name].split(":")
    return getattr(import_module(module), attribute)
