"""How pruned models learn back, a figure: `python benchmarks/healing_plot.py --test FILE -o FIGURE.png NAME=LOG ...`.

Each LOG was written by `tinyinfer distill --test FILE --log LOG`: perplexity on FILE, some twenty times in a run. The
whole model reads the same windows here, and each curve is divided by its perplexity. Needs `pip install -e
'.[notebooks]'` for matplotlib.
"""

from __future__ import annotations

import argparse
import json
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tinyinfer import LLM
from tinyinfer.cli.distill import TESTED
from tinyinfer.distillation.switches import TrainingSwitches
from tinyinfer.distillation.texts import read_windows
from tinyinfer.measure.figures import save
from tinyinfer.measure.perplexity import Perplexity


def curve(log: Path) -> tuple[list[int], list[float]]:
    """Tokens read and perplexity of each test in a log."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    tests = [(row["tokens"], row["perplexity"]) for row in rows if "test" in row]
    if not tests:
        raise SystemExit(f"{log}: no test in it; run distill with --test FILE")
    tokens, perplexities = zip(*tests, strict=True)
    return list(tokens), list(perplexities)


def whole_models(llm: LLM, path: str) -> float:
    """The perplexity of a model that is not pruned, on the windows that a run tests."""
    windows = read_windows(path, llm.tokenizer, TrainingSwitches().window, TESTED)
    scores = np.concatenate([llm.score(ids.tolist()) for ids in windows])  # (T,)
    return Perplexity(-float(scores.mean()), len(scores)).perplexity


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--test", required=True, metavar="FILE", help="the text on which the runs were tested")
    parser.add_argument("-o", "--output", required=True, metavar="FIGURE.png")
    parser.add_argument("runs", nargs="+", metavar="NAME=LOG")
    args = parser.parse_args()
    dense = whole_models(LLM(args.model), args.test)
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    for run, marker in zip(args.runs, cycle("osD^vP")):
        name, _, log = run.rpartition("=")
        tokens, perplexities = curve(Path(log))
        ratios = [one / dense for one in perplexities]
        axes.plot(tokens, ratios, marker=marker, markersize=4, linewidth=1.3, label=f"{name}: {ratios[-1]:.2f}x")
        print(f"{name}: {ratios[0]:.3f}x -> {ratios[-1]:.3f}x after {tokens[-1]:,} tokens")
    axes.axhline(1.0, color="black", linewidth=1, linestyle="--", label=f"not pruned: {dense:.4g}")
    axes.set(xlabel="tokens read", ylabel="perplexity over that of the whole model", title="Pruned models learn back")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save(figure, args.output)


if __name__ == "__main__":
    main()
