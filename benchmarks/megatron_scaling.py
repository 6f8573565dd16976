"""Megatron-LM's weak scaling from 1 to 512 GPUs, as the model of `bench --cluster` predicts it.

    python benchmarks/megatron_scaling.py

Shoeybi et al. 2019 (arXiv:1909.08053v4), section 5.1: GPT-2 models that grow with the number of GPUs that share a
layer, 8 sequences of 1024 tokens for each replica, 1 or 64 replicas. Published is each GPU's FLOPs a second beside
those of one GPU alone (figure 5; the abstract says 76% for 512). docs/clusters/dgx2h.json holds the hardware, and as
its efficiency the 39 TFLOP/s of that one GPU; no other number of the scaling is used.

An iteration here is the products of forward, backward (twice the forward pass) and recomputation of each layer; two
all-reduces a layer in each of the three, of (8192, D) in half precision; then one all-reduce of the gradients among the
replicas. Nothing overlaps, and what each rank computes whole (norms, dropout, residuals) takes no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tinyinfer.engine.config import EngineConfig
from tinyinfer.measure.cluster import Cluster, read_cluster
from tinyinfer.measure.split import Split, Work, stages
from tinyinfer.model.config import ModelConfig
from tinyinfer.units import table

DGX2H = Path(__file__).resolve().parents[1] / "docs" / "clusters" / "dgx2h.json"
SEQUENCES, LENGTH, HALF = 8, 1024, 2
REPLICAS = 64
VOCABULARY = 51200  # 50,257 tokens, padded to a multiple of 1024


@dataclass(frozen=True)
class Published:
    """A row of the paper: the model (section 5.1), and its weak scaling with one replica and with 64 (figure 5)."""

    ranks: int
    hidden_size: int
    heads: int
    layers: int
    alone: float
    replicas: float


PUBLISHED = [Published(1, 1536, 16, 40, 1.00, 0.96), Published(2, 1920, 20, 54, 0.95, 0.83),
             Published(4, 2304, 24, 64, 0.82, 0.79), Published(8, 3072, 32, 72, 0.77, 0.74)]  # fmt: skip


def config(row: Published) -> ModelConfig:
    """The GPT-2 of that size."""
    layers, d = row.layers, row.hidden_size
    return ModelConfig("gpt2", VOCABULARY, d, 4 * d, layers, row.heads, row.heads, d // row.heads, LENGTH, 1e-5, 1.0,
                       (None,) * layers, (None,) * layers, norm="layer", gated=False, qkv_bias=True, o_bias=True,
                       mlp_bias=True, learned_positions=True, tied_head=True)  # fmt: skip


def iteration(row: Published, cluster: Cluster, replicas: int) -> tuple[float, float]:
    """FLOPs of a GPU in one iteration, and its seconds."""
    work = Work(config(row), EngineConfig(dtype="float16"), LENGTH, 2)
    [stage] = stages(work.config, Split(row.ranks))
    once = 2 * stage.vocabulary * row.hidden_size  # the logits of a token
    layers = stage.step(work, 0, LENGTH, SEQUENCES).flops - SEQUENCES * once
    flops = 4 * layers + 3 * SEQUENCES * LENGTH * once  # the head is not recomputed
    sums = 6 * row.layers * cluster.all_reduce(row.ranks, SEQUENCES * LENGTH * row.hidden_size * HALF)
    gradients = cluster.all_reduce(replicas, stage.weight_bytes(work), stride=row.ranks)
    return flops, flops / cluster.gpu.matrix_speed + sums + gradients


def scaling(row: Published, cluster: Cluster, replicas: int = 1) -> float:
    """FLOPs a second of each GPU, beside those of one GPU with its own model."""
    alone, seconds = iteration(PUBLISHED[0], cluster, 1)
    flops, own = iteration(row, cluster, replicas)
    return flops / own / (alone / seconds)


def main() -> None:
    """Prints predicted beside published."""
    cluster = read_cluster(str(DGX2H))
    rows: list[tuple[str, ...]] = [("GPUs", "share a layer", "replicas", "predicted", "published")]
    for replicas in (1, REPLICAS):
        for row in PUBLISHED:
            published = row.alone if replicas == 1 else row.replicas
            predicted = scaling(row, cluster, replicas)
            sizes = (row.ranks * replicas, row.ranks, replicas)
            rows.append((*map(str, sizes), f"{predicted:.0%}", f"{published:.0%}"))
    print(table(rows))


if __name__ == "__main__":
    main()
