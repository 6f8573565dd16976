"""GGUF files of published shapes with random weights, quantized by llama.cpp itself: what K-quants are measured on.

    pip install gguf llama-cpp-python                               the second one: to quantize and to compare
    python benchmarks/made_models.py FOLDER                         both shapes as Q4_K_M
    python benchmarks/made_models.py FOLDER gemma3-270m --types Q4_K_M Q6_K --python OTHER_ENVIRONMENT/bin/python
    python benchmarks/made_models.py FOLDER --compare               the files' logits, kept, beside llama.cpp's

A speed needs the shapes and the types of a published file, not its weights, and nothing has to be downloaded. A shape
is written as NAME-f16.gguf, and each type is made from that file as NAME-TYPE.gguf by llama_model_quantize, which
chooses the type of every tensor as it does for the files on the Hub. Files that are there already are left alone.

    gemma3-270m    width 640, no multiple of 256: a 'Q4_K_M' falls back to Q5_0 and Q8_0; vocabulary 262,144
    llama-2048     width 2,048 as Llama 3.2 1B, 6 layers, vocabulary 32,000: Q4_K, and Q6_K for the head and half of the
                   layers' v and down

The vocabulary is that of the tests: 271 tokens that any text has, and names that never come.

--compare: ROWS random tokens, by quantize=keep, by quantize=off and by llama.cpp (float32 cache, no flash attention).
Kept codes give the numbers of the dequantized model. llama.cpp rounds activations to 8 bits before a product, too, so
it differs by some hundredths, as it does from its own float model.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from gguf_writer import write_gguf
from golden import GEMMAS, Golden
from published_shapes import stored_name

from tinyinfer import LLM
from tinyinfer.loading.hf_config import read_config
from tinyinfer.loading.saving import write_json
from tinyinfer.model.config import expected_tensors
from tinyinfer.units import amount, table

COMMON = {"bos_token_id": 0, "eos_token_id": 2, "attention_bias": False, "tie_word_embeddings": True}
SHAPES: dict[str, dict[str, Any]] = {
    "gemma3-270m": {
        "model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262_144,
        "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "sliding_window": 512, "query_pre_attn_scalar": 256,
        "hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": None, "final_logit_softcapping": None,
        "_sliding_window_pattern": 6,
        "layer_types": ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(18)],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "llama-2048": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 6,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 32_000,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "hidden_act": "silu", "mlp_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    },
}  # fmt: skip
QUANTIZE = """
import ctypes, os, sys, llama_cpp
source, target, name = sys.argv[1:]
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}"), os.cpu_count()
raise SystemExit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)))
"""
LOGITS = """
import json, sys, llama_cpp, numpy
path, tokens, target = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
llm = llama_cpp.Llama(path, n_ctx=256, logits_all=True, verbose=False, flash_attn=False, type_k=0, type_v=0)
llm.eval(tokens)
numpy.save(target, numpy.array(llm.scores[:len(tokens)], numpy.float32))
"""
ROWS = 48


class Made(Golden):
    """A model whose weights are random, of a size that keeps activations near 1; norms are nearly 1."""

    def weights(self) -> dict[str, np.ndarray]:
        """Name in the file -> float32 array."""
        rng = np.random.default_rng(self.seed)
        middle = 0 if self.config["model_type"] in GEMMAS else 1  # Gemma's norms multiply by 1 + weight
        return {
            name: (
                middle + np.float32(0.1) * rng.standard_normal(shape, np.float32)
                if len(shape) == 1
                else np.float32(1 / math.sqrt(shape[-1])) * rng.standard_normal(shape, np.float32)
            )
            for name, shape in self.tensors.items()
        }


def made(name: str) -> Made:
    """The model of that name in SHAPES."""
    config = COMMON | SHAPES[name]
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", config)
        c = read_config(Path(folder))
    tensors = {stored_name(key, c.architecture): shape for key, shape in expected_tensors(c).items()}
    return Made(name, config, tensors, 0, 0, np.empty(0), np.empty(0), [], [])


def place_whole(target: Path, write: Any) -> None:
    """Writes a file under another name first, so that a file under its own name is whole."""
    if target.exists():
        return
    part = target.with_suffix(".part.gguf")
    write(part)
    part.rename(target)
    print(f"{target}: {target.stat().st_size / 1e6:.0f} MB", flush=True)


def quantize(source: Path, target: Path, name: str, python: str) -> None:
    """Makes a file of the type of that name with llama.cpp's quantizer. Ends the program when that fails."""
    done = subprocess.run([python, "-c", QUANTIZE, source, target, name], capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        cure = "install llama-cpp-python there, or name another interpreter with --python"
        raise SystemExit(f"{python} cannot quantize {source} to {name} ({words[0]}); {cure}")


def compare(path: Path, python: str) -> tuple[str, ...]:
    """A file's line: bytes, kept against dequantized logits, and kept ones against llama.cpp's."""
    tokens = [0, *np.random.default_rng(1).integers(3, 250, ROWS - 1).tolist()]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "logits.npy"
        subprocess.run([python, "-c", LOGITS, path, json.dumps(tokens), target], check=True, stderr=subprocess.DEVNULL)
        theirs = np.load(target)  # (T, V)
    kept, full = (LLM(str(path), quantize=how, max_model_len=ROWS) for how in ("keep", "off"))
    ours, floats = kept.logits(tokens), full.logits(tokens)  # (T, V), (T, V)
    best = [[set(np.argsort(-row)[:5].tolist()) for row in logits] for logits in (ours, theirs)]
    return (
        path.name, amount(path.stat().st_size, "B"), amount(kept.model.nbytes, "B"), amount(full.model.nbytes, "B"),
        f"{np.abs(ours - floats).max() / np.abs(floats).max():.1e}",
        f"{np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2)):.1e}",
        f"{np.sum(ours.argmax(axis=1) == theirs.argmax(axis=1))} of {ROWS}",
        f"{np.mean([len(one & other) for one, other in zip(*best, strict=True)]):.2f} of 5",
    )  # fmt: skip


HEAD = ("", "file", "kept", "float32", "kept, float32", "kept, llama.cpp", "same best", "same best five")


def main() -> None:
    """Writes what is missing, and compares when asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(SHAPES), help=f"{', '.join(SHAPES)}")
    parser.add_argument("--types", nargs="+", default=["Q4_K_M"], help="llama.cpp's names: Q4_K_M, Q5_K_M, Q8_0 ...")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has llama-cpp-python")
    parser.add_argument("--compare", action="store_true", help="compare the files' logits with llama.cpp's")
    args = parser.parse_args()
    rows = [HEAD]
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        source = args.folder / f"{name}-f16.gguf"
        place_whole(source, lambda part, name=name: write_gguf(made(name), part, "F16"))
        for kind in args.types:
            target = args.folder / f"{name}-{kind.lower()}.gguf"
            place_whole(target, lambda part, kind=kind, source=source: quantize(source, part, kind, args.python))
            if args.compare:
                rows.append(compare(target, args.python))
    if args.compare:
        print(table(rows))


if __name__ == "__main__":
    main()
