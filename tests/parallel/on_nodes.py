"""A cluster of Ray on this machine, for tests: two nodes, each with room for two replicas."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ROOM = {"num_cpus": 2, "object_store_memory": 100_000_000}  # of a node


@contextmanager
def two_nodes() -> Iterator[Any]:
    """Two nodes, which end with all that runs on them. This process is on the first one."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=ROOM | {"include_dashboard": False})
    try:
        cluster.add_node(**ROOM)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def processes(node: Any, name: str) -> int:
    """How many processes of that name a node has started."""
    raylet = node.all_processes["raylet"][0].process.pid
    done = subprocess.run(["ps", "--ppid", str(raylet), "-wwo", "args="], capture_output=True, text=True, check=False)
    return sum(name in line for line in done.stdout.splitlines())


def within(seconds: float, true: Callable[[], bool]) -> bool:
    """Whether something becomes true within so many seconds."""
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.2)
    return true()
