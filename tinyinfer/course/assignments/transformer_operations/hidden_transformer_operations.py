"""The hidden tests of the transformer's operations: the same claims; other heads, far positions, large scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tinyinfer.course.assignments.transformer_operations import test_transformer_operations as public
from tinyinfer.course.compare import same_array
from tinyinfer.model.heads import Heads, NoCap, NoSinks, SoftCap
from tinyinfer.model.weights import RMSNorm


def test_norms_of_heads(student: Any, part: Any, rng: Any) -> None:
    """Catches a mean over all heads of a row, and squares that leave float32's range unnoticed."""
    ops = student.ReferenceOps()
    with part("heads with a weight of their own"):
        public.check_rms_norm(ops, public.random(rng, 7, 3, 10), RMSNorm(public.random(rng, 3, 10), 1e-6))
    with part("one row of small numbers among large ones"):
        x = public.random(rng, 6, 40) * np.array([[1e-3], [30], [1e-3], [1], [1e-2], [500]], np.float32)
        public.check_rms_norm(ops, x, RMSNorm(public.random(rng, 40), 1e-5))
    with part("one row of one number"):
        public.check_rms_norm(ops, public.random(rng, 1, 1), RMSNorm(public.random(rng, 1), 1e-2))


def test_far_positions(student: Any, part: Any, rng: Any) -> None:
    """Catches angles computed in fewer bits, and amplitudes that only one of cosine and sine gets."""
    ops = student.ReferenceOps()
    with part("positions in the thousands"):
        positions = np.sort(rng.integers(500, 4000, 9))
        public.check_cos_sin(ops, positions, public.rotation_of(rng, 14))
        public.check_rope(ops, public.random(rng, 9, 4, 14), positions, public.rotation_of(rng, 14))
    with part("four sets in one batch"):
        positions, sets = rng.integers(0, 60, 11), rng.integers(0, 4, 11)
        public.check_cos_sin(ops, positions, public.rotation_of(rng, 10, sets=4), sets)


def test_only_the_distance_counts(student: Any, rng: Any) -> None:
    """Catches queries and keys whose turns do not fit together: q · k depends on how far apart they stand."""
    ops, rotation = student.ReferenceOps(), public.rotation_of(rng, 12)
    q, k = public.random(rng, 1, 1, 12), public.random(rng, 1, 1, 12)
    scores = []
    for shift in (0, 5, 90):
        turns = [ops.cos_sin(np.array([p + shift]), np.zeros(1, np.int64), rotation) for p in (9, 2)]
        turned = [ops.rope(x, public.pair(turn, "cos_sin", "two arrays"))
                  for x, turn in zip((q, k), turns, strict=True)]  # fmt: skip
        for x in turned:
            if not isinstance(x, np.ndarray) or x.shape != q.shape:
                same_array(x, q, "rope")
        scores.append(turned[0].astype(np.float64).ravel() @ turned[1].astype(np.float64).ravel())
    z = [(x[..., :6] + 1j * x[..., 6:]).astype(np.complex128).ravel() for x in (q, k)]
    angle = 7 * rotation.frequencies[0].astype(np.float64)
    right = float((z[0] * np.exp(1j * angle) * z[1].conj()).real.sum())
    # Each turned number is off by its angle times U, and the score is a sum of 12 products.
    atol = 2 * (2 * 99 + 12) * public.U * float(np.abs(q).max() * np.abs(k).max()) * 12
    same_array(np.array(scores), np.full(3, right), "q · k seven positions apart, at positions 2, 7 and 92", atol=atol,
               usual=[(np.full(3, float(q.ravel() @ k.ravel())), "nothing was turned at all")])  # fmt: skip


def test_random_masks(student: Any, part: Any, rng: Any) -> None:
    """Catches a mask, or a count of its pairs, that was made for the inputs of the public tests."""
    with part("masks"):
        for _ in range(6):
            rows, first, window = (int(rng.integers(1, 9)) for _ in range(3))
            start = int(rng.integers(0, max(0, first - window + 1) + 1))  # a cache may keep more than the window
            public.check_visible(student, rows, first + rows - start, first, start, window)
            public.check_visible(student, rows, first + rows, first, 0, None)
    with part("pairs"):
        for _ in range(6):
            rows, first, window = (int(rng.integers(1, 300)) for _ in range(3))
            public.check_pairs(student, rows, first, window)
            public.check_pairs(student, rows, first, None)


def test_attention_of_other_heads(student: Any, part: Any, rng: Any) -> None:
    """Catches what only suits two query heads a key head: one, all, odd sizes; and keys that the cache left out."""
    with part("each query head has its key head"):
        public.check_attention(student, rng, rows=5, heads=(3, 3), size=7, first=2)
    with part("all query heads share one"):
        public.check_attention(student, rng, rows=3, heads=(5, 1), size=9, first=11)
    with part("three share one, many keys"):
        public.check_attention(student, rng, rows=6, heads=(12, 4), size=5, first=80)
    with part("a window of one position, and one whose first keys are left out"):
        public.check_attention(student, rng, rows=4, heads=(4, 2), size=6, first=3, window=1)
        public.check_attention(student, rng, rows=9, heads=(4, 2), size=6, first=30, start=21, window=10)


def test_caps_and_sinks_of_other_heads(student: Any, part: Any, rng: Any) -> None:
    """Catches caps and sinks that only suit two query heads a key head, a whole prompt, or scores of usual size."""
    with part("a key head for each query head, and one for all"):
        for heads in ((3, 3), (5, 1)):
            public.check_attention(student, rng, rows=4, heads=heads, size=7, spread=2.0, cap=SoftCap(1.0),
                                   sinks=public.sinks_of(rng, *heads))  # fmt: skip
    with part("a window, whose first keys are left out"):
        public.check_attention(student, rng, rows=5, heads=(6, 2), size=6, first=12, start=8, window=5, spread=2.0,
                               cap=SoftCap(2.0), sinks=public.sinks_of(rng, 6, 2))  # fmt: skip
    with part("scores in the hundreds below a cap of 50"):
        public.check_attention(student, rng, rows=6, heads=(4, 2), size=8, first=3, spread=15.0, cap=SoftCap(50.0))
    with part("sinks far above and far below the scores"):
        public.check_attention(student, rng, rows=4, heads=(8, 2), size=6, first=3,
                               sinks=public.sinks_of(rng, 8, 2, spread=10.0))  # fmt: skip


def test_large_scores(student: Any, part: Any, rng: Any) -> None:
    """Catches an exponential that overflows, and a mask that adds a large number instead of -inf."""
    with part("scores in the hundreds"):
        public.check_attention(student, rng, rows=6, heads=(4, 2), size=8, first=5, spread=15.0)
    with part("keys that no query sees hold anything"):
        rows, size = 4, 6
        heads = Heads(2, 2, size, size**-0.5, None)
        q, k, v = (public.random(rng, n, 2, size) for n in (rows, rows + 3, rows + 3))
        right = public.attend(q, k[:rows], v[:rows], public.mask(rows, rows, 0, 0, None), heads).astype(np.float32)
        atol = public.attention_error(q, k[:rows], v[:rows], heads)
        k[rows:], v[rows:] = 1e20 * np.sign(q[-1]), 1e20
        hint = "the future came through: where the mask is False the score is -inf, not a score minus a large number"
        found = student.full_attention(q, k, v, 0, 0, heads, np)
        same_array(found, right, "attention beside keys of 1e20", atol=atol, axes=("row", "head"),
                   usual=[(found, hint)])  # fmt: skip


def test_a_model_whose_layers_differ(student: Any, rng: Any) -> None:
    """Catches windows, caps and sinks that only suit one layer, or a prompt in one piece."""
    llm = public.tiny_model()
    first, last = llm.model.layers
    heads = first.mixer.heads
    settings: tuple[dict[str, Any], ...] = (
        {"window": 4, "cap": SoftCap(0.5), "sinks": NoSinks()},
        {"window": None, "cap": NoCap(), "sinks": public.sinks_of(rng, heads.queries, heads.keys)},
    )
    layers = [
        replace(layer, mixer=replace(layer.mixer, heads=replace(heads, **setting)))
        for layer, setting in zip((first, last), settings, strict=True)
    ]
    model = replace(llm.model, layers=tuple(layers))
    tokens = rng.integers(3, llm.config.vocab_size, 20).tolist()
    for pieces in ((20,), (9, 11), (3, 1, 8, 1, 1, 6), (13, 1, 1, 1, 1, 1, 1, 1)):
        public.check_model(student, model, llm, tokens, pieces)
