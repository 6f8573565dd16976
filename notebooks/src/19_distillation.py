# %% [markdown]
# # 19 · Distillation
#
# **The idea.** A text says of each place which token came next. A larger model says of the same place how likely
# every token was. So a small model, the student, learns from the large one, the teacher: in each row it is compared
# with the teacher's whole distribution. This lesson trains two students on the same few pages. One of them learns
# these pages by heart, and nothing else.
#
# **Formula.** `loss = t² · Σ p · log(p / q)` with `p = softmax(teacher / t)`, `q = softmax(logits / t)`
#
# **After this lesson you can** write the gradient that trains a student and prove it without a framework. You can say
# why the direction of a divergence matters, why a loss of a student that does well suddenly becomes infinite, and what
# a useful student would cost.
#
# **You need** Python and NumPy; what a softmax is, and that training takes steps against a gradient.
#
# **Not covered:** gradients of the layers below the logits (the package's `distillation/adjoints.py`), pruned
# students, text that the student itself writes.
#
# *50 minutes · you write 10 lines · no GPU, no account*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np

from tinyinfer.distillation.losses import forward_kl, log_softmax, reverse_kl, top_k_kl
from tinyinfer.distillation.tape import Tape
from tinyinfer.distillation.training import Training
from tinyinfer.lessons import distillation as course
from tinyinfer.lessons import distillation_runs as runs
from tinyinfer.lessons import divergence_judge as judge
from tinyinfer.lessons import peaks
from tinyinfer.lessons import sure_student as sure
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.units import amount

lesson = Lesson("19_distillation")
check, reveal, use = lesson.check, lesson.reveal, lesson.use

llm = lesson.model()  # SmolLM2-135M, the teacher
text = runs.pages(llm)  # a few pages of Python's documentation

# %% [markdown]
# ## Predict
#
# A teacher knows a hundred tokens, numbered from `0`. Its distribution has two peaks: six of ten times it says a token
# near `40`, four of ten times one near `60`, and hardly ever one between them. A student is too small for two peaks:
# it has a single one, a bell with a place and a width. It is trained until the loss of the formula above, at `t = 1`,
# is as small as it can be.
#
# At which token is the student's peak then?

# %% tags=["prediction"]
guess = ...

# %% tags=["reveal"]
truth, usual = peaks.predicted()
reveal(guess, truth, "", usual)

# %% [markdown]
# In `Σ p · log(p / q)` the *teacher's* probabilities are the weights: every token that the teacher may say has to be
# covered. Turn the divergence round, `Σ q · log(q / p)`, and the *student's* are. Then nothing has to be covered, and
# the student must not say what the teacher never says.

# %%
ends = {
    "forward, Σ p · log(p / q)": peaks.trained_peak(forward_kl, 50),
    "reverse, from 45": peaks.trained_peak(reverse_kl, 45),
    "reverse, from 55": peaks.trained_peak(reverse_kl, 55),
}
peaks.draw(ends)
plt.show()
(covers, wide), *chosen = ends.values()
p = np.exp(peaks.teacher())[0, round(covers)]
q = log_softmax(peaks.bump(covers, wide), 1.0, np)[0].max()
lesson.say(
    f"Forward: the peak at {covers:.0f}, {wide:.1f} wide. The student says this token in {q:.2%} of its answers, the "
    f"teacher in {p:.2%}: **the student's favourite is a token that the teacher hardly ever says.** Reverse: the peak "
    f"at {chosen[0][0]:.0f} or at {chosen[1][0]:.0f}, depending on where the student began, and the other one is lost. "
    "One direction covers, the other one chooses. (From the middle, the reverse direction may also stay between the "
    "two: that is a local minimum, and a worse one.)"
)

# %% [markdown]
# ## Count, then time
#
# Now a real teacher: the model that has just been opened. It reads pages of Python's documentation, and so do its
# students. A small student has a small vocabulary: it knows the first tokens, which a tokenizer has learned first
# because they are frequent. Its last token stands for all others, written `□`.

# %%
lesson.say(f"The pages as a student reads them; it knows {text.share():.0%} of the tokens:")
for page in text.read[8:11]:
    lesson.say(f"{runs.quoted(runs.text_of(llm, page, text.known))}")

# %% [markdown]
# The teacher reads these pages once. Of each row its likeliest tokens are kept, with their probabilities and the sum of
# all others. Here are some rows: what the text says, and what the teacher says.

# %%
said, took = runs.what_the_teacher_says(llm, text)
rows = runs.rows_of(llm, text, said, 8, (6, 16, 26, 36, 46, 56))
lesson.table(["after", "the text says", "the teacher says"], rows)
lesson.say(
    f"{len(said.rows):,} rows in {took:.0f} s. A row takes {said.rows.itemsize} bytes on disk; its logits would be "
    f"{amount(4 * llm.config.vocab_size, 'B')}."
)

# %% [markdown]
# Now a step of a student. Its gradients come from a tape: the model runs as it is written, each operation is noted, and
# the notes are run backward, each with the gradient of one operation. A product `x @ W` of the forward pass leaves
# *two* products for the way back: one for the gradient of `x`, one for that of `W`. How many times as long as a forward
# pass should a whole step take?

# %%
step = runs.step_cost(llm, text, said)
size = runs.training(llm, text, None).parameters.values.size
lesson.say(
    f"A student of {size:,} weights. Its forward pass of {len(said.rows):,} rows leaves {step.notes} notes and costs "
    f"{step.flops:,.0f} FLOPs a row. Counted in products, forward and back are {1 + course.BACKWARD} forward passes. "
    f"By the clock: {step.forward:.2f} s forward, {step.whole:.2f} s with loss and gradients, "
    f"{step.whole / step.forward:.1f} times as long."
)

# %% [markdown]
# The clock may say more than three. A loss over a vocabulary has no products at all, but it reads and writes rows of
# thousands of numbers again and again, and a student as small as this one has little else to do.
#
# ## Your lines
#
# The loss and its gradient. `logits` are the student's and `teacher` the teacher's, a row for each place in the text,
# shape `(R, V)`. Return the mean of `t² · Σ p · log(p / q)` over rows, and its gradient: an array of the shape of
# `logits` that says how the loss changes with each of them. `log_softmax(logits, t, np)` gives the pair `q, log q` at
# temperature `t`.
#
# Raise one logit by a little, `dz`. The `log q` of its own token grows by `dz / t`. The sum that divides all of them
# grows, too, so every `log q` of the row shrinks by `dz / t` times this token's `q`. What does that do to the loss?


# %% tags=["yours"]
def divergence(logits, teacher, t):  # (R, V), (R, V) -> a number, (R, V)
    """The mean over rows of KL(p, q) · t², and its gradient for the student's logits."""
    ...


check("divergence", divergence)

# %% [markdown]
# You were judged without a formula: each logit was moved a little up and down, and the loss was compared with what your
# gradient had promised. Now the same against the library, and then a real student takes its first steps by your lines.
# The teacher is asked live.

# %% tags=["claim"]
mine = use("divergence")
logits, other = judge.rows(5, 300, seed=3)
for t in (1.0, 2.0, 5.0):
    for own, library in zip(mine(logits, other, t), forward_kl(logits, other, t, np), strict=True):
        assert np.allclose(own, library, rtol=1e-6, atol=1e-9)
by_me, by_library = (runs.first_steps(llm, text, loss, 6) for loss in (mine, None))
assert np.allclose(by_me, by_library, rtol=1e-2), (by_me, by_library)
shown = ", ".join(f"{loss:.3f}" for loss in by_me)
lesson.say(f"A new student on half a page, {len(by_me)} steps. Its loss by your lines: {shown}.")

# %% [markdown]
# ### Now break it
#
# Of a row only some tokens are kept. All others together are one more outcome, and its probability `q_rest` stands in
# the loss as `p_rest · log(p_rest / q_rest)`. The way everybody writes it first is `q_rest = 1 - q[tokens].sum()`.
#
# The student below is tiny: its parameters are the logits of a single row. The teacher is sure of two tokens, as it
# often is in the middle of a word. The optimizer is the library's. Watch the student become good.

# %%
naive = sure.descent(sure.one_minus)
shown = [*range(0, len(naive) - 1, 4), len(naive) - 1]
lesson.table(
    ["step", "the rest, exactly", "loss", "largest gradient"],
    [(n, *(f"{value:.2g}" for value in naive[n])) for n in shown],
)
lesson.say(
    f"After {len(naive) - 1} steps it is over, **because the student is good**. A rest of {naive[-1][0]:.1e} "
    f"is a fine number, but below 1 the numbers of `float32` are {np.finfo(np.float32).epsneg:.1e} apart. The named "
    "probabilities were rounded, and so was their sum: it came out as 1, and the loss has the logarithm of 0."
)

# %% [markdown]
# In a long run of this project it took more than a thousand steps until it happened. Adding a small number before the
# logarithm hides it: the loss is finite, and the gradient that of the small number. Find the way that loses no digits.
#
# `log_rest(logits, tokens)` gets the logits of some rows and the tokens that are named in each. It returns for each row
# the *logarithm* of the probability of all other tokens together. `np.logaddexp.reduce(x, axis=1)` is the logarithm of
# a sum of exponentials, and never overflows. `np.put_along_axis(x, tokens, value, axis=1)` writes a value into the
# named places of each row, and the exponential of `-np.inf` is zero. Leave `logits` itself as it is.


# %% tags=["yours"]
def log_rest(logits, tokens):  # (R, V), (R, k) -> (R,)
    """The logarithm of the probability of all tokens but the named ones."""
    ...


check("log_rest", log_rest)

# %% tags=["claim"]
rest = use("log_rest")
row = np.random.default_rng(5).normal(size=(6, 200)).astype(np.float32)
few = sure.some_of(row)
own, library = sure.divergence_with(rest, row, few), top_k_kl(row, few, 1.0, np)
assert np.isclose(own[0], library[0], rtol=1e-4)
assert np.allclose(own[1], library[1], atol=1e-6)
saved = sure.descent(rest)
assert len(saved) == sure.MOST
assert np.isfinite(saved).all()
lesson.say(
    f"On ordinary rows, loss and gradient are the library's. The student that was sure, with the same teacher and the "
    f"same rate: {len(saved)} steps, all finite. Its rest is {saved[-1][0]:.1e}, its teacher's is "
    f"{sure.sure_teacher().rest[0]:.1e}."
)

# %% [markdown]
# ## In the library
#
# The loss with a rest. Look for your sum, and for what stands in place of a logarithm of zero. Then the step's way
# forward and back; and the note that a product leaves, with its two products.

# %%
lesson.source(top_k_kl)
lesson.source(Training.backward)
lesson.source(Tape.linear)

# %% [markdown]
# ## The figure
#
# Two students: the same random weights, the same pages in the same order, the same steps. One is told the next token of
# the text, by cross entropy. One is told what the teacher said. Both read the same pages again and again, and both are
# tested on other pages now and then: how surprised are they by the text there?
#
# Before you run the cells, write down: which one is better on the other pages at the end? Does the curve of each fall
# until the end?

# %%
by_text = runs.train(llm, text, None)
losses = by_text.losses[:, 1]
lesson.say(
    f"Told the text: its loss has fallen from {losses[0]:.2f} to {losses[-1]:.2f} nats a row, in "
    f"{by_text.seconds:.0f} s ({by_text.speed:,.0f} tokens a second)."
)

# %%
by_teacher = runs.train(llm, text, said)
losses = by_teacher.losses[:, 1]
lesson.say(
    f"Told the teacher's distributions: its loss has fallen from {losses[0]:.2f} to {losses[-1]:.2f} nats a row, in "
    f"{by_teacher.seconds:.0f} s ({by_teacher.speed:,.0f} tokens a second)."
)

# %% [markdown]
# The losses on the left are different things, a cross entropy and a divergence, so only their shapes can be compared.
# On the right both are measured alike. The dotted line is no model at all: it counts how often each token stands in the
# pages that are read, adds the best small amount to each count, and says that everywhere.

# %% tags=["figure"]
counting = course.counted(text)
figure = course.draw(by_text, by_teacher, counting)
plt.show()

# %%
both = {"told the text": by_text, "told the distributions": by_teacher}
lesson.table(
    ["", "best on other pages", "at the end", "perplexity", "right on its pages", "right on others"],
    [
        ["counts tokens only", f"{counting:.2f}", f"{counting:.2f}", f"{np.exp(counting):,.0f}", "", ""],
        *(
            [
                *(name, f"{run.best:.2f}", f"{run.last:.2f}", f"{np.exp(run.last):,.0f}"),
                *(f"{runs.right_share(llm, run.training.model, text, read):.0%}" for read in (True, False)),
            ]
            for name, run in both.items()
        ),
    ],
)
lesson.say(
    "Right: the student's likeliest token is the text's.\n\n"
    f"The student that is told the text is at its best after {by_text.tests[by_text.tests[:, 1].argmin(), 0]:.0f} "
    f"rounds, the other one after {by_teacher.tests[by_teacher.tests[:, 1].argmin(), 0]:.0f}. The same pages, the same "
    "steps. A row of the text says one token, and after some rounds only the chance that it was this one is left to "
    "learn. A row of the teacher also says what else might have stood there, and that holds on other pages, too."
)

# %% [markdown]
# ## When it loses
#
# ### A good loss is not a good text
#
# Let the student write, and beside it the teacher.

# %% tags=["loses"]
beginning = "If the value is not"
lesson.table(
    ["", f"after “{beginning}”"],
    [
        (name, runs.quoted(runs.written(llm, model, beginning)))
        for name, model in {
            "told the text": by_text.training.model,
            "told the distributions": by_teacher.training.model,
            "the teacher": llm.model,
        }.items()
    ],
)

# %% [markdown]
# ### The teacher's errors are taught, too
#
# In these rows of the pages that were read, the teacher gives a token more than half of its probability, and the text
# has another one. Often both are possible; sometimes the teacher is wrong. Whom does the student follow?

# %% tags=["loses"]
rows, favourites = runs.mistaken(said, text)
batch = text.reading()
wrong = []
for name, run in both.items():
    q = runs.probabilities(llm, run.training.model, batch, text.known)[rows]
    here = np.arange(len(rows))
    wrong.append((name, f"{q[here, favourites].mean():.1%}", f"{q[here, batch.tokens[rows]].mean():.1%}"))
lesson.table(["", "says the teacher's token", "says the text's token"], wrong)
lesson.say(f"{len(rows)} of {len(batch):,} rows. Where the teacher is wrong, its student is taught wrong.")

# %% [markdown]
# ### What a useful student costs
#
# The students so far hardly beat counting. A language model wants to read about twenty tokens for each of its weights,
# and most read far more. Let a student be as large as its teacher. How long would that take on this machine? The
# teacher's pass over the pages was timed above. A token costs one pass of the teacher, and three of the student.

# %% tags=["loses"]
weights = course.OF_TEACHER
tokens = course.PER_PARAMETER * weights
hours = course.hours(tokens, len(said.rows) / took)
lesson.say(
    f"{tokens:,} tokens for {weights:,} weights, at {len(said.rows) / took:,.0f} rows a second of one forward pass: "
    f"**{hours / 24:,.0f} days** here, and {8 * weights * tokens:.1e} FLOPs. The pages of this lesson are "
    f"{len(batch) / tokens:.1e} of that text."
)

# %% [markdown]
# So one distils where little must be learned: a pruned model gets back what it has lost in minutes or hours, since it
# begins with most of what its teacher knows (`python -m tinyinfer distill`). Or where a poor student is enough:
# a draft model only proposes, and the teacher decides.
#
# ## Exercises
#
# **Exercise: factor** · 4 minutes · easy
#
# A training forgets the `t²`: its loss is the mean of `Σ p · log(p / q)`, at a high temperature. In the next run `t` is
# doubled. How many times smaller is the gradient for the logits there? (At a high temperature both distributions are
# nearly even, and `q - p` is nearly `(logits - teacher) / (t · V)`, if each row of logits has a mean of zero.)

# %% tags=["exercise"]
factor = ...
check("factor", factor)

# %% [markdown]
# **Exercise: once** · 6 minutes · medium
#
# The teacher has `134_515_008` weights, the student `393_536`, and the student goes through the pages `40` times. A
# forward pass costs two FLOPs for each weight and row. How many times fewer FLOPs does the whole training cost if what
# the teacher says is kept after its first pass, instead of asking it again in every round?

# %% tags=["exercise"]
once = ...
check("once", once)

# %% [markdown]
# **Exercise: reverse** · 10 minutes · hard
#
# The other direction, `t² · Σ q · log(q / p)`, the mean over rows, and its gradient. Now the weights `q` move with the
# logits, too. You can test your formula before you hand it in: `judge.differences(lambda x: reverse(x, other, t)[0],
# logits)` moves each logit a little.


# %% tags=["exercise"]
def reverse(logits, teacher, t):  # (R, V), (R, V) -> a number, (R, V)
    """The mean over rows of KL(q, p) · t², and its gradient for the student's logits."""
    ...


check("reverse", reverse)

# %% [markdown]
# ## Read next
#
# - [Hinton, Vinyals and Dean](https://arxiv.org/abs/1503.02531): soft targets, temperature and `t²`, in five pages;
#   [Gu et al., MiniLLM](https://arxiv.org/abs/2306.08543): why the reverse direction may suit small students.
# - [`losses.py`](../tinyinfer/distillation/losses.py), all losses on a page;
#   [`adjoints.py`](../tinyinfer/distillation/adjoints.py) and [`tape.py`](../tinyinfer/distillation/tape.py), how a
#   gradient goes back from the logits; longer runs and their curves: [distillation](../docs/distillation.md).
# - [Lesson 08](08_speculative_decoding.ipynb): what a poor student is good for.
