"""Ranks in simulated time: the engine's own pipeline has the bubble of the formula; messages take their time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import checkpoint_of, finish, random_tensors, request, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine, build_engine
from tinyinfer.loading.build import load_model
from tinyinfer.measure.roofline import Machine
from tinyinfer.measure.timed_ranks import Wire, timed
from tinyinfer.parallel.collectives import ring_all_reduce
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.lead import LeaderOps, follow
from tinyinfer.parallel.local import run_ranks
from tinyinfer.parallel.pipeline import Stage
from tinyinfer.parallel.tensor import TensorOps, divide

MACHINE = Machine(read_bandwidth=1e15, matrix_speed=1e9)  # arithmetic alone takes time
ROWS = 16  # of each micro-batch
CONFIG = small_config(  # stages of equal work: the head is a thousandth of a layer
    num_layers=8, hidden_size=64, num_heads=4, num_kv_heads=4, head_dim=16, intermediate_size=256, vocab_size=3
)


def bubble(stages: int, work: Callable[[Engine], Any], wire: Wire | None = None, **switches: Any) -> float:
    """The share of all ranks' time in which they have nothing to compute."""
    checkpoint = checkpoint_of(CONFIG, random_tensors(CONFIG))
    c = EngineConfig(pipeline_parallel_size=stages, **switches)

    def rank(local: Comm) -> tuple[float, float]:
        comm = timed(local, MACHINE, wire)
        inner, stage = NumpyOps(comm.ledger), Stage(comm, stages)
        model = divide(load_model(checkpoint, inner, c), 0, 1, inner, stage.number, stages)
        if comm.rank:
            follow(model, TensorOps(inner, stage.together), stage)
        else:
            leading = LeaderOps(inner, stage, model)
            work(build_engine(model, leading, c, comm.clock))
            leading.close()
        return comm.idle, comm.clock()

    found = run_ranks(stages, rank)
    return sum(idle for idle, _ in found) / (stages * max(end for _, end in found))


@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("batches", [1, 2, 4, 16])
def test_the_bubble_of_prompts_is_that_of_the_formula(stages: int, batches: int) -> None:
    """(p-1)/(m+p-1), of the engine as it runs. Catches a stage that waits for another batch than its next one, and a
    leader that asks for tokens before it has begun as many batches as there are stages.
    """
    prompts = [[n % 3] * ROWS for n in range(batches)]

    def work(engine: Engine) -> None:
        finish(engine, *(request(prompt, 1) for prompt in prompts))

    found = bubble(stages, work, max_num_batched_tokens=ROWS)
    assert found == pytest.approx((stages - 1) / (batches + stages - 1), rel=0.02)


@pytest.mark.parametrize("stages", [2, 4])
def test_decode_with_as_many_groups_as_stages_has_no_bubble(stages: int) -> None:
    """And with one sequence nearly all of it: its token has to go through all stages. Catches batches that take all
    sequences, so that none is left for the next stage.
    """

    def work(sequences: int) -> Callable[[Engine], Any]:
        return lambda engine: finish(engine, *(request([n % 3, 1], 50) for n in range(sequences)))

    assert bubble(stages, work(stages)) < 0.05
    assert bubble(stages, work(2 * stages)) < 0.05
    assert bubble(stages, work(1)) == pytest.approx(1 - 1 / stages, rel=0.03)


def test_chunks_of_one_prompt_follow_each_other() -> None:
    """Catches a chunk that waits until the one before it has left the last stage, though it needs no token."""

    def work(engine: Engine) -> None:
        finish(engine, request([1] * 60, 1))

    assert bubble(4, work, max_num_batched_tokens=4, kv_cache="paged") < 0.3  # of 15 chunks: 3/18, later ones longer


def test_a_message_takes_its_latency_and_its_bytes() -> None:
    """The ring of collectives.py, in steps of one message, against the formula. Catches a clock that does not wait."""
    wire, nbytes, n = Wire(latency=2.0, bandwidth=100.0), 4 * 600, 3

    def ring(local: Comm) -> float:
        comm = timed(local, MACHINE, wire)
        ring_all_reduce(np.ones(600, np.float32), comm)
        return comm.clock()

    def library(local: Comm) -> float:
        comm = timed(local, MACHINE, wire)
        comm.all_reduce(np.ones(600, np.float32))
        return comm.clock()

    expected = 2 * (n - 1) * (2.0 + nbytes / n / 100.0)
    assert run_ranks(n, ring) == pytest.approx([expected] * n)
    assert run_ranks(n, library) == pytest.approx([expected] * n)


def test_a_rank_waits_for_the_one_that_computes() -> None:
    """Catches waiting that counts as work, and a message that is there before it is sent."""

    def work(local: Comm) -> tuple[float, float]:
        comm = timed(local, MACHINE, Wire(latency=1.0))
        if comm.rank == 0:
            comm.ledger.flops += 5 * 10**9
            comm.send(np.ones(1, np.float32), 1)
        else:
            comm.receive(np.ones(1, np.float32), 0)
        return comm.clock(), comm.idle

    assert run_ranks(2, work) == [(5.0, 0.0), (6.0, 6.0)]


def test_wires_slow_a_pipeline_down() -> None:
    """Catches rows that travel in no time."""

    def work(engine: Engine) -> None:
        finish(engine, *(request([n % 3] * ROWS, 1) for n in range(4)))

    slow = Wire(latency=0.01)
    assert bubble(2, work, slow, max_num_batched_tokens=ROWS) > 2 * bubble(2, work, max_num_batched_tokens=ROWS)
