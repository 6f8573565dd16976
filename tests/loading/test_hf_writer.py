"""loading/hf_writer.py: a config.json written for a GGUF file says all that the file says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_writer import GGUF_FAMILIES, write_gguf

from tinyinfer.loading.gguf import read_gguf
from tinyinfer.loading.gguf_model import read_config as read_gguf_config
from tinyinfer.loading.hf_config import read_config
from tinyinfer.loading.hf_writer import config_fields
from tinyinfer.model.config import ModelConfig, RopeConfig


def read_back(config: ModelConfig, folder: Path) -> ModelConfig:
    """The configuration that hf_config.py reads in what hf_writer.py writes."""
    (folder / "config.json").write_text(json.dumps(config_fields(config)))
    return read_config(folder)


@pytest.mark.parametrize("name", GGUF_FAMILIES)
def test_a_gguf_files_configuration_is_read_back(name: str, tmp_path: Path) -> None:
    """Catches a scale, a cap, a bias or a rotation that a folder made of a GGUF file would lose.

    A file's score factor is a float32, which a config.json that says its square's inverse cannot hold.
    """
    config = read_gguf_config(read_gguf(str(write_gguf(name, tmp_path / "x.gguf"))))
    found = read_back(config, tmp_path)
    assert found.attention_scale == pytest.approx(config.attention_scale, rel=1e-7)
    assert replace(found, attention_scale=1.0) == replace(config, architecture=found.architecture, attention_scale=1.0)


@pytest.mark.parametrize(("head_dim", "size"), [(44, 30), (46, 26), (20, 6), (128, 96)])
def test_every_part_of_a_head(head_dim: int, size: int, tmp_path: Path) -> None:
    """Catches a share that, times the head, is rounded to a number below: 30/44 · 44 is 29.999999999999996."""
    config = read_gguf_config(read_gguf(str(write_gguf("phi3", tmp_path / "x.gguf"))))
    rope = (RopeConfig(size=size),) * config.num_layers
    sizes = replace(config, head_dim=head_dim, hidden_size=head_dim * config.num_heads, rope=rope)
    assert {rope.size for rope in read_back(sizes, tmp_path).rope if rope} == {size}
