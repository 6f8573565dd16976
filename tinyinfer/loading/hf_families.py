"""What tells one Hugging Face family from another: its defaults, its windows, and which fields may be passed over.

A field that config.json leaves out has its family's own default, which differs from family to family (those of the
configuration classes of transformers). The two lists say what hf_config.py may leave unread without changing a result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinyinfer.loading.json_fields import Fields, show

Windows = tuple[int | None, ...]

# Where a file came from, how it was trained, how text is drawn from it: nothing that changes a logit.
NEUTRAL = frozenset(
    ["_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "architectures", "auto_map",
    "torch_dtype", "dtype", "use_bfloat16", "torchscript", "use_cache", "cache_implementation", "attn_implementation",
    "_attn_implementation", "_attn_implementation_autoset", "_experts_implementation", "_flash_attn_2_enabled",
    "unsloth_fixed", "unsloth_version", "transformers.js_config", "is_llama_config", "tf_legacy_loss", "output_past",
    "initializer_range", "attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "gradient_checkpointing",
    "router_aux_loss_coef", "router_jitter_noise", "output_router_logits", "output_hidden_states",
    "output_attentions", "return_dict", "is_decoder", "chunk_size_feed_forward", "bos_token_id", "eos_token_id",
    "pad_token_id", "sep_token_id", "decoder_start_token_id", "tokenizer_class", "prefix", "problem_type",
    "finetuning_task", "task_specific_params", "id2label", "label2id", "num_labels", "_num_labels",
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
    "predict_special_tokens", "model_max_length", "max_sequence_length", "seq_length", "n_ctx",
    "reorder_and_upcast_attn", "tie_last_hidden_states", "max_length", "min_length", "do_sample", "early_stopping",
    "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p",
    "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
    "num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id",
    "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"]
)
# Fields that do change the result, except with these values. Families that understand more read the field themselves.
HARMLESS: dict[str, tuple[object, ...]] = {
    "add_cross_attention": (False, None),
    "attention_bias": (False, None),
    "attn_logit_softcapping": (None,),
    "clip_qkv": (None,),
    "cross_attention_hidden_size": (None,),
    "decoder_sparse_step": (1,),
    "final_logit_softcapping": (None,),
    "is_encoder_decoder": (False, None),
    "layer_types": (None,),
    "mlp_bias": (False, None),
    "mlp_only_layers": ([], None),
    "partial_rotary_factor": (1, None),
    "per_layer_config": ({}, None),
    "pretraining_tp": (1, None),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "rope_interleaved": (False, None),
    "scale_attn_by_inverse_layer_idx": (False,),
    "sliding_window": (None,),
    "use_bidirectional_attention": (False, None),
    "use_mrope": (False, None),
    "use_sliding_window": (False, None),
}


def _no_windows(f: Fields, family: Family, layers: int) -> Windows:
    return (None,) * layers


def _one_window(f: Fields, family: Family, layers: int) -> Windows:
    """Mistral, Mixtral: every layer, unless the field is null."""
    return (f.optional_size("sliding_window", family.window),) * layers


def _qwen_windows(f: Fields, family: Family, layers: int) -> Windows:
    """Qwen 2 and 3: behind a switch, in the layers from max_window_layers on or as layer_types says."""
    window, first = f.optional_size("sliding_window", family.window), f.size("max_window_layers", 28, least=0)
    window = window if f.flag("use_sliding_window", False) else None
    local = _local_layers(f, layers)
    if local and window is None and any(local):
        f.refuse("layer_types", "asks for sliding_attention, but sliding_window or use_sliding_window is off; correct
        one")
    return tuple(window if (local[i] if local else i >= first) else None for i in range(layers))


def _qwen_moe_windows(f: Fields, family: Family, layers: int) -> Windows:
    """Qwen 3 MoE: behind a switch, in every layer. (Transformers 4 began at max_window_layers, 5 ignores that.)"""
    window, first = f.optional_size("sliding_window", family.window), f.size("max_window_layers", 0, least=0)
    if not f.flag("use_sliding_window", False) or window is None:
        return (None,) * layers
    if first:
        f.refuse("max_window_layers", f"is {first}, which transformers 4 and 5 understand differently; set it to 0")
    return (window,) * layers


def _gemma_windows(f: Fields, family: Family, layers: int) -> Windows:
    """Gemma 3: every sixth layer sees all, the others a window; layer_types says it outright."""
    window, pattern = f.size("sliding_window", family.window), f.size("sliding_window_pattern", 6)
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
        f.refuse("layer_types", f"has {len(kinds)} entries, but num_hidden_layers is {layers}; correct one")
    return [kind == "sliding_attention" for kind in kinds]


@dataclass(frozen=True)
class Family:
    """How one model_type differs, and what a field that its config.json leaves out means."""

    architecture: str  # ModelConfig's name for it
    classes: tuple[str, ...]  # values of `architectures` that are this model with a language model's head, or without a head
    eos: int | None = None
    kv_heads: int | None = None  # None: as many as there are query heads
    head_dim: int | None = None  # None: hidden_size / query heads
    norm_eps: float = 1e-6
    theta: float = 10000.0
    local_theta: float | None = None  # layers with a window turn by a base of their own
    windows: Callable[[Fields, Family, int], Windows] = _no_windows
    window: int | None = None
    tied: bool = False
    bias: str = "asked"  # "asked": attention_bias gives q, k, v and o one; "qkv": always, and o never; "none"
    mlp_bias: bool = False  # whether the field mlp_bias exists
    qk_norm: str = "none"
    expert_size: str | None = None  # the field that holds F of an expert; None: no experts
    experts: tuple[int, int, bool | None] = (0, 0, None)  # how many, how many per token, renormalize (None: a field says)
    gemma: bool = False


FAMILIES = {
    "llama": Family("llama", ("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"), eos=2, mlp_bias=True),
    "mistral": Family(
        "mistral", ("MistralForCausalLM", "MistralModel"), eos=2, kv_heads=8, windows=_one_window, window=4096,
        bias="none"
    ),
    "qwen2": Family(
        "qwen2", ("Qwen2ForCausalLM", "Qwen2Model"), kv_heads=32, windows=_qwen_windows, window=4096, bias="qkv"
    ),
    "qwen3": Family(
        "qwen3", ("Qwen3ForCausalLM", "Qwen3Model"), kv_heads=32, head_dim=128, windows=_qwen_windows, window=4096,
        qk_norm="head"
    ),
    "gemma3_text": Family(
        "gemma3", ("Gemma3ForCausalLM", "Gemma3TextModel"), eos=1, kv_heads=4, head_dim=256, theta=1e6,
        local_theta=10000.0, windows=_gemma_windows, window=4096, tied=True, qk_norm="head", gemma=True,
    ),
    "gpt2": Family("gpt2", ("GPT2LMHeadModel", "GPT2Model"), eos=50256, norm_eps=1e-5, tied=True),
    "mixtral": Family(
        "mixtral", ("MixtralForCausalLM", "MixtralModel"), eos=2, kv_heads=8, norm_eps=1e-5, theta=1e6,
        windows=_one_window, bias="none", expert_size="intermediate_size", experts=(8, 2, True),
    ),
    "qwen3_moe": Family(
        "qwen3_moe", ("Qwen3MoeForCausalLM", "Qwen3MoeModel"), kv_heads=4, windows=_qwen_moe_windows, window=4096,
        qk_norm="head", expert_size="moe_intermediate_size", experts=(128, 8, None),
    ),
    "olmoe": Family(
        "olmoe", ("OlmoeForCausalLM", "OlmoeModel"), eos=50279, norm_eps=1e-5, qk_norm="full",
        expert_size="intermediate_size", experts=(64, 8, None),
    ),
}  # fmt: skip
