# %% [markdown]
# # 09 · Batching
#
# **The idea.** A decode step reads every weight of the model to compute one row. Rows of several sequences can share
# that one read. So an engine has seats, and the question is who sits in them: when may a request join, and when does
# it leave?
#
# **Formula.** `steps(static) = sum over batches of the longest length` · `steps(continuous) ≥ sum of lengths / seats`
#
# **After this lesson you can** compute, from a list of lengths, the steps of static and of continuous batching, and the
# rows of padding: those that a finished sequence computes because it keeps its seat. You can say what a step of many
# sequences costs in FLOPs, in bytes, and in waiting for each reader.
#
# **You need** Python, and [lesson 02](02_prefill_and_decode.ipynb): memory-bound and arithmetic-bound steps, and the
# roofline.
#
# **Not covered:** a full cache and preemption, and how small the chunks of a prompt should be.
#
# *75 minutes · you write 40 lines · no GPU, no account*

# %% tags=["setup"]
import matplotlib.pyplot as plt

from tinyinfer import SamplingParams
from tinyinfer.batching.policies import Continuous, Static
from tinyinfer.engine.metrics import request_metrics
from tinyinfer.lessons.batching import batch_step, step_seconds
from tinyinfer.lessons.batching_puzzles import (
    ARRIVALS,
    BUDGET,
    LENGTHS,
    NEIGHBOURS,
    PROMPT,
    STAYS,
    in_batches,
    in_order,
)
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.lessons.models import served
from tinyinfer.lessons.seating import active, computed, continuous, draw_seats, static
from tinyinfer.measure.workload import parse_lengths, synthetic
from tinyinfer.views.player import StepPlayer
from tinyinfer.views.recording import record

lesson = Lesson("09_batching")
check, reveal, use = lesson.check, lesson.reveal, lesson.use

# %% [markdown]
# ## Predict
#
# Requests wait in a queue. Their answers differ in length, as answers do: many are short, a few are long. The engine
# does not know a length before the answer ends.

# %%
SEATS = 8
requests = synthetic(64, parse_lengths("16"), parse_lengths("lognormal:48,0.8"))
lengths = [request.max_tokens for request in requests]
lesson.say(
    f"{len(lengths)} requests on {SEATS} seats. Their answers have {min(lengths)} to {max(lengths)} tokens, half of "
    f"them at most {sorted(lengths)[len(lengths) // 2 - 1]}; together {sum(lengths):,}. In order of arrival they begin "
    f"with {lengths[:12]}."
)

# %% [markdown]
# **Static batching** seats as many requests as there are seats, computes until the longest of them has its answer, and
# only then seats the next ones. **Continuous batching** gives a seat to the next request as soon as it is free.
#
# Each step brings one token for every request that sits. How many times as many steps does static batching need as
# continuous batching? Write a number such as `1.1` or `10`.

# %% tags=["prediction"]
guess = ...

# %% tags=["reveal"]
steps = {"static": in_batches(lengths, SEATS), "continuous": in_order(lengths, SEATS)}
truth = steps["static"] / steps["continuous"]
rows = sum(max(lengths[i : i + SEATS]) * SEATS for i in range(0, len(lengths), SEATS))
reveal(
    guess,
    truth,
    "times as many steps",
    {
        1: "That would be right for answers of one length; here the short ones wait for the long one of their batch.",
        SEATS: "That would be batching against one request at a time; static batching fills all seats, too, at first.",
        max(lengths) / (sum(lengths) / len(lengths)): "That is the longest length over the mean one; but each batch "
        "waits only for its own longest request.",
        rows / sum(lengths): "That takes continuous batching to have no empty seat; its last requests sit alone at the "
        "end.",
    },
)

# %% [markdown]
# ## Count, then time
#
# ### Count
#
# The tiny model runs the requests under three policies. `dynamic` is `static` with a deadline: the first request waits
# only so long for others. The clock is simulated: its seconds are those of a machine that reads `37MB/s` and computes
# `200MFLOP/s`, slow as the tiny model is small.
#
# A request computes one row for each token of its prompt, and one for each token of its answer but the last.
# **Padding** comes on top: the rows of finished sequences that keep their seats.

# %%
machine = "37MB/s,200MFLOP/s"
policies = ("static", "dynamic", "continuous")
runs = {name: served(lesson.tiny(machine, batching=name, max_num_seqs=SEATS), requests) for name in policies}
lesson.table(
    ["policy", "steps", "rows computed", "of these padding", "simulated s", "tokens a simulated s"],
    [
        (
            name,
            f"{run.ledger.steps:,}",
            f"{run.ledger.tokens_computed:,}",
            f"{run.ledger.tokens_padding:,}",
            f"{sum(run.seconds):.2f}",
            f"{sum(lengths) / sum(run.seconds):,.0f}",
        )
        for name, run in runs.items()
    ],
)
padded, useful = runs["static"].ledger.tokens_padding, sum(lengths)
lesson.say(
    f"Static batching computed {padded:,} rows of padding, for sequences that were finished and kept their seats. "
    f"These are more than the {useful:,} tokens of all answers: most of its work was for no reader. Continuous "
    f"batching computed {runs['continuous'].ledger.tokens_padding} such rows: it does not pad."
)

# %% [markdown]
# All requests were there at the beginning, so `dynamic` had nothing to wait for and did as `static` did. Now other
# requests of the same kind arrive one after the other. How long does a reader wait for the first token?

# %%
rate = 20  # requests a second
arriving = synthetic(32, parse_lengths("16"), parse_lengths("lognormal:48,0.8"), rate=rate)
waits = {}
for name in policies:
    run = served(lesson.tiny(machine, batching=name, max_num_seqs=SEATS), arriving)
    waits[name] = sorted(request_metrics(seq).ttft_s for seq in run.sequences)
lesson.table(
    ["policy", "first token after, median (simulated s)", "longest (simulated s)"],
    [(name, f"{wait[len(wait) // 2]:.2f}", f"{wait[-1]:.2f}") for name, wait in waits.items()],
)
middle = waits["static"][len(arriving) // 2]
lesson.say(
    f"With {rate} requests a second, {len(arriving)} in all, half of the readers wait {middle:.2f} simulated seconds "
    f"or more for their first token under static batching. Their requests are there, and meanwhile the machine "
    f"computes padding."
)

# %% [markdown]
# ### Time
#
# The real model now serves a shorter queue under both policies, once each, in the time of your machine. With all of the
# requests above this takes minutes; the row of [README](../README.md#benchmarks) is measured that way.

# %%
# about 6 s on two free cores
short = synthetic(20, parse_lengths("4"), parse_lengths("lognormal:3,1.2"))
timed = {name: served(lesson.model(batching=name, max_num_seqs=SEATS), short) for name in ("static", "continuous")}
seconds = {name: sum(run.seconds) for name, run in timed.items()}
lesson.say(
    f"Static: {timed['static'].ledger.steps} steps in {seconds['static']:.1f} s. Continuous: "
    f"{timed['continuous'].ledger.steps} steps in {seconds['continuous']:.1f} s. That is "
    f"{timed['static'].ledger.steps / timed['continuous'].ledger.steps:.2f} times the steps and "
    f"{seconds['static'] / seconds['continuous']:.2f} times the time. Each "
    f"was timed once: where another program takes the processor, the time says less than the steps."
)

# %% [markdown]
# ## Your lines
#
# Write the loop of an engine without its model: only who sits where, the schedule. Both policies are one rule each, and
# the rule is given: `may_join(free, seats)` says whether waiting requests may take the free seats of this step.
#
# ```python
# def continuous(free, seats):
#     return free > 0
#
# def static(free, seats):
#     return free == seats
# ```
#
# In each step: ask the rule once. If it says yes, the oldest waiting requests take the free seats. Write down who sits
# where. Then each request that sits needs one step fewer, and one that needs no more steps leaves. **A request keeps
# its seat until it leaves.** Stop when no request waits and none sits. Your loop may look at `lengths`; the rule may
# not, as an engine knows none of them.


# %% tags=["yours"]
def seat_requests(lengths, seats, may_join):
    """A list of steps; each step is a list with a request's number, or None, for every seat.

    lengths: how many steps each request needs, in order of arrival; the requests are
    numbered from 0. Leave this list as it is: other cells read it, too.
    """
    ...


check("schedule", seat_requests)

# %% tags=["claim"]
mine = use("schedule")
for name, rule in {"static": static, "continuous": continuous}.items():
    assert active(mine(lengths, SEATS, rule)) == computed(runs[name].steps), name
lesson.say(
    f"The schedule is the engine's: the same requests in each of {steps['static']:,} steps under static and in each of "
    f"{steps['continuous']} steps under continuous batching."
)
pairs = zip(runs["static"].sequences, runs["continuous"].sequences, strict=True)
alike = sum(a == b for one, two in pairs for a, b in zip(one.new_tokens, two.new_tokens, strict=True))
lesson.say(f"A request's neighbours say when it is computed: {alike:,} of {useful:,} tokens are the same under both.")

# %% [markdown]
# ## In the library
#
# The two policies of the engine, which calls a seat a slot. The scheduler asks `admissible` before a step: `running`
# are the sequences that sit, and `not running` is your "all seats are free". (What else stands there is for requests
# that arrive late or return.) It asks `leaving` after the step. Compare the two: the padding comes from there.

# %%
for policy in (Static, Continuous):
    lesson.source(policy.admissible)
    lesson.source(policy.leaving)

# %% [markdown]
# ## The figure
#
# Each line is a seat, and in it a new colour is the next request (far apart, colours repeat). White is a seat that
# brings no token to any reader, up to the black line: there the run ends.

# %% tags=["figure"]
schedules = {"static": mine(lengths, SEATS, static), "continuous": mine(lengths, SEATS, continuous)}
longest = max(map(len, schedules.values()))
figure, panels = plt.subplots(2, 1, figsize=(9, 4.2), sharex=True, layout="constrained")
for axes, (name, schedule) in zip(panels, schedules.items(), strict=True):
    empty = sum(seated.count(None) for seated in schedule)
    share = empty / (len(schedule) * SEATS)
    draw_seats(axes, schedule, f"{name}: {len(schedule):,} steps, {share:.0%} of the seats empty", longest)
panels[1].set_xlabel("step")
plt.show()

# %% [markdown]
# Step through a small run yourself, with the arrow keys or the slider: eight requests on two seats, continuous. Look at
# *Seats*: whenever a request has left, another one sits there in the next step.

# %%
few = [SamplingParams(max_tokens=length, ignore_eos=True) for length in LENGTHS]
words = ["red", "blue", "pink", "grey", "teal", "gold", "rose", "plum"]
StepPlayer(record(lesson.tiny(machine, max_num_seqs=2), words, few), parts=("seats", "rows"))

# %% [markdown]
# ## When it loses
#
# **Answers of one length.** No request waits for a longer neighbour, and static batching does as well. **The order.**
# Continuous batching takes requests as they come. When a long one comes late, it sits alone at the end.

# %% tags=["loses"]
same = [48] * 64
lesson.table(
    ["lengths", "static", "continuous", "static / continuous", "no seat ever empty"],
    [
        (
            name,
            f"{len(mine(some, SEATS, static)):,}",
            f"{len(mine(some, SEATS, continuous)):,}",
            f"{len(mine(some, SEATS, static)) / len(mine(some, SEATS, continuous)):.2f}",
            f"{sum(some) / SEATS:.0f}",
        )
        for name, some in {
            "all the same": same,
            "as they came": lengths,
            "shortest first": sorted(lengths),
            "longest first": sorted(lengths, reverse=True),
        }.items()
    ],
)

# %% [markdown]
# In the last two lines static batching needs about half of its steps: sorted neighbours are alike, and shortest first
# the gain of continuous batching is gone. But sorting needs the lengths in advance, and an engine does not have them.
#
# **The reader of one answer.** A larger batch brings more tokens in all, and each reader gets them later. Here are
# decode steps of the real model, timed on your machine.

# %% tags=["loses"]
measured = {}
for seats in (1, 4, 16):
    batch = synthetic(seats, parse_lengths("8"), parse_lengths("6"))
    decoded = served(lesson.model(max_num_seqs=seats), batch)
    measured[seats] = sorted(decoded.seconds[1:])[2]  # the median of the decode steps
one = batch_step(1)
lesson.table(
    ["sequences", "FLOPs", "bytes of weights", "roofline", "measured", "tokens a second", "each reader waits"],
    [
        (
            seats,
            f"{batch_step(seats).flops / one.flops:.1f}x",
            f"{batch_step(seats).weight_bytes / one.weight_bytes:.1f}x",
            f"{step_seconds(seats) / step_seconds(1):.2f}x",
            f"{1000 * seconds:.0f} ms",
            f"{seats / seconds:.1f}",
            f"{seconds / measured[1]:.1f}x as long",
        )
        for seats, seconds in measured.items()
    ],
)
lesson.say(
    f"A step of 16 has 16 times the FLOPs and reads the weights once. It takes {measured[16] / measured[1]:.1f} times "
    f"as long as a step of one: all readers together get {16 * measured[1] / measured[16]:.1f} times as many tokens a "
    f"second, and each of them waits {measured[16] / measured[1]:.1f} times as long for the next one. The roofline "
    f"promises {step_seconds(16) / step_seconds(1):.1f}; lesson 02 shows why NumPy stays behind it."
)
if measured[16] < measured[4]:
    lesson.say("A step of 16 was faster than one of 4: your machine was busy with something else. Run the cell again.")

# %% [markdown]
# ## Puzzle
#
# Seat them yourself, by hand. Each attempt is drawn and scored by counts.

# %%
lesson.say(
    f"Eight requests, numbered from 0, need these steps: {list(LENGTHS)}. There are two seats. Together that is "
    f"{sum(LENGTHS)} steps. Static batching takes {in_batches(LENGTHS, 2)}, continuous batching {in_order(LENGTHS, 2)}."
)

# %% [markdown]
# **Puzzle: two seats** · 4 minutes · easy
#
# For each seat, write the list of the requests that sit there, one after the other, such as
# `[[0, 2, 4, 6], [1, 3, 5, 7]]`. Take as few steps as possible.

# %% tags=["puzzle"]
two_seats = ...
check("two seats", two_seats)

# %%
lesson.say(
    f"Now requests arrive over time, and you know all of it in advance. Six requests, numbered from 0, arrive at the "
    f"beginning of steps {list(ARRIVALS)} and need {list(STAYS)} steps. There are two seats. A request that starts "
    "stays until it is done."
)

# %% [markdown]
# **Puzzle: waiting** · 5 minutes · medium
#
# Write the step in which each request starts (the first step is `1`), so that all of them together wait as few steps as
# possible.

# %% tags=["puzzle"]
starts = ...
check("waiting", starts)

# %%
lesson.say(
    f"Last, the rows of a step. A step computes at most {BUDGET} rows. Sequences that decode take one row each, first. "
    f"A prompt of {PROMPT} rows arrives beside {len(NEIGHBOURS)} neighbours that decode for {list(NEIGHBOURS)} more "
    "steps, and gets the rows that are left: its chunks."
)

# %% [markdown]
# **Puzzle: chunks** · 5 minutes · medium
#
# Return the rows of the prompt in each step, until all of it is computed. The budget is larger than the number of
# neighbours. In the drawing each line is a row of the step, and the prompt is number `0`.


# %% tags=["puzzle"]
def chunks(prompt, neighbours, budget):
    """A list: how many rows of the prompt each step computes.

    neighbours: for how many more steps each of them decodes.
    """
    ...


check("chunks", chunks)

# %%
tiny = lesson.tiny(max_num_seqs=4, max_num_batched_tokens=BUDGET)
params = [SamplingParams(max_tokens=n, ignore_eos=True) for n in (*NEIGHBOURS, 1)]
traces = list(tiny.steps([[65], [66], [67], [68] * PROMPT], params))
prompt_id = max(turn.id for trace in traces for turn in trace.turns)
engine = [turn.rows for trace in traces for turn in trace.turns if turn.id == prompt_id]
assert use("chunks")(PROMPT, NEIGHBOURS, BUDGET) == engine
lesson.say(f"The engine cuts the prompt into the same chunks: {engine}.")

# %% [markdown]
# ## Exercises
#
# **Exercise: padding** · 4 minutes · easy
#
# How many rows of padding does a policy compute? The last batch of `"static"` may have fewer requests than seats.


# %% tags=["exercise"]
def padding(lengths, seats, policy):
    """The rows that finished sequences compute, for the policy "static" or "continuous"."""
    ...


check("padding", padding)

# %% [markdown]
# **Exercise: length** · 5 minutes · medium
#
# Sixteen sequences of the real model, all of the same length, share every decode step. From which length on does a step
# read more bytes of keys and values than of weights? The weights are `lesson.model().model.nbytes`. A position of the
# cache has a key and a value of `head_dim` numbers in `float32`, for each of the `num_kv_heads` heads and `num_layers`
# layers of `lesson.model().config`.

# %% tags=["exercise"]
length = ...
check("length", length)

# %% [markdown]
# **Exercise: enough seats** · 4 minutes · medium
#
# `step_seconds(seats)` is the time of a decode step of the real model by the roofline of a machine that reads `37GB/s`
# and computes `200GFLOP/s`. What is the smallest number of seats that brings as many tokens a second, rounded to whole
# tokens, as any number up to `64`? Compute it, or try numbers.

# %% tags=["exercise"]
enough = ...
check("enough seats", enough)

# %% [markdown]
# ## Read next
#
# - Orca, which forms a new batch at each step:
#   [Yu et al., section three](https://www.usenix.org/conference/osdi22/presentation/yu);
#   chunks of prompts: [Sarathi](https://arxiv.org/abs/2308.16369)
# - the two policies: [policies.py](../tinyinfer/batching/policies.py); admission, room and preemption:
#   [scheduler.py](../tinyinfer/batching/scheduler.py)
# - next lesson: [prefix caching](11_prefix_caching.ipynb), where requests share more than a step
