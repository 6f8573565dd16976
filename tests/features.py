"""Every feature of an engine once, as switches, and three small models: what must be the same on every array module.

Used over NumPy, over the fake CuPy and over a real one, by the same tests.
"""

from __future__ import annotations

from typing import Any

from helpers import small_config

from tinyinfer.model.config import MoEConfig

CONFIGS = {
    "llama": small_config(qkv_bias=True, windows=(5, None)),
    "gpt2": small_config(norm="layer", gated=False, learned_positions=True, rope=(None, None)),
    "moe": small_config(qk_norm="full", experts=MoEConfig(5, 2, 12)),
}
PAGED: dict[str, Any] = {"kv_cache": "paged", "block_size": 4, "num_blocks": 9}
SHARED = PAGED | {"prefix_cache": True}
CACHES: list[dict[str, Any]] = [
    {"kv_cache": "none"}, {}, PAGED, SHARED, {"kv_bits": 8, "block_size": 4}, SHARED | {"kv_bits": 4},
]  # fmt: skip
SERVING: list[dict[str, Any]] = [
    {"batching": "static", "max_num_seqs": 2}, {"batching": "dynamic", "max_num_seqs": 2},
    SHARED | {"max_num_batched_tokens": 5},
]  # fmt: skip
DRAFTS: list[dict[str, Any]] = [
    {"speculative": "prompt-lookup"}, {"speculative": "draft", "draft_model": "random"}, {"speculative": "self"},
    {"speculative": "draft", "draft_model": "head"},
    SHARED | {"speculative": "draft", "draft_model": "head", "kv_bits": 4},
    {"speculative": "self", "draft_quantize": "int4"}, SHARED | {"speculative": "self", "num_draft_candidates": 3},
    SHARED | {"speculative": "draft", "draft_model": "random", "num_draft_candidates": 2, "kv_bits": 8},
]  # fmt: skip
WEIGHTS: list[dict[str, Any]] = [
    {"quantize": "int8", "quantize_head": "int8"}, {"quantize": "int4", "symmetric": True}, {"quantize": "int3"},
    {"quantize": "int2", "quantize_method": "hqq"},
]  # fmt: skip
WITH_TEXT: list[dict[str, Any]] = [
    {"quantize": "w8a8", "quantize_head": "int8"}, {"quantize": "int4", "quantize_method": "gptq"},
    {"quantize": "int4", "quantize_method": "awq"}, {"quantize": "int3", "quantize_method": "combined"},
]  # fmt: skip
WORK = [([3, 4, 5, 6] * 3, 8), ([3, 4, 5, 6] * 2 + [9], 6), ([7], 9)]  # a prefix in common, repetition, one token
