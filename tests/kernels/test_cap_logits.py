"""Logits are scaled, then capped, as `Model.logit_scale` and `SoftCap` say; each once, whatever the grid."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.harness import InOut, run

from tinyinfer.model.heads import SoftCap


@pytest.mark.parametrize(("factor", "limit"), [(0.5, 9.0), (3.0, 0.0), (1.0, 0.25)])
def test_scaled_then_capped(factor, limit):
    """Catches a cap before the factor, a limit of 0 that divides, and numbers behind the last whole block."""
    logits = np.random.default_rng(0).normal(0, 8, (3, 211)).astype(np.float32)
    args = [InOut(logits), np.float32(factor), np.float32(limit)]
    [found] = run("cap_logits", {"T": 3, "V": 211}, args, grid=(1, 2, 5))
    scaled = np.float32(factor) * logits
    expected = SoftCap(limit)(scaled, np) if limit else scaled
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
