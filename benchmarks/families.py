"""Every family against transformers: how far the logits of its goldens are off, and whether the greedy tokens agree.

    python benchmarks/families.py [NAME ...]

A golden is a small model with random weights whose logits were computed by transformers (tests/make_goldens.py). Each
is written as a model folder in both dialects of config.json, loaded, and computed by the reference operations and by
NumPy's, in one pass and in three pieces. The table has the largest difference of all of these as a share of the largest
logit; the project promises 1e-4. Greedy tokens come through the whole engine.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from golden import BARE, FAMILIES, Golden, load_golden, write_hf_folder  # noqa: E402
from helpers import golden_distance  # noqa: E402

from tinyinfer import LLM, SamplingParams  # noqa: E402
from tinyinfer.loading import load  # noqa: E402

BACKENDS = ("reference", "numpy")


def row(golden: Golden) -> str:
    """One line of the table."""
    worst, right = dict.fromkeys(BACKENDS, 0.0), 0
    dialects = (4, 5)
    for dialect in dialects:
        with tempfile.TemporaryDirectory() as folder:
            write_hf_folder(golden, folder, dialect=dialect, bare=golden.name in BARE and dialect == 5)
            checkpoint = load(folder)
            for name in BACKENDS:
                off = golden_distance("tinyinfer", checkpoint, golden.tokens, golden.logits, name)
                worst[name] = max(worst[name], off)
            params = SamplingParams(max_tokens=len(golden.greedy), temperature=0, ignore_eos=True)
            right += LLM(folder).generate(golden.prompt, params)[0].token_ids == golden.greedy
    tokens = f"{len(golden.greedy)}, equal" if right == len(dialects) else "differ"
    kind = golden.config["model_type"]
    return f"| {golden.name} | {kind} | {worst['reference']:.1e} | {worst['numpy']:.1e} | {tokens} |"


def main() -> None:
    warnings.simplefilter("ignore")  # what is in a file and is never read
    print("| golden | model_type | reference | numpy | greedy tokens |\n|---|---|---|---|---|")
    for name in sys.argv[1:] or FAMILIES + BARE:
        print(row(load_golden(name)), flush=True)


if __name__ == "__main__":
    main()
