"""Published serving throughput on A100s and H100s beside what `bench --cluster` and `cost --cluster` predict for it.

    python benchmarks/published_throughput.py

Published are output tokens a second of a batch, all of it, prompts included:

    TensorRT-LLM  NVIDIA/TensorRT-LLM, docs/source/performance.md: v0.6.1 (commit 138f96d) and v0.9.0 (commit 250d9c2,
                  the last edition with batches that are given), "A100 GPUs (FP16)" and "H100 GPUs (FP8)"; the tables
                  count each GPU (the A100s' of v0.6.1 says so from commit 77d24b5 on), so rows are multiplied by TP
    LMDeploy      InternLM/lmdeploy, docs/en/benchmark/a100_fp16.md, commit 3e391df, "Static Inference"
    gpt-fast      pytorch-labs/gpt-fast, README.md, commit 0f925b5, "Tensor Parallelism": 5 tokens in, 200 out, as its
                  generate.py has them; its 7B on one GPU gave the file its overhead of a layer, so that row is left out

docs/clusters/a100.json and h100.json hold the hardware. In FP8 the matrices of the layers, keys and values take a byte
a number (the pages' commands: --enable_fp8 --fp8_kv_cache), and an H100 multiplies 8192 x 8192 matrices at 1290
TFLOP/s: Azure ND H100 v5, samuel-bohman/AI-benchmarking-guide, Azure_Results/ND_H100_v5_results.md, commit 26d18e9. No
number is fitted to a row below. Of TensorRT-LLM and LMDeploy all rows of Llama 2 7B and 70B are taken (of LMDeploy
those with a prompt), except batches that do not fit into 80 GiB by our count: there, some requests waited for others.

A prediction is a prefill of all prompts, then a decode step for each further token, nothing else. Its error is that of
each project's last edition. The edition before, v0.6.1, is shown beside it, because it shows what a prediction takes
for granted: its 70B models with long answers are predicted two to three and a half times too fast. There eight query
heads share a head of keys and values. TensorRT-LLM has a decode kernel that knows it, off by default at that time. Was
it on? At 138f96d, where these figures appear, the commands beside them do not turn it on. At 77d24b5 the same figures
stand beside commands that do (TRTLLM_ENABLE_XQA=1), and the page says that it was on where it helped. In v0.8.0 (commit
5955b8a) the H100s' rows are measured anew and almost twice as high. So we think it was off, and nobody says so. Without
the kernel each query head reads keys and values for itself. The last line printed is the prediction of just that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from tinyinfer.engine.config import EngineConfig
from tinyinfer.loading.hf_config import read_config
from tinyinfer.measure.cluster import Cluster, read_cluster
from tinyinfer.measure.split import Paper, Split, Work
from tinyinfer.model.config import ModelConfig
from tinyinfer.units import table

CLUSTERS = Path(__file__).resolve().parents[1] / "docs" / "clusters"
MEMORY = 80 * 2**30
FP8_FLOPS = 1290.1e12
OLD = "TensorRT-LLM 0.6.1"


@dataclass(frozen=True)
class Published:
    """A row: the kind of GPU, the model by its size, GPUs that share a layer, sequences at a time, tokens of each, and
    output tokens a second.
    """

    source: str
    gpu: str
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
# TensorRT-LLM: size, TP, batch, prompt, generated, output tokens a second of each GPU.
TENSORRT = {
    (OLD, "A100"): (
        ("7b", 1, 384, 128, 128, 5586), ("7b", 1, 60, 128, 2048, 1928), ("7b", 1, 52, 2048, 128, 591),
        ("7b", 2, 64, 2048, 2048, 782), ("70b", 4, 1280, 128, 128, 670), ("70b", 4, 240, 128, 2048, 525),
        ("70b", 4, 120, 2048, 128, 79)),
    ("TensorRT-LLM 0.9.0", "A100"): (
        ("7b", 1, 256, 128, 128, 5390), ("7b", 1, 32, 128, 2048, 1484), ("7b", 1, 32, 2048, 128, 533),
        ("7b", 1, 16, 2048, 2048, 603), ("70b", 4, 1024, 128, 128, 686), ("70b", 8, 512, 128, 2048, 684),
        ("70b", 4, 96, 2048, 128, 80), ("70b", 4, 64, 2048, 2048, 289)),
    (OLD, "H100"): (
        ("7b", 1, 768, 128, 128, 19694), ("7b", 1, 112, 128, 2048, 6818), ("7b", 1, 80, 2048, 128, 2244),
        ("7b", 1, 48, 2048, 2048, 2740), ("70b", 2, 1024, 128, 128, 2657), ("70b", 4, 480, 128, 2048, 1486),
        ("70b", 2, 96, 2048, 128, 306), ("70b", 2, 64, 2048, 2048, 547)),
    ("TensorRT-LLM 0.9.0", "H100"): (
        ("7b", 1, 896, 128, 128, 19854), ("7b", 1, 120, 128, 2048, 6944), ("7b", 1, 84, 2048, 128, 2163),
        ("7b", 1, 56, 2048, 2048, 2826), ("70b", 2, 1024, 128, 128, 3214), ("70b", 4, 512, 128, 2048, 2725),
        ("70b", 2, 96, 2048, 128, 346), ("70b", 2, 64, 2048, 2048, 1011)),
}  # fmt: skip
# gpt-fast: size, TP, tokens a second of one sequence.
GPT_FAST = (
    ("7b", 2, 168.84), ("7b", 4, 254.02), ("7b", 8, 328.43), ("70b", 2, 21.32), ("70b", 4, 38.01), ("70b", 8, 62.50),
)  # fmt: skip

PUBLISHED = [
    *(Published(source, gpu, size, tp, batch, prompt, generated, tps * tp)
      for (source, gpu), rows in TENSORRT.items() for size, tp, batch, prompt, generated, tps in rows),
    *(Published("LMDeploy", "A100", size, tp, batch, *lengths, tps)
      for size, tp, rows in (("7b", 1, SMALL), ("70b", 4, LARGE))
      for batch, found in rows.items() for lengths, tps in zip(LENGTHS, found, strict=True)),
    *(Published("gpt-fast", "A100", size, tp, 1, 5, 200, tps) for size, tp, tps in GPT_FAST),
]  # fmt: skip


@dataclass(frozen=True)
class HalfWork(Work):
    """Work in half precision whose keys and values are `kv_share` of those in half precision."""

    kv_share: float = 1.0

    def kv_bytes(self, c: ModelConfig) -> int:
        """Bytes of keys and values of a position, in the layers and heads of a part of the model."""
        return round(self.kv_share * super().kv_bytes(c))


def model(size: str) -> ModelConfig:
    """The configuration of Llama 2 of that size."""
    return read_config(CLUSTERS / f"llama-2-{size}.json")


def clusters() -> dict[str, Cluster]:
    """The GPUs by their kind; an H100 with its speed in FP8."""
    a100, h100 = (read_cluster(str(CLUSTERS / f"{name}.json")) for name in ("a100", "h100"))
    return {"A100": a100, "H100": replace(h100, gpu=replace(h100.gpu, matrix_speed=FP8_FLOPS))}


def paper_of(row: Published, gpus: dict[str, Cluster], times_read: int = 1) -> Paper:
    """The row's model and lengths on its GPUs. times_read: how often a step reads the keys and values."""
    fp8 = row.gpu == "H100"
    engine = EngineConfig(dtype="float16", quantize="w8a8" if fp8 else "off")
    work = HalfWork(model(row.size), engine, row.prompt, row.generated, times_read * (0.5 if fp8 else 1.0))
    return Paper(work, gpus[row.gpu], Split(row.tp))


def predicted(row: Published, gpus: dict[str, Cluster], times_read: int = 1) -> float | None:
    """Output tokens a second of the row's batch; None where it does not fit into the memory."""
    if paper_of(row, gpus).memory_bytes(row.batch) > MEMORY:
        return None
    paper = paper_of(row, gpus, times_read)
    seconds = paper.prefill(row.batch)[0] + (row.generated - 1) * paper.decode(row.batch)[0]
    return row.batch * row.generated / seconds


def ratios(gpus: dict[str, Cluster]) -> list[tuple[Published, float, float]]:
    """Each row that fits, its predicted tokens a second, and predicted over published."""
    found = [(row, predicted(row, gpus)) for row in PUBLISHED]
    return [(row, tps, tps / row.tps) for row, tps in found if tps is not None]


def errors(found: list[tuple[Published, float, float]]) -> list[float]:
    """Predicted over published of the last edition of each source."""
    return [ratio for row, _, ratio in found if row.source != OLD]


def ungrouped(gpus: dict[str, Cluster]) -> list[float]:
    """Predicted over published of the old 70B rows with long answers, if each query head read keys and values."""
    c = model("70b")
    rows = [row for row in PUBLISHED if (row.source, row.size, row.generated) == (OLD, "70b", 2048)]
    found = [(row, predicted(row, gpus, c.num_heads // c.num_kv_heads)) for row in rows]
    return [tps / row.tps for row, tps in found if tps is not None]


def main() -> None:
    """Prints predicted beside published, and between which ratios they are."""
    gpus = clusters()
    found = ratios(gpus)
    rows: list[tuple[str, ...]] = [("source", "GPU", "Llama 2", "GPUs", "at a time", "in", "out", "published",
                                    "predicted", "ratio", "error")]  # fmt: skip
    rows += [(row.source, row.gpu, row.size, f"{row.tp}", f"{row.batch}", f"{row.prompt}", f"{row.generated}",
              f"{row.tps:,.5g}", f"{tps:,.5g}", f"{ratio:.2f}", f"{ratio - 1:+.0%}")
             for row, tps, ratio in found]  # fmt: skip
    print(table(rows))
    for source, gpu in dict.fromkeys((row.source, row.gpu) for row, _, _ in found):
        mine = [ratio for row, _, ratio in found if (row.source, row.gpu) == (source, gpu)]
        print(f"{source}, {gpu}: {summary(mine)}")
    print(f"last editions: {summary(errors(found))}")
    print(f"{OLD}, 70B, 2048 out, if each query head reads keys and values: {summary(ungrouped(gpus))}")


def summary(found: list[float]) -> str:
    """How many ratios, the smallest, the middle and the largest."""
    ends = f"from {min(found):.2f} to {max(found):.2f}, median {median(found):.2f}"
    return f"{len(found)} rows, predicted over published {ends}"


if __name__ == "__main__":
    main()
