"""benchmarks/published_shapes.py: a folder of random weights is a whole model, and what is measured is judged."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import published_shapes
from models_page import configurations
from published_shapes import DEFAULT, beyond, row, shortened, write_folder

from tinyinfer import LLM, SamplingParams
from tinyinfer.loading import load

PUBLISHED = {model["model"]: model["config"] for model in configurations()}
SMALL = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "head_dim": 8}


@pytest.mark.parametrize("name", DEFAULT)
def test_a_folder_of_random_weights_loads_and_answers(name, tmp_path):
    """The published file with smaller sizes: all other settings are its own. Catches a tensor under a wrong name."""
    config = shortened(PUBLISHED[name], 8) | SMALL
    write_folder(tmp_path, config | {"num_key_value_heads": 2, "eos_token_id": 2})
    checkpoint = load(tmp_path)
    assert {tensor.nbytes for tensor in checkpoint.tensors.values() if tensor.shape == (32,)} == {64}, "two bytes each"
    spread = np.std(checkpoint.tensors["layers.3.down"].numpy())
    assert abs(spread - 48**-0.5) < 0.02
    answer = LLM(str(tmp_path), dtype="bfloat16").generate(["12"], SamplingParams(max_tokens=3, ignore_eos=True))[0]
    assert len(answer.token_ids) == 3


def test_fewer_layers_are_the_first_ones():
    """Lists with an entry for each layer are cut with them: else the configuration would contradict itself."""
    config = PUBLISHED["HuggingFaceTB/SmolLM3-3B"]
    cut = shortened(config, 5)
    assert (cut["num_hidden_layers"], cut["no_rope_layers"]) == (5, [1, 1, 1, 0, 1])
    assert cut["layer_types"] == ["full_attention"] * 5
    assert shortened(config, None) == shortened(config, 99) == config


def test_what_is_beyond_the_prediction():
    """Catches the interpreter's own memory counted as the model's, and the cache forgotten."""
    found = {"weights": 1000, "cache": 200, "peak": 1350, "tokens": 4, "seconds": 2.0}
    assert (beyond(found, 100), beyond(found, 160)) == (50, -10)
    assert row("a", "1 of 2", found, 160)[2:] == ("1 kB", "200 B", "1.2 kB", "1.35 kB", "160 B", "-10 B", "4", "2")


def test_names_are_as_their_example_says():
    found = doctest.testmod(published_shapes)
    assert (found.failed, found.attempted > 0) == (0, True)
