"""Decoding with drafts against plain decoding: `python benchmarks/speculation_floor.py [--backend NAME] [--rounds N]`.

Open text, where most drafts are rejected, greedy and sampled: speculation must not be slower than 0.95 of plain
decoding, from the first answer of a new engine on. And an answer that copies its prompt, where the win must stay. In
each round every setting gets a new engine, and the settings answer each prompt in turn, so that other load on the
machine meets all of them. The time is that from the first token to the last; rows are printed to stderr as they come.
`--clock cpu` counts the time that the process had a core, for a machine that is not quiet; then `--threads 1` says the
most.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from tinyinfer import LLM, SamplingParams
from tinyinfer.backends.switches import BACKENDS
from tinyinfer.engine.clock import Clock, WallClock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.units import table

OPEN = (
    "Write a short story about a lighthouse keeper.", "Tell me a story about two foxes in winter.",
    "Describe an evening in a small harbour town.", "Write about a girl who finds an old map.",
)  # fmt: skip
COPY = (
    "Repeat the following text word for word.\n\nEvery Tuesday the museum opens at nine in the morning. The guide "
    "meets the group at the main entrance, explains the plan of the building and hands out the maps. The tour begins "
    "in the room of the old instruments, continues in the room of the clocks and ends in the garden, where the "
    "visitors may ask questions.",
)
TEXTS = {"open, greedy": (OPEN, 0.0), "open, T = 0.8": (OPEN, 0.8), "copying": (COPY, 0.0)}
DRAFTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "prompt-lookup": {"speculative": "prompt-lookup"},
    "self, first layers": {"speculative": "self"},
    "self, int4": {"speculative": "self", "draft_quantize": "int4", "group_size": 64},
}
Row = dict[str, Any]


class CpuClock(WallClock):
    """The time in which this process had a core."""

    def __call__(self) -> float:
        return time.process_time()


def answer(llm: LLM, prompt: str, params: SamplingParams) -> tuple[float, list[int], int]:
    """Seconds from the first token to the last, the tokens, and how many drafts were proposed."""
    [seq] = llm.sequences([llm.chat_prompt([{"role": "user", "content": prompt}])], params)
    for _ in llm.engine.run([seq]):
        continue
    return seq.timing.times[-1] - seq.timing.times[0], seq.new_tokens, seq.speculation.proposed


def drafting(plain: LLM, model: str, switches: dict[str, Any]) -> LLM:
    """The model with these switches; with the weights of `plain`, unless the draft needs other ones."""
    return LLM(model, **switches) if "draft_quantize" in switches else plain.with_engine(EngineConfig(**switches))


def run_round(models: dict[str, LLM], clock: Clock, tokens: int, seed: int) -> Iterator[Row]:
    """Of each kind of text, prompt and drafter the seconds of the answer and of the plain one, drafts, and whether the
    texts are the same.
    """
    for text, (prompts, temperature) in TEXTS.items():
        params = SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=temperature, seed=seed)
        engines = {name: llm.with_engine(llm.engine_config, clock) for name, llm in models.items()}
        for n, prompt in enumerate(prompts, seed):
            order = list(engines) if n % 2 else list(engines)[::-1]  # so that none is always the first
            answers = {name: answer(engines[name], prompt, params) for name in order}
            plain, words, _ = answers.pop("plain")
            for name, (seconds, mine, drafts) in answers.items():
                about = {"text": text, "drafter": name, "plain": plain, "seconds": seconds}
                yield about | {"drafts": drafts, "same": words == mine}


def summary(text: str, name: str, rows: list[Row]) -> list[str]:
    """A line of the printed table: the ratio of all answers together, that of the worst one, and what they have."""
    mine = [row for row in rows if (row["text"], row["drafter"]) == (text, name)]
    plain, seconds = (sum(row[key] for row in mine) for key in ("plain", "seconds"))
    least, same = min(row["plain"] / row["seconds"] for row in mine), sum(row["same"] for row in mine)
    drafts = str(sum(row["drafts"] for row in mine))
    return [f"{text}, {name}", f"{plain / seconds:.3f}", f"{least:.3f}", drafts, f"{same} of {len(mine)}"]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--backend", default="numpy", choices=BACKENDS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, default=64, help="length of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--drafters", nargs="+", default=list(DRAFTERS)[1:], choices=list(DRAFTERS)[1:])
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    args = parser.parse_args()
    shared = {"backend": args.backend, "threads": args.threads}
    plain = LLM(args.model, **shared)
    models = {"plain": plain} | {name: drafting(plain, args.model, shared | DRAFTERS[name]) for name in args.drafters}
    clock, rows = WallClock() if args.clock == "wall" else CpuClock(), []
    list(run_round(models, clock, 4, 0))  # untimed: brings weights and code into memory
    for seed in range(args.rounds):
        for row in run_round(models, clock, args.tokens, seed):
            rows.append(row)
            print(json.dumps(row), file=sys.stderr)
    head = ["text, drafter", "speed / plain", "least", "drafts", "same text"]
    print(table([head, *(summary(text, name, rows) for text in TEXTS for name in args.drafters)]))


if __name__ == "__main__":
    main()
