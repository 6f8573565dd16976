"""The real model, end to end: SmolLM2's own weights give the tokens that transformers gives.

Needs the weights (downloaded once); the goldens were made by make_goldens.py from the same file.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinyinfer import LLM, SamplingParams

CASES = json.loads((Path(__file__).parent / "golden" / "smollm2.json").read_text(encoding="utf-8"))
TIE = 1e-3  # logits closer than this may swap by rounding; the closest two in the goldens are 0.012 apart


@pytest.fixture(scope="module")
def llm(smollm2: Path) -> LLM:
    return LLM(str(smollm2), max_model_len=1024)


def prompt_ids(llm: LLM, case: dict) -> list[int]:
    return llm.tokenizer.encode(case["text"]) if "text" in case else llm.chat_prompt(case["messages"])


@pytest.mark.weights
@pytest.mark.parametrize("case", CASES, ids=lambda c: (c.get("text") or c["messages"][-1]["content"])[:24])
def test_greedy_tokens_of_a_prompt_equal_transformers(llm: LLM, case: dict) -> None:
    """Catches what small random models cannot: an error that only shows over 30 layers, a tokenizer that differs."""
    assert min(case["margins"]) > TIE
    assert prompt_ids(llm, case) == case["ids"]
    params = SamplingParams(max_tokens=len(case["greedy"]), ignore_eos=True)
    assert llm.generate([case["ids"]], params)[0].token_ids == case["greedy"]


@pytest.mark.weights
def test_half_precision_storage_halves_the_bytes_and_keeps_the_answer(smollm2: Path, llm: LLM) -> None:
    """Catches weights widened for good while loading."""
    half = LLM(str(smollm2), max_model_len=64, dtype="float16")
    matrices = llm.model.nbytes - 61 * 576 * 4  # the norms stay float32
    assert half.model.nbytes == matrices // 2 + 61 * 576 * 4
    params = SamplingParams(max_tokens=6)
    assert half.generate("The capital of France is", params)[0].token_ids == (
        llm.generate("The capital of France is", params)[0].token_ids
    )
