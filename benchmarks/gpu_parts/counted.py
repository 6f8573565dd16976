"""What a step costs in each variant, counted without a device, and the least time that follows from it.

    seconds >= max(FLOPs / matrix speed, bytes / bandwidth, phases · what it takes to begin one)

The first two are the roofline (tinyinfer/measure/roofline.py). The third is what small models wait for: each phase of a
step needs all of the phase before, so nothing hides its beginning. How long a beginning takes depends on who begins:
the host for every operation (eager), the host for every kernel, the device (a graph), a barrier (one kernel for all).

Launches, bytes and FLOPs are those of the plan that the engine runs (backends/kernels/plan.py), registers those of the
compiler.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from gpu_parts.cases import OWN, Case
from gpu_parts.eager import launches_of_a_step
from gpu_parts.hollow import plan_of
from tinyinfer.backends.kernels.launch import Cost, Launch, used
from tinyinfer.backends.kernels.nvrtc import Usage, report
from tinyinfer.backends.kernels.occupancy import MULTIPROCESSORS, Occupancy, occupancy
from tinyinfer.backends.kernels.source import kernel_source
from tinyinfer.ledger import Ledger
from tinyinfer.measure.roofline import Machine, expected_prefill, predict_seconds

ASSUMED = {  # of an H100 until one is measured
    "read_bandwidth": 3.0e12,  # bytes a second, as a large copy was seen to move
    "matrix_speed": 400e12,  # FLOPs a second: half of what a large product reached
    "operation_us": 10.0,  # "about 11 us", "usually around 20 us" in CuPy's own issues
    "launch_us": 5.0,  # 4 to 8 us with Python around it; the driver alone takes 1.5
    "node_us": 1.3,  # 0.8 on an RTX 3090, 1.3 on an H100
    "barrier_us": 0.73,  # of all blocks, on an RTX 3090
}
BEGINS = {"eager": "operation_us", "kernels": "launch_us", "graph": "node_us", "persistent": "barrier_us"}


@dataclass(frozen=True)
class Kernel:
    """All launches of a step that are alike: one kernel, compiled with the same constants."""

    launch: Launch
    cost: Cost

    @property
    def name(self) -> str:
        return self.launch.name

    def source(self) -> str:
        """The text that the compiler is given."""
        return kernel_source(self.name, used(self.name, self.launch.constants))

    def occupancy(self, usage: Usage, arch: str) -> Occupancy:
        """How many of its blocks fit on a multiprocessor."""
        shared = usage.shared + self.launch.shared
        return occupancy(self.launch.block, usage.registers, shared, MULTIPROCESSORS[f"sm_{arch}"])


@cache
def sources(name: str, text: str, arch: str) -> Usage:
    """What a kernel needs of a multiprocessor; each text is compiled once."""
    return report(text, arch)[name]


def usage_of(kernel: Kernel, arch: str) -> Usage:
    """Registers, static shared memory and spills. Raises CompileError where NVRTC or ptxas is missing."""
    return sources(kernel.name, kernel.source(), arch)


def kernels(case: Case, persistent: bool = False) -> list[Kernel]:
    """The kernels of a decode step in the order in which they are first launched; persistent: the one for all."""
    found: dict[tuple[str, str], Kernel] = {}
    for launch in plan_of(case, persistent).launches:
        key, cost = (launch.name, str(launch.constants)), launch.cost.at(case.context)
        found[key] = Kernel(launch, found[key].cost + cost if key in found else cost)
    return list(found.values())


@dataclass(frozen=True)
class Step:
    """A step of a variant: launches from the host or from a graph, phases that wait for each other, bytes, FLOPs.

    Of a prefill, bytes and FLOPs alone are counted (launches None): its products are cuBLAS's.
    """

    launches: int | None
    phases: int
    nbytes: int
    flops: int


@cache
def plan_cost(case: Case) -> Cost:
    """The cost of a decode step by its plan."""
    return plan_of(case).cost.at(case.context)


def step_of(case: Case, variant: str) -> Step | None:
    """What a step of one of tinyinfer's variants costs; None for another engine, whose launches are its own."""
    if variant not in OWN:
        return None
    if case.prefill:
        one = expected_prefill(case.config, case.prompt, itemsize=2)
        moved = one.weight_bytes + case.batch * (one.kv_read_bytes + one.kv_written_bytes)
        return Step(None, 0, moved, case.batch * one.flops)
    cost = plan_cost(case)
    step = Step(cost.launches, cost.launches, cost.read + cost.written, cost.flops)
    if variant == "persistent":
        return replace(step, launches=1)
    if variant == "eager":
        count = launches_of_a_step(case.config, case.batch)
        return replace(step, launches=count, phases=count)
    return step


def least_seconds(step: Step, variant: str, figures: dict[str, float]) -> float:
    """The least time of a step on a machine with these figures, measured or ASSUMED."""
    machine = Machine(figures["read_bandwidth"], figures["matrix_speed"])
    beginning = step.phases * figures[BEGINS[variant]] * 1e-6
    return max(predict_seconds(Ledger(flops=step.flops, weight_bytes=step.nbytes), machine), beginning)
