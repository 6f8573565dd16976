"""Models of published shapes with random weights: do they load and answer in the memory that `inspect` predicts?

    python benchmarks/published_shapes.py                          SmolLM3-3B, Gemma 2 2B and Gemma 3 1B, as published
    python benchmarks/published_shapes.py --layers 4 NAME ...      the first layers only: quicker, less room on the disk

Each model's config.json is the published one (popular_models.json); its weights are random bfloat16 numbers, written
tile by tile into one safetensors file in a temporary folder, which is removed afterwards. `tinyinfer inspect` predicts
the bytes of weights and of the cache; `tinyinfer generate` answers in a process of its own, whose highest resident size
is measured. The same process with a model of a few thousand weights is subtracted: the interpreter and its libraries.
Exit status 1 when a model takes more than was predicted and a hundredth.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from golden import golden_tokenizer, write_hf_folder
from models_page import configurations

from tinyinfer.loading.hf_config import read_config
from tinyinfer.loading.hf_names import LLAMA, MODULES
from tinyinfer.model.config import ModelConfig, expected_tensors
from tinyinfer.units import amount, table

DEFAULT = ["HuggingFaceTB/SmolLM3-3B", "google/gemma-2-2b-it", "google/gemma-3-1b-it"]
TILE = 1 << 24  # numbers drawn at a time
ALLOWED = 0.01  # of what was predicted: one step's rows, a tile while weights are read
PROMPT = "Count: 1, 2, 3,"
HEAD = ("", "layers", "weights", "cache", "predicted", "peak", "without a model", "beyond", "tokens", "seconds")


def shortened(config: dict[str, Any], layers: int | None) -> dict[str, Any]:
    """The configuration with its first layers only; lists with an entry for each layer are cut, too."""
    whole = config["num_hidden_layers"]
    if layers is None or layers >= whole:
        return config
    cut = {key: value[:layers] for key, value in config.items() if isinstance(value, list) and len(value) == whole}
    return config | cut | {"num_hidden_layers": layers}


def stored_name(canonical: str, architecture: str) -> str:
    """The name of a tensor in a Hugging Face file, for families of which each tensor is stored by itself.

    >>> stored_name("layers.3.mlp_norm", "llama"), stored_name("head", "llama")
    ('model.layers.3.post_attention_layernorm.weight', 'lm_head.weight')
    """
    modules = {short: module for module, short in MODULES.get(architecture, LLAMA).items()}
    *layer, last = canonical.removesuffix(".bias").split(".")
    kind = "bias" if canonical.endswith(".bias") else "weight"
    prefix = "" if last == "head" else ".".join(["model", *layer]) + "."
    return f"{prefix}{modules[last]}.{kind}"


def write_weights(file: Path, config: ModelConfig) -> int:
    """Writes random weights of a size that keeps activations near 1; returns the bytes of the file."""
    header, place = {}, 0
    for name, shape in expected_tensors(config).items():
        end = place + 2 * math.prod(shape)
        header[stored_name(name, config.architecture)] = {
            "dtype": "BF16", "shape": list(shape), "data_offsets": [place, end],
        }  # fmt: skip
        place = end
    text = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    with open(file, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for shape in expected_tensors(config).values():
            scale, left = np.float32(shape[-1] ** -0.5), math.prod(shape)
            while left:
                n = min(left, TILE)
                out.write((scale * rng.standard_normal(n, np.float32)).astype(ml_dtypes.bfloat16).tobytes())
                left -= n
    return 8 + len(text) + place


def write_folder(folder: Path, config: dict[str, Any]) -> None:
    """A whole model folder: configuration, weights, and the tests' tokenizer of 271 tokens."""
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    golden_tokenizer().save(str(folder / "tokenizer.json"))
    write_weights(folder / "model.safetensors", read_config(folder))


def run(*arguments: str) -> tuple[str, int]:
    """The output of a command of tinyinfer, and the highest resident size of its process in bytes."""
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen([sys.executable, "-m", "tinyinfer", *arguments], stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"tinyinfer {arguments[0]} ended with status {child.returncode}")
        out.seek(0)
        return out.read(), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measured(folder: Path, context: int, args: argparse.Namespace) -> dict[str, Any]:
    """What `inspect` predicts for a folder, and what `generate` takes."""
    switches = ["-m", str(folder), "-c", str(context), "--dtype", args.dtype]
    model = json.loads(run("inspect", "--json", *switches)[0])
    began = time.perf_counter()
    out, peak = run("generate", "--json", "--raw", "--ignore-eos", "-q", "-n", str(args.tokens), *switches, PROMPT)
    answer = json.loads(out)
    return {
        "weights": model["weight_bytes"],
        "cache": model["kv_bytes_at_max_context"],
        "peak": peak,
        "tokens": answer["generated_tokens"],
        "seconds": time.perf_counter() - began,
    }


def without_model(args: argparse.Namespace) -> int:
    """Bytes of the process itself: what generating takes beyond the weights and the cache of a tiny model."""
    with tempfile.TemporaryDirectory() as folder:
        found = measured(write_hf_folder("llama2", folder), 64, args)
    return beyond(found, 0)


def beyond(found: dict[str, Any], nothing: int) -> int:
    """Bytes that a model took beyond what was predicted; below 0 where a cache's last positions stayed unused."""
    return int(found["peak"] - nothing - found["weights"] - found["cache"])


def row(name: str, layers: str, found: dict[str, Any], nothing: int) -> tuple[str, ...]:
    """A model's line: what was predicted and measured, and how far the one is from the other."""
    weights, cache, more = found["weights"], found["cache"], beyond(found, nothing)
    sizes = [amount(size, "B") for size in (weights, cache, weights + cache, found["peak"], nothing)]
    signed = f"{'-' if more < 0 else ''}{amount(abs(more), 'B')}"
    return name, layers, *sizes, signed, str(found["tokens"]), f"{found['seconds']:.0f}"


def main() -> int:
    """Writes, predicts, measures and prints, one model after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    names = [model["model"] for model in configurations()]
    parser.add_argument("models", nargs="*", metavar="NAME", default=DEFAULT, help=f"default: {', '.join(DEFAULT)}")
    parser.add_argument("--layers", type=int, help="write the first so many layers only")
    parser.add_argument("--tokens", type=int, default=4, help="tokens to generate (default: 4)")
    parser.add_argument("--context", type=int, default=64, help="positions that the cache reserves (default: 64)")
    parser.add_argument("--dtype", default="bfloat16", help="how weights are kept in memory (default: bfloat16)")
    args = parser.parse_args()
    for name in args.models:
        if name not in names:
            parser.error(f"{name} is not in popular_models.json")
    nothing, rows, within = without_model(args), [HEAD], True
    for name in args.models:
        [published] = [model["config"] for model in configurations() if model["model"] == name]
        config = shortened(published, args.layers)
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder), config)
            found = measured(Path(folder), args.context, args)
        rows.append(row(name, f"{config['num_hidden_layers']} of {published['num_hidden_layers']}", found, nothing))
        print(table([HEAD, rows[-1]]), flush=True)
        within &= beyond(found, nothing) <= ALLOWED * (found["weights"] + found["cache"])
    if len(rows) > 2:
        print("\n" + table(rows))
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
