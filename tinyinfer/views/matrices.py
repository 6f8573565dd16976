"""Two matrices of attention: who may see whom (`Mask`), and how much each row takes from each position (`Attention`).

A batch has flat rows and no batch axis, so the mask of a batch is one matrix: a row for each token that the step
computes, a column for each position of its sequences that exists by then. A row sees the positions of its own sequence
up to itself, and with a sliding window only the last of them. Prefill, decode, a chunk of a prompt and any mixture of
them are the same rule with other first positions.

`attention_weights` reads the matrix of one head from a real model. It wraps the model's operations by delegation
(backends/delegate.py), so that neither the model nor its ledger notices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.backends.delegate import DelegatingOps
from tinyinfer.kv_cache.base import CacheSpec, NoCache
from tinyinfer.ledger import Ledger
from tinyinfer.model.attention import visible, visible_pairs
from tinyinfer.model.heads import Heads, Sinks
from tinyinfer.model.interfaces import KVCache, Ops
from tinyinfer.model.transformer import transformer
from tinyinfer.sampling import SamplingParams
from tinyinfer.sequence import Batch, Span, make_batch
from tinyinfer.views.cells import STYLE, Axis, Cell, aligned, check_size, keys, matrix, readout, unfold
from tinyinfer.views.page import View, hue, legend
from tinyinfer.views.sentence import counted
from tinyinfer.views.spelling import readable, token_texts

if TYPE_CHECKING:
    from tinyinfer.llm import LLM

ROUNDING = 1e-4  # by how much a sum of float32 weights may miss 1
SIGNS = {"new": "#", "cached": "+", "later": "·", "window": "-", "other": " "}
WORDS = {
    "new": "sees a position that the same step computes",
    "cached": "sees a position that the cache holds already",
    "later": "does not see: the position comes later",
    "window": "does not see: the position lies outside the window",
    "other": "does not see: another sequence",
}
VERBS = {
    "new": "sees {}, new in this step",
    "cached": "sees {} in the cache",
    "later": "does not see {}, which comes later",
    "window": "does not see {}, outside the window",
    "other": "does not see {}",
}
MASK_STYLE = """
.tinyinfer-view .cells .new, .tinyinfer-view .legend .new { background: oklch(var(--deep) var(--h)); }
.tinyinfer-view .cells .cached, .tinyinfer-view .legend .cached { background: oklch(var(--fill) var(--h)); }
.tinyinfer-view .cells .later, .tinyinfer-view .legend .later { background: var(--soft); }
.tinyinfer-view .cells .window, .tinyinfer-view .legend .window { background: repeating-linear-gradient(45deg,
  var(--off) 0 2px, var(--paper) 2px 5px); }
.tinyinfer-view .cells .other { background: none; }
"""


@dataclass(frozen=True)
class Rows:
    """The rows that one sequence has in a batch: `count` of them, from position `first` on."""

    id: int
    first: int
    count: int

    @property
    def phase(self) -> str:
        """What the rows are, in words."""
        cached = f", {self.first} cached" if self.first else ""
        return f"sequence {self.id}: {counted(self.count, 'row')}{cached}"


Work = Batch | Iterable[Span | int | tuple[int, int]]


class Mask(View):
    """Which row of a batch may see which position: a matrix of T rows and S positions.

    work: a Batch, its spans, or for each sequence either how many rows its prompt has or a pair (first position, rows).
    window: how many positions back a row sees, itself included; None: all. Raises ValueError for rows that do not
    exist, and for more of them than can be seen.
    """

    style = STYLE + MASK_STYLE

    def __init__(self, work: Work, window: int | None = None, title: str = "Who may see whom") -> None:
        spans = work.spans if isinstance(work, Batch) else work
        self.parts = [rows_of(one, id) for id, one in enumerate(spans)]
        self.window, self.title = window, title
        if window is not None and window < 1:
            raise ValueError(f"window={window}: a row sees itself at least; give 1 or more, or None")
        counts = [(part.count, part.first + part.count) for part in self.parts]
        check_size(sum(rows for rows, _ in counts), sum(keys for _, keys in counts), "position")

    @property
    def rows(self) -> list[tuple[Rows, int]]:
        """The sequence and the position of each row of the batch."""
        return [(part, part.first + t) for part in self.parts for t in range(part.count)]

    @property
    def keys(self) -> list[tuple[Rows, int]]:
        """The sequence and the position of each column."""
        return [(part, position) for part in self.parts for position in range(part.first + part.count)]

    @property
    def pairs(self) -> int:
        """How many pairs (row, position) are seen; each costs 4·E FLOPs in each head."""
        return sum(visible_pairs(part.count, part.first, self.window) for part in self.parts)

    def kind(self, row: tuple[Rows, int], key: tuple[Rows, int]) -> str:
        """What the row has to do with the position: a key of SIGNS."""
        (mine, at), (other, position) = row, key
        if mine is not other:
            return "other"
        if position > at:
            return "later"
        if self.window is not None and at - position >= self.window:
            return "window"
        return "cached" if position < mine.first else "new"

    def body(self) -> str:
        cells = [[self._cell(row, key) for key in self.keys] for row in self.rows]
        down = Axis([str(at) for _, at in self.rows], [(str(p.id), p.count, hue(p.id)) for p in self.parts])
        groups = [(str(part.id), part.first + part.count, hue(part.id)) for part in self.parts]
        across = Axis([str(position) for _, position in self.keys], groups)
        drawn = readout(matrix(self.title, cells, down, across))
        return f"<p>{self._caption()}</p>{self._legend()}{drawn}{unfold(self.text())}"

    def text(self) -> str:
        labels = [f"sequence {part.id}, position {at}" for part, at in self.rows]
        keys, rows = self.keys, self.rows
        last = {i for i, (part, position) in enumerate(keys) if position == part.first + part.count - 1}

        lines = ["".join(SIGNS[self.kind(row, key)] + "|" * (i in last) for i, key in enumerate(keys)) for row in rows]
        used = {self.kind(row, key) for row in rows for key in keys} - {"other"}
        signs = "\n".join(f"{SIGNS[kind]} {words}" for kind, words in WORDS.items() if kind in used)
        return f"{self._caption()}\n{aligned(labels, lines)}\n{signs}"

    def _cell(self, row: tuple[Rows, int], key: tuple[Rows, int]) -> Cell:
        kind = self.kind(row, key)
        place = f"position {key[1]}" + (f" of sequence {key[0].id}" if kind == "other" else "")
        says = f"sequence {row[0].id}, position {row[1]} {VERBS[kind].format(place)}"
        return Cell(says, kind, css=hue(key[0].id) if kind in ("new", "cached") else "")

    def _caption(self) -> str:
        rows, keys = len(self.rows), len(self.keys)
        window = "" if self.window is None else f", in a window of {self.window}"
        return (
            f"{counted(rows, 'row')} by {counted(keys, 'position')}: {counted(self.pairs, 'pair')} are seen{window}. "
            "The colours at the edges are the sequences, the numbers are positions."
        )

    def _legend(self) -> str:
        used = {self.kind(row, key) for row in self.rows for key in self.keys}
        kinds = legend(((kind, words) for kind, words in WORDS.items() if kind in used), hue(self.parts[0].id))
        return keys(*(legend([("fill", part.phase)], hue(part.id)) for part in self.parts)) + keys(kinds)


def rows_of(one: Span | int | tuple[int, int], id: int) -> Rows:
    """The rows of one sequence. id: its number where it has none itself."""
    if isinstance(one, Span):
        return Rows(one.seq.id, one.first, one.rows)
    first, rows = (0, one) if isinstance(one, int | Integral) else one
    if first < 0 or rows < 1:
        raise ValueError(f"sequence {id}: {rows} rows from position {first} on do not exist; give at least one row")
    return Rows(id, first, rows)


class Attention(View):
    """How much each token takes from each token before it, in one head of one layer: a matrix of probabilities.

    weights: (T, S), the sum of each row 1, or less where the head has a sink. tokens: the S texts; the T rows are the
    last of them. Raises ValueError for another number of texts, and for more than can be seen.
    """

    style = (
        STYLE
        + """
.tinyinfer-view :is(.cells, .legend) .taken { --cell: oklch(var(--deep) 255);
  background: color-mix(in oklab, var(--cell) var(--a, 100%), var(--paper)); }
"""
    )

    def __init__(self, weights: Array, tokens: Sequence[str], title: str = "Attention") -> None:
        self.weights, self.title = np.asarray(weights, np.float64), title  # (T, S)
        rows, columns = self.weights.shape
        check_size(rows, columns, "token")
        if len(tokens) != columns or rows > columns:
            raise ValueError(f"{len(tokens)} tokens for {rows} x {columns} weights; give a text for each column")
        self.tokens = [readable(token) for token in tokens]

    @classmethod
    def of(cls, llm: LLM, text: str, layer: int = 0, head: int = 0) -> Attention:
        """What a head of the model does with a text. Raises ValueError as `attention_weights` does."""
        tokens = llm.tokenizer.encode(text)
        check_size(len(tokens), len(tokens), "token")
        title = f"Attention: layer {layer}, head {head}"
        return cls(attention_weights(llm, tokens, layer, head), token_texts(llm.tokenizer, tokens), title)

    def body(self) -> str:
        names = self.tokens[-len(self.weights) :]
        cells = [[self._cell(y, x) for x in range(len(self.tokens))] for y in range(len(names))]
        drawn = matrix(self.title, cells, Axis(names), Axis(self.tokens))
        return f"<p>{self._caption()}</p>{self._legend()}{readout(drawn)}{unfold(self.text())}"

    def text(self) -> str:
        names = self.tokens[-len(self.weights) :]
        return f"{self._caption()}\n" + aligned(names, [self._largest(row) for row in self.weights])

    def _cell(self, y: int, x: int) -> Cell:
        row, share = self.tokens[len(self.tokens) - len(self.weights) + y], float(self.weights[y, x])
        if x > len(self.tokens) - len(self.weights) + y:
            return Cell(f"“{row}” does not see “{self.tokens[x]}”, which comes later", "empty")
        says = f"“{row}” (token {len(self.tokens) - len(self.weights) + y}) takes {share:.3f} from"
        return Cell(f"{says} “{self.tokens[x]}” (token {x})", "taken", share**0.5)

    def _largest(self, row: Array) -> str:  # (S,) ->
        best = [x for x in np.argsort(-row, kind="stable")[:3].tolist() if row[x] > 0]
        return " ".join(f"{row[x]:.2f} {self.tokens[x]}" for x in best)

    def _caption(self) -> str:
        first, rest = float(self.weights[:, 0].mean()), 1 - self.weights.sum(axis=1)  # (T,): what a sink takes
        whole = "they add up to 1."
        if (rest > ROUNDING).any():
            whole = (
                "they add up to less than 1, because the head's sink, which is no token, takes the rest, "
                f"{rest.mean():.0%} on average."
            )
        return (
            f"A row is a token, and its cells are what it takes from each token up to itself: {whole} "
            f"On average {first:.0%} come from the first token."
        )

    def _legend(self) -> str:
        steps = [(value, f"{value:g}") for value in (0.01, 0.1, 0.5, 1.0)]
        return keys(*(legend([("taken", words)], f"--a:{100 * value**0.5:.0f}%") for value, words in steps))


def attention_weights(llm: LLM, tokens: Sequence[int], layer: int = 0, head: int = 0) -> Array:  # -> (T, S)
    """softmax(cap(scale · q kᵀ) + mask) of one head of one layer, for a prompt of T = S tokens, in float32.

    Where the head has a sink, the weights of a row sum to less than 1: the sink takes the rest.
    The model computes the whole prompt once, without a cache, and the ledger of the LLM does not count it. Raises
    ValueError for a layer or a head that the model does not have, and for a prompt that it cannot take.
    """
    for name, value, end in (("layer", layer, llm.config.num_layers), ("head", head, llm.config.num_heads)):
        if not 0 <= value < end:
            raise ValueError(f"there is no {name} {value}; give 0 to {end - 1}")
    [seq] = llm.sequences([list(tokens)], SamplingParams(max_tokens=1))
    probe = AttentionProbe(llm.ops, layer, head)
    cache = NoCache(CacheSpec(llm.config.memory, len(seq.tokens)), probe)
    batch = make_batch([(seq, 0, len(seq.tokens))], llm.config.rotation_sets)
    transformer(llm.model, batch, cache, probe)
    return probe.weights


class AttentionProbe(DelegatingOps):
    """Wraps a backend. weights: of the wanted head of the wanted layer, (T, S), once that layer was computed."""

    def __init__(self, ops: Ops, layer: int, head: int) -> None:
        super().__init__(ops.counting(Ledger()))  # the ledger of the model does not count this work
        self.layer, self.head = layer, head
        self.weights: Array = None

    def attention(
        self, q: Array, layer: int, batch: Batch, cache: KVCache, heads: Heads
    ) -> Array:  # (T, H, E) -> (T, H, E)
        if layer == self.layer:
            [span] = batch.spans
            k, _ = cache.read(layer, span.seq, 0, span.first + span.rows)  # (S, K, E)
            shared = self.head * heads.keys // heads.queries  # H/K query heads share a key head
            own = self.to_host(q[:, self.head]), self.to_host(k[:, shared])  # (T, E), (S, E)
            sinks = self.to_host(heads.sinks.scores).reshape(-1) if isinstance(heads.sinks, Sinks) else None  # (H,)
            sink = -np.inf if sinks is None else sinks[self.head]
            self.weights = head_weights(*own, span.first, heads, sink)
        return self.inner.attention(q, layer, batch, cache, heads)


def head_weights(q: Array, k: Array, first: int, heads: Heads, sink: float) -> Array:  # (T, E), (S, E) -> (T, S)
    """The part of `full_attention` before the values: what each query takes from each key.

    sink: the head's own score for no key at all; -inf: the head has none.
    """
    s = heads.cap(heads.scale * q @ k.T, np)  # (T, S)
    s = np.where(visible(len(q), len(k), first, 0, heads.window, np), s, -np.inf)  # (T, S)
    m = np.maximum(s.max(axis=1, keepdims=True), sink)  # (T, 1)
    p = np.exp(s - m)  # (T, S)
    return p / (p.sum(axis=1, keepdims=True) + np.exp(sink - m))
