"""Fixtures shared by the tests: golden model folders, written once a session, and the real SmolLM2.

Property tests draw the same examples in every run; HYPOTHESIS_PROFILE=explore draws new ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import write_hf_folder
from helpers import EVERY
from hypothesis import settings

from tinyinfer.backends.switches import BACKENDS
from tinyinfer.ledger import Ledger
from tinyinfer.switches import resolve

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def golden_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a golden's name to its model folder; treat the folder as read-only, others share it."""
    written: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in written:
            written[name] = write_hf_folder(name, tmp_path_factory.mktemp(name))
        return written[name]

    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct's GGUF file, downloaded on first use; the test is skipped where that is impossible."""
    from tinyinfer.errors import ModelError
    from tinyinfer.loading import hub

    try:
        return Path(hub.find("smollm2-135m"))
    except ModelError as error:
        pytest.skip(f"SmolLM2 is not here and cannot be downloaded: {error}")


@pytest.fixture(params=EVERY)
def ops(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """For each installed backend a function that makes its operations, with a ledger of their own: ops(dtype)."""
    backend = resolve(BACKENDS, request.param)
    return lambda dtype=np.float32: backend(Ledger(), dtype)
