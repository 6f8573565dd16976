"""The public tests of the transformer's operations: numbers against the formulas, computed again in float64.

`U` is half of the distance between 1 and the next float32. An operation on float32 is right to a relative error of U, a
sum of n numbers to n·U of the sum of their sizes; the tolerances below count operations, and allow twice as much. The
usual mistakes are formulas, too: their results are computed and named where the student's agrees with one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tinyinfer.course.compare import Failure, at_least, same_array, same_value
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import build_cache
from tinyinfer.lessons.models import Models
from tinyinfer.model.heads import Heads, NoCap, NoSinks, Sinks, SoftCap
from tinyinfer.model.transformer import transformer
from tinyinfer.model.weights import RMSNorm, Rotation
from tinyinfer.sequence import Batch, Span

pytest_plugins = ["tinyinfer.course.pytest_plugin"]

U = 2.0**-24


# What is asked: one operation a test, then all of them together.


def test_rms_norm(student: Any, part: Any, rng: Any) -> None:
    """Catches epsilon outside of the root or left out, a mean that is subtracted, and float64."""
    ops = student.ReferenceOps()
    with part("rows of a layer"):
        check_rms_norm(ops, random(rng, 5, 24), RMSNorm(random(rng, 24), 1e-5))
    with part("rows of small numbers, where epsilon counts"):
        check_rms_norm(ops, random(rng, 4, 16) * np.float32(0.01), RMSNorm(random(rng, 16), 1e-4))
    with part("a weight for each head"):
        check_rms_norm(ops, random(rng, 3, 5, 8), RMSNorm(random(rng, 5, 8), 1e-5))


def test_cosines_and_sines(student: Any, part: Any, rng: Any) -> None:
    """Catches positions counted from 1, and chunks that begin at position 0 again."""
    ops = student.ReferenceOps()
    with part("a prompt"):
        check_cos_sin(ops, np.arange(7), rotation_of(rng, 8))
    with part("a chunk at position 7, and a token of another sequence"):
        check_cos_sin(ops, np.array([7, 8, 9, 10, 31]), rotation_of(rng, 8))
    with part("rows of three sets of frequencies, with amplitudes"):
        check_cos_sin(ops, np.arange(3, 9), rotation_of(rng, 6, sets=3), np.array([2, 0, 0, 1, 2, 1]))


def test_rope(student: Any, part: Any, rng: Any) -> None:
    """Catches pairs of neighbours in place of the two halves of a head, and a turn the other way."""
    ops = student.ReferenceOps()
    with part("queries and keys of a prompt"):
        check_rope(ops, random(rng, 6, 5, 8), np.arange(6), rotation_of(rng, 8))
    with part("a token at position 40"):
        check_rope(ops, random(rng, 1, 3, 12), np.array([40]), rotation_of(rng, 12))


def test_visible(student: Any, part: Any, rng: Any) -> None:
    """Catches a square mask on a second chunk, a mask skipped behind a cache, and windows off by one."""
    rows, first, window = (int(rng.integers(low, low + 4)) for low in (3, 5, 3))
    with part("a prompt"):
        check_visible(student, rows, rows, 0, 0, None)
    with part("a chunk behind a cached prefix"):
        check_visible(student, rows, first + rows, first, 0, None)
    with part("a window"):
        check_visible(student, window + rows, window + rows, 0, 0, window)
    with part("a window whose first keys are left out"):
        check_visible(student, rows, window - 1 + rows, first + window, first + 1, window)


def test_fold_and_unfold(student: Any, part: Any, rng: Any) -> None:
    """Catches query heads grouped with the wrong key heads: heads that share a key head are neighbours."""
    q = random(rng, 5, 6, 4)  # T = 5 rows, H = 6 heads of E = 4
    groups = np.stack([np.concatenate([q[:, h] for h in (0, 1, 2)]), np.concatenate([q[:, h] for h in (3, 4, 5)])])
    with part("fold"):
        apart = np.stack([np.concatenate([q[:, h] for h in range(i, 6, 2)]) for i in range(2)])
        same_array(student.fold(q, 2), groups, "fold of 6 heads, 2 key heads", axes=("group", "row", "number"), usual=[
            (apart, "heads 0, 2, 4 were put together: heads that share a key head are neighbours, 0, 1, 2"),
            (q.reshape(2, -1, 4), "the rows were cut in two, not the heads: bring the heads to the front first"),
            (q.reshape(5, 2, 3, 4).transpose(1, 0, 2, 3).reshape(2, -1, 4),
             "within a group a row's heads stand together: the rows of one head do, so that `unfold` finds them"),
        ])  # fmt: skip
    with part("unfold"):
        same_array(student.unfold(groups, 5), q, "unfold of 2 groups", axes=("token", "head", "number"), usual=[
            (groups.reshape(5, -1, 4), "the heads come first in memory: bring the rows to the front after the reshape"),
        ])  # fmt: skip


def test_attention(student: Any, part: Any, rng: Any) -> None:
    """Catches a missing scale, a softmax over the wrong axis, and a mask that only suits a whole prompt."""
    with part("a prompt"):
        check_attention(student, rng, rows=7, heads=(4, 2), size=8)
    with part("a chunk behind a cached prefix"):
        check_attention(student, rng, rows=4, heads=(4, 2), size=8, first=6)
    with part("one token behind a cached prefix"):
        check_attention(student, rng, rows=1, heads=(6, 2), size=4, first=9)
    with part("a window"):
        check_attention(student, rng, rows=5, heads=(4, 2), size=6, first=7, start=5, window=3)


def test_caps_and_sinks(student: Any, part: Any, rng: Any) -> None:
    """Catches a cap after the mask or before the scale, a sink that is missing from the sum, or from the maximum."""
    with part("a cap"):
        check_attention(student, rng, rows=6, heads=(4, 2), size=8, spread=2.0, cap=SoftCap(1.5))
    with part("sinks"):
        check_attention(student, rng, rows=5, heads=(4, 2), size=6, first=2, sinks=sinks_of(rng, 4, 2))
    with part("a cap and sinks behind a cached prefix"):
        check_attention(student, rng, rows=3, heads=(6, 2), size=4, first=8, spread=2.0, cap=SoftCap(2.0),
                        sinks=sinks_of(rng, 6, 2))  # fmt: skip
    with part("a sink, and keys that score -inf"):
        check_endless_scores(student, rng)


def test_silu(student: Any, part: Any, rng: Any) -> None:
    """Catches a sigmoid that is not multiplied by x, and exponentials that overflow to NaN."""
    ops = student.ReferenceOps()
    with part("numbers around 0"):
        check_silu(ops, 2 * random(rng, 5, 12))
    with part("numbers in the hundreds"):
        check_silu(ops, 200 * random(rng, 3, 8))


def test_visible_pairs(student: Any, part: Any, rng: Any) -> None:
    """Catches a square in place of a triangle, a prefix that is forgotten, and windows off by one."""
    rows, first = int(rng.integers(6, 12)), int(rng.integers(3, 8))
    with part("a prompt"):
        check_pairs(student, rows, 0, None)
    with part("a chunk behind a cached prefix"):
        check_pairs(student, rows, first, None)
    with part("a window"):
        check_pairs(student, rows, first, first + 3)


def test_inputs_stay_as_they_are(student: Any, part: Any, rng: Any) -> None:
    """Catches arithmetic in place: x is the residual stream, which the layer adds to afterwards."""
    ops, x = student.ReferenceOps(), random(rng, 4, 16)
    with part("rms_norm"):
        _, after = student.after(ops.rms_norm, x, RMSNorm(random(rng, 16), 1e-5))
        untouched(after[0], x, "x after rms_norm")
    with part("rope"):
        given, turn = x.reshape(4, 2, 8), turns(np.arange(4), np.zeros(4, np.int64), rotation_of(rng, 8))
        _, after = student.after(ops.rope, given, tuple(table.astype(np.float32) for table in turn))
        untouched(after[0], given, "x after rope")
    with part("full_attention"):
        arrays = random(rng, 4, 2, 8), random(rng, 4, 1, 8), random(rng, 4, 1, 8)
        sinks = sinks_of(rng, 2, 1)
        _, after = student.after("full_attention", *arrays, 0, 0, Heads(2, 1, 8, 0.5, None, sinks=sinks), np)
        for name, array, given in zip("qkv", after, arrays, strict=False):
            untouched(array, given, f"{name} after full_attention")
        untouched(after[5].sinks.scores, sinks.scores, "the sinks after full_attention")


def test_a_model_of_these_operations(student: Any, rng: Any) -> None:
    """Catches what no single call shows: logits of 16 tokens that depend on how the prompt is split."""
    llm = tiny_model()
    tokens = rng.integers(3, llm.config.vocab_size, 16).tolist()
    for split in range(1, 16):
        check_model(student, llm.model, llm, tokens, (split, 16 - split))
    check_model(student, llm.model, llm, tokens, (10, 1, 1, 1, 1, 1, 1))


# The formulas, in float64, and the usual mistakes.


def check_rms_norm(ops, x, norm: RMSNorm) -> None:
    """rms_norm against x / sqrt(mean(x²) + eps) · weight."""
    a, weight, eps = x.astype(np.float64), norm.weight.astype(np.float64), norm.eps
    squares = (a * a).mean(axis=-1, keepdims=True)
    others = a - a.mean(axis=-1, keepdims=True)
    usual = [
        (a / (np.sqrt(squares) + eps) * weight, "epsilon stands outside of the root: sqrt(mean(x²) + eps)"),
        (a / np.sqrt(squares) * weight, "epsilon is left out: rows of small numbers need it"),
        (a / np.sqrt(squares + eps), "the weight is left out"),
        (a / np.sqrt(squares + eps) * (1 + weight), "the weight counts as it is, not 1 + weight"),
        (a / np.sqrt(squares * x.shape[-1] + eps) * weight, "the squares are summed: their mean is asked for"),
        (a / (squares + eps) * weight, "the root is missing: the numbers are divided by their mean square"),
        (a / np.sqrt((a * a).mean() + eps) * weight, "the mean runs over all rows: each row has its own"),
        (a / np.sqrt((a * a).mean(axis=tuple(range(1, a.ndim)), keepdims=True) + eps) * weight,
         "the mean runs over all heads of a row: each head is normalized by itself"),
        (a / np.sqrt((a * a).mean(axis=0) + eps) * weight, "the mean runs over the rows: it runs along a row"),
        (others / np.sqrt((others * others).mean(axis=-1, keepdims=True) + eps) * weight,
         "the mean is subtracted, as LayerNorm does: RMSNorm only divides"),
    ]  # fmt: skip
    # A sum of D squares, of whose error the root leaves half; then a root, a quotient and two products.
    rtol = 2 * (x.shape[-1] / 2 + 5) * U
    right = (a / np.sqrt(squares + eps) * weight).astype(np.float32)
    axes = ("row", *("head",) * (x.ndim - 2), "number")
    same_array(ops.rms_norm(x, norm), right, f"rms_norm of {x.shape}", rtol=rtol, axes=axes,
               usual=unlike(right, usual))  # fmt: skip


def check_cos_sin(ops, positions, rotation: Rotation, sets=None) -> None:
    """cos_sin against amplitude · cos(position · frequency), and the sine."""
    chosen = np.zeros(len(positions), np.int64) if sets is None else sets
    right, wrong = turns(positions, chosen, rotation), list(mistaken_turns(positions, chosen, rotation))
    found = pair(ops.cos_sin(positions, chosen, rotation), "cos_sin", "the cosines and the sines")
    largest = float(positions.max() * rotation.frequencies.max())
    # An angle is one product, so its error is its size times U; then a cosine and a product.
    atol = 2 * (largest + 3) * U * float(rotation.amplitudes.max())
    for i, name in enumerate(("cosines", "sines")):
        usual = unlike(right[i], [(both[i], hint) for both, hint in wrong])
        same_array(found[i], right[i].astype(np.float32), f"the {name} of positions {positions.tolist()}", atol=atol,
                   axes=("row", "head", "number"), usual=usual)  # fmt: skip


def turns(positions, sets, rotation: Rotation, sign: float = -1.0, add: float = 0.0):
    """The cosines and sines of both halves of a head, in float64; add: what the positions are shifted by."""
    frequencies, amplitudes = (table.astype(np.float64)[sets] for table in (rotation.frequencies, rotation.amplitudes))
    angle = (positions[:, None] + add) * frequencies
    cos, sin = amplitudes * np.cos(angle), amplitudes * np.sin(angle)
    return np.concatenate((cos, cos), axis=1)[:, None], np.concatenate((sign * sin, sin), axis=1)[:, None]


def mistaken_turns(positions, sets, rotation: Rotation) -> Iterator[tuple]:
    """The cosines and sines that usual mistakes give."""
    cos, sin = turns(positions, sets, rotation)
    half = cos.shape[-1] // 2
    yield turns(positions, sets, rotation, add=1), "positions are counted from 1: the first token has position 0"
    restarted = "the chunk begins at position 0 again: the rows' positions are given"
    yield turns(np.arange(len(positions)), sets, rotation), restarted
    plain = Rotation(rotation.frequencies, np.ones_like(rotation.amplitudes))
    yield turns(positions, sets, plain), "the amplitudes are left out: they multiply cosines and sines"
    yield turns(positions, sets * 0, rotation), "every row was turned by set 0: `sets` says which set is a row's"
    yield turns(positions, sets, rotation, sign=1.0), "the sine of the first half must be negated, as `rope` wants it"
    yield (cos, -sin), "the sine of the second half was negated: it is the first half's"
    pairs = [np.repeat(table[..., half:], 2, axis=-1) for table in (cos, sin)]
    yield tuple(pairs), "the numbers of neighbours are alike: those of the two halves must be, cos beside cos"
    yield (sin, cos), "cosines and sines are exchanged"
    yield (cos[:, 0], sin[:, 0]), "an axis of length 1 is missing: all heads of a row turn alike, (T, 1, E)"
    yield (cos[..., :half], sin[..., :half]), "only one half is there: both halves of a head need the cosines and sines"


def check_rope(ops, x, positions, rotation: Rotation) -> None:
    """rope against a product of complex numbers: (a + ib) · e^(i·angle), a and b the halves of a head."""
    sets, half = np.zeros(len(positions), np.int64), x.shape[-1] // 2
    given = tuple(table.astype(np.float32) for table in turns(positions, sets, rotation))
    angle = (positions[:, None] * rotation.frequencies.astype(np.float64)[sets])[:, None]
    spin = rotation.amplitudes.astype(np.float64)[sets][:, None] * np.exp(1j * angle)
    a = x.astype(np.float64)
    right = halves((a[..., :half] + 1j * a[..., half:]) * spin)
    neighbours = (a[..., ::2] + 1j * a[..., 1::2]) * spin
    cos, sin = turns(positions, sets, rotation)
    swapped = np.concatenate((a[..., half:], a[..., :half]), axis=-1)
    mixed = a.copy()
    mixed[..., ::2], mixed[..., 1::2] = a[..., 1::2], a[..., ::2]
    there = a * cos + mixed * sin
    pairs = "neighbours 0 and 1 were turned together: the pairs are number i of the first half and i of the second"
    usual = [
        (np.stack((neighbours.real, neighbours.imag), axis=-1).reshape(x.shape), pairs),
        (halves(neighbours), pairs),
        (there, pairs),
        (halves((a[..., :half] + 1j * a[..., half:]) * spin.conj()), "the turn goes the other way: a·cos - b·sin"),
        (a * cos + a * sin, "the halves are not exchanged before they meet the sines"),
        (a * cos, "the sines are left out"),
        (swapped * cos + a * sin, "the halves are exchanged before the cosines, too"),
    ]
    # Each of the given cosines and sines was rounded once; then two products and a sum.
    atol = 2 * 5 * U * float(np.abs(a).max() * np.abs(rotation.amplitudes).max())
    same_array(ops.rope(x, given), right.astype(np.float32), f"rope of {x.shape}", atol=atol,
               axes=("row", "head", "number"), usual=usual)  # fmt: skip


def halves(z):
    """Complex numbers as the two halves of a head: the real parts, then the imaginary ones."""
    return np.concatenate((z.real, z.imag), axis=-1)


def check_visible(student, rows: int, keys: int, first: int, start: int, window: int | None) -> None:
    """visible against one comparison after another."""
    found = student.visible(rows, keys, first, start, window, np)
    what = f"visible({rows}, {keys}, first={first}, start={start}, window={window})"
    right, usual = mask(rows, keys, first, start, window), mistaken_masks(rows, keys, first, start, window)
    same_array(found, right, what, axes=("query", "key"), usual=unlike(right, usual))


def mask(rows: int, keys: int, first: int, start: int, window: int | None):
    """Which key each query sees."""
    reach = window or first + rows
    return np.array([[0 <= first + t - start - s < reach for s in range(keys)] for t in range(rows)])


def mistaken_masks(rows: int, keys: int, first: int, start: int, window: int | None) -> Iterator[tuple]:
    """The masks that usual mistakes give."""
    square = "the mask is that of a whole prompt: in a later chunk the first query is at position `first`, not 0"
    yield mask(rows, keys, 0, 0, window), square
    yield mask(rows, keys, 0, start, window), square
    yield np.ones((rows, keys), bool), "every query sees every key, also those behind it in the text"
    yield mask(rows, keys, first, start, None), "the window is ignored"
    yield mask(rows, keys, first, 0, window), "the first key is at position `start`, not 0"
    yield ~mask(rows, keys, first, start, window), "True and False are exchanged: True is where a query sees a key"
    yield mask(rows, keys, first + 1, start, window), "off by one: a query sees one key of the future"
    yield mask(rows, keys, first - 1, start, window), "off by one: a query sees itself, too"
    before = mask(rows, keys, first - 1, start, None)
    yield mask(rows, keys, first, start, None) & ~before, "a query sees the keys before its own, too"
    if window:
        own = "the window is off by one: a query's own position is one of the `window`"
        yield mask(rows, keys, first, start, window + 1), own
        yield mask(rows, keys, first, start, window - 1) if window > 1 else mask(rows, keys, first, start, None), own
        future = ~mask(rows, keys, first, start, None)
        yield mask(rows, keys, first, start, window) | future, "a query sees the future: a window has two ends"


def check_attention(
    student, rng, rows: int, heads: tuple[int, int], size: int, first: int = 0, start: int = 0,
    window: int | None = None, spread: float = 1.0, **settings: Any,
) -> None:  # fmt: skip
    """full_attention of random queries, keys and values against the formula.

    spread: of queries and keys. settings: cap and sinks, where there are any.
    """
    keys = first + rows - start
    q = random(rng, rows, heads[0], size) * np.float32(spread)
    k, v = random(rng, keys, heads[1], size) * np.float32(spread), random(rng, keys, heads[1], size)
    given = Heads(*heads, size, size**-0.5, window, **settings)
    right = attend(q, k, v, mask(rows, keys, first, start, window), given).astype(np.float32)
    found = student.full_attention(q, k, v, first, start, given, np)
    what = f"attention of {rows} rows at position {first}, {keys} keys from {start}, window {window}, H, K = {heads}"
    with np.errstate(all="ignore"):
        usual = unlike(right, mistaken_attention(q, k, v, (rows, keys, first, start, window), given))
    atol = attention_error(q, k, v, given)
    same_array(found, right, what, atol=atol, axes=("row", "head", "number"), usual=usual)


def attend(q, k, v, seen, heads: Heads, shared=None, hidden: float = -np.inf, first_m=None, last_m=None):
    """softmax(cap(scale · q kᵀ) + mask) v in float64; a sink is one score more, for a value of zero.

    shared: a query head's key head. hidden: the score where the mask is False. first_m, last_m: what is taken off
    scores, and off sinks, before the exponential, when it is not the largest of both.
    """
    sink = sinks_as_scores(heads)
    s = np.where(seen, capped(scores(q, k, heads.scale, shared), heads.cap), hidden)  # (H, T, S)
    m = np.maximum(s.max(axis=-1, keepdims=True), sink)  # (H, T, 1)
    p = np.exp(s - (m if first_m is None else first_m))  # (H, T, S)
    share = np.exp(sink - (m if last_m is None else last_m))  # (H, T, 1)
    return mixed(p / (p.sum(axis=-1, keepdims=True) + share), v, shared)


def scores(q, k, scale: float, shared=None):
    """scale · q kᵀ in float64. shared: a query head's key head."""
    return scale * np.einsum("the,she->hts", q.astype(np.float64), for_heads(k, q.shape[1], shared))


def mixed(p, v, shared=None):
    """The values, weighted by p."""
    return np.einsum("hts,she->the", p, for_heads(v, len(p), shared))


def for_heads(x, heads: int, shared=None):
    """The keys, or the values, that each query head meets, in float64: neighbours share them, unless `shared` says."""
    group = heads // x.shape[1]
    return x[:, [h // group if shared is None else shared(h) for h in range(heads)]].astype(np.float64)


def capped(s, cap: NoCap | SoftCap):
    """limit · tanh(s / limit)."""
    return cap.limit * np.tanh(s / cap.limit) if isinstance(cap, SoftCap) else s


def sinks_as_scores(heads: Heads):
    """Each query head's sink in float64; -inf where there is none, whose exponential is 0."""
    if isinstance(heads.sinks, NoSinks):
        return np.full((heads.queries, 1, 1), -np.inf)
    return heads.sinks.scores.reshape(-1, 1, 1).astype(np.float64)


def attention_error(q, k, v, heads: Heads) -> float:
    """How far off attention in float32 may be."""
    sizes = np.abs(heads.scale) * np.einsum("the,she->hts", np.abs(q), np.abs(for_heads(k, q.shape[1])))
    score = (q.shape[2] + 2) * U * float(sizes.max())  # a score is a sum of E products
    if isinstance(heads.cap, SoftCap):  # a cap makes no error larger; then a quotient, a tanh right to 2·U, a product
        score += 4 * U * heads.cap.limit
    # A weight is off by the errors of its own score and of the sum's; a value is a sum of S products.
    return 2 * (2 * score + (len(k) + 8) * U) * float(np.abs(v).max())


def mistaken_attention(q, k, v, place: tuple, heads: Heads) -> Iterator[tuple]:
    """What usual mistakes give in place of attention."""
    seen, scale, keys = mask(*place), heads.scale, k.shape[1]
    yield from mistaken_caps(q, k, v, seen, heads)
    yield from mistaken_sinks(q, k, v, seen, heads)
    for other, hint in mistaken_masks(*place):
        yield attend(q, k, v, other, heads), hint
    unscaled = f"is the scale missing? Scores are multiplied by it, here {scale:.3g}"
    yield attend(q, k, v, seen, replace(heads, scale=1.0)), unscaled
    yield attend(q, k, v, seen, replace(heads, scale=scale**2)), "the scale is there twice"
    yield attend(q, k, v, seen, replace(heads, scale=1 / scale)), "scores are divided by the scale: multiply them by it"
    grouped = "query heads meet the wrong key heads: H/K neighbours share one"
    yield attend(q, k, v, seen, heads, lambda h: h % keys), grouped
    order = [h for first in range(keys) for h in range(first, q.shape[1], keys)]
    yield attend(q, k, v, seen, heads, lambda h: h % keys)[:, order], grouped
    yield attend(q[:, order], k, v, seen, heads)[:, np.argsort(order)], grouped
    yield attend(q, k, v, seen, heads, lambda h: 0), "every query head met key head 0"
    yield attend(q, k, k, seen, heads), "the weights were applied to the keys, not to the values"
    p = np.where(seen, capped(scores(q, k, scale), heads.cap), -np.inf)
    p = np.exp(p - p.max(axis=-1, keepdims=True))
    per_key = "the softmax runs over the queries: the weights of one query sum to 1"
    yield mixed(p / p.sum(axis=-2, keepdims=True), v), per_key
    yield mixed(p, v), "the softmax is not divided by its sum"


def mistaken_caps(q, k, v, seen, heads: Heads) -> Iterator[tuple]:
    """What usual mistakes with a cap give."""
    if not isinstance(heads.cap, SoftCap):
        return
    limit = heads.cap.limit
    yield attend(q, k, v, seen, replace(heads, cap=NoCap())), "the cap is left out: `heads.cap` takes the scaled scores"
    late = "the cap was applied after the mask: it made a finite number of -inf, and the future came through"
    yield attend(q, k, v, seen, heads, hidden=-limit), late
    early = "the cap was applied before the scale: the scaled scores are capped"
    yield attend(q, k, v, seen, replace(heads, cap=SoftCap(limit * heads.scale))), early  # scale · cap(x)


def mistaken_sinks(q, k, v, seen, heads: Heads) -> Iterator[tuple]:
    """What usual mistakes with sinks give."""
    if isinstance(heads.sinks, NoSinks):
        return
    absent = "the sink is missing from the sum: `heads.sinks.total` adds its share"
    yield attend(q, k, v, seen, replace(heads, sinks=NoSinks())), absent
    m = np.where(seen, capped(scores(q, k, heads.scale), heads.cap), -np.inf).max(axis=-1, keepdims=True)  # of the keys
    unequal = "two different numbers were taken off the scores and off the sink: both need what `largest` gave"
    yield attend(q, k, v, seen, heads, first_m=m), unequal
    yield attend(q, k, v, seen, heads, last_m=m), unequal


def check_endless_scores(student, rng) -> None:
    """full_attention of two heads: one's keys score -inf, which is less than any sink, the other's score as usual."""
    q, k, v = random(rng, 2, 2, 1), random(rng, 3, 2, 1), random(rng, 3, 2, 1)
    q[:, 1], k[:, 1] = 1, -np.inf
    heads = Heads(2, 2, 1, 1.0, None, sinks=sinks_of(rng, 2, 2))
    seen = mask(2, 3, 1, 0, None)
    right = attend(q, k, v, seen, heads).astype(np.float32)
    mistaken = np.where(np.array([[[False], [True]]]), np.float32(np.nan), right)
    hint = "-inf minus -inf is NaN: here the largest score is the sink's, and `heads.sinks.largest` finds it"
    found = student.full_attention(q, k, v, 1, 0, heads, np)
    same_array(found, right, "attention where the keys of head 1 score -inf", axes=("row", "head"),
               atol=attention_error(q[:, :1], k[:, :1], v[:, :1], heads), usual=[(mistaken, hint)])  # fmt: skip


def check_silu(ops, x) -> None:
    """silu against x · sigmoid(x)."""
    a = x.astype(np.float64)
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-a))
    usual = [
        (sigmoid, "this is the sigmoid: it is multiplied by x"),
        (np.maximum(a, 0), "this is ReLU: silu is smooth, and below 0 for negative numbers"),
        (a * (1 - sigmoid), "the sign in the sigmoid is the other way round: 1 / (1 + exp(-x))"),
        (np.where(a > 88, np.nan, a * sigmoid), "exp(x) overflows float32 above 88, and inf/inf is NaN"),
    ]
    # A function that is right to 2·U, a sum with 1 and a product, in any form of the formula.
    atol, right = 2 * 4 * U * float(np.abs(a).max()), (a * sigmoid).astype(np.float32)
    same_array(ops.silu(x), right, f"silu of numbers up to {np.abs(a).max():.0f}", atol=atol, axes=("row", "number"),
               usual=unlike(right, usual))  # fmt: skip


def check_pairs(student, rows: int, first: int, window: int | None) -> None:
    """visible_pairs against a mask, counted."""
    keys = first + rows
    seen = mask(rows, keys, first, 0, window)
    what = f"visible_pairs({rows}, {first}, {window})"
    right = int(seen.sum())
    usual = [
        (rows * keys, "every query was paired with every key, also those behind it in the text"),
        (int(mask(rows, rows, 0, 0, window).sum()), "the cached prefix is left out: its keys are seen, too"),
        (right - rows, "off by one: a query sees itself, too"),
        (int(mask(rows, keys, first, 0, None).sum()), "the window is ignored"),
        (int(mask(rows, keys, first, 0, (window or 0) + 1).sum()), "the window is off by one"),
        (rows * (window or 0), "queries near the beginning see fewer keys than the window has"),
    ]
    found = student.visible_pairs(rows, first, window)
    at_least(found if isinstance(found, int) else right, rows, what)  # each query sees itself
    same_value(found, right, what, usual=[(value, hint) for value, hint in usual if value != right])


# Inputs, and the model.


def unlike(right, usual: Iterable[tuple]) -> list[tuple]:
    """The usual mistakes whose results are not the right ones: with some inputs a mistake changes nothing."""
    return [(a, hint) for a, hint in usual if a.shape != right.shape or not np.allclose(a, right, rtol=1e-5, atol=1e-5)]


def random(rng, *shape: int):
    """Numbers around 0, in float32."""
    return rng.standard_normal(shape).astype(np.float32)


def rotation_of(rng, size: int, sets: int = 1) -> Rotation:
    """Frequencies that fall from about 1, as a model's do; amplitudes of 1, or of about 1 where there are more sets."""
    falling = 0.1 ** (np.arange(size // 2) * 4 / size) * rng.uniform(0.8, 1.0, (sets, 1))
    amplitudes = np.ones((sets, size // 2)) if sets == 1 else rng.uniform(0.5, 1.5, (sets, size // 2))
    return Rotation(falling.astype(np.float32), amplitudes.astype(np.float32))


def sinks_of(rng, queries: int, keys: int, spread: float = 1.0) -> Sinks:
    """A sink for each query head, (K, H/K, 1), among a model's scores."""
    return Sinks(random(rng, keys, queries // keys, 1) * np.float32(spread))


def pair(found: object, name: str, of: str) -> tuple:
    """The two parts of a result. Raises Failure for anything else."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Failure(f"{name}: the result is no pair.", f"return two arrays: {of}")
    return found[0], found[1]


def untouched(after, before, what: str) -> None:
    """Raises Failure where an argument was changed."""
    if not np.array_equal(after, before):
        hint = "an operator with `=`, such as `x /= 2`, writes into its operand: make a new array, x = x / 2"
        raise Failure(f"{what} is not what it was before.", hint)


def tiny_model():
    """A model of two layers and grouped queries."""
    models = Models()
    return models.open(models.tiny_path(), None)


class StudentOps:
    """A backend's operations, of which norms, rotations, attention and silu are the student's."""

    def __init__(self, student: Any, inner: Any) -> None:
        self.student, self.mine, self.inner = student, student.ReferenceOps(), inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def norm(self, x: Any, norm: Any) -> Any:
        """The student's rms_norm; in places where a family has no norm, the backend's."""
        if not isinstance(norm, RMSNorm):
            return self.inner.norm(x, norm)
        return usable(self.mine.rms_norm(x, norm), x.shape, "rms_norm")

    def rotation(self, positions: Any, sets: Any, rotation: Rotation) -> tuple[Any, Any]:
        """The student's cosines and sines."""
        return pair(self.mine.cos_sin(positions, sets, rotation), "cos_sin", "the cosines and the sines")

    def rope(self, x: Any, rotation: tuple[Any, Any]) -> Any:
        """The student's turned heads."""
        return usable(self.mine.rope(x, rotation), x.shape, "rope")

    def attention(self, q: Any, layer: int, batch: Batch, cache: Any, heads: Heads) -> Any:
        """The student's attention of one sequence over what the cache keeps of it."""
        [span] = batch.spans
        start = 0 if heads.window is None else max(0, span.first - heads.window + 1)
        k, v = cache.read(layer, span.seq, start, span.first + span.rows)
        found = self.student.full_attention(q, k, v, span.first, start, heads, np)
        return usable(found, q.shape, "full_attention")

    def gate(self, gate_up: Any, activation: str) -> Any:
        """The student's silu of the gate, times what passes it."""
        gate, up = np.split(gate_up, 2, axis=1)
        return usable(self.mine.silu(gate), gate.shape, "silu") * up


def usable(found: Any, shape: tuple[int, ...], name: str) -> Any:
    """The result of an operation, if the model can go on with it. Raises Failure."""
    if not isinstance(found, np.ndarray) or found.shape != shape:
        raise Failure(f"{name} in the model: the result is no array of shape {shape}.", f"see the test of {name}")
    if found.dtype != np.float32:
        hint = "an array of float64 makes every result float64: which of the operations gave the first one?"
        raise Failure(f"{name} in the model: the dtype is {found.dtype}, and float32 is expected.", hint)
    return found


def check_model(student, model, llm, tokens: list[int], pieces: tuple[int, ...]) -> None:
    """Raises Failure unless the student's operations give the engine's logits, the prompt given in such pieces."""
    with np.errstate(all="ignore"):
        right = logits(model, llm, llm.ops, tokens, (len(tokens),))
        found = logits(model, llm, StudentOps(student, llm.ops), tokens, pieces)
    # Products of one row and of many are rounded differently in float32: 1e-4 of the largest logit is the project's
    # promise, and a hundred times what these two layers of sums over 64 numbers or fewer are off.
    atol = 1e-4 * float(np.abs(right).max())
    hint = "the tests of the single operations say more; if they pass, look at what depends on `first`"
    same_array(found, right, f"logits of pieces {pieces}", atol=atol, axes=("token", "id"), usual=[(found, hint)])


def logits(model, llm, ops: Any, tokens: list[int], pieces: tuple[int, ...]):
    """The logits of all tokens, computed piece by piece behind a cache."""
    cache, [seq] = build_cache(llm.config, ops, EngineConfig()), llm.sequences([tokens])
    first, rows = 0, []
    for n in pieces:
        cache.reserve(seq, n)
        stop = first + n
        batch = Batch(np.array(tokens[first:stop]), np.arange(first, stop), np.arange(n), (Span(seq, 0, n, first, n),))
        rows.append(transformer(model, batch, cache, ops))
        cache.commit(seq, n)
        first = stop
    return np.concatenate(rows)
