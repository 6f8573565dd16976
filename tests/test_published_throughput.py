"""benchmarks/published_throughput.py: predictions beside the throughput that three projects published for A100s."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import published_throughput
from published_throughput import A100, MEMORY, PUBLISHED, paper_of, predicted, ratios

from tinyinfer.measure.cluster import read_cluster
from tinyinfer.measure.cost_speeds import ON_PAPER

CLUSTER = read_cluster(str(A100))
FOUND = ratios(CLUSTER)


def test_every_prediction_is_within_the_error_that_cost_tells():
    """Catches a change of the model on paper whose error `cost` no longer states."""
    found = [ratio for _, _, ratio in FOUND]
    assert (round(min(found), 2), round(max(found), 2)) == ON_PAPER


@pytest.mark.parametrize(("source", "least"), [("TensorRT-LLM", 7), ("LMDeploy", 29), ("gpt-fast", 5)])
def test_each_source_is_met_on_the_median(source, least):
    """Within 15%, without a number fitted to a row. Catches a phase that is counted twice, or not at all."""
    mine = [ratio for row, _, ratio in FOUND if row.source == source]
    assert len(mine) == least
    assert abs(median(mine) - 1) < 0.15


def test_only_batches_that_do_not_fit_are_left_out():
    """They waited in a queue that the model on paper has not. Catches a row that is dropped for its error."""
    dropped = [row for row in PUBLISHED if predicted(row, CLUSTER) is None]
    assert len(dropped) + len(FOUND) == len(PUBLISHED)
    assert all(paper_of(row, CLUSTER).memory_bytes(row.batch) > MEMORY for row in dropped)
    assert {(row.source, row.size, row.batch) for row in dropped} == {("LMDeploy", "7b", 64)}


def test_the_table_ends_with_the_error(capsys):
    """Catches a script that no longer runs."""
    published_throughput.main()
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 1 + len(FOUND) + 4
    assert out[-1].startswith(f"all: {len(FOUND)} rows, predicted over published from {ON_PAPER[0]}")
