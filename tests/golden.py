"""Goldens: small models with random weights whose logits and greedy tokens were computed by transformers.

`golden/NAME.npz` holds a configuration, tensor names and shapes, tokens, logits and greedy tokens, but no weights:
those are drawn again from a seed by `golden_weight`. `write_hf_folder` turns a golden into a model folder as found on
the hub. `make_goldens.py` made the files; nothing here needs torch.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

GOLDEN_DIR = Path(__file__).parent / "golden"
FAMILIES = [
    "llama", "llama2", "llama3", "llama_linear", "smollm2", "mistral", "qwen2", "qwen2_window", "qwen3", "gemma3",
    "gemma3_linear", "gpt2", "gpt2_inner", "mixtral", "qwen3_moe", "qwen3_moe_raw", "olmoe",
]  # fmt: skip
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
    are scaled by sqrt(D) later).
    """
    uniform = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32).random_sample(shape)
    unit = (uniform - 0.5) * np.sqrt(12.0)  # mean 0, variance 1, and no libm that could round differently elsewhere
    if name.endswith(".bias"):
        return (0.2 * unit).astype(np.float32)
    if len(shape) == 1:
        center = 1.0 if not gemma or name.endswith(("q_norm.weight", "k_norm.weight")) else 0.0
        return (center + 0.25 * unit).astype(np.float32)
    if name.endswith(("embed_tokens.weight", "wte.weight", "wpe.weight")):
        return (0.7 * unit / (np.sqrt(shape[1]) if gemma else 1.0)).astype(np.float32)
    transposed = name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight"))  # GPT-2 stores (inputs, outputs)
    return (1.5 * unit / np.sqrt(shape[0] if transposed else shape[1])).astype(np.float32)


@dataclass(frozen=True)
class Golden:
    """A model and what transformers computes with it.

    config: config.json as transformers 5 writes it. tensors: name in the file -> shape. tokens (T,), logits (T, V)
    float32. prompt: the first of the tokens; greedy: those that follow it when the likeliest is always taken, past any
    end token. weights_crc: checksum of all weights, so that a changed `golden_weight` is not taken for a broken model.
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

    def weights(self) -> dict[str, np.ndarray]:
        """Name in the file -> float32 array."""
        gemma = self.config["model_type"] == "gemma3_text"
        return {name: golden_weight(name, shape, self.seed, gemma) for name, shape in self.tensors.items()}


def load_golden(name: str) -> Golden:
    """The golden of this name, one of FAMILIES."""
    with np.load(GOLDEN_DIR / f"{name}.npz", allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        arrays = {key: file[key] for key in ("tokens", "logits")}
    meta["tensors"] = {key: tuple(shape) for key, shape in meta["tensors"].items()}
    return Golden(name=name, **meta, **arrays)


def save_golden(golden: Golden) -> None:
    """Writes golden/NAME.npz."""
    meta = {key: getattr(golden, key) for key in ("config", "tensors", "seed", "weights_crc", "prompt", "greedy")}
    np.savez_compressed(
        GOLDEN_DIR / f"{golden.name}.npz",
        meta=np.array(json.dumps(meta)),
        tokens=golden.tokens.astype(np.int32),
        logits=golden.logits.astype(np.float32),
    )


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
    rope_type_key: str = "rope_type",
    template_file: bool = False,
    changes: dict[str, Any] | None = None,
) -> Path:
    """Writes a whole, usable model folder and returns its path.

    dialect: 5 or 4, the spelling of config.json by that major version of transformers; dialect 4 may spell the kind of
    RoPE scaling `type` (rope_type_key). shards: number of safetensors files, with an index above one. prefix=False and
    old_buffers: GPT-2 without `transformer.` and with the causal masks that old files carry. template_file: the chat
    template in a file of its own. changes: fields of config.json to set.
    """
    golden = golden if isinstance(golden, Golden) else load_golden(golden)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = golden.config if dialect == 5 else dialect4(golden.config, rope_type_key)
    dtype_key = "dtype" if dialect == 5 else "torch_dtype"
    _write_json(folder / "config.json", config | {dtype_key: dtype} | (changes or {}))
    weights = {name: array.astype(DTYPES[dtype]) for name, array in golden.weights().items()}
    if old_buffers:
        weights |= _gpt2_buffers(golden.config)
    if not prefix:
        weights = {name.removeprefix("transformer."): array for name, array in weights.items()}
    _write_weights(folder, weights, shards)
    _write_tokenizer(folder, template_file)
    ends = {"bos_token_id": golden.config["bos_token_id"], "eos_token_id": [golden.config["eos_token_id"]]}
    _write_json(folder / "generation_config.json", ends | {"_from_model_config": True})
    return folder


def dialect4(config: dict[str, Any], rope_type_key: str = "rope_type") -> dict[str, Any]:
    """The same configuration as transformers 4 spelled it: RoPE and windows renamed, empty fields dropped."""
    c = {key: value for key, value in config.items() if value is not None and key not in ("dtype", "layer_types")}
    c["transformers_version"] = "4.44.0"
    kind = c["model_type"]
    rope = c.pop("rope_parameters", None)
    if kind == "gemma3_text":
        c["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        c["sliding_window_pattern"] = c.pop("_sliding_window_pattern")
        del c["use_bidirectional_attention"]
        rope = rope["full_attention"]
    if rope:
        rope = dict(rope)
        c["rope_theta"], rope_type = rope.pop("rope_theta"), rope.pop("rope_type")
        c["rope_scaling"] = None if rope_type == "default" else {rope_type_key: rope_type, **rope}
    if kind in ("llama", "olmoe") and c["num_key_value_heads"] == c["num_attention_heads"]:
        del c["num_key_value_heads"]
    if kind == "llama" and c["head_dim"] * c["num_attention_heads"] == c["hidden_size"]:
        del c["head_dim"]  # files older than 4.46 do not have it
    if kind.startswith("qwen"):
        c.setdefault("sliding_window", 5)  # hub files name a window that use_sliding_window switches off
        c.setdefault("max_window_layers", c["num_hidden_layers"] - 1)
    if kind == "qwen3_moe":
        c["num_experts"] = c.pop("num_local_experts")
    if kind == "gpt2":
        c["n_ctx"] = c["n_positions"]
        c["task_specific_params"] = {"text-generation": {"do_sample": True, "max_length": 50}}
    if kind in ("gpt2", "gemma3_text") and c["tie_word_embeddings"]:
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


def _gpt2_buffers(config: dict[str, Any]) -> dict[str, np.ndarray]:
    size = config["n_positions"]
    mask = np.tril(np.ones((1, 1, size, size), np.float32))
    buffers = {"bias": mask, "masked_bias": np.array(-1e4, np.float32)}
    return {f"transformer.h.{i}.attn.{key}": b for i in range(config["n_layer"]) for key, b in buffers.items()}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
