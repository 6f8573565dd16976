"""Tokens a second of greedy answers to prompts, after one that is not timed, as a line of JSON.

    python benchmarks/cpu_parts/answers.py --switches '{"speculative": "self"}' --prompts "Tell me a story."
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tinyinfer import LLM, SamplingParams

TOKENS = 256


def main() -> None:
    """Answers and prints."""
    parser = argparse.ArgumentParser(description="greedy answers")
    parser.add_argument("-m", default="smollm2-135m")
    parser.add_argument("-t", type=int, default=2)
    parser.add_argument("--switches", type=json.loads, default={}, help="a JSON object")
    parser.add_argument("--prompts", nargs="+", required=True)
    args = parser.parse_args()
    llm = LLM(args.m, backend="numba", threads=args.t, **args.switches)
    params, seconds, tokens = SamplingParams(max_tokens=TOKENS, ignore_eos=True), 0.0, 0
    for n, prompt in enumerate([args.prompts[0], *args.prompts]):
        [seq] = llm.sequences([llm.chat_prompt([{"role": "user", "content": prompt}])], params)
        for _ in llm.engine.run([seq]):
            continue
        if n:
            seconds, tokens = seconds + seq.timing.times[-1] - seq.timing.times[0], tokens + TOKENS - 1
    print(json.dumps({"generation_tps": tokens / seconds}))


if __name__ == "__main__":
    main()
