"""The prefix tree: lines of blocks, and where they part."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from markup import read

from tinyinfer import SamplingParams
from tinyinfer.views.recording import record
from tinyinfer.views.tree import PrefixTree

PARAMS = SamplingParams(max_tokens=1, temperature=0)


class Lines(HTMLParser):
    """The texts of a tree's blocks, line by line, with the number of lists around each line."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.depth, self.inside = 0, False
        self.lines: list[tuple[int, list[str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.depth += tag == "ul"
        self.inside = ("class", "words") in attrs
        if tag == "li":
            self.lines.append((self.depth, []))

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "ul"
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.lines[-1][1].append(data)


def test_blocks_without_a_fork_stand_in_one_line_and_branches_below(tiny):
    """Catches a branch that hangs on the wrong block, and a chain that is drawn as a staircase."""
    llm = tiny(kv_cache="paged", block_size=4, num_blocks=40, prefix_cache=True)
    prompts = ["You are a cat. Go in", "You are a cat. No!!!", "You are a dog. Go in", "Elsewhere in"]
    step = record(llm, prompts, PARAMS).steps[0]
    tree = PrefixTree(step)
    assert Lines("".join(tree.pieces())).lines == [
        (1, ["You ", "are "]),
        (2, ["a ca"]),
        (3, ["t. G", "o in"]),
        (3, ["t. N", "o!!!"]),
        (2, ["a do", "g. G", "o in"]),
        (1, ["Else", "wher", "e in"]),
    ]
    assert tree.text().splitlines()[:2] == [
        "block 0 'You ': used by 0, 1, 2; new",
        "  block 1 'are ': used by 0, 1, 2; new",
    ]


def test_hostile_text_of_a_block_is_only_text(tiny):
    """Catches a prompt that writes HTML into the page."""
    llm = tiny(kv_cache="paged", block_size=32, num_blocks=4, prefix_cache=True)
    hostile = "</script><img src=x onerror=al(1)>\n"
    step = record(llm, [hostile], PARAMS).steps[0]
    found = read(PrefixTree(step, title="Tree")._repr_html_())
    assert hostile[:32] in found.words
    assert not found.named("img")


def test_an_empty_tree_says_so(tiny):
    """Catches a legend of a drawing that is not there."""
    step = record(tiny(), ["a"], PARAMS).steps[0]
    assert "The prefix tree is empty." in read(PrefixTree(step)._repr_html_()).words
    assert str(PrefixTree(step)) == "empty"
