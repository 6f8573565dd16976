# %% [markdown]
# # 02 · Prefill and decode
#
# **The idea.** A step of the engine reads every weight once, however many rows it computes; each row costs arithmetic
# of its own. Many rows, a prompt, keep the processor busy: that is prefill. One row, the next token, lets it wait for
# memory: that is decode. From the model's sizes you can predict the time of both, and you will find the steps for which
# the prediction is wrong.
#
# **Formula.** `seconds ≥ max(FLOPs / matrix speed, bytes / read bandwidth)`
#
# **After this lesson you can** predict from a configuration how long a step of `T` rows takes at least, and say which
# of the two limits binds. You can explain why sixteen readers at once get more tokens a second together, and each of
# them fewer.
#
# **You need** matrix products in NumPy, and [00 · A tour in ten minutes](00_tour.ipynb).
#
# **Not covered:** several threads, weights in fewer bits, and the time of everything that is no matrix product.
#
# *25 minutes · you write 8 lines · no GPU, no account*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np

from tinyinfer import SamplingParams
from tinyinfer.backends.numpy_ops import FEW_ROWS, multiply
from tinyinfer.lessons import roofline_found as found
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.lessons.prefill_and_decode import MISCONCEPTIONS, batch_step
from tinyinfer.lessons.roofline_by_hand import PAPER, SMOLLM2
from tinyinfer.measure.roofline import expected_prefill, expected_step, measure_machine, predict_seconds
from tinyinfer.units import amount

lesson = Lesson("02_prefill_and_decode")
check, reveal, use = lesson.check, lesson.reveal, lesson.use

# %% [markdown]
# ## Predict
#
# A machine reads `37 GB/s` and does `200 GFLOP/s`. It runs the model of these lessons, `SmolLM2` in `float32`. One
# step computes a single row, another step computes the `128` rows of a prompt. How many times as long as the first does
# the second take, by the formula?

# %% tags=["prediction"]
guess = ...

# %% tags=["reveal"]
one_row, many_rows = expected_step(SMOLLM2, 0, 1), expected_step(SMOLLM2, 0, 128)
truth = predict_seconds(many_rows, PAPER) / predict_seconds(one_row, PAPER)
reveal(guess, truth, "times", MISCONCEPTIONS)

# %% [markdown]
# ## Count, then time
#
# First a look at one request. The engine tells of each step what it computed and what that cost. The prompt is one step
# of many rows. Each further step has one row.

# %%
llm = lesson.model(threads=1)  # one thread: nothing else is measured than the products
prompt = llm.chat_prompt([{"role": "user", "content": "Why do leaves turn red?"}])
traces = list(llm.steps([prompt], SamplingParams(max_tokens=6)))
for trace in traces[:3]:
    print(trace, end="\n\n")
prefill, decode = traces[0], min(traces[1:], key=lambda trace: trace.seconds)
lesson.say(
    f"Prefill: {len(prefill.batch) / prefill.seconds:.0f} tokens a second. "
    f"Decode: {len(decode.batch) / decode.seconds:.0f} tokens a second. Same model, same machine, same request: "
    "*tokens per second* is not one number."
)

# %% [markdown]
# Now steps from one row to many. The ledger counts each of them: FLOPs and bytes. Then the machine is measured, its two
# speeds only, and the formula gives a prediction for every step **before** any step is timed.

# %%
ROWS = [1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256]


def step_of(rows):
    """The trace of one step that computes a prompt of `rows` tokens."""
    prompt = [3 + i % 200 for i in range(rows)]
    [trace] = llm.steps([prompt], SamplingParams(max_tokens=1))
    return trace


counted = {rows: step_of(rows).ledger for rows in ROWS}
machine = measure_machine(threads=1)
predicted = {rows: predict_seconds(cost, machine) for rows, cost in counted.items()}
lesson.table(*found.predictions(counted, machine))
lesson.say(found.promised(predicted, machine))

# %%
rounds = [{rows: step_of(rows).seconds for rows in ROWS} for _ in range(3)]
measured = {rows: min(one[rows] for one in rounds) for rows in ROWS}  # other programs can only slow a step down
lesson.table(*found.compared(predicted, measured))

# %% [markdown]
# Look down the column of measured over predicted. Where is the formula nearly right, and where is it worst? Keep that
# row in mind. Before you hunt the reason, make sure that the counts are right: write them yourself.
#
# ## Your lines
#
# What one step counts, for the first `rows` positions of a sequence. The letters stand in the cell.
#
# - A layer has matrices of `D·(H+2K)·E` numbers (queries, keys, values), `H·E·D` (output) and `3·D·F` (the MLP).
# - Each row is multiplied with each number of these: `2` FLOPs.
# - Attention does `4·H·E` FLOPs in every layer for each pair of a row and a position that it sees: the first row sees
#   one position, itself, the second one sees two, and so on.
# - The head has `D·V` numbers and runs on the last row only.
# - Bytes: a number has `4` of them. Read are all matrices and the head, once; `(2·L+1)·D` numbers of norms; and the
#   embedding's row of `D` numbers for each token.
# - Keys and values: `2·L·K·E` numbers for each row, written once and read once.
#
# Then the formula: the seconds are the larger one of two quotients. Give back FLOPs, bytes and seconds.


# %% tags=["yours"]
def step_cost(c, rows, machine):
    """(FLOPs, bytes, seconds) of one step that computes the first `rows` positions of a sequence."""
    L, D, F, V = c.num_layers, c.hidden_size, c.intermediate_size, c.vocab_size
    H, K, E = c.num_heads, c.num_kv_heads, c.head_dim
    ...


check("step cost", step_cost)

# %% tags=["claim"]
mine = use("step cost")
for rows in ROWS:
    flops, moved, seconds = mine(llm.config, rows, machine)
    assert flops == counted[rows].flops, f"{rows} rows: not the FLOPs that the engine counted"
    assert moved == counted[rows].bytes_moved, f"{rows} rows: not the bytes that the engine counted"
    assert abs(seconds - predicted[rows]) <= 1e-12 * predicted[rows], f"{rows} rows: not the library's prediction"
lesson.say(
    f"For all {len(ROWS)} steps: the FLOPs and bytes that the engine counted while it ran, to the last one. So the "
    "counts are right, and what is wrong must be the formula."
)

# %% [markdown]
# ## In the library
#
# The same, for every model that the library knows: with windows, experts and biases.

# %%
lesson.source(predict_seconds)
lesson.source(expected_step)

# %% [markdown]
# ## The figure
#
# Time by rows above the roofline. Both axes are logarithmic. The flat part of the roof is the reading, the slope is the
# arithmetic. The broken line was recorded once on another machine; below, it is compared with the roofline of that
# machine.

# %% tags=["figure"]
found.draw(llm.config, machine, measured, recorded=lesson.real)
plt.show()

# %% [markdown]
# ## When it loses
#
# What loses here is the prediction itself. Where is it worst?

# %% tags=["loses"]
lesson.say(found.worst(predicted, measured))

# %% [markdown]
# ### Hunt the reason
#
# Is the missing time one of the step, one of each row, or one of each weight? Leave the engine away and multiply with
# one matrix alone, in more copies than the caches of most processors hold. Take off the arithmetic by the formula.
# Compare the rest with the time in which the machine reads all copies once.

# %%
copies = [np.random.default_rng(i).standard_normal((576, 3072), dtype=np.float32) for i in range(12)]
reading = sum(copy.nbytes for copy in copies) / machine.read_bandwidth
rest = {}
for rows in (1, 4, 8, 16, 32):
    x = np.ones((rows, 576), dtype=np.float32)
    fastest = min(lesson.seconds(lambda x=x: [x @ copy for copy in copies], rounds=1) for _ in range(9))
    arithmetic = sum(2 * rows * copy.size for copy in copies) / machine.matrix_speed
    rest[rows] = (fastest - arithmetic) / reading
lesson.table(["rows", "the rest, in readings of all copies"], [[n, f"{left:.1f}"] for n, left in rest.items()])
lesson.say(found.kind_of_rest(rest))

# %% [markdown]
# Now mend the formula with what you found: from four rows on, a step does its arithmetic and pays for each byte of its
# weights, one after the other. Does it fit the steps of the whole model?

# %%
each = rest[4] / machine.read_bandwidth  # seconds for a byte of the weights
mended = {n: counted[n].flops / machine.matrix_speed + each * counted[n].weight_bytes for n in ROWS if n > FEW_ROWS}
lesson.table(*found.mended_beside(predicted, mended, measured))
old, new = (max(measured[n] / formula[n] for n in mended) for formula in (predicted, mended))
lesson.say(f"The worst step took {old:.1f} times as long as the old formula says, and {new:.1f} times the mended one.")

# %% [markdown]
# The library knows the cost of the copy. Very few rows are multiplied one by one, without a copy:

# %%
lesson.source(multiply)
lesson.say(f"`FEW_ROWS` is {FEW_ROWS}. Lesson 08 pays this price for its drafts.")

# %% [markdown]
# ### And the other side?
#
# "Prefill is slow because of n²": here is the part of the FLOPs that attention does, counted. "A batch speeds up the
# answer": here are a decode step of one sequence and one of sixteen, counted, too. And the recorded machine of the
# figure, in numbers. The exercises ask what they mean.

# %%
lengths = [128, 512, 2048, 8192]
shares = [expected_prefill(SMOLLM2, n).attention_flops / expected_prefill(SMOLLM2, n).flops for n in lengths]
lesson.table(
    ["tokens of the prompt", "attention's part of the FLOPs"],
    [[str(n), f"{share:.1%}"] for n, share in zip(lengths, shares, strict=True)],
)
one, sixteen = batch_step(1), batch_step(16)
lesson.table(
    ["sequences in a decode step", "FLOPs", "bytes"],
    [[n, amount(c.flops, "FLOP"), amount(c.bytes_moved, "B")] for n, c in ((1, one), (16, sixteen))],
)
lesson.table(
    ["rows", *map(str, found.RECORDED)], [["recorded, ms", *(f"{1e3 * one:.1f}" for one in found.RECORDED.values())]]
)
lesson.say(
    f"The recorded machine reads {amount(found.RECORDED_ON.read_bandwidth, 'B/s')} and does "
    f"{amount(found.RECORDED_ON.matrix_speed, 'FLOP/s')}."
)

# %% [markdown]
# ## Exercises
#
# **Exercise: attention overtakes** · 5 minutes · medium
#
# From which prompt length on does attention do at least half of all FLOPs of a prefill? Try lengths, or solve for `n`.
# `expected_prefill(SMOLLM2, n)` has `flops` and `attention_flops`; an answer within a hundredth is right.

# %% tags=["exercise"]
answer = ...
check("attention overtakes", answer)

# %% [markdown]
# **Exercise: sixteen together** · 5 minutes · medium
#
# Sixteen sequences decode together on the machine of the prediction, `PAPER`. `one` and `sixteen` are the ledgers of a
# step of one sequence and of a step of all of them. By which factor do the tokens a second of all together change, and
# by which factor those of each single sequence? Write both: `(together, each)`.

# %% tags=["exercise"]
answer = ...
check("sixteen together", answer)

# %% [markdown]
# **Exercise: weights moved** · 5 minutes · hard
#
# `found.RECORDED` holds the recorded seconds by rows, `found.RECORDED_ON` the machine. Suppose that the step of four
# rows did nothing but move bytes at that machine's bandwidth. How many bytes did it move for each byte of the weights
# in `expected_step(SMOLLM2, 0, 4)`?

# %% tags=["exercise"]
answer = ...
check("weights moved", answer)

# %% [markdown]
# ## Read next
#
# - [Williams, Waterman and Patterson, Roofline, section 3](https://doi.org/10.1145/1498765.1498785): the formula, and
#   how to read its figure
# - [Pope et al., Efficiently Scaling Transformer Inference, section 2](https://arxiv.org/abs/2211.05102): the same
#   counts for the largest models
# - Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication,
#   [section 4](https://doi.org/10.1145/1356052.1356053): why a product copies its matrices first
# - [roofline.py](../tinyinfer/measure/roofline.py) and `python -m tinyinfer bench`, which prints prediction and
#   measurement for your model
# - [03 · The KV cache](03_kv_cache.ipynb): why a decode step has only one row;
#   [09 · Batching](09_batching.ipynb): more rows for each reading
