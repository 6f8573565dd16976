"""The real model, end to end: SmolLM2's own weights give the tokens that transformers gives.

Needs the weights (downloaded once); the goldens were made by make_goldens.py from the same file.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinyinfer import LLM, SamplingParams
from tinyinfer.cli import main

CASES = json.loads((Path(__file__).parent / "golden" / "smollm2.json").read_text(encoding="utf-8"))
TIE = 1e-3  # logits closer than this may swap by rounding; the closest two in the goldens are 0.012 apart


@pytest.fixture(scope="module")
def llm(smollm2: Path) -> LLM:
    return LLM(str(smollm2), max_model_len=1024)


@pytest.fixture(scope="module")
def answers(llm: LLM) -> list[list[int]]:
    """The tokens that follow each golden prompt; all prompts share their steps."""
    params = [SamplingParams(max_tokens=len(case["greedy"]), ignore_eos=True) for case in CASES]
    return [out.token_ids for out in llm.generate([case["ids"] for case in CASES], params)]


def prompt_ids(llm: LLM, case: dict) -> list[int]:
    return llm.tokenizer.encode(case["text"]) if "text" in case else llm.chat_prompt(case["messages"])


@pytest.mark.weights
@pytest.mark.parametrize("case", CASES, ids=lambda c: (c.get("text") or c["messages"][-1]["content"])[:24])
def test_greedy_tokens_of_a_prompt_equal_transformers(llm: LLM, answers: list[list[int]], case: dict) -> None:
    """Catches what small random models cannot: an error that only shows over 30 layers, a tokenizer that differs."""
    assert min(case["margins"]) > TIE
    assert prompt_ids(llm, case) == case["ids"]
    assert answers[CASES.index(case)] == case["greedy"]


@pytest.mark.full
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


@pytest.mark.weights
def test_four_prompts_with_every_lossless_switch_on_equal_every_switch_off(smollm2: Path, capsys) -> None:
    """By the command line; the ledger proves that memory ran out, a beginning was shared and drafts were proposed."""
    shared = "The colours of the rainbow are red, orange, yellow, green, blue and violet. "
    prompts = [shared + "Red, orange, yellow,", shared + "The sky is", "a b c a b c a b c a b", shared + "Red, orange,"]
    words = ["generate", "-m", str(smollm2), "--raw", "--json", "-q", "-n", "8", "--ignore-eos"]
    words += [word for prompt in prompts for word in ("-p", prompt)]
    on = "--kv-cache paged --block-size 8 --num-blocks 6 --prefix-cache on --speculative prompt-lookup"
    on += " --num-draft-candidates 2 --max-num-seqs 3 --max-num-batched-tokens 24"
    lines = []
    for switches in (on, "--kv-cache none --max-num-seqs 1"):
        assert main([*words, *switches.split()]) == 0
        lines.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert [line["token_ids"] for line in lines[0]] == [line["token_ids"] for line in lines[1]]
    ledger = lines[0][0]["ledger"]
    assert min(ledger["preemptions"], ledger["tokens_cached"], ledger["drafts_accepted"]) > 0
