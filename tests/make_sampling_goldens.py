"""Writes tests/golden/sampling.json: what transformers' own logits processors make of a row of logits.

Needs the `oracle` extra. Run: python tests/make_sampling_goldens.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

VOCABULARY, PROMPT, NEW = 41, [3, 5, 5, 7, 40], [11, 3, 11]
CASES = [
    {"temperature": 0.7},
    {"temperature": 1.6, "top_k": 5},
    {"top_p": 0.8},
    {"top_p": 0.05},
    {"min_p": 0.12},
    {"repetition_penalty": 1.4},
    {"repetition_penalty": 0.8, "temperature": 1.3},
    {"temperature": 2.0, "top_k": 12, "top_p": 0.7},
    {"temperature": 0.5, "top_p": 0.9, "min_p": 0.05},
    {"temperature": 1.7, "top_k": 20, "top_p": 0.95, "min_p": 0.08, "repetition_penalty": 1.2},
]


def main() -> None:
    """Runs every case through the processors that `generate` would set up."""
    logits = np.random.RandomState(5).standard_normal(VOCABULARY).astype(np.float32) * 2
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=4, n_layer=1, n_head=1))
    ids = torch.tensor([PROMPT + NEW])
    rows = []
    for case in CASES:
        settings = GenerationConfig(do_sample=True, **{"top_k": 0, **case})
        processors = model._get_logits_processor(
            settings,
            input_ids_seq_length=len(PROMPT),
            encoder_input_ids=None,
            prefix_allowed_tokens_fn=None,
            logits_processor=[],
        )
        p = torch.softmax(processors(ids, torch.tensor(logits)[None]), dim=-1)[0]
        rows.append({"case": case, "p": [round(float(x), 9) for x in p]})
    golden = {"logits": [float(x) for x in logits], "prompt": PROMPT, "new": NEW, "cases": rows}
    Path(__file__).with_name("golden").joinpath("sampling.json").write_text(json.dumps(golden))


if __name__ == "__main__":
    main()
