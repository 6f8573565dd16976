"""The model against transformers' logits, family by family; and the same result however the rows are cut and mixed.

The goldens were computed by transformers from the weights that `golden_weight` draws (make_goldens.py).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from golden import FAMILIES, checksum, load_golden
from helpers import ROUNDING, TOLERANCE, distance, finish, flat_batch, forward, make_engine, request, rounded

from tinyinfer import LLM, SamplingParams
from tinyinfer.loading import load
from tinyinfer.model.transformer import embed, head, run_layers

# One of each kind of attention, norm, layer and MLP.
MIXED = [
    "llama", "mistral", "gemma3", "gpt2", "mixtral", "olmoe", "gemma2", "phi3_long", "olmo3", "gpt_neox", "qwen2_moe",
    "gpt_oss",
]  # fmt: skip
# A quantized cache keeps the block that is being filled as it is: in one block as long as the text nothing is lost.
CACHES: dict[str, dict[str, Any]] = {
    "contiguous": {}, "none": {"kv_cache": "none"}, "paged": {"kv_cache": "paged", "block_size": 4},
    "8 bits": {"kv_bits": 8, "block_size": 64},
}  # fmt: skip


@pytest.fixture(scope="module")
def engine_of(golden_folder):
    """A function from a golden's name to an engine with that model, shared by the tests of this file."""
    return cache(lambda name: make_engine(load(golden_folder(name))))


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_are_those_that_transformers_had(name):
    """Else every golden fails, and it is NumPy's random numbers and not the model that is to blame."""
    golden = load_golden(name)
    assert checksum(golden.weights()) == golden.weights_crc


@pytest.mark.parametrize("kv_cache", CACHES)
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_greedy_tokens_equal_transformers(name, kv_cache, golden_folder):
    """Any difference in the model: rope, norm, mask, scale, bias, router... (test_mutants.py lists what it kills)."""
    golden, llm = load_golden(name), LLM(str(golden_folder(name)), **CACHES[kv_cache])
    logits = llm.logits(golden.tokens.tolist())
    assert logits.dtype == np.float32
    assert distance(logits, golden.logits) <= TOLERANCE
    params = SamplingParams(max_tokens=len(golden.greedy), temperature=0, ignore_eos=True)
    assert llm.generate(golden.prompt, params)[0].token_ids == golden.greedy


@pytest.mark.parametrize("name", FAMILIES)
def test_every_split_of_a_prompt_equals_one_pass(name, engine_of):
    """Catches: positions or masks that count from the chunk instead of the sequence, keys stored at a wrong place."""
    golden, engine = load_golden(name), engine_of(name)
    n = len(golden.prompt)
    for cut in range(1, n):
        seq = request(golden.prompt)
        [before], [after] = forward(engine, (seq, 0, cut)), forward(engine, (seq, cut, n))
        engine.cache.free(seq)
        assert distance(np.concatenate([before, after]), golden.first_logits(n)) <= TOLERANCE, f"cut at {cut}"


@pytest.mark.parametrize("name", MIXED)
def test_sequences_in_one_flat_batch_equal_each_alone(name, engine_of):
    """Chunks of prompts and single tokens of several sequences, mixed and in changing order.

    Catches: a row that sees another sequence's keys, a position taken from the row's place in the batch, experts'
    results handed back to the wrong row.
    """
    engine, rng = engine_of(name), np.random.default_rng(5)
    prompts = [rng.integers(3, 277, n) for n in (23, 14, 19)]
    whole = [forward(engine, (seq, 0, len(p)))[0] for p in prompts for seq in [request(p)]]
    a, b, c = seqs = [request(p) for p in prompts]
    steps = [[(a, 0, 9)], [(b, 0, 13), (a, 9, 10)], [(c, 0, 5), (b, 13, 14), (a, 10, 17)], [(a, 17, 23), (c, 5, 19)]]
    found: dict = {seq: [] for seq in seqs}
    for work in steps:
        for (seq, _, _), logits in zip(work, forward(engine, *work), strict=True):
            found[seq].append(logits)
    for seq, alone in zip(seqs, whole, strict=True):
        assert distance(np.concatenate(found[seq]), alone) <= ROUNDING


def test_only_the_rows_asked_for_go_through_the_head(engine_of):
    """The head costs a third of a prefill: a step that needs the last row's logits pays for one row."""
    engine, golden = engine_of("llama"), load_golden("llama")
    start = engine.ledger.copy()
    finish(engine, request(golden.prompt, max_tokens=1))
    last_only = engine.ledger - start
    start = engine.ledger.copy()
    seq = request(golden.prompt)
    forward(engine, (seq, 0, len(golden.prompt)))
    all_rows = engine.ledger - start
    engine.cache.free(seq)
    head = 2 * golden.config["hidden_size"] * golden.config["vocab_size"]
    assert (last_only.logit_rows, all_rows.logit_rows) == (1, len(golden.prompt))
    assert all_rows.flops - last_only.flops == head * (len(golden.prompt) - 1)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "mixtral"])
def test_half_precision_storage_is_the_float32_model_with_rounded_weights(name, dtype, golden_folder):
    """Only the weights may lose bits: catches activations, norms or sums in half precision, and a wrong widening."""
    golden, checkpoint = load_golden(name), load(golden_folder(name))
    work = (request(golden.tokens), 0, len(golden.tokens))
    stored = make_engine(checkpoint, dtype=dtype)
    [found], [expected] = forward(stored, work), forward(make_engine(rounded(checkpoint, dtype)), work)
    assert found.dtype == np.float32
    assert distance(found, expected) <= ROUNDING
    matrices = sum(np.prod(t.shape) for k, t in checkpoint.tensors.items() if len(t.shape) > 1 and k != "positions")
    assert make_engine(checkpoint).model.nbytes - stored.model.nbytes == (4 - 2) * matrices


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_half_precision_stays_within_what_its_rounding_allows(name, golden_folder):
    """The bound: rounding moves each weight by at most eps/2 of itself, and so each product by that share of itself.

    A logit comes out of 4 products a layer one after the other, the embedding and the head, whose shares add at worst.
    (A mixture of experts has no such bound: a rounded router may choose another expert.)
    """
    golden, checkpoint = load_golden(name), load(golden_folder(name))
    work = (request(golden.tokens), 0, len(golden.tokens))
    off = {}
    for dtype in (np.float16, ml_dtypes.bfloat16):
        half_eps = float(ml_dtypes.finfo(dtype).eps) / 2
        off[dtype] = distance(forward(make_engine(checkpoint, dtype=dtype), work)[0], golden.logits)
        assert off[dtype] <= (4 * checkpoint.config.num_layers + 2) * half_eps
    assert off[ml_dtypes.bfloat16] > 2 * off[np.float16] > 0, "8 times the epsilon: the formats were not mixed up"


@pytest.mark.parametrize("name", MIXED)
def test_parts_of_the_model_run_one_by_one(name, engine_of):
    """Embedding, layers in two runs and the head give the logits of the whole: what a pipeline's stages will do.

    Catches a layer run twice or left out at the cut, and a second run that writes over the first one's cache.
    """
    engine, tokens = engine_of(name), load_golden(name).tokens
    model, cache, ops = engine.model, engine.cache, engine.ops
    whole, parts = request(tokens), request(tokens)
    [expected] = forward(engine, (whole, 0, len(tokens)))
    batch = flat_batch([(parts, 0, len(tokens))])
    cache.reserve(parts, len(tokens))
    x = embed(model, batch, ops)
    for first, stop in ((0, 1), (1, len(model.layers))):
        x = run_layers(model, first, stop, x, batch, cache, ops)
    assert np.array_equal(head(model, x, batch, ops), expected)
