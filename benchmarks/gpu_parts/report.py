"""The table of all variants, its JSON lines, and the words about what is missing or assumed."""

from __future__ import annotations

from typing import Any

from gpu_parts.cases import CASES, OTHERS, OWN, Case
from gpu_parts.counted import ASSUMED, Kernel, kernels, least_seconds, step_of, usage_of
from gpu_parts.eager import launches_of_a_step
from tinyinfer.backends.kernels.nvrtc import ARCHITECTURES, CompileError
from tinyinfer.units import amount, number, table

HEAD = ("", "us a token", "tok/s", "device alone", "of bandwidth", "launches a step", "bytes a step", "FLOPs a step",
        "at most, tok/s", "goal", "tokens")  # fmt: skip
FIGURES = ("read_bandwidth", "matrix_speed", "operation_us", "launch_us", "node_us", "barrier_us")
Record = dict[str, Any]
GOALS = {  # tokens a second on an H100 that the project has set itself
    ("batch 1", "eager"): 150, ("batch 1", "graph"): 2000, ("batch 1", "persistent"): 4000,
    ("batch 64", "graph"): 40_000, ("batch 256", "graph"): 80_000, ("prefill 8 x 1024", "graph"): 200_000,
    ("1B, batch 1", "graph"): 950, ("1B, int8", "graph"): 1500, ("1B, int4", "graph"): 2000,
}  # fmt: skip


def row(case: Case, variant: str, found: Record | None, machine: Record) -> tuple[str, ...]:
    """One line of the table. found: what was measured of the variant, or None; machine: its figures, or the assumed."""
    step, name = step_of(case, variant), f"  {variant}"
    tokens = case.batch * (case.prompt if case.prefill else 1)  # of a step
    goal = number(GOALS.get((case.name, variant)))
    counts = ("", "", "", "", goal)
    if step:
        most = tokens / least_seconds(step, variant, {key: machine[key] for key in FIGURES})
        counts = (number(step.launches), amount(step.nbytes, "B"), amount(step.flops, "FLOP"), f"{most:.0f}", goal)
    if found is None or "error" in found:
        return (name, "", "", "", "", *counts, found["error"][:60] if found else "")
    alone = found.get("alone_seconds")
    share = step.nbytes / found["step_seconds"] / machine["read_bandwidth"] if step else None
    speed = found["tokens_per_second"]
    told = (number(1e6 / speed), f"{speed:.0f}", number(alone and alone / tokens, 1e6), f"{share:.0%}" if share else "")
    return (name, *told, *counts, found["verdict"])


def results(cases: tuple[Case, ...], found: list[Record], machine: Record | None) -> str:
    """The whole table. machine: the figures of a device, None where there is none."""
    figures = machine or ASSUMED
    rows = [HEAD]
    for case in cases:
        rows.append((f"{case.name}: {case.shape}, {case.weights}, {load(case)}", *[""] * (len(HEAD) - 1)))
        rows += [row(case, variant, measured(found, case, variant), figures) for variant in case.variants]
    return table(rows)


def whole(cases: tuple[Case, ...], records: list[Record]) -> str:
    """What the device can do, and the table. records: the device's figures first, then those of the variants."""
    figures, *found = records or [{"error": ""}]
    machine = None if "error" in figures else figures
    return f"{machine_text(machine)}\n\n{results(cases, found, machine)}\n\n{ratios(cases, found)}".rstrip()


def ratios(cases: tuple[Case, ...], found: list[Record]) -> str:
    """How many times as fast as each other engine tinyinfer's fastest variant was, case by case."""
    lines = []
    for case in cases:
        speeds = {one["variant"]: one["tokens_per_second"] for one in found
                  if one["case"] == case.name and "error" not in one}  # fmt: skip
        own = {variant: speed for variant, speed in speeds.items() if variant in OWN}
        if own:
            best = max(own, key=own.__getitem__)
            lines += [f"{case.name}: {best} is {own[best] / speeds[other]:.3g} times as fast as {other}"
                      for other in speeds if other in OTHERS]  # fmt: skip
    return "\n".join(lines)


def load(case: Case) -> str:
    """What a case asks for, in words."""
    prompts = f"{case.batch} x {case.prompt} tokens" if case.batch > 1 else f"{case.prompt} tokens"
    return f"prefill of {prompts}" if case.prefill else f"{case.new} after {prompts}"


def measured(found: list[Record], case: Case, variant: str) -> Record | None:
    """The record of a case and variant, if there is one."""
    return next((one for one in found if (one["case"], one["variant"]) == (case.name, variant)), None)


def machine_text(machine: Record | None) -> str:
    """What the device can do; or that there is none, and what is assumed of one."""
    figures, what = (machine, "") if machine else (ASSUMED, "assumed of an H100: ")
    words = [
        f"{what}reads {amount(figures['read_bandwidth'], 'B/s')}",
        f"multiplies {amount(figures['matrix_speed'], 'FLOP/s')} in half precision",
        f"begins an operation of CuPy in {number(figures['operation_us'])} us",
        f"a kernel in {number(figures['launch_us'])} us",
        f"a node of a graph in {number(figures['node_us'])} us",
        f"the part behind a barrier in {number(figures['barrier_us'])} us",
    ]
    if not machine:
        return "No device: the columns of measured figures are empty.\n" + ", ".join(words) + "."
    about = f"{machine['device']}, {machine['multiprocessors']} multiprocessors, driver {machine['driver']}"
    words.append(f"copies {amount(figures['copy_bandwidth'], 'B/s')}, read and written together")
    return f"{about}, CuPy {machine['cupy']}: " + ", ".join(words)


def kernels_table(case: Case) -> str:
    """The kernels of a step: launches, bytes and FLOPs."""
    rows = [(f"{case.name}: {case.shape}, {case.weights}", "launches a step", "bytes a step", "FLOPs a step")]
    rows += [
        (f"  {one.name}", str(one.cost.launches), amount(one.cost.read + one.cost.written, "B"),
         amount(one.cost.flops, "FLOP"))
        for one in kernels(case)
    ]  # fmt: skip
    return table(rows)


def resources_table(cases: tuple[Case, ...]) -> str:
    """What each kernel needs of a multiprocessor, compiled for two architectures, and its occupancy by formula."""
    of_each = [f"{what}, sm_{arch}" for arch in ARCHITECTURES for what in ("registers", "spills", "occupancy")]
    rows = [("kernel, inputs to outputs", "rows", "weights", "blocks", "threads", "shared", *of_each)]
    for kernel in {key: kernel for case in cases for key, kernel in keyed(case)}.values():
        launch, constants = kernel.launch, kernel.launch.constants
        sizes = f" {constants['INPUTS']} to {constants['OUTPUTS']}" if "OUTPUTS" in constants else ""
        weight = str(constants.get("Weight", ""))
        cells = [f"{kernel.name}{sizes}", str(constants["T"]), weight, str(launch.grid), str(launch.block)]
        usages = {arch: usage_of(kernel, arch) for arch in ARCHITECTURES}
        cells.append(str(launch.shared + usages[ARCHITECTURES[0]].shared))
        for arch, usage in usages.items():
            found = kernel.occupancy(usage, arch)
            limits = " and ".join(found.limits)
            cells += [str(usage.registers), str(usage.spills), f"{found.share:.0%} ({limits})"]
        rows.append(tuple(cells))
    return table(rows)


def keyed(case: Case) -> list[tuple[tuple[str, str], Kernel]]:
    """The kernels of a decode step, by what they are compiled from."""
    found = [] if case.prefill else kernels(case)
    found += kernels(case, persistent=True) if "persistent" in case.variants else []
    return [((kernel.name, kernel.source()), kernel) for kernel in found]


def resources(cases: tuple[Case, ...]) -> str:
    """resources_table; a sentence where there is no compiler."""
    try:
        return resources_table(cases)
    except CompileError as error:
        return f"Registers and shared memory are not shown: {error}"


def formulas_text(case: Case) -> str:
    """What the same formulas launch where each operation is one."""
    count = launches_of_a_step(case.config, case.batch, plain=True)
    return f"{case.name}: the reference's formulas, an operation a launch, would launch {count} a step."


def counted(cases: tuple[Case, ...] = CASES) -> str:
    """All that is known without a device."""
    tables = [kernels_table(case) for case in cases if not case.prefill]
    words = [machine_text(None), results(cases, [], None), formulas_text(cases[0])]
    return "\n\n".join([*words, *tables, resources(cases)])
