"""benchmarks/megatron_scaling.py: the trend of Megatron-LM's weak scaling, up to 512 GPUs."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import megatron_scaling
from megatron_scaling import DGX2H, PUBLISHED, REPLICAS, config, iteration, scaling

from tinyinfer.measure.cluster import read_cluster
from tinyinfer.measure.inspect import parameters_by_part

CLUSTER = read_cluster(str(DGX2H))


@pytest.mark.parametrize(("row", "billions"), list(zip(PUBLISHED, (1.2, 2.5, 4.2, 8.3), strict=True)))
def test_the_models_have_the_sizes_of_the_paper(row, billions):
    """Catches a wrong width, depth or vocabulary."""
    assert round(sum(parameters_by_part(config(row)).values()) / 1e9, 1) == billions


def test_512_gpus_reach_what_was_published():
    """76% in the abstract, 74% in figure 5. Catches gradients that are not added up, or by one adapter's bandwidth."""
    assert 0.71 < scaling(PUBLISHED[-1], CLUSTER, REPLICAS) < 0.79


@pytest.mark.parametrize("replicas", [1, REPLICAS])
def test_the_trend_is_the_published_one(replicas):
    """Falling from row to row, and never more than 11 points away. Catches a cost that does not grow with ranks."""
    found = [scaling(row, CLUSTER, replicas) for row in PUBLISHED]
    assert all(before > after for before, after in pairwise(found))
    for row, one in zip(PUBLISHED, found, strict=True):
        assert abs(one - (row.alone if replicas == 1 else row.replicas)) < 0.11
    assert found[0] == 1 if replicas == 1 else found[0] < 1


def test_one_gpu_computes_its_products_at_the_published_pace():
    """Four times the forward pass of all layers, three of the head: 39 TFLOP/s. Catches a batch of another size."""
    flops, seconds = iteration(PUBLISHED[0], CLUSTER, 1)
    assert flops / seconds == pytest.approx(39e12)
    weights = 40 * 12 * 1536**2
    assert flops > 4 * 2 * 8192 * weights + 3 * 2 * 8192 * 51200 * 1536


def test_the_table_names_both_figures(capsys):
    """Catches a script that no longer runs."""
    megatron_scaling.main()
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 9
    assert out[0].split() == ["GPUs", "share", "a", "layer", "replicas", "predicted", "published"]
    assert out[-1].split()[0] == "512"
    assert out[-1].split()[-1] == "74%"
