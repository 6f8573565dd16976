"""docs/models.md: sixty configurations as published, and what the loader makes of each; the page says what is so."""

from __future__ import annotations

import doctest
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import models_page
from models_page import BEGIN, END, PAGE, cells, configurations, rewritten, tried

from tinyinfer.loading import gguf_families
from tinyinfer.loading.hf_families import FAMILIES
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
        assert list(model) == ["model", "parameters", "source", "config"]
        assert model["source"]
        assert "model_type" in model["config"]


@pytest.mark.parametrize("name", ROWS)
def test_parameters_are_those_that_transformers_counts(name, tmp_path):
    """Catches a wrong digit in the data, and a tensor that a family has too many or lacks."""
    model = ROWS[name]
    row = cells(model, tmp_path)
    assert row[2].startswith("no: ") or row[2] == f"{model['parameters']:,}"


def test_the_models_of_supported_families_load(tmp_path):
    """Catches a family that reads the small configurations of our tests, and no published one; and a refused field."""
    found = {model["model"]: tried(model["config"], tmp_path) for model in configurations()}
    loaded = {config.architecture for config in found.values() if isinstance(config, ModelConfig)}
    assert loaded == {family.architecture for family in FAMILIES.values()}
    refused = {name for name, config in found.items() if isinstance(config, str)}
    assert not {name for name in refused if ROWS[name]["config"]["model_type"] in FAMILIES}


def test_the_families_on_the_page_are_those_that_are_read():
    """Catches a family without a line, and a line without a family."""
    page = PAGE.read_text(encoding="utf-8")
    lines = [line.split("|") for line in page.partition("## Families")[2].partition("\n\nEach family")[0].splitlines()]
    folders = {name for cells in lines if len(cells) == 5 for name in re.findall(r"`(\w+)`", cells[2])}
    assert folders - {"model_type"} == {*FAMILIES, "gemma3"}
    files = {name for cells in lines if len(cells) == 5 for name in re.findall(r"`([\w-]+)`", cells[3])}
    assert files == set(gguf_families.FAMILIES)


def test_a_model_that_does_not_load_has_its_reason_in_the_row(tmp_path):
    """Catches a reason with a path of this machine in it, and a configuration that raises something else."""
    values = ROWS["openai-community/gpt2"]["config"]
    assert isinstance(tried(values, tmp_path), ModelConfig)
    assert tried(values | {"attention_sink": 4}, tmp_path) == (
        "the field 'attention_sink' (4) is not known, and ignoring it could change the result"
    )
    assert tried(values | {"n_special": 3}, tmp_path) == (
        "the field 'n_special' is 3, which is not supported, and ignoring it could change the result"
    )
    row = cells({"model": "a/b", "config": {"model_type": "no|such"}}, tmp_path)
    assert row == ["a/b", "`no|such`", "no: the field 'model_type' is 'no|such', which is not supported", "", "", ""]
    assert models_page.line(row).count("|") == 7, "a cell does not end a column"


def test_the_rule_for_reasons_is_as_its_example_says():
    found = doctest.testmod(models_page)
    assert (found.failed, found.attempted > 0) == (0, True)
