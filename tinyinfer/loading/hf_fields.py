"""Which fields of config.json may stay unread, and which are refused: a setting is never ignored in silence.

transformers ignores every key that its configuration class does not know, so to transformers such a key means nothing.
To a loader it may mean a newer version or a fork of the architecture, which would run wrong without a word. Hence:

    NEUTRAL      origin of the file, training, heads of other tasks, sampling, how a product is cut: none changes a
                 logit, whatever the value
    HARMLESS     fields that change the result, except with these values
    foreign      any other key that no loader knows: one whose words name a part or a size of a transformer
                 (attention_sink, logit_scale, num_experts) is refused by name. One without such a word (run_name,
                 license, created_by) is a note of a trainer or a tool, and is passed over with a line that names it

Wins: fine-tunes load, whatever their trainer wrote into the file. Loses: a new kind of layer, called by a word that no
published model has used, is told in one line and not refused. The words are those of all fields that the causal models
of transformers 5.23 have. A word of training (dropout, warmup_steps, use_flash_attn) is stronger than they are.
auto_map names code in the repository, which transformers does not run either for a model_type that it knows.
"""

from __future__ import annotations

import re

_ORIGIN = """
    _commit_hash _name_or_path architectures auto_map dtype is_llama_config name_or_path output_past torch_dtype
    transformers.js_config transformers_version unsloth_fixed unsloth_version use_bfloat16
"""
_TRAINING = """
    attention_dropout attn_pdrop classifier_dropout embd_pdrop gradient_checkpointing hidden_dropout ignore_index
    initializer_range num_steps output_router_logits resid_pdrop router_aux_loss_coef router_jitter_noise
"""
_RUNNING = """
    _attn_implementation _attn_implementation_autoset _experts_implementation _flash_attn_2_enabled attn_implementation
    cache_implementation chunk_size_feed_forward is_decoder output_attentions output_hidden_states pretraining_tp
    return_dict torchscript reorder_and_upcast_attn tf_legacy_loss tie_last_hidden_states use_cache
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
    "activation": ("swiglu",),  # Falcon 3's name for a gated MLP; hidden_act says which function
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
    "n_special": (0,),  # tokens beside GPT-2's vocabulary
    "partial_rotary_factor": (1, None),
    "per_layer_config": ({}, None),
    "pruned_heads": ({}, None),
    "qk_layer_norms": (False, None),
    "quantization": (None,),
    "quantization_config": (None,),
    "rope_interleaved": (False, None),
    "scale_attn_by_inverse_layer_idx": (False,),
    "sliding_window": (None,),
    "tie_encoder_decoder": (False, None),
    "token_classification_bias": (False, None),
    "use_bidirectional_attention": (False, None),
    "use_mrope": (False, None),
    "use_sliding_window": (False, None),
}
# Words that name a part of a transformer or one of its sizes: beginnings of words, and whole words.
_PARTS = """
    activ alibi alpha altup atten attn beta bias block bound bucket causal centroid channel chunk clamp clip codebook
    compress config conv cross cutoff cycle decod dense depth dim distance embed encod expan expert extent factor feed
    floor fuse gamma gate gating global group hash head hidden index inner inter kernel lambda last latent layer limit
    linear local logit lora mamba mask mixer mixture moe multi ngram norm num offset parallel part patch pattern period
    pool posit predict quant query rank ratio reduc relat repeat residual reus rope rotar rotat rout scal scor select
    shar sink size skip slid soft spars stack state swiglu temper thresh topk value varian vocab weight wid window
"""
_PART_WORDS = """
    act afn asm cap d dff dsa dt emb eps ff ffn fp hc kda key kpool kv lm ln lru mem mlp mode mtp mup n nb nope pos proj
    qk res rms rot ssm step sub swa tau theta tie time top tp type types up v word words
"""
_TRAINING_WORDS = """
    batch dropout epoch epochs flash gradient jitter loss lr neftune noise optim optimizer pdrop train training warmup
"""


def _any_of(words: str) -> str:
    return "(?:" + "|".join(words.split()) + ")"


_PART = re.compile(rf"\b{_any_of(_PARTS)}|\b{_any_of(_PART_WORDS)}\b|norm|attn|rope|softcap")
_TRAINING_WORD = re.compile(rf"\b{_any_of(_TRAINING_WORDS)}\b")


def foreign(name: str) -> bool:
    """Whether an unknown field is no setting of a model: a word of training is in it, or none of a transformer.

    >>> [foreign(name) for name in ("run_name", "use_flash_attn", "attention_sink", "logit_scale", "num_experts")]
    [True, True, False, False, False]
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[\W\d_]+", " ", name).lower()
    return bool(_TRAINING_WORD.search(words)) or not _PART.search(words)
