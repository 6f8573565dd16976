# %% [markdown]
# # 11 · Prefix caching
#
# **The idea.** Prompts often begin alike: a system prompt, the conversation so far. Keys and values of such a
# beginning are the same each time, so a prefix cache computes them once and keeps their blocks in a tree.
#
# **Formula.** `found = b * (whole blocks before the first difference), at most len(prompt) - 1 tokens`
#
# **After this lesson you can** say how many rows of a prompt are computed when a given prompt is cached, and why. You
# can put the parts of a prompt into an order in which most of it is found, and explain what one changing line costs.
#
# **You need** [04 Paging](04_paging.ipynb): blocks and block tables.
#
# **Not covered:** caches that several machines share, and prefixes kept on disk.
#
# *30 minutes · you write 7 lines · no GPU, no account*

# %% tags=["setup"]
import matplotlib.pyplot as plt

from tinyinfer import SamplingParams
from tinyinfer.kv_cache.prefix_cache import PrefixCache
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.lessons.models import served
from tinyinfer.lessons.prefix_walk import answered, compared, random_prompts, walked
from tinyinfer.measure.workload import parse_lengths, prompts, synthetic
from tinyinfer.views.player import StepPlayer
from tinyinfer.views.recording import record

lesson = Lesson("11_prefix_caching")
check, reveal, use = lesson.check, lesson.reveal, lesson.use
MACHINE = "37GB/s,200GFLOP/s"  # for times that are the same everywhere
ONE = SamplingParams(max_tokens=1, ignore_eos=True)

# %% [markdown]
# ## Predict
#
# `16` prompts of `272` tokens arrive one after the other. All of them are equal from the second token to the last.
# Only the first word is another one in each prompt. The prefix cache keeps blocks of `16` tokens.
#
# How many tokens are found in the cache, over all `16` prompts together?

# %% tags=["prediction"]
guess = ...

# %% tags=["reveal"]
cached = lesson.tiny(kv_cache="paged", prefix_cache=True, max_num_seqs=1, threads=1)
[common] = prompts(synthetic(1, parse_lengths("272"), parse_lengths("1")), cached.config.vocab_size)
before = cached.ledger.copy()
for first_word in range(16):
    list(cached.steps([[first_word + 3, *common[1:]]], ONE))
truth = (cached.ledger - before).tokens_cached
reveal(guess, truth, "tokens", {
    15 * 271: "Equal text behind the difference does not count: its keys and values depend on the first word, too.",
    15 * 256: "Those are all blocks but the first one. Each of them depends on the first word through attention.",
    16 * 271: "The cache compares tokens, not meaning, from the first token on. And the first prompt finds nothing.",
})

# %% [markdown]
# Behind the first layer, a key at position `200` is computed from a row that has attended to all positions before it.
# So it depends on the first word, and a cached key belongs to one beginning only.
#
# ## Count, then time
#
# Now the good case: `16` prompts, and the first `256` tokens of all are the same. The naive way computes each prompt
# as if it were the first one.

# %%
requests = synthetic(16, parse_lengths("16"), parse_lengths("2"), shared=256)
rows = []
for name, on in (("off", False), ("on", True)):
    llm = lesson.tiny(MACHINE, kv_cache="paged", prefix_cache=on, threads=1)
    run = served(llm, requests)
    asked = sum(len(seq.prompt) for seq in run.sequences)
    first = max(seq.timing.times[0] - seq.timing.arrival for seq in run.sequences)
    found = run.ledger.tokens_cached
    counts = [f"{n:,}" for n in (asked, found, asked - found, run.ledger.blocks_allocated)]
    rows.append((name, *counts, f"{first * 1e3:.2f} ms"))
lesson.table(["prefix cache", "prompt tokens", "found", "rows computed", "blocks", "last first token, simulated"], rows)

# %% [markdown]
# Now with words, on the real model, and with the time measured. A town library answers its readers; every request has
# the same system prompt and another question.

# %%
SYSTEM = (
    "You are the assistant of a small library. Answer in one short sentence. The library is open from nine to six, on "
    "Saturdays from ten to two, and closed on Sundays. Members may borrow ten books for four weeks, and may extend the "
    "time twice unless another member waits for the book. A lost book must be paid for. The reading room on the first "
    "floor has forty seats. Returned books go into the box at the door, day and night."
)
QUESTIONS = ("Are you open on Sundays?", "Where do I return a book?", "How many may I borrow?")


def ask(llm, system):
    """Asks all questions, one after the other: prompt tokens, tokens found, seconds until all had a first token."""
    total = found = seconds = 0
    for i, question in enumerate(QUESTIONS):
        messages = [{"role": "system", "content": system(i)}, {"role": "user", "content": question}]
        prompt = llm.chat_prompt(messages)
        out = llm.generate([prompt], ONE)[0]
        total, found, seconds = total + len(prompt), found + out.metrics.cached_tokens, seconds + out.metrics.ttft_s
    return total, found, seconds


def tell(name, total, found, seconds):
    return name, total, found, total - found, f"{seconds / len(QUESTIONS) * 1e3:.0f} ms"


HEADINGS = ["prompt", "tokens", "found", "rows computed", "first token, measured mean"]
without = lesson.model(kv_cache="paged", max_num_seqs=1)
table = [tell("without prefix cache", *ask(without, lambda i: SYSTEM))]
table += [tell("with prefix cache", *ask(lesson.model(kv_cache="paged", prefix_cache=True), lambda i: SYSTEM))]
lesson.table(HEADINGS, table)

# %% [markdown]
# ### One more line
#
# The model should know the time, so a line with the time goes to the top of the system prompt. Before you run the
# cell: what does this line cost?

# %%
def clock(i):
    return f"It is {9 + i} o'clock and {10 + i} minutes."


places = {
    "the clock at the top": lambda i: f"{clock(i)}\n{SYSTEM}",
    "the clock at the end of the system prompt": lambda i: f"{SYSTEM}\n{clock(i)}",
}
told = [
    tell(name, *ask(lesson.model(kv_cache="paged", prefix_cache=True), system)) for name, system in places.items()
]
lesson.table(HEADINGS, [*table, *told])

# %% [markdown]
# One line at the top, and the cache finds nothing. No error is raised, no answer is wrong, and nothing is logged: the
# server only becomes slower. At the end of the system prompt the same line costs the rows of its own tokens, no more.
#
# ## Your lines
#
# Write the walk through the tree. The tree is a dictionary. Its keys are the tokens of whole blocks, as tuples, and
# each value is the tree behind that block. An example with blocks of two: `{(5, 6): {(7, 8): {}}, (9, 9): {}}` knows
# `5 6 7 8` and `9 9`. Return the number of tokens that are found. The last token never matches, because its row gives
# the logits.

# %% tags=["yours"]
def match(tree, tokens, block_size):
    ...


check("match", match)

# %% [markdown]
# The claim: for prompts that begin alike in many ways, the walk finds what the library finds. And what is found
# changes no answer: the same tokens come with and without the prefix cache.

# %% tags=["claim"]
walk = use("match")

small = lesson.tiny(kv_cache="paged", block_size=4, prefix_cache=True, threads=1)
pairs = compared(small, random_prompts(80, seed=1), walk)
assert all(library == mine for library, mine in pairs)

asked = random_prompts(16, seed=2)
plain = lesson.tiny(kv_cache="paged", block_size=4, threads=1)
texts, _ = answered(plain, plain.engine, asked, 24)
assert answered(small, walked(small, walk), asked, 24)[0] == texts

chats = [f"{SYSTEM}\nQuestion: {question}\nAnswer:" for question in QUESTIONS[:2]]
real = lesson.model(kv_cache="paged")
real_texts, _ = answered(real, real.engine, chats, 10)
before = real.ledger.copy()
mine, _ = answered(real, walked(real, walk), chats, 10)
assert mine == real_texts
lesson.say(
    f"{len(pairs)} prompts, {sum(ours for ours, _ in pairs):,} tokens found by both. An engine that asks this walk "
    f"gives the same {sum(map(len, texts))} tokens of the tiny model and {sum(map(len, real_texts))} of the lesson's "
    f"model as one without a prefix cache. It did not compute {(real.ledger - before).tokens_cached} prompt tokens."
)

# %% [markdown]
# ## In the library
#
# The same walk, with what surrounds it: each node is counted as used, and the sequence takes the blocks into its
# block table. Nothing is copied.

# %%
lesson.source(PrefixCache.match)

# %% [markdown]
# Blocks enter the tree when a step is put together. A block that is needed elsewhere leaves it again: leaves first,
# and of them the least recently used one.

# %%
lesson.source(PrefixCache.register)
lesson.source(PrefixCache.evict)

# %% [markdown]
# ## The figure
#
# One prompt of `176` tokens is cached. The next prompt differs from it in one token. How long does its first token
# take, if that token stands at the beginning, in the middle, at the end? Counted rows, the time of a simulated
# machine, and the time of yours.

# %% tags=["figure"]
model = lesson.model(MACHINE, kv_cache="paged", prefix_cache=True)
[base] = prompts(synthetic(1, parse_lengths("176"), parse_lengths("1")), model.config.vocab_size)
list(model.steps([base], ONE))
places, counted, simulated, measured = list(range(8, 176, 24)), [], [], []
for place in places:
    other = [*base[:place], (base[place] + 1) % model.config.vocab_size, *base[place + 1 :]]
    before, begun = model.ledger.copy(), model.engine.clock()
    measured.append(1e3 * lesson.seconds(lambda other=other: list(model.steps([other], ONE)), rounds=1))
    counted.append((model.ledger - before).tokens_computed)
    simulated.append(1e3 * (model.engine.clock() - begun))

tiny, line, stairs = lesson.tiny(kv_cache="paged", prefix_cache=True, threads=1), range(0, 180, 4), []
ids = [token % 250 + 3 for token in base]
list(tiny.steps([ids], ONE))
for place in line:
    before = tiny.ledger.copy()
    list(tiny.steps([[*ids[:place], *(1 for _ in ids[place : place + 1]), *ids[place + 1 :]]], ONE))
    stairs.append((tiny.ledger - before).tokens_computed)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
left.step(line, stairs, where="post", color="0.6", label="counted, tiny model")
left.plot(places, counted, "o", color="tab:blue", label="counted, this model")
left.set(title="A staircase of blocks", ylabel="rows computed")
right.plot(places, measured, "o-", color="tab:orange", label="measured here")
right.plot(places, simulated, "--", color="0.5", label=f"simulated, {MACHINE}")
right.set(title="Time to the first token", ylabel="milliseconds", ylim=(0, None))
for axes in (left, right):
    axes.set(xlabel="place of the first different token")
    axes.grid(alpha=0.3)
    axes.legend()
plt.show()
lesson.say(
    f"A first difference at place {places[0]} leaves {counted[0]} rows to compute, one at place {places[-1]} only "
    f"{counted[-1]}. The same prompt once more: {stairs[-1]}."
)

# %% [markdown]
# The right end of the staircase is a landing: even a prompt that is known as a whole computes its last block, because
# the last token never matches. Between two steps nothing changes: a difference costs its whole block.
#
# ### Watch the tree grow
#
# Five prompts, one at a time, in blocks of four tokens. Move the slider or press the arrow keys. Where does the tree
# fork, and which prompt adds nothing but its end?

# %%
growing = lesson.tiny(
    kv_cache="paged", block_size=4, num_blocks=32, prefix_cache=True, max_num_seqs=1, max_model_len=64, threads=1
)
StepPlayer(
    record(
        growing, ["be kind: hello", "be kind: goodbye", "be brief: hello", "be kind: hello!", "hello, be kind"],
        SamplingParams(max_tokens=2, ignore_eos=True),
    ),
    parts=("tree", "pool"), title="A prefix tree grows",
)

# %% [markdown]
# ## When it loses
#
# Prompts that share nothing only pay for the walk. Prompts that share almost a block share nothing. And what is
# cached stays: when all requests are answered, their blocks are still held, until another request needs the room.

# %% tags=["loses"]
def run_pair(shared, num_blocks=40):
    """Two prompts of 64 tokens whose first `shared` tokens are equal: what was counted, and the blocks held then."""
    llm = lesson.tiny(
        kv_cache="paged", prefix_cache=True, num_blocks=num_blocks, max_num_seqs=1, max_model_len=80, threads=1
    )
    one = [3 + i % 90 for i in range(64)]
    other = [*one[:shared], *(100 + i for i in range(64 - shared))]
    before = llm.ledger.copy()
    list(llm.steps([one, other], ONE))
    return llm.ledger - before, llm.engine.cache.blocks_in_use


rows = []
for shared in (0, 15, 16, 31, 32):
    counted, held = run_pair(shared)
    rows.append((shared, counted.tokens_cached, counted.tokens_computed, held))
lesson.table(["equal tokens at the beginning", "found", "rows computed", "blocks still held afterwards"], rows)
counted, held = run_pair(0, num_blocks=6)
lesson.say(
    f"In a pool of 6 blocks the second of two different prompts had to evict {counted.blocks_evicted} blocks of the "
    f"first one: the first prompt would not find them again."
)

# %% [markdown]
# Held blocks are no waste while the room is not needed. They become one when many different prompts pass through:
# each of them leaves blocks behind that are never used again, and evicts some that would have been.
#
# ## Puzzle
#
# **Puzzle: template** · 6 minutes · medium
#
# A prompt has five parts: `system` (`90` tokens, always the same), `date` (`14` tokens, a new one after every `8`
# requests), `tools` (`60` tokens, two variants that take turns), `document` (`100` tokens, one of four, in no simple
# order), `question` (`25` tokens, a new one each time). `24` requests come. Put the five parts into the order in
# which most tokens are found. The picture shows each request; what is coloured was found.

# %% tags=["puzzle"]
parts = ...
check("template", parts)

# %% [markdown]
# **Puzzle: order** · 8 minutes · medium
#
# Twelve questions wait at night, and their order is yours to choose. The pool is small: it holds one prompt and
# little more, and evicts what was not used for the longest time. `order(requests)` gets a list of triples (system
# prompt, document, question) and returns the numbers of the requests, from `0`, in the order in which they should
# run.

# %% tags=["puzzle"]
def order(requests):
    ...


check("order", order)

# %% [markdown]
# ## Exercises
#
# **Exercise: repeated** · 2 minutes · easy
#
# The same prompt is sent twice, with temperature `1` and another seed. What happens at the second request? Choose one
# of `"the first text comes back, and no row is computed"`, `"the prompt is found, and another text is generated"` and
# `"nothing is found, and another text is generated"`.

# %% tags=["exercise"]
second = ...
check("repeated", second)

# %% [markdown]
# **Exercise: substring** · 3 minutes · easy
#
# Blocks hold `16` tokens. The first prompt is a system prompt of `64` tokens, document A of `96` tokens and a
# question. The second one is the same system prompt, document B of `48` tokens, document A of `96` tokens and another
# question. How many tokens of the second prompt are found?

# %% tags=["exercise"]
tokens_found = ...
check("substring", tokens_found)

# %% [markdown]
# **Exercise: rows_left** · 6 minutes · medium
#
# The staircase as a formula. A prompt of `length` tokens is cached. Another one of the same length differs from it
# first at `place` (counted from `0`; when `place == length`, it is the same prompt). How many rows are computed?

# %% tags=["exercise"]
def rows_computed(place, length, block_size):
    ...


check("rows_left", rows_computed)

# %% [markdown]
# ## Read next
#
# - [SGLang, Zheng et al., section 3](https://arxiv.org/abs/2312.07104): the tree (RadixAttention), and an order of
#   requests that follows it.
# - [kv_cache/prefix_cache.py](../tinyinfer/kv_cache/prefix_cache.py): the whole tree, with users and eviction.
# - [09 Batching](09_batching.ipynb): who shares a step, and [08 Speculative decoding](08_speculative_decoding.ipynb):
#   several tokens a step.
