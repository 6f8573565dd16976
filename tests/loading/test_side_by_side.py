"""Calls by several threads: results in order, errors where they are asked for, and nothing begun afterwards."""

from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
from helpers import checkpoint_of, random_tensors, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.errors import ModelError
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.loading.export import export
from tinyinfer.loading.side_by_side import side_by_side


class SeveralThreads(NumpyOps):
    """NumPy's operations, whose weights are taken by several threads."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.loading_threads = 3


def delay(checkpoint: Checkpoint, name: str) -> None:
    """Lets a tensor be read some time after all others."""
    tensor = checkpoint.tensors[name]

    def late(start: int, stop: int) -> np.ndarray:  # -> (rows, M)
        threading.Event().wait(0.3)
        return tensor.read(start, stop)

    checkpoint.tensors[name] = replace(tensor, read=late)


def test_one_thread_computes_when_it_is_asked_and_once():
    """Catches a progress bar that stands still until all is done."""
    done = []
    with side_by_side(1) as begin:
        first, second = begin(done.append, 1), begin(done.append, 2)
        assert not done
        second(), second(), first()
    assert done == [2, 1]


def test_several_threads_are_at_work_together():
    """Two calls of which each waits for the other. Catches calls one by one."""
    meeting = threading.Barrier(2, timeout=60)
    with side_by_side(2) as begin:
        assert sorted(wait() for wait in [begin(meeting.wait), begin(meeting.wait)]) == [0, 1]


@pytest.mark.parametrize("error", [ModelError, KeyboardInterrupt])
def test_after_an_error_nothing_runs_and_nothing_begins(error):
    """Catches threads that go on reading gigabytes after Ctrl-C."""
    free, begun, both = threading.Event(), [], threading.Barrier(3, timeout=60)

    def call(n: int) -> None:
        begun.append(n)
        both.wait()
        free.wait(60)

    def stopped() -> None:
        with side_by_side(2) as begin:
            for n in range(50):
                begin(call, n)
            both.wait()
            raise error("stop")

    before = set(threading.enumerate())
    with pytest.raises(error):
        stopped()
    mine = set(threading.enumerate()) - before
    assert len(mine) == len(begun) == 2, "the error does not wait for calls that are running"
    free.set()
    for thread in mine:
        thread.join(60)
    assert len(begun) == 2
    assert not any(thread.is_alive() for thread in mine)


def test_without_a_thread_the_caller_computes(monkeypatch):
    """A system may give no thread, and Python gives none while it ends. Catches a model that does not open there."""
    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    with side_by_side(3) as begin:
        assert begin(divmod, 7, 2)() == (3, 1)


def test_an_error_keeps_nothing_that_was_loaded():
    """Catches weights that stay in memory until the garbage collector comes: another model may be opened instead."""
    config = small_config(num_layers=4)
    tensors = random_tensors(config)
    broken = {"layers.3.down": np.full_like(tensors["layers.3.down"], np.nan)}
    checkpoint, held = checkpoint_of(config, tensors | broken), []

    class Watching(SeveralThreads):
        """Notes what is taken."""

        def take(self, matrix):
            weight = super().take(matrix)
            held.append(weakref.ref(weight))
            return weight

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(ModelError):
            build_model(checkpoint, Watching(Ledger()))
        for thread in [thread for thread in threading.enumerate() if thread.name.startswith("weights")]:
            thread.join(60)
        assert held
        assert not [one for one in held if one()]
    finally:
        gc.enable()


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_is_the_same_however_many_threads_take_it(tied):
    """Catches layers in the order in which they are ready, and a tied table that is held twice."""
    config = small_config(num_layers=7, tied_head=tied)
    checkpoint, reports = checkpoint_of(config, random_tensors(config)), []
    one = build_model(checkpoint, NumpyOps(Ledger()))
    delay(checkpoint, "layers.0.q")
    several = build_model(checkpoint, SeveralThreads(Ledger()), lambda *report: reports.append(report))
    assert reports == [(n + 1, 7) for n in range(7)]
    assert (several.head.weight is several.embedding.table) == tied
    for a, b in zip(export(one), export(several), strict=True):
        assert a.name == b.name
        for mine, yours in zip(a.arrays(), b.arrays(), strict=True):
            np.testing.assert_array_equal(mine, yours)


def test_the_first_layer_s_error_is_the_one_that_is_told():
    """Whichever thread is faster. Catches an error that differs from run to run."""
    config = small_config(num_layers=4)
    tensors = random_tensors(config)
    broken = {f"layers.{i}.down": np.full_like(tensors[f"layers.{i}.down"], np.nan) for i in (1, 3)}
    checkpoint = checkpoint_of(config, tensors | broken)
    delay(checkpoint, "layers.1.down")
    with pytest.raises(ModelError, match=r"layers\.1\.down"):
        build_model(checkpoint, SeveralThreads(Ledger()))
