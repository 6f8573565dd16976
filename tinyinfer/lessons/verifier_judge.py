"""The judge of a student's verifier of drafts: the exact law of what comes out, and which usual mistake it is.

A draft x is drawn from q, accepted with probability accept(x), and replaced by a draw from another law if it is
rejected. So a token comes out with probability q·accept + (1 - Σ q·accept)·replacement, which must be p: no sample is
needed to judge it, and no wrong rule can pass by luck.

Wins: a difference of one in a billion is seen. Loses: an unusual mistake is only located, not named.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product
from math import prod
from typing import Any

import numpy as np

from tinyinfer.lessons.exercise import Wrong
from tinyinfer.lessons.own_part import Verifier
from tinyinfer.units import number, show

TOLERANCE = 1e-9  # sums of a few float64 numbers near 1 are exact to about 1e-15
NEARLY = 1e-3  # an error this small is no usual mistake, but a rounding or a small number that was added
NEVER = 1e-12  # a draft that is rejected less often than this never needs its replacement


def leviathan(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (V,), (V,) -> (V,), (V,)
    """Accepts with probability min(1, p/q), and replaces from what q lacks (Leviathan et al. 2023, algorithm 1)."""
    accept = np.minimum(1, p / np.maximum(q, 1e-300))  # (V,); q is 0 where nothing is ever drafted
    lacking = np.maximum(p - q, 0)  # (V,)
    return accept, lacking / max(lacking.sum(), 1e-300)


def likelier(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (V,), (V,) -> (V,), (V,)
    """The wrong rule of the lesson: accepts whatever the target finds likelier than the drafter, else draws from p."""
    return (p > q) * 1.0, p


def law(verifier: Verifier, p: np.ndarray, q: np.ndarray) -> np.ndarray:  # (V,), (V,) -> (V,)
    """The exact probability of each token that comes out."""
    accept, replacement = verifier(p, q)  # (V,), (V,)
    kept = np.where(q > 0, q * accept, 0)  # (V,)
    lost = 1 - kept.sum()
    return kept + lost * replacement if lost > NEVER else kept


def accepted_share(verifier: Verifier, p: np.ndarray, q: np.ndarray) -> float:  # (V,), (V,) ->
    """The share of drafts that are accepted."""
    return float(np.where(q > 0, q * verifier(p, q)[0], 0).sum())


def step_law(
    verifier: Verifier, target: np.ndarray, drafter: np.ndarray, drafts: int
) -> dict[tuple[int, ...], float]:  # (V, V), (V, V) ->
    """The exact probability of each text that begins behind token 0, over all drafts, acceptances and replacements.

    target[i], drafter[i]: the laws of the token behind token i. A step has `drafts` drafts; the texts are one longer.
    Behind a replaced draft the text goes on by the target's law, as later steps would write it.
    """
    rules = [verifier(p, q) for p, q in zip(target, drafter, strict=True)]
    found = {}
    for tokens in product(range(len(target)), repeat=drafts + 1):
        path = list(pairwise((0, *tokens)))
        total, accepted = 0.0, 1.0  # accepted: the probability that all drafts so far are these, and accepted
        for i, (before, token) in enumerate(path[:drafts]):
            accept, replacement = rules[before]
            lost = 1 - float((drafter[before] * accept).sum())
            total += accepted * lost * replacement[token] * prod(target[a][b] for a, b in path[i + 1 :])
            accepted *= drafter[before][token] * accept[token]
        found[tokens] = float(total + accepted * target[path[-1][0]][path[-1][1]])
    return found


def chain_law(target: np.ndarray, length: int) -> dict[tuple[int, ...], float]:  # (V, V) ->
    """The probability of each text behind token 0, written one token at a time by the target alone."""
    texts = product(range(len(target)), repeat=length)
    return {tokens: float(prod(target[a][b] for a, b in pairwise((0, *tokens)))) for tokens in texts}


def random_laws(count: int, size: int, seed: int) -> np.ndarray:  # -> (count, size)
    """Some random laws over `size` tokens."""
    weights = np.random.RandomState(seed).gamma(0.7, size=(count, size))  # (count, size)
    return weights / weights.sum(axis=1, keepdims=True)


def judge_verifier(answer: Any) -> Wrong | None:
    """What is wrong with a student's rule; None when every token comes out with exactly the target's probability."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", 'give the function itself: check("verifier", verifier)')
    with np.errstate(all="ignore"):
        for p, q in cases():
            mine, theirs = p.copy(), q.copy()
            given = answer(mine, theirs)
            if not (np.array_equal(mine, p) and np.array_equal(theirs, q)):
                return Wrong("The function changes the laws of its caller.", "write p / q, not p /= q")
            wrong = malformed(given, p, q) or _unlawful(answer, p, q)
            if wrong:
                return wrong
    return None


def cases() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of laws (p, q): unlike ones, then equal ones, and ones that lack tokens of each other."""
    laws = random_laws(8, 8, seed=8)  # (8, 8)
    yield from zip(laws[:4], laws[4:], strict=True)
    yield laws[0], laws[0]
    yield np.array([0.5, 0.5, 0, 0]), np.array([0, 0.25, 0.75, 0])
    yield np.array([1.0, 0]), np.array([0, 1.0])


def malformed(given: Any, p: np.ndarray, q: np.ndarray) -> Wrong | None:
    """What is wrong with the form of what a rule returned, before its law is looked at."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        return Wrong(f"The function returned {show(given)}.", "return two arrays: accept, replacement")
    for name, array in zip(("accept", "replacement"), given, strict=True):
        if not isinstance(array, np.ndarray) or array.shape != p.shape:
            shape = getattr(array, "shape", type(array).__name__)
            return Wrong(f"`{name}` is no array of one number a token, but {shape}.", f"p has the shape {p.shape}")
    accept, replacement = given
    used = accept[q > 0]
    if not (np.isfinite(used).all() and (used >= -TOLERANCE).all() and (used <= 1 + TOLERANCE).all()):
        return Wrong("`accept` holds a number that is no probability.", "no probability is above 1: cut p/q off there")
    lost = 1 - (q[q > 0] * used).sum()
    if lost <= NEVER:
        return None
    if not np.isfinite(replacement).all() or (replacement < -TOLERANCE).any():
        return Wrong("`replacement` holds a number that is no probability.", "what q has too much of is not lacking: "
                     "cut p - q off at 0")  # fmt: skip
    if abs(replacement.sum() - 1) > TOLERANCE:
        return Wrong(f"`replacement` sums to {number(float(replacement.sum()))}, not to 1.", "divide it by its sum")
    return None


def _unlawful(answer: Verifier, p: np.ndarray, q: np.ndarray) -> Wrong | None:  # (V,), (V,) ->
    """What is wrong with the law of what comes out, or with how much is accepted."""
    found, accepted = law(answer, p, q), accepted_share(answer, p, q)  # (V,)
    token = int(np.abs(found - p).argmax())
    if abs(found[token] - p[token]) > TOLERANCE:
        known = (
            hint
            for hint, rule in USUAL.items()
            if np.allclose(law(rule, p, q), found, atol=TOLERANCE)
            and abs(accepted_share(rule, p, q) - accepted) < TOLERANCE  # two mistakes can give the same law
        )
        text = f"Token {token} comes out with probability {found[token]:.3f} instead of {p[token]:.3f}."
        if abs(found[token] - p[token]) < NEARLY:
            text = f"Token {token} comes out with a probability that is off by {abs(found[token] - p[token]):.1g}."
            return Wrong(text, "nearly is not exactly: is a small number added somewhere, or fewer bits than in p?")
        return Wrong(text, next(known, "a token comes out as an accepted draft, or as a replacement: add the two"))
    most = np.minimum(p, q).sum()
    if accepted < most - TOLERANCE:
        text = f"The law is right, but only {accepted:.0%} of the drafts are accepted, and {most:.0%} can be."
        return Wrong(text, "a token that the target finds at least as likely as the drafter need never be rejected")
    return None


def _accept(p: np.ndarray, q: np.ndarray) -> np.ndarray:  # (V,), (V,) -> (V,)
    return leviathan(p, q)[0]


def _share(x: np.ndarray) -> np.ndarray:  # (V,) -> (V,)
    return x / max(x.sum(), 1e-300)


USUAL: dict[str, Verifier] = {
    "every draft is accepted, so the text follows the drafter's law q": lambda p, q: (np.ones_like(p), p),
    "all or nothing is not enough: where q is a little above p, some drafts must pass; and p brings back what was just "
    "rejected": likelier,
    "a rejected draft is replaced from p: tokens that were accepted often enough come a second time. Replace only from "
    "what q lacks": lambda p, q: (_accept(p, q), p),
    "a rejected draft is replaced from q, which drafts too much of just these tokens": lambda p, q: (_accept(p, q), q),
    "a draft is accepted with probability p, whatever q is; q has drawn it already": lambda p, q: (p, p),
    "a draft is accepted with probability p, whatever q is: divide by q": lambda p, q: (
        p, _share(np.maximum(p - q, 0))
    ),
    "the quotient is upside down: accept with p/q": lambda p, q: (_accept(q, p), _share(np.maximum(p - q, 0))),
    "p - q is taken without its sign: only what q lacks may be added": lambda p, q: (
        _accept(p, q), _share(np.abs(p - q))
    ),
    "the replacement is upside down: it adds what q has too much of": lambda p, q: (
        _accept(p, q), _share(np.maximum(q - p, 0))
    ),
    "the replacement is right, but a draft that is likelier in q must pass with probability p/q, not never":
        lambda p, q: ((p > q) * 1.0, _share(np.maximum(p - q, 0))),
    "only the likeliest token is ever accepted or put in place: that is greedy, not a draw": lambda p, q: (
        (p == p.max()) * 1.0, (p == p.max()) * 1.0
    ),
}  # fmt: skip
