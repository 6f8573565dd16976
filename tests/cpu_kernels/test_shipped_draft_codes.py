"""The draft model that comes with tinyinfer, on numba: its codes are kept, and multiplied as they lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyinfer import LLM
from tinyinfer.loading.hub import find
from tinyinfer.model.visit import matrices, weights


@pytest.mark.cpu
@pytest.mark.weights
def test_its_codes_stay_codes(smollm2: Path) -> None:
    """Catches a draft that reads eight times its bytes for each token."""
    draft = LLM(str(smollm2), backend="numba", speculative="draft", max_model_len=64).draft
    assert draft
    assert all(weight.scheme.bits == 4 for _, held in matrices(draft) for weight in weights(held))
    assert draft.nbytes <= 1.1 * (Path(find("smollm2-135m-draft")) / "model.safetensors").stat().st_size
