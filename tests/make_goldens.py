"""Makes tests/golden/*.npz with transformers as the oracle: `python tests/make_goldens.py [NAME ...]`, and with
`--smollm2 PATH_TO_GGUF` golden/smollm2.json and golden/smollm2_tokenizer.json from the real model.

Needs the `oracle` extra. Every model is written as a folder by golden.write_hf_folder and read back by transformers
with nothing missing or left over, in both spellings of config.json; so the folders are right by transformers' own
judgement. Seeds are tried in turn until no greedy token and no choice of experts hangs on a rounding error.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from golden import FAMILIES, GOLDEN_DIR, Golden, checksum, save_golden, write_hf_folder
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


def rope(theta: float, kind: str = "default", **more: float) -> dict[str, Any]:
    """rope_parameters of one kind of layer."""
    return {"rope_type": kind, "rope_theta": theta, **more}


# Norms get epsilons large enough to matter, so that reading the wrong one shows.
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LOCAL, GLOBAL = "sliding_attention", "full_attention"
GPT2 = {"vocab_size": VOCAB, "n_positions": 96, "bos_token_id": 0, "eos_token_id": 2}
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
}  # fmt: skip


def as_transformers_writes(kind: str, fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """config.json, and the name and shape of every tensor, that save_pretrained gives for this configuration."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields), dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads(Path(folder, "config.json").read_text())
        with safe_open(Path(folder, "model.safetensors"), "np") as file:
            tensors = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return config, tensors


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
def greedy_tokens(model: Any, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """`count` greedy tokens by transformers' own KV cache, never stopping, and by how much each beat the next."""
    out = model(torch.tensor([prompt]), use_cache=True)
    tokens, margins = [], []
    for _ in range(count):
        best = out.logits[0, -1].topk(2)
        tokens.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        out = model(torch.tensor([tokens[-1:]]), past_key_values=out.past_key_values, use_cache=True)
    return tokens, margins


def expert_margin(model: Any, tokens: list[int]) -> float:
    """The smallest gap between the last expert chosen and the first one left out, over all layers and tokens."""
    gaps = [1.0]

    def look(module: Any, inputs: Any, output: Any) -> None:
        scores = torch.softmax(inputs[0].reshape(-1, inputs[0].shape[-1]) @ module.weight.T, -1)
        best = scores.sort(descending=True).values
        gaps.append(float((best[:, module.top_k - 1] - best[:, module.top_k]).min()))

    hooks = [module.register_forward_hook(look) for name, module in model.named_modules() if name.endswith("mlp.gate")]
    all_logits(model, tokens)
    for hook in hooks:
        hook.remove()
    return min(gaps)


def attempt(name: str, seed: int, config: dict[str, Any], tensors: dict[str, tuple[int, ...]]) -> Golden | None:
    """The golden of this seed, or None where float32 rounding could change a greedy token or a choice of experts."""
    tokens = np.random.RandomState(seed + 1).randint(3, VOCAB, LENGTH)
    tokens[0] = 0
    prompt = tokens[:PROMPT].tolist()
    golden = Golden(name, config, tensors, seed, 0, tokens, np.zeros((0, VOCAB)), prompt, [])
    model = load(golden)
    logits = all_logits(model, tokens)
    greedy, margins = greedy_tokens(model, prompt, GREEDY)
    gap = min(expert_margin(model, tokens.tolist()), expert_margin(model, prompt + greedy))
    largest = float(np.abs(logits).max())
    if min(margins) < 0.003 * largest or gap < 2e-4 or len(set(greedy)) < 12:
        return None
    error = float(np.abs(all_logits(model.double(), tokens) - logits).max()) / largest
    assert error < 1e-5, f"{name}: float32 itself is {error} off"
    print(f"{name:14s} seed {seed:2d}: margin {min(margins):.4f} of {largest:.1f}, experts' gap {gap:.4f}, "
          f"{len(set(greedy))} different greedy tokens, float32 error {error:.1e}")  # fmt: skip
    return Golden(name, config, tensors, seed, checksum(golden.weights()), tokens, logits, prompt, greedy)


def check_variants(golden: Golden) -> None:
    """transformers reads the same model from every spelling that write_hf_folder knows."""
    kind = golden.config["model_type"]
    variants: list[dict[str, Any]] = [{"dialect": 4, "shards": 3}]
    if kind != "gemma3_text":  # younger than the spelling `type`, which transformers overlooks there
        variants += [{"dialect": 4, "rope_type_key": "type"}]
    if kind == "gpt2":
        variants += [{"prefix": False, "old_buffers": True, "dialect": 4}]
    for options in variants:
        same = all_logits(load(golden, **options), golden.tokens)
        assert np.array_equal(same, golden.logits), (golden.name, options, np.abs(same - golden.logits).max())


def make(name: str) -> None:
    """Writes golden/NAME.npz from the first seed that will do."""
    config, tensors = as_transformers_writes(*CONFIGS[name])
    for seed in range(300):
        if golden := attempt(name, seed, config, tensors):
            check_variants(golden)
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
    assert list(CONFIGS) == FAMILIES
    if sys.argv[1:2] == ["--smollm2"]:
        make_smollm2(Path(sys.argv[2]))
    else:
        for chosen in sys.argv[1:] or FAMILIES:
            make(chosen)
