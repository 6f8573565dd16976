"""Published serving throughput on A100s beside what `bench --cluster` and `cost --cluster` predict for the same set-up.

    python benchmarks/published_throughput.py

Published are output tokens a second of a batch in half precision, all of it, prompts included:

    TensorRT-LLM  NVIDIA/TensorRT-LLM, docs/source/performance.md, commit 138f96d, "A100 GPUs (FP16)", v0.6.1; the
                  table counts each GPU (its column says so in later editions), so rows are multiplied by TP
    LMDeploy      InternLM/lmdeploy, docs/en/benchmark/a100_fp16.md, commit 3e391df, "Static Inference"
    gpt-fast      pytorch-labs/gpt-fast, README.md, commit 0f925b5, "Tensor Parallelism": 5 tokens in, 200 out, as its
                  generate.py has them; its 7B on one GPU gave the file its overhead of a layer, so that row is left out

docs/clusters/a100.json holds the hardware: data sheet, NCCL's table, two shares and an overhead. No number is fitted to
a row below. Of TensorRT-LLM and LMDeploy all rows of Llama 2 7B and 70B are taken (of LMDeploy those with a prompt),
except batches that do not fit into 80 GiB by our count: there, some requests waited for others.

A prediction is a prefill of all prompts, then a decode step for each further token, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tinyinfer.engine.config import EngineConfig
from tinyinfer.loading.hf_config import read_config
from tinyinfer.measure.cluster import Cluster, read_cluster
from tinyinfer.measure.split import Paper, Split, Work
from tinyinfer.model.config import ModelConfig
from tinyinfer.units import table

CLUSTERS = Path(__file__).resolve().parents[1] / "docs" / "clusters"
A100 = CLUSTERS / "a100.json"
MEMORY = 80 * 2**30


@dataclass(frozen=True)
class Published:
    """A row: the model by its size, GPUs that share a layer, sequences at a time, tokens of each, output tokens/s."""

    source: str
    size: str
    tp: int
    batch: int
    prompt: int
    generated: int
    tps: float


LENGTHS = ((128, 128), (128, 2048), (2048, 128), (2048, 2048))
# LMDeploy: batch -> the four lengths above.
SMALL = {1: (102.21, 98.92, 86.1, 93.78), 16: (1272.47, 1010.62, 348.87, 601.63),
         32: (2125.47, 1462.12, 450.43, 733.34), 64: (3024.07, 1852.06, 493.46, 755.65)}  # fmt: skip
LARGE = {1: (33.63, 32.38, 28.32, 31.9), 16: (439.77, 482.99, 189.34, 399.42),
         32: (746.36, 853.56, 232.6, 636.23), 64: (1159.84, 1391.8, 270.47, 930.46)}  # fmt: skip
# TensorRT-LLM: size, TP, batch, prompt, generated, for each GPU.
TENSORRT = (("7b", 1, 384, 128, 128, 5586), ("7b", 1, 60, 128, 2048, 1928), ("7b", 1, 52, 2048, 128, 591),
            ("7b", 2, 64, 2048, 2048, 782), ("70b", 4, 1280, 128, 128, 670), ("70b", 4, 240, 128, 2048, 525),
            ("70b", 4, 120, 2048, 128, 79))  # fmt: skip
# gpt-fast: size, TP, tokens a second of one sequence.
GPT_FAST = (("7b", 2, 168.84), ("7b", 4, 254.02), ("7b", 8, 328.43), ("70b", 4, 38.01), ("70b", 8, 62.50))

PUBLISHED = [
    *(Published("TensorRT-LLM", size, tp, batch, prompt, generated, tps * tp)
      for size, tp, batch, prompt, generated, tps in TENSORRT),
    *(Published("LMDeploy", size, tp, batch, *lengths, tps)
      for size, tp, rows in (("7b", 1, SMALL), ("70b", 4, LARGE))
      for batch, found in rows.items() for lengths, tps in zip(LENGTHS, found, strict=True)),
    *(Published("gpt-fast", size, tp, 1, 5, 200, tps) for size, tp, tps in GPT_FAST),
]  # fmt: skip


def model(size: str) -> ModelConfig:
    """The configuration of Llama 2 of that size."""
    return read_config(CLUSTERS / f"llama-2-{size}.json")


def paper_of(row: Published, cluster: Cluster) -> Paper:
    """The row's model and lengths on that cluster."""
    work = Work(model(row.size), EngineConfig(dtype="float16"), row.prompt, row.generated)
    return Paper(work, cluster, Split(row.tp))


def predicted(row: Published, cluster: Cluster) -> float | None:
    """Output tokens a second of the row's batch; None where it does not fit into the memory."""
    paper = paper_of(row, cluster)
    if paper.memory_bytes(row.batch) > MEMORY:
        return None
    seconds = paper.prefill(row.batch)[0] + (row.generated - 1) * paper.decode(row.batch)[0]
    return row.batch * row.generated / seconds


def ratios(cluster: Cluster) -> list[tuple[Published, float, float]]:
    """Each row that fits, its predicted tokens a second, and predicted over published."""
    found = [(row, predicted(row, cluster)) for row in PUBLISHED]
    return [(row, tps, tps / row.tps) for row, tps in found if tps is not None]


def main() -> None:
    """Prints predicted beside published, and between which ratios they are."""
    found = ratios(read_cluster(str(A100)))
    rows: list[tuple[str, ...]] = [("source", "Llama 2", "GPUs", "at a time", "in", "out", "published", "predicted",
                                    "ratio", "error")]  # fmt: skip
    rows += [(row.source, row.size, f"{row.tp}", f"{row.batch}", f"{row.prompt}", f"{row.generated}", f"{row.tps:,.5g}",
              f"{tps:,.5g}", f"{ratio:.2f}", f"{ratio - 1:+.0%}") for row, tps, ratio in found]  # fmt: skip
    print(table(rows))
    for source in dict.fromkeys(row.source for row, _, _ in found):
        print(f"{source}: {summary([ratio for row, _, ratio in found if row.source == source])}")
    print(f"all: {summary([ratio for _, _, ratio in found])}")


def summary(found: list[float]) -> str:
    """How many ratios, the smallest, the middle and the largest."""
    ends = f"from {min(found):.2f} to {max(found):.2f}, median {median(found):.2f}"
    return f"{len(found)} rows, predicted over published {ends}"


if __name__ == "__main__":
    main()
