"""Steps by kernels in company: every family that the kernels cover, with what else an engine can do switched on.

Greedy tokens and the ledger are NumPy's. Weights in half precision are rounded once more on tensor cores, and a draw
between two nearly equal tokens may go the other way: there the logits are compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden import BARE, FAMILIES
from helpers import finish, small_config
from on_device import agree, ask, cpu_engine, gpu_engine

from tinyinfer.backends.kernels.covered import uncovered
from tinyinfer.errors import ModelWarning
from tinyinfer.loading import load

pytestmark = pytest.mark.cuda
COVERED = [
    "llama", "llama2", "llama3", "llama_linear", "llama_yarn", "smollm2", "smollm3", "mistral", "qwen2", "qwen2_window",
    "qwen2_yarn", "qwen3", "gemma2", "gemma3", "gemma3_linear", "phi3", "phi3_long", "granite", "smollm3_bare",
    "gemma2_bare", "gemma3_nested", "phi3_bare", "granite_bare",
]  # fmt: skip
A, B = ([(step * i + i // 3) % 200 for i in range(24)] for step in (7, 11))
WORK = [(A[:9], 7), ([*A[:8], 1], 5), (B[:13], 6)]
PAGED: dict[str, Any] = {"kv_cache": "paged", "block_size": 4}
CASES: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "paged in chunks": PAGED | {"prefix_cache": True, "max_num_batched_tokens": 7, "max_num_seqs": 2},
    "static": {"batching": "static"},
    "drafts": PAGED | {"speculative": "prompt-lookup"},
}


@pytest.mark.parametrize("name", COVERED)
def test_every_covered_family(name, golden_folder):
    """Windows, caps, norms on both sides, biases, two sets of rotations; every second family in a paged cache."""
    engine = agree(load(golden_folder(name)), [(A[:9], 6), (B[:7], 6)], **(PAGED if COVERED.index(name) % 2 else {}))
    assert list(engine.compiled.buckets) == [2]


def test_no_covered_family_is_left_out(golden_folder):
    """Catches a family that falls back unseen, and one that is covered by now and not tested."""
    found = []
    for name in [*FAMILIES, *BARE]:
        engine = cpu_engine(load(golden_folder(name)))
        if not uncovered(engine.model, engine.cache):
            found.append(name)
    assert sorted(found) == sorted(COVERED)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_case(case):
    """A model with grouped queries, biases and a window."""
    work = [([t % 31 for t in prompt], n) for prompt, n in WORK]
    for decode in ("graph", "kernels"):
        agree(small_config(windows=(5, None), qkv_bias=True), work, decode=decode, **case)


@pytest.mark.parametrize("quantize", ["int8", "int4", "int3", "int2"])
def test_packed_weights(quantize, golden_folder):
    """Codes of all sizes, the head's included. Rows of a GPU's codes are filled up otherwise, which the ledger counts:
    so the device is compared with itself, operation by operation.
    """
    work, switches = [(A[:9], 6), (B[:7], 6)], {"quantize": quantize, "quantize_head": "int8"}
    model = load(golden_folder("llama"))
    plain, device = (gpu_engine(model, decode, **switches) for decode in ("eager", "graph"))
    assert finish(device, *ask(work)) == finish(plain, *ask(work)) == finish(cpu_engine(model, **switches), *ask(work))
    assert device.ledger == plain.ledger


PACKED_CACHES: list[dict[str, Any]] = [
    {"kv_bits": 8}, {"kv_bits": 4, "kv_cache": "paged", "prefix_cache": True},
    {"kv_bits": 2, "speculative": "prompt-lookup"}, {"kv_bits": 8, "kv_cache": "paged", "speculative": "self"},
]  # fmt: skip


@pytest.mark.parametrize("case", PACKED_CACHES, ids=str)
def test_packed_caches(case):
    """Blocks are packed by the step that fills them, several at once where drafts reach over them, and rolled back."""
    work = [(A[:9], 14), ([1, 2, 3] * 4, 9)]
    work = [([t % 31 for t in prompt], n) for prompt, n in work]
    model = small_config(windows=(5, None), qk_norm="head" if "prefix_cache" in case else "none")
    engine = agree(model, work, block_size=4, **case)
    assert engine.compiled.buckets


def test_packed_caches_are_not_for_the_persistent_kernel():
    """It reads floats: a graph takes over, and the user is told."""
    with pytest.warns(ModelWarning, match="gpu_decode=persistent: kv_bits keeps keys and values packed"):
        assert gpu_engine(small_config(), "persistent", kv_bits=8).compiled.way == "graph"


@pytest.mark.parametrize(("rows", "dtype"), [(9, "float32"), (17, "float32"), (9, "bfloat16"), (17, "float16")])
def test_the_rows_of_every_kind_of_product(rows, dtype):
    """Groups of 8 rows in float32; in half precision tensor cores from 9 rows on, and padded rows beside them."""
    model = small_config(vocab_size=40, hidden_size=32, intermediate_size=32, head_dim=8, post_norms=True)
    work = [([(7 * i + n) % 31 for i in range(4)], 4) for n in range(rows)]
    kind = np.dtype(__import__("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
    plain, device = (build(model, dtype=kind, max_num_seqs=32) for build in (cpu_engine, gpu_engine))
    pairs = list(zip(finish(plain, *ask(work)), finish(device, *ask(work)), strict=True))
    assert [bucket for bucket in device.compiled.buckets if bucket >= rows]
    assert sum(one == other for one, other in pairs) >= (len(pairs) if dtype == "float32" else 0.8 * len(pairs))
