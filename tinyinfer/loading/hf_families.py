"""How Hugging Face families differ: defaults, attention windows, and the fields that need not be read.

A field that config.json leaves out has the default of its family (those of the configuration classes of transformers).
NEUTRAL and HARMLESS list the fields that hf_config.py may leave unread without changing a result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinyinfer.loading.json_fields import Fields
from tinyinfer.units import show

Windows = tuple[int | None, ...]

# Origin of the file, training, heads of other tasks, sampling: none of these fields changes a logit.
_ORIGIN = """
    _commit_hash _name_or_path architectures auto_map dtype is_llama_config name_or_path output_past torch_dtype
    transformers.js_config transformers_version unsloth_fixed unsloth_version use_bfloat16
"""
_TRAINING = """
    attention_dropout attn_pdrop embd_pdrop gradient_checkpointing initializer_range output_router_logits resid_pdrop
    router_aux_loss_coef router_jitter_noise
"""
_RUNNING = """
    _attn_implementation _attn_implementation_autoset _experts_implementation _flash_attn_2_enabled attn_implementation
    cache_implementation chunk_size_feed_forward is_decoder output_attentions output_hidden_states return_dict
    torchscript reorder_and_upcast_attn tf_legacy_loss tie_last_hidden_states use_cache
"""
_OTHER_HEADS = """
    _num_labels finetuning_task id2label label2id num_labels predict_special_tokens problem_type summary_activation
    summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
"""
_TEXT = """
    bos_token_id decoder_start_token_id eos_token_id max_sequence_length model_max_length n_ctx pad_token_id prefix
    sep_token_id seq_length task_specific_params tokenizer_class
"""
_SAMPLING = """
    bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores remove_invalid_values
    repetition_penalty return_dict_in_generate suppress_tokens temperature top_k top_p typical_p
"""
NEUTRAL = frozenset((_ORIGIN + _TRAINING + _RUNNING + _OTHER_HEADS + _TEXT + _SAMPLING).split())
# Fields that change the result, except with these values. A family that supports other values reads the field itself.
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
