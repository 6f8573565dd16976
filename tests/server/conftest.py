"""A tiny model, served without a socket; one engine for all tests of the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden import write_hf_folder
from http_calls import Served

from tinyinfer import LLM


@pytest.fixture(scope="session")
def served_llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    """A model that could go on for a minute, with blocks and a prefix tree."""
    changes = {"max_position_embeddings": 20_000}
    folder: Path = write_hf_folder("llama", tmp_path_factory.mktemp("served"), changes=changes)
    return LLM(str(folder), kv_cache="paged", prefix_cache=True, max_num_seqs=4)


@pytest.fixture
def served(served_llm: LLM) -> Served:
    """That model behind a server of its own, nothing cached."""
    served_llm.engine.forget_prefixes()
    return Served(served_llm)
