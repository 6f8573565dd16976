"""Tensor parallelism: the ranks together compute what one process computes, of every family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from divided import logits_of
from golden import FAMILIES, load_golden
from helpers import ROUNDING, TOLERANCE, checkpoint_of, distance, random_tensors, small_config
from packed_matrices import random_matrix

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.errors import SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.model.quantized_matrix import W8A8_SCHEME, QuantScheme
from tinyinfer.model.weights import Linear
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.local import run_ranks
from tinyinfer.parallel.shards import division, input_unit, part_of
from tinyinfer.parallel.tensor import Division


@pytest.mark.parametrize("name", FAMILIES)
def test_ranks_together_compute_what_transformers_computes(name: str, golden_folder: Any) -> None:
    """Every family, against logits that were not computed here. Catches heads that read another's keys, a bias or a
    shared expert that every rank adds, a norm over a rank's heads alone, and a sum that is left out.
    """
    golden, checkpoint = load_golden(name), load(golden_folder(name))
    for ranks in range(2, min(4, checkpoint.config.num_heads) + 1):
        for found in run_ranks(ranks, lambda comm: logits_of(comm, checkpoint, golden.tokens), seed=ranks):
            assert distance(found, golden.logits) < TOLERANCE, f"{ranks} ranks"


FORMATS: dict[str, dict[str, Any]] = {
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4", "symmetric": False},
    "int3 per channel": {"quantize": "int3", "group_size": "channel"},
    "pruned": {"prune": "magnitude", "sparsity": 0.5},
    "2:4": {"prune": "magnitude", "sparsity": "2:4"},
    "2:4 in int4": {"prune": "magnitude", "sparsity": "2:4", "quantize": "int4"},
}
GROUPS = small_config(num_heads=6, num_kv_heads=3, head_dim=32, hidden_size=64, intermediate_size=256, max_position=64)


@pytest.mark.parametrize("switches", FORMATS.values(), ids=FORMATS)
def test_quantized_and_pruned_weights_are_divided_along_their_groups(switches: dict[str, Any]) -> None:
    """The ranks' codes and scales are those of the whole matrix. Catches a part that is rounded anew, scales of a
    neighbour's group, and a pattern that is cut in the middle.
    """
    checkpoint, tokens = checkpoint_of(GROUPS, random_tensors(GROUPS)), np.arange(20) * 7 % GROUPS.vocab_size
    [truth] = run_ranks(1, lambda comm: logits_of(comm, checkpoint, tokens, **switches))
    for ranks in (2, 3, 6):
        for found in run_ranks(ranks, lambda comm: logits_of(comm, checkpoint, tokens, **switches)):
            assert distance(found, truth) < ROUNDING, f"{ranks} ranks"


SCHEMES = {
    "int8": QuantScheme(8, 32, True), "int4": QuantScheme(4, 32, False), "per channel": QuantScheme(3, None, False),
    "Q4_K": QuantScheme(4, 32, False, nested=8), "Q6_K": QuantScheme(6, 16, True, nested=16),
}  # fmt: skip


# One scale for all inputs of a row, as `per channel` has with rounded inputs, no part of the row knows.
@pytest.mark.parametrize(
    ("name", "activations"), [(n, a) for n in SCHEMES for a in ("float", "int8") if (n, a) != ("per channel", "int8")]
)
def test_products_of_the_parts_add_up(name: str, activations: str) -> None:
    """Inputs are divided where groups end, so that inputs that are rounded in the same groups are rounded alike.

    (Of a whole model with such inputs this cannot be asked: another order of additions may move a number across the
    place where it is rounded the other way.) Catches a minimum or a scale of scales of another group.
    """
    ops, rng = NumpyOps(Ledger(), activations=activations), np.random.default_rng(5)
    matrix, x = random_matrix(40, 768, SCHEMES[name], seed=3), rng.standard_normal((4, 768)).astype(np.float32)
    whole = ops.linear(x, Linear(ops.take(matrix)))
    parts = division(768, 3, input_unit(matrix))
    assert [len(part) for part in parts] == [256] * 3
    terms = [ops.linear(x[:, p.start : p.stop], Linear(ops.take(part_of(matrix, inputs=p)))) for p in parts]
    assert distance(sum(terms), whole) < ROUNDING
    rows = part_of(matrix, outputs=(range(3, 7), range(20, 31)))
    some = ops.linear(x, Linear(ops.take(rows)))
    assert distance(some, whole[:, [*range(3, 7), *range(20, 31)]]) < ROUNDING


def test_bytes_sent_are_those_of_the_formula(golden_folder: Any) -> None:
    """A token sends 2·L·D·4·2(n-1)/n for its layers, and a third of a layer's more for its vector. Catches a sum that
    is made twice, and one of more than the rows.
    """
    golden, checkpoint = load_golden("smollm2"), load(golden_folder("smollm2"))
    c, n, tokens = checkpoint.config, 3, golden.tokens
    ledgers = [Ledger() for _ in range(n)]
    rows, pieces = len(tokens), 3

    def work(comm: Comm) -> int:
        before = comm.ledger.copy()
        logits_of(comm, checkpoint, tokens)
        return (comm.ledger - before).bytes_sent

    sent = sum(run_ranks(n, work, ledgers=ledgers))
    sums = (2 * c.num_layers + 1) * c.hidden_size * 4 * 2 * (n - 1) * rows  # of all ranks together
    logits = (n - 1) * (c.vocab_size * 4 * rows + n * 8 * pieces)  # what this test gathers
    assert sent == sums + logits


@pytest.mark.parametrize(
    ("config", "ranks", "words"),
    [
        ({"num_heads": 4, "num_kv_heads": 2}, 5, "tensor_parallel_size=5 are more ranks than the 4 query heads of"),
        ({"vocab_size": 3}, 4, "tensor_parallel_size=4 would leave ranks without a part of this model; choose 3 at"),
        ({"intermediate_size": 2}, 3, "tensor_parallel_size=3 would leave ranks without a part .*; choose 2 at most"),
    ],
)
def test_more_ranks_than_parts_are_refused(config: dict[str, int], ranks: int, words: str) -> None:
    """With the number that would work."""
    with pytest.raises(SwitchError, match=words):
        Division(small_config(**config), 0, ranks)


def test_inputs_that_are_rounded_as_one_are_not_divided() -> None:
    """W8A8: the scale of a row's inputs is that of the largest of all, which a rank does not see."""
    matrix = random_matrix(20, 24, W8A8_SCHEME)
    with pytest.raises(SwitchError, match=r"would divide layers\.0\.o, whose inputs are rounded by one scale"):
        Division(small_config(), 0, 2).matrix("layers.0.o", matrix)


def test_groups_that_end_inside_a_head_are_refused() -> None:
    """A head has 6 numbers here, and 8 share a scale. Catches a matrix that is divided wrongly instead."""
    matrix = random_matrix(20, 24, QuantScheme(8, 8, True))
    with pytest.raises(SwitchError, match=r"would divide layers\.0\.o inside a group of 8 inputs that share a scale"):
        Division(small_config(), 0, 4).matrix("layers.0.o", matrix)
