# %% [markdown]
# # 18 · Pruning
#
# **The idea.** A trained model has more weights than it needs. Half of them can go, if it is the right half: a weight
# counts by what it does to outputs, not by its size. And the weights that stay can take over some of the work of
# those that go.
#
# **Formula.** `‖(w - w') X‖² = (w - w') H (w - w')ᵀ`, the output error of a row, with `H = X Xᵀ`. It is least where
# `H[kept] · (w' - w) = 0`. A sparse matrix: `bits a weight = 1 + share kept · bits of one`.
#
# **After this lesson you can** choose weights by the output error and not by their size, and let the others make up for
# them. You can count what zeros save in bytes, in FLOPs and in time, and say when quantization is the better way.
#
# **You need** Python with NumPy; what a system of linear equations is. [Lesson 05](05_quantization.ipynb) helps: bits a
# weight, and perplexity.
#
# **Not covered:** training a pruned model again, and kernels that multiply sparse matrices faster than dense ones: the
# backend `numba` has one for two kept weights of every four ([pruning](../docs/pruning.md#sparse-matrices)).
#
# *60 minutes · you write 6 lines · no GPU, no account*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np

from tinyinfer.lessons import pruned_models as runs
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.lessons.pruning import usual_guesses
from tinyinfer.pruning.layers import block_influence, rows_around
from tinyinfer.pruning.magnitude import magnitude
from tinyinfer.pruning.patterns import Pattern
from tinyinfer.pruning.sparsegpt import prune_block, sparsegpt
from tinyinfer.pruning.wanda import wanda
from tinyinfer.units import amount

lesson = Lesson("18_pruning")
check, reveal, use = lesson.check, lesson.reveal, lesson.use
half = Pattern(0.5)  # of the weights that are compared, the half with the lowest scores goes

# %% [markdown]
# ## Predict
#
# The oldest way to prune: of each matrix, the smallest half of the weights becomes zero. How much of a matrix is that?

# %%
llm = lesson.model()
tokens = runs.later_text(llm)
plain = runs.perplexity(llm, tokens)
layer = min(2, llm.config.num_layers - 1)
w = runs.matrix_of(llm, layer, "o")
small = runs.weight_error(w, magnitude(w, half))
lesson.say(
    f"In the output matrix of layer {layer}, the smaller half of the weights holds {small**2:.1%} of the sum of all "
    f"squares. The whole model reads {len(tokens) - 1} tokens of Python's documentation with a perplexity of "
    f"{plain:.1f}; without any knowledge it would be {llm.config.vocab_size:,}."
)

# %% [markdown]
# Now the smaller half goes from every matrix of every layer. (Embedding and head stay.) How many times larger is the
# perplexity then?

# %% tags=["prediction"]
guess = ...

# %% tags=["reveal"]
by_size = runs.pruned(llm, "magnitude")
results = {"float32": (32, plain)}  # name -> bits a weight, perplexity
results["half by size"] = runs.bits(by_size, llm), runs.perplexity(by_size, tokens)
counts = {"float32": runs.decoded(llm), "half by size": runs.decoded(by_size)}
del by_size
truth = results["half by size"][1] / plain
reveal(guess, truth, "times", usual_guesses(llm.config.vocab_size, plain))

# %% [markdown]
# ## Count, then time
#
# The library keeps no zeros of such a matrix: a *mask* has a bit for every weight, which says whether it stays, and the
# weights that stay follow one another. Before you look: half of the weights are gone. What happens to the bytes that a
# token reads, to its multiplications, to its time?

# %%
halved = {name: counts[name] for name in ("float32", "half by size")}
rows = [
    [name, amount(one.weight_bytes, "B"), f"{one.flops / 1e6:.1f} M", f"{1000 * one.seconds:.0f} ms", repr(one.text)]
    for name, one in halved.items()
]
columns = ["bytes of weights a token", "FLOPs a token", "time a token", f"after “{runs.BEGINNING}”"]
lesson.table(["", *columns], rows)
dense, sparse = halved.values()
lesson.say(
    f"The layers take {results['half by size'][0]:.2f} bits a weight, where float32 has 32: half of the weights, and "
    f"the mask. A token reads {dense.weight_bytes / sparse.weight_bytes:.2f} times fewer bytes, multiplies as often as "
    f"before, and takes {sparse.seconds / dense.seconds:.1f} times the time."
)

# %% [markdown]
# NumPy has one product of matrices, and it is dense: some outputs at a time get their zeros back, and are multiplied
# with zeros. That saves memory, and costs time. Time falls only where a kernel skips the zeros, or where whole parts
# of the model are gone (below).
#
# And the text? The small weights were not harmless. Look at what reaches them.

# %%
text = runs.windows(llm, 2048, 256)
other = runs.unread_windows(llm, 1024, 256)
name = f"layers.{layer}.o"
read, unread = (runs.inputs_of(llm, part, name) for part in (text, other))
sizes = np.sqrt(np.diag(read))  # of each input the norm over the text
lesson.say(
    f"The largest input of this matrix is {sizes.max() / np.median(sizes):.1f} times the median one, over "
    f"{text.size:,} tokens. A small weight of a large input moves the output more than a large weight of a small one. "
    f"So **Wanda** scores a weight by its size times the norm of its input, and compares the weights of one output."
)

# %% [markdown]
# ## Your lines
#
# Wanda keeps the other weights as they are. But inputs are correlated: where two of them rise and fall alike, one
# weight can do the work of both. So after some weights of an output are gone, *move the others* to where the output
# error is least. `w` is one output's weights, `hessian` is `X Xᵀ` over the text, and `kept` is `True` where a weight
# stays.
#
# The error is least where its slope is zero for every weight that may move: `hessian[kept] @ (new - w)` is zero. The
# weights that go are zero in `new`, so this is one system of linear equations for `new[kept]`. `np.linalg.solve(a, b)`
# solves `a @ x = b`.


# %% tags=["yours"]
def refit(w, hessian, kept):  # (M,), (M, M), (M,) -> (M,)
    """The row with zeros where `kept` is False, and the other weights where the output error is least."""
    ...


check("refit", refit)

# %% [markdown]
# Your lines on a real matrix: once with Wanda's choice of weights, once with the choice of the library's SparseGPT. No
# other weights with the same zeros have a smaller output error, in any output.


# %% tags=["claim"]
mine = use("refit")


def fitted(w, zeros, hessian):
    """All outputs of a matrix, each with its own weights gone, refitted by your lines."""
    return np.array([mine(row, hessian, kept) for row, kept in zip(w.astype(float), zeros != 0, strict=True)])


matrices = {
    "by size": magnitude(w, half),
    "Wanda": wanda(w, read, half),
    "SparseGPT": sparsegpt(w, read.astype(np.float32), half),
}
for method in ("Wanda", "SparseGPT"):
    refitted = fitted(w, matrices[method], read)
    before, after = (runs.output_errors(w, new, read) for new in (matrices[method], refitted))
    assert (after <= before * (1 + 1e-6)).all()
    matrices[f"{method}'s choice, your refit"] = refitted
rows = []
for method, new in matrices.items():
    errors = runs.weight_error(w, new), runs.output_error(w, new, read), runs.output_error(w, new, unread)
    rows.append([method, *(f"{error:.1%}" for error in errors)])
lesson.table(["", "weight error", "output error, text that was read", "output error, other text"], rows)

# %% [markdown]
# Read the first two columns against each other. Removing by size has the smallest weight error that is possible, and
# the largest output error. All better methods have a *larger* weight error: they choose other weights, or move weights
# away from their values, so that outputs stay. A model computes outputs.
#
# SparseGPT does in one pass, for all outputs of a matrix together, nearly what your lines do output by output: it goes
# through the inputs, removes weights, and lets only the inputs still to come make up for them. Even so, all layers take
# it most of a minute. So here each method prunes the first layers only.

# %%
first = 6
rows = []
for method, title in {"magnitude": "by size", "wanda": "Wanda", "sparsegpt": "SparseGPT"}.items():
    model = runs.pruned(llm, method, text, first)
    found = runs.perplexity(model, tokens)
    rows.append([title, f"{found:.1f}", f"{found / plain:.2f} times"])
    del model
lesson.table([f"half of the first {first} layers", "perplexity", f"over {plain:.1f}"], rows)

# %% [markdown]
# ### Whole layers
#
# *Structured* pruning removes whole parts, so that no mask is needed. A layer adds something to the rows that come in.
# Where the rows that leave point in nearly the same direction, the next layer may as well read what came in. The
# **block influence** of a layer is `1` minus the mean cosine between a row before it and the same row after it. Write
# that.


# %% tags=["yours"]
def influence(before, after):  # (T, D), (T, D) -> a number
    """1 - mean over the rows of the cosine between a row before the layer and after it."""
    ...


check("influence", influence)

# %% tags=["claim"]
turns = use("influence")
found = np.array([turns(before, after) for before, after in rows_around(llm.model, text[:2], llm.ops)])
assert np.allclose(found, block_influence(llm.model, text[:2], llm.ops), atol=1e-5)
order = np.argsort(found)
lesson.say(
    f"All {len(found)} layers as the library measures them. The least influence have layers "
    f"{', '.join(str(i) for i in sorted(order[:3]))} ({found[order[0]]:.3f} and more), the most has layer {order[-1]} "
    f"({found[order[-1]]:.2f})."
)

# %% [markdown]
# ## In the library
#
# In SparseGPT, `prune_block` looks for the cheapest weights of some inputs. Then it goes through the inputs: where a
# weight is removed, the weights of the inputs behind it move. `columns` has the weights of an input, one of every
# output, side by side. `factor` is the Cholesky factor of the inverse of `H`: its row `i` says how the inputs behind
# `i` make up for input `i`. So one factor serves all outputs, where your lines solve a system for each. (Wanda's lines
# are not shown: they are an assignment.)

# %%
lesson.source(sparsegpt)
lesson.source(prune_block)
lesson.source(block_influence)

# %% [markdown]
# ## The figure
#
# Is it worth it? Pruning competes with quantization for the same bytes. First half of all layers by Wanda, as floats
# and then in four bits, where a mask and half of the codes stay.

# %%
by_wanda = runs.pruned(llm, "wanda", text[:4])
results["half by Wanda"] = runs.bits(by_wanda, llm), runs.perplexity(by_wanda, tokens)
in_four = runs.rounded(by_wanda, "int4", 32, prune="wanda")
results["half by Wanda, int4"] = runs.bits(in_four, llm), runs.perplexity(in_four, tokens)
del by_wanda, in_four

# %% [markdown]
# Then all weights in fewer bits, and the model without three layers. (The file of this model had been rounded to four
# bits in groups of `32` before, so `int4` here has groups of `64`, which that did not prepare: lesson `05` shows why.)

# %%
for name, bits, group in (("int8", "int8", 32), ("int4", "int4", 64), ("int3", "int3", 64)):
    model = runs.rounded(llm, bits, group)
    results[name] = runs.bits(model, llm), runs.perplexity(model, tokens)
    del model
counts["float32"] = runs.decoded(llm)  # once more, beside those that it is compared with
least, first_ones = sorted(order[:3].tolist()), [0, 1, 2]
shorter = {"3 layers of least influence gone": least, "the first 3 layers gone": first_ones}
for name, gone in shorter.items():
    model = runs.without_layers(llm, gone)
    results[name] = runs.bits(model, llm), runs.perplexity(model, tokens)
    counts[name] = runs.decoded(model)
lesson.table(
    ["", "bits a weight", "perplexity", "over float32"],
    [[name, f"{bits:.2f}", f"{found:,.1f}", f"{found / plain:.2f} times"] for name, (bits, found) in results.items()],
)

# %% tags=["figure"]
figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
colours = {"half": "tab:orange", "int": "tab:blue", "3 layers": "tab:green", "the first": "tab:green"}
for name, (bits, found) in results.items():
    colour = next((colour for start, colour in colours.items() if name.startswith(start)), "0.4")
    axes.plot(bits, found, "o", color=colour)
    above = -22 if name.startswith("3 layers") else 5
    side, place = ("right", (-7, above)) if bits > 25 else ("left", (7, above))
    axes.annotate(name, (bits, found), xytext=place, textcoords="offset points", ha=side, color=colour)
for name, level in {"all weights in float32": plain, "knows nothing": llm.config.vocab_size}.items():
    axes.axhline(level, color="0.5", linestyle=":")
    axes.annotate(name, (10, level), xytext=(0, -12), textcoords="offset points", color="0.4")
axes.set_yscale("log")
axes.set_ylim(plain / 2, 10 * llm.config.vocab_size)
axes.set_xlim(2, 33)
axes.set_xlabel("true bits for each weight of the layers, masks and scales included")
axes.set_ylabel("perplexity (log)")
plt.show()

# %% [markdown]
# ## When it loses
#
# ### Too good to be true
#
# Your refit is exact: on the text that it read, no other weights have a smaller error. Now let it read less text, and
# look at two errors of the same weights: on the text that it read, and on other text. What do you expect when there are
# fewer rows of text than weights to fit?

# %% tags=["loses"]
lengths = (64, 128, 256, 320, 384, 512, 1024, 2048)
curves = {f"{method}, {kind} text": [] for method in ("your refit", "SparseGPT", "Wanda") for kind in ("read", "other")}
some = w[:64]  # outputs
short = runs.windows(llm, max(lengths), 64)  # windows of 64 tokens, so that a few of them make little text
for length in lengths:
    seen = runs.inputs_of(llm, short[: length // 64], f"layers.{layer}.o")
    chosen = wanda(some, seen, half)
    made = {
        "your refit": fitted(some, chosen, seen),
        "SparseGPT": sparsegpt(some, seen.astype(np.float32), half),
        "Wanda": chosen,
    }
    for method, new in made.items():
        curves[f"{method}, read text"].append(runs.output_error(some, new, seen))
        curves[f"{method}, other text"].append(runs.output_error(some, new, unread))
figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
for (label, errors), colour in zip(curves.items(), np.repeat(["tab:red", "tab:blue", "tab:orange"], 2), strict=True):
    axes.plot(lengths, errors, "o-" if "other" in label else "o:", color=colour, label=label)
axes.set_xscale("log", base=2)
axes.set_yscale("log")
axes.set_xlabel(f"rows of text that were read ({w.shape[1] // 2} weights stay in each output)")
axes.set_ylabel("output error (log)")
axes.legend(fontsize="small", ncols=3)
plt.show()
lesson.table(
    ["rows that were read", *curves],
    [[length, *(f"{errors[i]:.1%}" for errors in curves.values())] for i, length in enumerate(lengths)],
)
good, bad = (curves[f"your refit, {kind} text"] for kind in ("read", "other"))
worst = int(np.argmax(bad))
lesson.say(
    f"With {lengths[0]} rows the refit has an error of {good[0]:.1%} on the text that it read: it looks perfect. It is "
    f"worst with {lengths[worst]}: {good[worst]:.1%} on the text that it read, {bad[worst]:.0%} on other text. Wanda, "
    f"which moves nothing, has {curves['Wanda, other text'][worst]:.0%} there. With {lengths[-1]:,} rows the refit is "
    f"down to {bad[-1]:.1%}."
)

# %% [markdown]
# With fewer rows than weights hardly any error is left, by weights that are made for these rows and for no others.
# (`inputs_of` adds a trifle to the diagonal of `H`, so that the equations have one solution even then.) With about as
# many rows as weights there is little choice, however large the weights must be: that is the worst place. Calibration
# is a kind of training, and fits what it reads. SparseGPT adds one percent of the mean of the diagonal of `H` to that
# diagonal before it solves, which keeps weights small, and gives up some of the gain. Wanda reads only the size of each
# input. It has little to gain, and little text is enough for it. Wherever an error is measured on the text that chose
# the weights, ask for another text.
#
# ### The same bytes
#
# Compare two pairs in the figure: half by Wanda with `int8`, and half by Wanda in `int4` with `int3`. Which one of each
# pair would you use?

# %% tags=["loses"]
base = results["float32"][1]


def said(name):
    """A setting's bits and its perplexity, as text."""
    return f"{name}: {results[name][0]:.2f} bits, {results[name][1] / base:.2f} times the perplexity"


lesson.say(
    f"- {said('half by Wanda')}. {said('int8')}.\n- {said('half by Wanda, int4')}. {said('int3')}. "
    f"{said('int4')}.\n\nThe mask alone takes 1 of the {results['half by Wanda, int4'][0]:.2f} bits, and the scales of "
    "the groups stay. At 32 bits a mask is nearly free; at 4 it eats half of what the zeros save."
)

# %% [markdown]
# At many bits, pruning loses by far: eight bits for every weight are half of the bytes, and lose next to nothing. Every
# weight stays, a little wrong. At few bits the order turns. Four bits for the half that counts and none for the other
# half are better than three bits for all, at least with codes by plain rounding. So pruning pays where quantization is
# used up; where a kernel skips zeros; and where the model is trained again.
#
# ### Whole layers, and the first ones

# %% tags=["loses"]
rows = []
for name, one in counts.items():
    times = [f"{one.flops / 1e6:.1f} M", f"{1000 * one.seconds:.0f} ms"]
    rows.append([name, f"{results[name][1]:,.1f}", amount(one.weight_bytes, "B"), *times])
lesson.table(["", "perplexity", "bytes a token", "FLOPs a token", "time a token"], rows)
lesson.say(
    "Three layers fewer save as large a share of the FLOPs as of the bytes, and no kernel is needed to save as much of "
    f"the time. But without the first three the perplexity is {results['the first 3 layers gone'][1]:,.0f}; a model "
    f"that knows nothing has {llm.config.vocab_size:,}."
)

# %% [markdown]
# The first layers turn the rows most, as your `influence` said. No line of this table wins everywhere. Half of the
# weights gone save most bytes, and in NumPy no time. A tenth of the layers gone saves time, and a tenth of the layers'
# bytes. How much of a loss comes back when the model is trained again, is the subject of
# [distillation](../docs/distillation.md).
#
# ## Exercises
#
# **Exercise: break even** · 5 minutes · medium
#
# A matrix has codes of `4` bits in groups of `32`, and each group a scale of `16` bits, which stays. A sparse matrix
# has, besides, a mask of `1` bit a weight, and codes only for the weights that stay. Which share of the weights must go
# at least, so that the sparse matrix is not larger than the dense one?

# %% tags=["exercise"]
share = ...
check("break even", share)

# %% [markdown]
# **Exercise: fewer bytes** · 4 minutes · easy
#
# A layer of the real model has `3_540_096` numbers, and a token reads `134_515_008` in all. Three of the thirty layers
# go. By how many percent do the bytes of a token fall?

# %% tags=["exercise"]
percent = ...
check("fewer bytes", percent)

# %% [markdown]
# **Exercise: cheapest** · 10 minutes · hard
#
# `refit` makes up for any choice. Which choice is best? For one single weight the answer is exact: write a function
# that returns the number of the weight whose removal leaves the least output error, *once the others have made up
# for it*.
# (With `mine`, which is `refit`, and a loop, or with the diagonal of `np.linalg.inv(hessian)` in one line.)


# %% tags=["exercise"]
def cheapest(w, hessian):  # (M,), (M, M) -> a number from 0 to M - 1
    """The weight that costs least."""
    ...


check("cheapest", cheapest)

# %% [markdown]
# ## Read next
#
# - [Frantar & Alistarh, SparseGPT, section three](https://arxiv.org/abs/2301.00774); [Sun et al.,
#   Wanda](https://arxiv.org/abs/2306.11695); [Men et al., ShortGPT](https://arxiv.org/abs/2403.03853)
# - [sparsegpt.py](../tinyinfer/pruning/sparsegpt.py); [sparse.py](../tinyinfer/backends/sparse.py), how a matrix
#   without its zeros lies in memory; all methods with the whole model, measured: [pruning](../docs/pruning.md). The
#   assignment `wanda` (`python -m tinyinfer course start wanda`) lets the real model talk with half of its weights.
# - [lesson 05](05_quantization.ipynb), the other way to fewer bytes; [lesson 17](17_cpu_kernels.ipynb), what a kernel
#   needs to be fast
