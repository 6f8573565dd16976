# %% [markdown]
# # 08 · Speculative decoding
#
# **The idea.** A step that computes one row reads every weight for it, and a few more rows in the same step cost
# little more. So a cheap drafter proposes the next tokens, the model checks all of them in one step, and a rule
# decides which of them stay.
#
# **Formula.** `tokens a step = 1 + a + a² + ... + a^k`, for `k` drafts of which each is accepted with probability
# `a`. A draft `x` drawn from `q` is accepted with probability `min(1, p(x)/q(x))`.
#
# **After this lesson you can** write the rule that keeps the model's law exactly, and prove it without a single
# sample. You can say from two numbers, the acceptance and the cost of a row, whether drafts pay.
#
# **You need** Python and NumPy; what a probability distribution (a *law*) over the next token is. [Lesson
# 03](03_kv_cache.ipynb) helps.
#
# **Not covered:** how a draft model is trained, and trees of drafts.
#
# *45 minutes · you write 8 lines · no GPU, no account*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import chisquare

from tinyinfer import SamplingParams
from tinyinfer.lessons import speculative_decoding as runs
from tinyinfer.lessons import verifier_judge as judge
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.speculative.best_coupling import accept_or_replace
from tinyinfer.speculative.prompt_lookup import PromptLookup
from tinyinfer.speculative.verify import verify

lesson = Lesson("08_speculative_decoding")
check, reveal, use = lesson.check, lesson.reveal, lesson.use

plain = lesson.model()  # SmolLM2-135M, one token a step
lookup = lesson.model(speculative="prompt-lookup")  # the same weights, with drafts
copying = plain.chat_prompt([{"role": "user", "content": runs.COPY}])
greedy = SamplingParams(max_tokens=48, ignore_eos=True)

# %% [markdown]
# ## Predict
#
# A drafter proposes `4` tokens. Each one is right with a chance of `80%`, if all before it were right. One step of
# the model checks all four. A wrong draft is replaced by the right token, and the drafts behind it are thrown away;
# if all are right, the last row gives one more token.
#
# How many tokens does a step bring on average?

# %% tags=["prediction"]
guess = ...

# %% tags=["reveal"]
truth, usual = runs.predicted()
reveal(guess, truth, "tokens a step", usual)

# %% [markdown]
# ## Count, then time
#
# The model shall repeat a text. **Prompt lookup** is the cheapest drafter: it looks for the last few tokens earlier
# in the text, and proposes what followed them there. First the counts of both ways. Note what the model writes, too.


# %%
def run(engine, prompt, params=greedy):
    """The new tokens, the counted work, and the seconds of decode: of all steps but the first."""
    before = engine.ledger.copy()
    [sequence] = engine.sequences([prompt], params)
    steps = list(engine.run([sequence]))
    return sequence.new_tokens, engine.ledger - before, sum(step.seconds for step in steps[1:])


tokens, one, one_s = run(plain, copying)
drafted, many, many_s = run(lookup, copying)
assert drafted == tokens  # greedy: token by token the same text
drafts = [many.drafts_proposed, many.drafts_accepted]
lesson.table(
    ["", "steps", "rows", "drafts", "accepted"],
    [
        ["one token a step", one.steps, one.tokens_computed, 0, 0],
        ["prompt lookup", many.steps, many.tokens_computed, *drafts],
    ],
)
lesson.say(f"Both wrote: *{plain.tokenizer.decode(tokens).strip()}*")

# %% [markdown]
# More rows, fewer steps, the same tokens. Write down how many times faster you expect it to be. Then look at the
# clock.

# %%
longer = many_s / (many.steps - 1) / (one_s / (one.steps - 1))
lesson.say(
    f"Steps: {one.steps / many.steps:.1f} times fewer. Decode: {one_s:.2f} s with one token a step, "
    f"{many_s:.2f} s with drafts: **{one_s / many_s:.1f} times faster**. "
    f"A step with drafts took {longer:.1f} times as long."
)

# %% [markdown]
# ## Your lines
#
# Greedy text is easy to check: a draft is right if it is the largest logit. But most text is drawn. The drafter draws
# a token `x` from its law `q`, and the model would have drawn from `p`. You may accept `x` or replace it, and in the
# end the token must follow `p` *exactly*: not nearly, and whatever `q` is.
#
# Write this rule. `verifier(p, q)` gets two arrays of probabilities, one number for each token, and returns two
# arrays:
#
# - `accept`: for each token, the probability that a draft of it is accepted;
# - `replacement`: the law from which the new token is drawn when a draft is rejected.
#
# A token comes out in two ways: as an accepted draft, or as a replacement. As many drafts as possible shall be
# accepted. `np.minimum` and `np.maximum` work on whole arrays.


# %% tags=["yours"]
def verifier(p, q):
    """accept, replacement: two arrays of one number for each token."""
    ...


check("verifier", verifier)

# %% [markdown]
# The claim needs no sample: all ways in which a token can come out are counted, with their probabilities. First
# single tokens, for many pairs of laws. Then whole steps: three tokens, two of them drafted, where each token's law
# depends on the token before it, over all texts that are possible.

# %% tags=["claim"]
mine = use("verifier")
targets, drafters = judge.random_laws(40, 20, seed=1), judge.random_laws(40, 20, seed=2)
single = max(np.abs(judge.law(mine, p, q) - p).max() for p, q in zip(targets, drafters, strict=True))
assert single <= judge.TOLERANCE
target, drafter = judge.random_laws(4, 4, seed=3), judge.random_laws(4, 4, seed=4)
right, found = judge.chain_law(target, 3), judge.step_law(mine, target, drafter, 2)
whole = max(abs(found[text] - right[text]) for text in right)
assert whole <= judge.TOLERANCE
lesson.say(
    f"{len(targets)} pairs of laws over {targets.shape[1]} tokens: the largest error is {single:.1e}. "
    f"All {len(right)} texts of a step: {whole:.1e}. Speculation does not approximate."
)

# %% [markdown]
# ### The real model with your rule
#
# Your rule in the engine: the model's own first layers draw three drafts a step, your rule judges them. The library's
# own rule for drawn drafts, `verification="best-coupling"`, does the same with the same random numbers. The tokens
# must be the same.

# %%
opening = "She opened the door and saw a"
drawn = SamplingParams(max_tokens=14, ignore_eos=True, temperature=0.8, seed=1)
layers = max(1, plain.config.num_layers - 2)
texts = {}
for name, rule in {"the library's rule": None, "your rule": mine}.items():
    inner = runs.layers_drafter(plain, layers, 3)
    texts[name] = runs.drafted(plain, inner, opening, drawn, rule)
own, theirs = texts["your rule"], texts["the library's rule"]
assert own.new_tokens == theirs.new_tokens
counts = own.speculation
lesson.say(
    f"*{opening}{plain.tokenizer.decode(own.new_tokens)}*: {len(own.new_tokens)} tokens, all the same; "
    f"{counts.accepted} of {counts.proposed} drafts were accepted."
)

# %% [markdown]
# ### Now break it
#
# A rule that looks right, and that people write: accept what the model finds likelier than the drafter does; draw
# everything else anew from `p`. Here it writes with the real model. Does the text tell you anything?

# %%
inner = runs.layers_drafter(plain, layers, 3)
broken = runs.drafted(plain, inner, opening, drawn, judge.likelier)
lesson.say(f"*{opening}{plain.tokenizer.decode(broken.new_tokens)}*")

# %% [markdown]
# One text says nothing about a law. So draw very often: the next token after the opening above. `p` is what the model
# says after the whole sentence, over the likeliest tokens. `q` is a poor drafter: the model again, but it has seen
# only the last two tokens.

# %%
DRAWS = 20_000
best, p, q = runs.next_laws(plain, opening, size=20, words=2)
rules = {"your rule": mine, "the broken rule": judge.likelier}
samples = {name: runs.drawn_counts(rule, p, q, DRAWS, seed=8) for name, rule in rules.items()}
rows = []
for name, rule in rules.items():
    chance = chisquare(samples[name], DRAWS * p).pvalue
    exact = judge.law(rule, p, q)
    shares = [f"{judge.accepted_share(rule, p, q):.1%}", f"{np.abs(exact - p).sum() / 2:.1%}"]
    rows.append([name, *shares, f"{chance:.2g}"])
headings = ["drafts accepted", "probability at other tokens", "chi-square: chance to be right"]
lesson.table(["", *headings], rows)
exact = judge.law(judge.likelier, p, q)
most = int(np.abs(exact / p - 1).argmax())
name = plain.tokenizer.decode([best[most]]).strip()
lesson.say(
    f"The broken rule writes *{name}* in {exact[most]:.1%} of the texts, the model in {p[most]:.1%}. "
    "**A wrong law is not garbled:** each single text is one that the model could have written. "
    "Only the exact law, or very many draws, find the mistake."
)

# %% [markdown]
# ## In the library
#
# The rule for one drawn draft. `lacking` is what `q` has too little of.

# %%
lesson.source(accept_or_replace)

# %% [markdown]
# That rule is not the library's default, because it has a price: the text depends on the drafts. The same seed gives
# another text with another drafter, or with one draft more, although its law is the same. The default,
# `verification="same-text"`, accepts a draft only if it is the token that plain decoding with this seed would choose.
# It accepts some drawn drafts less, and a seed keeps its one text. Greedy, both are the same.

# %%
lesson.source(verify)
lesson.source(PromptLookup.lookup)

# %% [markdown]
# ## The figure
#
# When do drafts pay? A step with `k` drafts brings `1 + a + ... + a^k` tokens and costs a pass of `1 + k` rows. The
# price of rows is a matter of the machine, so measure it on yours.

# %%
costs = runs.row_costs(plain, (1, 2, 3, 4, 5, 7, 9, 16, 32, 48, 80, 144))
relative = [f"{seconds / costs[1]:.1f}" for seconds in costs.values()]
lesson.table(["rows of a pass", *map(str, costs)], [["in passes of one row", *relative]])

# %% [markdown]
# On the left, both rules: how often each token came out, as a part of how often it should. On the right, where drafts
# are worth their rows on this machine (blue), for one sequence and for sixteen together.

# %% tags=["figure"]
names = [plain.tokenizer.decode([token]).strip() for token in best]
figure = runs.draw(names, p, samples, costs)
plt.show()

# %% [markdown]
# ## When it loses
#
# Open text: the newest tokens never stood together before, or something else followed them.

# %% tags=["loses"]
question = plain.chat_prompt([{"role": "user", "content": "What is gravity?"}])
short = SamplingParams(max_tokens=32, ignore_eos=True)
tokens, one, one_s = run(plain, question, short)
drafted, many, many_s = run(lookup, question, short)
assert drafted == tokens
drafts = [many.drafts_proposed, many.drafts_accepted]
lesson.table(
    ["open text", "steps", "rows", "drafts", "accepted", "decode"],
    [
        ["one token a step", one.steps, one.tokens_computed, 0, 0, f"{one_s:.2f} s"],
        ["prompt lookup", many.steps, many.tokens_computed, *drafts, f"{many_s:.2f} s"],
    ],
)
lesson.say(f"The same text, and {many.tokens_computed / one.tokens_computed - 1:.0%} more rows for nearly nothing.")

# %% [markdown]
# Low acceptance, and many sequences. The usual advice: sixteen sequences share the read of the weights already, so
# the rows of drafts are not nearly free any more, and drafts cannot pay. Does it hold on your machine? Say what you
# expect, then compute it from the rows that you have measured.

# %% tags=["loses"]
numbers = (1, 2, 3, 4, 8)
worths = [
    [f"{rate:.0%}", str(count), *(f"{runs.worth(costs, rate, n, count):.2f}" for n in numbers)]
    for rate in (0.5, 0.8)
    for count in (1, 16)
]
lesson.table(["acceptance", "sequences", *(f"drafts: {n}" for n in numbers)], worths)
added = [(costs[n] - costs[n - 1]) / costs[1] for n in (3, 4, 5)]
lesson.say(
    "Times faster than without drafts; below 1.00 the drafts lose.\n\n"
    f"In passes of one row, the third row costs {added[0]:.2f}, the fourth {added[1]:.2f}, "
    f"the fifth {added[2]:.2f}."
)

# %% [markdown]
# At an acceptance of one half, long drafts lose everywhere. The usual advice is right about long drafts, where the
# rows of sixteen sequences are real arithmetic. But NumPy has a price list of its own: up to three rows are
# multiplied one by one, and from four on BLAS first copies every weight. One sequence pays for that copy with its
# fourth row. Sixteen have paid for it already, and so a few drafts for each may gain more than for one.
#
# ## Exercises
#
# **Exercise: agree** · 4 minutes · easy
#
# Three tokens. The model's law is `p = (0.5, 0.3, 0.2)`, the drafter's `q = (0.2, 0.3, 0.5)`. Which share of the
# drafts is accepted by the right rule?

# %% tags=["exercise"]
share = ...
check("agree", share)

# %% [markdown]
# **Exercise: length** · 6 minutes · medium
#
# Drafts that cost nothing but their rows, each accepted with probability `0.6`. A pass of `n` rows takes
# `np.interp(n, list(runs.COSTS), list(runs.COSTS.values()))` passes of one row: the table that the library starts
# from. Which number of drafts, from `0` to `8`, brings the most tokens per cost?

# %% tags=["exercise"]
number = ...
check("length", number)

# %% [markdown]
# **Exercise: worst** · 8 minutes · medium
#
# A drafter as bad as can be: it proposes `4` random tokens in every step, and all are wrong. The model writes `24`
# tokens, greedy. Answer with a pair: how many of the tokens change, and how many steps are needed (the one of the
# prompt included)? To try: `runs.drafted(plain, runs.RandomDrafter(plain.config.vocab_size), opening,
# SamplingParams(max_tokens=24))` gives a sequence, whose `new_tokens` you can compare; `plain.ledger.steps` counts.

# %% tags=["exercise"]
outcome = ...
check("worst", outcome)

# %% [markdown]
# ## Read next
#
# - [Leviathan, Kalman and Matias, section 2.3 and appendix A](https://arxiv.org/abs/2211.17192): the rule that you
#   wrote, and its proof.
# - [`speculative/verify.py`](../tinyinfer/speculative/verify.py): the rule that keeps a seed's text, and how much it
#   accepts. [`speculative/draft_length.py`](../tinyinfer/speculative/draft_length.py): how the engine learns how many
#   drafts pay.
# - [Lesson 09](09_batching.ipynb): the other way to give a read of the weights more rows.
