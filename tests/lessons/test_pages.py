"""The saved pages: what docs/ holds is what the code writes, and each page shows what its words promise."""

from __future__ import annotations

from pathlib import Path

import pytest
from markup import read

from tinyinfer.lessons.models import Models
from tinyinfer.lessons.pages import Page, batching, paging, prefix_caching, write_pages
from tinyinfer.views.player import StepPlayer
from tinyinfer.views.recording import Recording

ROOT = Path(__file__).parents[2]
NAMES = ("04_paging", "09_batching", "11_prefix_caching")


@pytest.fixture(scope="module")
def models() -> Models:
    """The tiny model, opened once."""
    return Models()


def runs(page: Page) -> list[Recording]:
    """The recorded runs that a page shows."""
    return [view.recording for view in page.views if isinstance(view, StepPlayer)]


def test_the_saved_pages_are_what_the_code_writes(tmp_path):
    """Catches a page of an older player, or one that changes each time; `python -m tinyinfer.lessons.pages docs`."""
    write_pages(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.html" for name in NAMES]
    for name in NAMES:
        page = (tmp_path / f"{name}.html").read_bytes()
        assert page == (ROOT / "docs" / f"{name}.html").read_bytes()
        found = read(page.decode())
        assert found.words[0] == found.words[1]  # the title of the window is the page's
        assert [link["href"] for link in found.named("a")] == [f"../notebooks/{name}.ipynb"]
        assert len(found.scripts) == (2 if name == "09_batching" else 1)


def test_the_pool_of_paging_fills_and_a_sequence_is_preempted_and_computed_again(models):
    """Catches requests that fit after all: the page would promise what it does not show."""
    [recording] = runs(paging(models))
    assert max(len(step.blocks) for step in recording.steps) == recording.steps[0].num_blocks
    assert {turn.phase for step in recording.steps for turn in step.turns} == {"prefill", "decode", "recompute"}
    assert sum(step.ledger.preemptions for step in recording.steps) == 2
    tables = [[block.number for block in turn.blocks] for step in recording.steps for turn in step.turns]
    assert any(table != sorted(table) for table in tables)  # scattered


def test_batching_shows_the_same_answers_in_fewer_steps(models):
    """Catches two runs of different requests."""
    static, continuous = runs(batching(models))
    assert static.answers == continuous.answers
    assert (len(static.steps), len(continuous.steps)) == (29, 17)
    assert any(turn.phase == "padding" for step in static.steps for turn in step.turns)
    most, least = (pick(step.ledger.bytes_moved for step in continuous.steps) for pick in (max, min))
    assert most < 1.3 * least


def test_the_tree_of_prefix_caching_grows_is_shared_and_loses_leaves(models):
    """Catches a run without an eviction, and answers that become blocks of the tree: they are no text."""
    [recording] = runs(prefix_caching(models))
    sizes = [len(step.tree) for step in recording.steps]
    evicted = [i for i, step in enumerate(recording.steps) if step.ledger.blocks_evicted]
    assert evicted == [9]
    assert sizes[:9] == sorted(sizes[:9])
    assert any(len(node.users) > 1 for node in recording.steps[0].tree)
    assert sum(turn.cached for step in recording.steps for turn in step.turns) == 136
    assert all("\ufffd" not in node.text for step in recording.steps for node in step.tree)
