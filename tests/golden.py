"""Goldens: small models with random weights whose logits and greedy tokens were computed by transformers.

`golden/NAME.npz` holds a configuration, tensor names and shapes, tokens, logits and greedy tokens, but no weights:
those are drawn again from a seed by `golden_weight`. `write_hf_folder` turns a golden into a model folder as found on
the hub. `make_goldens.py` made the files; nothing here needs torch.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

GOLDEN_DIR = Path(__file__).parent / "golden"
FAMILIES = [
    "llama", "llama2", "llama3", "llama_linear", "smollm2", "mistral", "qwen2", "qwen2_window", "qwen3", "gemma3",
    "gemma3_linear", "gpt2", "gpt2_inner", "mixtral", "qwen3_moe", "qwen3_moe_raw", "olmoe", "smollm3", "gemma2",
    "llama_yarn", "qwen2_yarn", "phi3", "phi3_long", "olmo2", "olmo3", "granite", "gpt_neox",
    "gpt_neox_serial", "qwen2_moe", "qwen3_moe_mixed", "gpt_oss",
]  # fmt: skip
# Of each newer family a short golden whose fields are transformers' defaults wherever the sizes allow: read bare, and
# Gemma 3's as the text part of a model that also reads images.
BARE = [
    "smollm3_bare", "gemma2_bare", "gemma3_nested", "phi3_bare", "olmo2_bare", "olmo3_bare", "granite_bare",
    "gpt_neox_bare", "qwen2_moe_bare", "qwen3_moe_bare", "gpt_oss_bare",
]  # fmt: skip
GEMMAS = ("gemma2", "gemma3_text")
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

SPECIAL_TOKENS = ["<|bos|>", "<|im_start|>", "<|im_end|>"]  # ids 0, 1, 2; <|im_end|> ends a text
MERGES = ["Ġ t", "h e", "Ġt he", "i n", "e r", "a n", "Ġ a", "o n", "r e", "in g", "Ã ©", "Ġ Ġ"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>"
    "\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def golden_weight(name: str, shape: tuple[int, ...], seed: int, gemma: bool = False) -> np.ndarray:
    """The float32 weight that a golden model has under this name: the same bits on every machine and NumPy.

    Norms vary around 1 (Gemma's around 0: its norm multiplies by 1 + w; but twice that for queries and keys, else its
    attention would be near uniform), biases have a spread of 0.2, matrices 1.5/sqrt(inputs), embeddings 0.7 (Gemma's
    are scaled by sqrt(D) later). GPT-OSS's sinks are as large as scores, and its experts' gates twice as large as
    others, so that some of them reach the limit of 7.
    """
    uniform = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32).random_sample(shape)
    unit = (uniform - 0.5) * np.sqrt(12.0)  # mean 0, variance 1, and no libm that could round differently elsewhere
    if name.endswith(".sinks"):
        return (1.5 + 1.5 * unit).astype(np.float32)
    if name.endswith(("bias", "position_ids")):
        return (0.2 * unit).astype(np.float32)
    if len(shape) == 1:
        center = 1.0 if not gemma or name.endswith(("q_norm.weight", "k_norm.weight")) else 0.0
        return (center + 0.25 * unit).astype(np.float32)
    if name.endswith(("embed_tokens.weight", "embed_in.weight", "wte.weight", "wpe.weight")):
        return (0.7 * unit / (np.sqrt(shape[1]) if gemma else 1.0)).astype(np.float32)
    transposed = name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight"))  # GPT-2 stores (inputs, outputs)
    spread = 3.0 if name.endswith("gate_up_proj") else 1.5
    return (spread * unit / np.sqrt(shape[0] if transposed else shape[1])).astype(np.float32)


@dataclass(frozen=True)
class Golden:
    """A model and what transformers computes with it.

    config: config.json as transformers 5 writes it. tensors: name in the file -> shape. tokens (T,), logits (T, V)
    float32. prompt: the first of the tokens; greedy: those that follow it when the likeliest is always taken, past any
    end token. weights_crc: checksum of all weights, so that a changed `golden_weight` is not taken for a broken model.
    omissible: the fields that config.json may leave out, since they are the defaults. short_logits (N, V): where a
    text of up to N tokens is computed another way than a longer one (longrope), that of the first N tokens alone.
    around: of a text model published in a model of images, the `config` around it and the other `tensors`.
    """

    name: str
    config: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]
    seed: int
    weights_crc: int
    tokens: np.ndarray
    logits: np.ndarray
    prompt: list[int]
    greedy: list[int]
    omissible: list[str] = field(default_factory=list)
    short_logits: np.ndarray | None = None
    around: dict[str, Any] = field(default_factory=dict)

    def weights(self) -> dict[str, np.ndarray]:
        """Name in the file -> float32 array."""
        gemma = self.config["model_type"] in GEMMAS
        return {name: golden_weight(name, shape, self.seed, gemma) for name, shape in self.tensors.items()}

    def first_logits(self, n: int) -> np.ndarray:
        """The logits of the first n tokens when they are the whole text."""
        short = self.short_logits
        return self.logits[:n] if short is None or n > len(short) else short[:n]


def load_golden(name: str) -> Golden:
    """The golden of this name, one of FAMILIES."""
    with np.load(GOLDEN_DIR / f"{name}.npz", allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        arrays = {key: file[key] for key in file.files if key != "meta"}
    meta["tensors"] = {key: tuple(shape) for key, shape in meta["tensors"].items()}
    return Golden(name=name, **meta, **arrays)


def save_golden(golden: Golden) -> None:
    """Writes golden/NAME.npz."""
    said = ("config", "tensors", "seed", "weights_crc", "prompt", "greedy", "omissible", "around")
    arrays = {"tokens": golden.tokens.astype(np.int32), "logits": golden.logits.astype(np.float32)}
    if golden.short_logits is not None:
        arrays["short_logits"] = golden.short_logits.astype(np.float32)
    meta = np.array(json.dumps({key: getattr(golden, key) for key in said}))
    np.savez_compressed(GOLDEN_DIR / f"{golden.name}.npz", meta=meta, **arrays)


def checksum(weights: dict[str, np.ndarray]) -> int:
    """CRC-32 over all weights in the order of their names."""
    crc = 0
    for name in sorted(weights):
        crc = zlib.crc32(weights[name].astype("<f4").tobytes(), crc)
    return crc


def write_hf_folder(
    golden: str | Golden,
    folder: str | Path,
    *,
    dialect: int = 5,
    dtype: str = "float32",
    shards: int = 1,
    prefix: bool = True,
    old_buffers: bool = False,
    bare: bool = False,
    rope_type_key: str = "rope_type",
    template_file: bool = False,
    changes: dict[str, Any] | None = None,
) -> Path:
    """Writes a whole, usable model folder and returns its path.

    dialect: 5 or 4, the spelling of config.json by that major version of transformers; dialect 4 may spell the kind of
    RoPE scaling `type` (rope_type_key). shards: number of safetensors files, with an index above one. prefix=False:
    GPT-2 without `transformer.`. old_buffers: GPT-2 and GPT-NeoX with the causal masks and inverse frequencies that old
    files carry. bare: without the fields that may be left out (a nested text part of dialect 4 always is).
    template_file: the chat template in a file of its own. changes: fields of config.json to set.
    """
    golden = golden if isinstance(golden, Golden) else load_golden(golden)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = golden.config if dialect == 5 else dialect4(golden.config, rope_type_key)
    if bare or (golden.around and dialect == 4):
        config = {key: value for key, value in config.items() if key not in golden.omissible}
    dtype_key = "dtype" if dialect == 5 else "torch_dtype"
    config = config | {dtype_key: dtype} | (changes or {})
    weights = golden.weights()
    if golden.around:
        config, weights = _nested(golden, config, weights, dialect)
    _write_json(folder / "config.json", config)
    weights = {name: array.astype(DTYPES[dtype]) for name, array in weights.items()}
    if old_buffers:
        weights |= _old_buffers(golden.config)
    if not prefix:
        weights = {name.removeprefix("transformer."): array for name, array in weights.items()}
    _write_weights(folder, weights, shards)
    _write_tokenizer(folder, template_file)
    ends = {"bos_token_id": golden.config["bos_token_id"], "eos_token_id": [golden.config["eos_token_id"]]}
    _write_json(folder / "generation_config.json", ends | {"_from_model_config": True})
    return folder


def dialect4(config: dict[str, Any], rope_type_key: str = "rope_type") -> dict[str, Any]:
    """The same configuration as transformers 4 spelled it: RoPE and windows renamed, empty fields dropped."""
    c = {key: value for key, value in config.items() if value is not None and key != "dtype"}
    c["transformers_version"] = "4.44.0"
    kind = c["model_type"]
    if kind not in ("olmo3", "gpt_oss"):  # younger than the list, which no older file has
        c.pop("layer_types", None)
    rope = c.pop("rope_parameters", None)
    if kind == "gemma3_text":
        c["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        c["sliding_window_pattern"] = c.pop("_sliding_window_pattern")
        del c["use_bidirectional_attention"]
    if rope:
        rope = dict(rope.get("full_attention", rope))
        base, part = (
            ("rotary_emb_base", "rotary_pct") if kind == "gpt_neox" else ("rope_theta", "partial_rotary_factor")
        )
        c[base], rope_type = rope.pop("rope_theta"), rope.pop("rope_type")
        c["rope_theta"] = c[base]  # GPT-NeoX says it twice
        if "partial_rotary_factor" in rope:
            c[part] = rope.pop("partial_rotary_factor")
        if kind == "phi3":
            rope.pop("original_max_position_embeddings", None)  # it stands outside
        c["rope_scaling"] = None if rope_type == "default" else {rope_type_key: rope_type, **rope}
    if kind in ("llama", "olmoe") and c["num_key_value_heads"] == c["num_attention_heads"]:
        del c["num_key_value_heads"]
    if kind == "llama" and c["head_dim"] * c["num_attention_heads"] == c["hidden_size"]:
        del c["head_dim"]  # files older than 4.46 do not have it
    if kind.startswith("qwen"):
        c["sliding_window"] = c.get("sliding_window") or 5  # hub files name a window that use_sliding_window turns off
        c.setdefault("max_window_layers", c["num_hidden_layers"] - 1)
    if kind == "qwen3_moe":
        c["num_experts"] = c.pop("num_local_experts")
    if kind == "gpt_oss":
        c["experts_per_token"] = c["num_experts_per_tok"]
        c["initial_context_length"] = c["rope_scaling"]["original_max_position_embeddings"]
        del c["swiglu_alpha"]
    if kind == "gpt2":
        c["n_ctx"] = c["n_positions"]
        c["task_specific_params"] = {"text-generation": {"do_sample": True, "max_length": 50}}
    if kind == "gemma2":
        c |= {"hidden_act": c["hidden_activation"], "cache_implementation": "hybrid"}
        c["sliding_window_size"] = c["sliding_window"]
    if kind == "smollm3":
        c["max_window_layers"] = 28  # published so, and never read
    if kind in ("gpt2", *GEMMAS) and c["tie_word_embeddings"]:
        del c["tie_word_embeddings"]  # their default, and so never written
    return c


def golden_tokenizer() -> Tokenizer:
    """A byte-level BPE of 271 ids: 3 special tokens, 256 bytes, 12 merges; puts <|bos|> first. Any text round-trips."""
    byte_symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = SPECIAL_TOKENS + byte_symbols + [merge.replace(" ", "") for merge in MERGES]
    merges = [(left, right) for left, right in (merge.split() for merge in MERGES)]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=merges))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", 0)]
    )
    return tokenizer


def _write_weights(folder: Path, weights: dict[str, np.ndarray], shards: int) -> None:
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    where = {}
    for i in range(shards):  # every shard holds tensors of every layer, so that no reader can lean on their order
        part = dict(list(weights.items())[i::shards])
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    total = sum(array.nbytes for array in weights.values())
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def _write_tokenizer(folder: Path, template_file: bool) -> None:
    golden_tokenizer().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|im_end|>"}
    if template_file:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    else:
        config["chat_template"] = CHAT_TEMPLATE
    _write_json(folder / "tokenizer_config.json", config | {"clean_up_tokenization_spaces": False})


def _nested(golden: Golden, config: dict[str, Any], weights: dict[str, np.ndarray], dialect: int) -> Any:
    """The text model inside the model around it: config.json and all tensors."""
    inside = "model.language_model." if dialect == 5 else "language_model.model."
    renamed = {name.replace("model.", inside, 1): array for name, array in weights.items()}
    outside = "model." if dialect == 5 else ""
    towers = {
        outside + name: golden_weight(name, tuple(shape), golden.seed)
        for name, shape in golden.around["tensors"].items()
    }
    return golden.around["config"] | {"text_config": config}, renamed | towers


def _old_buffers(config: dict[str, Any]) -> dict[str, np.ndarray]:
    neox = config["model_type"] == "gpt_neox"
    layers, size = (config["num_hidden_layers"], 64) if neox else (config["n_layer"], config["n_positions"])
    mask = np.tril(np.ones((1, 1, size, size), np.uint8 if neox else np.float32))
    buffers = {"bias": mask, "masked_bias": np.array(-1e4 if not neox else -1e9, np.float32)}
    place = "gpt_neox.layers.{}.attention." if neox else "transformer.h.{}.attn."
    if neox:
        buffers["rotary_emb.inv_freq"] = np.full(2, 0.5, np.float32)
    return {place.format(i) + key: b for i in range(layers) for key, b in buffers.items()}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
