"""Attention and masks: every cell of a drawing is the number, or the rule, that the model computes with."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import make_engine, request, small_config
from markup import read

from tinyinfer import LLM, SamplingParams
from tinyinfer.backends.delegate import DelegatingOps
from tinyinfer.kv_cache.base import CacheSpec, NoCache
from tinyinfer.ledger import Ledger
from tinyinfer.model.attention import visible
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.heads import Heads
from tinyinfer.model.transformer import transformer
from tinyinfer.sequence import make_batch
from tinyinfer.views.matrices import Attention, Mask, attention_weights

HOSTILE = "</td><script>alert(1)</script>\"'&"


def cells(view) -> list[list[dict[str, str]]]:
    """The attributes of the cells of a drawing, row by row."""
    lines: list[list[dict[str, str]]] = []
    for tag, attributes in read(view._repr_html_()).elements:
        if tag == "tr" and "data-row" in attributes:
            lines.append([])
        elif tag == "td" and "tabindex" in attributes:
            lines[-1].append(attributes)
    return lines


def kinds(mask: Mask) -> list[str]:
    """A line for each row: n new, c cached, l later, w outside the window, o another sequence."""
    return ["".join(cell["class"][0] for cell in row) for row in cells(mask)]


@pytest.mark.parametrize(
    ("work", "window", "lines"),
    [
        ([3], None, ["nll", "nnl", "nnn"]),  # prefill
        ([(3, 1)], None, ["cccn"]),  # decode
        ([(2, 2)], None, ["ccnl", "ccnn"]),  # a chunk
        ([2, (1, 1)], None, ["nloo", "nnoo", "oocn"]),  # both in one batch
        ([4], 2, ["nlll", "nnll", "wnnl", "wwnn"]),  # a sliding window
        ([(4, 1)], 3, ["wwccn"]),  # which reaches into the cache
    ],
)
def test_who_may_see_whom(work, window, lines):
    """Catches a row that sees what comes later, another sequence, or one position too few or too many."""
    assert kinds(Mask(work, window)) == lines


def test_the_mask_of_a_batch_is_that_of_its_rows():
    """Catches a mask drawn from other positions than those of the batch: ids, first positions, drafts."""
    a, b = request(range(5), 3), request(range(9), 3)
    batch = make_batch([(a, 0, 5), (b, 6, 3)])
    mask = Mask(batch)
    seen = np.array([[kind in "nc" for kind in line] for line in kinds(mask)])
    assert np.array_equal(seen[:5, :5], visible(5, 5, 0, 0, None, np))
    assert np.array_equal(seen[5:, 5:], visible(3, 9, 6, 0, None, np))
    assert seen.sum() == mask.pairs
    assert kinds(Mask(batch.spans)) == kinds(mask)
    title = cells(mask)[5][11]["title"]
    assert title == f"sequence {b.id}, position 6 sees position 6, new in this step"


def test_each_sequence_is_named_beside_its_own_rows_and_above_its_own_positions():
    """Catches a name that spans another sequence's rows, or one row too few."""
    found = read(Mask([2, (1, 3), 1])._repr_html_()).elements
    spans = [(place["colspan"], "across") for tag, place in found if tag == "th" and place.get("scope") == "colgroup"]
    rows = -1
    for tag, place in found:
        rows += tag == "tr" and "data-row" in place
        if tag == "th" and place.get("scope") == "rowgroup":
            spans.append((place["rowspan"], f"from row {rows}"))
    assert spans == [("2", "across"), ("4", "across"), ("1", "across"),
                     ("2", "from row 0"), ("3", "from row 2"), ("1", "from row 5")]  # fmt: skip


def test_the_text_of_a_mask_says_the_same():
    """Catches a text form that differs from the drawing; a terminal has only the text."""
    lines = str(Mask([2, (1, 1)], title="Mixed")).splitlines()
    assert lines[0] == "Mixed"
    assert lines[1].startswith("3 rows by 4 positions: 5 pairs are seen.")
    assert lines[2:5] == [
        "sequence 0, position 0  #·|  |",
        "sequence 0, position 1  ##|  |",
        "sequence 1, position 1    |+#|",
    ]


@pytest.mark.parametrize(
    ("work", "window", "words"),
    [
        ([], None, "nothing to draw"),
        ([(2, 0)], None, "sequence 0: 0 rows"),
        ([3, (-1, 2)], None, "sequence 1: 2 rows from position -1"),
        ([10**12], None, "too many to see"),
        ([3], 0, "window=0"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(work, window, words):
    """Catches an empty table, and a notebook that hangs over a table of millions of cells."""
    with pytest.raises(ValueError, match=words):
        Mask(work, window)


class Seen(DelegatingOps):
    """Keeps the queries (T, H, E) and keys (S, K, E) of each layer, and what the layer does with them."""

    def __init__(self, ops) -> None:
        super().__init__(ops.counting(Ledger()))
        self.layers: list[tuple[np.ndarray, np.ndarray, Heads]] = []

    def attention(self, q, layer, batch, cache, heads):
        [span] = batch.spans
        self.layers.append((q, cache.read(layer, span.seq, 0)[0], heads))
        return self.inner.attention(q, layer, batch, cache, heads)


def by_hand(q: np.ndarray, k: np.ndarray, heads: Heads, config: ModelConfig, head: int) -> np.ndarray:
    """The weights of one head, one row at a time, in float64."""
    own, rows = k[:, head // (heads.queries // heads.keys)].astype(np.float64), np.zeros((len(q), len(k)))
    for t, query in enumerate(q[:, head]):
        s = heads.scale * own @ query
        s = s if config.score_cap is None else config.score_cap * np.tanh(s / config.score_cap)
        seen = range(0 if heads.window is None else max(0, t + 1 - heads.window), t + 1)
        sink = np.exp(heads.sinks.scores.reshape(-1)[head].astype(np.float64)) if config.sinks else 0.0
        rows[t, seen] = np.exp(s[seen]) / (np.exp(s[seen]).sum() + sink)
    return rows


def golden_llm(name: str) -> Callable[..., Any]:
    return lambda golden_folder: LLM(str(golden_folder(name)))


def random_llm(**changes: Any) -> Callable[..., Any]:
    """As much of an LLM as the picture asks for, around random weights."""
    engine = make_engine(config := small_config(**changes))
    llm = SimpleNamespace(config=config, model=engine.model, ops=engine.ops, ledger=engine.ledger)
    llm.sequences = lambda prompts, params: [request(prompt) for prompt in prompts]
    return lambda golden_folder: llm


@pytest.mark.parametrize(
    "open_llm",
    [
        golden_llm("gemma3"), golden_llm("qwen2_window"), random_llm(score_cap=0.7), random_llm(sinks=True),
        random_llm(sinks=True, score_cap=2.0, windows=(4, None)),
    ],
    ids=["gemma3", "qwen2_window", "cap", "sinks", "cap, sinks and a window"],
)  # fmt: skip
def test_weights_are_those_of_the_formula(open_llm, golden_folder):
    """Heads that share keys, windows, scales, caps and sinks. Catches another key head, layer or scale, a missing mask.
    """
    llm, tokens = open_llm(golden_folder), list(range(3, 23))
    [seq] = llm.sequences([tokens], SamplingParams(max_tokens=1))
    ops = Seen(llm.ops)
    cache = NoCache(CacheSpec(llm.config.memory, len(tokens)), ops)
    transformer(llm.model, make_batch([(seq, 0, len(tokens))]), cache, ops)
    before = llm.ledger.copy()
    for layer in range(llm.config.num_layers):
        for head in range(llm.config.num_heads):
            weights = attention_weights(llm, tokens, layer, head)
            assert np.allclose(weights, by_hand(*ops.layers[layer], llm.config, head), atol=1e-6)
            whole = weights.sum(axis=1)
            assert whole.mean() < 0.99 if llm.config.sinks else np.allclose(whole, 1, atol=1e-6)
    assert (llm.ledger - before).flops == 0, "a look is no work of the model"


def test_what_a_sink_takes_is_said():
    """Catches a picture whose rows do not add up, without a word."""
    text = str(Attention(np.array([[0.5, 0.0], [0.25, 0.65]]), ["a", "b"]))
    assert "less than 1, because the head's sink, which is no token, takes the rest, 30% on average." in text
    assert "they add up to 1." in str(Attention(np.array([[1, 0], [0.7499999, 0.25]]), ["a", "b"]))


@pytest.mark.parametrize(("layer", "head", "words"), [(9, 0, "no layer 9"), (0, -1, "no head -1")])
def test_a_head_that_does_not_exist(layer, head, words, golden_folder):
    """Catches a negative number that counts from the end, and an IndexError from inside the model."""
    with pytest.raises(ValueError, match=words):
        attention_weights(LLM(str(golden_folder("llama"))), [1, 2], layer, head)


def test_cells_of_attention_are_the_weights():
    """Catches a cell of another row or column, and a colour that does not grow with the number."""
    weights = np.array([[1, 0, 0], [0.25, 0.75, 0], [0.04, 0.32, 0.64]])
    table = cells(Attention(weights, ["The", " cat", " sat"]))
    assert [[cell.get("style", "") for cell in row] for row in table] == [
        ["", "", ""],  # the full colour, then what comes later
        ["--a:50%", "--a:87%", ""],
        ["--a:20%", "--a:57%", "--a:80%"],
    ]
    assert [cell["class"] for cell in table[1]] == ["taken", "taken", "empty"]
    assert table[2][1]["title"] == "“·sat” (token 2) takes 0.320 from “·cat” (token 1)"
    assert str(Attention(weights, ["The", " cat", " sat"])).splitlines()[-1] == "·sat  0.64 ·sat 0.32 ·cat 0.04 The"


def test_the_last_rows_alone_see_all_that_came_before():
    """A decode step has one row. Catches a diagonal that begins at the first column."""
    [row] = cells(Attention(np.array([[0.5, 0.25, 0.25]]), ["a", "b", "c"]))
    assert [cell["class"] for cell in row] == ["taken"] * 3
    assert "“c” (token 2) takes 0.500 from “a” (token 0)" in row[0]["title"]


def test_one_cell_can_be_reached_by_the_tab_key_and_the_others_from_it():
    """Catches a drawing that takes a hundred presses of Tab to pass, and one that no key reaches."""
    table = cells(Mask([4]))
    assert [cell["tabindex"] for row in table for cell in row] == ["0"] + ["-1"] * 15
    found = read(Mask([4])._repr_html_())
    assert [table["role"] for table in found.named("table")] == ["grid"]
    assert all("ArrowDown" in script for script in found.scripts)
    assert found.scripts


def test_hostile_tokens_stay_text():
    """Catches a token that becomes an element of the page, in a label, a title or the text form."""
    view = Attention(np.eye(2), [HOSTILE, "b"], title=HOSTILE)
    found = read(view._repr_html_())
    assert not [script for script in found.scripts if "alert" in script]
    assert HOSTILE in found.words
    assert [th["title"] for th in found.named("th") if "title" in th] == [HOSTILE, "b"] * 2
    assert HOSTILE in cells(view)[1][0]["title"]


@pytest.mark.parametrize("tokens", [["a"], ["a", "b", "c"]])
def test_a_text_for_each_column(tokens):
    """Catches labels that are shifted because one is missing."""
    with pytest.raises(ValueError, match="give a text for each column"):
        Attention(np.eye(2), tokens)
