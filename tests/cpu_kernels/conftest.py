"""Tests of compiled kernels are not even collected where numba is missing, or without -m cpu."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

MARK = "pytestmark = pytest.mark.cpu"  # in a file that imports numba


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out files whose import alone would take seconds, or fail."""
    wanted = config.option.markexpr
    asked = "cpu" in wanted.replace("not cpu", "").split() or not wanted
    if collection_path.suffix != ".py" or (asked and find_spec("numba")):
        return None
    return True if MARK in collection_path.read_text(encoding="utf-8") else None
