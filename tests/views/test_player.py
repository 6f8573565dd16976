"""The step player: it shows the last step without its script, and the script has every step that Python drew."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from markup import read

from tinyinfer import SamplingParams
from tinyinfer.views.page import save_page
from tinyinfer.views.player import PARTS, StepPlayer
from tinyinfer.views.recording import Recording, record
from tinyinfer.views.sentence import sentence

HOSTILE = "</script><img src=x onerror=al(1)> </script>"
EVERYTHING = {
    "kv_cache": "paged", "block_size": 4, "num_blocks": 40, "prefix_cache": True, "speculative": "prompt-lookup",
    "max_num_seqs": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def everything(tiny) -> Recording:
    """A run that has something of each part: drafts, shared blocks, a waiting sequence."""
    params = [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True) for n in (8, 6, 5)]
    return record(tiny(**EVERYTHING), ["aaaaaaaaaaaa", HOSTILE, "aaaaaaaaaaab"], params)


def data_of(player: StepPlayer) -> dict[str, Any]:
    """What the script of a player's page has, read from the page."""
    [script] = read(player._repr_html_()).scripts
    found = re.search(r"const data = (\{.*\}), last", script)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def changing(html: str) -> dict[str, str]:
    """The HTML inside each changing part of the delivered page."""
    parts = re.split(r'<(?:div|b)(?: class="sentence" aria-live="polite")? data-part="([\w-]+)">', html)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_delivered_page_shows_the_last_step_and_all_steps_as_a_table(everything):
    """Catches a page that is empty where scripts may not run, or shows another step than it says."""
    player = StepPlayer(everything, title="A run")
    html = player._repr_html_()
    found = read(html)
    last = len(everything.steps) - 1
    assert found.words[0] == "A run"
    assert sentence(everything, last) in found.words
    shown = changing(html)
    for name, pieces in player.drawings(last).items():
        assert shown[name].startswith("".join(pieces))
    lines = html.partition("<tbody>")[2].rpartition("</tbody>")[0].rpartition("<tbody>")[2]
    assert len(re.findall("<tr>", lines)) == len(everything.steps)
    assert not found.named("button")  # they would do nothing
    assert [part["aria-label"] for part in read(data_of(player)["controls"]).named("input")] == ["step"]


def test_the_script_has_every_step_as_python_draws_it(everything):
    """Catches pieces that are numbered wrongly: a step would show another step's blocks."""
    player = StepPlayer(everything)
    data = data_of(player)
    assert data["steps"] == len(everything.steps)
    for i in range(len(everything.steps)):
        joined = {name: "".join(data["pieces"][k] for k in steps[i]) for name, steps in data["parts"].items()}
        assert joined == {name: "".join(pieces) for name, pieces in player.drawings(i).items()}
        for name, html in joined.items():
            assert read(html), name


def test_each_changing_part_has_one_place_in_the_page(everything):
    """Catches a part that the script would draw nowhere, or a place that it has nothing for."""
    player = StepPlayer(everything)
    places = [part["data-part"] for _, part in read(player._repr_html_()).elements if "data-part" in part]
    assert sorted(places) == sorted(data_of(player)["parts"])


def test_hostile_text_stays_text(everything, tmp_path):
    """Catches a token that ends the script or the page's structure, in the markup and in the script's data."""
    words = dict.fromkeys(everything.words, HOSTILE)
    hostile = replace(everything, words=words, prompts=(HOSTILE,) * 3)
    html = StepPlayer(hostile, title=HOSTILE)._repr_html_()
    found = read(html)
    assert not found.named("img")
    assert len(found.scripts) == 1
    assert html.count("</script>") == 1
    assert not re.search("[<>&]", found.scripts[0].partition("const data = ")[2].partition("}, last")[0])
    assert HOSTILE in found.words


def test_the_same_run_gives_the_same_bytes_and_no_id(everything, tiny, tmp_path):
    """Catches an id or a time in the page: a saved page would change when it is built again."""
    params = [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True) for n in (8, 6, 5)]
    again = record(tiny(**EVERYTHING), ["aaaaaaaaaaaa", HOSTILE, "aaaaaaaaaaab"], params)
    assert StepPlayer(again)._repr_html_() == StepPlayer(everything)._repr_html_()
    save_page(tmp_path / "page.html", "Two", StepPlayer(everything), StepPlayer(everything, parts=["rows"]))
    found = read((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not [part for _, part in found.elements if "id" in part]
    keys = [part["data-player"] for part in found.named("div") if "data-player" in part]
    assert len(set(keys)) == 2
    assert [key in script for key, script in zip(keys, found.scripts, strict=True)] == [True, True]


def test_parts_that_a_run_has_nothing_of_are_left_out(tiny, everything):
    """Catches an empty heading, and a part that does not come although it was asked for."""
    plain = record(tiny(), ["one"], SamplingParams(max_tokens=2))
    assert StepPlayer(plain).parts == ["rows", "seats", "cost"]
    assert StepPlayer(everything).parts == list(PARTS)
    words = read(StepPlayer(everything, parts=("cost", "pool"))._repr_html_()).words
    headings = [word for word in words if word in ("Seats", "Pool of blocks", "What each step costs", "Drafts")]
    assert headings == ["What each step costs", "Pool of blocks"]
    with pytest.raises(ValueError, match="no part 'blocks'; its parts are rows"):
        StepPlayer(plain, parts=["blocks"])


def test_drafts_are_shown_as_text_accepted_before_rejected(everything):
    """Catches drafts that are only numbers, and a rejected one that looks accepted."""
    totals = [0, 0]
    for i, step in enumerate(everything.steps):
        found = read("".join(StepPlayer(everything).drawings(i)["drafts"]))
        shown = [len(found.named("ins")), len(found.named("del"))]
        drafted = [turn for turn in step.turns if turn.drafts]
        accepted = sum(turn.accepted for turn in drafted)
        assert shown == [accepted, sum(len(turn.drafts) for turn in drafted) - accepted]
        assert {everything.word(token) for turn in drafted for token in turn.drafts} <= set(found.words)
        totals = [a + b for a, b in zip(totals, shown, strict=True)]
    assert min(totals) > 0


def test_the_bar_of_the_batch_is_divided_by_rows(everything):
    """Catches a sequence with one row that takes as much of the batch as a whole prompt."""
    for i, step in enumerate(everything.steps):
        found = read("".join(StepPlayer(everything).drawings(i)["rows"]))
        styles = [bar.get("style", "").partition("flex-grow: ") for bar in found.named("span")]
        assert [grown for _, named, grown in styles if named] == [str(turn.rows) for turn in step.turns]


def test_the_pool_has_the_same_blocks_in_every_step(everything):
    """Catches a strip that hides blocks in use, or one that grows and shrinks under the eye."""
    player, used = StepPlayer(everything), {block.number for step in everything.steps for block in step.blocks}
    for i in range(len(everything.steps)):
        drawn = read("".join(player.drawings(i)["pool"])).named("small")
        assert len(drawn) == max(used) + 1
    assert "in the prefix tree" in read(player._repr_html_()).words


def test_bars_are_as_high_as_the_costs_of_the_steps(everything):
    """Catches bars of one cost under the name of another."""
    html = StepPlayer(everything, parts=["cost"])._repr_html_()
    paths = {
        label: re.findall(r"v-([\d.]+)h", path)
        for label, path in re.findall(r'aria-label="([\w ]+) by step[^"]*"><path d="([^"]*)"', html)
    }
    assert list(paths) == ["rows", "arithmetic", "bytes moved", "time", "blocks"]
    for label, values in {
        "rows": [step.rows for step in everything.steps],
        "arithmetic": [step.ledger.flops for step in everything.steps],
        "bytes moved": [step.ledger.bytes_moved for step in everything.steps],
        "blocks": [len(step.blocks) for step in everything.steps],
    }.items():
        assert [float(height) for height in paths[label]] == [round(94 * value / max(values), 1) for value in values]


def test_a_long_run_stays_small(tiny):
    """7.5 kB a step, so that 200 steps with 16 sequences at a time and 128 blocks stay below 1.5 MB."""
    llm = tiny(kv_cache="paged", block_size=16, num_blocks=128, prefix_cache=True)
    prompts = [f"You are a helpful assistant. Request {i} says {'abc' * (i % 17)}." for i in range(20)]
    params = [SamplingParams(max_tokens=70 + i, temperature=0, ignore_eos=True) for i in range(20)]
    recording = record(llm, prompts, params, arrivals=[2e-5 * i for i in range(20)])
    steps = len(recording.steps)
    assert steps > 100
    assert max(len(step.turns) for step in recording.steps) == 16
    assert max(len(step.blocks) for step in recording.steps) > 100
    assert len(StepPlayer(recording)._repr_html_()) < 7_500 * steps


def test_a_run_of_no_step_has_a_page_too(tiny):
    """Catches a player that divides by the number of steps."""
    player = StepPlayer(record(tiny(), []), title="nothing")
    assert read(player._repr_html_()).words == ["nothing", "No step was run."]
    assert str(player) == "nothing\n"


def test_text_form_is_a_line_for_each_step(everything):
    """Catches a text form that shows the last step only."""
    lines = str(StepPlayer(everything, title="A run")).splitlines()
    assert lines == ["A run", *(sentence(everything, i) for i in range(len(everything.steps)))]
