"""The puzzles of the lesson about prefix caching: the parts of a prompt in order, and requests in order.

Both are scored by the tokens that are found in the cache. `Hits` draws what was found of each request.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from html import escape
from typing import Any

import numpy as np

from tinyinfer.lessons.exercise import Wrong
from tinyinfer.lessons.models import Models
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.units import show
from tinyinfer.views.page import View, hue, legend

SIZE = 16  # of a block
Part = tuple[str, int]  # name and tokens
Line = tuple[str, list[Part], int]  # a request: its name, its parts in order, and how many of its tokens were found


class Hits(View):
    """A bar for each request, in its parts; what was found in the cache is filled."""

    style = """
.tinyinfer-view .request { display: flex; align-items: center; margin: 1px 0; }
.tinyinfer-view .request > span { flex: 0 0 12em; font-size: 12px; white-space: nowrap; overflow: hidden; }
.tinyinfer-view .request > div { flex: 1 1 0; display: flex; min-width: 0; height: 12px; }
.tinyinfer-view .request i { display: block; min-width: 0; border-right: 1px solid var(--line);
  background: var(--soft); }
.tinyinfer-view .request i.fill { background: oklch(var(--fill) var(--h)); }
"""

    def __init__(self, title: str, lines: Seq[Line], note: str) -> None:
        self.title, self.lines, self.note = title, lines, note

    def body(self) -> str:
        """Bars as wide as their requests are long; behind each name, how many tokens were found."""
        names = list(dict.fromkeys(name for _, parts, _ in self.lines for name, _ in parts))
        bars = "".join(self._bar(line, names) for line in self.lines)
        boxes = legend([("fill", "found in the cache"), ("", "computed")], hue(0))
        return f"{bars}{boxes}<p>{escape(self.note)}</p>"

    def text(self) -> str:
        """The same with a letter for eight tokens: of a part when it was found, a dot when it was computed."""
        rows = []
        for name, parts, found in self.lines:
            letters = [part[0] for part, size in parts for _ in range(size)]
            rows.append(f"{name:24.24} " + "".join(a if i < found else "." for i, a in enumerate(letters))[::8])
        return "\n".join([*rows, self.note])

    def _bar(self, line: Line, names: list[str]) -> str:
        request, parts, found = line
        pieces, place = [], 0
        for name, size in parts:
            hit = max(0, min(size, found - place))
            for width, kind in ((hit, "fill"), (size - hit, "")):
                style = f"flex:{width} 1 0;{hue(names.index(name))}"
                pieces += [f'<i class="{kind}" style="{style}" title="{escape(name)}"></i>'] if width else []
            place += size
        return f'<div class="request"><span>{escape(request)}: {found}</span><div>{"".join(pieces)}</div></div>'


# The order of the parts of a prompt.

PARTS = {"system": 90, "date": 14, "tools": 60, "document": 100, "question": 25}  # tokens of each part
REQUESTS = 24
BEST_ORDER = ["system", "tools", "document", "date", "question"]


def part_value(part: str, request: int) -> int:
    """Which text of a part a request has: one system prompt, a new date after 8 requests, and so on."""
    values = {"system": 0, "date": request // 8, "tools": request % 2, "document": (5 * request + request // 4) % 4}
    return values.get(part, request)


def run_template(order: Seq[str]) -> list[int]:
    """How many tokens of each request are found, when all before it are cached and nothing is evicted."""
    seen: set[tuple[tuple[str, int, int], ...]] = set()
    found = []
    for request in range(REQUESTS):
        tokens = [(part, part_value(part, request), i) for part in order for i in range(PARTS[part])]
        heads = [tuple(tokens[:stop]) for stop in range(SIZE, len(tokens) + 1, SIZE)]
        found.append(SIZE * sum(head in seen and len(head) < len(tokens) for head in heads))
        seen.update(heads)
    return found


def judge_template(answer: Any) -> Wrong | None:
    """As many tokens found as the best order finds; the usual orders are named."""
    if not isinstance(answer, list | tuple) or sorted(map(str, answer)) != sorted(PARTS):
        return Wrong(f"{show(answer)} is not an order of the parts.", f"write a list of these: {', '.join(PARTS)}")
    found, best = sum(run_template(answer)), sum(run_template(BEST_ORDER))
    if found == best:
        return None
    place = {part: i for i, part in enumerate(answer)}
    sentence = f"{found:,} tokens are found; {best:,} are possible."
    if place["question"] < max(place[part] for part in ("system", "tools", "document")):
        return Wrong(sentence, "no two questions are equal: nothing behind the question is ever found")
    if place["date"] == 0:
        return Wrong(sentence, "with each new date the whole prompt is new, the system prompt included")
    if place["date"] < place["document"] or place["date"] < place["tools"]:
        return Wrong(sentence, "the date seldom changes and is short, but what stands behind it is long: count what "
                               "a new date makes new")  # fmt: skip
    return Wrong(sentence, "the system prompt is the same in all requests: why store it behind several others?")


def draw_template(answer: Any) -> View | None:
    """What is found of each request; None for what is not an order."""
    if not isinstance(answer, list | tuple) or sorted(map(str, answer)) != sorted(PARTS):
        return None
    found = run_template(answer)
    parts = [(part, PARTS[part]) for part in answer]
    lines = [(f"request {i}", parts, n) for i, n in enumerate(found)]
    total = REQUESTS * sum(PARTS.values())
    return Hits(" · ".join(answer), lines, f"{sum(found):,} of {total:,} tokens are found in the cache")


# The order of requests under a small pool.

BLOCKS = 8  # of the pool
SECTIONS = (32, 48, 17)  # tokens of system prompt, document and question
QUEUE = (
    ("bank", "rules", "q1"), ("shop", "rules", "q2"), ("shop", "history", "q3"), ("bank", "rules", "q4"),
    ("shop", "rules", "q5"), ("shop", "history", "q6"), ("bank", "history", "q7"), ("bank", "history", "q8"),
    ("bank", "prices", "q9"), ("shop", "prices", "q10"), ("shop", "prices", "q11"), ("bank", "prices", "q12"),
)  # fmt: skip
Asked = tuple[str, str, str]


def prompt_of(request: Asked) -> list[int]:
    """The tokens of a request: system prompt, document and question, each a fixed text of its name."""
    return [
        3 + (zlib.crc32(name.encode()) + 31 * i) % 250
        for name, size in zip(request, SECTIONS, strict=True)
        for i in range(size)
    ]


def run_order(order: Seq[int]) -> list[int]:
    """How many tokens of each request are found, one request at a time, by the library with a pool of few blocks."""
    models = Models()
    llm = models.open(
        models.tiny_path(), None, threads=1, kv_cache="paged", block_size=SIZE, prefix_cache=True, num_blocks=BLOCKS,
        max_num_seqs=1, max_model_len=SIZE * BLOCKS,
    )  # fmt: skip
    sequences = llm.sequences([prompt_of(QUEUE[i]) for i in order], SamplingParams(max_tokens=1, ignore_eos=True))
    for _ in llm.run(sequences):
        continue
    return [seq.progress.cached_tokens for seq in sequences]


def order_by_prefix(requests: list[Asked]) -> list[int]:
    """The numbers of the requests, sorted by their system prompt and then by their document."""
    return sorted(range(len(requests)), key=lambda i: requests[i])


def _as_they_came(requests: list[Asked]) -> list[int]:
    return list(range(len(requests)))


def _by_document(requests: list[Asked]) -> list[int]:
    return sorted(range(len(requests)), key=lambda i: requests[i][1])


def _by_system(requests: list[Asked]) -> list[int]:
    return sorted(range(len(requests)), key=lambda i: requests[i][0])


def _by_group(requests: list[Asked]) -> list[int]:
    heads = list(dict.fromkeys(request[:2] for request in requests))
    return sorted(range(len(requests)), key=lambda i: heads.index(requests[i][:2]))


def _by_document_and_system(requests: list[Asked]) -> list[int]:
    return sorted(range(len(requests)), key=lambda i: (requests[i][1], requests[i][0]))


USUAL: dict[Callable[[list[Asked]], list[int]], str] = {
    _as_they_came: "blocks are evicted before the next request with the same beginning comes",
    _by_document: "a document behind another system prompt is another prefix: what do the prompts begin with?",
    _by_group: "equal documents stand together, but the system prompts still take turns: each of them is lost again",
    _by_document_and_system: "the document comes behind the system prompt: sort by what the prompts begin with",
    _by_system: "the system prompts are found now; within one of them the documents still take turns",
}


def _numbers(order: Any) -> list[int]:
    """The numbers of requests that an answer names; none where it names something else."""
    if not isinstance(order, Iterable) or isinstance(order, str):
        return []
    numbers = list(order)
    return list(map(int, numbers)) if all(isinstance(i, int | np.integer) for i in numbers) else []


def judge_order(answer: Any) -> Wrong | None:
    """As many tokens found as when common beginnings stand together; the usual orders are named."""
    order = _numbers(answer(list(QUEUE)))
    if sorted(order) != list(range(len(QUEUE))):
        return Wrong(f"{show(answer(list(QUEUE)))} does not name each request once.",
                     "return the numbers of the requests, from 0, in the order in which they run")  # fmt: skip
    found, best = sum(run_order(order)), sum(run_order(order_by_prefix(list(QUEUE))))
    if found >= best:
        return None
    usual = (why for rule, why in USUAL.items() if order == rule(list(QUEUE)))
    hint = next(usual, "let requests that begin alike follow each other")
    return Wrong(f"{found} tokens are found; {best} are possible.", hint)


def draw_order(answer: Any) -> View | None:
    """What is found of each request, in the order of the answer."""
    order = _numbers(answer(list(QUEUE)))
    if not order:
        return None
    found = run_order(order)
    lines = list(_lines(order, found))
    return Hits("Requests in your order", lines, f"{sum(found)} of {sum(SECTIONS) * len(QUEUE)} tokens are found")


def _lines(order: Seq[int], found: list[int]) -> Iterator[Line]:
    for i, n in zip(order, found, strict=True):
        yield " · ".join(QUEUE[i]), list(zip(QUEUE[i], SECTIONS, strict=True)), n
