"""Does a pruned model compute the same elsewhere? `python benchmarks/pruned_in_transformers.py --peers PYTHON`.

    python benchmarks/pruned_in_transformers.py --peers PYTHON                    SmolLM2-135M
    python benchmarks/pruned_in_transformers.py --peers PYTHON -m golden          the small models of tests/golden
    python benchmarks/pruned_in_transformers.py --peers PYTHON -m llama qwen3     some of them; or any model's name

Each model loses layers, neurons, heads and model width, as far as its family's config.json can say so, and is written
as a plain folder (loading/plain_folder.py). Printed is the distance of transformers' logits from those of tinyinfer's
own model in memory, as a share of their length (relative L2). Both compute in float32. (SmolLM2's width is 504 and not
512, since transformers refuses a Llama whose width is no multiple of its query heads.) PYTHON is one that has torch and
transformers; this script runs itself there, with --worker, on the folder. The exit status is 1 where any distance is
above 1e-5.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
if "--worker" not in sys.argv:  # the other Python has no need of tinyinfer
    sys.path.insert(0, str(HERE.parent / "tests"))
    from golden import FAMILIES, load_golden, write_hf_folder

    from tinyinfer.backends.numpy_ops import NumpyOps
    from tinyinfer.kv_cache.base import CacheSpec, NoCache
    from tinyinfer.ledger import Ledger
    from tinyinfer.loading import load
    from tinyinfer.loading.build import build_model
    from tinyinfer.loading.hub import find
    from tinyinfer.loading.plain_folder import save_plain
    from tinyinfer.model.interfaces import Ops
    from tinyinfer.model.transformer import Model, transformer
    from tinyinfer.pruning.layers import keep_layers, most_influential
    from tinyinfer.pruning.width import narrow
    from tinyinfer.quantization.calibration import calibration_text, calibration_windows, rows_of

LIMIT = 1e-5
TEXT = "The history of the city begins in the early middle ages, when merchants built a bridge across the river."
PARTS: dict[str, dict[str, Any]] = {  # by name: layers dropped, and what `narrow` keeps
    "smollm2-135m": {"count": 3, "width": 0.75, "hidden": 504, "kv_heads": 2},
    "llama": {"count": 1, "width": 0.75, "hidden": 48, "kv_heads": 1},
    "smollm2": {"count": 1, "width": 0.75, "hidden": 54, "kv_heads": 2},
    "qwen3": {"count": 1, "width": 0.75, "hidden": 44, "kv_heads": 1},
    "gemma3": {"count": 1, "width": 0.75, "hidden": 40},
    "gemma3_linear": {"count": 1, "width": 0.75, "hidden": 48, "kv_heads": 2},
    "gemma2": {"count": 2, "width": 0.75, "hidden": 42, "kv_heads": 1},
    "phi3": {"count": 1, "width": 0.75, "hidden": 48, "kv_heads": 2},
    "gpt2": {"count": 1, "width": 0.75, "hidden": 48, "kv_heads": 6},
    "gpt2_inner": {"count": 1, "width": 0.75},
    "smollm3": {"count": 2, "width": 0.75, "hidden": 48, "kv_heads": 1},
    "mistral": {"count": 1, "width": 0.75, "hidden": 48, "kv_heads": 1},
    "qwen2_window": {"count": 1, "width": 0.75, "hidden": 48},
    "granite": {"count": 1, "width": 0.75, "hidden": 48, "kv_heads": 1},
    "olmo3": {"count": 1, "width": 0.75, "hidden": 48},
}


def pruned_folder(name: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:  # -> (T,), (T, V)
    """Writes the pruned model to folder/pruned; some tokens, and its logits in memory."""
    path: str | Path = write_hf_folder(name, folder / "whole") if name in FAMILIES else find(name)
    source, ops = load(path), NumpyOps(Ledger(), np.float32)
    if name in FAMILIES:
        tokens = load_golden(name).tokens
        windows = np.random.default_rng(0).integers(0, source.config.vocab_size, (4, 32))  # (W, n)
    else:
        tokens = np.array(source.tokenizer.encode(TEXT))  # (T,)
        beginning = source.tokenizer.beginning
        windows = calibration_windows(calibration_text(None), source.tokenizer, 2048, 256, beginning=beginning)
    parts = PARTS.get(name, {"count": 1, "width": 0.75})
    model = build_model(source, ops)
    model = keep_layers(model, most_influential(model, windows, ops, parts["count"]))
    model = narrow(model, windows, ops, **{key: value for key, value in parts.items() if key != "count"})
    save_plain(folder / "pruned", model, source)
    return tokens, logits_of(model, tokens, ops)


def logits_of(model: Model, tokens: np.ndarray, ops: Ops) -> np.ndarray:  # (T,) -> (T, V)
    """The logits after every token."""
    batch = replace(rows_of(tokens[None], model.config.rotation_sets), logit_rows=np.arange(len(tokens)))
    return transformer(model, batch, NoCache(CacheSpec(model.config.memory, len(tokens)), ops), ops)


def elsewhere(peers: str, folder: Path, tokens: np.ndarray) -> np.ndarray:  # (T,) -> (T, V)
    """The logits of transformers after every token, computed by the other Python."""
    np.save(folder / "tokens.npy", tokens)
    command = [peers, __file__, "--worker", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return np.load(folder / "logits.npy")


def work(folder: Path) -> None:
    """In the other Python: computes folder/logits.npy of folder/pruned and folder/tokens.npy."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded, info = AutoModelForCausalLM.from_pretrained(
        folder / "pruned", dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = {what: names for what, names in info.items() if names}
    if wrong:
        sys.exit(f"transformers does not find these tensors as they should be: {wrong}")
    with torch.no_grad():
        logits = loaded(torch.from_numpy(np.load(folder / "tokens.npy").astype(np.int64))[None]).logits[0]
    np.save(folder / "logits.npy", logits.float().numpy())


def main() -> int:
    """Prunes, writes, compares and prints; 1 where a distance is too large."""
    parser = argparse.ArgumentParser(description=__doc__.partition("?")[0])
    parser.add_argument("--peers", help="a Python that has torch and transformers")
    parser.add_argument("-m", "--models", nargs="+", default=["smollm2-135m"], help="names, or golden: all small ones")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker)
        return 0
    if not args.peers:
        parser.error("--peers is missing: name a Python that has torch and transformers")
    names = [one for name in args.models for one in ([*PARTS][1:] if name == "golden" else [name])]
    worst = 0.0
    print(f"{'model':18}{'relative L2':>12}{'largest':>10}  parts")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            tokens, ours = pruned_folder(name, Path(folder))
            theirs = elsewhere(args.peers, Path(folder), tokens)
        distance = float(np.linalg.norm(theirs.astype(np.float64) - ours) / np.linalg.norm(ours))
        worst = max(worst, distance if np.isfinite(distance) else np.inf)
        largest = float(np.abs(theirs - ours).max() / np.abs(ours).max())
        print(f"{name:18}{distance:12.1e}{largest:10.1e}  {PARTS.get(name, '')}", flush=True)
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
