"""The pool as a strip of blocks."""

from __future__ import annotations

from markup import read

from tinyinfer import SamplingParams
from tinyinfer.views.page import hue
from tinyinfer.views.pool import Pool, drawn_blocks
from tinyinfer.views.recording import record

PARAMS = SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)


def boxes(pool: Pool) -> list[dict[str, str]]:
    """The attributes of each drawn block."""
    strip = read("".join(pool.pieces()))
    return [part for part in strip.named("div") if part["class"].startswith("block")]


def test_a_block_shows_whose_it_is_how_full_how_shared_and_how_new(tiny):
    """Two prompts that share their first block of four bytes; the last block of each is filled in part."""
    llm = tiny(kv_cache="paged", block_size=4, num_blocks=8, prefix_cache=True)
    first, second = record(llm, ["same a", "same bcd"], PARAMS).steps
    assert Pool(first).text().splitlines() == [
        "block 0: of sequences 0, 1; 4 of 4 positions; in the prefix tree; newly allocated",
        "block 1: of sequence 0; 2 of 4 positions; newly allocated",
        "block 2: of sequence 1; 4 of 4 positions; in the prefix tree; newly allocated",
        *(f"block {i}: free" for i in range(3, 8)),
    ]
    drawn = boxes(Pool(first))
    assert [box["class"] for box in drawn] == [
        "block held n2 kept new", "block held n1 new", "block held n1 kept new", *["block free"] * 5,
    ]  # fmt: skip
    assert drawn[0]["style"] == f"{hue(0)}; {hue(1).replace('--h', '--h2')}"
    assert drawn[1]["style"] == f"{hue(0)}; --full: 50%"
    assert "new" not in boxes(Pool(second))[0]["class"]


def test_a_block_of_many_sequences_says_how_many(tiny):
    """Catches a box in which sixteen numbers run over its edge."""
    llm = tiny(kv_cache="paged", block_size=4, num_blocks=24, prefix_cache=True)
    step = record(llm, ["same one"] * 5, PARAMS).steps[0]
    words = read("".join(Pool(step).pieces())).words
    assert words[:2] == ["5 ×", "0"]
    assert boxes(Pool(step))[0]["class"].startswith("block held n3")


def test_blocks_that_are_never_used_are_only_counted(tiny):
    """Catches a strip of thousands of free blocks."""
    recording = record(tiny(kv_cache="paged", block_size=4, num_blocks=100), ["seven b"], PARAMS)
    assert drawn_blocks(recording.steps) == 2
    pool = Pool(recording.steps[0], most=2)
    assert len(boxes(pool)) == 2
    assert read(pool._repr_html_()).words[-6:-4] == ["1", "and 98 more free blocks"]


def test_a_cache_without_blocks_says_so(tiny):
    """Catches an empty strip that looks like a full pool."""
    step = record(tiny(), ["seven b"], PARAMS).steps[0]
    assert read(Pool(step, title="Pool")._repr_html_()).words == ["Pool", "This cache has no blocks."]
    assert drawn_blocks([step]) == 0
