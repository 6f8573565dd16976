"""The MLP on plain arrays divides as the engine's own does, and counts as its ledger."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import checkpoint_of, random_tensors, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model
from tinyinfer.model.mlp import GatedMLP
from tinyinfer.parallel.collectives import ring_all_reduce
from tinyinfer.parallel.divided_mlp import bytes_sent, mlp_part, mlp_term, own_neurons
from tinyinfer.parallel.local import run_ranks
from tinyinfer.parallel.shards import division
from tinyinfer.parallel.tensor import divide
from tinyinfer.quantization.apply import floats


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_neurons_are_those_of_the_engine(ranks: int) -> None:
    for neurons in (1, 7, 24, 100):
        for unit in (1, 4, 32):
            found = [range(*own_neurons(neurons, rank, ranks, unit)) for rank in range(ranks)]
            assert list(map(list, found)) == list(map(list, division(neurons, ranks, unit)))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_parts_are_those_of_a_divided_model(ranks: int) -> None:
    """Catches a part that the engine divides otherwise, and terms that do not add up to its MLP."""
    config = small_config(num_layers=1, num_heads=6, num_kv_heads=3, intermediate_size=50)
    ops = NumpyOps(Ledger())
    model = build_model(checkpoint_of(config, random_tensors(config)), ops)
    whole = model.layers[0].mlp
    assert isinstance(whole, GatedMLP)
    gate_up, down = floats(whole.gate_up.weight), floats(whole.down.weight)
    bias = np.zeros(config.hidden_size, np.float32)
    x = np.random.default_rng(0).random((3, config.hidden_size), np.float32)
    total = np.zeros_like(x)
    for rank in range(ranks):
        own = divide(model, rank, ranks, ops).layers[0].mlp
        assert isinstance(own, GatedMLP)
        part = mlp_part(gate_up, down, bias, rank, ranks)
        assert np.array_equal(part[0], floats(own.gate_up.weight))
        assert np.array_equal(part[1], floats(own.down.weight))
        total += mlp_term(x, *part)
    assert total == pytest.approx(whole(x, ops), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_bytes_are_those_that_a_ring_sends(ranks: int) -> None:
    """A ring written out, whose messages the ledger counts one by one. Catches parts that are not those of the ring."""
    for numbers in (2, 15, 16, 17):
        ledgers = [Ledger() for _ in range(ranks)]
        run_ranks(ranks, lambda comm, n=numbers: ring_all_reduce(np.ones(n, np.float32), comm), ledgers=ledgers)
        assert [one.bytes_sent for one in ledgers] == [bytes_sent(numbers, rank, ranks) for rank in range(ranks)]
