# %% [markdown]
# # 04 · Paging
#
# **The idea.** The length of an answer is not known in advance. A cache that reserves room for the longest possible
# one leaves much of the memory empty. A paged cache gives out small blocks as a sequence grows, and a block table
# says where each position lies.
#
# **Formula.** `position p lies in block table[p // b], row p % b; a sequence leaves at most b - 1 rows empty`
#
# **After this lesson you can** compute which share of a cache stays empty for given lengths, with and without blocks.
# You can explain which reads of a paged cache are copies, and why a wrong read can pass every test with one
# sequence.
#
# **You need** [03 The KV cache](03_kv_cache.ipynb): what keys and values are, and why they are kept.
#
# **Not covered:** what happens when the pool is full, blocks that several prompts share, and kernels that walk
# through the block table themselves.
#
# *50 minutes · you write 25 lines · no GPU, no account*

# %% tags=["setup"]
import re

import matplotlib.pyplot as plt
import numpy as np

from tinyinfer import SamplingParams
from tinyinfer.kv_cache.blocks import BlockCache
from tinyinfer.kv_cache.paged import PagedCache
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.lessons.models import served
from tinyinfer.lessons.paging import POSITION, ROOM, SIZES, drawn_requests, most_fitting, shares
from tinyinfer.lessons.paging_pool import answers, replayed
from tinyinfer.views.player import StepPlayer
from tinyinfer.views.recording import record

lesson = Lesson("04_paging")
check, reveal, use = lesson.check, lesson.reveal, lesson.use

# %% [markdown]
# ## Predict
#
# `16` requests arrive together. Each of them will fill between `100` and `1,008` positions with its prompt, any
# length as likely as any other, and a few more with its answer. The cache cannot know that, and reserves `1,024`
# positions for each of them.
#
# At the moment when the cache is fullest: which share of the reserved positions, in percent, holds nothing?

# %% tags=["prediction"]
guess = ...

# %% tags=["reveal"]
requests = drawn_requests()
reserved = served(lesson.tiny(max_model_len=ROOM, threads=1), requests)
truth = shares(reserved)[0]
longest = max(seq.most_positions for seq in reserved.sequences)
reveal(guess, truth, "%", {
    0: "A reserved position is taken as soon as it is reserved, and may stay empty for ever.",
    100 - truth: "That is the share that is filled.",
    100 * truth / (100 - truth): "That compares the empty part with the full part, not with all that is reserved.",
    100 * (1 - longest / ROOM): "So little stays empty for the longest sequence alone; the others need less room.",
})

# %% [markdown]
# ## Count, then time
#
# The naive way is an array for each sequence, as long as the longest sequence may become. Below, the same requests
# run once in such arrays and once in blocks of `16` positions. The tiny model serves for this: which positions are
# reserved and which are filled does not depend on the weights.

# %%
paged = served(lesson.tiny(kv_cache="paged", max_model_len=ROOM, threads=1), requests)
rows = []
for name, run in (("contiguous", reserved), ("paged", paged)):
    step = max(run.steps, key=lambda step: step.cache_bytes - step.wasted_bytes)
    share = step.wasted_bytes / step.cache_bytes
    filled = round((step.cache_bytes - step.wasted_bytes) / lesson.tiny(threads=1).engine.cache.position_bytes)
    held = round(filled / (1 - share))
    rows.append((name, f"{held:,}", f"{filled:,}", f"{share:.2%}", f"{(held - filled) * POSITION / 1e6:,.0f} MB"))
lesson.table(["cache", "positions held", "filled", "empty", "empty, in SmolLM2's bytes"], rows)

# %% [markdown]
# Empty rows cost no time. They cost sequences: whatever is reserved cannot hold another request. How many requests of
# this kind fit into the same memory at once?

# %%
lengths = [seq.most_positions for seq in reserved.sequences] * 4
memory = 16 * ROOM
fit = {size: most_fitting(lengths, memory, size) for size in (ROOM, 16)}
lesson.say(
    f"In {memory:,} positions there is room for **{fit[ROOM]}** sequences of {ROOM:,} reserved positions, or for "
    f"**{fit[16]}** in blocks of 16."
)

# %% [markdown]
# Now the clock. Does paging make attention faster? Two prompts are continued by `SmolLM2` in both caches. Before you
# run the cell: which of the two should be faster, if the count of bytes is all that matters?

# %%
questions = [
    "Monday: soup. Tuesday: rice. Wednesday: fish. Thursday:",
    "Monday: gold. Tuesday: silver. Wednesday: iron. Thursday: copper. Friday: zinc.",
]
contiguous_model = lesson.model()
paged_model = lesson.model(kv_cache="paged", num_blocks=32, max_model_len=256)
caches = {"contiguous": contiguous_model, "paged": paged_model}
moved, times = {}, {name: [] for name in caches}
for _ in range(4):  # in turns, so that both caches meet the same company on this machine; the first round warms up
    for name, llm in caches.items():
        before = llm.ledger.copy()
        times[name].append(lesson.seconds(lambda llm=llm: answers(llm, questions, 6), rounds=1) / 6)
        moved[name] = llm.ledger - before
rows = []
for name, one in moved.items():
    steps = [n / 6e6 for n in (one.weight_bytes, one.kv_read_bytes, one.kv_copied_bytes)]
    rows.append((name, *(f"{n:,.2f} MB" for n in steps), f"{1e3 * np.median(times[name][1:]):.0f} ms"))
lesson.table(["cache", "weights read, a step", "KV read", "KV copied", "measured, a step"], rows)
copied = moved["paged"].kv_copied_bytes / moved["paged"].bytes_moved
apart = abs(np.median(times["paged"][1:]) / np.median(times["contiguous"][1:]) - 1)
spread = max(max(some[1:]) / min(some[1:]) - 1 for some in times.values())
lesson.say(
    f"The copies are {copied:.2%} of all bytes that a paged step moves. The two times differ by {apart:.0%}; rounds of "
    f"one and the same cache differ by up to {spread:.0%}. "
    + (
        "So the clock does not see the copies."
        if apart <= spread
        else "The bytes do not explain that: another program may have run beside one of them. Run the cell again."
    )
)

# %% [markdown]
# Attention reads the same keys and values from both caches, and the paged one has to copy some of them first. Paging
# makes room. It does not make attention faster.

# %% [markdown]
# ## Your lines
#
# Write the block table of one sequence. `pool.rows[block, offset]` is one row of the pool, `pool.block_size` is the
# number of rows of a block, and `pool.allocate()` gives the number of a free block. Three methods are missing:
#
# - `slot(position)` gives the pair (block, offset);
# - `append(rows)` stores rows behind those that are there, and allocates a block whenever a row finds no room;
# - `gather()` gives all rows in the order of the positions, as one array.

# %% tags=["yours"]
class BlockTable:
    def __init__(self, pool, blocks=(), length=0):
        self.pool, self.blocks, self.length = pool, list(blocks), length

    ...


check("block_table", BlockTable)

# %% [markdown]
# Two claims must hold. The table takes the same blocks as the library's paged cache, step for step. And `SmolLM2`
# gives the same answers as with a contiguous cache when attention reads only what this table gathers.

# %% tags=["claim"]
Table = use("block_table")

tiny = lesson.tiny(kv_cache="paged", block_size=4, num_blocks=64, max_model_len=64, threads=1)
pairs = replayed(tiny, ["A short one", "And a second, longer sequence"], 24, Table)
assert all(library == mine for library, mine in pairs)

expected = answers(contiguous_model, questions, 24)
assert answers(paged_model, questions, 24, Table) == expected
lesson.say(
    f"{len(pairs)} block tables are equal to the library's, the last one is `{pairs[-1][1]}`. "
    f"All {sum(map(len, expected))} tokens of SmolLM2 are the same."
)

# %% [markdown]
# ### A read that looks right
#
# The loop over positions is slow, and a faster way comes to mind: the rows from the first block on, as one slice. Run
# the cell and look at the same question twice: once alone, once beside the other question.

# %%
class Neighbours(Table):
    def gather(self):
        rows = self.pool.rows.reshape(-1, self.pool.rows.shape[-1])
        begin = self.blocks[0] * self.pool.block_size
        return rows[begin : begin + self.length]


alone = answers(paged_model, questions[:1], 24, Neighbours)[0]
company = answers(paged_model, questions, 24, Neighbours)[0]
right, text = expected[0], paged_model.tokenizer.decode
for name, tokens in (("right", right), ("one slice, alone", alone), ("one slice, in company", company)):
    lesson.say(f"*{name}:* {questions[0]} **{' '.join(text(tokens).split())}**")

first = next((i for i, pair in enumerate(zip(right, company, strict=True)) if pair[0] != pair[1]), len(right))
words = [{*re.findall(r"\w+", some)} for some in (text(company), questions[1], questions[0] + text(right))]
foreign = words[0] & words[1] - words[2]
lesson.say(
    f"Alone, {sum(a == b for a, b in zip(right, alone, strict=True))} of {len(right)} tokens are right. In company, "
    f"token {first + 1} is the first wrong one: the sequence has left its first block, and the rows behind that block "
    f"belong to the other prompt. Words that only the other prompt holds: **{', '.join(sorted(foreign)) or 'none'}**."
)

# %% [markdown]
# A test with one sequence would have passed. In a server the same line shows one user's words to another user's
# model. So a test of a paged cache lets at least two sequences grow in turn, over more than one block.

# %% [markdown]
# ## In the library
#
# The bookkeeping knows nothing of arrays: `reserve` allocates blocks until there is room.

# %%
lesson.source(BlockCache.reserve)

# %% [markdown]
# The arrays are in a file of their own. Blocks that happen to lie side by side are read in place, by a slice that is
# right because `side_by_side` was checked. All others are gathered, whole blocks at a time, and the ledger counts the
# copy.

# %%
lesson.source(PagedCache.read)
lesson.source(PagedCache._gather)

# %% [markdown]
# ## The figure
#
# Smaller blocks leave fewer rows empty. Is the smallest block the best one? The same requests, with blocks of one
# position up to `256`.

# %% tags=["figure"]
waste, gathered = {}, {}
for size in SIZES:
    run = served(lesson.tiny(kv_cache="paged", block_size=size, max_model_len=ROOM, threads=1), requests)
    waste[size], gathered[size] = shares(run)

figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
axes.plot(SIZES, list(gathered.values()), "o-", color="tab:blue", label="gathered, of all KV bytes read")
axes.plot(SIZES, list(waste.values()), "s-", color="tab:orange", label="empty, of all positions held")
both = np.add(list(waste.values()), list(gathered.values()))
axes.plot(SIZES, both, "--", color="0.5", label="sum of the two")
axes.set(title="What a block size costs", xlabel="positions in a block", ylabel="percent", ylim=(0, 100))
axes.set_xscale("log", base=2)
axes.set_xticks(SIZES, [str(size) for size in SIZES])
axes.grid(alpha=0.3)
axes.legend()
plt.show()
lesson.say(
    f"With blocks of one position {waste[1]:.1f}% stays empty and {gathered[1]:.0f}% of the bytes read are gathered. "
    f"With blocks of {SIZES[-1]} it is {waste[SIZES[-1]]:.0f}% and {gathered[SIZES[-1]]:.0f}%."
)

# %% [markdown]
# One line falls and the other one rises, so neither end is the best. A sequence is gathered from the moment when its
# next block lies elsewhere, and with small blocks that moment comes after few tokens.
#
# ### Watch the pool
#
# Four prompts on three seats, in blocks of four positions. Move the slider, or press the arrow keys; each colour is a
# sequence. Which sequence is the first whose blocks lie apart? Whose blocks does the last sequence get?

# %%
small = lesson.tiny(kv_cache="paged", block_size=4, num_blocks=24, max_model_len=64, max_num_seqs=3, threads=1)
lengths_of_answers = (10, 6, 14, 8)
StepPlayer(
    record(
        small, ["first one", "2nd", "a third sequence", "last"],
        [SamplingParams(max_tokens=n, ignore_eos=True) for n in lengths_of_answers],
    ),
    parts=("pool", "rows"), title="Blocks come and go",
)

# %% [markdown]
# ## When it loses
#
# A sequence that is alone and says how long it may become gains nothing: an array of that length has no empty rows at
# the end, and the last block may have some. In company its blocks are scattered, and almost every read is a copy.

# %% tags=["loses"]
rows = []
for n in (1, 2, 4):
    prompts = [list(range(10 + i, 50 + i)) for i in range(n)]
    for name, switches in (("contiguous", {}), ("paged", {"kv_cache": "paged"})):
        llm = lesson.tiny(threads=1, **switches)
        before = llm.ledger.copy()
        steps = list(llm.steps(prompts, SamplingParams(max_tokens=62, ignore_eos=True)))
        counted, full = llm.ledger - before, steps[-2]
        share = counted.kv_copied_bytes / counted.kv_read_bytes
        rows.append((n, name, f"{full.wasted_bytes / full.cache_bytes:.1%}", f"{share:.0%}"))
lesson.table(["sequences", "cache", "empty near the end", "gathered, of the bytes read"], rows)

# %% [markdown]
# A kernel that walks through the block table reads scattered blocks in place, as servers on GPUs do. NumPy multiplies
# whole arrays, so here each scattered block is copied in every step.

# %% [markdown]
# ## Puzzle
#
# **Puzzle: placement** · 8 minutes · hard
#
# You choose the block. `place(free, blocks)` gets the sorted numbers of all free blocks and the sequence's blocks so
# far (an empty list for a new sequence), and returns one number out of `free`. Seven sequences come, grow by a block
# in each step, and go. Attention reads a sequence in place only while its blocks lie side by side, in order; every
# other block read is a gather. You do not know how long a sequence becomes. How few gathers can you reach? A tenth
# passes.

# %% tags=["puzzle"]
def place(free, blocks):
    ...


check("placement", place)

# %% [markdown]
# **Puzzle: copy_on_write** · 8 minutes · medium
#
# Four answers continue one prompt, so their tables begin with the same blocks. `before_write(pool, blocks, position)`
# is called before a table writes the row of a position. It must give the table a block of its own when the block of
# that position is shared. `pool.holders[block]` counts the tables that hold a block, `pool.allocate()` gives a free
# one, `pool.copy(old, new, rows)` copies the first rows of a block, `pool.release(block)` gives up one holder, and
# `pool.size` is the number of rows of a block. Copy as few rows as you can.

# %% tags=["puzzle"]
def before_write(pool, blocks, position):
    ...


check("copy_on_write", before_write)

# %% [markdown]
# ## Exercises
#
# **Exercise: growth** · 2 minutes · easy
#
# A sequence of `SmolLM2` has filled its block of `16` positions. The next token comes, and the only free block lies
# at the other end of the pool. How many bytes of the cache have to be moved, so that the sequence can grow?

# %% tags=["exercise"]
moved_bytes = ...
check("growth", moved_bytes)

# %% [markdown]
# **Exercise: read_traffic** · 4 minutes · medium
#
# Three sequences of `SmolLM2`, with `500` positions each, decode one token in the same step. Their blocks are
# scattered, and `1,024` positions would have been reserved for each in a contiguous cache. A position takes
# `POSITION` bytes. How many megabytes (`1e6` bytes) of keys and values does the ledger count as read and as copied,
# together?

# %% tags=["exercise"]
megabytes = ...
check("read_traffic", megabytes)

# %% [markdown]
# **Exercise: block_size** · 3 minutes · easy
#
# Suppose that a percent of empty positions hurts as much as a percent of gathered bytes. Which of the measured block
# sizes costs least for the requests above? The dictionaries `waste` and `gathered` of the figure hold what you need.

# %% tags=["exercise"]
best_size = ...
check("block_size", best_size)

# %% [markdown]
# ## Read next
#
# - [PagedAttention, Kwon et al., section 4](https://arxiv.org/abs/2309.06180): the idea. Its introduction measures how
#   much memory earlier servers left empty.
# - [kv_cache/blocks.py](../tinyinfer/kv_cache/blocks.py): holders, copy-on-write, growth;
#   [kv_cache/paged.py](../tinyinfer/kv_cache/paged.py): the arrays.
# - [05 Quantization](05_quantization.ipynb): fewer bytes for each number, and [11 Prefix
#   caching](11_prefix_caching.ipynb): blocks that several prompts share.
