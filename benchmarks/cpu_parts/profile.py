"""Where the time of a decode step goes: each kind of launch by itself, beside the bytes it reads.

A launch alone takes a microsecond or a few, so each is timed many times in the place where it stands in the plan. The
weights are then in a cache where they fit; so the whole plan is timed, too, and the difference is what memory costs.
"""

from __future__ import annotations

import time
from collections import defaultdict
from statistics import median

import numpy as np

from tinyinfer import LLM, SamplingParams
from tinyinfer.backends.cpu_kernels.team import team

SETTINGS = {
    "float32": {}, "bfloat16": {"dtype": "bfloat16"}, "int8": {"quantize": "int8", "quantize_head": "int8"},
    "int8, int8 activations": {"quantize": "int8", "quantize_head": "int8", "activations": "int8"},
    "int4, int8 activations": {"quantize": "int4", "quantize_head": "int8", "activations": "int8"},
}  # fmt: skip
CONTEXT, STEPS = 512, 64


def print_profile(model: str, threads: int) -> None:
    """A table for each setting, after a prompt of 512 tokens."""
    from cpu_parts.reading import bandwidths

    for name, switches in SETTINGS.items():
        llm = LLM(model, backend="numba", threads=threads, **switches)
        limit, _ = bandwidths(threads)
        prompt = [1000 + 37 * i % 40000 for i in range(CONTEXT)]
        params = SamplingParams(max_tokens=2 * STEPS, ignore_eos=True)
        run = llm.run(llm.sequences([prompt], params))
        traces = [next(run) for _ in range(STEPS)]  # the sequence goes on: its cache must be there while the plan runs
        step = median(trace.seconds for trace in traces[2:])
        compiled = llm.engine.compiled
        plan = next(one.plan for (rows, _), one in compiled._passes.items() if rows == 1)
        whole = best(lambda plan=plan: team().run(plan, threads))
        kinds: dict[str, list[float]] = defaultdict(list)
        for n, launch in enumerate(plan.launches):
            kinds[launch.kernel.name].append(best(lambda n=n, plan=plan: team().run(plan, threads, n, n + 1), 5))
        empty = best(lambda plan=plan: team().run(plan, threads, 0, 0), 50)
        nbytes = llm.model.nbytes
        print(f"\n{name}: {nbytes / 1e6:.0f} MB of weights, {limit / 1e9:.1f} GB/s read: {nbytes / limit * 1e3:.2f} ms")
        print(f"  a step {step * 1e3:.2f} ms, its plan {whole * 1e3:.2f} ms, {len(plan.launches)} launches")
        for kind, times in sorted(kinds.items(), key=lambda item: -sum(item[1])):
            alone = [max(0.0, t - empty) for t in times]
            print(f"  {kind:28}{len(times):5} launches {sum(alone) * 1e3:8.3f} ms, warm")
        run.close()
        llm.close()


def best(run, times: int = 20) -> float:
    """The least time of several runs."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return float(np.min(found))
