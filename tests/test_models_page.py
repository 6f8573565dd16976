"""docs/models.md: sixty configurations as published, and what the loader makes of each; the page says what is so."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import models_page
from models_page import BEGIN, END, PAGE, cells, configurations, rewritten, tried

from tinyinfer.model.config import ModelConfig

ROWS = {model["model"]: model for model in configurations()}


def test_the_page_is_what_the_configurations_give():
    """Catches a family that was added, or a field that is refused since, while the page still says otherwise."""
    page = PAGE.read_text(encoding="utf-8")
    assert rewritten(page) == page, "write the table again: python benchmarks/models_page.py"


def test_only_the_table_is_rewritten():
    """Catches a generator that eats the rest of the page, or grows it at each run."""
    page = rewritten(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert page.startswith(f"before\n{BEGIN}\n\nOf these {len(ROWS)} configurations ")
    assert page.endswith(f"|\n\n{END}\nafter\n")
    assert "old" not in page
    assert rewritten(page) == page


def test_each_configuration_has_a_name_and_a_source():
    """Catches a model that is there twice, and values without a place to look them up."""
    assert len(ROWS) == len(configurations()) == 60
    for model in configurations():
        assert set(model) == {"model", "source", "config"}
        assert model["source"]
        assert "model_type" in model["config"]


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("mistralai/Mixtral-8x7B-v0.1", 46_702_792_704),
        ("Qwen/Qwen3-30B-A3B", 30_532_122_624),
        ("google/gemma-3-1b-it", 999_885_952),
        ("openai-community/gpt2", 124_439_808),
    ],
)
def test_parameters_are_those_on_the_model_cards(model, parameters, tmp_path):
    """Catches a wrong digit in the data, and a tensor that a family has too many or lacks."""
    assert cells(ROWS[model], tmp_path)[2] == f"{parameters:,}"


def test_a_model_that_does_not_load_has_its_reason_in_the_row(tmp_path):
    """Catches a reason with a path of this machine in it, and a configuration that raises something else."""
    values = ROWS["openai-community/gpt2"]["config"]
    assert isinstance(tried(values, tmp_path), ModelConfig)
    assert tried(values | {"attention_sink": 4}, tmp_path) == (
        "the field 'attention_sink' (4) is not known, and ignoring it could change the result"
    )
    row = cells({"model": "a/b", "config": {"model_type": "no|such"}}, tmp_path)
    assert row == ["a/b", "`no|such`", "no: the field 'model_type' is 'no|such', which is not supported", "", "", ""]
    assert models_page.line(row).count("|") == 7, "a cell does not end a column"


def test_the_rule_for_reasons_is_as_its_example_says():
    found = doctest.testmod(models_page)
    assert (found.failed, found.attempted > 0) == (0, True)
