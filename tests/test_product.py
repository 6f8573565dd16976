"""The product of the switches: whatever is on, greedy tokens are those of the plain engine (no cache, one at a time).

Features break in pairs, so every pair of values meets here in caches so small that sequences are preempted and
prefixes evicted. Every installed backend emits the same tokens and counts the same work, also with switches that
lose precision. `-m full` walks the whole product. Each bug below shipped in another engine, or nearly in this one;
the test of its name makes the situation happen, and the ledger proves that it did.

| bug | where | test |
|---|---|---|
| a prompt of whole blocks, all cached, leaves no row to compute | nano-vllm #144, #114, PR 117, 199 | fully_cached |
| a preempted sequence that hits the prefix cache keeps stale counts | nano-vllm PR 211, 233 | preempted_and_hit |
| a duplicate prefix's blocks are freed while a table points at them | mini-sglang PR 142 | duplicate_prefixes |
| the speculative path is broken, and no test runs it | gpt-fast #219 | drafts_accepted_and_rejected |
| positions jump after the first decode | tiny-llm PR 46 | positions_follow_each_other |
| the cache is there and never read | rasbt #913 | cache_is_used |
| a rolled back block stays with its sequence, or in the tree | ours to get wrong | rollback_across_a_block_edge |
| a block shared before it is computed outlives the step that never computed it | ours, once | preempted_once_planned |
| an evicted prefix is still found | ours to get wrong | evicted_prefix |
| padding takes the rows for which a long prompt waits | ours, once | padding_starves_no_prompt |
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    ALWAYS_DRAFT,
    COMPARED,
    Letters,
    check_blocks,
    checkpoint_of,
    finish,
    longrope,
    make_engine,
    random_tensors,
    request,
    small_config,
    tree,
)

from tinyinfer.backends.switches import BACKENDS, DTYPES
from tinyinfer.engine.engine import Engine
from tinyinfer.kv_cache.prefix_cache import Node
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.model.config import ModelConfig, MoEConfig, RopeConfig
from tinyinfer.model.visit import matrices, weights
from tinyinfer.quantization.apply import floats
from tinyinfer.sequence import Batch
from tinyinfer.sequence import Sequence as Request
from tinyinfer.switches import resolve

MARGIN = 1e-3  # between the best and the second best log-probability of every token below: no tie decides a test
CONFIGS = {
    "grouped_windows": small_config(qkv_bias=True, windows=(5, None)),
    "gpt2": small_config(norm="layer", gated=False, learned_positions=True, rope=(None, None), vocab_size=23),
    "moe": small_config(qk_norm="full", experts=MoEConfig(5, 2, 12), num_layers=3, windows=(None, 7, 4)),
}
YARN = RopeConfig(scaling="yarn", factor=4.0, original_max_position=16, amplitude=1.3)
NEWER = {  # every kind of layer that only newer families have; a config has as many of them as there are in one family
    "capped": small_config(
        score_cap=3.0, logit_cap=9.0, residual_scale=0.7, logit_scale=0.8, post_norms=True, activation="gelu_tanh",
        rope=(None, RopeConfig()), windows=(6, None),
    ),
    "parallel": small_config(
        norm="layer", gated=False, activation="gelu", parallel=True, rope=(RopeConfig(size=4),) * 2, qkv_bias=True,
        o_bias=True, mlp_bias=True,
    ),
    "norms_after": small_config(
        pre_norms=False, post_norms=True, qk_norm="full", rope=(YARN, RopeConfig()), windows=(None, 5),
        experts=MoEConfig(5, 2, 12, renormalize=False, shared_size=10, dense_layers=(0,)),
    ),
    "sinks": small_config(
        sinks=True, activation="clamped", experts=MoEConfig(5, 2, 12), qkv_bias=True, o_bias=True, mlp_bias=True,
        rope=(YARN,) * 2, windows=(5, None),
    ),
    "longrope": small_config(rope=(replace(longrope(14), size=4, divisors=(1.0, 1.4), long_divisors=(3.0, 2.0)),) * 2),
}  # fmt: skip
CONFIGS |= NEWER
GOLDENS = ["gemma3", "qwen3_moe"]
LONGEST = 29  # of all sequences below, prompt and answer
SWITCHES: dict[str, list[Any]] = {
    "kv_cache": ["none", "contiguous", "paged"],
    "block_size": [1, 4, 5],
    "prefix_cache": [False, True],
    "batching": ["continuous", "static", "dynamic"],
    "max_num_batched_tokens": [3, 11, 2048],
    "max_num_seqs": [1, 3, 8],
    "speculative": ["off", "prompt-lookup", "draft", "self"],
    "num_draft_candidates": [1, 3],
}


def workload(vocab: int) -> list[tuple[list[int], int]]:
    """Prompts and lengths of answers: shared prefixes, whole blocks of 4 and 5, duplicates, one token, repetition."""
    a = [(7 * i + i // 3) % vocab for i in range(20)]
    b = [(3 * i + 1) % 5 for i in range(13)]
    return [
        (a, 9), (a, 4), (a[:12], 8), ([*a[:10], 1, 2], 7), (b, 10), (a[:1], 6), ([*b[:8], *b[:8]], 11), (a, 1),
    ]  # fmt: skip


def requests(work: Sequence[tuple[list[int], int]]) -> list[Request]:
    return [request(prompt, n, logprobs=2) for prompt, n in work]


@cache
def source(name: str, folder: Callable[[str], Path]) -> Any:
    return CONFIGS[name] if name in CONFIGS else load(folder(name))


def config_of(source: Any) -> ModelConfig:
    return source if isinstance(source, ModelConfig) else source.config


def plainly(source: Any, work: Sequence[tuple[list[int], int]]) -> list[list[int]]:
    """What the plain engine says; tokens of which another order of additions could decide are not allowed."""
    sequences = requests(work)
    tokens = [finish(make_engine(source, kv_cache="none"), seq)[0] for seq in sequences]
    for choice in (choice for seq in sequences for choice in seq.progress.choices):
        assert choice.top is not None
        best, second = choice.top.values()
        assert best - second > MARGIN
    return tokens


@cache
def expected(name: str, folder: Callable[[str], Path]) -> list[list[int]]:
    model = source(name, folder)
    return plainly(model, workload(config_of(model).vocab_size))


def possible(case: dict[str, Any]) -> bool:
    """Whether EngineConfig takes it, and no switch in it is without effect."""
    blocks = case["kv_cache"] == "paged" or (case["block_size"] == 4 and not case["prefix_cache"])
    forks = case["kv_cache"] == "paged" and case["speculative"] != "off"
    return (
        blocks
        and (case["kv_cache"] != "none" or case["max_num_batched_tokens"] == 2048)
        and (forks or case["num_draft_candidates"] == 1)
    )


def combined(switches: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(switches, values, strict=True)) for values in product(*switches.values()))


def everything() -> Iterator[dict[str, Any]]:
    return filter(possible, combined(SWITCHES))


def pairs(case: dict[str, Any]) -> set[tuple[Any, ...]]:
    return set(combinations(case.items(), 2))


def pairwise(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few cases in which every possible pair of values meets: again and again the one of 61 with most new pairs."""
    rng = random.Random(5)
    missing, chosen = set().union(*map(pairs, cases)), []
    while missing:
        wanted = min(missing, key=str)
        sample = rng.sample([case for case in cases if wanted in pairs(case)], 1) + rng.sample(cases, 60)
        chosen.append(max(sample, key=lambda case: len(missing & pairs(case))))
        missing -= pairs(chosen[-1])
    return chosen


def case_id(case: dict[str, Any]) -> str:
    return "-".join(str(value) for value in case.values())


def run(model: Any, case: dict[str, Any], backend: str = "numpy") -> tuple[Engine, list[list[int]]]:
    """The workload in one engine, in the smallest pool that holds its longest sequence."""
    config = config_of(model)
    blocks = -(-LONGEST // case["block_size"]) + 1 if case["kv_cache"] == "paged" else None
    second = small_config(vocab_size=config.vocab_size) if case["speculative"] == "draft" else None
    named = {"draft_model": "random"} if second else {}
    named = named | {"second": second, "draft_cost": ALWAYS_DRAFT}
    ops = resolve(BACKENDS, backend)(Ledger())
    engine = make_engine(model, ops=ops, max_model_len=30, num_blocks=blocks, **case, **named)
    return engine, finish(engine, *requests(workload(config.vocab_size)))


def assert_clean(engine: Engine) -> None:
    """Nothing is left but what the prefix cache keeps on purpose, and it can give all of that back."""
    while engine.scheduler.prefixes.evict():
        continue
    assert engine.cache.held_bytes == 0
    assert not engine.scheduler.busy


# The product


PAIRS = pairwise(list(everything()))


def shared_out(old: int, newer: int) -> list[Any]:
    """Cases of PAIRS for each config: of so many only one, each of the newer configs beginning with another."""
    shares = [(name, PAIRS[::old]) for name in [*CONFIGS, *GOLDENS] if name not in NEWER]
    shares += [(name, PAIRS[i % newer :: newer]) for i, name in enumerate(NEWER)]
    return [pytest.param(name, case, id=f"{name}-{case_id(case)}") for name, share in shares for case in share]


@pytest.mark.parametrize(("name", "case"), shared_out(1, 2))
def test_every_pair_of_switches_emits_the_plain_tokens(name, case, golden_folder):
    """Catches features that work alone and not together."""
    engine, tokens = run(source(name, golden_folder), case)
    assert tokens == expected(name, golden_folder)
    assert_clean(engine)


def counted_otherwise(engine: Engine, first: Engine) -> Ledger:
    """What an engine counts more than another. Fewer copies are no fault: kernels read a paged cache in place."""
    more = engine.ledger - first.ledger
    return replace(more, kv_copied_bytes=max(0, more.kv_copied_bytes))


def differences(name: str, case: dict[str, Any], folder: Callable[[str], Path], backends: list[str]) -> list[str]:
    """Where a backend emits other tokens than the plain engine, or counts other work than the first."""
    wrong, first = [], None
    for backend in backends:
        engine, tokens = run(source(name, folder), case, backend)
        assert_clean(engine)
        first = first or engine
        wrong += [] if tokens == expected(name, folder) else [f"{case_id(case)}: tokens of {backend}"]
        more = counted_otherwise(engine, first)
        wrong += [f"{case_id(case)}: {backend} counts {more}"] if more != Ledger() else []
    return wrong


@pytest.mark.parametrize("backends", COMPARED)
@pytest.mark.parametrize(("name", "case"), shared_out(5, 9))
def test_every_backend_emits_the_plain_tokens_and_counts_the_same(name, case, backends, golden_folder):
    """Catches a fast path that computes more, or other rows, than the formula says."""
    assert not differences(name, case, golden_folder, backends)


@pytest.mark.full
@pytest.mark.parametrize("backends", COMPARED)
@pytest.mark.parametrize("batching", SWITCHES["batching"])
@pytest.mark.parametrize("speculative", SWITCHES["speculative"])
@pytest.mark.parametrize("name", [*CONFIGS, *GOLDENS])
def test_the_whole_product_emits_the_plain_tokens(name, speculative, batching, backends, golden_folder):
    """The same for every combination and backend, some minutes long."""
    wrong = []
    for case in everything():
        if (case["speculative"], case["batching"]) == (speculative, batching):
            wrong += differences(name, case, golden_folder, backends)
    assert not wrong


# Switches that lose precision: the text may be another one, but every backend loses the same

LOSSY: dict[str, list[Any]] = {
    "quantize": ["off", "int8", "int4", "int3", "int2", "w8a8"],
    "quantize_head": ["off", "int8"],
    "kv_bits": ["off", 8, 4, 2],
    "dtype": list(DTYPES),
    "kv_cache": ["contiguous", "paged"],
    "draft_quantize": ["off", "int4"],
    "activations": ["float", "int8"],
    "num_draft_candidates": [1, 3],
}
LOSSY_WORK = [0, 3, 4, 6]  # of the workload: shared prefixes, repetition
TIE = 0.02  # of two log-probabilities: less than a code that is rounded to the other side may change


def run_lossy(name: str, case: dict[str, Any], backend: str, folder: Callable[[str], Path]) -> tuple[Engine, list[Any]]:
    """Part of the workload in one engine, which drafts with its own layers."""
    model, vocab = source(name, folder), config_of(source(name, folder)).vocab_size
    if isinstance(model, ModelConfig):
        letters: Any = Letters(vocab)
        model = replace(checkpoint_of(model, random_tensors(model)), tokenizer=letters)
    shared = {"prefix_cache": True, "num_blocks": 10, "block_size": 4, "max_num_batched_tokens": 5}
    own = shared if case["kv_cache"] == "paged" else {}
    own |= {"calibration_tokens": 128} if case["quantize"] == "w8a8" else {}
    ops = resolve(BACKENDS, backend)(Ledger(), resolve(DTYPES, case["dtype"]), activations=case["activations"])
    engine = make_engine(model, ops=ops, speculative="self", draft_cost=ALWAYS_DRAFT, max_model_len=30, **case, **own)
    sequences = requests([workload(vocab)[i] for i in LOSSY_WORK])
    finish(engine, *sequences)
    assert_clean(engine)
    return engine, sequences


def lossy(name: str) -> list[dict[str, Any]]:
    """The combinations that a model takes."""
    moe = bool(CONFIGS[name].experts) if name in CONFIGS else "moe" in name
    cases = [case for case in combined(LOSSY) if case["kv_cache"] == "paged" or case["num_draft_candidates"] == 1]
    cases = [case for case in cases if case["activations"] == "float" or has_codes(case)]
    return [case for case in cases if not (moe and case["quantize"] == "w8a8")]


def has_codes(case: dict[str, Any]) -> bool:
    """Whether there is a weight whose inputs integer activations round. One dtype: they leave floats as they are."""
    others = case["quantize_head"] != "off" or case["draft_quantize"] != "off"
    return (others or case["quantize"] not in ("off", "w8a8")) and case["dtype"] == "float32"


def gap(seq: Request, other: Request) -> float | None:
    """How much the token that one sequence has and the other has not is likelier than the next; None: all are equal."""
    pairs = zip(seq.progress.choices, other.progress.choices, strict=True)
    at = next((i for i, (one, two) in enumerate(pairs) if one.token != two.token), None)
    if at is None:
        return None
    best, second = seq.progress.choices[at].top.values()
    return best - second


OTHER_WEIGHTS = "holds other weights"


def same_weights(one: Engine, other: Engine) -> bool:
    """Whether the matrices of two engines hold the same numbers."""
    pairs = zip(matrices(one.model), matrices(other.model), strict=True)
    both = [pair for (_, held), (_, same) in pairs for pair in zip(weights(held), weights(same), strict=True)]
    return all(np.array_equal(floats(a), floats(b)) for a, b in both)


def lossy_differences(
    name: str, case: dict[str, Any], folder: Callable[[str], Path], backends: list[str]
) -> list[str]:
    """Where backends hold other weights, emit other tokens, but for ties, or count other work for the same tokens."""
    (first, sequences), *others = [run_lossy(name, case, backend, folder) for backend in backends]
    wrong = []
    for engine, found in others:
        if not same_weights(first, engine):
            wrong.append(f"{case_id(case)}: {OTHER_WEIGHTS}")
            continue
        gaps = [x for x in map(gap, sequences, found) if x is not None]
        wrong += [f"{case_id(case)}: tokens, of which one was {x} likelier" for x in gaps if x > TIE]
        counted = counted_otherwise(engine, first)
        if counted.experts_read:  # a router's tie: rows chose another expert, so another number of experts was read
            counted = replace(counted, experts_read=0, weight_bytes=0)
        if not gaps and counted != Ledger():
            wrong.append(f"{case_id(case)}: counts {counted}")
    return wrong


@pytest.mark.parametrize("backends", COMPARED)
@pytest.mark.parametrize("case", pairwise(lossy("grouped_windows"))[::2], ids=case_id)
def test_every_backend_loses_the_same_and_counts_the_same(case, backends, golden_folder):
    """Catches a product of packed codes that counts other bytes, and a rounding that one backend does otherwise."""
    assert not lossy_differences("grouped_windows", case, golden_folder, backends)


@pytest.mark.parametrize("bits", [8, 2])
@pytest.mark.parametrize("name", NEWER)
def test_quantized_caches_read_the_same_whatever_else_is_on(name, bits, golden_folder):
    """The newer kinds of layers: shared, chunked, preempted and drafted in a pool, and alone in an array of their own.

    Catches rows that attend otherwise where their span is split at a block, and keys of another set in a packed block.
    """
    plain = {name: values[0] for name, values in LOSSY.items()}
    pool = plain | {"kv_bits": bits, "kv_cache": "paged", "num_draft_candidates": 3}
    _, together = run_lossy(name, pool, "numpy", golden_folder)
    alone = requests([workload(CONFIGS[name].vocab_size)[i] for i in LOSSY_WORK])
    for seq in alone:
        finish(make_engine(CONFIGS[name], kv_bits=bits, block_size=4), seq)
    gaps = [x for x in map(gap, alone, together) if x is not None]
    assert not [x for x in gaps if x > TIE]
    assert len(gaps) < 2, "ties are the exception"


@pytest.mark.full
@pytest.mark.parametrize("backends", COMPARED)
@pytest.mark.parametrize("quantize", LOSSY["quantize"])
@pytest.mark.parametrize("name", [*CONFIGS, *GOLDENS])
def test_the_whole_lossy_product_is_the_same_on_every_backend(name, quantize, backends, golden_folder):
    """The same for every combination.

    w8a8 tries ten ways to scale a layer's inputs. Where two ways serve equally well but for rounding, backends choose
    differently and cannot be compared; so it is with Gemma 3 in float16, and must not be the rule.
    """
    cases = [case for case in lossy(name) if case["quantize"] == quantize]
    wrong = [difference for case in cases for difference in lossy_differences(name, case, golden_folder, backends)]
    chosen = [difference for difference in wrong if quantize == "w8a8" and difference.endswith(OTHER_WEIGHTS)]
    assert not [difference for difference in wrong if difference not in chosen]
    assert len(chosen) <= len(cases) / 2


# The bugs by name

MODEL = CONFIGS["grouped_windows"]
PAGED: dict[str, Any] = {"kv_cache": "paged", "block_size": 4}
SHARED = PAGED | {"prefix_cache": True}
A, B, C = ([(step * i + i // 3) % 31 for i in range(24)] for step in (7, 11, 5))
Work = list[tuple[list[int], int]]


def ask(engine: Engine, work: Work) -> list[Request]:
    """Runs the work and compares it with the plain engine's; after each step all blocks are accounted for."""
    sequences = requests(work)
    for _ in engine.run(sequences):
        if "paged" in type(engine.cache).__module__:
            prefixes = engine.scheduler.prefixes if hasattr(engine.scheduler.prefixes, "roots") else None
            check_blocks(engine, prefixes, sequences)
    assert [seq.new_tokens for seq in sequences] == plainly(MODEL, work)
    return sequences


@pytest.mark.parametrize(("block_size", "cached"), [(1, 7), (2, 6), (4, 4), (8, 0)])
def test_fully_cached(block_size, cached):
    """A prompt of 8 tokens, asked again, alone and twice at once: the whole blocks before its last token are there."""
    engine = make_engine(MODEL, **SHARED | {"block_size": block_size})
    [first] = ask(engine, [(A[:8], 3)])
    assert (first.progress.cached_tokens, engine.ledger.tokens_cached) == (0, 0)
    computed = engine.ledger.tokens_computed
    again = ask(engine, [(A[:8], 3), (A[:8], 5)])
    assert [seq.progress.cached_tokens for seq in again] == [cached] * 2
    assert engine.ledger.tokens_computed - computed == 2 * (8 - cached) + 2 + 4
    assert_clean(engine)


def test_preempted_and_hit():
    """Prompts without anything in common: what a preempted sequence finds later are its own blocks."""
    engine = make_engine(MODEL, **SHARED, num_blocks=9)
    sequences = ask(engine, [(A[:9], 12), (B[:9], 12), (C[:9], 12)])
    ledger = engine.ledger
    assert ledger.preemptions > 0
    assert ledger.tokens_cached > 0
    found_at_first = [seq.progress.cached_tokens for seq in sequences]
    assert found_at_first == [0, 0, 0], "the first step of each found nothing, and that is what counts"
    assert ledger.tokens_computed == sum(len(seq.tokens) - 1 for seq in sequences) + ledger.tokens_recomputed
    assert_clean(engine)


def test_duplicate_prefixes():
    """Equal prompts run side by side and write equal blocks; the first ends, and newcomers take whatever is free.

    The tree keeps one of two equal blocks, so each may lose its owner while a sequence reads the other.
    """
    engine = make_engine(MODEL, **SHARED, num_blocks=13, max_num_seqs=3, max_num_batched_tokens=7)
    same = [(A[:9], 13), (A[:9], 5), (A[:9], 13), (B[:9], 9), (A[:9], 9), (C[:9], 9), (A[:9], 13)]
    sequences = requests(same)
    shared = twins = False
    for _ in engine.run(sequences):
        check_blocks(engine, engine.scheduler.prefixes, sequences)  # type: ignore[arg-type]
        tables = {seq: engine.cache.block_table(seq) for seq in sequences if seq.prompt == A[:9]}
        for (one, blocks), (other, others) in combinations(tables.items(), 2):
            for i, pair in enumerate(zip(blocks, others, strict=False)):
                equal = one.tokens[: 4 * i + 4] == other.tokens[: 4 * i + 4]
                shared |= pair[0] == pair[1]
                twins |= equal and pair[0] != pair[1]
                assert equal or pair[0] != pair[1]
    assert shared
    assert twins
    assert [seq.new_tokens for seq in sequences] == plainly(MODEL, same)
    assert engine.ledger.tokens_cached > 0
    assert engine.ledger.blocks_evicted > 0
    assert_clean(engine)


@pytest.mark.parametrize("speculative", ["prompt-lookup", "draft", "self"])
def test_drafts_accepted_and_rejected(speculative):
    """Every drafter proposes right and wrong drafts, with every other feature on, and its sequences are preempted."""
    named = {"draft_model": "random"} if speculative == "draft" else {}
    engine = make_engine(MODEL, second=small_config() if named else None, speculative=speculative, **named,
                         **SHARED, num_blocks=12, max_num_batched_tokens=9, draft_cost=ALWAYS_DRAFT)  # fmt: skip
    ask(engine, [([1, 2, 3] * 4, 30), (A[:10], 30), ([5, 6] * 5, 30), (A[:10], 20)])
    assert 0 < engine.ledger.drafts_accepted < engine.ledger.drafts_proposed
    assert engine.ledger.preemptions > 0
    assert engine.ledger.tokens_cached > 0
    assert_clean(engine)


@pytest.mark.parametrize("switches", [{}, PAGED, {"kv_cache": "none"}, {"max_num_batched_tokens": 4}], ids=str)
def test_positions_follow_each_other(switches):
    """Each row is the token of its position, and each step begins where the one before ended (none: at 0)."""
    engine, sequences = make_engine(MODEL, **switches), requests([(A[:9], 6), (B[:5], 6)])
    ends = dict.fromkeys(sequences, 0)
    for trace in engine.run(sequences):
        for span in trace.batch.spans:
            stop = span.first + span.rows
            assert span.first == (0 if switches.get("kv_cache") == "none" else ends[span.seq])
            assert trace.batch.positions[span.start : span.stop].tolist() == list(range(span.first, stop))
            assert trace.batch.tokens[span.start : span.stop].tolist() == span.seq.tokens[span.first : stop]
            ends[span.seq] = stop
    assert ends == {seq: len(seq.tokens) - 1 for seq in sequences}


@pytest.mark.parametrize("switches", [{}, PAGED, SHARED], ids=["contiguous", "paged", "prefix"])
def test_cache_is_used(switches):
    """n prompt tokens and m new ones are n + m - 1 rows, and each later step reads all positions before it.

    A position of a full layer is 2 · K · E · 4 = 96 bytes; the other layer has a window of 5 and reads no more.
    """
    engine = make_engine(MODEL, **switches)
    ask(engine, [(A[:9], 7)])
    reads = [9, *range(10, 16)]
    assert engine.ledger.tokens_computed == 15
    assert engine.ledger.kv_read_bytes == 96 * (sum(reads) + 9 + 6 * 5)
    assert engine.ledger.tokens_recomputed == 0


def test_rollback_across_a_block_edge():
    """Rejected drafts reach into the next block; the block is freed, and is never in the tree.

    The rejected drafts are then a prompt: only the blocks of tokens that really came may be found.
    """
    engine = make_engine(MODEL, speculative="self", draft_layers=1, **SHARED, num_blocks=30, draft_cost=ALWAYS_DRAFT)
    [seq] = sequences = requests([(A[:9], 20)])
    rejected: list[list[int]] = []
    for trace in engine.run(sequences):
        [span] = trace.batch.spans
        rows = trace.batch.tokens[span.start : span.stop].tolist()
        kept = engine.cache.length(seq) if not seq.finished else len(seq.tokens) - 1
        edge = -(-kept // 4) * 4
        if span.first + len(rows) > edge + 4 or (span.first + len(rows) > edge >= span.first + 1 > edge - 4):
            rejected.append([*seq.tokens[: span.first], *rows])
    assert engine.ledger.drafts_proposed > engine.ledger.drafts_accepted
    assert len(rejected) > 2, "rejected drafts did cross an edge"
    for tokens in rejected:
        real = next(i for i, (g, t) in enumerate(zip([*tokens, -1], seq.tokens, strict=False)) if g != t)
        [asked] = ask(engine, [([*tokens, 0], 2)])
        assert asked.progress.cached_tokens <= real // 4 * 4
    assert_clean(engine)


def test_preempted_once_planned():
    """A sequence is given rows that fill a block, and is preempted in the same step for an older one.

    Its block must not be shared from then on, because nothing was ever written to the block: whatever a step adds to
    the tree is a block that a sequence in this step has filled or fills. It takes drafts to get a younger sequence
    planned first: they wait for a step with rows for all of them.
    """
    engine = make_engine(MODEL, **SHARED, num_blocks=10, max_num_batched_tokens=6, speculative="self",
                         num_draft_tokens=3, draft_cost=ALWAYS_DRAFT)  # fmt: skip
    scheduler, forward, preempt = engine.scheduler, engine.forward, engine.scheduler.preempt
    planned, known = [], set[Node]()

    def nodes() -> set[Node]:
        return set(tree(scheduler.prefixes.roots[0, None]))  # type: ignore[attr-defined]

    def watched_preempt(seq: Request) -> None:
        planned.append(seq in scheduler.plan)
        preempt(seq)

    def watched_forward(batch: Batch) -> Any:
        filled = [engine.cache.block_table(s.seq)[: (s.first + s.rows) // 4] for s in batch.spans]
        assert {node.block for node in nodes() - known} <= {block for blocks in filled for block in blocks}
        known.update(nodes())
        return forward(batch)

    scheduler.preempt, engine.forward = watched_preempt, watched_forward  # type: ignore[method-assign]
    ask(engine, [(A[:6], 16), (B[:5], 16), (C[:6], 13), (A[:3], 18)])
    assert any(planned)
    assert engine.ledger.tokens_cached > 0
    assert_clean(engine)


def test_evicted_prefix():
    """Three prompts in a pool that keeps one and a half: the first is evicted, computed again, and found again."""
    engine = make_engine(MODEL, **SHARED, num_blocks=9)
    found = [ask(engine, [(prompt[:20], 3)])[0].progress.cached_tokens for prompt in (A, B, C, A, A)]
    assert engine.ledger.blocks_evicted > 0
    assert found == [0, 0, 0, 0, 16]
    assert_clean(engine)


@pytest.mark.parametrize("batching", ["static", "dynamic"])
def test_padding_starves_no_prompt(batching):
    """Two short answers end and keep their slots while a long prompt is computed by three rows a step."""
    engine = make_engine(MODEL, batching=batching, max_num_batched_tokens=3)
    sequences = requests([(A[:1], 1), (B[:1], 1), (C, 3)])
    run = engine.run(sequences)
    for _ in range(20):
        next(run, None)
    assert [seq.new_tokens for seq in sequences] == plainly(MODEL, [(A[:1], 1), (B[:1], 1), (C, 3)])
    assert engine.ledger.tokens_padding > 0
