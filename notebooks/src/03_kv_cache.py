# %% [markdown]
# # 03 · The KV cache
#
# **The idea.** A model writes one token at a time. The new token's query meets the keys and values of all tokens
# before it, and those never change. So they are computed once and kept: a step computes one row instead of all rows.
#
# **Formula.** `bytes kept per position = 2 · L · K · E · 4`: a key and a value, in each of `L` layers, `K` heads of `E`
# numbers, four bytes per number. A step that sees `S` positions reads `S` times as many.
#
# **After this lesson you can** say which work the cache saves in a step, and which work still grows with every token.
# You can compute from a model's shape how large its cache becomes, and test a cache so that a wrong one cannot hide.
#
# **You need** Python, NumPy arrays and slices; that attention compares a query with keys and sums values. [Lesson
# 02](02_prefill_and_decode.ipynb) helps, but is not needed.
#
# **Not covered:** how many sequences share memory ([lesson 04](04_paging.ipynb)), and caches in fewer bits.
#
# *50 minutes · you write 16 lines · no GPU, no account*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np

from tinyinfer import SamplingParams
from tinyinfer.kv_cache.contiguous import ContiguousCache
from tinyinfer.kv_cache.memory import position_bytes
from tinyinfer.lessons import kv_cache as runs
from tinyinfer.lessons.cache_judge import PROMPT, TEXT, TOLERANCE, largest_error, one_pass
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.lessons.own_part import answers, own_engine, student_cache
from tinyinfer.model.attention import GroupedQuery
from tinyinfer.units import amount

lesson = Lesson("03_kv_cache")
check, reveal, use = lesson.check, lesson.reveal, lesson.use

llm = lesson.model()  # SmolLM2-135M, with a KV cache
without = lesson.model(kv_cache="none")  # the same weights, without one
story = llm.tokenizer.encode(runs.STORY)  # a short text about boiling water
prompt = story[:64]
params = SamplingParams(max_tokens=32, ignore_eos=True)

# %% [markdown]
# ## Predict
#
# A **row** is one token on its way through all layers. The prompt has `64` tokens, and the model writes `32` more.
#
# Without a cache, every step sends the whole sequence through the model again, because it needs all keys and values
# and has kept none. How many rows does the model compute in all?
#
# And a second question, for which you write nothing down: *with* a cache, what still grows from step to step?

# %% tags=["prediction"]
guess = ...

# %% tags=["reveal"]
truth, usual = runs.rows_without_cache(len(prompt), params.max_tokens)
reveal(guess, truth, "rows", usual)

# %% [markdown]
# ## Count, then time
#
# The engine has a ledger, which counts all work exactly, and writes a trace of each step. Both engines share the
# weights. First the counts: they are the same on every machine.


# %%
# about 10 s on two free cores, nearly all of it without a cache
def run(engine, params=params):
    """The new tokens, the counted work and the traces of the steps."""
    before = engine.ledger.copy()
    [sequence] = engine.sequences([prompt], params)
    traces = list(engine.run([sequence]))
    return sequence.new_tokens, engine.ledger - before, traces


slow_tokens, slow, slow_steps = run(without)
fast_tokens, fast, fast_steps = run(llm)
lesson.table(
    ["", "without a cache", "with a cache"],
    [
        ["rows computed", slow.tokens_computed, fast.tokens_computed],
        ["rows computed again", slow.tokens_recomputed, fast.tokens_recomputed],
        ["FLOPs", amount(slow.flops, ""), amount(fast.flops, "")],
        ["FLOPs of attention", amount(slow.attention_flops, ""), amount(fast.attention_flops, "")],
        ["bytes of weights read", amount(slow.weight_bytes, "B"), amount(fast.weight_bytes, "B")],
    ],
)
lesson.say(f"Both wrote the same tokens: **{slow_tokens == fast_tokens}**.")

# %% [markdown]
# The table already says something that the word "cache" hides: the weights are read as often as before. Think of a
# number: how many times faster was the run with a cache? Then look at the clock.

# %%
slow_s, fast_s = (sum(step.seconds for step in steps) for steps in (slow_steps, fast_steps))
fewer, faster = slow.flops / fast.flops, slow_s / fast_s
lesson.say(
    f"Rows: {slow.tokens_computed / fast.tokens_computed:.1f} times fewer. FLOPs: {fewer:.1f} times fewer. "
    f"Time: {slow_s:.2f} s without, {fast_s:.2f} s with: **{faster:.1f} times faster**."
)
lesson.say(runs.compared(fewer, faster))

# %% [markdown]
# ## Your lines
#
# Write the cache of one sequence. The library's own transformer will use it: in every layer it first calls `append`
# with the keys and values of the new rows, and then `read`. Letters: `T` new rows, `S` positions so far, `K` heads,
# `E` numbers. `K` and `E` you learn from the arrays: `check` uses a smaller model.
#
# - `MyCache(layers)` is empty, for a model of so many layers.
# - `append(layer, k, v)` stores the keys and values of new rows, arrays of shape `(T, K, E)`. A prompt brings many
#   rows at once, later steps bring one.
# - `read(layer)` returns two arrays of shape `(S, K, E)`: all keys and all values of that layer, in the order in
#   which they came.
# - `length()` is the number of positions stored, `0` before the first `append`. The engine computes the next row *at
#   this position*.
#
# What is a position good for? The model tells positions apart by rotating each query and each key by an angle that
# grows with its position (RoPE, rotary position embedding). A key is stored after its rotation.
#
# Replace `...` by the methods, `__init__` first. `np.concatenate` joins arrays along their first axis.


# %% tags=["yours"]
class MyCache:
    """Keys and values of one sequence, in every layer."""

    ...


check("cache", MyCache)

# %% [markdown]
# The claim, on a model of two layers: whatever way the prompt is split into two pieces, and then token by token, the
# logits are those of one pass that caches nothing. The tolerance is a ten-thousandth of the
# largest logit, because `float32` rounds a product of one row and of many rows differently.

# %% tags=["claim"]
mine = use("cache")
tiny = lesson.tiny()
text = tiny.tokenizer.encode(TEXT)
error = largest_error(tiny, mine, text, PROMPT)
assert error <= TOLERANCE
lesson.say(
    f"{len(text)} tokens, {PROMPT} ways to split the prompt: the largest error is {error:.1e} of "
    f"the largest logit; allowed are {TOLERANCE:g}."
)

# %% [markdown]
# ### The real model with your cache
#
# Now the cache stands in the engine, in the place of the library's own. The same tokens must come out, and the ledger
# must count the same bytes.

# %%
before = llm.ledger.copy()
engine = own_engine(llm, student_cache(llm, mine))
[own_tokens] = answers(llm, engine, llm.sequences([prompt], params))
own = llm.ledger - before
assert own_tokens == fast_tokens
assert (own.kv_read_bytes, own.kv_written_bytes) == (fast.kv_read_bytes, fast.kv_written_bytes)
lesson.say(
    f"{len(own_tokens)} tokens, all the same: *{' '.join(llm.tokenizer.decode(own_tokens).split())}*\n\n"
    f"Written: {amount(own.kv_written_bytes, 'B')} ({own.tokens_computed} rows). "
    f"Read: {amount(own.kv_read_bytes, 'B')}. Saved: {slow.tokens_computed - own.tokens_computed} rows."
)

# %% [markdown]
# ### Now break it
#
# A common mistake in real engines: after the prompt, positions go wrong, and so do the rotations of queries and keys.
# Here are three runs of your cache. One has the right positions. In one, all positions after the prompt are one too
# far. In one, positions restart at zero after the prompt. Read the texts: **can you tell which is which?** (Two may be
# equal.)

# %%
# about 5 s on two free cores
rules = {
    "right": lambda position, prompt: position,
    "one too far": lambda position, prompt: position + 1,
    "restart at zero": lambda position, prompt: position - prompt,
}
texts = {name: runs.continuation(llm, mine, prompt, 32, rule) for name, rule in rules.items()}
lesson.say(f"The prompt ends: *{llm.tokenizer.decode(prompt[-12:]).strip()}*")
for letter, tokens in zip("ABC", sorted(texts.values(), key=str), strict=True):
    lesson.say(f"**{letter}** {' '.join(llm.tokenizer.decode(tokens).split())}")

# %% [markdown]
# Who reads only one of them may well believe it. Next, two measurements of the same three rules on the rest of our own
# text: its perplexity (how surprised the model is, lower is better), and how far its logits are from those of the right
# rule.

# %%
logits = {name: runs.following_logits(llm, story, len(prompt), rule) for name, rule in rules.items()}
perplexities = {name: runs.perplexity(rows, story) for name, rows in logits.items()}
right = logits["right"]
errors = {name: np.abs(rows - right).max() / np.abs(right).max() for name, rows in logits.items()}
shown = sorted(texts.values(), key=str)
rows = []
for name in rules:
    letters = [letter for letter, tokens in zip("ABC", shown, strict=True) if tokens == texts[name]]
    passes = "passes" if errors[name] <= TOLERANCE else "fails"
    shares = [f"{perplexities[name]:.2f}", f"{errors[name]:.1%}"]
    rows.append([name, " or ".join(letters), *shares, passes])
lesson.table(["positions", "text", "perplexity", "largest logit error", "the claim's test"], rows)
off = "one too far"
close = perplexities[off] / perplexities["right"] - 1
lesson.say(
    f"One too far: the text is {'the same' if texts[off] == texts['right'] else 'another'}, and the "
    f"perplexity is {abs(close):.1%} {'lower, so better' if close < 0 else 'higher'}. "
    f"Yet a logit is wrong by {errors[off] / TOLERANCE:,.0f} times the tolerance."
)
if lesson.real:
    lesson.say(
        "**Wrong is not garbled.** Perplexity finds *restart at zero*. Neither reading the text nor its perplexity "
        "finds *one too far*. Comparing cached with uncached logits finds both."
    )

# %% [markdown]
# Rotation is relative: a query sees how far back a key lies, not where. One step too far moves the whole prompt by
# one, and the model hardly minds. Zero again puts new tokens among the first words of the prompt.
#
# ## In the library
#
# The contiguous cache reserves one array for a sequence and fills it from the front, so that `read` need not join
# pieces. It is your cache for many sequences: a `span` is the part of the batch that belongs to one of them, and
# `self._arrays[id][layer]` is what `layer` has in yours. In `(K, P, Ek)`, `P` counts the reserved positions, and `Ek`
# and `Ev` are the `E` of keys and of values.

# %%
lesson.source(ContiguousCache.append)
lesson.source(ContiguousCache.read)

# %% [markdown]
# And the caller, a layer's attention. Read only the four lines from `ops.rope` to `ops.attention`, which calls `read`.
# The keys are rotated before `cache.append`: what is stored belongs to one position. The query `q` is used in this
# call, and then it is gone.

# %%
lesson.source(GroupedQuery.__call__)

# %% [markdown]
# ## The figure
#
# On the left the FLOPs of each step, as curves from the shapes and as dots from the ledger of the runs above. On the
# right the three caches of "Now break it".

# %% tags=["figure"]
steps = {"without a cache": slow_steps, "with a cache": fast_steps}
written = {name: llm.tokenizer.decode(tokens) for name, tokens in texts.items()}
figure = runs.draw(llm.config, steps, perplexities, written)
plt.show()

# %% [markdown]
# The answer to the second question: with a cache, a step still compares its query with all keys so far, and reads all
# values. Per step, the rows through the matrices go from `S` to one, and the pairs of a query and a key from `S²/2` to
# `S`. A step does not become `O(1)`: the lower curve rises where attention begins to cost as much as the matrices.
#
# ## When it loses
#
# Answers of one token (a yes or no, a class, a score): there is no second step that could read what was kept.

# %% tags=["loses"]
rows, L = [], llm.config.num_layers
for name, each, layers_kept in (("without a cache", without, 1), ("with a cache", llm, L)):
    _, counted, steps = run(each, SamplingParams(max_tokens=1))
    kept = counted.kv_written_bytes * layers_kept // L
    rows.append([name, counted.tokens_computed, f"{steps[0].seconds:.3f} s", amount(kept, "B")])
lesson.table(["one new token", "rows computed", "time", "keys and values held at once"], rows)
lesson.say(
    f"The same rows in about the same time, and {L} times the memory: "
    "the keys and values of all layers are kept, and no later step reads them."
)

# %% [markdown]
# And memory. The weights are there once, for all sequences; the cache grows with every token of every sequence. From
# which position on does it outweigh the weights? Computed from published shapes, both in `float32` (in any other
# format the positions are the same, as long as both use it).

# %% tags=["loses"]
rows = []
for name, c in runs.SHAPES.items():
    weights, most = amount(4 * runs.parameters(c), "B"), runs.outweighs(c)
    cache = [f"{position_bytes(c.memory):,} B", f"{most:,}", f"{most / c.max_position:.1f}"]
    rows.append([name, c.num_layers, c.num_heads, c.num_kv_heads, c.head_dim, weights, *cache])
headings = ["model", "L", "H", "K", "E", "weights", "cache per position", "as much at position", "in context lengths"]
lesson.table(headings, rows)

# %% [markdown]
# A number below one in the last column means: a single long sequence is enough. `Llama 2 7B` pays most for a position:
# it has the most layers, and in each it keeps a key and a value for every query head. That is why newer models let
# several of the `H` query heads share one of `K` key heads.
#
# ## Exercises
#
# **Exercise: bytes** · 3 minutes · easy
#
# `Llama 3.2 1B` has `L = 16` layers, `H = 32` query heads, and `K = 8` key heads of `E = 64` numbers. How many bytes
# does its cache keep for a conversation of `8192` tokens, if each number is a `float16`?

# %% tags=["exercise"]
kept = ...
check("bytes", kept)

# %% [markdown]
# **Exercise: growth** · 7 minutes · medium
#
# `SmolLM2-135M` has `L = 30` layers, `H = 9` query heads, and `K = 3` key heads of `E = 64` numbers. With a cache: the
# step that computes the row at position `8191` costs how many times the FLOPs of the step at position `63`? A row
# through all matrices costs two FLOPs for each of `W = 134,479,872` weights in them; attention costs `4·H·E` FLOPs in
# each layer for each position that the row sees, itself included.

# %% tags=["exercise"]
times = ...
check("growth", times)

# %% [markdown]
# For the last exercise: one sentence in two texts, after different beginnings.

# %%
sentence = llm.tokenizer.encode(" The steam cannot leave a closed pot.")
m = len(sentence)
one = one_pass(llm, llm.tokenizer.encode("Physics of the kitchen.") + sentence)
two = one_pass(llm, llm.tokenizer.encode("My grandmother taught me how to cook beans.") + sentence)

# %% [markdown]
# **Exercise: reuse** · 10 minutes · hard
#
# Could the second text take over the sentence's keys and values from the first? `one.keys[layer]` and
# `one.values[layer]` hold the keys and values of all tokens of the first text; their last `m` rows, such as
# `one.keys[layer][-m:]`, are those of the sentence. `two` is the second text. Answer with a pair: in how many of the
# layers are the *keys* of the sentence the same in both, and in how many the *values*? (Same: `np.allclose(a, b,
# atol=1e-3)`.)

# %% tags=["exercise"]
same = ...
check("reuse", same)

# %% [markdown]
# ## Read next
#
# - [Shazeer, Fast Transformer Decoding, section 2.4](https://arxiv.org/abs/1911.02150): decoding with kept keys and
#   values, why it waits for memory, and key heads that are shared.
# - [`kv_cache/contiguous.py`](../tinyinfer/kv_cache/contiguous.py), the cache of this lesson, and
#   [`kv_cache/base.py`](../tinyinfer/kv_cache/base.py), the contract of every cache.
# - [Lesson 04](04_paging.ipynb): sixteen sequences, and most of the reserved memory is never used.
