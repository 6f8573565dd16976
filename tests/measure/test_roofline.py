"""The roofline: the formula, the counts behind it for a model of known size, and a measurement under a false clock.

That the counts are those of the running engine is asserted in test_ledger.py, for every family.
"""

from __future__ import annotations

from itertools import combinations, product

import pytest
from fake_cupy import fake_cupy
from helpers import small_config

from tinyinfer.backends.cupy_ops import CupyOps
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.kv_cache.memory import position_bytes
from tinyinfer.ledger import Ledger
from tinyinfer.measure import roofline
from tinyinfer.measure.roofline import Machine, expected_decode, expected_prefill, expected_step, predict_seconds
from tinyinfer.model.config import MoEConfig

MACHINE = Machine(read_bandwidth=100.0, matrix_speed=500.0)  # in balance at 5 FLOPs a byte
SMOLLM2 = small_config(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_layers=30, num_heads=9,
                       num_kv_heads=3, head_dim=64, max_position=8192, tied_head=True)  # fmt: skip
SMOLLM2_PARAMETERS = 134_515_008  # on its model card


def count_pairs(first: int, rows: int, window: int | None) -> int:
    return sum(q - k < (window or q + 1) for q in range(first, first + rows) for k in range(q + 1))


@pytest.mark.parametrize(
    ("flops", "weight_bytes", "seconds", "limit"),
    [(1000, 100, 2.0, "arithmetic"), (1000, 400, 4.0, "memory"), (1000, 200, 2.0, "memory"), (0, 50, 0.5, "memory")],
)
def test_the_slower_of_two_limits_decides(flops, weight_bytes, seconds, limit):
    """Catches: the sum or the smaller one taken, FLOPs over bandwidth, the wrong name on a limit."""
    counted = Ledger(flops=flops, weight_bytes=weight_bytes)
    assert predict_seconds(counted, MACHINE) == seconds
    assert roofline.limit(counted, MACHINE) == limit


def test_all_bytes_count_not_only_those_of_weights():
    """A long context's keys and values are read, too."""
    counted = Ledger(weight_bytes=100, kv_read_bytes=200, kv_written_bytes=50)
    assert predict_seconds(counted, MACHINE) == 3.5
    assert roofline.intensity(Ledger(flops=700, weight_bytes=100, kv_read_bytes=250)) == 2.0


def test_decode_of_smollm2_reads_every_parameter_once():
    """Its card's number of parameters, of which the tied embedding is the head, and one row of the embedding."""
    counted = expected_decode(SMOLLM2, 0)
    norms = 61 * 576
    assert counted.weight_bytes == 4 * (SMOLLM2_PARAMETERS + 576)
    assert counted.flops == 2 * (SMOLLM2_PARAMETERS - norms) + 30 * 4 * 9 * 64
    assert (counted.kv_read_bytes, counted.kv_written_bytes) == (46080, 46080)


def test_prefill_is_bound_by_arithmetic_and_decode_by_memory():
    """The reason for everything that follows: with 37 GB/s and 200 GFLOP/s, 5 FLOPs are due for a byte."""
    machine = Machine(37e9, 200e9)
    prefill, decode = expected_prefill(SMOLLM2, 512), expected_decode(SMOLLM2, 511)
    assert (roofline.limit(prefill, machine), roofline.limit(decode, machine)) == ("arithmetic", "memory")
    assert 800 < 512 / predict_seconds(prefill, machine) < 1000  # tokens per second
    assert 60 < 1 / predict_seconds(decode, machine) < 70


@pytest.mark.parametrize("window", [None, 1, 4, 9, 40])
@pytest.mark.parametrize("n", [0, 1, 4, 5, 9, 10, 23])
def test_causal_pairs_are_those_counted_one_by_one(n, window):
    """Catches the windows' off-by-one at n = window, and a window wider than everything."""
    assert roofline.causal_pairs(n, window) == count_pairs(0, n, window)


@pytest.mark.parametrize("window", [None, 6])
def test_pieces_of_a_prompt_add_up_to_the_whole(window):
    """Attention and what is written do not depend on how a prompt is cut; what is read again does."""
    c = small_config(windows=(window, None))
    whole = expected_step(c, 0, 20)
    pieces = [expected_step(c, first, rows) for first, rows in ((0, 7), (7, 1), (8, 12))]
    for counter in ("attention_flops", "kv_written_bytes", "tokens_computed"):
        assert sum(getattr(piece, counter) for piece in pieces) == getattr(whole, counter)
    assert whole.attention_flops == 4 * 4 * 6 * (count_pairs(0, 20, window) + count_pairs(0, 20, None))
    oldest = 0 if window is None else 8 - window + 1
    assert pieces[2].kv_read_bytes == 2 * 2 * 6 * 4 * ((20 - oldest) + 20)
    assert sum(piece.weight_bytes for piece in pieces) > 2.5 * whole.weight_bytes


def test_how_many_experts_to_expect_equals_an_enumeration():
    """All 9 ways in which two rows can choose 2 of 3 experts touch 8/3 on average; 9 layers: 24."""
    choices = list(combinations(range(3), 2))
    average = sum(len({*a, *b}) for a, b in product(choices, choices)) / len(choices) ** 2
    c = small_config(num_layers=9, experts=MoEConfig(3, 2, 10))
    assert expected_prefill(c, 2).experts_read == round(9 * average) == 24
    assert expected_decode(c, 30).experts_read == 9 * 2
    assert expected_prefill(c, 1000).experts_read == 9 * 3


def test_more_experts_cost_bytes_and_not_flops():
    """Catches: work counted by the experts that exist or were touched, rather than by rows times k."""
    few, many = (expected_prefill(small_config(experts=MoEConfig(8, 2, 10)), 5, experts_read=n) for n in (7, 9))
    assert few.flops == many.flops
    assert many.weight_bytes - few.weight_bytes == 2 * 3 * 20 * 10 * 4


def test_bytes_of_the_cache_per_token():
    """Keys and values of each layer and key head, whatever the number of query heads."""
    assert position_bytes(SMOLLM2.memory) == 2 * 30 * 3 * 64 * 4


def test_the_machine_is_measured_by_the_clock_it_is_given():
    """A clock that moves on by a second at each look: every run takes one. Catches a wrong count of bytes or FLOPs."""
    seconds = iter(range(10**6))
    machine = roofline.measure_machine(seconds=0.0, clock=lambda: float(next(seconds)))
    assert machine.read_bandwidth == 512 * 2**20
    assert machine.matrix_speed == 2 * 1536**3
    assert machine.balance == machine.matrix_speed / machine.read_bandwidth


def test_a_gpu_is_measured_as_a_gpu(monkeypatch):
    """And not the processor beside it. Catches a prediction for a GPU's run from the processor's memory."""
    monkeypatch.setattr(roofline, "GPU_READ_BYTES", 1 << 12)
    monkeypatch.setattr(roofline, "GPU_MATRIX_SIZE", 8)
    monkeypatch.setattr(roofline, "measure_machine", lambda threads: pytest.fail("the processor is measured"))
    seconds = iter(range(10**6))
    machine = roofline.measure_gpu(CupyOps(Ledger(), xp=fake_cupy), 0.0, lambda: float(next(seconds)))
    assert (machine.read_bandwidth, machine.matrix_speed) == (1 << 12, 2 * 8**3)
    assert roofline.machine_of(CupyOps(Ledger(), xp=fake_cupy)).balance > 0
    monkeypatch.setattr(roofline, "measure_machine", lambda threads: threads)
    assert roofline.machine_of(NumpyOps(Ledger()), 3) == 3


def test_the_fastest_run_counts_and_slow_ones_end_it():
    """Catches: an average, which noise slows down; and a loop that runs on for ever or only once."""
    now, durations = [0.0], iter([9.0, 2.0, 3.0, 1.0, 5.0, 0.0])

    def work() -> None:
        now[0] += next(durations)

    assert roofline.shortest(work, 14.5, lambda: now[0]) == 1.0
    assert next(durations) == 5.0, "it stops when the time is over"
    durations = iter([4.0, 3.0, 2.0, 1.0])
    assert roofline.shortest(work, 0.0, lambda: now[0]) == 2.0, "three runs at least"
