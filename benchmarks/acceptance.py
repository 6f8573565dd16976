"""How many sampled drafts are accepted, by both verifications: `python benchmarks/acceptance.py [-m MODEL] [--json]`.

Three tables. Pairs: distributions p and q drawn at random, at three distances. Rows: the target's and the drafter's own
distributions at the positions of texts that the target sampled, at each temperature. Both say how often a draft is
accepted, by many seeds through the engine's own code, beside what theory says of the same distributions: with d their
total variation distance, best-coupling accepts 1 - d, the most that is possible, and same-text at least (1 - d)/(1 + d)
(Daliri, Musco & Suresh 2024). Runs: whole answers with each drafter under each verification, and without drafts: the
drafts accepted of those proposed, tokens a step and a second, and the texts that are those of no drafts. Rows are
printed to stderr as they come.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyinfer import LLM, SamplingParams
from tinyinfer.engine.clock import WallClock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import build_engine
from tinyinfer.engine.loop import EngineLoop
from tinyinfer.engine.turns import StepLock
from tinyinfer.model.transformer import Model
from tinyinfer.sampling import draw, filtered, softmax
from tinyinfer.speculative.base import DraftCost
from tinyinfer.speculative.best_coupling import DRAFT_STREAM, accept_or_replace
from tinyinfer.speculative.switches import VERIFICATIONS

PROMPTS = ["Once upon a time", "The history of the city begins", "def fibonacci(n):", "To make bread you need"]
Pair = tuple[np.ndarray, np.ndarray]  # the scores of target and drafter, (V,) each
Row = dict[str, Any]


def accepted(pairs: list[Pair], seeds: int) -> Row:
    """What theory says of pairs of scores, and the share of drafts that the engine's code accepts."""
    rows = []
    for position, (s, t) in enumerate(pairs):
        p, q = softmax(s), softmax(t)
        d = np.abs(p - q).sum() / 2
        same = [draw(s, seed, position) == draw(t, seed, position) for seed in range(seeds)]
        drafts = [draw(t, seed, position, DRAFT_STREAM) for seed in range(seeds)]
        coupled = [accept_or_replace(p, q, x, seed, position) == x for seed, x in enumerate(drafts)]
        rows.append((d, 1 - d, np.mean(coupled), (1 - d) / (1 + d), np.mean(same)))
    names = "distance", "1 - d", "best-coupling", "(1 - d)/(1 + d)", "same-text"
    return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))


def random_pairs(spread: float, n: int = 40, size: int = 1000) -> list[Pair]:
    """Scores of standard deviation 2.5, and the same with as much noise as `spread`."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((n, size)) * 2.5
    return list(zip(first, first + spread * rng.standard_normal((n, size)), strict=True))


def logits(llm: LLM, model: Model, tokens: list[int]) -> np.ndarray:
    """The logits of a model with the LLM's tokens after each of the tokens, (n, vocab)."""
    engine = build_engine(model, llm.ops, EngineConfig(max_model_len=llm.max_model_len), WallClock())
    [seq] = llm.sequences([tokens])
    return np.concatenate([part for _, part in EngineLoop(engine, StepLock()).logits(seq, len(tokens))])


def row_pairs(llm: LLM, texts: list[list[int]], params: SamplingParams) -> Iterator[Pair]:
    """The scores of the target and of the LLM's drafter at each generated token of the texts."""
    drafter: Any = llm.engine.drafter
    for prompt, text in zip(PROMPTS, texts, strict=True):
        known = llm.tokenizer.encode(prompt)
        both = (logits(llm, model, [*known, *text])[len(known) - 1 : -1] for model in (llm.model, drafter.model))
        yield from ((filtered(x, params, [], []), filtered(y, params, [], [])) for x, y in zip(*both, strict=True))


def run(llm: LLM, params: list[SamplingParams]) -> tuple[list[list[int]], Row]:
    """Whole answers, a sequence at a time; their tokens, and what they took."""
    cost = DraftCost(lambda rows: 1.0)  # else drafting would end where it is slower than plain decoding
    engine = build_engine(llm.model, llm.ops, llm.engine_config, WallClock(), draft_cost=cost)
    before, started, texts = llm.ledger.copy(), time.perf_counter(), []
    for prompt, p in zip(PROMPTS, params, strict=True):
        [seq] = llm.sequences([prompt], p)
        for _ in engine.run([seq]):
            continue
        texts.append(seq.new_tokens)
    seconds, work = time.perf_counter() - started, llm.ledger - before
    tokens = sum(map(len, texts))
    return texts, {
        "accepted": work.drafts_accepted,
        "proposed": work.drafts_proposed,
        "tokens a step": tokens / work.steps,
        "tokens/s": tokens / seconds,
    }


def drafting(model: str, plain: LLM, name: str) -> dict[str, LLM]:
    """An LLM for each verification, whose drafter is "layers:N" or bits as in --draft-quantize."""
    kind, _, layers = name.partition(":")
    own: Row = {"draft_layers": int(layers)} if kind == "layers" else {"draft_quantize": kind, "group_size": 64}
    first = plain if kind == "layers" else LLM(model, speculative="self", **own)
    configs = {one: EngineConfig(speculative="self", verification=one, **own) for one in VERIFICATIONS}
    return {one: first.with_engine(config) for one, config in configs.items()}


def with_drafter(model: str, plain: LLM, name: str, args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """(table, row) for each temperature: on the same rows, and of whole answers."""
    engines = drafting(model, plain, name)
    for temperature in args.temperature:
        params = [SamplingParams(max_tokens=args.tokens, ignore_eos=True, temperature=temperature, seed=seed)
                  for seed, _ in enumerate(PROMPTS)]  # fmt: skip
        texts, found = run(plain, params)
        about = {"drafter": name, "temperature": temperature}
        pairs = list(row_pairs(engines["same-text"], texts, params[0]))
        yield "rows", about | accepted(pairs, args.seeds)
        yield "runs", about | {"verification": "no drafts"} | found
        for verification, llm in engines.items():
            mine, found = run(llm, params)
            same = sum(one == other for one, other in zip(mine, texts, strict=True))
            yield "runs", about | {"verification": verification} | found | {"same texts": f"{same} of {len(texts)}"}


def show(title: str, rows: list[Row]) -> None:
    """Prints one table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[f"{row[name]:.3g}" if isinstance(row.get(name), float) else str(row.get(name, "")) for name in names]
             for row in rows]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    print(f"\n{title}")
    for line in (names, *cells):
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--drafts", nargs="*", default=["layers:24", "int4"], help="layers:N, or bits")
    parser.add_argument("--temperature", nargs="*", type=float, default=[0.5, 0.8, 1.0])
    parser.add_argument("--tokens", type=int, default=64, help="length of each of the four answers")
    parser.add_argument("--seeds", type=int, default=8, help="draws at each position")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    tables: dict[str, list[Row]] = {"pairs": [], "rows": [], "runs": []}
    for spread in (0.3, 0.7, 1.5):
        tables["pairs"].append({"spread": spread} | accepted(random_pairs(spread), 16 * args.seeds))
    plain = LLM(args.model)
    for name in args.drafts:
        for table, row in with_drafter(args.model, plain, name, args):
            tables[table].append(row)
            print(table, json.dumps(row), file=sys.stderr)
    if args.json:
        print(json.dumps(tables))
        return
    for title, rows in tables.items():
        show(title, rows)


if __name__ == "__main__":
    main()
