"""A split on paper: what TP x PP x DP GPUs make of a model, its step and its memory, without running it.

    TP    every layer divided among GPUs that add up their terms (parallel/tensor.py)    2·L + 1 all-reduces of T·D
    PP    layers dealt out in stages, one after another                                  T·D from stage to stage
    DP    replicas of the whole, each with its own sequences                             nothing

A GPU's part is a model with fewer heads, neurons, tokens and layers, so `expected_step` counts its work, and the
roofline gives its seconds. Where a part does not divide evenly, the largest one decides. Each layer adds the time that
neither bytes nor FLOPs explain, each collective its own (cluster.py):

    seconds of a stage = max(FLOPs / matrix speed, bytes / bandwidth) + layers · overhead + all-reduces + sending on

A stage would idle while the others compute, so the sequences of a replica run in m groups, one behind another. A
prefill of m groups fills and drains p stages, which idle for (p-1)/(m+p-1) of the time (Huang et al. 2019, GPipe).
Decoding never drains: with as many groups as stages none idles, and a sequence's next token takes a turn of all stages.

Weights, keys and values, and messages have the item size of `dtype`, as in engines that compute on a GPU; with
`quantize` and `kv_bits` those of our formats. Wins: any split of any model. Loses: activations take no memory here,
experts are chosen equally often, and nothing is computed while a message is on its way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tinyinfer.arrays import FLOAT
from tinyinfer.backends.switches import DTYPES
from tinyinfer.engine.config import EngineConfig
from tinyinfer.kv_cache.memory import position_bytes
from tinyinfer.ledger import Ledger
from tinyinfer.measure.cluster import Cluster, Link
from tinyinfer.measure.inspect import bytes_by_part
from tinyinfer.measure.roofline import expected_step, predict_seconds
from tinyinfer.model.config import ModelConfig
from tinyinfer.parallel.comm import sizes
from tinyinfer.parallel.shards import division
from tinyinfer.parallel.tensor import check_enough, head_parts
from tinyinfer.quantization.recipe import Recipe, make_recipe, saved_bytes
from tinyinfer.switches import resolve

TOKEN = 8  # bytes of a token's id on its way from the last stage to the first


@dataclass(frozen=True)
class Split:
    """How many GPUs share a layer (tp), how many stages there are (pp), and how many replicas of the whole (dp)."""

    tp: int
    pp: int = 1
    dp: int = 1

    @property
    def gpus(self) -> int:
        """How many GPUs it takes."""
        return self.tp * self.pp * self.dp

    def __str__(self) -> str:
        return f"TP {self.tp} x PP {self.pp} x DP {self.dp}"


@dataclass(frozen=True)
class Work:
    """What is asked of a model: prompts of so many tokens, so many generated after each. engine: item sizes."""

    config: ModelConfig
    engine: EngineConfig
    prompt: int
    generated: int

    @property
    def middle(self) -> int:
        """The position of the decode step in the middle of an answer, whose cost is the mean of all steps."""
        return self.prompt + (self.generated - 1) // 2

    @cached_property
    def itemsize(self) -> int:
        """Bytes of a number that is not quantized."""
        return int(np.dtype(resolve(DTYPES, self.engine.dtype)).itemsize)

    @cached_property
    def recipe(self) -> Recipe:
        """How each matrix is rounded."""
        return make_recipe(self.engine, self.config)

    def saved(self, c: ModelConfig, rows: int, experts_read: int) -> int:
        """How many bytes fewer a pass of a part of the model reads, because weights are quantized."""
        return saved_bytes(c, self.recipe, self.itemsize, rows, experts_read) if self.engine.quantizes else 0

    def kv_bytes(self, c: ModelConfig) -> int:
        """Bytes of keys and values of a position, in the layers and heads of a part of the model."""
        if self.engine.kv_bits == "off":
            return self.itemsize * sum(rows.numbers for rows in c.memory)
        return position_bytes(c.memory, self.engine.kv_bits, self.engine.block_size, self.engine.kv_group_size)


# A GPU's part of the model.


def rank_config(c: ModelConfig, ranks: int) -> ModelConfig:
    """The configuration of the largest part of a model whose layers are divided among ranks.

    Of a mixture, each rank has some experts whole; counted is the same work as a part of every expert. Raises
    SwitchError for more ranks than there are heads, neurons, tokens or experts.
    """
    parts, moe = head_parts(c, ranks), c.experts
    check_enough(c, ranks)
    if moe:
        experts = sizes(moe.num_experts, ranks)[0]
        own = -(-moe.expert_size * experts // moe.num_experts)
        moe = replace(moe, expert_size=own, shared_size=sizes(moe.shared_size, ranks)[0])
    return replace(
        c,
        num_heads=max(len(queries) for queries, _ in parts),
        num_kv_heads=max(len(keys) for _, keys in parts),
        intermediate_size=sizes(c.intermediate_size, ranks)[0],
        vocab_size=sizes(c.vocab_size, ranks)[0],
        experts=moe,
    )


@dataclass(frozen=True)
class Stage:
    """Some layers of a rank's model. first: it looks up the embedding; last: it computes the logits.

    config: of these layers alone, without a vocabulary where there is no head. vocabulary: tokens of the rank.
    """

    config: ModelConfig
    vocabulary: int
    first: bool
    last: bool

    @property
    def layers(self) -> int:
        """How many layers it has."""
        return self.config.num_layers

    def all_reduces(self, rows: int, itemsize: int) -> dict[int, int]:
        """Bytes that a pass of so many rows adds up -> how often.

        The rows themselves after attention, the MLP and a shared expert, and after the embedding; in a norm over the
        queries and keys of all heads, their squares.
        """
        mixtures = [self.config.mixture(i) for i in range(self.layers)]
        of_rows = 2 * self.layers + sum(bool(moe and moe.shared_size) for moe in mixtures) + self.first
        of_norms = self.layers if self.config.qk_norm == "full" else 0
        return {rows * self.config.hidden_size * itemsize: of_rows, 2 * rows * FLOAT: of_norms}

    def step(self, work: Work, first: int, rows: int, sequences: int) -> Ledger:
        """What the GPU counts for `rows` rows of each of some sequences, from position `first` on."""
        c, all_rows = self.config, rows * sequences
        read = experts_read(c, all_rows)
        one = expected_step(c, first, rows, work.itemsize, read)
        one.weight_bytes -= rows * c.hidden_size * (work.itemsize + FLOAT * c.learned_positions)  # the embedding's
        if not self.last:
            one.weight_bytes -= FLOAT * c.hidden_size * (2 if c.norm == "layer" else 1)  # the final norm
        kept, held = work.kv_bytes(c), FLOAT * sum(rows.numbers for rows in c.memory)
        return Ledger(
            steps=1,
            flops=sequences * one.flops,
            weight_bytes=one.weight_bytes - work.saved(c, 0, read) + all_rows * self.first * self.row_bytes(work),
            kv_read_bytes=sequences * one.kv_read_bytes * kept // held,
            kv_written_bytes=sequences * one.kv_written_bytes * kept // held,
        )

    def row_bytes(self, work: Work) -> int:
        """Bytes of one row of the embedding, and of the position's where positions are learned."""
        c = self.config
        return c.hidden_size * (work.itemsize + FLOAT * c.learned_positions) - work.saved(c, 1, 0) + work.saved(c, 0, 0)

    def weight_bytes(self, work: Work) -> int:
        """Bytes of the stage's weights in the GPU."""
        parts = bytes_by_part(replace(self.config, vocab_size=self.vocabulary), work.itemsize, work.recipe)
        unused = ["head"] * (not self.last)
        unused += ["embedding"] * (not self.first and not (self.config.tied_head and self.last))
        return sum(parts.values()) - sum(parts[name] for name in unused)


def experts_read(c: ModelConfig, rows: int) -> int:
    """How many experts of all layers that many rows touch, if each is chosen equally often."""
    moe = c.experts
    if moe is None:
        return 0
    mixtures = sum(c.mixture(i) is not None for i in range(c.num_layers))
    return round(mixtures * moe.num_experts * (1 - (1 - moe.experts_per_token / moe.num_experts) ** rows))


def stages(c: ModelConfig, split: Split) -> list[Stage]:
    """The stages of a GPU's part of a model, as even as layers let them be, the first ones longer."""
    own, last = rank_config(c, split.tp), split.pp - 1
    return [
        Stage(some_layers(own, layers, i == last), own.vocab_size, i == 0, i == last)
        for i, layers in enumerate(division(c.num_layers, split.pp))
    ]


def some_layers(c: ModelConfig, layers: range, head: bool) -> ModelConfig:
    """The configuration of some layers of a model, without a vocabulary unless they have the head."""
    part, moe = slice(layers.start, layers.stop), c.experts
    if moe:
        moe = replace(moe, dense_layers=tuple(i - layers.start for i in moe.dense_layers if i in layers))
    return replace(c, num_layers=len(layers), windows=c.windows[part], rope=c.rope[part], experts=moe,
                   vocab_size=c.vocab_size if head else 0)  # fmt: skip


# Time.


@dataclass(frozen=True)
class Seconds:
    """Of one pass through a stage: computing, and communication with other GPUs."""

    computing: float
    communication: float

    @property
    def total(self) -> float:
        """Both, one after the other."""
        return self.computing + self.communication


def bubble(stages: int, groups: int) -> float:
    """The share of its time that a stage idles, while a pipeline fills and drains."""
    return (stages - 1) / (groups + stages - 1)


class Paper:
    """Predicts the steps of one split (its tp and pp) of a model on a cluster."""

    def __init__(self, work: Work, cluster: Cluster, split: Split) -> None:
        self.work, self.cluster, self.split = work, cluster, split
        tp, all_stages = split.tp, stages(work.config, split)
        links = [cluster.hop(i, (i + 1) % split.pp, tp) for i in range(split.pp)]
        self.kinds = Counter(zip(all_stages, links, strict=True))  # stage, link to the next one -> how many are alike

    @cached_property
    def fixed_bytes(self) -> list[tuple[int, int]]:
        """For each kind of stage, the bytes of its weights, and of keys and values of one position."""
        return [(stage.weight_bytes(self.work), self.work.kv_bytes(stage.config)) for stage, _ in self.kinds]

    def memory_bytes(self, sequences: int) -> int:
        """What the fullest GPU holds while a replica has that many whole sequences."""
        positions = sequences * (self.work.prompt + self.work.generated)
        return max(weights + positions * each for weights, each in self.fixed_bytes)

    def seconds(self, stage: Stage, link: Link, first: int, rows: int, sequences: int) -> Seconds:
        """The time of a pass in a stage. rows: of each of the sequences, from position `first` on."""
        cluster, all_rows = self.cluster, rows * sequences
        computing = predict_seconds(stage.step(self.work, first, rows, sequences), cluster.gpu)
        nbytes = all_rows * self.work.config.hidden_size * self.work.itemsize
        sums = stage.all_reduces(all_rows, self.work.itemsize)
        communication = sum(times * cluster.all_reduce(self.split.tp, size) for size, times in sums.items())
        if self.split.pp > 1:
            communication += cluster.launch + link.message(TOKEN * sequences if stage.last else nbytes)
        return Seconds(computing + stage.layers * cluster.layer_seconds, communication)

    def bytes_sent(self, rows: int) -> int:
        """Bytes that a GPU sends by rings in a pass of so many rows, in the stage that sends most."""
        tp, sums = self.split.tp, [stage.all_reduces(rows, self.work.itemsize) for stage, _ in self.kinds]
        return max(sum(size * times for size, times in each.items()) for each in sums) * 2 * (tp - 1) // tp

    def passes(self, first: int, rows: int, sequences: int) -> tuple[Seconds, float]:
        """The time of a pass through all stages, and of the slowest one alone."""
        times = [(self.seconds(*kind, first, rows, sequences), count) for kind, count in self.kinds.items()]
        through = Seconds(sum(count * one.computing for one, count in times),
                          sum(count * one.communication for one, count in times))  # fmt: skip
        return through, max(one.total for one, _ in times)

    def decode(self, sequences: int) -> tuple[float, float]:
        """Seconds between two tokens of each of a replica's sequences, and the share of them that is communication."""
        groups = min(sequences, self.split.pp)
        through, slowest = self.passes(self.work.middle, 1, -(-sequences // groups))
        return max(through.total, groups * slowest), through.communication / through.total

    def prefill(self, prompts: int) -> tuple[float, float]:
        """Seconds until that many prompts of a replica are in its cache, and the share of them that stages idle."""
        together = max(1, self.work.engine.max_num_batched_tokens // self.work.prompt)
        each = min(together, -(-prompts // min(prompts, self.split.pp)))
        groups = -(-prompts // each)
        through, slowest = self.passes(0, self.work.prompt, each)
        return through.total + (groups - 1) * slowest, bubble(self.split.pp, groups)


@dataclass(frozen=True)
class Prediction:
    """What a split gives with that many sequences at once, over all replicas. Seconds, tokens a second, bytes.

    tpot_s: from a sequence's token to its next one; ttft_s: a prompt that comes alone; communication: its share of
    tpot_s; bubble: idle share of a stage during prefill; bytes_sent: of a GPU in a decode step, to add up layers;
    missing_bytes: how much memory the fullest GPU lacks.
    """

    split: Split
    sequences: int
    ttft_s: float
    tpot_s: float
    prefill_seconds: float
    prompt_tps: float
    generation_tps: float
    communication: float
    bubble: float
    bytes_sent: int
    memory_bytes: int
    missing_bytes: int

    @property
    def tps_per_gpu(self) -> float:
        """Generated tokens a second, for each GPU."""
        return self.generation_tps / self.split.gpus


def predict(paper: Paper, dp: int, sequences: int) -> Prediction:
    """The prediction for dp replicas with that many sequences in all; the replica with most of them decides."""
    work, own = paper.work, -(-sequences // dp)
    memory = paper.memory_bytes(own)
    (tpot, communication), (prefill, idle) = paper.decode(own), paper.prefill(own)
    return Prediction(
        split=replace(paper.split, dp=dp),
        sequences=sequences,
        ttft_s=paper.prefill(1)[0],
        tpot_s=tpot,
        prefill_seconds=prefill,
        prompt_tps=sequences * work.prompt / prefill,
        generation_tps=sequences / tpot,
        communication=communication,
        bubble=idle,
        bytes_sent=paper.bytes_sent(-(-own // min(own, paper.split.pp))),
        memory_bytes=memory,
        missing_bytes=max(0, round(memory - paper.cluster.memory)),
    )
