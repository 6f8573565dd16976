"""The frontier: of all splits of a model on a cluster, those that no other one beats in both latency and cost.

A token sooner or tokens cheaper: more GPUs for a layer shorten a step, and add waiting for each other; more sequences
at once share the weights that a step reads, and lengthen it. So there is no best split, but one for each latency that
is asked for: the cheapest of those that keep it. A split is on the frontier if no other one has both a shorter time per
token and more tokens a second for each GPU.

`splits` lists what is worth trying: numbers of GPUs that leave none of the cluster idle. Sequences: as asked for, or
powers of two as long as keys and values fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tinyinfer.engine.metrics import cost_per_million
from tinyinfer.errors import SwitchError
from tinyinfer.measure.cluster import Cluster
from tinyinfer.measure.split import Paper, Prediction, Split, Work, predict

MOST_SEQUENCES = 1 << 13  # of a replica, where the number is not asked for


@dataclass(frozen=True)
class Frontier:
    """All predictions, those that fit into memory, and of these the ones that no other beats, the fastest first."""

    predictions: list[Prediction]
    fitting: list[Prediction]
    best: list[Prediction]

    def within(self, tpot_s: float) -> Prediction | None:
        """The cheapest split with at most that time per token; None where every one takes longer."""
        return max((one for one in self.best if one.tpot_s <= tpot_s), key=lambda one: one.tps_per_gpu, default=None)


def explore(work: Work, cluster: Cluster, given: Split | None = None, sequences: int | None = None) -> Frontier:
    """Predicts every split, or the one that is given, with so many sequences at once; None: with 1, 2, 4, ...

    Raises SwitchError for a given split that the model or the cluster has no room for.
    """
    found = list(predictions(work, cluster, [given] if given else list(splits(work, cluster)), given, sequences))
    fitting = [one for one in found if not one.missing_bytes]
    return Frontier(found, fitting, undominated(fitting))


def predictions(
    work: Work, cluster: Cluster, tried: Iterable[Split], given: Split | None, sequences: int | None
) -> Iterator[Prediction]:
    """The prediction of each split, with each number of sequences."""
    for split in tried:
        paper = Paper(work, cluster, split)
        most = cluster.gpus // split.gpus
        if given:
            check(given, work, cluster)
            replicas = [given.dp]
        else:
            replicas = [most] if sequences is None else [dp for dp in powers(most) if dp <= sequences]
        for dp in replicas:
            for count in [sequences] if sequences else (dp * n for n in fitting_powers(paper)):
                yield predict(paper, dp, count)


def check(split: Split, work: Work, cluster: Cluster) -> None:
    """Raises SwitchError for a split of more GPUs or layers than there are."""
    if split.pp > work.config.num_layers:
        reason = "{split} has more stages than the {layers} layers of this model"
        raise SwitchError("split", str(split), reason, "give fewer", split=split, layers=work.config.num_layers)
    if split.gpus > cluster.gpus:
        reason = "{split} takes {needed} GPUs, and the cluster has {gpus}"
        cure = "give a smaller split, or a larger cluster"
        raise SwitchError("split", str(split), reason, cure, split=split, needed=split.gpus, gpus=cluster.gpus)


def splits(work: Work, cluster: Cluster) -> Iterator[Split]:
    """Every tp and pp that is worth trying, with one replica: those whose replicas can use all GPUs of the cluster."""
    for tp in shares(work, cluster):
        yield from (Split(tp, pp) for pp in divisors(cluster.gpus // tp, work.config.num_layers))


def shares(work: Work, cluster: Cluster) -> list[int]:
    """Numbers of GPUs that may share a layer: parts of a node, and 1, 2, 4, ... nodes, at most one for each head."""
    c, node = work.config, cluster.gpus_per_node
    some = [*divisors(node, c.num_heads), *(node * n for n in powers(cluster.nodes))]
    parts = [c.num_heads, c.intermediate_size, c.vocab_size]
    if c.experts:
        parts = [c.num_heads, c.vocab_size, c.experts.num_experts, c.experts.shared_size or c.num_heads]
    return sorted({n for n in some if n <= min(parts) and cluster.gpus % n == 0})


def powers(most: int) -> list[int]:
    """The powers of two from 1 to `most`."""
    return [1 << i for i in range(most.bit_length())]


def divisors(n: int, most: int) -> list[int]:
    """The numbers up to `most` that divide n."""
    return [i for i in range(1, min(n, most) + 1) if n % i == 0]


def fitting_powers(paper: Paper) -> Iterator[int]:
    """1, 2, 4, ... sequences of a replica while they fit; 1 also where it does not."""
    yield 1
    for n in powers(MOST_SEQUENCES)[1:]:
        if paper.memory_bytes(n) > paper.cluster.memory:
            return
        yield n


def undominated(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Those that no other one beats, from the shortest time per token to the most tokens a second for each GPU.

    Of equal ones, the one with more tokens a second in all.
    """
    ordered = sorted(predictions, key=lambda one: (one.tpot_s, -one.tps_per_gpu, -one.generation_tps))
    best: list[Prediction] = []
    for one in ordered:
        if not best or one.tps_per_gpu > best[-1].tps_per_gpu:
            best.append(one)
    return best


def takeover(work: Work, cluster: Cluster, sequences: int) -> list[tuple[int, float]]:
    """For 1, 2, ... GPUs that share every layer: the share of a decode step that is communication."""
    return [(tp, Paper(work, cluster, Split(tp)).decode(sequences)[1]) for tp in shares(work, cluster)]


def record(one: Prediction, price_per_hour: float | None) -> dict[str, Any]:
    """A prediction as fields for JSON. price_per_hour: of one GPU."""
    own = {name: value for name, value in asdict(one).items() if name != "split"}
    price = None if price_per_hour is None else price_per_hour * one.split.gpus
    return {
        "tensor_parallel_size": one.split.tp,
        "pipeline_parallel_size": one.split.pp,
        "data_parallel_size": one.split.dp,
        "gpus": one.split.gpus,
        **own,
        "generation_tps_per_gpu": one.tps_per_gpu,
        "cost_per_million_generated_tokens": cost_per_million(price, one.generation_tps),
    }


def report(
    model: str, work: Work, cluster: Cluster, frontier: Frontier, sequences: int | None, tpot_s: float | None
) -> dict[str, Any]:
    """The JSON line of `bench --cluster`. sequences, tpot_s: as asked for, None where they were not."""
    best = None if tpot_s is None else frontier.within(tpot_s)
    price = cluster.price_per_hour
    waits = takeover(work, cluster, sequences or 1)
    return {
        "cluster": cluster.name,
        "gpus": cluster.gpus,
        "price_per_gpu_hour": price,
        "prompt_tokens": work.prompt,
        "generated_tokens": work.generated,
        "sequences": sequences,
        "tpot_limit_s": tpot_s,
        "predicted": len(frontier.predictions),
        "fitting": len(frontier.fitting),
        "frontier": [record(one, price) for one in frontier.best],
        "best": None if best is None else record(best, price),
        "communication": [{"tensor_parallel_size": tp, "share": share} for tp, share in waits],
        "clock": "simulated",
        "engine": {"model": model, **asdict(work.engine)},
    }
