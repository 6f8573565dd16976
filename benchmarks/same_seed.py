"""How often a seeded draw changes because a row was computed in other company: `python benchmarks/same_seed.py`.

The model reads texts of its own, token by token, alone and once more in company: in batches, with its prompt in chunks,
several rows at once (as with guesses), again from the beginning (as after a preemption), in another cache or backend.
The logits differ in their last bits, and a draw may turn out differently. Two draws are compared on the same pairs of
rows: by inverse CDF in the order of the vocabulary ("before": tinyinfer's former draw, and the usual one) and the
largest of scores + Gumbel noise ("after": sampling.py).

For a pair of distributions p and q the share of seeds that flip is a formula, so that rare flips need no luck to be
seen. Inverse CDF: the part of [0, 1) that belongs to another token. Gumbel noise: 1 - sum over i of
1 / (sum over j of max(p_j / p_i, q_j / q_i)). `--count N` beside it draws by N seeds for each pair at temperature 1.
No draw at all can flip less than the total variation of p and q.

A filter keeps other tokens in the two rows where a token lies at its edge. Flips of these rows are told apart.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyinfer import LLM, SamplingParams
from tinyinfer.engine.config import EngineConfig
from tinyinfer.noise import gumbel
from tinyinfer.sampling import filtered, softmax
from tinyinfer.sequence import Batch, Sequence, Span
from tinyinfer.units import table

OPENINGS = (
    "Once upon a time", "The capital of France is", "Dear Sir or Madam,", "def fibonacci(n):", "The river rises in the",
    "Q: What is gravity?\nA:", "In 1969", "She opened the letter and", "1, 2, 3, 5, 8,", "Breaking news:",
    "The recipe needs", "My favourite book", "To whom it may concern:", "It was raining when", "Step one:", "Why cats",
)  # fmt: skip
SETTINGS = {
    "T=1": SamplingParams(temperature=1.0),
    "T=0.7": SamplingParams(temperature=0.7),
    "top_p 0.95": SamplingParams(temperature=1.0, top_p=0.95),
    "top_k 50": SamplingParams(temperature=1.0, top_k=50),
    "min_p 0.05": SamplingParams(temperature=1.0, min_p=0.05),
}


@dataclass(frozen=True)
class Case:
    """A way to compute the rows. The same switches, alone and row by row, are what it is compared with.

    company: texts in a step. chunk: rows of the prompt in a step (0: all). rows: those of the answer in a step.
    again: after so many tokens, all are computed again in one step (0: never). other: switches of this run alone.
    """

    name: str
    company: int = 1
    chunk: int = 0
    rows: int = 1
    again: int = 0
    switches: dict[str, Any] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)


BFLOAT16, KV8, KV4 = {"dtype": "bfloat16"}, {"kv_bits": 8}, {"kv_bits": 4}
W8A8 = {"quantize": "w8a8", "calibration_tokens": 512}
INT8 = {"quantize": "int8", "activations": "int8"}
CASES = (
    *(Case(f"batch of {size}", company=size) for size in (2, 4, 8, 16)),
    *(Case(f"prompt in chunks of {size}", chunk=size) for size in (7, 16, 32)),
    Case("5 rows in a step", rows=5),
    Case("computed again, every 8 tokens", again=8),
    Case("paged", other={"kv_cache": "paged"}),
    Case("no cache", other={"kv_cache": "none"}, again=1),
    Case("backend reference", other={"backend": "reference"}),
    Case("bfloat16, batch of 8", company=8, switches=BFLOAT16),
    Case("kv_bits 8, batch of 8", company=8, switches=KV8),
    Case("kv_bits 8, computed again", again=8, switches=KV8),
    Case("kv_bits 4, batch of 8", company=8, switches=KV4),
    Case("kv_bits 4, computed again", again=8, switches=KV4),
    Case("w8a8, 5 rows in a step", rows=5, switches=W8A8),
    Case("w8a8, computed again", again=8, switches=W8A8),
    Case("int8 activations, batch of 8", company=8, switches=INT8),
    Case("int8 activations, 5 rows in a step", rows=5, switches=INT8),
    Case("int8 activations, computed again", again=8, switches=INT8),
)

# Rows.


def step(llm: LLM, work: list[tuple[Sequence, int]], wanted: int) -> list[np.ndarray]:
    """One forward pass over the next rows of each sequence; the logits of the last `wanted` rows of each."""
    cache, spans, tokens, positions, logit_rows = llm.engine.cache, [], [], [], []
    for seq, rows in work:
        first, start = cache.length(seq), len(tokens)
        cache.reserve(seq, rows)
        tokens += seq.tokens[first : first + rows]
        positions += range(first, first + rows)
        logit_rows += range(len(tokens) - wanted, len(tokens))
        spans.append(Span(seq, start, len(tokens), first, wanted))
    batch = Batch(np.array(tokens), np.array(positions), np.array(logit_rows, dtype=np.int64), tuple(spans))
    found = np.split(llm.engine.forward(batch), len(work))  # each wants as many rows
    for seq, rows in work:
        cache.commit(seq, rows)
    return found


def rows_of(llm: LLM, texts: list[list[int]], case: Case, scored: int, count: int) -> list[np.ndarray]:
    """The logits of the last `count` rows of the first `scored` texts, each (count, V), computed as the case says."""
    found: list[np.ndarray] = []
    for i in range(0, scored, case.company):
        sequences = llm.sequences(texts[i : i + case.company], SamplingParams(max_tokens=1))
        llm.engine.cache.prepare(sequences)
        for seq in sequences:
            prompt = len(seq.tokens) - count
            for first in range(0, prompt, case.chunk or prompt):
                step(llm, [(seq, min(case.chunk or prompt, prompt - first))], 0)
        parts = [answer_step(llm, sequences, case, n, count) for n in range(0, count, case.rows)]
        found += [np.concatenate(rows) for rows in zip(*parts, strict=True)]
        for seq in sequences:
            llm.engine.cache.free(seq)
    return found[:scored]


def answer_step(llm: LLM, sequences: list[Sequence], case: Case, done: int, count: int) -> list[np.ndarray]:
    """The next rows of each answer, of which `done` of `count` rows are computed."""
    rows = min(case.rows, count - done)
    if not case.again or done % case.again:
        return step(llm, [(seq, rows) for seq in sequences], rows)
    for seq in sequences:
        llm.engine.cache.free(seq)
    return step(llm, [(seq, len(seq.tokens) - count + done + rows) for seq in sequences], rows)


# Draws.


@dataclass(frozen=True)
class Flips:
    """Shares of the seeds: that flip by inverse CDF, by Gumbel noise, and at least (total variation)."""

    before: float
    after: float
    least: float
    edge: bool  # whether the filter kept other tokens


def flips(a: np.ndarray, b: np.ndarray, params: SamplingParams) -> Flips:  # (V,), (V,) ->
    """What a pair of rows gives."""
    if np.array_equal(a, b):
        return Flips(0.0, 0.0, 0.0, edge=False)
    s, t = filtered(a, params, [], []), filtered(b, params, [], [])  # (V,), (V,)
    in_s, in_t = s > -np.inf, t > -np.inf
    kept = in_s | in_t
    s, t = s[kept], t[kept]
    p, q = softmax(s), softmax(t)
    edge = bool((in_s != in_t).any())
    return Flips(inverse_cdf_flips(p, q), gumbel_flips(p, q, t - s), float(np.abs(p - q).sum() / 2), edge)


def inverse_cdf_flips(p: np.ndarray, q: np.ndarray) -> float:  # (n,), (n,) ->
    """1 - the length of [0, 1) that belongs to the same token in both."""
    P, Q = np.cumsum(p), np.cumsum(q)
    stops, starts = np.minimum(P, Q), np.maximum(P - p, Q - q)
    return max(0.0, 1.0 - float((stops - starts).clip(min=0).sum()))


def gumbel_flips(p: np.ndarray, q: np.ndarray, moved: np.ndarray) -> float:  # (n,), (n,), (n,) ->
    """1 - sum of 1 / (sum over j of max(p_j / p_i, q_j / q_i)); moved: log q/p but for a constant.

    The larger of the two is q's for the tokens that moved up by more than i, and p's for the others.
    """
    order = np.argsort(moved)
    p, q = p[order], q[order]
    below, above = np.cumsum(p), q.sum() - np.cumsum(q)
    with np.errstate(invalid="ignore"):
        same = p * q / (above * p + below * q)
    return max(0.0, 1.0 - float(np.nansum(same)))  # NaN: a token of probability 0 in both


def inverse_cdf(s: np.ndarray, u: np.ndarray) -> np.ndarray:  # (V,), (n,) -> (n,)
    """The draws that were: for each u the token in whose part of the cumulative sum it lies."""
    cumulative = np.cumsum(softmax(s))
    return np.searchsorted(cumulative, u * cumulative[-1], side="right")


def counted(pairs: list[tuple[np.ndarray, np.ndarray]], seeds: int) -> tuple[int, int]:
    """How many of the draws by `seeds` seeds for each pair differ: by inverse CDF, by Gumbel noise."""
    before = after = 0
    for position, (a, b) in enumerate(pairs):
        s, t = (filtered(row, SETTINGS["T=1"], [], []) for row in (a, b))
        u = np.random.default_rng(position).random(seeds)  # (seeds,)
        before += int((inverse_cdf(s, u) != inverse_cdf(t, u)).sum())
        for seed in range(seeds):
            g = gumbel(seed, position, len(s))  # (V,)
            after += (s + g).argmax() != (t + g).argmax()
    return before, after


# The table.


def with_switches(llm: LLM, switches: dict[str, Any]) -> LLM:
    """The model with these switches; the weights are loaded again only where they must be others."""
    config = EngineConfig(**switches)
    return llm.with_engine(config) if config.same_weights(llm.engine_config) else LLM(llm.path, **switches)


def measured(
    llm: LLM, cases: list[Case], texts: list[list[int]], scored: int, count: int, seeds: int
) -> Iterator[dict[str, Any]]:
    """One record for each case and setting."""
    alone: dict[str, list[np.ndarray]] = {}
    for case in cases:
        key = repr(case.switches)
        if key not in alone:
            alone[key] = rows_of(with_switches(llm, case.switches), texts, Case("alone"), scored, count)
        rows = rows_of(with_switches(llm, case.switches | case.other), texts, case, scored, count)
        pairs = list(zip(np.concatenate(alone[key]), np.concatenate(rows), strict=True))
        moved = max(float(np.abs(a - b).max()) for a, b in pairs)
        drawn = counted(pairs, seeds)
        for name, params in SETTINGS.items():
            found = [flips(a, b, params) for a, b in pairs]
            edges = [one for one in found if one.edge]
            record = {"case": case.name, "setting": name, "rows": len(pairs), "moved": moved, "edge_rows": len(edges)}
            for which in ("before", "after", "least"):
                record[which] = sum(getattr(one, which) for one in found) / len(pairs)
                record[f"{which}_at_edges"] = sum(getattr(one, which) for one in edges) / len(pairs)
            if name == "T=1" and seeds:
                record |= {"draws": len(pairs) * seeds, "counted_before": drawn[0], "counted_after": drawn[1]}
            yield record


def shown(records: list[dict[str, Any]]) -> str:
    """Flips of 10,000 tokens: all of them, then those of the rows in which a filter kept other tokens."""
    cases = list(dict.fromkeys(record["case"] for record in records))
    by = {(record["case"], record["setting"]): record for record in records}
    head = ["flips of 10,000 tokens, before > after", "logits differ by", *SETTINGS]
    rows = [[case, f"{by[case, 'T=1']['moved']:.1e}", *(arrow(by[case, name]) for name in SETTINGS)] for case in cases]
    filters = [name for name, params in SETTINGS.items() if params.top_k or params.top_p < 1 or params.min_p]
    edges = [["of these, where the filter kept other tokens", *filters]]
    for case in cases:
        if any(by[case, name]["edge_rows"] for name in filters):
            edges.append([case, *(edge_text(by[case, name]) for name in filters)])
    tables = [table(part) for part in ([head, *rows], edges) if len(part) > 1]
    lines = [
        f"{case}: counted {by[case, 'T=1']['counted_before']} > {by[case, 'T=1']['counted_after']} of "
        f"{by[case, 'T=1']['draws']} draws at T=1" for case in cases if "draws" in by[case, "T=1"]
    ]  # fmt: skip
    return "\n\n".join([*tables, *(["\n".join(lines)] if lines else [])])


def edge_text(record: dict[str, Any]) -> str:
    """The flips at a filter's edge, and in how many rows there was one."""
    return f"{arrow(record, '_at_edges')} in {record['edge_rows']} of {record['rows']} rows"


def arrow(record: dict[str, Any], which: str = "") -> str:
    """Before and after, in 10,000ths."""
    return f"{1e4 * record['before' + which]:.3g} > {1e4 * record['after' + which]:.3g}"


def main() -> None:
    """Writes the texts, computes the rows and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--cases", default="", help="only the cases whose names hold one of these words, by commas")
    parser.add_argument("--texts", type=int, default=4, help="texts whose rows are compared; the others are company")
    parser.add_argument("--tokens", type=int, default=32, help="rows of each text")
    parser.add_argument("--prompt", type=int, default=64, help="tokens before them, but for the opening's")
    parser.add_argument("--count", type=int, default=0, metavar="SEEDS", help="also count, by so many seeds a row")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    words = [word for word in args.cases.split(",") if word]
    cases = [case for case in CASES if not words or any(word in case.name for word in words)]
    started = time.perf_counter()
    n, llm = args.prompt + args.tokens, LLM(args.model)
    params = [SamplingParams(max_tokens=n, temperature=1.0, seed=i, ignore_eos=True) for i in range(len(OPENINGS))]
    texts = [[*one.prompt_token_ids, *one.token_ids] for one in llm.generate(list(OPENINGS), params)]
    records = []
    for record in measured(llm, cases, texts, args.texts, args.tokens, args.count):
        records.append(record)
        if args.json:
            print(json.dumps(record), flush=True)
    if not args.json:
        print(shown(records))
        print(f"\n{args.texts * args.tokens} rows a case, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
