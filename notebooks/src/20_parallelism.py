# %% [markdown]
# # 20 · Parallelism
#
# **The idea.** A model that is too large or too slow for one processor is divided among several, which are called
# *ranks*. Each rank reads its part of the weights only. In return the ranks have to tell each other what they computed.
# A message has a latency, and no further rank makes it shorter. So there is a number of ranks beyond which a step is
# slower.
#
# **Formula.** `ring: 2(n-1) · (α + B/n/β)` seconds for `n` ranks to add up `B` bytes · `bubble = (p-1) / (m+p-1)` of
# the time for `p` stages and `m` micro-batches.
#
# **After this lesson you can** write an all-reduce out of messages, and divide a layer so that one sum is enough. You
# can count what a rank sends, and say when more ranks are slower, and when a pipeline waits.
#
# **You need** Python with NumPy, and [02 · Prefill and decode](02_prefill_and_decode.ipynb). No second processor: all
# ranks run in this process, one at a time, in an order that is drawn from a seed.
#
# **Not covered:** replicas of a whole model, experts on ranks of their own, training, and real networks
# ([parallelism](../docs/parallel.md) starts ranks by MPI).
#
# *60 minutes · you write 9 lines · no GPU, no account*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np

from tinyinfer.ledger import Ledger
from tinyinfer.lessons import rank_runs as runs
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.lessons.parallelism import predicted
from tinyinfer.lessons.shares_judge import mlp
from tinyinfer.parallel.collectives import ring_all_reduce
from tinyinfer.parallel.local import run_ranks
from tinyinfer.parallel.schedule import begin_times, decode_times, idle_share
from tinyinfer.parallel.tensor import TensorOps
from tinyinfer.units import amount

lesson = Lesson("20_parallelism")
check, reveal, use = lesson.check, lesson.reveal, lesson.use

# %% [markdown]
# ## Predict
#
# `Llama-2-70B` decodes one sequence. All GPUs share every layer: each one has some heads and some neurons. After
# attention and after the MLP of each of the `80` layers they add up a row of `8192` numbers.
#
# `8` GPUs stand in one node. There a message has a latency of `0.6` µs, and `370` GB/s. Between nodes it is `5` µs and
# `50` GB/s. With `8` GPUs a token takes `9.1` ms. How many times as fast is it with `64` GPUs, in `8` nodes?

# %% tags=["prediction"]
guess = ...

# %% tags=["reveal"]
decoding = runs.decode_passes()
truth, usual = predicted(decoding)
reveal(guess, truth, "times as fast", usual)

# %% [markdown]
# ## Count, then time
#
# The sum of all ranks' arrays, for all of them: an *all-reduce*. Here is one of the row above, among more and more
# ranks of this process. `run_ranks(n, work)` calls `work(comm)` once for each rank, and the ledger of a rank counts
# what it sends. Before you look: as the ranks become more, which grows, the bytes that a rank sends or its messages?

# %%
row = np.ones(8192, np.float32)
rows = []
for ranks in (2, 4, 8, 16, 64):
    ledgers = [Ledger() for _ in range(ranks)]
    sums = run_ranks(ranks, lambda comm: comm.all_reduce(row.copy()), ledgers=ledgers)
    assert all((one == ranks).all() for one in sums)
    sent = ledgers[0]
    rows.append([ranks, sent.messages_sent, amount(sent.bytes_sent, "B"), f"{sent.bytes_sent / row.nbytes:.3f}"])
lesson.table(["ranks", "messages a rank", "bytes a rank", "times the array"], rows)

# %% [markdown]
# The bytes hardly grow: never twice the array. The messages do. Now the time, by the formula: `α` is the latency of a
# message and `β` the bytes a second, on the GPUs of the prediction, where a number has two bytes. Once for the row of
# one token, once for a prompt of many rows. Beside the ring stands the *tree*: half of the ranks send all they have to
# the other half, and so on; it has few messages, and each one is long. Which one is faster, and for which array?

# %%
rows = []
for kind, nbytes in (("one token", 8192 * 2), (f"a prompt of {runs.PROMPT:,}", 8192 * 2 * runs.PROMPT)):
    for ranks in (8, 64):
        link = runs.NODES.link(ranks)
        ring_seconds, tree_seconds = link.ring(ranks, nbytes), link.tree(ranks, nbytes)
        latency = 2 * (ranks - 1) * link.latency / ring_seconds
        times = [f"{1e6 * seconds:,.1f} µs" for seconds in (ring_seconds, tree_seconds)]
        rows.append([kind, amount(nbytes, "B"), ranks, *times, f"{latency:.0%}"])
lesson.table(["rows of", "array", "ranks", "ring", "tree", "share of latency in the ring"], rows)
lesson.say(
    f"A token of this model needs {2 * runs.LLAMA_70B.num_layers + 1} such sums, one after the other. "
    "The library takes the faster one for each array."
)

# %% [markdown]
# ## Your lines
#
# Write the ring. Each rank has cut its array into `n` parts: `parts[0]` to `parts[n - 1]` are views of it. Ranks sit in
# a circle, and each one sends to its right neighbour only.
#
# - First half, `n - 1` rounds. In the first round rank `r` gives part `r` to the right. What comes from the left is
#   added to the part of the same number. In each later round it gives away the part that it has just added to. After
#   these rounds each rank holds one part that is complete.
# - Second half, `n - 1` rounds. Each rank gives away the complete part, and then in each round the one that has just
#   come; what comes replaces the part of its number.
#
# `comm.exchange(x, right, y, left)` sends the array `x` to the right, receives into the array `y` from the left, and
# returns `y`. The parts may differ in length by one, so `y` must be as long as what comes: `np.empty_like(part)` is a
# new array of that length. Write into the parts (`part += ...`), do not replace them in the list.


# %% tags=["yours"]
def ring(parts, comm):
    """The sum of the ranks' parts, in their place."""
    n, rank = comm.size, comm.rank
    right, left = (rank + 1) % n, (rank - 1) % n
    ...


check("ring", ring)

# %% [markdown]
# Your ring beside the library's: the same bits on every rank, whatever the order in which the ranks run, and as many
# bytes as the formula says.

# %% tags=["claim"]
mine = use("ring")
rng = np.random.default_rng(0)
for ranks in (2, 3, 5, 8):
    arrays = [rng.normal(size=120).astype(np.float32) for _ in range(ranks)]
    wanted = runs.by_library(arrays)
    for seed in range(5):
        found, ledgers = runs.summed(arrays, mine, seed)
        assert all(np.array_equal(one, wanted[0]) for one in found)
        assert all(ledger.bytes_sent == 2 * (ranks - 1) * 120 * 4 // ranks for ledger in ledgers)
lesson.say("All ranks have the sums of the library's ring, bit by bit, in each of five orders of the ranks.")

# %% [markdown]
# ### A layer in parts
#
# Two thirds of a layer are its MLP, `down(silu(gate x) · up x)`. A neuron is a row of `gate`, the same row of `up`, and
# a column of `down`. Divide it among `n` ranks so that nothing has to be said between the products: each rank computes
# a *term* of every output, and one all-reduce of the terms ends the layer.
#
# Shapes: `gate` and `up` are `(F, D)`, `down` is `(D, F)`. `F` may not divide by `n`; then no two ranks differ by more
# than one neuron.


# %% tags=["yours"]
def shares(gate, up, down, rank, n):  # (F, D), (F, D), (D, F) -> (f, D), (f, D), (D, f)
    """The parts of the three matrices that this rank of n has."""
    ...


check("shares", shares)

# %% tags=["claim"]
divide_by = use("shares")
llm = lesson.model(quantize="int8", quantize_head="int8", group_size="channel")
whole = runs.mlp_of(llm, 0)
x = rng.normal(size=(5, whole[0].shape[1])).astype(np.float32)
truth = mlp(x, *whole)
rows = []
for ranks in (2, 3, 4):
    found, ledgers = runs.divided_mlp(x, llm, 0, divide_by, mine, ranks)
    assert all(np.abs(one - truth).max() < 1e-4 * np.abs(truth).max() for one in found)
    each = [len(divide_by(*whole, rank, ranks)[0]) for rank in range(ranks)]
    rows.append([ranks, ", ".join(map(str, each)), amount(ledgers[0].bytes_sent, "B"), amount(x.nbytes, "B")])
lesson.table(["ranks", "neurons of each", "bytes that a rank sends", "bytes of the rows"], rows)

# %% [markdown]
# ### The real model
#
# Now all layers. Each rank has its heads, its neurons and its part of the vocabulary; the sums are yours, and the model
# is in `int8`, so that several copies of its parts find room. What it says may not depend on the number of ranks.

# %% tags=["claim"]
beginning = "The capital of France is"
alone = runs.together(llm, beginning, 6, 1, mine)
rows = [[1, amount(alone.weights[0], "B"), "0 B", repr(alone.text)]]
for ranks in (2, 3):
    said = runs.together(llm, beginning, 6, ranks, mine, seed=ranks)
    assert said.tokens == alone.tokens, f"{said.text!r} is not {alone.text!r}"
    sent = amount(said.ledgers[-1].bytes_sent, "B")
    rows.append([ranks, amount(max(said.weights), "B"), sent, repr(said.text)])
lesson.table(["ranks", "layers' weights in the fullest rank", "sent by the last rank", f"after “{beginning}”"], rows)

# %% [markdown]
# ## In the library
#
# The ring, and where the model adds up. A linear layer whose inputs are divided is `Summed`; the model's code knows
# nothing of ranks.

# %%
lesson.source(ring_all_reduce)
lesson.source(TensorOps.linear)
lesson.source(TensorOps.total)

# %% [markdown]
# ## The figure
#
# Back to the prediction. A bar is the time of a pass: what a GPU computes and reads, and on top of it what it waits for
# sums. Before you look: a prompt has two thousand times the rows of a token. Does it wait for a larger or for a smaller
# share of its time?

# %% tags=["figure"]
prompt = runs.passes(runs.PROMPT)
figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
runs.draw_passes(axes[0], decoding, "One token of Llama-2-70B")
runs.draw_passes(axes[1], prompt, f"A prompt of {runs.PROMPT:,} tokens")
plt.show()
for name, found in (("A token", decoding), ("A prompt", prompt)):
    fastest = min(found, key=lambda gpus: found[gpus].total)
    shares_of = {gpus: found[gpus].communication / found[gpus].total for gpus in (8, 16)}
    lesson.say(
        f"{name} is fastest with {fastest} GPUs. Communication takes {shares_of[8]:.0%} of its time with 8 GPUs, and "
        f"{shares_of[16]:.0%} with 16, where the first message leaves the node."
    )

# %% [markdown]
# In a node, a prompt's rows wait for bytes: they are long arrays. A token's row waits for latency, anywhere. (The
# weights are too many for one GPU of this kind, so the first bars are for comparison only.)
#
# ### The other way to divide
#
# Instead of every layer among all, each rank gets *some layers*, and rows go from stage to stage: one message for all
# layers of a stage, and no sum. Then a stage waits for the stage before it. So the rows are cut into micro-batches,
# which follow one another. Before you look: `4` stages, `8` micro-batches. Which share of the time is white?

# %%
figure, axes = plt.subplots(3, 1, figsize=(10, 7), layout="constrained", sharex=True)
for ax, batches in zip(axes, (1, 4, 8), strict=True):
    seconds = np.ones((4, batches)) / batches
    begin = begin_times(seconds)
    idle, formula = idle_share(begin, seconds), 3 / (batches + 3)
    assert np.isclose(idle, formula)
    title = f"micro-batches: {batches}, idle for {idle:.0%} of the time, done at {(begin + seconds).max():.2f}"
    runs.draw_schedule(ax, begin, seconds, title)
plt.show()

# %% [markdown]
# The *bubble* is the time in which the pipeline fills and drains. The smaller the pieces, the smaller the bubble. (But
# each piece reads all weights of its stage again, which is not drawn here: pieces of a prompt should stay long enough
# to be bound by arithmetic.)
#
# ## When it loses
#
# ### Right by luck
#
# Another student sends first and receives then, in every round. Look at the lines: does this ring end?

# %% tags=["loses"]
lesson.source(runs.send_first)
arrays = [np.ones(12, np.float32)] * 3
lesson.say("- Exchange: " + runs.outcome(arrays, mine) + "\n- Send first: " + runs.outcome(arrays, runs.send_first))

# %% [markdown]
# Real libraries keep short messages in a buffer, and a send of those ends at once. So this ring works with one token,
# and hangs with the first long prompt. Here a send always waits for its receive, and the order of the ranks is drawn:
# what is right by luck is found.
#
# ### One sequence in a pipeline
#
# A decode step needs the token of the step before. So the next step of a sequence enters the first stage when the last
# stage has ended. How busy is a pipeline of `4` stages with one sequence, and how busy with `4` that take turns?

# %% tags=["loses"]
figure, axes = plt.subplots(2, 1, figsize=(10, 4.6), layout="constrained")
steps, rows = 4, []
for ax, groups in zip(axes, (1, 4), strict=True):
    seconds = np.ones((4, groups))
    begin = decode_times(seconds, steps)
    last = (begin[-1] + seconds).max()
    rows.append([groups, f"{begin[1, 0, 0] - begin[0, 0, 0]:.0f}", f"{steps * groups / last:.2f}"])
    runs.draw_schedule(ax, begin, seconds, f"{groups} in flight, {steps} tokens each")
plt.show()
lesson.table(["sequences in flight", "time between two tokens of one", "tokens for each unit of time"], rows)

# %% [markdown]
# Nobody's token comes sooner: a pipeline gives room and throughput, not speed. And the slowest stage decides. Let one
# of the four take half as long again, as a stage does that has the head beside its layers.

# %% tags=["loses"]
seconds = np.ones((4, 4))
seconds[3] = 1.5
begin = decode_times(seconds, steps)
figure, ax = plt.subplots(figsize=(10, 2.6), layout="constrained")
runs.draw_schedule(ax, begin, seconds, "The last stage takes half as long again")
plt.show()
between = begin[-1, 0, 0] - begin[-2, 0, 0]
lesson.say(
    f"Now {between:.1f} units lie between two tokens of a sequence, not {seconds[:, 0].sum():.1f}, the time of its way "
    "through all stages: it waits in front of the last one. The first three stages are idle for "
    f"{1 - 1 / 1.5:.0%} of the time."
)

# %% [markdown]
# ### Not the same bits
#
# The terms of a sum are added in another order for each number of ranks, and floats round. The text above was the same;
# the numbers are not.

# %% tags=["loses"]
terms = rng.normal(size=(12, 4096)).astype(np.float32)  # added up among 2, 3, 4, 6 and 12 ranks
exact = terms.astype(np.float64).sum(axis=0)
rows, by_ranks = [], {}
for ranks in (2, 3, 4, 6, 12):
    found, _ = runs.summed([part.sum(axis=0) for part in np.split(terms, ranks)], mine)
    by_ranks[ranks] = found[0]
    alike = "yes" if all(np.array_equal(one, found[0]) for one in found) else "no"
    other = (found[0] != by_ranks[2]).mean()
    rows.append([ranks, f"{np.abs(found[0] - exact).max():.1e}", f"{other:.0%}", alike])
lesson.table(["ranks", "largest error", "numbers other than with two ranks", "same bits on all ranks"], rows)

# %% [markdown]
# All ranks must have the *same* bits, else they would choose other tokens and lose each other. But two runs with other
# numbers of ranks may part where two tokens are nearly as likely.
#
# ## Exercises
#
# **Exercise: sent** · 5 minutes · easy
#
# A model of `30` layers and rows of `576` numbers in `float32` is divided among `4` ranks: heads, neurons and, for the
# embedding, the vocabulary. There is a sum after the embedding, after each attention and after each MLP, along a ring.
# How many bytes does one rank send for these sums, for one token?

# %% tags=["exercise"]
sent_bytes = ...
check("sent", sent_bytes)

# %% [markdown]
# **Exercise: batches** · 5 minutes · medium
#
# A pipeline has `4` stages of equal time. How many micro-batches does it take at least, so that the bubble is at most a
# tenth of the time?

# %% tags=["exercise"]
batches = ...
check("batches", batches)

# %% [markdown]
# **Exercise: best** · 10 minutes · hard
#
# A step computes for `computing` seconds on one rank, and `n` ranks divide that evenly. It needs `sums` all-reduces of
# `nbytes` bytes, along a ring with latency `alpha` (seconds) and `beta` (bytes a second); one rank needs none. With how
# many ranks, from one to `most`, is the step fastest?


# %% tags=["exercise"]
def best(computing, sums, nbytes, alpha, beta, most):
    """The number of ranks with which a step is fastest."""
    ...


check("best", best)

# %% [markdown]
# ## Read next
#
# - [Shoeybi et al., Megatron-LM, section three](https://arxiv.org/abs/1909.08053): a layer in parts;
#   [Huang et al., GPipe, section two](https://arxiv.org/abs/1811.06965): the bubble; [Pope et al., section
#   three](https://arxiv.org/abs/2211.05102): which division for which batch.
# - [tensor.py](../tinyinfer/parallel/tensor.py) and [pipeline.py](../tinyinfer/parallel/pipeline.py), how the library
#   divides every family; [local.py](../tinyinfer/parallel/local.py), ranks as threads that take turns;
#   [parallelism](../docs/parallel.md), with real processes, and the same predictions beside published figures.
# - [lesson 02](02_prefill_and_decode.ipynb), what one rank reads; [lesson 09](09_batching.ipynb), sequences that
#   decode together.
