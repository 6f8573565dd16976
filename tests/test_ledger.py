"""The ledger counts exactly what the formulas of the textbook say, step by step, for every family.

The numbers are derived here from a golden's config.json with plain arithmetic, and know nothing of the code. Letters:
D width, H query heads, K key heads, E head size, F MLP width, V vocabulary, L layers, X experts. A float is 4 bytes.
"""

from __future__ import annotations

import pytest
from golden import FAMILIES, load_golden

from tinyinfer import LLM, SamplingParams
from tinyinfer.engine.trace import StepTrace
from tinyinfer.ledger import Ledger
from tinyinfer.measure.roofline import expected_decode, expected_prefill

N, NEW = 17, 6  # prompt tokens, generated tokens: one prefill and five decode steps


@pytest.fixture(scope="module")
def traces(golden_folder):
    """A function: the steps of generating NEW tokens after the first N of a golden's tokens, with some switches."""
    kept: dict[str, list[StepTrace]] = {}

    def steps(name: str, **switches: object) -> list[StepTrace]:
        key = f"{name} {sorted(switches.items())}"
        if key not in kept:
            llm = LLM(str(golden_folder(name)), **switches)
            prompt = load_golden(name).tokens[:N].tolist()
            kept[key] = list(llm.steps([prompt], SamplingParams(max_tokens=NEW, ignore_eos=True)))
        assert len(kept[key]) == NEW
        return kept[key]

    return steps


def pairs(first: int, rows: int, window: int | None = None) -> int:
    """Counts, one by one, the positions that the queries at first ... first + rows see."""
    return sum(q - k < (window or 10**9) for q in range(first, first + rows) for k in range(q + 1))


def check(ledger: Ledger, **expected: int) -> None:
    """These counters hold these numbers."""
    assert {name: getattr(ledger, name) for name in expected} == expected


def test_llama_with_biases_by_hand(traces):
    """Catches: grouped heads counted as H, biases forgotten, the head run on all rows, an untied head counted twice."""
    L, D, F, H, K, E, V = 3, 60, 112, 6, 2, 14, 277
    body = D * (H + 2 * K) * E + H * E * D + 3 * D * F
    bias = (H + 2 * K) * E + D + 2 * F + D
    norms = L * 2 * D + D
    prefill, *decode = traces("llama")
    check(
        prefill.ledger,
        flops=2 * N * L * body + L * 4 * H * E * N * (N + 1) // 2 + 2 * D * V,
        attention_flops=L * 4 * H * E * N * (N + 1) // 2,
        weight_bytes=4 * (N * D + L * (body + bias) + norms + D * V),
        kv_read_bytes=L * 2 * K * E * 4 * N,
        kv_written_bytes=L * 2 * K * E * 4 * N,
        tokens_computed=N, tokens_reused=0, tokens_recomputed=0, logit_rows=1, steps=1,
    )  # fmt: skip
    for i, step in enumerate(decode):
        check(
            step.ledger,
            flops=2 * L * body + L * 4 * H * E * (N + i + 1) + 2 * D * V,
            weight_bytes=4 * (D + L * (body + bias) + norms + D * V),
            kv_read_bytes=L * 2 * K * E * 4 * (N + i + 1),
            kv_written_bytes=L * 2 * K * E * 4,
            kv_copied_bytes=0,
            tokens_computed=1, tokens_reused=N + i, tokens_recomputed=0, logit_rows=1, steps=1,
        )  # fmt: skip


def test_a_tied_head_is_still_read(traces):
    """Sharing the embedding saves memory, not reading: the head's D·V weights move in every step."""
    L, D, F, H, K, E, V = 4, 72, 120, 9, 3, 8, 277
    body = D * (H + 2 * K) * E + H * E * D + 3 * D * F
    check(traces("smollm2")[1].ledger, weight_bytes=4 * (D + L * (body + 2 * D) + D + D * V))


def test_gpt2_by_hand(traces):
    """Catches: an ungated MLP counted as a gated one, LayerNorm's biases or the learned positions left out."""
    L, D, H, V = 3, 56, 7, 277
    E, F = D // H, 4 * D
    body = D * 3 * D + D * D + 2 * D * F
    bias = 3 * D + D + F + D
    prefill, decode, *_ = traces("gpt2")
    check(
        prefill.ledger,
        flops=2 * N * L * body + L * 4 * H * E * pairs(0, N) + 2 * D * V,
        weight_bytes=4 * (2 * N * D + L * (body + bias + 4 * D) + 2 * D + D * V),
    )
    check(decode.ledger, weight_bytes=4 * (2 * D + L * (body + bias + 4 * D) + 2 * D + D * V))


def test_windows_by_hand(traces):
    """Gemma 3: three layers see 7 positions, one sees all. Catches: a window ignored, off by one, or taken for all."""
    L, D, F, H, K, E, V, W = 4, 48, 76, 4, 1, 20, 277, 7
    body = D * (H + 2 * K) * E + H * E * D + 3 * D * F
    norms = L * (4 * D + (H + K) * E) + D  # each head by its norm of queries and keys
    prefill, *decode = traces("gemma3")
    check(
        prefill.ledger,
        flops=2 * N * L * body + 4 * H * E * (3 * pairs(0, N, W) + pairs(0, N)) + 2 * D * V,
        weight_bytes=4 * (N * D + L * body + norms + D * V),
        kv_read_bytes=L * 2 * K * E * 4 * N,
    )
    for i, step in enumerate(decode):
        check(
            step.ledger,
            flops=2 * L * body + 4 * H * E * (3 * W + N + i + 1) + 2 * D * V,
            kv_read_bytes=2 * K * E * 4 * (3 * W + N + i + 1),
            kv_written_bytes=L * 2 * K * E * 4,
        )


def test_experts_by_hand(traces):
    """Mixtral, 2 of 5 experts a token. Catches: all experts' FLOPs or bytes counted, or one expert's bytes per row."""
    L, D, F, H, K, E, V, X, k = 3, 48, 40, 6, 3, 10, 277, 5, 2
    attention = D * (H + 2 * K) * E + H * E * D
    norms = L * 2 * D + D
    prefill, *decode = traces("mixtral")
    touched = prefill.ledger.experts_read  # up to the router; that it is right is test_moe's matter
    assert L * k < touched <= L * X
    check(
        prefill.ledger,
        flops=2 * N * L * (attention + D * X + k * 3 * D * F) + L * 4 * H * E * pairs(0, N) + 2 * D * V,
        weight_bytes=4 * (N * D + L * (attention + D * X) + touched * 3 * D * F + norms + D * V),
        expert_rows=L * N * k,
    )
    for i, step in enumerate(decode):
        check(
            step.ledger,
            flops=2 * L * (attention + D * X + k * 3 * D * F) + L * 4 * H * E * (N + i + 1) + 2 * D * V,
            weight_bytes=4 * (D + L * (attention + D * X + k * 3 * D * F) + norms + D * V),
            expert_rows=L * k, experts_read=L * k,
        )  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_every_step_of_every_family_is_as_predicted(name, traces, golden_folder):
    """What `roofline.py` derives from the configuration is what the engine counts: all counters, all steps."""
    config = LLM(str(golden_folder(name))).config
    prefill, *decode = traces(name)
    assert prefill.ledger == expected_prefill(config, N, experts_read=prefill.ledger.experts_read)
    for i, step in enumerate(decode):
        assert step.ledger == expected_decode(config, N + i)


def test_without_a_cache_everything_is_computed_again(traces):
    """n + (n+1) + (n+2) + ... rows instead of n + 1 + 1 + ...: the lesson that a KV cache is."""
    without, cached = traces("llama2", kv_cache="none"), traces("llama2")
    assert [step.ledger.tokens_computed for step in without] == [N + i for i in range(NEW)]
    assert [step.ledger.tokens_recomputed for step in without] == [0] + [N + i for i in range(NEW - 1)]
    assert [step.ledger.tokens_reused for step in without] == [0] * NEW
    assert [step.ledger.tokens_computed for step in cached] == [N] + [1] * (NEW - 1)
    assert [step.ledger.tokens_recomputed for step in cached] == [0] * NEW
    assert [step.ledger.tokens_reused for step in cached] == [0] + [N + i for i in range(NEW - 1)]


def test_without_a_cache_every_step_is_a_prefill(traces, golden_folder):
    """Its FLOPs and bytes too; only `tokens_recomputed` tells it from a first one."""
    config = LLM(str(golden_folder("gemma3"))).config
    for i, step in enumerate(traces("gemma3", kv_cache="none")):
        expected = expected_prefill(config, N + i)
        expected.tokens_recomputed = N + i - 1 if i else 0
        assert step.ledger == expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["qwen2", "gpt2", "olmoe"])
def test_half_precision_halves_the_bytes_of_matrices_and_nothing_else(name, dtype, traces, golden_folder):
    """Norms, biases, learned positions, keys and values stay float32, and the arithmetic is the same."""
    config = LLM(str(golden_folder(name))).config
    full, half = traces(name)[1:], traces(name, dtype=dtype)[1:]
    for i, (a, b) in enumerate(zip(full, half, strict=True)):
        assert b.ledger == expected_decode(config, N + i, itemsize=2)
        matrices = 2 * (a.ledger.weight_bytes - b.ledger.weight_bytes)  # what was halved
        assert matrices == 2 * (a.ledger.flops - a.ledger.attention_flops) + 4 * config.hidden_size  # + embedding row
        assert {**vars(a.ledger), "weight_bytes": 0} == {**vars(b.ledger), "weight_bytes": 0}


def test_scoring_counts_its_rows_once(golden_folder):
    """A score in pieces computes every token but the last once, and takes every row's logits."""
    llm, tokens = LLM(str(golden_folder("mistral"))), load_golden("mistral").tokens.tolist()
    llm.score(tokens)
    check(llm.ledger, tokens_computed=len(tokens) - 1, logit_rows=len(tokens) - 1, tokens_recomputed=0)


def test_a_difference_of_copies_is_what_lies_between():
    """Catches: a copy that shares its counters, or a counter left out of the difference or the JSON."""
    ledger = Ledger(flops=5, steps=1)
    before = ledger.copy()
    ledger.flops += 7
    ledger.kv_copied_bytes += 3
    assert ledger - before == Ledger(flops=7, kv_copied_bytes=3)
    assert before.flops == 5
    assert ledger.as_dict() == vars(ledger)


def test_bytes_moved_are_weights_and_all_traffic_of_the_cache():
    """One of each power of ten: a summand left out or taken twice shows as a digit."""
    ledger = Ledger(flops=9, weight_bytes=1, kv_read_bytes=10, kv_written_bytes=100, kv_copied_bytes=1000)
    assert ledger.bytes_moved == 1111
