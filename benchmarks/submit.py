"""What several callers cost one: `python benchmarks/submit.py [-m MODEL] [-b 4]`, milliseconds of a decode step.

The same prompts are run in four ways, which take turns: by a caller who alone owns the engine (`Engine.run`), by one
who steps the engine of an LLM (`LLM.run`), by one who waits for the engine's thread, and by one who reads what each
step brings. The medians of the rounds are printed, and beside them what a whole run takes longer than the first way's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from tinyinfer import LLM, SamplingParams
from tinyinfer.sequence import Sequence

PROMPT = [5, 6, 7, 8] * 4


def ways(llm: LLM, batch: int, params: SamplingParams) -> dict[str, Callable[[], list[Sequence]]]:
    """Name -> what runs the prompts to their end in that way, and gives their sequences."""

    def stepped(run: Callable[[list[Sequence]], Any]) -> list[Sequence]:
        sequences = llm.sequences([PROMPT] * batch, params)
        for _ in run(sequences):
            continue
        return sequences

    def read() -> list[Sequence]:
        requests = [llm.submit(PROMPT, params) for _ in range(batch)]
        for request in requests:
            for _ in request:
                continue
        return [request.seq for request in requests]

    def waited() -> list[Sequence]:
        requests = [llm.submit(PROMPT, params) for _ in range(batch)]
        for request in requests:
            request.result()
        return [request.seq for request in requests]

    return {
        "Engine.run": lambda: stepped(llm.engine.run),
        "LLM.run": lambda: stepped(llm.run),
        "submit, waiting": waited,
        "submit, reading": read,
    }


def measure(work: Callable[[], list[Sequence]]) -> tuple[float, float]:
    """Seconds of a decode step, and of the whole run."""
    start = time.perf_counter()
    timing = work()[0].timing
    whole = time.perf_counter() - start
    return (timing.times[-1] - timing.times[0]) / (len(timing.times) - 1), whole


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("-b", "--batch", type=int, default=1, help="prompts at once")
    parser.add_argument("-g", "--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("-t", "--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    llm = LLM(args.model, threads=args.threads, max_model_len=args.tokens + len(PROMPT))
    each = ways(llm, args.batch, SamplingParams(max_tokens=args.tokens, ignore_eos=True))
    for work in each.values():
        work()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in each}
    for _ in range(args.rounds):
        for name, work in each.items():
            found[name].append(measure(work))
    first = statistics.median(whole for _, whole in found["Engine.run"])
    print(f"{args.model}, {args.batch} at once{'step':>20}{'whole run':>16}")
    for name, times in found.items():
        step, whole = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"  {name:20}{step * 1e3:15.4f} ms{(whole - first) * 1e3:+13.3f} ms")


if __name__ == "__main__":
    main()
