"""A cluster on paper: its GPUs, what connects them, and how long they take to add up an array.

A message of b bytes takes α + b/β seconds: a latency, and the time of its bytes. n ranks add up B bytes in

    launch + min(2(n-1) · (α + B/n/β),  2·⌈log2 n⌉ · (α + B/β))            a ring, a tree: parallel/collectives.py

and a library takes the faster one. launch: what starting a collective takes, whatever its size.

The cluster is a JSON file. Each number is a fact of the hardware or a share that was measured, and `sources` says from
where. bandwidth_gb_s is what one GPU sends in one direction; GB: 10⁹ bytes.

    name                           a title
    nodes, gpus_per_node           how many
    gpu
        memory_gb                  for weights and KV cache
        read_bandwidth_gb_s        of the memory, as the data sheet has it
        read_efficiency            the share of it that is reached
        matrix_speed_tflop_s       of products in the type of the weights, as the data sheet has it
        matrix_efficiency          the share of it that is reached
        layer_overhead_us          what a layer takes beside bytes and FLOPs, however it is divided: launches, norms
        price_per_hour             of one GPU (may be absent)
    within_node, between_nodes     bandwidth_gb_s, latency_us; the second only where there are several nodes
    collective_launch_us           launch
    sources                        field -> where its number comes from

Wins: thousands of GPUs in a second. Loses: no two messages ever share a wire here, and no kernel hides a message.
Sources: Hockney 1994 (α and β); Thakur et al. 2005 (the collectives).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tinyinfer.errors import ModelError
from tinyinfer.loading.json_fields import Fields, typed_fields
from tinyinfer.measure.roofline import Machine

GB, TERA, MICRO = 1e9, 1e12, 1e-6
MOST_GPUS = 1 << 20  # of a cluster


@dataclass(frozen=True)
class Link:
    """What connects GPUs. bandwidth: bytes a second that one of them sends. latency: seconds of an empty message."""

    bandwidth: float
    latency: float

    def message(self, nbytes: float) -> float:
        """Seconds from one GPU to another."""
        return self.latency + nbytes / self.bandwidth

    def ring(self, ranks: int, nbytes: float) -> float:
        """Seconds in which `ranks` GPUs add up arrays of `nbytes` bytes along a ring."""
        return 2 * (ranks - 1) * self.message(nbytes / ranks)

    def tree(self, ranks: int, nbytes: float) -> float:
        """Seconds in which `ranks` GPUs add up arrays of `nbytes` bytes up a binary tree and down again."""
        return 2 * (ranks - 1).bit_length() * self.message(nbytes)


@dataclass(frozen=True)
class Cluster:
    """Equal GPUs in equal nodes. memory: bytes of a GPU. Times are seconds; price_per_hour: of one GPU."""

    name: str
    nodes: int
    gpus_per_node: int
    gpu: Machine
    memory: float
    layer_seconds: float
    within: Link
    between: Link
    launch: float
    price_per_hour: float | None = None

    @property
    def gpus(self) -> int:
        """How many GPUs there are in all."""
        return self.nodes * self.gpus_per_node

    def link(self, ranks: int, stride: int = 1) -> Link:
        """What connects a group of ranks, each `stride` GPUs after the one before.

        A group that fits into a node lies in one. In a larger one, the members in a node send through all their
        network adapters at once, but no faster than they pass the bytes to each other.
        """
        if ranks * stride <= self.gpus_per_node:
            return self.within
        members = max(1, self.gpus_per_node // stride)
        return Link(min(self.within.bandwidth, members * self.between.bandwidth), self.between.latency)

    def all_reduce(self, ranks: int, nbytes: float, stride: int = 1) -> float:
        """Seconds in which a group of ranks adds up arrays of `nbytes` bytes; 0 for one rank."""
        if ranks == 1:
            return 0.0
        link = self.link(ranks, stride)
        return self.launch + min(link.ring(ranks, nbytes), link.tree(ranks, nbytes))

    def hop(self, stage: int, other: int, ranks: int) -> Link:
        """What connects two stages of a pipeline, where each has `ranks` GPUs."""
        together = max(1, self.gpus_per_node // ranks)  # stages in a node
        return self.within if stage // together == other // together else self.between


# The file.


def read_cluster(path: str) -> Cluster:
    """The cluster that a file describes. Raises ModelError, naming file and field, for anything else."""
    if not os.path.exists(path):
        raise ModelError(f"{path}: there is no such file; give a JSON file as in docs/clusters")
    f = typed_fields(Path(path), path)
    nodes, size = f.size("nodes", most=MOST_GPUS), f.size("gpus_per_node", most=MOST_GPUS)
    gpu, within = part(f, "gpu"), read_link(f, "within_node")
    between = read_link(f, "between_nodes") if nodes > 1 or "between_nodes" in f.values else within
    overhead, price = at_least_0(gpu, "layer_overhead_us"), gpu.get("price_per_hour")
    cluster = Cluster(
        name=f.text("name"),
        nodes=nodes,
        gpus_per_node=size,
        gpu=Machine(
            gpu.number("read_bandwidth_gb_s") * GB * share(gpu, "read_efficiency"),
            gpu.number("matrix_speed_tflop_s") * TERA * share(gpu, "matrix_efficiency"),
        ),
        memory=gpu.number("memory_gb") * GB,
        layer_seconds=overhead * MICRO,
        within=within,
        between=between,
        launch=at_least_0(f, "collective_launch_us") * MICRO,
        price_per_hour=None if price is None else at_least_0(gpu, "price_per_hour"),
    )
    sources = part(f, "sources")
    for name in sources.values:
        sources.text(name)
    refuse_unknown(f)
    refuse_unknown(gpu)
    return cluster


def part(f: Fields, name: str) -> Fields:
    """The fields of the object under a name. Raises ModelError where there is none."""
    value = f.get(name)
    if value is None:
        f.refuse(name, "is missing; add the object that measure/cluster.py describes")
    return f.table(name, value)


def read_link(f: Fields, name: str) -> Link:
    """The link of that name."""
    own = part(f, name)
    link = Link(own.number("bandwidth_gb_s") * GB, at_least_0(own, "latency_us") * MICRO)
    refuse_unknown(own)
    return link


def at_least_0(f: Fields, name: str) -> float:
    """A number of at least 0. Raises ModelError for anything else."""
    value = f.get(name)
    return 0.0 if value == 0 and not isinstance(value, bool) else f.number(name)


def share(f: Fields, name: str) -> float:
    """A number above 0 and up to 1. Raises ModelError for any other."""
    value = f.number(name)
    if value > 1:
        f.refuse(name, f"is {value:g}, but is a share of what the data sheet says; write a number up to 1")
    return value


def refuse_unknown(f: Fields) -> None:
    """Raises ModelError for a field that nothing reads: a misspelt one would change nothing, in silence."""
    for name in f.values:
        if name not in f.read:
            f.refuse(name, f"is unknown; the fields here are {', '.join(sorted(f.read))}")
