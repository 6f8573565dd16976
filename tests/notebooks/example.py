# %% [markdown]
# # 03 · A small lesson
#
# **The idea.** Keys and values of earlier tokens stay.
#
# **Formula.** `2·L·K·E·4` bytes a position.
#
# **After this lesson you can** say what a step reads. You can write a cache.
#
# **You need** Python.
#
# **Not covered:** paging ([lesson 04](04_paging.ipynb)).
#
# *25 minutes · you write 3 lines · no GPU, no account*

# %% tags=["setup"]
from tinyinfer.lessons.lesson import Lesson

lesson = Lesson("03_kv_cache")
check, reveal, use = lesson.check, lesson.reveal, lesson.use

# %% [markdown]
# ## Predict
# How many rows does `BlockCache.reserve` of `kv_cache/blocks.py` prepare?

# %% tags=["prediction"]
guess = ...

# %% tags=["reveal"]
truth = 64 + 31
reveal(guess, truth, "rows", {64: "the prompt only"})

# %% [markdown]
# ## Count, then time

# %%
lesson.say(f"{truth} rows")

# %% [markdown]
# ## Your lines


# %% tags=["yours"]
def rows(prompt: int, new: int) -> int:
    return ...


check("rows", rows)

# %% tags=["claim"]
mine = use("rows")
assert mine(64, 32) == 95

# %% [markdown]
# ## In the library

# %%
lesson.source(Lesson.check)

# %% [markdown]
# ## The figure

# %% tags=["figure"]
lesson.table(["rows"], [[truth]])

# %% [markdown]
# ## When it loses

# %% tags=["loses"]
lesson.say("One token.")

# %% [markdown]
# ## Exercises
# What grows?
#
# **Exercise: grows** · 5 minutes · easy

# %% tags=["exercise"]
check("grows", ...)

# %% [markdown]
# **Exercise: bytes of all** · 10 minutes · medium

# %% tags=["exercise"]
answer = ...
check("bytes_of_all", answer)

# %% [markdown]
# **Exercise: longest** · 10 minutes · hard


# %% tags=["exercise"]
def longest(room: int) -> int:
    lines = room // 2
    return ...


check("longest", longest)

# %% [markdown]
# ## Read next
# [Pope et al., section 3](https://arxiv.org/abs/2211.05102) · [`contiguous.py`](../tinyinfer/kv_cache/contiguous.py) ·
# [lesson 04](04_paging.ipynb)
