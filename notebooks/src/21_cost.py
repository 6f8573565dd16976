# %% [markdown]
# # 21 · Cost
#
# **The idea.** A machine is paid by the hour, and a reader wants tokens. So a token costs what the hour costs, divided
# by the tokens of the hour. More sequences in a batch make more tokens of the same hour, and let each reader wait
# longer. An hour without work is paid, too. And the second machine comes whole.
#
# **Formula.** `cost of a million tokens = money of a month / tokens of the month · 10⁶`
#
# **After this lesson you can** say what a million tokens cost on a machine, and at which latency. You can tell at which
# batch size batching stops paying. You can find the error in a calculator, and compare a machine with an API.
#
# **You need** Python with NumPy, and [02 · Prefill and decode](02_prefill_and_decode.ipynb).
#
# **Not covered:** people, power, data that may not leave the house, and prices of today
# ([API or self-host](../docs/api-or-self-host.md) asks about them).
#
# *40 minutes · you write 5 lines · no GPU, no account*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np

from tinyinfer.lessons import cost_runs as runs
from tinyinfer.lessons.cost import HOURS_A_MONTH, planted, predicted
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.measure.api_bill import bill, read_api
from tinyinfer.measure.break_even import break_even
from tinyinfer.measure.cost import (
    DAYS,
    Price,
    Service,
    Speed,
    Tokens,
    best_within,
    cost_a_day,
    cost_per_million,
    machines,
    owned,
    shares,
)

lesson = Lesson("21_cost")
check, reveal, use = lesson.check, lesson.reveal, lesson.use

# %% [markdown]
# ## Predict
#
# A rented machine costs `2` USD an hour and generates `1000` tokens a second while it works. It works for a quarter of
# the time. What does a million of its tokens cost, in USD?

# %% tags=["prediction"]
guess = ...

# %% tags=["reveal"]
truth, usual = predicted(2.0, 1000, 0.25)
reveal(guess, truth, "USD", usual)

# %% [markdown]
# ## Count, then time
#
# First what makes a machine cheap when it is busy. The model decodes with one request at a time, with two, and so on.
# The clock is simulated: its seconds are those of a machine that reads `37GB/s` and computes `200GFLOP/s`. The price of
# the machine is invented: `0.50` USD an hour. A request has `16` tokens of input, and `6` of output.
#
# Before you look: what do twice as many requests at a time change about the wait for a token, and what about its cost?

# %%
price, tokens = Price(0.50), Tokens(runs.PROMPT, runs.ANSWER)
sizes = (1, 2, 4, 8, 16, 32)
llm = lesson.model("37GB/s,200GFLOP/s", max_num_seqs=max(sizes), max_model_len=64)
speeds = [runs.speed_at(llm, together) for together in sizes]
costs = [runs.full(price, one, tokens) for one in speeds]
rows = []
for one, (read, written) in zip(speeds, costs, strict=True):
    waits = [f"{1e3 * seconds:.1f}" for seconds in (one.ttft_s, one.tpot_s)]
    rows.append([one.name, *waits, f"{one.output_tps:.0f}", f"{read:.3f}", f"{written:.3f}"])
lesson.table(
    ["at a time", "first token after (ms)", "then a token each (ms)", "output tokens a second",
     "USD a million of input", "USD a million of output"],
    rows,
)  # fmt: skip

# %% [markdown]
# Decode reads all weights for each step, and a step of more sequences shares that reading. The input of one request
# already has enough rows to be bound by arithmetic, so a batch saves nothing there. An input token and an output token
# have unlike costs; so APIs have two prices, too.
#
# Now a calculator. Here is its code, as calculators on the web have it (two of them are named at the end). The table
# has what it says of the machine of the prediction, and beside that a month, counted hour by hour. Do you believe it?

# %%
lesson.source(planted)
rows = []
for utilization in (1.0, 0.5, 0.25, 0.1, 0.05):
    hours = np.arange(HOURS_A_MONTH) < utilization * HOURS_A_MONTH  # an hour works, or it is idle
    month = 2.0 * len(hours)
    made = 1000 * 3600 * int(hours.sum())
    rows.append([f"{utilization:.0%}", f"{planted(2.0, 1000, utilization):.4f}", f"{month:.0f}", f"{made / 1e6:.0f}"])
lesson.table(["utilization", "calculator: USD a million", "the month's bill (USD)", "its tokens (million)"], rows)

# %% [markdown]
# ## Your lines
#
# Hold the code against the last two columns, and mend it. `price` is for an hour, `tps` are the tokens a second while
# the machine works, and `utilization` is the share of the time in which it works.


# %% tags=["yours"]
def mended(price, tps, utilization):
    """The money for a million tokens."""
    ...


check("mended", mended)

# %% [markdown]
# Your lines beside the library, which knows nothing of a utilization: it counts machines, requests and hours.

# %% tags=["claim"]
mine = use("mended")
machine = Speed(input_tps=1e15, output_tps=1000)  # hardly any time for the input
service = Service(Price(2.0), machine, Tokens(1, 100))
rows = []
for utilization in (1.0, 0.5, 0.25, 0.1, 0.05):
    _, found = cost_per_million(service, utilization * 24 * service.capacity)
    assert np.isclose(mine(2.0, 1000, utilization), found)
    rows.append([f"{utilization:.0%}", f"{found:.3f}", f"{planted(2.0, 1000, utilization):.4f}"])
lesson.table(["utilization", "USD a million", "calculator"], rows)

# %% [markdown]
# ### A day of whole machines
#
# `requests` come in a day, in every hour as many. A machine takes `capacity` requests an hour, and costs `price` an
# hour. One machine is always there. What does the day cost? (`import math` inside of the function gives you
# `math.ceil`.)


# %% tags=["yours"]
def day(requests, capacity, price):
    """The money for a day."""
    ...


check("day", day)

# %% tags=["claim"]
staircase = use("day")
service = Service(Price(2.0), Speed(2000, 100), Tokens(1000, 50))
rows = []
for requests in (0, 40_000, 86_400, 86_401, 200_000):
    money = staircase(requests, service.capacity, service.price.per_hour)
    assert money == cost_a_day(service, requests)
    each = f"{1e3 * money / requests:.3f}" if requests else "there is none"
    rows.append([f"{requests:,}", machines(service, requests)[0], f"{money:.0f}", each])
lesson.table(["requests a day", "machines", "USD a day", "USD a thousand requests"], rows)

# %% [markdown]
# ## In the library
#
# Where utilization is hidden: the day's money over the day's tokens.

# %%
lesson.source(cost_per_million)
lesson.source(machines)
lesson.source(break_even)

# %% [markdown]
# ## The figure
#
# Left, the sweep from above: latency, throughput and cost at once. Right, a machine beside an API whose prices are an
# example, and no one's offer; the machine's price is set so that a full one is cheaper. Before you look: how often does
# a line cross a staircase?

# %% tags=["figure"]
api = read_api("example")
each = bill(api, service.tokens)
rented = Service(Price(0.7 * each * service.capacity), service.speed, service.tokens)
region = break_even(rented, api)
figure, axes = plt.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
runs.draw_frontier(axes[0], speeds, [written for _, written in costs])
runs.draw_break_even(
    axes[1], lambda requests: staircase(requests, rented.capacity, rented.price.per_hour), each, region
)
plt.show()
lesson.say(
    f"Below {region.first:,.0f} requests a day the API is cheaper, from {region.last:,.0f} on the machines stay "
    "cheaper. Between, the answer changes with each machine that is added."
)

# %% [markdown]
# ## When it loses
#
# ### A batch that is too large
#
# From one row to the next: what does a doubling of the batch save, and what does it cost the reader?

# %% tags=["loses"]
rows = []
for less, more, (_, before), (_, after) in zip(speeds, speeds[1:], costs, costs[1:], strict=False):
    saved, longer = 1 - after / before, more.tpot_s / less.tpot_s - 1
    rows.append([f"{less.name} → {more.name}", f"{saved:.0%}", f"{longer:.0%}"])
lesson.table(["at a time", "output is cheaper by", "each token takes longer by"], rows)

# %% [markdown]
# While a step waits for weights, a further sequence is free. Once it waits for arithmetic, two times the sequences take
# two times as long, and save nothing: there batching stops paying. So ask for the cheapest batch *within a promise*.

# %% tags=["loses"]
rows = []
for slack in (1.05, 1.5, 10):
    promise = slack * speeds[0].tpot_s
    kept = best_within(speeds, tokens, None, promise)
    rows.append([f"{1e3 * promise:.0f}", kept.name, f"{runs.full(price, kept, tokens)[1]:.3f}"])
lesson.table(["at most, for a token (ms)", "cheapest batch", "USD a million of output"], rows)

# %% [markdown]
# ### Days are not even
#
# The same requests, on machines that are bought. Once all hours are alike, and once the day is that of an office. What
# sizes the fleet?

# %% tags=["loses"]
rows = []
for name in ("flat", "office"):
    bought = Service(owned(20_000, 3, 700, 0.20), service.speed, service.tokens, shares(DAYS[name]))
    count = machines(bought, 200_000)[0]
    money = cost_a_day(bought, 200_000)
    rows.append([name, count, f"{200_000 / 24 / bought.capacity:.2f}", f"{money:.2f}"])
lesson.table(["day", "machines", "filled in the mean hour", "USD a day"], rows)

# %% [markdown]
# At night the machines of the office idle, and are paid. An API's bill is the same on both days.
#
# ## Exercises
#
# **Exercise: blend** · 5 minutes · easy
#
# An API takes `0.5` USD for a million input tokens, and `10` USD for a million output tokens. A request has `1000`
# tokens of input and `50` of output. What do a million tokens of such requests cost, input and output together?

# %% tags=["exercise"]
blended = ...
check("blend", blended)

# %% [markdown]
# **Exercise: fleet** · 5 minutes · medium
#
# A machine takes `2000` requests an hour. In the busiest hour `9000` come, in the mean hour `4000`. The machines are
# bought, and one more than needed shall be there, for failures. How many are bought?

# %% tags=["exercise"]
bought_machines = ...
check("fleet", bought_machines)

# %% [markdown]
# **Exercise: stays** · 10 minutes · hard
#
# A machine costs `60` USD a day and takes `120000` requests a day, in even hours. An API takes `0.0008` USD a request.
# From how many requests a day on do the machines *stay* at least as cheap?

# %% tags=["exercise"]
requests_a_day = ...
check("stays", requests_a_day)

# %% [markdown]
# ## Read next
#
# - Two calculators whose month is the price of an hour, times the hours, times the utilization:
#   [one](https://llmtco.com/methodology/), [another](https://induwara.lk/tools/ai-self-hosting-cost-calculator). The
#   first one divides, as you do, where it gives the price of a token.
# - [Pope et al., section four](https://arxiv.org/abs/2211.05102): cost and latency of one model on one frontier;
#   [Kwon et al., section two](https://arxiv.org/abs/2309.06180): why batches are what a service lives on.
# - [cost.py](../tinyinfer/measure/cost.py) and [break_even.py](../tinyinfer/measure/break_even.py), the same with
#   people, spare machines and hours; [API or self-host](../docs/api-or-self-host.md), ten questions before you choose.
#   The assignment `cost_accounting` (`python -m tinyinfer course start cost_accounting`) has you write eight numbers.
# - [lesson 09](09_batching.ipynb), how sequences come into a batch; [lesson 02](02_prefill_and_decode.ipynb), why a
#   batch shares the reading.
