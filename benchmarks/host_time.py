"""What a step costs the host: decode steps of an engine whose forward pass takes no time.

A GPU computes a step of a small model in half a millisecond to three. Meanwhile Python plans the next one: who runs,
room in the cache, text. Where that takes longer than the GPU, the host is the limit, however far steps run ahead.

    python benchmarks/host_time.py --sequences 1 64 256

It prints the CPU time of a step (time that this process had a core, so other load counts for little), the median of
100 steps, and how many tokens a second the host can keep up with.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence as Seq
from statistics import median
from typing import Any

import numpy as np

from tinyinfer import LLM, SamplingParams
from tinyinfer.arrays import Array
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.clock import WallClock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import build_engine
from tinyinfer.ledger import Ledger
from tinyinfer.model.interfaces import Sampled
from tinyinfer.sequence import Batch, Wanted

TOKEN, WARM, STEPS = 500, 20, 100


class NoTime:
    """A compiled pass that computes nothing, and chooses the same token everywhere."""

    def __init__(self, cache: Any, vocab_size: int) -> None:
        self.cache, self.vocab_size = cache, vocab_size

    def forward(self, batch: Batch) -> Array:
        self.cache.record_written(batch)
        return np.broadcast_to(np.float32(0), (len(batch.logit_rows), self.vocab_size))

    def sample(self, logits: Array, wanted: Seq[Wanted]) -> Sampled:
        return Sampled(np.full(len(logits), TOKEN), np.zeros(len(logits)), np.ones(len(logits)))


class NoTimeOps(NumpyOps):
    """NumPy's operations, none of which is called."""

    def compile(self, model: Any, cache: Any, rows: int = 1) -> NoTime:
        return NoTime(cache, model.config.vocab_size)


def step_seconds(llm: LLM, count: int) -> float:
    """The median CPU time of a decode step of so many sequences of about 400 positions."""
    config = EngineConfig(kv_cache="paged", max_num_seqs=count, max_num_batched_tokens=1 << 20)
    engine = build_engine(llm.model, NoTimeOps(Ledger()), config, WallClock())
    prompts = [[TOKEN] * (300 + 37 * i % 100) for i in range(count)]  # of different lengths, so blocks fill in turn
    run = engine.run(llm.sequences(prompts, SamplingParams(max_tokens=WARM + STEPS + 1, ignore_eos=True)))
    times = []
    for _ in range(WARM + STEPS):
        begun = time.process_time()
        next(run)
        times.append(time.process_time() - begun)
    run.close()
    return median(times[WARM:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 64, 256])
    args = parser.parse_args()
    llm = LLM(args.model)
    print("sequences  ms a step  us a token  tok/s at most")
    for count in args.sequences:
        seconds = step_seconds(llm, count)
        print(f"{count:9}  {1e3 * seconds:9.3f}  {1e6 * seconds / count:10.1f}  {count / seconds:13,.0f}")


if __name__ == "__main__":
    main()
