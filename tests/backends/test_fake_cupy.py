"""The reference backend on an array module that is not NumPy: `xp` is passed everywhere, and NumPy is named nowhere."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cupy import DeviceArray, fake_cupy
from golden import FAMILIES, load_golden
from helpers import TOLERANCE, golden_distance

from tinyinfer.loading import load


@pytest.mark.parametrize("name", FAMILIES)
def test_every_golden_runs_on_another_array_module(name, golden_folder):
    """Catches a NumPy call, a NumPy array or a conversion on the way of a token through the model and its cache."""
    golden = load_golden(name)
    checkpoint = load(golden_folder(name))
    found = golden_distance("tinyinfer", checkpoint, golden.tokens, golden.logits, "reference", fake_cupy)
    assert found <= TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_every_golden_runs_on_the_reference_in_numpy(name, golden_folder):
    """The oracle of every backend is itself right."""
    golden = load_golden(name)
    found = golden_distance("tinyinfer", load(golden_folder(name)), golden.tokens, golden.logits, "reference")
    assert found <= TOLERANCE


@pytest.mark.parametrize(
    "misuse",
    [
        lambda x: x + np.ones(3),
        lambda x: np.ones(3) * x,
        lambda x: x[np.array([0, 1])],
        lambda x: np.asarray(x),
        lambda x: np.exp(x),
        lambda x: fake_cupy.exp(np.ones(3)),
        lambda x: bool(x[0] > 0),
        lambda x: float(x[0]),
        lambda x: int(x[0]),
        lambda x: x.__setitem__(0, np.ones(())),
        lambda x: fake_cupy.vecdot(x, x),
    ],
)
def test_what_a_device_refuses_is_refused(misuse):
    """Else the tests above would prove nothing."""
    with pytest.raises((TypeError, AttributeError)):
        misuse(fake_cupy.asarray(np.ones(3)))


def test_what_a_device_computes_is_computed():
    x = fake_cupy.asarray(np.arange(6.0).reshape(2, 3))
    y = fake_cupy.where(x > 2, x @ x.T.reshape(3, 2)[:, :1], -fake_cupy.inf)
    assert isinstance(y, DeviceArray)
    np.testing.assert_array_equal(y.get(), [[-np.inf] * 3, [14] * 3])
