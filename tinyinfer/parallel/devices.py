"""Which GPU each rank takes, and which way its arrays go.

Rank after rank takes the next GPU of its machine, and begins anew with the first one where there are more ranks than
GPUs. From there `placed` decides, once and for all ranks:

    every rank has a GPU of its own    NCCL carries arrays from GPU to GPU (nccl.py)
    two ranks share one                NCCL refuses, so all arrays go through the hosts' memory (staged.py)

Two GPUs are one if they sit in the same place of the same machine (the PCI bus), whatever number a process sees.

Wins: nothing to be set by hand. Loses: a number says nothing of wires: ranks that talk most may sit on far GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyinfer.arrays import Xp
from tinyinfer.backends.auto import FIND, found
from tinyinfer.backends.cupy_device import find_cupy
from tinyinfer.errors import SwitchError, note
from tinyinfer.parallel.comm import Comm, on_all
from tinyinfer.parallel.nccl import NCCLComm, find_nccl
from tinyinfer.parallel.staged import StagedComm


def gpu_module(backend: str) -> Xp | None:
    """The array module of a backend that computes on a GPU; None for others. Raises SwitchError as that does."""
    if backend == "cupy":
        return find_cupy()
    own = next(found(FIND, []), ("numpy", {}))[1] if backend == "auto" else {}
    return own.get("xp")


def take_gpu(xp: Xp, number: int) -> Any:
    """Makes a GPU this thread's own: the one of that number among the machine's."""
    device = xp.cuda.Device(number % xp.cuda.runtime.getDeviceCount())
    device.use()
    return device


def placed(comm: Comm, backend: str, before: int = 0, find: Callable[[str], Xp | None] = gpu_module) -> Comm:
    """The ranks, each with a GPU, as they send its arrays; the same ranks where the backend uses no GPU.

    before: ranks that have taken GPUs already. Raises SwitchError, on all ranks, where one of them cannot.
    """
    xp = on_all(comm, lambda: find(backend))
    without = [rank for rank in range(comm.size) if comm.share(xp is None, rank)]
    if len(without) == comm.size:
        return comm
    if xp is None or without:
        reason, cure = "{field}={value} finds no GPU for rank {rank}, and one for others", "name what all of them have"
        raise SwitchError("backend", backend, reason, cure, rank=without[0])
    first, place = comm.machine()
    device = take_gpu(xp, before + place)
    gpus = {comm.share((first, device.pci_bus_id), rank) for rank in range(comm.size)}
    if comm.size == 1:
        return comm
    if len(gpus) == comm.size:
        return NCCLComm(comm, xp, on_all(comm, lambda: find_nccl(xp)))
    if comm.rank == 0:
        few = f"{len(gpus)} GPU{'s' * (len(gpus) > 1)}"
        note(f"{comm.size} ranks share {few}, so their arrays go through the host's memory; a GPU for each is faster")
    return StagedComm(comm, xp)
