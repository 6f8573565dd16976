"""Lesson 08: speculative decoding, its exercises and the runs of the lesson.

The lesson's failure: a verifier that looks right writes text that reads as well as any, but follows another law than
the model's. Only the law shows it (verifier_judge.py).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyinfer.backends.numpy_ops import COSTS
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import build_cache
from tinyinfer.lessons.cache_judge import forward
from tinyinfer.lessons.exercise import Exercise, Wrong, judge_number
from tinyinfer.lessons.own_part import StudentVerifier, Verifier, own_engine
from tinyinfer.lessons.verifier_judge import judge_verifier, leviathan
from tinyinfer.llm import LLM
from tinyinfer.sampling import softmax
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import Draft, Sequence
from tinyinfer.speculative.base import DraftCost, Drafter, NoDrafter, Target
from tinyinfer.speculative.draft_model import self_draft
from tinyinfer.speculative.verify import verify
from tinyinfer.units import show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COPY = (
    "Repeat the following text word for word.\n\nEvery Tuesday the museum opens at nine in the morning. The guide "
    "meets the group at the main entrance, explains the plan of the building and hands out the maps. The tour begins "
    "in the room of the old instruments, continues in the room of the clocks and ends in the garden, where the "
    "visitors may ask questions."
)


def tokens_a_step(a: float, k: int) -> float:
    """Tokens that a step with k drafts brings, each accepted with probability a (Leviathan et al. 2023, equation 1)."""
    return sum(a**i for i in range(k + 1))


def predicted(a: float = 0.8, k: int = 4) -> tuple[float, dict[float, str]]:
    """The tokens of a step with k drafts, each right with probability a; and of each usual wrong guess the idea."""
    truth = tokens_a_step(a, k)
    return truth, {
        1 + k * a: "That counts every right draft. A right draft after a wrong one is thrown away.",
        k * a: "That counts every right draft, and forgets the model's own token.",
        k + 1: "That would be a step in which all drafts are right.",
        truth - 1: "That counts the accepted drafts. Every step also brings one token of the model itself.",
        1 + k * a**k: "That is all or nothing. The right drafts in front of a wrong one stay.",
    }


def next_laws(llm: LLM, text: str, size: int, words: int) -> tuple[list[int], np.ndarray, np.ndarray]:
    """The `size` likeliest next tokens of a text, their law, and the law that its last `words` tokens alone give."""
    ids = llm.tokenizer.encode(text)
    p, q = (softmax(llm.logits(part)[-1].astype(np.float64)) for part in (ids, ids[-words:]))  # (V,), (V,)
    best = np.argsort(-p)[:size]  # (size,)
    return best.tolist(), p[best] / p[best].sum(), q[best] / q[best].sum()


def drawn_counts(
    verifier: Verifier, p: np.ndarray, q: np.ndarray, draws: int, seed: int
) -> np.ndarray:  # (V,), (V,) -> (V,)
    """How often each token comes out of so many draws: drafted by q, accepted or replaced."""
    rng = np.random.default_rng(seed)
    accept, replacement = verifier(p, q)  # (V,), (V,)
    drafts = rng.choice(len(q), size=draws, p=q)  # (draws,)
    kept = rng.random(draws) < accept[drafts]  # (draws,)
    out = np.where(kept, drafts, rng.choice(len(q), size=draws, p=replacement))  # (draws,)
    return np.bincount(out, minlength=len(p))


# Drafters for the real engine.


def layers_drafter(llm: LLM, layers: int, drafts: int) -> Drafter:
    """A drafter of the model's own first layers, which always proposes so many drawn drafts, whatever they cost."""
    way = EngineConfig(speculative="self", verification="best-coupling", draft_layers=layers, num_draft_tokens=drafts)
    cost = DraftCost(lambda rows: 1.0)
    target = Target(llm.model, llm.engine.cache, llm.engine.scheduler.prefixes)
    return self_draft(target, None, llm.ops, way, llm.engine.clock, cost)


def drafted(
    llm: LLM, drafter: Drafter, prompt: str, params: SamplingParams, verifier: Verifier | None = None
) -> Sequence:
    """The sequence that the engine has written with this drafter. verifier: a student's; None: the drafter's own."""
    [seq] = llm.sequences([prompt], params)
    for _ in own_engine(llm, drafter=StudentVerifier(drafter, verifier) if verifier else drafter).run([seq]):
        continue
    return seq


class RandomDrafter(NoDrafter):
    """Proposes DRAFTS tokens that have nothing to do with the text."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size, self.most = vocab_size, DRAFTS

    verify = staticmethod(verify)

    def propose(self, sequences: list[Sequence]) -> None:
        for seq in sequences:
            n, left = len(seq.tokens), seq.most_positions - len(seq.tokens) - 1
            seq.set_drafts(Draft((104_729 * n + 7_919 * i) % self._vocab_size) for i in range(min(DRAFTS, left)))


# What rows cost on this machine, and what drafts are worth.


def row_costs(llm: LLM, counts: Iterable[int], context: int = 64) -> dict[int, float]:
    """Rows of a forward pass behind a context -> its seconds: the median of three passes, from 32 rows on of one."""
    counts = list(counts)
    n = context + max(counts)
    tokens = [i % llm.config.vocab_size for i in range(1000, 1000 + n)]
    cache, [seq] = build_cache(llm.config, llm.ops, EngineConfig()), llm.sequences([tokens])
    cache.reserve(seq, n)
    forward(llm, cache, seq, tokens, 0, context)

    def seconds(rows: int) -> float:
        begun = time.perf_counter()
        forward(llm, cache, seq, tokens, context, context + rows)
        return time.perf_counter() - begun

    seconds(1)  # the first pass of a size finds less in the processor's caches
    return {rows: statistics.median(seconds(rows) for _ in range(3 if rows < 32 else 1)) for rows in counts}


def worth(costs: dict[int, float], a: float, k: int, sequences: int = 1) -> float:
    """How many times faster a step with k drafts for each sequence is than plain decoding; below 1 the drafts lose.

    costs: rows of a pass -> its time. The drafts themselves are free, as those of prompt lookup.
    """
    plain, step = np.interp([sequences, sequences * (1 + k)], list(costs), list(costs.values()))
    return float(tokens_a_step(a, k) * plain / step)


def draw(names: list[str], p: np.ndarray, counts: dict[str, np.ndarray], costs: dict[int, float]) -> Figure:
    """The lesson's figure: frequency over law of each token for each verifier, and where drafts break even.

    counts: of each verifier, the draws of each token, (V,).
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained", width_ratios=(1.5, 1, 1))
    x = np.arange(len(p))  # (V,)
    for shift, (name, drawn), color in zip((-0.15, 0.15), counts.items(), ("C0", "C3"), strict=True):
        n = drawn.sum()
        axes[0].plot(x + shift, drawn / n / p, "o", color=color, label=name, markersize=5)
        band = 1.96 * np.sqrt((1 - p) / (p * n))  # (V,): of 95 in 100 right samples
    axes[0].fill_between(x, 1 - band, 1 + band, color="0.85", label="95 of 100 right samples", step="mid")
    axes[0].axhline(1, color="0.5", linewidth=1)
    axes[0].set_xticks(x, names, rotation=60, ha="right", fontsize=8)
    axes[0].set(ylabel="observed / target", title="What comes out of a verifier")
    axes[0].legend(frameon=False, fontsize=8)
    for ax, sequences in zip(axes[1:], (1, 16), strict=True):
        rates, lengths = np.linspace(0.02, 0.98, 49), list(range(1, 9))  # (rates,)
        gain = np.array([[worth(costs, a, k, sequences) for a in rates] for k in lengths])  # (lengths, rates)
        shown = ax.pcolormesh(rates, lengths, gain, cmap="RdBu", vmin=0, vmax=2, shading="nearest")
        ax.contour(rates, lengths, gain, levels=[1], colors="black")
        ax.set(xlabel="acceptance", ylabel="drafts in a step", title=f"{sequences} sequence{'s' * (sequences > 1)}")
    figure.colorbar(shown, ax=axes[1:], label="times faster (black: break-even)")
    return figure


# The exercises.

P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
AGREE = float(np.minimum(P, Q).sum())
RATE, LENGTHS = 0.6, range(9)
BEST = max(LENGTHS, key=lambda k: worth(COSTS, RATE, k))
NEW, DRAFTS = 24, 4
WORST = (0, NEW)


def judge_worst(answer: Any) -> Wrong | None:
    """Judges (tokens that change, steps) with drafts that are never right."""
    pair = isinstance(answer, tuple | list | np.ndarray) and len(answer) == 2
    if not pair or not all(isinstance(n, int | np.integer) for n in answer):
        return Wrong(f"{show(answer)} is not a pair of whole numbers.", "write (tokens that change, steps)")
    changed, steps = map(int, answer)
    if (changed, steps) == WORST:
        return None
    if changed:
        hint = "a draft only asks a question: each token that is kept is the target's own choice; bad drafts cost time"
        return Wrong(f"Not {changed} tokens change.", hint)
    named = {
        NEW // (DRAFTS + 1) + 1: "that would be the steps if all drafts were accepted; here none is",
        NEW + 1: "the step of the prompt brings the first token",
        NEW * (DRAFTS + 1): "those are the rows: a step has one for the last token and one for each draft",
        2 * NEW: "a rejected draft needs no second step: the row in front of it already says the right token",
        0: "each step still brings one token: the one in place of the first rejected draft",
    }
    return Wrong(f"Not {steps} steps.", named.get(steps, "a step brings the accepted drafts, and one token more"))


EXERCISES = (
    Exercise(
        "verifier", judge_verifier, leviathan,
        "Every token comes out with exactly the target's probability, whatever the drafter is.",
    ),
    Exercise(
        "agree",
        judge_number(
            AGREE, "of the drafts",
            {
                1.0: Wrong("Not all drafts are accepted.", "the third token is drafted in half of the cases, and the "
                           "target wants it less often"),
                float((P * Q).sum()): Wrong("That is how often two independent draws agree.", "the target does not "
                                            "draw and compare: a draft is accepted with probability min(1, p/q)"),
                100 * AGREE: Wrong("That is in percent.", "a share is a number from 0 to 1"),
                1 - AGREE: Wrong("That is the rejected share.", "the accepted share is what both laws have in common"),
                float(Q[P > Q].sum()): Wrong("That counts only where p is above q.", "elsewhere a draft is accepted, "
                                             "too, with probability p/q"),
            },
            "sum q·min(1, p/q), which is min(p, q), over the tokens",
        ),
        AGREE, "Σ min(p, q), which is 1 less the total variation distance: no rule accepts more.",
    ),
    Exercise(
        "length",
        judge_number(
            BEST, "drafts",
            {
                LENGTHS[-1]: Wrong("That brings the most tokens a step.", "longer is not better: the last drafts are "
                                   "almost never reached, and their rows are computed all the same"),
                0: Wrong("Some drafts pay.", "compare the tokens and the cost of one draft with those of none"),
            },
            "for each number, divide the tokens of a step by the cost of its rows", tolerance=1e-9,
        ),
        BEST, "Short drafts are the best where a draft often fails: a row behind a rejected draft is wasted.",
    ),
    Exercise(
        "worst", judge_worst, WORST,
        "The text is the target's own, whatever is drafted: a drafter decides about time alone.",
    ),
)  # fmt: skip
