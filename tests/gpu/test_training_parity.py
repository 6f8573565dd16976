"""Distillation on the CuPy backend against NumPy: gradients of one batch, five steps of each kind of run, a teacher's
top k.

`python -m pytest -m gpu -n 0 tests/gpu` on a machine with a GPU; `-m cuda` runs the same tests on the fake CuPy.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import checkpoint_of, random_tensors, small_config
from parity import DEVICES, Device

from tinyinfer.arrays import to_host
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.distillation.objective import Objective
from tinyinfer.distillation.switches import TrainingSwitches
from tinyinfer.distillation.teacher import Kept, Teacher, keep
from tinyinfer.distillation.texts import reading
from tinyinfer.distillation.training import Training
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model
from tinyinfer.model.config import ModelConfig, RopeConfig
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import Dense

CLOSE = 2e-5  # relative L2 distance of a parameter's gradient
CHANGE = 1e-3  # the same of what five steps change: AdamW makes the noise of a gradient near zero as large as the rest
STEPS = 5
KNOWN = 20  # tokens of a student that knows only some of its teacher's
FAMILIES = {
    "llama": small_config(tied_head=True, embedding_scale=3.0),
    "gemma": small_config(qk_norm="head", post_norms=True, activation="gelu_tanh", windows=(3, None), logit_cap=2.0,
                          score_cap=1.5, rope=(RopeConfig(), RopeConfig(theta=300.0)), residual_scale=0.7),
    "gpt2": small_config(norm="layer", activation="gelu", gated=False, learned_positions=True, qkv_bias=True,
                         o_bias=True, mlp_bias=True, rope=(None, None), num_kv_heads=4),
    "olmo": small_config(qk_norm="full", pre_norms=False, post_norms=True, logit_scale=0.5),
}  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    "forward-kl": {"hidden": 0.5, "text_share": 0.25, "temperature": 2.0},
    "reverse-kl": {"recompute": True, "accumulate": 2},
    "cross-entropy": {"decay": 0.1, "clip": 0.1},
}
pytestmark = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture
def on(device: str) -> Device:
    """The device that the test's name says."""
    return Device(device)


def documents(vocabulary: int = 31) -> list[np.ndarray]:
    """Twelve documents of 3 to 20 tokens."""
    rng = np.random.default_rng(3)
    return [rng.integers(0, vocabulary, size) for size in rng.integers(3, 21, 12)]


def model_of(config: ModelConfig, ops: Any, factor: float = 1.0, seed: int = 0, least: float = 0.0) -> Model:
    """A model of random weights times a factor, those below `least` in size being zero."""
    tensors = {name: array * np.float32(factor) for name, array in random_tensors(config, seed).items()}
    if least:
        tensors = {name: np.where(np.abs(array) < least, np.float32(0), array) for name, array in tensors.items()}
    return build_model(checkpoint_of(config, tensors), ops)


def training_on(
    ops: Any, config: ModelConfig, kept: Kept | None = None, least: float = 0.0, **switches: Any
) -> Training:
    """A student of half the teacher's weights; with `least`, a pruned one."""
    s = TrainingSwitches(**{"tokens": 600, "batch_tokens": 40, "rate": 1e-3, "warm_up": 2} | switches)
    teacher = kept or (Teacher(model_of(config, ops), ops) if s.asks_teacher else None)
    student = replace(config, vocab_size=KNOWN) if kept else config
    return Training(model_of(student, ops, 0.5, 1, least), ops, documents(), Objective(s, teacher), masked=least > 0)


def distance(found: Any, wanted: np.ndarray) -> float:
    """The relative L2 distance of an array, of the host or of the device."""
    assert found.dtype == wanted.dtype
    return float(np.linalg.norm(to_host(found) - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients(on: Device, name: str, recompute: bool) -> None:
    """Sequences of five lengths side by side, and one alone. Catches an array of NumPy on the device, the gradient of a
    view that is lost there, and sums in another precision.
    """
    both = [training_on(ops, FAMILIES[name], recompute=recompute, hidden=0.5) for ops in (on.ops(), NumpyOps(Ledger()))]
    for numbers in ([4, 0, 7, 2, 9], [3]):
        one = reading(documents(), numbers, FAMILIES[name].rotation_sets)
        found, wanted = (training.backward(one) for training in both)
        assert found == pytest.approx(wanted, rel=1e-5)
    for (array, gradient), (_, same) in zip(*map(pairs, both), strict=True):
        assert distance(gradient, same) <= CLOSE
        assert gradient.strides == array.strides


def values(training: Training) -> np.ndarray:  # -> (P,)
    """All parameters on the host, each row by row: a backend lays them out as it likes."""
    return np.concatenate([to_host(array).ravel() for array, _ in pairs(training)])


def pairs(training: Training) -> list[tuple[Any, Any]]:
    """Each parameter's array, and its gradient."""
    held = training.tape.weights.values()
    return [(one.array if isinstance(one, Dense) else one, gradient) for one, gradient in held]


def assert_runs_agree(on: Device, **options: Any) -> Training:
    """Five steps and a test; returns the run on the device."""
    both = [training_on(ops, FAMILIES["llama"], **options) for ops in (on.ops(), NumpyOps(Ledger()))]
    before = values(both[1])
    found, wanted = ([training.step() for _ in range(STEPS)] for training in both)
    assert found == pytest.approx(wanted, rel=1e-5)
    changes = [values(training) - before for training in both]
    assert distance(*changes) <= CHANGE
    for training in both:
        training.tested = documents()[:5]
    assert both[0].test() == pytest.approx(both[1].test(), rel=1e-5)
    return both[0]


@pytest.mark.parametrize("loss", RUNS)
def test_runs(on: Device, loss: str) -> None:
    """Losses and parameters. Catches an optimizer's number of another type, and a sum that is not over all rows."""
    assert_runs_agree(on, loss=loss, **RUNS[loss])


def test_a_run_on_a_stream_of_its_own(on: Device) -> None:
    """Catches a number that the host reads, or memory that it gives back, before the device has come to it."""
    with on.xp.cuda.Stream(non_blocking=True):
        assert_runs_agree(on, loss="forward-kl", recompute=True, text_share=0.5)


def test_a_pruned_student(on: Device) -> None:
    """Catches a weight that does not stay zero."""
    training = assert_runs_agree(on, loss="forward-kl", least=0.1)
    mask, found = on.get((training.mask, training.parameters.values))
    assert 0.1 < (mask == 0).mean() < 0.9
    assert not found[mask == 0].any()


def test_what_a_teacher_said(on: Device, tmp_path: Path) -> None:
    """The file is NumPy's but for rounding, and a student that knows fewer tokens learns from it the same."""
    kept = []
    for name, ops in (("found", on.ops()), ("wanted", NumpyOps(Ledger()))):
        teacher = Teacher(model_of(FAMILIES["llama"], ops), ops)
        kept.append(keep(tmp_path / name, teacher, documents(), 6, 1.0, KNOWN, {}))
    found, wanted = (one.rows for one in kept)
    np.testing.assert_array_equal(found["tokens"], wanted["tokens"])
    np.testing.assert_allclose(found["log_p"], wanted["log_p"], rtol=2e-3)
    np.testing.assert_allclose(found["rest"], wanted["rest"], atol=1e-5)
    assert_runs_agree(on, kept=kept[1], top_k=6)
