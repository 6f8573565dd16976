"""Makes tests/golden/*.npz with transformers as the oracle: `python tests/make_goldens.py [NAME ...]`, and with
`--smollm2 PATH_TO_GGUF` golden/smollm2.json and golden/smollm2_tokenizer.json from the real model.

Needs the `oracle` extra. Every model is written as a folder by golden.write_hf_folder and read back by transformers
with nothing missing or left over, in both spellings of config.json; so the folders are right by transformers' own
judgement. Seeds are tried in turn until no greedy token and no choice of experts hangs on a rounding error. What is
peculiar to a family is taken out of the model in turn (ABLATIONS), and the logits must move by far more than the
tolerance of the tests: a golden that does not notice a peculiarity proves nothing about it.
"""

from __future__ import annotations

import copy
import json
import re
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from golden import BARE, FAMILIES, GOLDEN_DIR, Golden, checksum, save_golden, write_hf_folder
from safetensors import safe_open
from smollm2_texts import CHATS, PROMPTS, TOKENIZER_TEXTS
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

VOCAB, LENGTH, PROMPT, GREEDY = 277, 41, 17, 28
COMMON = {"vocab_size": VOCAB, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 2}


def sizes(d: int, f: int, layers: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    """The fields that all families but GPT-2 share."""
    return COMMON | {
        "hidden_size": d, "intermediate_size": f, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, **more,
    }  # fmt: skip


def rope(theta: float, kind: str = "default", **more: Any) -> dict[str, Any]:
    """rope_parameters of one kind of layer."""
    return {"rope_type": kind, "rope_theta": theta, **more}


# Norms get epsilons large enough to matter, so that reading the wrong one shows.
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LOCAL, GLOBAL = "sliding_attention", "full_attention"
GPT2 = {"vocab_size": VOCAB, "n_positions": 96, "bos_token_id": 0, "eos_token_id": 2}
SIZES = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
         "max_position_embeddings"}  # fmt: skip
NEOX = COMMON | {"hidden_act": "gelu"}
PAD = {"pad_token_id": 0}  # where the default lies outside so small a vocabulary
ORIGINAL = "original_max_position_embeddings"
FACTORS = {"short_factor": [1.0, 1.1, 1.3, 1.7, 2.1, 2.9], "long_factor": [1.2, 2.5, 4.0, 6.0, 9.0, 14.0]}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", sizes(60, 112, 3, 6, 2, head_dim=14, attention_bias=True, mlp_bias=True, rms_norm_eps=0.02,
                             rope_parameters=rope(5000.0))),
    "llama2": ("llama", sizes(48, 88, 3, 4, 4, tie_word_embeddings=True, rms_norm_eps=1e-3)),
    "llama3": ("llama", sizes(64, 104, 3, 8, 2, head_dim=16, rms_norm_eps=1e-5,
                              rope_parameters=rope(10000.0, "llama3", **LLAMA3))),
    "llama_linear": ("llama", sizes(56, 100, 3, 7, 1, rms_norm_eps=4e-3,
                                    rope_parameters=rope(10000.0, "linear", factor=2.5))),
    "smollm2": ("llama", sizes(72, 120, 4, 9, 3, rms_norm_eps=1e-5, tie_word_embeddings=True,
                               rope_parameters=rope(100000.0))),
    "mistral": ("mistral", sizes(64, 90, 3, 4, 2, head_dim=18, rms_norm_eps=3e-3, sliding_window=11)),
    "qwen2": ("qwen2", sizes(56, 96, 3, 4, 2, rms_norm_eps=5e-3, tie_word_embeddings=True, rope_parameters=rope(1e6))),
    "qwen2_window": ("qwen2", sizes(60, 94, 4, 5, 1, rms_norm_eps=0.03, use_sliding_window=True, sliding_window=9,
                                    max_window_layers=2)),
    "qwen3": ("qwen3", sizes(52, 84, 3, 4, 2, head_dim=20, rms_norm_eps=6e-3, rope_parameters=rope(1e6))),
    "gemma3": ("gemma3_text", sizes(48, 76, 4, 4, 1, head_dim=20, query_pre_attn_scalar=17, rms_norm_eps=2e-3,
                                    sliding_window=7, layer_types=[LOCAL, LOCAL, GLOBAL, LOCAL],
                                    _sliding_window_pattern=3,
                                    rope_parameters={GLOBAL: rope(1e6), LOCAL: rope(10000.0)})),
    "gemma3_linear": ("gemma3_text", sizes(60, 86, 4, 6, 3, head_dim=12, query_pre_attn_scalar=9, sliding_window=10,
                                           layer_types=[LOCAL, GLOBAL] * 2, _sliding_window_pattern=2,
                                           rope_parameters={GLOBAL: rope(2e4, "linear", factor=4.0),
                                                            LOCAL: rope(500.0)})),
    "gpt2": ("gpt2", GPT2 | {"n_embd": 56, "n_layer": 3, "n_head": 7, "layer_norm_epsilon": 0.02}),
    "gpt2_inner": ("gpt2", GPT2 | {"n_embd": 44, "n_layer": 3, "n_head": 2, "n_inner": 100,
                                   "tie_word_embeddings": False}),
    "mixtral": ("mixtral", sizes(48, 40, 3, 6, 3, head_dim=10, rms_norm_eps=7e-3, num_local_experts=5,
                                 num_experts_per_tok=2)),
    "qwen3_moe": ("qwen3_moe", sizes(48, 99, 3, 4, 2, head_dim=16, rms_norm_eps=8e-3, num_experts=6,
                                     num_experts_per_tok=3, moe_intermediate_size=28, norm_topk_prob=True)),
    "qwen3_moe_raw": ("qwen3_moe", sizes(40, 98, 3, 4, 1, num_experts=7, num_experts_per_tok=2, norm_topk_prob=False,
                                         moe_intermediate_size=34, attention_bias=True, tie_word_embeddings=True)),
    "olmoe": ("olmoe", sizes(60, 36, 3, 6, 2, rms_norm_eps=9e-3, num_experts=8, num_experts_per_tok=3)),
    "smollm3": ("smollm3", sizes(60, 88, 5, 6, 2, rms_norm_eps=6e-3, no_rope_layers=[1, 0, 0, 1, 1], sliding_window=9,
                                 use_sliding_window=True, tie_word_embeddings=False, rope_parameters=rope(3e4)) | PAD),
    "gemma2": ("gemma2", sizes(54, 82, 5, 6, 2, head_dim=14, query_pre_attn_scalar=6, rms_norm_eps=4e-3,
                               sliding_window=8, attn_logit_softcapping=6.0, final_logit_softcapping=3.0,
                               rope_parameters=rope(3000.0))),
    "gemma3_nested": ("gemma3", sizes(32, 46, 7, 8, 4, sliding_window=9,
                                      rope_parameters={GLOBAL: rope(1e6, "linear", factor=8.0), LOCAL: rope(1e4)})),
    "llama_yarn": ("llama", sizes(60, 92, 3, 5, 5, rms_norm_eps=3e-3,
                                  rope_parameters=rope(500.0, "yarn", factor=4.0, **{ORIGINAL: 32}))),
    "qwen2_yarn": ("qwen2", sizes(64, 78, 3, 4, 1, rms_norm_eps=7e-3, rope_parameters=rope(
        100.0, "yarn", factor=None, mscale=1.5, mscale_all_dim=0.5, truncate=False, beta_fast=3, beta_slow=0,
        **{ORIGINAL: 64}))),
    "phi3": ("phi3", sizes(60, 98, 3, 6, 3, rms_norm_eps=2e-2, sliding_window=9, rope_parameters=rope(4000.0)) | PAD),
    "phi3_long": ("phi3", sizes(96, 70, 3, 6, 2, rms_norm_eps=8e-3, tie_word_embeddings=True, **{ORIGINAL: 24},
                                rope_parameters=rope(2000.0, "longrope", partial_rotary_factor=0.75, **FACTORS)) | PAD),
    "olmo2": ("olmo2", sizes(60, 80, 3, 6, 2, rms_norm_eps=3e-2, rope_parameters=rope(7000.0))),
    "olmo3": ("olmo3", sizes(64, 72, 4, 4, 2, rms_norm_eps=2e-2, sliding_window=10, layer_types=[LOCAL, GLOBAL] * 2,
                             rope_parameters={GLOBAL: rope(5e5, "yarn", factor=4.0, attention_factor=1.3,
                                                           **{ORIGINAL: 32}), LOCAL: rope(5e5)})),
    "granite": ("granite", sizes(56, 94, 3, 4, 2, rms_norm_eps=9e-3, attention_multiplier=0.15, logits_scaling=3.5,
                                 embedding_multiplier=0.6, residual_multiplier=0.4, tie_word_embeddings=True)),
    "gpt_neox": ("gpt_neox", NEOX | {"hidden_size": 60, "num_hidden_layers": 4, "num_attention_heads": 3,
                                     "intermediate_size": 100, "layer_norm_eps": 0.02, "rope_parameters":
                                     rope(3000.0, partial_rotary_factor=0.3)}),
    "gpt_neox_serial": ("gpt_neox", NEOX | {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
                                            "intermediate_size": 110, "use_parallel_residual": False,
                                            "rope_parameters": rope(1e4, partial_rotary_factor=1.0)}),
    "qwen2_moe": ("qwen2_moe", sizes(48, 76, 4, 6, 2, rms_norm_eps=8e-3, num_experts=6, num_experts_per_tok=2,
                                     moe_intermediate_size=30, shared_expert_intermediate_size=44,
                                     mlp_only_layers=[2])),
    "qwen3_moe_mixed": ("qwen3_moe", sizes(44, 66, 4, 4, 2, head_dim=12, rms_norm_eps=1e-2, num_experts=5,
                                           num_experts_per_tok=2, moe_intermediate_size=38, norm_topk_prob=True,
                                           decoder_sparse_step=2)),
    "gpt_oss": ("gpt_oss", sizes(52, 30, 4, 6, 2, head_dim=12, rms_norm_eps=1e-2, sliding_window=8,
                                 layer_types=[GLOBAL, LOCAL, LOCAL, GLOBAL], num_local_experts=5,
                                 num_experts_per_tok=2, rope_parameters=rope(
        200.0, "yarn", factor=4.0, truncate=False, beta_fast=4.0, beta_slow=1.0, **{ORIGINAL: 64}))),
    "smollm3_bare": ("smollm3", sizes(64, 48, 5, 8, 4) | PAD),
    "gemma2_bare": ("gemma2", sizes(32, 40, 3, 8, 4)),
    "phi3_bare": ("phi3", sizes(48, 52, 2, 4, 4) | PAD),
    "olmo2_bare": ("olmo2", sizes(48, 52, 2, 4, 4)),
    "olmo3_bare": ("olmo3", sizes(48, 52, 5, 4, 4, sliding_window=9)),
    "granite_bare": ("granite", sizes(48, 52, 2, 4, 4)),
    "gpt_neox_bare": ("gpt_neox", NEOX | {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                                          "intermediate_size": 72}),
    "qwen2_moe_bare": ("qwen2_moe", sizes(64, 50, 2, 16, 16, moe_intermediate_size=10,
                                          shared_expert_intermediate_size=14)),
    "qwen3_moe_bare": ("qwen3_moe", sizes(48, 50, 2, 8, 4, num_experts=9, moe_intermediate_size=10)),
    "gpt_oss_bare": ("gpt_oss", sizes(40, 12, 3, 16, 8)),
}  # fmt: skip
TOWER = {"model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1,
         "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip


def merged(old: Any, new: Any) -> Any:
    """A configuration with some fields, however deep, set to something else."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {key: merged(old.get(key), value) for key, value in new.items()}


def amplitude(value: float) -> dict[str, Any]:
    """The change that sets the factor of cosine and sine."""
    return {"rope_parameters": {"attention_factor": value}}


# What is taken out of each model: fields of config.json, or the value that fills the weights whose names hold a text.
UNSCALED = {"rope_parameters": {"factor": 1.0, "attention_factor": 1.0}}
YARN = amplitude(1.0), amplitude(float(0.1 * np.log(4.0) + 1) ** 2), UNSCALED
ABLATIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "smollm3": ({"no_rope_layers": [0, 1, 1, 0, 0]}, {"no_rope_layers": [1] * 5}, {"use_sliding_window": False,
                "layer_types": None}, {"layer_types": [LOCAL] * 5}, {"rms_norm_eps": 1e-6}),
    "gemma2": ({"attn_logit_softcapping": None}, {"final_logit_softcapping": None}, {"query_pre_attn_scalar": 14},
               {"layer_types": [GLOBAL, LOCAL] * 2 + [GLOBAL]}, {"layer_types": [LOCAL] * 5},
               {"layer_types": [GLOBAL] * 5},
               {"rms_norm_eps": 1e-6}),
    "gemma3_nested": ({"layer_types": [GLOBAL] * 7}, {"layer_types": [LOCAL] * 7}, {"query_pre_attn_scalar": 128},
                      {"rope_parameters": {GLOBAL: {"factor": 1.0}}}, {"rope_parameters": {LOCAL: {"rope_theta": 1e6}}}),
    "llama_yarn": YARN,
    "qwen2_yarn": ({"rope_parameters": {"factor": 4.0}}, {"rope_parameters": {"truncate": True}},
                   {"rope_parameters": {"beta_fast": 32}}, {"rope_parameters": {"beta_slow": 2}},
                   {"rope_parameters": {"mscale": 1.0}}, {"rope_parameters": {"mscale_all_dim": 1.0}}, UNSCALED),
    "phi3": ({"sliding_window": None}, {"sliding_window": 10}, {"rms_norm_eps": 1e-5}),
    "phi3_long": (amplitude(1.0), amplitude(float(1 + np.log(4) / np.log(24))), {ORIGINAL: 48},
                  {"rope_parameters": {"partial_rotary_factor": 1.0, "long_factor": FACTORS["long_factor"] + [40.0] * 2,
                                       "short_factor": FACTORS["short_factor"] + [40.0] * 2}}),
    "olmo2": ({"rms_norm_eps": 1e-5}, {"rope_parameters": {"rope_theta": 1e4}}),
    "olmo3": ({"layer_types": [GLOBAL, LOCAL] * 2}, {"layer_types": [GLOBAL] * 4}, {"layer_types": [LOCAL] * 4},
              {"rope_parameters": {GLOBAL: {"attention_factor": 1.0}}}, {"rope_parameters": {GLOBAL: {"factor": 1.0}}},
              {"rope_parameters": {LOCAL: rope(5e5, "yarn", factor=4.0, attention_factor=1.3, **{ORIGINAL: 32})}},
              {"rms_norm_eps": 1e-5}),
    "granite": ({"attention_multiplier": 14**-0.5}, {"logits_scaling": 1.0}, {"embedding_multiplier": 1.0},
                {"residual_multiplier": 1.0}),
    "gpt_neox": ({"use_parallel_residual": False}, {"rope_parameters": {"partial_rotary_factor": 0.25}},
                 {"rope_parameters": {"rope_theta": 1e4}}, {"layer_norm_eps": 1e-5}, {"weights": {"bias": 0.0}}),
    "gpt_neox_serial": ({"use_parallel_residual": True}, {"rope_parameters": {"partial_rotary_factor": 0.25}}),
    "qwen2_moe": ({"norm_topk_prob": True}, {"weights": {"shared_expert.down_proj": 0.0}},
                  {"weights": {"shared_expert_gate": 0.0}}, {"num_experts_per_tok": 3}, {"rms_norm_eps": 1e-6}),
    "qwen3_moe_mixed": ({"norm_topk_prob": False}, {"num_experts_per_tok": 1}),
    "gpt_oss": ({"weights": {"sinks": -1e4}}, {"weights": {"sinks": 0.0}}, {"swiglu_limit": 1e9},
                {"swiglu_alpha": 1.0}, {"weights": {"router.bias": 0.0}}, {"weights": {"down_proj_bias": 0.0}},
                {"weights": {"gate_up_proj_bias": 0.0}}, {"weights": {"o_proj.bias": 0.0}},
                {"layer_types": [LOCAL, GLOBAL, GLOBAL, LOCAL]}, {"layer_types": [GLOBAL] * 4},
                {"layer_types": [LOCAL] * 4}, {"rope_parameters": {"truncate": True}}, *YARN),
}  # fmt: skip
# Exact GELU is within 5e-4 of its tanh form, so that nothing could be far more than the tolerance.
NEAR: dict[str, tuple[dict[str, Any], ...]] = {
    "gpt_neox": ({"hidden_act": "gelu_pytorch_tanh"},), "gpt_neox_serial": ({"hidden_act": "gelu_pytorch_tanh"},)
}  # fmt: skip


def as_transformers_writes(name: str) -> Golden:
    """A golden without numbers: config.json, and every tensor's name and shape, as save_pretrained gives them."""
    kind, fields = CONFIGS[name]
    if kind == "gemma3":
        fields = {"text_config": fields, "vision_config": TOWER, "mm_tokens_per_image": 4}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields), dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads(Path(folder, "config.json").read_text())
        with safe_open(Path(folder, "model.safetensors"), "np") as file:
            tensors = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    around: dict[str, Any] = {}
    if kind == "gemma3":
        inside = re.compile(r"(?:model\.)?language_model\.(?:model\.)?")
        towers = {name.removeprefix("model."): shape for name, shape in tensors.items() if not inside.match(name)}
        tensors = {inside.sub("model.", name): shape for name, shape in tensors.items() if inside.match(name)}
        around = {"config": config, "tensors": towers}
        config = {"bos_token_id": 0, "eos_token_id": 2} | config.pop("text_config")
    empty = np.zeros((0, VOCAB), np.float32)
    return Golden(name, config, tensors, 0, 0, np.zeros(0), empty, [], [], omissible(config, around), None, around)


def omissible(config: dict[str, Any], around: dict[str, Any]) -> list[str]:
    """The fields that have the same value when config.json leaves them out, each and all of them.

    A whole config.json says its sizes, a text part nested in another need not.
    """
    said = {"model_type", "architectures"} | (set() if around else SIZES)

    def read(left_out: list[str]) -> dict[str, Any]:
        kept = {key: value for key, value in config.items() if key not in (*left_out, "model_type")}
        with suppress(Exception):  # a default that the other fields contradict
            return AutoConfig.for_model(config["model_type"], **copy.deepcopy(kept)).to_dict()
        return {}

    whole, found = read([]), list[str]()
    for key in config:
        if key not in said and read([*found, key]) == whole:
            found.append(key)
    return found


def load(golden: Golden, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """The golden as a transformers model, read from a folder with no key missing or unexpected."""
    with tempfile.TemporaryDirectory() as folder:
        write_hf_folder(golden, folder, **options)
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True
        )
    info["unexpected_keys"] = [key for key in info["unexpected_keys"] if not key.endswith("attn.masked_bias")]
    wrong = {key: value for key, value in info.items() if value}
    assert not wrong, (golden.name, options, wrong)
    return model.eval()


@torch.inference_mode()
def all_logits(model: Any, tokens: list[int] | np.ndarray) -> np.ndarray:
    return model(torch.tensor(np.asarray(tokens, np.int64)[None]), use_cache=False).logits[0].numpy()


@torch.inference_mode()
def greedy_tokens(model: Any, prompt: list[int], count: int, cached: bool = True) -> tuple[list[int], list[float]]:
    """`count` greedy tokens, never stopping, and by how much each beat the next.

    cached: by transformers' own KV cache; else each step computes the whole text anew.
    """
    text, cache = list(prompt), None
    margins = []
    for _ in range(count):
        out = model(torch.tensor([text[-1:] if cache else text]), past_key_values=cache, use_cache=cached)
        cache = out.past_key_values if cached else None
        best = out.logits[0, -1].topk(2)
        text.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
    return text[len(prompt) :], margins


def expert_margin(model: Any, tokens: list[int]) -> float:
    """The smallest gap between the last expert chosen and the first one left out, over all layers and tokens."""
    gaps = [1.0]

    def look(module: Any, inputs: Any, output: Any) -> None:
        logits = inputs[0].reshape(-1, inputs[0].shape[-1]) @ module.weight.T
        scores = torch.softmax(logits + getattr(module, "bias", 0.0), -1)
        best = scores.sort(descending=True).values
        gaps.append(float((best[:, module.top_k - 1] - best[:, module.top_k]).min()))

    routers = [module for name, module in model.named_modules() if name.endswith(("mlp.gate", "mlp.router"))]
    hooks = [module.register_forward_hook(look) for module in routers]
    all_logits(model, tokens)
    for hook in hooks:
        hook.remove()
    return min(gaps)


def attempt(written: Golden, seed: int) -> Golden | None:
    """The golden of this seed, or None where float32 rounding could change a greedy token or a choice of experts."""
    bare, name = written.name in BARE, written.name
    tokens = np.random.RandomState(seed + 1).randint(3, VOCAB, 19 if bare else LENGTH)
    tokens[0] = 0
    prompt, count = tokens[: 11 if bare else PROMPT].tolist(), 6 if bare else GREEDY
    golden = replace(written, seed=seed, tokens=tokens, prompt=prompt)
    model = load(golden)
    logits = all_logits(model, tokens)
    limit = written.config.get(ORIGINAL, LENGTH)
    greedy, margins = greedy_tokens(model, prompt, count, cached=limit >= LENGTH)
    gap = min(expert_margin(model, tokens.tolist()), expert_margin(model, prompt + greedy))
    largest = float(np.abs(logits).max())
    if min(margins) < 0.003 * largest or gap < 2e-4 or len(set(greedy)) < (count if bare else 12):
        return None
    short = check_lengths(model, golden, logits, greedy, limit) if limit < LENGTH else None
    error = distance(all_logits(model.double(), tokens), logits)
    assert error < 1e-5, f"{name}: float32 itself is {error} off"
    print(f"{name:15s} seed {seed:2d}: margin {min(margins):.4f} of {largest:.1f}, experts' gap {gap:.4f}, "
          f"{len(set(greedy))} different greedy tokens, float32 error {error:.1e}")  # fmt: skip
    crc = checksum(golden.weights())
    return replace(golden, weights_crc=crc, logits=logits, greedy=greedy, short_logits=short)


def check_lengths(model: Any, golden: Golden, logits: np.ndarray, greedy: list[int], limit: int) -> np.ndarray:
    """longrope: the logits of the first `limit` tokens alone; those of more tokens are computed as the whole text's.

    And transformers' own generation, which computes the text anew where it grows longer, gives the greedy tokens.
    """
    short = all_logits(model, golden.tokens[:limit])
    for n in (1, PROMPT, limit - 1):
        assert distance(all_logits(model, golden.tokens[:n]), short[:n]) < 1e-5
    for n in (limit + 1, limit + 2):
        assert distance(all_logits(model, golden.tokens[:n]), logits[:n]) < 1e-5
    assert distance(short, logits[:limit]) > 0.03
    asked = torch.tensor([golden.prompt])
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        seen = torch.ones_like(asked)
        found = model.generate(asked, attention_mask=seen, do_sample=False, max_new_tokens=len(greedy), pad_token_id=0)
    assert found[0, len(golden.prompt) :].tolist() == greedy, "transformers' generate differs at the crossing"
    return short


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, as a share of the largest expected value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def check_variants(golden: Golden) -> None:
    """transformers reads the same model from every spelling that write_hf_folder knows."""
    kind = golden.config["model_type"]
    variants: list[dict[str, Any]] = [{"dialect": 4, "shards": 3}, {"bare": True}]
    if kind not in ("gemma3_text", "olmo3"):  # younger than the spelling `type`, which transformers overlooks there
        variants += [{"dialect": 4, "rope_type_key": "type"}]
    if kind == "gpt2":
        variants += [{"prefix": False, "old_buffers": True, "dialect": 4}]
    if kind == "gpt_neox":
        variants += [{"old_buffers": True, "dialect": 4}]
    for options in variants:
        same = all_logits(load(golden, **options), golden.tokens)
        assert np.array_equal(same, golden.logits), (golden.name, options, np.abs(same - golden.logits).max())


def check_ablations(golden: Golden) -> None:
    """Each peculiarity of the family shows in the logits, far above the tolerance (1e-4) of the tests."""
    for least, table in ((0.003, ABLATIONS), (2e-4, NEAR)):
        for change in table.get(golden.name, ()):
            fields = {key: value for key, value in change.items() if key != "weights"}
            model = load(replace(golden, config=merged(golden.config, fields)))
            for text, value in change.get("weights", {}).items():
                with torch.no_grad():
                    changed = [weight.fill_(value) for name, weight in model.named_parameters() if text in name]
                assert changed, f"{golden.name}: no weight is called {text}"
            moved = distance(all_logits(model, golden.tokens), golden.logits)
            print(f"    {moved:8.4f} {change}")
            assert moved > least, f"{golden.name} does not notice {change}: {moved}"


def make(name: str) -> None:
    """Writes golden/NAME.npz from the first seed that will do."""
    written = as_transformers_writes(name)
    for seed in range(300):
        if golden := attempt(written, seed):
            check_variants(golden)
            check_ablations(golden)
            return save_golden(golden)
    raise SystemExit(f"{name}: no seed will do")


def load_smollm2(path: Path) -> tuple[Any, Any, Tokenizer]:
    """transformers' model in float32 and its tokenizer, both read from the GGUF, and the tokenizer as first published.

    The published one splits digits from everything before them, which transformers does not read from the GGUF
    (`tokenizer.ggml.pre` = smollm; llama.cpp does): they differ for spaces before digits.
    """
    quantized = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    model = AutoModelForCausalLM.from_config(quantized.config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    published = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    digits = pre_tokenizers.Digits(individual_digits=True)
    published.pre_tokenizer = pre_tokenizers.Sequence([digits, published.pre_tokenizer])
    return model.eval(), tokenizer, published


def make_smollm2(path: Path) -> None:
    """Writes golden/smollm2.json (greedy tokens) and golden/smollm2_tokenizer.json (ids of awkward texts)."""
    model, tokenizer, published = load_smollm2(path)
    render = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)
    runs: list[dict[str, Any]] = []
    for prompt in PROMPTS:
        text, asked = prompt, {"text": prompt}
        if not isinstance(prompt, str):
            text, asked = render(prompt), {"messages": prompt}
        ids = tokenizer(text).input_ids
        assert ids == published.encode(text).ids, "a prompt must not depend on the reading of digits"
        greedy, margins = greedy_tokens(model, ids, 32)
        print(f"{len(ids):4d} tokens, margin {min(margins):.4f}: {tokenizer.decode(greedy)!r}")
        runs.append({**asked, "ids": ids, "greedy": greedy, "margins": [round(margin, 4) for margin in margins]})
    texts = []
    for text in TOKENIZER_TEXTS:
        ids, split = tokenizer(text).input_ids, published.encode(text).ids
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        texts.append({"text": text, "ids": ids} | ({} if ids == split else {"split_digits": split}))
    chats = []
    for messages in CHATS:
        for reply in (True, False):
            text = render(messages, add_generation_prompt=reply)
            ids = tokenizer(text).input_ids
            assert ids == published.encode(text).ids
            chats.append({"messages": messages, "add_generation_prompt": reply, "text": text, "ids": ids})
    write_compact("smollm2.json", runs)
    write_compact("smollm2_tokenizer.json", {"texts": texts, "chats": chats})


def write_compact(name: str, value: Any) -> None:
    """Writes JSON, one item a line, in ASCII: some of the texts would upset an editor."""
    lists = value.items() if isinstance(value, dict) else [(None, value)]
    parts = []
    for key, items in lists:
        lines = ",\n".join(json.dumps(item, separators=(",", ":")) for item in items)
        parts.append((f"{json.dumps(key)}:" if key else "") + f"[\n{lines}\n]")
    text = ",\n".join(parts)
    (GOLDEN_DIR / name).write_text(("{" + text + "}" if isinstance(value, dict) else text) + "\n", encoding="ascii")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    assert list(CONFIGS) == FAMILIES + BARE
    if sys.argv[1:2] == ["--smollm2"]:
        make_smollm2(Path(sys.argv[2]))
    else:
        for chosen in sys.argv[1:] or FAMILIES + BARE:
            make(chosen)
