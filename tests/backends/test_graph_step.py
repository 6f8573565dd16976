"""A decode step by kernels: the tokens and the ledger of the reference, one wait of the host a step, nothing else."""

from __future__ import annotations

import pickle
from copy import deepcopy
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import fake_cuda
import numpy as np
import pytest
from helpers import finish, small_config
from on_device import agree, ask, counted, cpu_engine, gpu_engine, watched

from tinyinfer.backends.kernels.bucket import Program
from tinyinfer.backends.kernels.buffers import Results
from tinyinfer.backends.kernels.graph_step import decodes
from tinyinfer.engine.loop import EngineLoop
from tinyinfer.sequence import Span

MODEL = small_config(windows=(5, None))
A, B, C = ([(step * i + i // 3) % 31 for i in range(24)] for step in (7, 11, 5))
PAGED = {"kv_cache": "paged", "block_size": 4}


def test_a_step_is_one_graph_one_copy_and_one_wait():
    """The third step of a bucket: catches a launch beside the graph, a second wait, and numbers told again.

    The first step computes the prompt, the second one loads the kernels, and from the third on the graph runs.
    """
    engine = gpu_engine(MODEL)
    steps = engine.run(ask([(A[:5], 12)]))
    for _ in range(3):
        next(steps)
    with watched() as seen:
        for _ in range(5):
            next(steps)
    assert seen.kernels == 0
    assert seen.copies == 0
    assert 0 < seen.waits <= 5
    assert 5 <= seen.graphs <= 5 + 8


def test_drafts_are_rows_of_a_decode_step_and_a_chunk_of_a_prompt_is_not():
    """Catches drafts that take the long way of a prompt, which no test of tokens would notice."""
    [seq] = ask([(A[:9], 5)])
    one, drafts, chunk, end = (Span(seq, 0, rows, 5, wanted) for rows, wanted in ((1, 1), (3, 3), (4, 0), (4, 1)))
    assert decodes(SimpleNamespace(spans=(one, drafts)))
    assert not any(decodes(SimpleNamespace(spans=(one, other))) for other in (chunk, end))


@pytest.mark.cuda
def test_unlike_graphs_kernels_are_launched_one_by_one():
    """gpu_decode=kernels is the same plan: five launches a layer, and three for embedding, head and sample together."""
    engine = agree(MODEL, [(A[:5], 4)], decode="kernels")
    [bucket] = engine.compiled.buckets.values()
    with watched() as seen:
        finish(engine, *ask([(B[:1], 2)]))
    assert seen.graphs == 0
    assert bucket.kernels is engine.compiled.kernels
    assert seen.kernels % (5 * 2 + 2) == 0


@pytest.mark.cuda
@pytest.mark.parametrize("switches", [{}, PAGED | {"prefix_cache": True}], ids=["contiguous", "prefix"])
def test_sequences_join_and_leave(switches):
    """Answers of several lengths in three seats, prompts in chunks: catches rows that outlive their sequence."""
    work = [(A[:9], 9), (A[:9], 3), (B[:12], 8), ([*A[:8], 1], 6), (C[:1], 7)]
    agree(MODEL, work, max_num_seqs=3, max_num_batched_tokens=7, **switches)


@pytest.mark.cuda
def test_draws_are_the_hosts():
    """Every way to choose, side by side: the noise is a function of seed and position, wherever it is computed."""
    kinds = [
        {"temperature": 0.8, "seed": 5}, {}, {"temperature": 1.2, "seed": 6, "top_k": 9, "top_p": 0.8},
        {"temperature": 0.9, "seed": -7, "min_p": 0.1, "top_k": 2**40}, {"repetition_penalty": 1.3}, {"logprobs": 1},
    ]  # fmt: skip
    agree(MODEL, [(A[:n], 6) for n in (4, 5, 6, 7, 8, 3)], *kinds)
    engine = agree(MODEL, [(A[:4], 12), (B[:4], 12)], *kinds[:2])
    assert engine.compiled.depth > 0


def test_the_ledger_counts_a_step_when_it_is_asked_for():
    """Steps that ran ahead are no work of the engine's yet: after each step both ledgers are the same."""
    engines = cpu_engine(MODEL), gpu_engine(MODEL)
    plain, device = (engine.run(ask([(A[:5], 14)])) for engine in engines)
    ahead = 0
    for _ in zip(plain, device, strict=True):
        assert counted(engines[1].ledger) == counted(engines[0].ledger)
        ahead = max(ahead, len(engines[1].compiled.ahead.steps) if engines[1].compiled.ahead else 0)
    assert ahead > 1


@pytest.mark.cuda
def test_logits_of_a_text_are_not_sampled():
    """Engine.logits: several rows at a time, none of which may be taken for a decode step."""
    seqs = [ask([(A[:11], 1)])[0] for _ in range(2)]
    plain, device = cpu_engine(MODEL), gpu_engine(MODEL)
    for start in (0, 4, 8, 9, 10):
        most = 4 if start < 8 else 1
        found, expected = (engine.logits(seq, start, most) for engine, seq in zip((device, plain), seqs, strict=True))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_memory_runs_out_in_a_step():
    """The buffers of a bucket do not fit: the step is undone, and once there is memory the engine goes on."""
    engine = gpu_engine(MODEL)
    [seq] = sequences = ask([(A[:5], 6)])
    engine.add(seq, 0.0)
    engine.step()
    pool = engine.ops.xp.get_default_memory_pool()
    pool.set_limit(pool.used_bytes() + 1000)
    try:
        with pytest.raises(MemoryError):
            engine.step()
    finally:
        pool.set_limit(0)
    assert not engine.compiled.buckets
    while not seq.finished:
        engine.step()
    assert [one.new_tokens for one in sequences] == finish(cpu_engine(MODEL), *ask([(A[:5], 6)]))


def test_an_idle_step_after_logits():
    """Nothing is to be chosen: catches the rows of the pass before, taken for those of an empty step."""
    engine = gpu_engine(MODEL)
    [seq] = ask([(A[:3], 1)])
    engine.logits(seq, 0, 3)
    assert not engine.step().batch.spans


@pytest.mark.parametrize("place", [(fake_cuda.Stream, "end_capture"), (fake_cuda.Graph, "launch")], ids=str)
def test_memory_runs_out_beside_the_pool(place):
    """Graphs lie in memory of CUDA's own, of which CuPy tells by another error. Catches a step that ends all requests,
    and a capture that never ends."""
    engine, wanted = gpu_engine(MODEL), finish(cpu_engine(MODEL), *ask([(A[:5], 6)]))
    real = getattr(*place)

    def refused(*args: Any) -> None:
        real(*args)
        raise fake_cuda.CUDARuntimeError(2)

    with patch.object(*place, refused), pytest.raises(MemoryError, match="cudaErrorMemoryAllocation"):
        list(engine.run(ask([(B[:5], 6)])))
    assert finish(engine, *ask([(A[:5], 6)])) == wanted


@pytest.mark.parametrize("broken", [Results, Program], ids=["after the launch", "before the launch"])
def test_an_error_beside_a_launch_shifts_no_results(broken):
    """The kernels have counted a step, and the host has not, or neither. Catches tokens of another step, for ever."""
    engine, wanted = gpu_engine(MODEL), finish(cpu_engine(MODEL), *ask([(A[:5], 14)]))
    name = "fetch" if broken is Results else "run"
    for _ in range(2):
        assert finish(engine, *ask([(A[:5], 14)])) == wanted
        run = engine.run(ask([(B[:5], 14)]))
        for _ in range(3):
            next(run)
        with patch.object(broken, name, side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
            list(run)
    assert finish(engine, *ask([(A[:5], 14)])) == wanted


def test_all_engines_of_a_device_share_one_stream():
    """Memory that one frees may be another's next: catches steps that still write there, in no order to the other's."""
    engine = gpu_engine(MODEL, speculative="draft", draft_model="one", second=MODEL)
    assert engine.compiled.stream is engine.drafter.compiled.stream is gpu_engine(MODEL).compiled.stream


def test_graphs_are_not_copied():
    """A graph has addresses in it: catches one that goes on writing into the arrays of the engine that was copied."""
    for copied in (deepcopy, pickle.dumps):
        with pytest.raises(RuntimeError, match="graphs of a GPU cannot be pickled or copied; make another one"):
            copied(gpu_engine(MODEL).compiled)


def test_a_forked_process_is_told_to_be_spawned(monkeypatch):
    """CUDA's context is not the child's. Catches an error of CUDA's in the middle of the first request."""
    loops = [EngineLoop(build(MODEL)) for build in (cpu_engine, gpu_engine)]
    monkeypatch.setattr("os.getpid", lambda: -1)
    loops[0].check_open()
    with pytest.raises(RuntimeError, match="a GPU is of no use in a forked process; start the new process by"):
        loops[1].check_open()
