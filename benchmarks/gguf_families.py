"""GGUF of every family against llama.cpp itself: tiny random models, converted by llama.cpp's own script.

    python benchmarks/gguf_families.py --llama-cpp SOURCE FOLDER [NAME ...]

Needs an environment with torch, transformers and llama-cpp-python besides ours, and the source of llama.cpp (its
convert_hf_to_gguf.py). Each case is written by transformers, converted, and its logits of all rows are computed three
times: by transformers from the folder, by llama.cpp and by tinyinfer from the same .gguf. The table has the largest
differences, as shares of the largest logit.

Two things of the converter are replaced, because a tiny vocabulary is none that it knows: every model gets the
byte-level vocabulary of our goldens, and the rule for splitting text is called gpt-2. And fields of config.json that it
reads, but transformers 5 no longer writes, are added (rotary_pct, n_ctx). Tensors, settings and their names are the
converter's own.

How close llama.cpp can come: its cache and products are asked to be float32 here, so a float32 file leaves rounding
(1e-6) and its GELU, a table in float16 (1e-3). Of files in F16, Q8_0 and MXFP4 it rounds the activations, too, to 16 or
8 bits, where we round none: 1e-3 and some 1e-2. Of these files the table has the median row's difference, because in
some row a router chooses another expert. Where llama.cpp deviates by intention, the case's note says so; transformers
is then the truth.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

VOCAB, SEED, KINDS = 274, 5, ("f32", "f16", "q8_0")
LOCAL, GLOBAL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Case:
    """A tiny model. kind: its model_type. rows: how many tokens. mxfp4: its experts are blocks of 4 bits, as published.

    note: how llama.cpp deviates.
    """

    kind: str
    fields: dict[str, Any]
    rows: int = 48
    mxfp4: bool = False
    note: str = ""


def sizes(d: int, f: int, layers: int, heads: int, keys: int, **more: Any) -> dict[str, Any]:
    """The fields that most families share; widths are whole blocks of 32."""
    return {
        "hidden_size": d, "intermediate_size": f, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": keys, "max_position_embeddings": 512, "rms_norm_eps": 2e-3, **more,
    }  # fmt: skip


def rope(theta: float, kind: str = "default", **more: Any) -> dict[str, Any]:
    """rope_parameters."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"factor": 4.0, "original_max_position_embeddings": 128}
PHI3 = sizes(128, 160, 3, 4, 2, pad_token_id=0)
LONG = {
    "short_factor": [1.0 + 0.05 * i for i in range(12)], "long_factor": [1.5 + 0.8 * i for i in range(12)],
    "original_max_position_embeddings": 256, "partial_rotary_factor": 0.75,
}  # fmt: skip
PHI3_LONG = PHI3 | rope(1e4, "longrope", **LONG)
PHI3_LONG |= {"original_max_position_embeddings": 256, "max_position_embeddings": 1024}
NEOX = {"hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
NEOX |= {"max_position_embeddings": 512, "layer_norm_eps": 2e-3, "hidden_act": "gelu"}
NEOX |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}}
GPT_OSS = sizes(96, 64, 4, 4, 2, head_dim=32, num_local_experts=6, num_experts_per_tok=3, sliding_window=9)
OLMO3 = sizes(128, 160, 4, 4, 2, sliding_window=9, layer_types=[LOCAL, LOCAL, LOCAL, GLOBAL], pad_token_id=0)
GELU = "llama.cpp has the tanh approximation of GELU for this family"
TRUNCATE = "llama.cpp rounds yarn's bounds to whole pairs, gpt-oss does not"

CASES = {
    "llama": Case("llama", sizes(96, 160, 3, 6, 2, head_dim=32, attention_bias=True) | rope(5000.0)),
    "llama3": Case("llama", sizes(128, 160, 3, 8, 2) | rope(10000.0, "llama3", **LLAMA3)),
    "llama yarn": Case("llama", sizes(128, 160, 3, 4, 2) | rope(10000.0, "yarn", **YARN)),
    "mistral": Case("mistral", sizes(128, 160, 3, 4, 2, sliding_window=None)),
    "mixtral": Case("mixtral", sizes(96, 64, 3, 6, 3, head_dim=32, num_local_experts=5, num_experts_per_tok=2)),
    "qwen2": Case("qwen2", sizes(128, 160, 3, 4, 2, tie_word_embeddings=True) | rope(1e6)),
    "qwen2 yarn": Case("qwen2", sizes(128, 160, 3, 4, 2) | rope(1e4, "yarn", **YARN), rows=300),
    "qwen3": Case("qwen3", sizes(96, 160, 3, 4, 2, head_dim=32) | rope(1e6)),
    "qwen2moe": Case("qwen2_moe", sizes(128, 96, 3, 4, 2, moe_intermediate_size=64, num_experts=6,
                                        shared_expert_intermediate_size=96, num_experts_per_tok=3)),
    "qwen3moe": Case("qwen3_moe", sizes(96, 160, 3, 4, 2, head_dim=32, moe_intermediate_size=64, num_experts=6,
                                        num_experts_per_tok=3, norm_topk_prob=True)),
    "olmoe": Case("olmoe", sizes(128, 64, 3, 4, 4, num_experts=8, num_experts_per_tok=3, rms_norm_eps=1e-5)),
    "olmo2": Case("olmo2", sizes(128, 160, 3, 4, 2, pad_token_id=0) | rope(5e5)),
    "olmo3": Case("olmo3", OLMO3 | {"rope_parameters": {
        GLOBAL: {"rope_type": "yarn", "rope_theta": 5e5, "attention_factor": 0.1 * math.log(4) + 1, **YARN},
        LOCAL: {"rope_type": "default", "rope_theta": 5e5}}}),
    "smollm3": Case("smollm3", sizes(128, 160, 5, 4, 2, tie_word_embeddings=True, pad_token_id=0) | rope(2e6)),
    "granite": Case("granite", sizes(128, 160, 3, 4, 2, embedding_multiplier=3.0, logits_scaling=5.0,
                                     residual_multiplier=0.4, attention_multiplier=0.11) | rope(1e4)),
    "gemma2": Case("gemma2", sizes(96, 160, 4, 4, 2, head_dim=32, query_pre_attn_scalar=32, sliding_window=9,
                                   attn_logit_softcapping=5.0, final_logit_softcapping=4.0, pad_token_id=0)),
    "gemma3": Case("gemma3_text", sizes(96, 160, 4, 4, 1, head_dim=32, query_pre_attn_scalar=32, sliding_window=9,
                                        layer_types=[LOCAL] * 4, pad_token_id=0)
                   | {"rope_parameters": {GLOBAL: {"rope_type": "default", "rope_theta": 1e6},
                                          LOCAL: {"rope_type": "default", "rope_theta": 1e4}}}),
    "gpt2": Case("gpt2", {"n_embd": 96, "n_layer": 3, "n_head": 3, "n_positions": 256, "n_ctx": 256,
                          "layer_norm_epsilon": 2e-3}),
    "gptneox": Case("gpt_neox", NEOX, note=GELU),
    "gptneox serial": Case("gpt_neox", NEOX | {"use_parallel_residual": False}, note=GELU),
    "phi3": Case("phi3", PHI3 | {"original_max_position_embeddings": 512} | rope(1e4)),
    "phi3 longrope, short": Case("phi3", PHI3_LONG),
    "phi3 longrope, long": Case("phi3", PHI3_LONG, rows=300),
    "phi3 window": Case("phi3", PHI3 | {"original_max_position_embeddings": 512, "sliding_window": 9} | rope(1e4),
                        note="llama.cpp ignores Phi-3's window"),
    "gpt-oss": Case("gpt_oss", GPT_OSS | rope(1e4)),
    "gpt-oss mxfp4": Case("gpt_oss", GPT_OSS | rope(1e4), mxfp4=True),
    "gpt-oss yarn": Case("gpt_oss", GPT_OSS | {"max_position_embeddings": 131072}, note=TRUNCATE),
}  # fmt: skip


def draw(model: Any, seed: int) -> None:
    """Random weights with which every part of a layer matters: norms near 1, biases, matrices that keep the size."""
    import torch

    random = torch.Generator().manual_seed(seed)
    gemma = model.config.model_type.startswith("gemma")
    for name, weight in model.named_parameters():
        unit = torch.randn(weight.shape, generator=random)
        if "bias" in name:
            weight.data = 0.2 * unit
        elif weight.ndim == 1:
            weight.data = unit if "sinks" in name else 0.25 * unit + (0.0 if gemma else 1.0)
        elif "embed" in name or "wte" in name or "wpe" in name:
            weight.data = 0.7 * unit / (weight.shape[1] ** 0.5 if gemma else 1.0)
        else:  # GPT-2 and the experts of gpt-oss have the inputs first
            inputs_first = model.config.model_type == "gpt2" or (weight.ndim == 3 and "GptOss" in type(model).__name__)
            weight.data = unit / weight.shape[-2 if inputs_first else -1] ** 0.5
    model.tie_weights()


def make_folder(case: Case, folder: Path) -> None:
    """The model as transformers writes it, its tokens, and the logits of transformers."""
    import torch
    from golden import golden_tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    ends = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 2}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(case.kind, **ends, **case.fields), dtype=torch.float32, attn_implementation="eager"
    )
    model.set_experts_implementation("eager")
    draw(model, SEED)
    model.eval().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    # Two fields that transformers no longer writes, and the converter reads.
    old = {"gpt2": {"n_ctx": config.get("n_positions")}, "gpt_neox": {"rotary_pct": 0.25}}
    (folder / "config.json").write_text(json.dumps(config | old.get(case.kind, {})))
    golden_tokenizer().save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|bos|>", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    tokens = np.random.RandomState(SEED).randint(3, VOCAB - 20, case.rows)
    tokens[0] = 0
    with torch.inference_mode():
        logits = model(torch.tensor(tokens[None]), use_cache=False).logits[0].numpy()
    np.savez(folder / "truth.npz", tokens=tokens, logits=logits)


def pack_experts(folder: Path) -> None:
    """Replaces the experts of gpt-oss by blocks of MXFP4, as published, and the logits by those that they give."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.set_experts_implementation("eager")
    weights, random = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(SEED)
    for name in [name for name in weights if name.endswith("_proj") and "experts" in name]:
        experts, inputs, outputs = weights.pop(name).shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), generator=random, dtype=torch.uint8)
        scales = torch.randint(122, 125, (experts, outputs, inputs // 32), generator=random, dtype=torch.uint8)
        weights |= {name + "_blocks": blocks, name + "_scales": scales}
        dense = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        model.get_parameter(name).data = dense.reshape(experts, inputs, outputs)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "mxfp4"}}
    (folder / "config.json").write_text(json.dumps(config))
    tokens = np.load(folder / "truth.npz")["tokens"]
    with torch.inference_mode():
        logits = model(torch.tensor(tokens[None]), use_cache=False).logits[0].numpy()
    np.savez(folder / "truth.npz", tokens=tokens, logits=logits)


def convert(source: Path, folders: list[Path]) -> None:
    """Runs llama.cpp's converter in this process, which must be one of its own: it brings a gguf package."""
    sys.path.insert(0, str(source))
    import conversion
    import convert_hf_to_gguf

    conversion.load_all_models()
    for model in [conversion.TextModel, *every_subclass(conversion.TextModel)]:
        model.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
        model.set_vocab = conversion.TextModel._set_vocab_gpt2
    load = conversion.ModelBase.load_hparams
    for folder in folders:
        written = json.loads((folder / "config.json").read_text())
        conversion.ModelBase.load_hparams = staticmethod(lambda *a, w=written, **b: w | load(*a, **b))
        for kind in ("f32",) if "quantization_config" in written else KINDS:
            target = str(folder / f"model.{kind}.gguf")
            sys.argv = ["convert_hf_to_gguf.py", str(folder), "--outfile", target, "--outtype", kind]
            sys.argv += ["--model-name", "tiny"]  # llama.cpp looks for words in the name
            convert_hf_to_gguf.main()


def every_subclass(kind: type) -> set[type]:
    """All classes derived from one."""
    return {kind for child in kind.__subclasses__() for kind in (child, *every_subclass(child))}


def llama_cpp_logits(path: Path, tokens: list[int]) -> np.ndarray:  # -> (T, V)
    """All rows by llama.cpp, with cache and attention in float32; its context is as long as the rows need."""
    import llama_cpp

    context = -(-len(tokens) // 256) * 256
    float32 = llama_cpp.GGML_TYPE_F32
    model = llama_cpp.Llama(
        str(path), n_ctx=context, n_batch=512, n_ubatch=512, logits_all=True, verbose=False, type_k=float32,
        type_v=float32, flash_attn=False, swa_full=True,
    )  # fmt: skip
    model.eval(tokens)
    return np.array(model.scores[: len(tokens)])


def compare(name: str, folder: Path) -> str:
    """A line of the table."""
    from tinyinfer import LLM

    truth = np.load(folder / "truth.npz")
    tokens, transformers = truth["tokens"].tolist(), truth["logits"]

    def difference(a: np.ndarray, b: np.ndarray, rounded: bool = False) -> str:
        rows = np.abs(a - b).max(axis=1) / np.abs(transformers).max()
        return f"{np.median(rows) if rounded else rows.max():.1e}"

    cells = []
    for kind in ("f32",) if CASES[name].mxfp4 else KINDS:
        path = folder / f"model.{kind}.gguf"
        theirs, ours = llama_cpp_logits(path, tokens), LLM(str(path)).logits(tokens)
        rounded = kind != "f32" or CASES[name].mxfp4
        if kind == "f32":
            cells += [difference(ours, transformers), difference(theirs, transformers, rounded)]
        cells.append(difference(ours, theirs, rounded))
    return f"{name:22}" + "".join(f"{cell:>13}" for cell in cells) + "  " + CASES[name].note


def main() -> None:
    """Makes what is missing in the folder, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="cases; default: all")
    parser.add_argument("--llama-cpp", type=Path, required=True, help="llama.cpp's source, with convert_hf_to_gguf.py")
    parser.add_argument("--convert", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.convert:
        return convert(args.llama_cpp, [Path(folder) for folder in args.names])
    folders = {name: args.folder / name.replace(" ", "-").replace(",", "") for name in args.names or CASES}
    for name, folder in folders.items():
        if not (folder / "truth.npz").exists():
            make_folder(CASES[name], folder)
            if CASES[name].mxfp4:
                pack_experts(folder)
    new = [str(folder) for folder in folders.values() if not list(folder.glob("*.gguf"))]
    options = ["--llama-cpp", str(args.llama_cpp), "--convert", str(args.folder), *new]
    done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"not converted: {done.stderr[-1000:]}")
    columns = "ours-truth", "theirs-truth", "ours-theirs", "f16", "q8_0"
    print(f"{'':22}" + "".join(f"{column:>13}" for column in columns))
    for name, folder in folders.items():
        print(compare(name, folder), flush=True)


if __name__ == "__main__":
    main()
