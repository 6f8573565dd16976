"""How Hugging Face families differ: defaults and attention windows.

A field that config.json leaves out has the default of its family, which is that of the configuration class of
transformers. A whole config.json must say its sizes: a default in their place would only be refused later, with words
about tensors. A text part nested in another model's configuration need not: transformers 4 wrote only the fields of it
that differ from the default (SIZES).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinyinfer.loading.json_fields import Fields
from tinyinfer.units import show

Windows = tuple[int | None, ...]

@dataclass(frozen=True)
class Family:
    """One model_type: the defaults of fields that config.json leaves out, and how the family differs from Llama."""

    architecture: str  # ModelConfig's name for it
    classes: tuple[str, ...]  # what `architectures` may say: this model with a head over the vocabulary, or without one
    eos: int | None = None
    kv_heads: int | None = None  # None: as many as there are query heads
    head_dim: int | None = None  # None: hidden_size / query heads
    norm_eps: float = 1e-6
    theta: float = 10000.0
    local_theta: float | None = None  # the base of layers with a window, where it is another one
    windows: Callable[[Fields, int, int | None], Windows] = lambda f, layers, window: (None,) * layers
    window: int | None = None
    tied: bool = False
    bias: str = "asked"  # "asked": attention_bias gives q, k, v and o one; "qkv": always, and o never; "none"
    mlp_bias: bool = False  # whether the field mlp_bias exists
    qk_norm: str = "none"
    expert_size: str | None = None  # the field that holds F of an expert; None: no experts
    experts: tuple[int, int, bool | None] = (0, 0, None)  # how many, per token, renormalize (None: a field says)
    gemma: bool = False


def same_window(f: Fields, layers: int, window: int | None) -> Windows:
    """Mistral, Mixtral: a window in every layer, unless the field is null."""
    return (f.optional_size("sliding_window", window),) * layers


def late_windows(f: Fields, layers: int, window: int | None) -> Windows:
    """Qwen 2 and 3: if use_sliding_window, in the layers from max_window_layers on or as layer_types says."""
    window, first = f.optional_size("sliding_window", window), f.size("max_window_layers", 28, least=0)
    window = window if f.flag("use_sliding_window", False) else None
    local = _local_layers(f, layers)
    if local and window is None and any(local):
        f.refuse("layer_types", "asks for sliding_attention, but the window is switched off; correct one of them")
    return tuple(window if (local[i] if local else i >= first) else None for i in range(layers))


def switched_window(f: Fields, layers: int, window: int | None) -> Windows:
    """Qwen 3 MoE: if use_sliding_window, in every layer (transformers 4: from max_window_layers on; 5 ignores that)."""
    window, first = f.optional_size("sliding_window", window), f.size("max_window_layers", 0, least=0)
    if not f.flag("use_sliding_window", False) or window is None:
        return (None,) * layers
    if first:
        f.refuse("max_window_layers", f"is {first}, which transformers 4 and 5 understand differently; set it to 0")
    return (window,) * layers


def most_windows(f: Fields, layers: int, window: int | None) -> Windows:
    """Gemma 3: all layers but every sixth have a window, or those that layer_types lists."""
    window, pattern = f.size("sliding_window", window), f.size("sliding_window_pattern", 6)
    local, private = _local_layers(f, layers), f.size("_sliding_window_pattern", pattern)
    if not local and private != pattern:
        f.refuse("_sliding_window_pattern", f"is {private} without layer_types; call it sliding_window_pattern")
    return tuple(window if (local[i] if local else (i + 1) % pattern) else None for i in range(layers))


def _local_layers(f: Fields, layers: int) -> list[bool] | None:
    """Which layers have a window, if the file lists it."""
    kinds = f.get("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or any(kind not in ("full_attention", "sliding_attention") for kind in kinds):
        f.refuse("layer_types", f"is {show(kinds)}, but full_attention and sliding_attention are all that is supported")
    if len(kinds) != layers:
        f.refuse("layer_types", f"has {len(kinds)} entries, but num_hidden_layers is {layers}; correct one of them")
    return [kind == "sliding_attention" for kind in kinds]


FAMILIES = {
    "llama": Family("llama", ("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"), eos=2, mlp_bias=True),
    "mistral": Family(
        "mistral", ("MistralForCausalLM", "MistralModel"), eos=2, kv_heads=8, bias="none",
        windows=same_window, window=4096,
    ),
    "qwen2": Family(
        "qwen2", ("Qwen2ForCausalLM", "Qwen2Model"), kv_heads=32, bias="qkv", windows=late_windows, window=4096,
    ),
    "qwen3": Family(
        "qwen3", ("Qwen3ForCausalLM", "Qwen3Model"), kv_heads=32, head_dim=128, qk_norm="head",
        windows=late_windows, window=4096,
    ),
    "gemma3_text": Family(
        "gemma3", ("Gemma3ForCausalLM", "Gemma3TextModel"), eos=1, kv_heads=4, head_dim=256, qk_norm="head", gemma=True,
        theta=1e6, local_theta=10000.0, windows=most_windows, window=4096, tied=True,
    ),
    "gpt2": Family("gpt2", ("GPT2LMHeadModel", "GPT2Model"), eos=50256, norm_eps=1e-5, tied=True),
    "mixtral": Family(
        "mixtral", ("MixtralForCausalLM", "MixtralModel"), eos=2, kv_heads=8, norm_eps=1e-5, theta=1e6, bias="none",
        windows=same_window, expert_size="intermediate_size", experts=(8, 2, True),
    ),
    "qwen3_moe": Family(
        "qwen3_moe", ("Qwen3MoeForCausalLM", "Qwen3MoeModel"), kv_heads=4, qk_norm="head",
        windows=switched_window, window=4096, expert_size="moe_intermediate_size", experts=(128, 8, None),
    ),
    "olmoe": Family(
        "olmoe", ("OlmoeForCausalLM", "OlmoeModel"), eos=50279, norm_eps=1e-5, qk_norm="full",
        expert_size="intermediate_size", experts=(64, 8, None),
    ),
}  # fmt: skip
_SIZE_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings",
)  # fmt: skip
SIZES = {  # by model_type: the sizes of transformers' configuration class when nothing is said
    name: dict(zip(_SIZE_FIELDS, sizes, strict=True))
    for name, sizes in {
        "llama": (32000, 4096, 11008, 32, 32, 2048),
        "mistral": (32000, 4096, 14336, 32, 32, 131072),
        "qwen2": (151936, 4096, 22016, 32, 32, 32768),
        "qwen3": (151936, 4096, 22016, 32, 32, 32768),
        "gemma3_text": (262208, 2304, 9216, 26, 8, 131072),
        "gpt2": (50257, 768, 3072, 12, 12, 1024),
        "mixtral": (32000, 4096, 14336, 32, 32, 131072),
        "qwen3_moe": (151936, 2048, 6144, 24, 32, 32768),
        "olmoe": (50304, 2048, 2048, 16, 16, 4096),
    }.items()
}
