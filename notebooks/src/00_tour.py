# %% [markdown]
# # 00 · A tour in ten minutes
#
# **The idea.** A language model writes one token at a time, a word or a piece of a word. For each token, the processor
# reads all weights of the model, the millions of numbers that it was trained to. An engine has many ways to make that
# cheaper. The text stays the same; the work changes, and work can be counted.
#
# **Formula.** `seconds for a token ≥ max(FLOPs / FLOPs a second, bytes / bytes a second)`
#
# **After this lesson you can** explain why a processor with more FLOPs a second does not write the next token sooner.
# You can read the ledger of an engine, and say what a switch has changed and what it has not.
#
# **You need** Python. You need no knowledge of language models.
#
# **Not covered:** how the model computes its scores, and how a switch works inside. The lessons at the end of this page
# do that.
#
# *10 minutes · you write 5 lines · no GPU, no account*

# %% tags=["setup"]
import time

import matplotlib.pyplot as plt

from tinyinfer import SamplingParams
from tinyinfer.engine.engine import Engine
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.lessons.tour import PAPER, SETTINGS, SMOLLM2, misconceptions
from tinyinfer.lessons.tour_runs import Run, at_least, counts, draw, times, told_by_counts, told_by_times
from tinyinfer.measure.roofline import expected_decode, measure_matrix_speed, predict_seconds
from tinyinfer.sampling import choose
from tinyinfer.views.player import StepPlayer
from tinyinfer.views.recording import record

lesson = Lesson("00_tour")
check, reveal, use = lesson.check, lesson.reveal, lesson.use

# %% [markdown]
# ## Predict
#
# ### First, hear it talk
#
# The next cell opens a real model, small enough for any laptop. Ask it something else, and run the cell again. A model
# of this size is fluent and often wrong.

# %%
llm = lesson.model()
question = "Tell me a short story about a robot who learns to read."
chat = llm.chat_prompt([{"role": "user", "content": question}])
for piece in llm.stream(chat, SamplingParams(max_tokens=40)):
    print(piece, end="", flush=True)

# %% [markdown]
# The text came in pieces, because the model did not know the end when it wrote the beginning. For each piece the
# processor did two things: it read numbers from memory, and it multiplied and added them.
#
# ### Your guess
#
# Take a small machine with two cores: it reads `37 GB/s` and does `200 GFLOP/s` (a FLOP is one multiplication or one
# addition). While this machine makes one token, during which share of the time does it do arithmetic, in percent?

# %% tags=["prediction"]
guess = ...

# %% tags=["reveal"]
token = expected_decode(SMOLLM2, 50)  # what one token costs, counted
truth = 100 * (token.flops / PAPER.matrix_speed) / predict_seconds(token, PAPER)
reveal(guess, truth, "%", misconceptions(token))

# %% [markdown]
# ## Count, then time
#
# The engine has switches. Here one question is answered under eight settings, and the engine's ledger counts what each
# answer has cost. A ledger counts the same on every machine.
#
# - `as it comes`: what the model has computed of earlier tokens, their keys and values, is kept in a cache
# - `no cache`: nothing is kept, so each step computes the whole text again
# - `blocks`: the cache is cut into blocks, as memory is into pages
# - `prefix cache`: the same question was asked before, and its blocks are still there
# - `prompt lookup`: the engine drafts the next tokens by looking into the prompt, and the model verifies the drafts
# - `batch of four`: four readers ask at once; a quarter of the cost is shown
# - `eight bits`: the weights are rounded to `8` bits
# - `small steps`: a step computes at most `16` rows, so the prompt is computed in pieces

# %%
sentence = "Correct the spelling: The capitol of France is Paris, and the capitol of Italy is Rome."
prompt = llm.chat_prompt([{"role": "system", "content": "Be brief."}, {"role": "user", "content": sentence}])


def ask(name, max_tokens=16, asked_before=True):
    """The question under a setting: the texts of its readers, what the ledger counted, and the seconds."""
    engine, params = lesson.model(**SETTINGS[name]), SamplingParams(max_tokens=max_tokens)
    readers = 4 if name == "batch of four" else 1
    if name == "prefix cache" and asked_before:
        engine.generate([prompt], SamplingParams(max_tokens=1))
    before, begun = engine.ledger.copy(), time.perf_counter()
    outputs = engine.generate([prompt] * readers, params)
    seconds = time.perf_counter() - begun
    return Run(frozenset(output.text for output in outputs), engine.ledger - before, seconds, readers)


ask("as it comes", max_tokens=2)  # once without looking at it: a first run is slower
runs = {name: ask(name) for name in SETTINGS}
plain = runs["as it comes"]
lesson.table(*counts(runs))
same = sum(run.texts == plain.texts for run in runs.values())
lesson.say(f"{same} of the {len(runs)} settings wrote the same text: *{min(plain.texts)}*")

# %% [markdown]
# A row is one token that goes through the model. Without a cache, many more rows go through it for the same words. With
# a batch, fewer bytes are read for each reader. Now the time, which was measured along. Before you run the cell: which
# setting do you expect to be the fastest one, and which the slowest?

# %%
lesson.table(*times(runs))
lesson.say(told_by_times(runs))
flops = expected_decode(llm.config, 50).flops  # of one token of the model that ran
alone, took = flops / measure_matrix_speed(0.2, time.perf_counter), plain.seconds / plain.total.logit_rows
lesson.say(
    f"Your guess, on this machine: the arithmetic of one token needs {1e3 * alone:.2g} ms here. A token took "
    f"{1e3 * took:.2g} ms as it comes, with its share of the prompt."
)

# %% [markdown]
# ## Your lines
#
# Every engine has this loop inside. `llm.logits(tokens)` gives an array of one row for each token: a row holds a score
# for every token that may come after that token and those before it. The token with the largest score is the likeliest
# one. Write `count` tokens after the list `tokens`, always the likeliest, and give back the list of the new ones. Leave
# `tokens` as it is.
#
# An array has `argmax()`, the index of its largest number, and `int(...)` makes a plain number of it. The check uses a
# stand-in for the model, whose next token depends on all tokens before it.


# %% tags=["yours"]
def write(llm, tokens, count):
    """The `count` tokens that the model writes after `tokens`, each the likeliest one."""
    ...


check("generation loop", write)

# %% tags=["claim"]
mine = use("generation loop")
start = llm.tokenizer.encode("Once upon a time")
before = llm.ledger.copy()
written = list(mine(llm, list(start), 16))
loop = llm.ledger - before
[output] = llm.generate([start], SamplingParams(max_tokens=16, ignore_eos=True))
engine = llm.ledger - before - loop
assert written == list(output.token_ids), "the loop and the engine write different tokens"
lesson.say(
    f"Token for token what the engine writes: *Once upon a time{llm.tokenizer.decode(written)}*\n\n"
    f"The loop computed {loop.tokens_computed} rows and the engine {engine.tokens_computed}, for the same "
    f"{len(written)} tokens. Lesson 03 is about that difference."
)

# %% [markdown]
# ## In the library
#
# The same loop, with room for many readers and for drafts. Each call of `Engine.step` is one turn of your loop; the
# largest score is taken in `choose`.

# %%
lesson.source(Engine.step)
lesson.source(choose)

# %% [markdown]
# ## The figure
#
# Work beside time, for one token of the answer. The first two sets of bars are counted, so they are the same on every
# machine. The last one is measured, so it is not.

# %% tags=["figure"]
draw(runs, plain.total.logit_rows)
plt.show()

# %% [markdown]
# ### Step by step
#
# A run can be recorded and looked at again. Two readers share the steps here, and drafts come from their prompts. Move
# the slider: the first steps compute many rows, the prompts; then each step makes a token for each reader, or several
# where drafts are accepted.

# %%
watched = lesson.model(kv_cache="paged", speculative="prompt-lookup")
second = watched.chat_prompt([{"role": "user", "content": "Say this again: one two three, one two three."}])
StepPlayer(record(watched, [prompt, second], SamplingParams(max_tokens=12)))

# %% [markdown]
# ## When it loses
#
# All eight settings have their reasons, and none is always better. Here the answer is one token long, and nobody has
# asked the question before. The table has the time of the small machine from above, by the formula of the first screen.
# All numbers come from counts.

# %% tags=["loses"]
short = {name: ask(name, max_tokens=1, asked_before=False) for name in SETTINGS}
lesson.table(*at_least(short, PAPER))
lesson.say(told_by_counts(short, PAPER))

# %% [markdown]
# The prompt is computed once, whatever is switched on, and its many rows share each weight that is read. What there is
# to save lies in long answers, shared prompts and many readers.

# %% [markdown]
# ## Exercises
#
# **Exercise: steps** · 2 minutes · easy
#
# A prompt of `5` tokens is answered with `24` tokens, with the engine as it comes. How many steps does the engine run?

# %% tags=["exercise"]
answer = ...
check("steps", answer)

# %% [markdown]
# **Exercise: faster chip** · 2 minutes · medium
#
# The small machine gets a new processor with ten times the FLOPs a second, and keeps its memory. By the formula: how
# many times as fast does one reader get tokens? You may compute it from `token`, a ledger, and `PAPER`, the machine.

# %% tags=["exercise"]
answer = ...
check("faster chip", answer)

# %% [markdown]
# **Exercise: other numbers** · 2 minutes · medium
#
# The table says which texts were the same today. But for which of the eight settings does the model compute with other
# numbers than those in its file, so that another question may get another answer? Write a set of names, such as
# `{"no cache", "blocks"}`.

# %% tags=["exercise"]
answer = ...
check("other numbers", answer)

# %% [markdown]
# ## Read next
#
# Each switch has a lesson, and each lesson has a failure that you produce yourself.
#
# - [02 · Prefill and decode](02_prefill_and_decode.ipynb): predict the time of a step, and find where the formula is
#   wrong
# - [03 · The KV cache](03_kv_cache.ipynb): what `no cache` computes again
# - [04 · Paging](04_paging.ipynb): why the cache is cut into blocks
# - [05 · Quantization](05_quantization.ipynb): fewer bits, and what they cost
# - [08 · Speculative decoding](08_speculative_decoding.ipynb): drafts that change nothing but the time
# - [09 · Batching](09_batching.ipynb): many readers at once
# - [11 · Prefix caching](11_prefix_caching.ipynb): a prompt that was there before
#
# The engine's step stands in [engine.py](../tinyinfer/engine/engine.py). The formula of the first screen is the
# roofline: [Williams, Waterman and Patterson, Roofline, section 3](https://doi.org/10.1145/1498765.1498785).
