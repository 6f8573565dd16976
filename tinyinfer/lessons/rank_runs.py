"""Lesson 20: the real model on ranks of one process, with the student's sums; and 64 nodes of GPUs on paper.

The ranks are the library's: a leader and followers (parallel/lead.py), each with its part of the model
(parallel/tensor.py). Only the all-reduce is replaced by the student's ring. So text and counts are those of `-tp`, and
the time means nothing: all ranks take turns on one thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tinyinfer.backends.switches import make_ops
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import build_engine
from tinyinfer.ledger import Ledger
from tinyinfer.lessons.ring_judge import Ring
from tinyinfer.lessons.shares_judge import Divide, Matrices, mlp
from tinyinfer.llm import LLM
from tinyinfer.measure.cluster import GB, MICRO, TERA, Cluster, Link
from tinyinfer.measure.roofline import Machine
from tinyinfer.measure.split import Paper, Seconds, Split, Work
from tinyinfer.model.config import ModelConfig, RopeConfig
from tinyinfer.model.mlp import GatedMLP
from tinyinfer.parallel.collectives import ring_all_reduce
from tinyinfer.parallel.comm import Comm, CommError, split
from tinyinfer.parallel.lead import LeaderOps, follow
from tinyinfer.parallel.local import run_ranks
from tinyinfer.parallel.pipeline import Stage
from tinyinfer.parallel.tensor import TensorOps, divide
from tinyinfer.quantization.apply import floats
from tinyinfer.sampling_params import SamplingParams

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# The student's ring.


class OwnSums:
    """A Comm whose all-reduce is the student's; everything else, and the ledger, are the inner one's."""

    def __init__(self, inner: Comm, ring: Ring) -> None:
        self._inner, self._ring = inner, ring

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def all_reduce(self, x: np.ndarray) -> np.ndarray:  # (...,) -> (...,)
        """The sum of the ranks' arrays, in the place of x."""
        self._ring(split(x, self._inner.size), self._inner)
        return x


class OwnStage(Stage):
    """A model of one stage, whose ranks add up by the student's ring."""

    def __init__(self, comm: Comm, ring: Ring) -> None:
        super().__init__(comm)
        self.together = cast(Comm, OwnSums(self.together, ring))


def summed(arrays: list[np.ndarray], ring: Ring, seed: int = 0) -> tuple[list[np.ndarray], list[Ledger]]:
    """What each rank has after the student's ring, and what it has sent. arrays: one for each rank."""
    ledgers = [Ledger() for _ in arrays]

    def work(comm: Comm) -> np.ndarray:
        return OwnSums(comm, ring).all_reduce(arrays[comm.rank].copy())

    return run_ranks(len(arrays), work, seed, ledgers), ledgers


def by_library(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """What each rank has after the library's ring."""
    return run_ranks(len(arrays), lambda comm: ring_all_reduce(arrays[comm.rank].copy(), comm))


@dataclass
class Said:
    """What ranks together answer, and what they count. weights: bytes that each rank holds."""

    tokens: list[int]
    text: str
    ledgers: list[Ledger]
    weights: list[int]


def together(llm: LLM, text: str, new: int, ranks: int, ring: Ring, seed: int = 0) -> Said:
    """What so many ranks say after a text, adding up by the student's ring. seed: of the order in which they run."""
    c = EngineConfig(backend="numpy", tensor_parallel_size=ranks)
    ledgers, held = [Ledger() for _ in range(ranks)], [0] * ranks
    [seq] = llm.sequences([text], SamplingParams(max_tokens=new, ignore_eos=True))

    def work(comm: Comm) -> None:
        inner, stage = make_ops(c, comm.ledger), OwnStage(comm, ring)
        model = divide(llm.model, comm.rank, comm.size, inner)
        held[comm.rank] = sum(layer.mlp.nbytes + layer.mixer.nbytes for layer in model.layers)
        if comm.rank:
            follow(model, TensorOps(inner, stage.together), stage)
            return
        leading = LeaderOps(inner, stage, model)
        try:
            for _ in build_engine(model, leading, c, llm.engine.clock).run([seq]):
                continue
        finally:
            leading.close()

    run_ranks(ranks, work, seed, ledgers)
    out = llm.output(seq)
    return Said(list(out.token_ids), out.text, ledgers, held)


def mlp_of(llm: LLM, layer: int) -> Matrices:  # -> (F, D), (F, D), (D, F)
    """Gate, up and down of a layer's MLP, in float32."""
    held = llm.model.layers[layer].mlp
    assert isinstance(held, GatedMLP)
    gate_up = floats(held.gate_up.weight)  # (2F, D)
    half = len(gate_up) // 2
    return gate_up[:half], gate_up[half:], floats(held.down.weight)


def divided_mlp(
    x: np.ndarray, llm: LLM, layer: int, divide_by: Divide, ring: Ring, ranks: int
) -> tuple[list[np.ndarray], list[Ledger]]:  # (T, D) ->
    """What each rank has after the student's part of a layer's MLP, and the student's sum; and what it has sent."""
    whole = mlp_of(llm, layer)
    terms = [mlp(x, *divide_by(*whole, rank, ranks)).astype(np.float32) for rank in range(ranks)]  # (T, D) each
    return summed(terms, ring)


# A program that is right by luck.


def send_first(parts: list[np.ndarray], comm: Any) -> None:
    """A ring whose ranks all send before they receive: it ends where a send does not wait, and only there."""
    n, rank = comm.size, comm.rank
    for step in range(n - 1):
        comm.send(parts[(rank - step) % n], (rank + 1) % n)
        parts[(rank - step - 1) % n] += comm.receive(parts[(rank - step - 1) % n].copy(), (rank - 1) % n)
    for step in range(n - 1):
        comm.send(parts[(rank - step + 1) % n], (rank + 1) % n)
        comm.receive(parts[(rank - step) % n], (rank - 1) % n)


def outcome(arrays: list[np.ndarray], ring: Ring) -> str:
    """What becomes of a ring, in a sentence."""
    try:
        summed(arrays, ring)
    except CommError as error:
        return f"It does not end: {error}."
    return "It ends."


# GPUs on paper.

NODES = Cluster(  # docs/clusters/h100.json, where each number has its source
    "64 nodes of 8 H100", nodes=64, gpus_per_node=8, gpu=Machine(3350 * GB * 0.89, 989 * TERA * 0.737), memory=72 * GB,
    layer_seconds=21 * MICRO, within=Link(370 * GB, 0.6 * MICRO), between=Link(50 * GB, 5 * MICRO),
    launch=6.6 * MICRO, price_per_hour=2.5,
)  # fmt: skip
LLAMA_70B = ModelConfig(
    "llama", vocab_size=32_000, hidden_size=8192, intermediate_size=28_672, num_layers=80, num_heads=64,
    num_kv_heads=8, head_dim=128, max_position=4096, norm_eps=1e-5, attention_scale=128**-0.5,
    rope=(RopeConfig(),) * 80, windows=(None,) * 80,
)  # fmt: skip
GPUS = (1, 2, 4, 8, 16, 32, 64)
POSITION, PROMPT = 1024, 2048  # where a token is decoded; rows of a prompt


def passes(rows: int, first: int = 0) -> dict[int, Seconds]:
    """GPUs that share every layer -> the time of a pass of Llama-2-70B with so many rows, from position `first` on."""
    work, found = Work(LLAMA_70B, EngineConfig(dtype="bfloat16"), POSITION, 1), {}
    for gpus in GPUS:
        paper = Paper(work, NODES, Split(gpus))
        [(stage, link)] = paper.kinds
        found[gpus] = paper.seconds(stage, link, first, rows, 1)
    return found


def decode_passes() -> dict[int, Seconds]:
    """GPUs -> the time of one token of one sequence."""
    return passes(1, POSITION)


# Pictures.


def draw_passes(axes: Axes, found: dict[int, Seconds], title: str) -> None:
    """For each number of GPUs a bar of milliseconds: computing, and communication on top of it."""
    places = range(len(found))
    computing = [1000 * one.computing for one in found.values()]
    communication = [1000 * one.communication for one in found.values()]
    axes.bar(places, computing, color="tab:blue", label="computing")
    axes.bar(places, communication, bottom=computing, color="tab:red", label="communication")
    axes.set_xticks(list(places), [str(gpus) for gpus in found])
    axes.set(title=title, xlabel="GPUs that share every layer (eight in a node)", ylabel="ms")
    axes.legend(frameon=False)


def draw_schedule(axes: Axes, begin: np.ndarray, seconds: np.ndarray, title: str) -> None:  # (..., p, m), (p, m) ->
    """Each of p stages as a line of time: each of m micro-batches has its colour, and a bubble is white."""
    stages, batches = seconds.shape
    for step in begin.reshape(-1, stages, batches):  # (p, m) each
        for s, i in np.ndindex(stages, batches):
            bar = float(step[s, i]), float(seconds[s, i])
            axes.broken_barh([bar], (s - 0.4, 0.8), color=f"C{i % 10}", edgecolor="white")
            axes.annotate(str(i), (step[s, i] + seconds[s, i] / 2, s), ha="center", va="center", color="white")
    axes.set_yticks(range(stages), [f"stage {s}" for s in range(stages)])
    axes.invert_yaxis()
    axes.set(title=title, xlabel="time")
