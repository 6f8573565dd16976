"""Three runs as saved pages: paging, batching and prefix caching under a slider, without a notebook or an install.

    python -m tinyinfer.lessons.pages docs    writes docs/04_paging.html, docs/09_batching.html and so on

The runs are those of the tiny model on a simulated clock, so the pages are the same bytes wherever they are written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyinfer.lessons.models import Models
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.views.page import Paragraphs, View, save_page
from tinyinfer.views.player import StepPlayer
from tinyinfer.views.recording import Recording, record

MACHINE = "37GB/s,200GFLOP/s"
REQUESTS = (  # prompts, and the length of each answer
    ("Tell me about trains", 4), ("Count the stars", 17), ("Why?", 7), ("A short poem, please", 3), ("Sing", 12),
    ("Three names for a cat", 5), ("Rhyme on blue", 9), ("Hello", 2),
)  # fmt: skip
SYSTEM = "You are a patient teacher. "
QUESTIONS = (
    "What is a block?", "What is a leaf?", "What is a block table?", "Why do trees grow?", "What is a block?",
)  # fmt: skip
STRANGERS = ("Another user asks about something else, at length.", "A third one counts: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10.")


@dataclass(frozen=True)
class Page:
    """A saved page: the name of its notebook, its title, what to look at, and its views."""

    name: str
    title: str
    words: tuple[str, ...]
    views: tuple[View, ...]

    def save(self, folder: Path) -> None:
        """Writes the page into the folder. Raises OSError when the disk fails."""
        link = [(f"The lesson: notebooks/{self.name}.ipynb", f"../notebooks/{self.name}.ipynb")]
        save_page(folder / f"{self.name}.html", self.title, Paragraphs(*self.words, links=link), *self.views)


def write_pages(folder: Path) -> None:
    """Writes the three pages into a folder. Raises OSError when the disk fails."""
    models = Models()
    for page in (paging(models), batching(models), prefix_caching(models)):
        page.save(folder)


def run(
    models: Models, requests: Iterable[tuple[str, int]], arrivals: list[float] | None = None, **switches: Any
) -> Recording:
    """Records requests (prompt, length of the answer) on the tiny model."""
    prompts, most = zip(*requests, strict=True)
    params = [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True) for n in most]
    return record(models.open(models.tiny_path(), MACHINE, **switches), list(prompts), params, arrivals)


def paging(models: Models) -> Page:
    """A pool that is too small for four sequences at their full length."""
    recording = run(models, REQUESTS, kv_cache="paged", block_size=4, num_blocks=18, max_num_seqs=4)
    words = (
        "Each box is a block of the pool, coloured by the sequence whose positions it holds. A sequence takes any free "
        "block when its last one is full, so its block table may name blocks from all over the pool; at most one block "
        "of each sequence is filled in part.",
        "Watch the pool fill. When no block is free, the youngest sequence is preempted: its blocks are free at once, "
        "and the sequence is computed again later, with the same text.",
    )
    player = StepPlayer(recording, parts=("pool", "rows", "seats", "cost"))
    return Page("04_paging", "04 · Paging: a pool of blocks", words, (player,))


def batching(models: Models) -> Page:
    """The same requests with static and with continuous batching."""
    static = run(models, REQUESTS, batching="static", max_num_seqs=4)
    continuous = run(models, REQUESTS, batching="continuous", max_num_seqs=4)
    words = (
        f"{len(REQUESTS)} requests, four seats, the same answers. Static batching needs {len(static.steps)} steps: a "
        "sequence that is finished keeps its seat until the whole batch is finished, and its row is computed for "
        f"nothing (hatched). Continuous batching needs {len(continuous.steps)}: the next sequence sits down as soon as "
        "a seat is free.",
        "Watch the queue under the seats, and the bytes of a step: they are nearly the same for one row and for four.",
    )
    parts = ("seats", "rows", "cost")
    columns = len(static.steps)
    players = (
        StepPlayer(static, parts, "Static batching"),
        StepPlayer(continuous, parts, "Continuous batching", columns),
    )
    return Page("09_batching", "09 · Batching: who sits where", words, players)


def prefix_caching(models: Models) -> Page:
    """Questions under one system prompt, the first one asked again, and two strangers whose prompts need room."""
    requests = [(SYSTEM + question, 3) for question in QUESTIONS] + [(text, 3) for text in STRANGERS]
    recording = run(models, requests, kv_cache="paged", block_size=8, num_blocks=18, prefix_cache=True, max_num_seqs=2)
    words = (
        "Each path from the left spells the beginning of a prompt, block by block. A new sequence follows the tree as "
        "far as its own tokens go and computes only the rest; where it parts from the others, a branch grows.",
        "Blocks stay in the tree when no sequence uses them any longer (grey). When the pool is full, the block that "
        "was not used for the longest time is evicted, leaves before their parents.",
    )
    player = StepPlayer(recording, parts=("tree", "pool", "rows", "seats", "cost"))
    return Page("11_prefix_caching", "11 · Prefix caching: a tree of blocks", words, (player,))


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
