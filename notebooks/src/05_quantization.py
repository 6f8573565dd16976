# %% [markdown]
# # 05 · Quantization
#
# **The idea.** A weight in `float32` takes thirty-two bits. Most of them can go: keep a small whole number for each
# weight, its code, and for each group of weights one scale and one minimum. This lesson rounds a real model until it
# breaks, and finds one result that is too good to be true.
#
# **Formula.** `w ≈ scale · code + minimum` · `bits a weight = bits of a code + 32 / weights in a group`
#
# **After this lesson you can** compute the true size of a quantized model from bits, group size and what is left in
# floats. You can say why fewer bytes may take more time, and why a small weight error does not prove a good model.
#
# **You need** Python with NumPy. Lesson `00` helps: decode reads every weight for each token.
#
# **Not covered:** better codes by calibration (lesson `06`), rounded activations (`07`), rounded caches (`14`).
#
# *50 minutes · you write 8 lines · no GPU, no account*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np

from tinyinfer import SamplingParams
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.lessons.quantization import (
    BEGINNING,
    HEADINGS,
    bits_a_weight,
    bits_by_output,
    changed,
    coarse,
    documentation,
    layer_weights,
    measured,
    predicted,
)
from tinyinfer.lessons.rounding import library_parts, rounded
from tinyinfer.model.weights import QuantScheme
from tinyinfer.quantization.rtn import fit, round_to_nearest, to_codes
from tinyinfer.units import amount
from tinyinfer.views.weights import WeightGrid

lesson = Lesson("05_quantization")
check, reveal, use = lesson.check, lesson.reveal, lesson.use

# %% [markdown]
# ## Predict
#
# A setting called `int4`, groups of `32`, stores a weight as a code of four bits. Thirty-two consecutive weights are a
# group: they share one scale and one minimum, both in `float16`.
#
# How many bits of memory does one weight take, all in all?

# %% tags=["prediction"]
guess = ...

# %% tags=["reveal"]
truth, usual = predicted()
reveal(guess, truth, "bits", usual)

# %% [markdown]
# ## Count, then time
#
# The naive way: one scale and one minimum for a whole matrix. That costs no extra bits worth counting. All matrices of
# all layers are rounded, embedding and head stay as they are. Then two questions: how surprised is the model by a piece
# of Python's documentation (its perplexity, smaller is better), and what does it write itself?

# %%
llm = lesson.model()
tokens = documentation(llm)
results = {}  # (bits, group) -> bits a weight, and what was measured
naive = {
    "float32": (32, lambda w: w),
    "int8, one scale a matrix": (8, coarse(8, per_tensor=True)),
    "int4, one scale a matrix": (4, coarse(4, per_tensor=True)),
    "int4, one scale an output": (bits_by_output(llm.config, 4), coarse(4, per_tensor=False)),
}
for name, (bits, change) in naive.items():
    results[name] = bits, measured(llm, change, tokens)
lesson.table(HEADINGS, [got.row(name, bits) for name, (bits, got) in results.items()])
lesson.say(
    f"A model that knows nothing and gives every token the same chance has a perplexity of {llm.config.vocab_size:,}, "
    f"the size of the vocabulary. Four bits with one scale a matrix come to "
    f"{results['int4, one scale a matrix'][1].perplexity:,.0f}."
)

# %% [markdown]
# Why is four bits a ruin here? The largest weight of a matrix decides the scale of all others. Look at the codes that
# the weights of one matrix get. And what does rounding itself cost in time?

# %%
[matrix] = layer_weights(llm, "layers.0.down")
codes = round_to_nearest(matrix, QuantScheme(4, None, symmetric=False, per_tensor=True)).codes
counts = np.sort(np.bincount(codes.ravel(), minlength=16))[::-1]
seconds = lesson.seconds(lambda: rounded(matrix, 4, 64))
lesson.say(
    f"Of 16 codes, two are enough for {counts[:2].sum() / codes.size:.1%} of the {matrix.size:,} weights: four bits "
    f"are paid, and hardly more than one is used. So a scale has to belong to fewer weights. Rounding this matrix in "
    f"groups takes {1000 * seconds:.0f} ms."
)

# %% [markdown]
# ## Your lines
#
# Round groups of weights to nearest. `w` holds `N` outputs, `G` groups, `g` weights in a group. The smallest weight of
# a group is its minimum and gets code `0`; the largest gets the highest code, `2**bits - 1`; every other weight gets
# the nearest code. Minimum and scale are stored as `float16`. The scale is the distance from the stored minimum to
# the largest weight, divided by the highest code. Choose the codes by the stored minimum and the stored scale. In a
# group of equal weights the scale is `0`, and all codes are `0`.


# %% tags=["yours"]
def round_groups(w, bits):  # (N, G, g) ->
    """codes (N, G, g): whole numbers; scale (N, G, 1), minimum (N, G, 1): float16."""
    ...


check("round_groups", round_groups)

# %% tags=["claim"]
mine = use("round_groups")
names = ["layers.0.qkv", "layers.0.down", "layers.1.gate_up", "layers.1.o"]
size = min(64, llm.config.hidden_size)
for weights in layer_weights(llm, *names):
    groups = weights.reshape(len(weights), -1, size)
    for bits in (4, 3, 2):
        for part, library in zip(mine(groups, bits), library_parts(groups, bits), strict=True):
            assert np.array_equal(part, library)
lesson.say(f"Every code, scale and minimum of {len(names)} real matrices is the library's, with 4, 3 and 2 bits.")

# %% [markdown]
# And back: the weights that codes, scale and minimum stand for. The codes may come as `uint8`. Compute in `float32`.


# %% tags=["yours"]
def restore(codes, scale, minimum):  # (N, G, g), (N, G, 1), (N, G, 1) -> (N, G, g)
    """The weights, in float32."""
    ...


check("restore", restore)

# %% tags=["claim"]
back = use("restore")
yours = measured(llm, lambda w: rounded(w, 4, 64, mine, back), tokens)
results["int4, groups of 64"] = bits_a_weight(4, 64), yours
packed = lesson.model(quantize="int4", group_size=64)
library = float(np.exp(-packed.score(tokens).mean()))
assert np.isclose(yours.perplexity, library, rtol=1e-4), (yours.perplexity, library)
lesson.say(
    f"The whole model rounded by these lines: perplexity {yours.perplexity:.4f}. The library's own `int4` in groups of "
    f"64, with two codes in a byte: {library:.4f}. Before rounding it was {results['float32'][1].perplexity:.4f}."
)

# %% [markdown]
# ## In the library
#
# The same in three functions. `fit` also knows grids around zero, and one scale for a whole matrix; `to_codes` works on
# some rows at a time, so that the float copies stay small.

# %%
lesson.source(round_to_nearest)
lesson.source(fit)
lesson.source(to_codes)

# %% [markdown]
# ## The figure
#
# Now your functions round the whole model, with smaller and smaller groups and with fewer and fewer bits.

# %%
for bits, group in ((4, 32), (4, 16), (3, 32), (2, 32)):
    got = measured(llm, lambda w, bits=bits, group=group: rounded(w, bits, group, mine, back), tokens)
    results[f"int{bits}, groups of {group}"] = bits_a_weight(bits, group), got
lesson.table(HEADINGS, [got.row(name, bits) for name, (bits, got) in results.items()])

# %% tags=["figure"]
figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
for name, (bits, got) in list(results.items())[1:]:
    axes.plot(bits, got.perplexity, "o", color="tab:blue" if "groups" in name else "tab:orange")
    below = -14 if name in ("int4, groups of 32", "int2, groups of 32") else 6
    place = (-8, -5) if "output" in name else (6, below)
    side = "right" if "output" in name else "left"
    axes.annotate(name, (bits, got.perplexity), xytext=place, textcoords="offset points", ha=side)
for name, level in {"float32": results["float32"][1].perplexity, "knows nothing": llm.config.vocab_size}.items():
    axes.axhline(level, color="0.5", linestyle=":")
    axes.annotate(name, (9.9, level), xytext=(0, -13), textcoords="offset points", ha="right", color="0.4")
axes.set_yscale("log")
axes.set_ylim(top=4e6, bottom=5)
axes.set_xlim(2, 10)
axes.set_xlabel("true bits a weight, scales and minimums included")
axes.set_ylabel("perplexity (log)")
plt.show()

# %% [markdown]
# At two bits is the cliff: four codes for a group are too few, and the model knows less than nothing. Here are four
# outputs of one matrix with two bits: what is stored of them, what comes back, and the error.

# %%
WeightGrid.rounded(layer_weights(llm, "layers.0.o")[0], bits=2, group_size=32, outputs=4, inputs=32)

# %% [markdown]
# ## When it loses
#
# ### Too good to be true
#
# Look at the table again. With four bits in groups of `32`, the perplexity is that of `float32`, to the last digit.
# With groups of `16`, the same weights get more bits, and the model is worse. Something is wrong with this experiment.
# Before you run the next cell: what could it be?

# %% tags=["loses"]
shifted = measured(llm, lambda w: np.roll(rounded(np.roll(w, -16, axis=1), 4, 32, mine, back), 16, axis=1), tokens)
plain = results["int4, groups of 32"][1]
lesson.say(
    f"With groups of 32 the weight error is {plain.error:.2%}: rounding changes nothing. Let each group begin 16 "
    f"weights later, with the same number of bits, and the error is {shifted.error:.1%} and the perplexity "
    f"{shifted.perplexity:.1f} instead of {plain.perplexity:.1f}."
)

# %% [markdown]
# The file of this model had been rounded before it was downloaded: to four bits in groups of `32`, so that it is small.
# `float32` here is that file restored. Rounding it again on the same grid finds the same grid, and costs nothing. The
# shifted groups show what four bits cost when nothing was prepared. A measurement that finds no loss at all should make
# you look for the reason.
#
# ### Fewer bytes, more time
#
# A token reads fewer bytes now. Is it faster?

# %% tags=["loses"]
decode = {}
for name, engine in {"float32": llm, "int4, groups of 64": packed}.items():
    traces = list(engine.steps(BEGINNING, SamplingParams(max_tokens=8, ignore_eos=True)))[1:]
    decode[name] = traces[-1].ledger.weight_bytes, sorted(trace.seconds for trace in traces)[len(traces) // 2]
lesson.table(
    ["setting", "bytes of weights a token", "time a token"],
    [(name, amount(read, "B"), f"{1000 * seconds:.0f} ms") for name, (read, seconds) in decode.items()],
)
(many, fast), (few, slow) = decode.values()
lesson.say(
    f"{many / few:.1f} times fewer bytes, {slow / fast:.1f} times the time. NumPy multiplies floats only: for every "
    "token, each code becomes a float again before it is multiplied. Fewer bits are faster where a kernel multiplies "
    "codes as they are."
)

# %% [markdown]
# ### A smaller error, a worse model?
#
# A layer has four kinds of matrices. Round one kind alone, in all layers, to two bits in groups of `32`. The weight
# error is a share of all weights of all layers, so the lines can be compared. An exercise below asks about this table.

# %% tags=["loses"]
by_kind = []
for kind in ("qkv", "o", "gate_up", "down"):
    one = changed(llm, lambda w: rounded(w, 2, 32, mine, back), only=f"layers.*.{kind}")
    by_kind.append((kind, f"{one.error:.1%}", f"{one.perplexity(tokens):,.1f}"))
    del one  # two changed models at a time would take memory for nothing
lesson.table(["rounded", "weight error", "perplexity"], by_kind)

# %% [markdown]
# ## Exercises
#
# **Exercise: fits** · 5 minutes · easy
#
# A weight may take at most `4.5` bits, all in all. Which pairs of bits and group size fit, each with a scale and a
# minimum in `float16`? Bits: `2`, `3`, `4`, `8`. Groups: `16`, `32`, `64`, `128`. Write a list of pairs such as
# `[(2, 16), (2, 32)]`, or compute one.

# %% tags=["exercise"]
fits = ...
check("fits", fits)

# %% [markdown]
# **Exercise: fewer bytes** · 6 minutes · medium
#
# Of the real model, the layers hold `106_168_320` weights in their matrices. The head has `28_311_552` and the norms
# have `35_136`; these stay in `float32`. A decode step reads all of them once. With the layers in `int4`, groups of
# `32`: how many times fewer bytes does it read than with everything in `float32`?

# %% tags=["exercise"]
fewer_bytes = ...
check("fewer bytes", fewer_bytes)

# %% [markdown]
# **Exercise: pair** · 3 minutes · easy
#
# In the last table, find two kinds of matrices: the first one has the smaller weight error, and the model is worse.
# Write their names, such as `("o", "down")`. (The answer is judged by the real model's table. That of a smaller
# model may say something else.)

# %% tags=["exercise"]
pair = ...
check("pair", pair)

# %% [markdown]
# ## Read next
#
# - what rounding is, from the ground up: [Nagel et al., sections two and three](https://arxiv.org/abs/2106.08295);
#   why a small model needs its bits: [Dettmers & Zettlemoyer](https://arxiv.org/abs/2212.09720)
# - [rtn.py](../tinyinfer/quantization/rtn.py), the rounding; [packed.py](../tinyinfer/backends/packed.py), how codes
#   lie in memory and become floats again; all settings measured: [quantization](../docs/quantization.md)
# - next lesson: [speculative decoding](08_speculative_decoding.ipynb), where a model in fewer bits may propose, because
#   another one decides
