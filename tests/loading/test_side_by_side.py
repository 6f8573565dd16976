"""Calls by several threads: results in order, errors where they are asked for, and nothing running afterwards."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from helpers import checkpoint_of, random_tensors, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.errors import ModelError
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model
from tinyinfer.loading.checkpoint import LazyTensor
from tinyinfer.loading.export import export
from tinyinfer.loading.side_by_side import side_by_side


class SeveralThreads(NumpyOps):
    """NumPy's operations, whose weights are taken by several threads."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.loading_threads = 3


def test_ops_computes_when_it_is_asked_and_once():
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
    free, begun = threading.Event(), []

    def stopped() -> None:
        with side_by_side(2) as begin:
            for n in range(50):
                begin(lambda n=n: (begun.append(n), free.wait(60)))
            threading.Timer(0.2, free.set).start()
            raise error("stop")

    with pytest.raises(error):
        stopped()
    assert len(begun) == 2
    assert not [t for t in threading.enumerate() if t.name.startswith("weights")]


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_is_the_same_however_many_threads_take_it(tied):
    """Catches layers in the order in which they are ready, and a tied table that is held twice."""
    config = small_config(num_layers=7, tied_head=tied)
    checkpoint, reports = checkpoint_of(config, random_tensors(config)), []
    one = build_model(checkpoint, NumpyOps(Ledger()))
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
    slow = checkpoint.tensors["layers.1.down"]

    def late(start: int, stop: int) -> np.ndarray:  # -> (rows, M)
        threading.Event().wait(0.3)
        return slow.read(start, stop)

    checkpoint.tensors["layers.1.down"] = LazyTensor(slow.name, slow.shape, slow.nbytes, late)
    with pytest.raises(ModelError, match=r"layers\.1\.down"):
        build_model(checkpoint, SeveralThreads(Ledger()))
