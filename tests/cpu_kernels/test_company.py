"""A row's bits are its own: alone, in a batch of any order, and as a draft that is verified, the logits are the same.

With activations in 8 bits the last bit of any number decides how another is rounded, and layer after layer makes more
of it (docs/quantization.md). So a text depends on its company unless every kernel adds up a row's numbers in one order,
however many rows there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import forward, make_engine, request, small_config

from tinyinfer.backends.switches import BACKENDS, DTYPES
from tinyinfer.engine.engine import Engine
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import ModelConfig, MoEConfig
from tinyinfer.sequence import Sequence
from tinyinfer.switches import resolve

pytestmark = pytest.mark.cpu
SIZES: dict[str, Any] = {"hidden_size": 200, "head_dim": 40, "intermediate_size": 300, "vocab_size": 150}
DENSE = small_config(**SIZES, qkv_bias=True, windows=(9, None), num_heads=6, num_kv_heads=2, max_position=400)
EXPERTS = small_config(**SIZES, experts=MoEConfig(5, 2, 70, shared_size=30), qk_norm="head", max_position=400)
WEIGHTS: list[dict[str, Any]] = [
    {}, {"dtype": "bfloat16"}, {"quantize": "int8"}, {"quantize": "int4"}, {"quantize": "int3"},
    {"quantize": "int8", "activations": "int8"}, {"quantize": "int4", "activations": "int8", "quantize_head": "int8"},
    {"quantize": "int3", "activations": "int8"}, {"kv_bits": 8}, {"kv_bits": 4, "quantize": "int4"},
]  # fmt: skip
LENGTHS = [90, 3, 17, 41, 8, 130, 1, 64] * 2
PROMPTS = [[(7 * i + 3 * n) % 150 for i in range(length)] for n, length in enumerate(LENGTHS)]
STEPS = 4


def engine_of(config: ModelConfig, how: dict[str, Any], threads: int) -> Engine:
    own = {key: value for key, value in how.items() if key != "dtype"}
    dtype, activations = resolve(DTYPES, how.get("dtype", "float32")), how.get("activations", "float")
    ops = resolve(BACKENDS, "numba")(Ledger(), dtype, threads, activations=activations)
    return make_engine(config, ops=ops, kv_cache="paged", block_size=8, num_blocks=200, **own)


def started(engine: Engine, prompt: list[int]) -> Sequence:
    """A sequence whose prompt is in the cache, computed by itself, and whose next tokens are known."""
    seq = request([*prompt, 5, 9, 2, 7])
    forward(engine, (seq, 0, len(prompt)))
    return seq


def alone(engine: Engine, prompt: list[int]) -> np.ndarray:
    """The logits of the next tokens, one by one."""
    seq, first = started(engine, prompt), len(prompt)
    return np.concatenate([np.array(forward(engine, (seq, first + n, first + n + 1))[0]) for n in range(STEPS)])


@pytest.mark.parametrize("config", [DENSE, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("how", WEIGHTS, ids=str)
def test_a_row_has_the_same_bits_in_any_company(config: ModelConfig, how: dict[str, Any]) -> None:
    """Catches a sum whose order depends on how many rows there are, and a piece of a context that depends on threads.

    2 to 16 sequences, which come in another order in each step; the same tokens verified as drafts, all at once.
    """
    expected = [alone(engine_of(config, how, 1), prompt) for prompt in PROMPTS]
    rng = np.random.default_rng(0)
    for count, threads in ((2, 1), (3, 2), (5, 1), (7, 1), (8, 2), (9, 1), (13, 1), (16, 2)):
        engine, members = engine_of(config, how, threads), rng.permutation(len(PROMPTS))[:count].tolist()
        sequences = {n: started(engine, PROMPTS[n]) for n in members}
        for step in range(STEPS):
            order = rng.permutation(members).tolist()
            at = [len(PROMPTS[n]) + step for n in order]
            found = forward(engine, *((sequences[n], i, i + 1) for n, i in zip(order, at, strict=True)))
            for n, logits in zip(order, found, strict=True):
                np.testing.assert_array_equal(logits[0], expected[n][step], f"{count} rows, step {step}")
    for rows in (2, 3, 4):
        for drafting in ([0], [4, 1, 5]):
            engine = engine_of(config, how, 1)
            work = [(started(engine, PROMPTS[n]), len(PROMPTS[n]), len(PROMPTS[n]) + rows) for n in drafting]
            for n, logits in zip(drafting, forward(engine, *work), strict=True):
                np.testing.assert_array_equal(logits, expected[n][:rows], f"{rows} drafts")
