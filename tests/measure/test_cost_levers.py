"""What each optimization makes of a request, by counted work."""

from __future__ import annotations

import doctest

import pytest
from helpers import small_config

from tinyinfer.engine.config import EngineConfig
from tinyinfer.measure import cost_levers
from tinyinfer.measure.cost import Tokens
from tinyinfer.measure.cost_levers import Lever, alone, levers
from tinyinfer.measure.roofline import Machine
from tinyinfer.measure.split import Split, Work

CONFIG = small_config(vocab_size=64, hidden_size=64, intermediate_size=128, num_layers=4, max_position=256)
READS = Machine(1e6, 1e15)  # bytes alone take time
COMPUTES = Machine(1e15, 1e6)  # FLOPs alone do
ASKED = Tokens(100, 20, cached=60)


def changes(machine: Machine, at_a_time: int = 8, tokens: Tokens = ASKED, **switches: str) -> dict[str, Lever]:
    """The predicted changes by their names."""
    work = Work(CONFIG, EngineConfig(**switches), round(tokens.input), round(tokens.written))
    return {one.name: one for one in levers(work, alone(machine), Split(1), tokens, at_a_time, 0.6)}


def test_the_examples_of_the_module():
    """Tokens of a verified pass, by hand."""
    assert doctest.testmod(cost_levers) == (0, 1)


def test_batching_shares_the_bytes_of_weights_and_not_the_arithmetic():
    """So it pays as long as memory binds. Catches a batch that divides all time by its size."""
    reads, computes = changes(READS), changes(COMPUTES)
    assert reads["one at a time"].decode > 3 * reads["8 at a time"].decode
    assert computes["one at a time"].decode == pytest.approx(computes["8 at a time"].decode)
    assert reads["one at a time"].prefill == reads["8 at a time"].prefill


def test_fewer_bits_shorten_what_waits_for_bytes_alone():
    """And what is quantized already is not quantized again."""
    reads, computes = changes(READS), changes(COMPUTES)
    assert reads["int4"].decode < reads["int8"].decode < reads["8 at a time"].decode
    assert computes["int4"].decode == computes["8 at a time"].decode
    assert "int4" not in changes(READS, quantize="int8")


def test_a_cached_part_of_the_input_shortens_prefill_alone():
    """Without one there is nothing to show."""
    found = changes(COMPUTES)
    cached, plain = found["60 of 100 cached"], found["8 at a time"]
    assert cached.prefill < 0.5 * plain.prefill
    assert cached.decode == plain.decode
    assert not [name for name in changes(COMPUTES, tokens=Tokens(100, 20)) if "cached" in name]


def test_half_the_layers_take_nearly_half_the_time():
    """The head stays whole."""
    found = changes(COMPUTES)
    half, whole = found["half the layers"], found["8 at a time"]
    assert 0.5 * whole.prefill <= half.prefill < 0.6 * whole.prefill
    assert 0.5 * whole.decode <= half.decode < 0.6 * whole.decode


def test_drafts_pay_where_memory_binds_and_cost_where_arithmetic_does():
    """Five rows for 2.3 tokens: the rows are free only while reading takes the time."""
    name = "4 drafts, 60% accepted"
    assert changes(READS)[name].decode < 0.6 * changes(READS)["8 at a time"].decode
    assert changes(COMPUTES)[name].decode > 2 * changes(COMPUTES)["8 at a time"].decode


def test_a_request_costs_its_seconds():
    """Half an hour of a machine of 2 an hour."""
    assert Lever("x", 600.0, 1200.0).cost(2.0) == 1.0
