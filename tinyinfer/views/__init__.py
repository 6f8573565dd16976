"""Views: what does a run, a cache or a matrix look like?

Each view is an object that a notebook shows as HTML, without a library or a server, and a terminal as text.

    page.py       the shared look, in light and dark, and pages of several views in one file
    recording.py  a run to look at again: plain data of each of its steps
    pool.py       the blocks of a paged cache: whose, how full, how shared
    tree.py       the prefix tree: what is cached, who uses it, where prompts part
    seats.py      who sat in which seat, as a timeline
    sentence.py   a step in one sentence
    rows.py       the rows of a step's batch, and its drafts
    costs.py      what each step cost, as bars
    player.py     all of these under a slider over the steps
    cells.py      a matrix as coloured cells, each with its number in words
    spelling.py   tokens in which each character can be seen
    matrices.py   attention: who may see whom, and how much each row takes
    tokens.py     a text as tokens, by their probability; what became of drafts
    weights.py    a block of a weight matrix before and after rounding
"""
