"""What a GGUF file does not say about its architecture: llama.cpp has it in code, and here it is a table.

A file names its architecture and its sizes. Which activation it has, where norms stand, which layers have a window,
which numbers RoPE rotates together: those are conventions of llama.cpp's converter and of its src/models.
Where llama.cpp itself computes something else than the model's authors (no window for Phi-3, an approximate GELU for
GPT-NeoX, yarn with whole pairs for gpt-oss), the table has what the authors, and transformers, compute.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tinyinfer.loading.json_fields import Fields
from tinyinfer.model.config import MoEConfig

NORMS = {"norm": "layer"}
GPT = NORMS | {"gated": False}
GEMMA = {"post_norms": True, "activation": "gelu_tanh"}
SHARED_EXPERT = {
    "ffn_gate_inp_shexp": "shared_router", "ffn_gate_shexp": "shared_gate", "ffn_up_shexp": "shared_up",
    "ffn_down_shexp": "shared_down",
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One general.architecture of GGUF files.

    config: fields of ModelConfig. name: ours, where the file's is another one. tensors: names that mean something else
    than in other families. pairs: which numbers of a head are rotated together, "neighbours" (2i, 2i + 1) or "halves",
    as everywhere else. partial: rope.dimension_count may be less than a head. theta: the base of files that do not say
    it. no_rope_step: n, of which each n-th layer has no rotation; 0: all have one. truncate: yarn's bounds are whole
    pairs.

    windows: n, where attention.sliding_window is a setting and each n-th layer sees all positions; 0: no layer does;
    None: it is no setting. window: the one of files that do not say it. local_theta: layers with a window have a
    rotation of their own, without scaling; its base where the file has none; 0.0: the base of the others.

    score_cap, logit_cap: those of files that do not say them; 0.0: a file without one has none; None: no setting.
    wide: with so many layers, the score is scaled by the width over the heads; else by the size of a head.
    width_scale: the embedding is multiplied by the root of the width. multipliers: Granite's three factors are settings
    (that of the scores is one everywhere). parallel: use_parallel_residual is a setting.

    experts: a router is a setting; renormalize: whether the weights of the chosen experts are scaled to sum to 1.
    chosen_width: in files that do not say how wide an expert is, all chosen ones together are feed_forward_length wide.
    harmless: values of keys that mean here what the loader does anyway.
    """

    config: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    tensors: dict[str, str] = field(default_factory=dict)
    pairs: str = "halves"
    partial: bool = False
    theta: float = 1e4
    no_rope_step: int = 0
    truncate: bool = True
    windows: int | None = None
    window: int = 0
    local_theta: float | None = None
    score_cap: float | None = None
    logit_cap: float | None = None
    wide: int = 0
    width_scale: bool = False
    multipliers: bool = False
    parallel: bool = False
    experts: bool = False
    renormalize: bool = True
    chosen_width: bool = False
    harmless: dict[str, tuple[object, ...]] = field(default_factory=dict)


FAMILIES = {
    "llama": Family(pairs="neighbours", windows=0, experts=True),  # with Mistral and Mixtral
    "qwen2": Family(),
    "qwen2moe": Family(name="qwen2_moe", tensors=SHARED_EXPERT, experts=True, renormalize=False, chosen_width=True),
    "qwen3": Family({"qk_norm": "head"}),
    "qwen3moe": Family({"qk_norm": "head"}, name="qwen3_moe", experts=True, chosen_width=True),
    "gemma2": Family(GEMMA, windows=2, window=4096, score_cap=50.0, logit_cap=30.0, wide=46, width_scale=True),
    "gemma3": Family(
        GEMMA | {"qk_norm": "head"}, theta=1e6, windows=6, local_theta=1e4, logit_cap=0.0, wide=62, width_scale=True
    ),
    "smollm3": Family(pairs="neighbours", no_rope_step=4),
    "granite": Family(
        pairs="neighbours", multipliers=True, harmless={"rope.scaling.finetuned": (True,)}  # False: no rotation at all
    ),
    "phi3": Family(tensors={"ffn_up": "gate_up"}, partial=True, windows=0),
    "olmo2": Family(  # with OLMo-3, which has windows
        {"pre_norms": False, "post_norms": True, "qk_norm": "full"}, windows=4, local_theta=0.0
    ),
    "olmoe": Family({"qk_norm": "full"}, experts=True, renormalize=False),
    "gptneox": Family(  # a file does not say its GELU: Pythia's is exact, that of GPT-NeoX-20B approximate (by 5e-4)
        GPT | {"activation": "gelu"}, name="gpt_neox", partial=True, parallel=True
    ),
    "gpt2": Family(GPT | {"activation": "gelu_tanh", "learned_positions": True}, no_rope_step=1),
    "gpt-oss": Family(
        {"activation": "clamped", "sinks": True}, name="gpt_oss", tensors={"post_attention_norm": "mlp_norm"},
        windows=2, experts=True, truncate=False, harmless={"expert_gating_func": (0, 3)},  # 3: softmax over the chosen
    ),
}  # fmt: skip


def read_windows(f: Fields, p: str, family: Family, layers: int) -> tuple[int | None, ...]:
    """The attention window of each layer: the file's, in the layers that the family or the file's pattern says."""
    if family.windows is None:
        return (None,) * layers
    window = f.size(p + "attention.sliding_window", family.window, least=0)
    if not window:
        return (None,) * layers
    if not family.windows:
        return (window,) * layers
    pattern = f.get(p + "attention.sliding_window_pattern", family.windows)
    if isinstance(pattern, list) and len(pattern) == layers and all(type(local) is bool for local in pattern):
        return tuple(window if local else None for local in pattern)
    period = f.size(p + "attention.sliding_window_pattern", family.windows, least=0)  # 0: no layer sees all
    return tuple(window if not period or (i + 1) % period else None for i in range(layers))


def read_experts(f: Fields, p: str, family: Family) -> MoEConfig | None:
    """The mixture of experts, alike in every layer; None when there is none."""
    if not family.experts or not f.size(p + "expert_count", 0, least=0):
        return None
    count, each, width = f.size(p + "expert_count"), f.size(p + "expert_used_count"), f.size(p + "feed_forward_length")
    if each > count:
        f.refuse(p + "expert_used_count", f"is {each}, more than the {count} experts that there are; correct one")
    shared = "shared_router" in family.tensors.values()
    old = width // each if family.chosen_width else width
    return MoEConfig(
        num_experts=count,
        experts_per_token=each,
        expert_size=f.size(p + "expert_feed_forward_length", old),
        renormalize=family.renormalize,
        shared_size=f.size(p + "expert_shared_feed_forward_length", width) if shared else 0,
    )


def read_cap(f: Fields, key: str, absent: float | None) -> float | None:
    """The cap of scores or logits; None where there is none, or where a cap is no setting of the family."""
    return f.number(key, absent) if absent is not None and f.get(key, absent) != 0.0 else None


def read_scale(f: Fields, key: str, absent: float = 1.0) -> float:
    """A factor of Granite; 0 is how llama.cpp says that there is none."""
    return absent if f.get(key, 0.0) == 0.0 else f.number(key)
