"""The judge of a student's KV cache: where it first differs from the truth, and which usual mistake it is.

The truth is one pass over all tokens, in which every key and every value is new. The student's cache then gets the same
tokens in pieces: each way to split the prompt in two, then one token at a time. What each `read` returns is compared
with the truth at once, so that a mistake is seen where it is made, not in a logit thirty layers later.

Wins: a mistake is named even where the logits would hardly show it. Loses: an unusual mistake is only located,
not named.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import build_cache
from tinyinfer.lessons.exercise import Wrong
from tinyinfer.lessons.models import Models
from tinyinfer.llm import LLM
from tinyinfer.model.interfaces import KVCache
from tinyinfer.model.transformer import transformer
from tinyinfer.sequence import Batch, Sequence, Span
from tinyinfer.units import show

TOLERANCE = 1e-4  # of the largest number: products of 1 row and of many are rounded differently in float32
NEARLY = 1e-2  # of the largest number: what keys and values differ by when they were stored in fewer bits
METHODS = ("append", "read", "length")
TEXT = "A key is stored once and read often."
PROMPT = 20  # tokens of the text that are the prompt

Make = Callable[[int], Any]


class Difference(Exception):
    """The first place where a student's cache differs from the truth."""

    def __init__(self, sentence: str, hint: str) -> None:
        super().__init__(sentence)
        self.wrong = Wrong(sentence, hint)


@dataclass(frozen=True)
class OnePass:
    """What one pass over all tokens computes: logits (n, V), and of each layer the keys and values, (n, K, E)."""

    logits: np.ndarray
    keys: list[np.ndarray]
    values: list[np.ndarray]


def one_pass(llm: LLM, tokens: list[int]) -> OnePass:
    """Keys, values and logits of the tokens, each computed in the same pass."""
    cache, [seq] = build_cache(llm.config, llm.ops, EngineConfig()), llm.sequences([tokens])
    cache.reserve(seq, len(tokens))
    logits = forward(llm, cache, seq, tokens, 0, len(tokens))
    layers = [cache.read(layer, seq, 0, len(tokens)) for layer in range(llm.config.num_layers)]
    return OnePass(logits, [k.copy() for k, _ in layers], [v.copy() for _, v in layers])


def forward(
    llm: LLM, cache: KVCache, seq: Sequence, tokens: list[int], first: int, stop: int
) -> np.ndarray:  # -> (T, V)
    """The logits of rows first ... stop, with everything before them read from the cache."""
    rows = stop - first
    span = Span(seq, 0, rows, first, rows)
    batch = Batch(np.array(tokens[first:stop]), np.arange(first, stop), np.arange(rows), (span,))
    return transformer(llm.model, batch, cache, llm.ops)


@dataclass
class Watched(KVCache):
    """A student's cache under the eyes of the judge: whatever it reads is compared with the truth.

    prompt: the rows of the first piece. first, stop: the rows of the running piece. calls: pieces before it.
    """

    cache: Any
    truth: OnePass
    prompt: int
    first: int = 0
    stop: int = 0
    calls: int = 0

    def append(self, layer: int, k: np.ndarray, v: np.ndarray, batch: Batch) -> None:  # (T, K, E), (T, K, E) ->
        self.cache.append(layer, k, v)

    def split(self, span: Span) -> tuple[Span, ...]:
        return (span,)

    def read(
        self, layer: int, seq: Sequence, start: int, stop: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:  # -> (S, K, E), (S, K, E)
        got = self.cache.read(layer)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Difference(f"`read` returned {show(got)}.", "return two arrays: the keys and the values of the layer")
        keys, values = self.truth.keys[layer][: self.stop], self.truth.values[layer][: self.stop]
        self.compare(got[0], keys, values, layer, "keys")
        self.compare(got[1], values, keys, layer, "values")
        return got[0], got[1]

    def compare(self, mine: Any, right: np.ndarray, other: np.ndarray, layer: int, what: str) -> None:
        """Raises Difference unless `mine` is what the layer's rows must be. other: values for keys, keys for values."""
        if not isinstance(mine, np.ndarray):
            raise Difference(
                f"`read` returned {what} of type {type(mine).__name__}, not an array.",
                "join the pieces into one array, along the axis of the positions: np.concatenate does it",
            )
        if same(mine, right):
            return
        named = (hint for array, hint in self.usual(right, other, layer, what) if same(mine, array))
        hint = next(named, None) or unnamed(mine, right)
        raise Difference(f"first difference: token {first_difference(mine, right)}, layer {layer}, {what}.", hint)

    def usual(self, right: np.ndarray, other: np.ndarray, layer: int, what: str) -> Iterator[tuple[np.ndarray, str]]:
        """What a layer would hold after each usual mistake, and the hint to it."""
        first, stop = self.first, self.stop
        swapped = ("values", "keys") if what == "keys" else ("keys", "values")
        yield other, f"{swapped[0]} stand where {swapped[1]} belong"
        if first:
            yield right[first:], "the rows of earlier steps are gone: the new rows were stored over them, not behind"
            yield right[:first], "the newest rows are missing: a query must see the key of its own position, too"
            yield np.concatenate((right[first:], right[:first])), "the new rows stand in front of the earlier ones"
        yield right[:-1], "off by one: the newest row is missing, and a query must see its own key, too"
        yield right[1:], "off by one: the first row is missing"
        yield right[-1:], "of the rows of one call only the last was stored: a prompt brings many rows at once"
        for i, rows in enumerate(self.truth.keys if what == "keys" else self.truth.values):
            if i != layer:
                new = right[first:]
                shared = f"the rows of layer {i} are in here: every layer needs a list of its own"
                yield np.concatenate((rows[:first], new)), shared
                yield np.concatenate((rows[: stop - first], new)), shared
                yield rows[:first], shared
                yield rows[:stop], shared
        both = "keys and values lie in one and the same list: make two"
        yield np.concatenate((right, other)), both
        yield np.concatenate((other, right)), both
        yield np.concatenate((right, right)), "every row is stored twice"


def same(a: np.ndarray, b: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """Whether two arrays agree within the tolerance, relative to the largest number of `b`."""
    return a.shape == b.shape and bool((np.abs(a - b) <= tolerance * np.abs(b).max(initial=0)).all())


def first_difference(mine: np.ndarray, right: np.ndarray) -> int:
    """The first position whose numbers differ or are missing."""
    if mine.shape[1:] != right.shape[1:]:
        return 0
    n = min(len(mine), len(right))
    differs = [i for i in range(n) if not same(mine[i], right[i])]
    return differs[0] if differs else n


def unnamed(mine: np.ndarray, right: np.ndarray) -> str:
    """The hint for what is none of the usual mistakes."""
    if mine.shape[1:] != right.shape[1:]:
        return f"rows of shape {right.shape[1:]} were stored, one for each position, but `read` gave {mine.shape}"
    if len(mine) > len(right):
        kept = "they begin right, so more was stored behind" if same(mine[: len(right)], right) else "they begin wrong"
        return (
            f"{len(right)} rows were stored in this layer, and {len(mine)} came back ({kept}): is a list shared, with "
            "another layer, another cache, or values with keys?"
        )
    if len(mine) < len(right):
        return f"{len(right)} rows were stored in this layer, and {len(mine)} came back"
    if same(mine, right, NEARLY):
        return "the numbers are nearly right, as if they were stored in fewer bits: keep the arrays as they come"
    return "as many rows as were stored, but not the same numbers, or in another order"


def miscounted(said: Any, watched: Watched) -> Difference:
    """Why `length` is wrong. The next row is computed at this position, so a wrong length turns its key wrongly."""
    first = watched.first
    if not isinstance(said, int | np.integer) or isinstance(said, bool):
        return Difference(f"`length` returned {show(said)}, not a whole number.", "count the rows of one layer's keys")
    calls = "`length` counts the calls of `append`, but one call can bring many rows"
    usual = [
        (0, "positions restart at 0 after the prompt: `length` must count the rows that are stored"),
        (watched.calls, calls),
        (watched.calls * len(watched.truth.keys), calls),
        (watched.prompt, "`length` stays at the length of the first piece: it must grow with every step"),
        (first - 1, "off by one: `length` is the position of the next row, and the first row has position 0"),
        (first + 1, "off by one: `length` is the position of the next row, and the first row has position 0"),
    ]
    hint = next((hint for value, hint in usual if said == value), "count the rows of the keys of one layer")
    if first == 0 and said == len(watched.truth.keys):
        hint = "that is the number of layers: count the rows of one layer's keys, none in a new cache"
    elif first == 0:
        hint = "a new cache is empty: are its lists shared by all caches? Make them in `__init__`"
    if said > first > 0 and said % first == 0:
        hint = f"every position is counted {said // first} times: `append` is called in each layer; count in one layer"
    return Difference(
        f"first difference: token {first}: `length` says {said}, so the key of token {first} would be rotated for "
        f"position {said}.", hint
    )  # fmt: skip


def pieces(prompt: int, n: int) -> Iterator[list[int]]:
    """Each way to give a prompt in two pieces, or in one, and the rest token by token: the stops of the pieces."""
    middle = prompt // 3  # first a split at which no two usual mistakes give the same number
    for split in sorted(range(1, prompt + 1), key=lambda split: abs(split - middle)):
        yield sorted({split, *range(prompt, n + 1)})


def in_pieces(llm: LLM, make: Make, tokens: list[int], stops: list[int], truth: OnePass) -> np.ndarray:  # -> (n, V)
    """The logits of all n tokens, through a new cache of the student's. Raises Difference at the first wrong read."""
    [seq] = llm.sequences([tokens])
    watched = Watched(make(llm.config.num_layers), truth, stops[0])
    rows = []
    for stop in stops:
        said = watched.cache.length()
        if said is None or said != watched.first:
            raise miscounted(said, watched)
        watched.stop = stop
        rows.append(forward(llm, watched, seq, tokens, watched.first, stop))
        watched.first, watched.calls = stop, watched.calls + 1
    return np.concatenate(rows)


def largest_error(llm: LLM, make: Make, tokens: list[int], prompt: int) -> float:
    """The largest difference of a cached from an uncached logit, as a part of the largest logit, over every split."""
    truth = one_pass(llm, tokens)
    errors = [
        np.abs(in_pieces(llm, make, tokens, stops, truth) - truth.logits).max() for stops in pieces(prompt, len(tokens))
    ]
    return float(max(errors) / np.abs(truth.logits).max())


def judge_cache(answer: Any) -> Wrong | None:
    """What is wrong with a student's class of KV caches; None when cached equals uncached for every split."""
    if not inspect.isclass(answer):
        return Wrong(f"{show(answer)} is not a class.", 'give the class itself: check("cache", MyCache)')
    missing = [name for name in METHODS if not callable(getattr(answer, name, None))]
    if missing:
        return Wrong(f"{answer.__name__} has no method `{missing[0]}`.", "write all of " + ", ".join(METHODS))
    models = Models()
    llm = models.open(models.tiny_path(), None)
    tokens = llm.tokenizer.encode(TEXT)
    try:
        error = largest_error(llm, answer, tokens, PROMPT)
    except Difference as difference:
        return difference.wrong
    if not error <= TOLERANCE:
        return Wrong(f"The logits differ by {error:.2g} of the largest one.", "store the rows as they come")
    return None
