"""The draft head that comes with tinyinfer, on numba: its codes are kept, and multiplied as they lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyinfer import LLM
from tinyinfer.model.draft_head import DraftHead


@pytest.mark.cpu
@pytest.mark.weights
def test_its_codes_stay_codes(smollm2: Path) -> None:
    """Four bits of its own, eight of the target's head. Catches a draft that reads eight times its bytes."""
    head = LLM(str(smollm2), backend="numba", speculative="draft", max_model_len=64).draft
    assert isinstance(head, DraftHead)
    own = head.values.linear, head.state.linear, head.token.linear, head.mlp.gate_up, head.mlp.down
    assert [linear.weight.scheme.bits for linear in (*own, head.head)] == [4, 4, 4, 4, 4, 8]  # type: ignore[union-attr]
    assert head.nbytes < 8 << 20
