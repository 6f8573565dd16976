"""The prefix tree: which beginnings of prompts the cache holds, who uses them, and where they part.

Blocks that follow each other without a fork stand in one line; what parts from them stands below, indented.
"""

from __future__ import annotations

from html import escape

from tinyinfer.views.page import View, legend, visible
from tinyinfer.views.pool import STYLE as POOL_STYLE
from tinyinfer.views.pool import names, paint
from tinyinfer.views.recording import Step, TreeNode

OWN_STYLE = """
.tinyinfer-view ul.tree { list-style: none; margin: 0; padding: 0; }
.tinyinfer-view ul.tree ul.tree { margin-left: -7px; padding-left: 14px; border-left: 2px solid var(--line); }
.tinyinfer-view .tree li { display: flex; flex-wrap: wrap; gap: 4px; margin: 4px 0; padding: 0 0 0 16px; }
.tinyinfer-view .tree li > .block:first-child { margin-left: -16px; }
.tinyinfer-view .tree li > ul.tree { flex: 0 0 calc(100% + 7px); }
.tinyinfer-view .tree .block { width: auto; min-width: 46px; max-width: 100%; height: auto; min-height: 40px; }
.tinyinfer-view .tree .block small:first-child { float: right; margin-left: 10px; }
.tinyinfer-view .tree .block small { display: block; }
.tinyinfer-view .tree .words { font: 12px/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


class PrefixTree(View):
    """The prefix tree after a step. title: its heading."""

    style = POOL_STYLE + OWN_STYLE

    def __init__(self, step: Step, title: str = "") -> None:
        self.step, self.title = step, title

    def pieces(self) -> list[str]:
        """The HTML of the tree, two pieces for each block, one for each line."""
        nodes = self.step.tree
        if not nodes:
            return ["<p>The prefix tree is empty.</p>"]
        pieces: list[str] = []
        open_lists: list[int] = []  # their depths
        for i, node in enumerate(nodes):
            if i and node.depth == nodes[i - 1].depth + 1 and not forks(nodes, i - 1):
                pieces += box(node)
                continue
            while open_lists and open_lists[-1] > node.depth:
                pieces.append("</li></ul>")
                open_lists.pop()
            if open_lists and open_lists[-1] == node.depth:
                pieces.append("</li><li>")
            else:
                pieces.append('<ul class="tree"><li>')
                open_lists.append(node.depth)
            pieces += box(node)
        return pieces + ["</li></ul>"] * len(open_lists)

    def body(self) -> str:
        return "".join(self.pieces()) + tree_legend()

    def text(self) -> str:
        return "\n".join(f"{'  ' * node.depth}{describe(node)}" for node in self.step.tree) or "empty"


def forks(nodes: tuple[TreeNode, ...], i: int) -> bool:
    """Whether a node of the tree has more than one child."""
    children = 0
    for node in nodes[i + 1 :]:
        if node.depth <= nodes[i].depth:
            break
        children += node.depth == nodes[i].depth + 1
    return children > 1


def box(node: TreeNode) -> tuple[str, str]:
    """A node as a box: what its users decide, which many nodes have in common; then its block and its text."""
    kinds, style = paint(node.users)
    return (
        f'<div class="block {kinds}{" new" * node.new}" style="{style}"><small>{names(node.users)}</small>',
        f'<small>{node.block}</small><span class="words">{escape(visible(node.text))}</span></div>',
    )


def describe(node: TreeNode) -> str:
    """A node in words."""
    users = f"used by {', '.join(map(str, node.users))}" if node.users else "used by no sequence"
    return f"block {node.block} {visible(node.text)!r}: {users}" + "; new" * node.new


def tree_legend() -> str:
    """What the boxes of a tree mean."""
    entries = [("held n1", "left: block; right: sequences that use it"), ("held n2", "used by several")]
    entries += [("held n0", "used by none: may be evicted"), ("held n1 new", "new in the tree")]
    return legend(entries, "--h: 255; --h2: 33")
