"""The pool of a paged cache as a strip of blocks: whose each block is, how full, how shared, and which are free.

The hue says the sequence, and so does the number in the block, for who does not see the hue.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyinfer.views.page import View, hue, legend
from tinyinfer.views.recording import PoolBlock, Step

HUES = 3  # owners of a block that have a band of their own
STYLE = """
.tinyinfer-view .strip { display: flex; flex-wrap: wrap; gap: 4px; margin: 4px 0; }
.tinyinfer-view .block { position: relative; border: 1px solid var(--line); border-radius: 4px; padding: 1px 5px;
  width: 46px; height: 40px; font-size: 14px; line-height: 1.35; white-space: nowrap; overflow: hidden; }
.tinyinfer-view .block small { font-size: 11px; line-height: 1.5; opacity: 1; }
.tinyinfer-view .strip .block { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.tinyinfer-view .block b { font-weight: 400; }
.tinyinfer-view .held { color: var(--ink); background: linear-gradient(to right, transparent var(--full, 100%),
  var(--paper) var(--full, 100%)), var(--paint); }
.tinyinfer-view .n0 { --paint: linear-gradient(var(--off) 0 0); }
.tinyinfer-view .n1 { --paint: linear-gradient(oklch(var(--fill) var(--h)) 0 0); }
.tinyinfer-view .n2 { --paint: linear-gradient(oklch(var(--fill) var(--h)) 50%, oklch(var(--fill) var(--h2)) 50%); }
.tinyinfer-view .n3 { --paint: linear-gradient(oklch(var(--fill) var(--h)) 33%, oklch(var(--fill) var(--h2)) 33% 67%,
  oklch(var(--fill) var(--h3)) 67%); }
.tinyinfer-view .kept { border-bottom: 4px solid var(--accent); }
.tinyinfer-view .new { outline: 2px dashed currentColor; outline-offset: -2px; }
.tinyinfer-view .free { opacity: .82; border-style: dashed; }
.tinyinfer-view .legend .kept { border-bottom: 4px solid var(--accent); }
.tinyinfer-view .legend .new { outline-width: 1px; outline-offset: -1px; }
.tinyinfer-view .legend .half { --full: 55%; }
"""


class Pool(View):
    """The blocks of a step's pool, in order. title: its heading. most: blocks that are drawn; None: all of them."""

    style = STYLE

    def __init__(self, step: Step, title: str = "", most: int | None = None) -> None:
        self.step, self.title = step, title
        self.most = step.num_blocks if most is None else min(most, step.num_blocks)

    def pieces(self) -> list[str]:
        """The HTML of the strip, two pieces for each block in use."""
        if not self.step.num_blocks:
            return ["<p>This cache has no blocks.</p>"]
        held = {block.number: block for block in self.step.blocks}
        rest = self.step.num_blocks - self.most
        cells = [piece for i in range(self.most) for piece in (cell(held[i]) if i in held else (free_cell(i),))]
        more = [f'<p class="note">and {rest} more free blocks</p>'] if rest else []
        return ['<div class="strip">', *cells, "</div>", *more]

    def body(self) -> str:
        return "".join(self.pieces()) + (pool_legend([self.step]) if self.step.num_blocks else "")

    def text(self) -> str:
        held = {block.number: block for block in self.step.blocks}
        return "\n".join(f"block {i}: {state(held[i]) if i in held else 'free'}" for i in range(self.most))


def drawn_blocks(steps: Sequence[Step]) -> int:
    """How many blocks a strip must show for all blocks that are ever in use: behind them all are always free."""
    return max((block.number + 1 for step in steps for block in step.blocks), default=0)


def paint(owners: Sequence[int]) -> tuple[str, str]:
    """The classes and the CSS that colour what these sequences hold: a band for each, three bands at most."""
    hues = [hue(id).replace("--h", f"--h{i + 1}" if i else "--h") for i, id in enumerate(owners[:HUES])]
    return f"held n{len(hues)}", "; ".join(hues)


def names(owners: Sequence[int]) -> str:
    """The owners of a block in a few characters: their ids, or how many there are."""
    return " ".join(map(str, owners)) if len(owners) <= HUES else f"{len(owners)} ×"


def cell(block: PoolBlock) -> tuple[str, str]:
    """A block in use as a box, coloured as far as it is filled: its state, which many blocks have, and its number."""
    kinds, style = paint(block.owners)
    kinds += " kept" * block.kept + " new" * block.new
    full = "" if block.filled == block.size else f"; --full: {100 * block.filled / block.size:.0f}%"
    return (
        f'<div class="block {kinds}" style="{style}{full}" title="{state(block)}"><b>{names(block.owners)}</b>',
        f"<small>{block.number}</small></div>",
    )


def free_cell(number: int) -> str:
    """A free block as an empty box."""
    return f'<div class="block free" title="free"><b></b><small>{number}</small></div>'


def state(block: PoolBlock) -> str:
    """A block in words, without its number."""
    held = f"of {'sequences' if len(block.owners) > 1 else 'sequence'} {', '.join(map(str, block.owners))}"
    parts = [held if block.owners else "of no sequence", f"{block.filled} of {block.size} positions"]
    parts += ["in the prefix tree"] * block.kept + ["newly allocated"] * block.new
    return "; ".join(parts)


def pool_legend(steps: Sequence[Step]) -> str:
    """What the boxes mean, as far as these steps have them."""
    blocks = [block for step in steps for block in step.blocks]
    entries = [("held n1", "below: its sequence", True)]
    entries += [("held n1 half", "filled in part", any(block.filled < block.size for block in blocks))]
    entries += [("held n2", "shared by sequences", any(len(block.owners) > 1 for block in blocks))]
    entries += [("held n1 kept", "in the prefix tree", any(block.kept for block in blocks))]
    entries += [("held n0 kept", "only in the prefix tree", any(not block.owners for block in blocks))]
    entries += [("held n1 new", "newly allocated", any(block.new for block in blocks))]
    entries += [("free", "free", True)]
    return legend([(kinds, words) for kinds, words, there in entries if there], "--h: 255; --h2: 33")
