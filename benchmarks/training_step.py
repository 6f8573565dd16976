"""A training step of SmolLM2, ours beside PyTorch's: the same gradients, and how many tokens a second.

    python benchmarks/training_step.py --peers PYTHON [--rounds 3] [--tokens 512]

PYTHON: one that has torch and transformers. Both read the same float32 weights, of a folder that is written for it, and
the same tokens; a step is forward, cross entropy, backward and AdamW, activations kept. The rounds take turns, each
with one untimed step before; the median is printed. Gradients are compared by the relative L2 of each parameter, with
PyTorch's cross entropy in float64, because its float32 one over 49,152 classes is itself off by 1e-4.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PEER = """
import sys, time
import numpy as np, torch
from transformers import AutoModelForCausalLM
folder, tokens, out, threads = sys.argv[1], np.load(sys.argv[2]), sys.argv[3], int(sys.argv[4])
torch.set_num_threads(threads)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
ids = torch.from_numpy(tokens)[None]
if out != "-":
    logits = model(ids).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits.double(), ids[0, 1:]).backward()
    np.savez(out, **{name: p.grad.numpy() for name, p in model.named_parameters()})
    sys.exit()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
for step in range(2):
    start = time.perf_counter()
    optimizer.zero_grad()
    logits = model(ids).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits, ids[0, 1:]).backward()
    optimizer.step()
    seconds = time.perf_counter() - start
print(seconds)
"""


def main() -> int:
    """Compares gradients, then speed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", required=True, metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--tokens", type=int, default=512, metavar="N")
    args = parser.parse_args()
    from tinyinfer.backends.cpu import default_threads
    from tinyinfer.backends.numpy_ops import NumpyOps
    from tinyinfer.ledger import Ledger
    from tinyinfer.loading import load
    from tinyinfer.loading.build import build_model
    from tinyinfer.loading.hub import find
    from tinyinfer.loading.plain_folder import save_plain
    from tinyinfer.quantization.calibration import calibration_text

    source, threads = load(find("smollm2-135m")), default_threads()
    ops = NumpyOps(Ledger())
    model = build_model(source, ops)
    tokens = np.array(source.tokenizer.encode(calibration_text(None))[: args.tokens])
    with tempfile.TemporaryDirectory() as folder:
        plain, ids = Path(folder) / "plain", Path(folder) / "ids.npy"
        save_plain(plain, model, source)
        np.save(ids, tokens)
        show_gradients(peer(args.peers, plain, ids, Path(folder) / "gradients.npz", threads), model, ops, tokens)
        times: dict[str, list[float]] = {"tinyinfer": [], "a layer at a time recomputed": [], "PyTorch": []}
        for _ in range(args.rounds):
            times["tinyinfer"].append(seconds(model, ops, tokens, False))
            times["a layer at a time recomputed"].append(seconds(model, ops, tokens, True))
            times["PyTorch"].append(peer(args.peers, plain, ids, None, threads))
    rates = {name: (len(tokens) - 1) / statistics.median(found) for name, found in times.items()}
    for name, rate in rates.items():
        ratio = rate / rates["PyTorch"]
        print(f"{name}: {rate:.0f} tokens/s, {ratio:.2f}x PyTorch (median of {args.rounds}; {threads} threads)")
    return 0


def peer(python: str, folder: Path, ids: Path, out: Path | None, threads: int) -> Any:
    """PyTorch's gradients by their names, or the seconds of a step."""
    words = [python, "-c", PEER, str(folder), str(ids), str(out or "-"), str(threads)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr}")
    return float(done.stdout.split()[-1]) if out is None else dict(np.load(out))


def show_gradients(right: dict[str, np.ndarray], model: Any, ops: Any, tokens: np.ndarray) -> None:  # (T,) ->
    """The relative L2 of some parameters' gradients."""
    training, one = made(model, ops, tokens, False)
    loss, tape, model = training.backward(one), training.tape, training.model
    print(f"loss {loss:.5f}; relative L2 of gradients to PyTorch's:")
    c = model.config
    heads = c.num_heads * c.head_dim
    named = {"model.embed_tokens": (model.embedding.table, slice(None)), "model.norm": (model.final_norm.weight, None)}
    for i in (0, 5, 29):
        layer, n = model.layers[i], f"model.layers.{i}."
        named |= {
            n + "self_attn.q_proj": (layer.mixer.qkv.weight, slice(heads)),
            n + "self_attn.v_proj": (layer.mixer.qkv.weight, slice(heads + c.num_kv_heads * c.head_dim, None)),
            n + "self_attn.o_proj": (layer.mixer.o.weight, slice(None)),
            n + "mlp.gate_proj": (layer.mlp.gate_up.weight, slice(c.intermediate_size)),
            n + "mlp.down_proj": (layer.mlp.down.weight, slice(None)),
            n + "input_layernorm": (layer.attention_norm.weight, None),
        }
    for name, (parameter, outputs) in named.items():
        gradient, other = tape.gradient(parameter), right[f"{name}.weight"]
        gradient = gradient if outputs is None else gradient[:, outputs].T
        print(f"  {name}: {np.linalg.norm(gradient - other) / np.linalg.norm(other):.1e}")


def made(model: Any, ops: Any, tokens: np.ndarray, recompute: bool) -> tuple[Any, Any]:  # (T,) ->
    """A run that reads these tokens and no others, and their batch."""
    from tinyinfer.distillation.objective import Objective
    from tinyinfer.distillation.switches import TrainingSwitches
    from tinyinfer.distillation.texts import reading
    from tinyinfer.distillation.training import Training

    count = len(tokens) - 1
    switches = TrainingSwitches(
        loss="cross-entropy", window=count, batch_tokens=count, tokens=10 * count, rate=1e-5, recompute=recompute
    )
    training = Training(model, ops, [tokens], Objective(switches, None))
    return training, reading([tokens], [0], model.config.rotation_sets)


def seconds(model: Any, ops: Any, tokens: np.ndarray, recompute: bool) -> float:  # (T,) ->
    """The second of two steps."""
    training, took = made(model, ops, tokens, recompute)[0], 0.0
    for _ in range(2):
        start = time.perf_counter()
        training.step()
        took = time.perf_counter() - start
    return took


if __name__ == "__main__":
    sys.exit(main())
