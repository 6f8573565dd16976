# %% [markdown]
# # 17 · CPU kernels
#
# **The idea.** Decode waits for memory, so a product of weights and a vector should be as fast as the weights can be
# read. Eight bits a weight are a quarter of the bytes of `float32`. What a loop gets of that depends on the order in
# which it multiplies, and on the order of the numbers in memory. This lesson changes both, step by step, and asks at
# each step what the loop waits for.
#
# **Formula.** `seconds ≥ (codes + scales) / read bandwidth` · `y[n] = Σ_g scale[n,g] · Σ_k code[n,k] · x[k]`
#
# **After this lesson you can** say what a loop waits for, by its bytes and a measurement. You can lay a matrix out so
# that a processor's vectors fit it, and write the loop in Python for a compiler. You can say why several rows at once
# need another kind of arithmetic.
#
# **You need** Python with NumPy, and [05 · Quantization](05_quantization.ipynb). The package `numba` compiles; it comes
# with the notebooks.
#
# **Not covered:** attention in compiled code, several operations in one loop, and graphics cards.
#
# *60 minutes · you write 11 lines · no GPU, no account*

# %% tags=["setup"]
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np

from tinyinfer.backends.cpu import default_threads, use_blas_threads
from tinyinfer.backends.packed import Packed
from tinyinfer.lessons import kernel_found as found
from tinyinfer.lessons.compiling import njit, numba, prange
from tinyinfer.lessons.cpu_kernels import ADDED, GROUP, READ, predicted
from tinyinfer.lessons.kernel_dots import dot, dot_rows, four_rows, has_instruction, with_fours, with_rounded
from tinyinfer.lessons.kernel_ladder import float_rows
from tinyinfer.lessons.kernel_products import OwnProducts, decoded, halved, in_turn, packed, products
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.measure.roofline import measure_bandwidth
from tinyinfer.units import amount

lesson = Lesson("17_cpu_kernels")
check, reveal, use = lesson.check, lesson.reveal, lesson.use

# %% [markdown]
# ## Predict
#
# `SmolLM2` has `134_479_872` weights in its matrices. Each is a code of one byte, and each group of `32` has a scale in
# `float16`. A machine reads `37 GB/s` and does `200 GFLOP/s`. How many tokens a second can it decode at most?

# %% tags=["prediction"]
guess = ...

# %% tags=["reveal"]
truth, usual = predicted()
reveal(guess, truth, "tokens a second", usual)

# %% [markdown]
# ## Count, then time
#
# The real model in `int8`, on one thread. `rows` holds its matrices as a textbook writes them: codes `(N, M)` for `N`
# outputs and `M` inputs, scales `(N, G)` for `G` groups of inputs. First the limit: how fast does this machine read?

# %%
llm = lesson.model(backend="numpy", threads=1, quantize="int8", quantize_head="int8", group_size=GROUP)
use_blas_threads(1)
threads = min(default_threads(), numba.config.NUMBA_NUM_THREADS)
bandwidths = [measure_bandwidth(count, 0.4, perf_counter) for count in (1, threads)]
bandwidth = bandwidths[0]
rows = products(llm)
rates = {}  # kernel -> bytes of the format that it gets through in a second
lesson.say(found.promise(rows.nbytes, bandwidths, threads))

# %% [markdown]
# Now the formula as a loop, in Python. It gets the first outputs of the first matrix only.


# %%
def textbook(codes, scale, x, y):  # (N, M), (N, G), (M,), (N,) ->
    """Output by output: a dot product along the inputs, group by group."""
    N, M = codes.shape
    G = scale.shape[1]
    for n in range(N):
        total = np.float32(0)
        for g in range(G):
            part = np.float32(0)
            for k in range(g * M // G, (g + 1) * M // G):
                part += codes[n, k] * x[k]
            total += scale[n, g] * part
        y[n] = total


few = rows.first(outputs=16)
seconds = in_turn({"loop": (few, textbook)})["loop"]
rates["a loop in Python"] = few.nbytes / seconds
lesson.say(found.python_said(seconds, rows.nbytes, few.nbytes))

# %% [markdown]
# NumPy has no product of codes and floats. So its way is: make floats of all codes, multiply them by their scales, and
# let BLAS do the product. Every weight is read as one byte, written as four, and read and written again.


# %%
def by_numpy(codes, scale, x, y):  # (N, M), (N, G), (M,), (N,) ->
    w = codes.astype(np.float32)  # (N, M)
    groups = w.reshape(*scale.shape, -1)  # (N, G, inputs of a group): the same memory
    groups *= scale[:, :, None]
    np.dot(w, x, out=y)


numpy_seconds = in_turn({"numpy": (rows, by_numpy)}, rounds=3)["numpy"]
rates["NumPy: floats, then BLAS"] = rows.nbytes / numpy_seconds
lesson.table(*found.beside(rates, bandwidth))

# %% [markdown]
# And now the compiler. numba translates the loop that you saw above into machine code, types and all. It reads each
# byte once and writes nothing but `y`, so by the formula it runs at the read bandwidth. Before you run the cell: does
# it?

# %%
compiled = njit(textbook)
rows.run(compiled)  # compiles at the first call
seconds = in_turn({"compiled": (rows, compiled)}, rounds=3)["compiled"]
rates["compiled, textbook order"] = rows.nbytes / seconds
lesson.table(*found.beside(rates, bandwidth))
lesson.say(found.compiled_said(*list(rates.values())[:3], bandwidth))

# %% [markdown]
# What does the loop wait for, if not for memory? Each `part += ...` needs the sum before it, so the additions of a
# group stand in a queue, one behind the other. A vector instruction could do sixteen at once, but that would be sixteen
# sums: another order of additions, which rounds differently, so a compiler may not choose it by itself. You can permit
# it.

# %%
reordered = njit(fastmath=True)(textbook)
rows.run(reordered)
both = in_turn({"as written": (rows, compiled), "may reorder": (rows, reordered)}, rounds=3)
rates["textbook, may reorder"] = rows.nbytes / both["may reorder"]
lesson.say(found.fastmath_said(*both.values()))

# %% [markdown]
# ## Your lines
#
# A sum along the inputs is the wrong thing to put into a vector. Sums of *different outputs* never have to be added to
# each other: give each lane of the vector an output of its own. Then a vector instruction needs, at one time, the codes
# of many outputs and *one* input. In the textbook's order these lie a whole row apart.
#
# So first the numbers move. Cut the outputs into `J` blocks of `64`; inside a block, input after input, the `64` codes
# of an input side by side. Element `[j, k, r]` of the result is the code of output `64·j + r` and input `k`. `N` is a
# multiple of `64`, and the numbers have to lie in memory in the new order. Scales are packed by the same function.


# %% tags=["yours"]
def in_blocks(codes):  # (N, M) -> (J, M, 64)
    """Blocks of 64 outputs, inside a block input by input."""
    ...


check("in blocks", in_blocks)

# %% tags=["claim"]
pack = use("in blocks")
blocks = packed(rows, pack)
for part in blocks.parts:
    library = part.weight.codes  # unsigned bytes: code + 128
    assert isinstance(part.weight, Packed)
    assert np.array_equal(part.codes.view(np.uint8) ^ 128, library)
lesson.say(f"All {len(blocks.parts)} matrices, {amount(blocks.held, 'B')}, lie byte by byte as the library's own.")

# %% [markdown]
# Now the loops. For each block and each group: `64` sums that begin at `0`; then input by input, with the innermost
# loop over the `64` outputs, add `codes[j, k, r] * x[k]` to the sum of output `r`. At the end of a group, each of its
# sums times its scale, `scale[j, g, r]`, is added to `y[j, r]`. Before the call `y` holds anything. Write plain loops.
# `check` first runs them in Python, where an index that is out of range is an error, and then compiles them.


# %% tags=["yours"]
def block_product(codes, scale, x, y):  # (J, M, 64), (J, G, 64), (M,), (J, 64) ->
    """y = W x, block by block: 64 sums side by side."""
    J = len(codes)
    G = scale.shape[1]
    size = codes.shape[1] // G  # inputs of a group
    part = np.empty(64, np.float32)  # the sums of a group
    ...


check("block product", block_product)

# %% tags=["claim"]
mine = njit(fastmath=True)(use("block product"))
begun = perf_counter()
blocks.run(mine)
first_call = perf_counter() - begun
rows.run(compiled)
assert blocks.furthest(rows) < 1e-4, "not the products of the textbook"
both = in_turn({"textbook": (rows, compiled), "blocks": (blocks, mine)})
rates["blocks of 64 outputs"] = rows.nbytes / both["blocks"]
lesson.table(*found.beside(rates, bandwidth))
lesson.say(found.order_said(*both.values(), rows.nbytes, bandwidth))

# %% [markdown]
# ### The real model
#
# Your kernel goes into the library's engine: each product of a decode step is yours. The rest of the step, and the
# prompt, stay as they were.

# %% tags=["claim"]
text = "The capital of France is"
theirs = decoded(llm, text, 10)
yours = decoded(llm, text, 10, OwnProducts(llm.ops, mine, blocks.parts))
assert yours.tokens == theirs.tokens, f"{yours.text!r} is not {theirs.text!r}"
lesson.table(
    ["products by", "weights read for a token", "time of a token", "text"],
    [
        [name, amount(run.weight_bytes, "B"), f"{1e3 * run.seconds:.0f} ms", repr(run.text)]
        for name, run in (("NumPy", theirs), ("your kernel", yours))
    ],
)

# %% [markdown]
# ## In the library
#
# The library lays its quantized matrices out in the same way, whatever their bits, for NumPy already:

# %%
lesson.source(Packed.pack)

# %% [markdown]
# Its compiled kernels (`--backend numba`) go on from where you are. Here are next steps, one by one.
#
# ### The type of a sum
#
# Python has one kind of float, of eight bytes, and NumPy makes arrays of it where nothing else is said. In a kernel
# that is a decision. The same loops with `np.empty(64)` for the sums:


# %%
@njit(fastmath=True)
def wider(codes, scale, x, y):  # (J, M, 64), (J, G, 64), (M,), (J, 64) ->
    size = codes.shape[1] // scale.shape[1]
    part = np.empty(64)  # float64
    for j in range(len(codes)):
        y[j] = 0
        for g in range(scale.shape[1]):
            part[:] = 0
            for k in range(g * size, g * size + size):
                for r in range(64):
                    part[r] += codes[j, k, r] * x[k]
            for r in range(64):
                y[j, r] += scale[j, g, r] * part[r]


blocks.run(wider)
both = in_turn({"four bytes": (blocks, mine), "eight bytes": (blocks, wider)})
lesson.say(found.wider_said(*both.values()))


@njit
def times(a, b):
    return a * b


_ = times(np.int8(2), np.int8(2)), times(np.int32(2), np.float32(2))
lesson.say(
    "Whole numbers have the same trap. What numba makes of a product of two types: "
    + ", ".join(f"`{signature}`" for signature in times.nopython_signatures)
)

# %% [markdown]
# ### Fewer trips of the sums
#
# The `64` sums would fit into four registers of the largest kind. But they are an array, and the compiler cannot know
# that no other array lies over it. So for every input it reads and writes the sums, in the nearest cache. Two inputs at
# a time halve these trips.


# %%
@njit(fastmath=True)
def pairs(codes, scale, x, y):  # (J, M, 64), (J, G, 64), (M,), (J, 64) ->
    size = codes.shape[1] // scale.shape[1]
    part = np.empty(64, np.float32)
    for j in range(len(codes)):
        y[j] = 0
        for g in range(scale.shape[1]):
            part[:] = 0
            for k in range(g * size, g * size + size, 2):
                for r in range(64):
                    part[r] += codes[j, k, r] * x[k] + codes[j, k + 1, r] * x[k + 1]
            for r in range(64):
                y[j, r] += scale[j, g, r] * part[r]


blocks.run(pairs)
both = in_turn({"one": (blocks, mine), "two": (blocks, pairs)}, rounds=9)
rates["two inputs at a time"] = rows.nbytes / both["two"]
lesson.say(found.pairs_said(*both.values()))

# %% [markdown]
# ### Scales of two bytes
#
# The format has scales in `float16`. Ours are `float32` so far, because numba knows no `float16`: more bytes than the
# format promises. But bits are only bits. A number of two bytes, moved by `13` places, has its exponent and its
# fraction where a `float32` has them. Only the exponent counts from another zero, and a factor of `2**112` mends that.
# (A sign would be in the wrong place; scales have none.) Here are the loops over one block, as a function of their own.
# By the bytes: how much faster can it be, at most?


# %%
@njit(fastmath=True)
def half_block(codes, bits, x, part, word, y):  # (M, 64), (G, 64), (M,), (64,), (64,), (64,) ->
    size = len(codes) // len(bits)
    scale = word.view(np.float32)  # the same memory, read as floats
    y[:] = 0
    for g in range(len(bits)):
        part[:] = 0
        for k in range(g * size, g * size + size, 2):
            for r in range(64):
                part[r] += codes[k, r] * x[k] + codes[k + 1, r] * x[k + 1]
        for r in range(64):
            word[r] = np.int32(bits[g, r]) << np.int32(13)
        for r in range(64):
            y[r] += np.float32(2.0**112) * scale[r] * part[r]


@njit
def halves(codes, bits, x, y):  # (J, M, 64), (J, G, 64), (M,), (J, 64) ->
    part, word = np.empty(64, np.float32), np.empty(64, np.int32)
    for j in range(len(codes)):
        half_block(codes[j], bits[j], x, part, word, y[j])


small = halved(blocks)
small.run(halves)
assert small.furthest(rows) < 1e-4, "not the products of the textbook"
both = in_turn({"float32": (blocks, pairs), "float16": (small, halves)}, rounds=9)
rates["scales in float16"] = rows.nbytes / both["float16"]
lesson.say(found.halves_said(blocks.held / small.held, both["float32"] / both["float16"]))

# %% [markdown]
# ### Threads
#
# Blocks do not know of each other, so threads can share them out. The range becomes a `prange`, and each block has sums
# of its own. All threads read from the same memory. What can they gain at most, by the bandwidths?


# %%
@njit(parallel=True)
def threaded(codes, bits, x, y):  # (J, M, 64), (J, G, 64), (M,), (J, 64) ->
    for j in prange(len(codes)):
        part, word = np.empty(64, np.float32), np.empty(64, np.int32)
        half_block(codes[j], bits[j], x, part, word, y[j])


numba.set_num_threads(threads)
small.run(threaded)
assert small.furthest(rows) < 1e-4, "not the products of the textbook"
both = in_turn({"one": (small, halves), "all": (small, threaded)}, rounds=9)
one, many = (rows.nbytes / seconds for seconds in both.values())
rates[f"all threads: {threads}"] = many
lesson.say(found.threads_said(one, many, tuple(bandwidths), threads))

# %% [markdown]
# ### Several rows
#
# When several sequences decode together, each weight is read once for all their rows. As long as memory is the limit,
# more rows should cost nothing. But each row has products of its own.

# %%
ROWS = (1, 2, 4, 8, 16)
by_rows = njit(fastmath=True)(float_rows)
blocks.of_rows(2).run(by_rows)
several = {"floats": in_turn({count: (blocks.of_rows(count), by_rows) for count in ROWS}, rounds=4)}
lesson.table(*found.rows_table(several))

# %% [markdown]
# Another arithmetic needs fewer instructions. Round the activations as well, to one byte each, a step for every group:
# then the sum of a group is one of whole numbers, exact in any order. And many processors have an instruction for that:
# `64` products of bytes, added four by four to `16` sums. numba does not find it in a plain loop. So the library writes
# it down as an operation of its own, on vectors of sixteen numbers, whose sums are no array and stay in registers:

# %%
lesson.source(dot)
lesson.source(dot_rows)

# %% [markdown]
# The formula is another one now, since activations are rounded. But the sums of whole numbers are exact, and they are
# the same for one row and for many. So a batch changes no text, and the time of one row and of many can be compared.

# %%
fours = with_fours(blocks)
with_rounded(fours.of_rows(2)).run(dot_rows)
several["whole numbers"] = in_turn({count: (with_rounded(fours.of_rows(count)), dot_rows) for count in ROWS})
lesson.table(*found.rows_table(several))
lesson.say(found.rows_said(several["floats"], several["whole numbers"], 4, has_instruction()))

# %% [markdown]
# The library goes one step further: it loads each vector of codes once for four rows, whose sums are all in registers.

# %%
lesson.source(four_rows)

# %% [markdown]
# ## The figure
#
# Left: every kernel of this lesson, beside what memory gives. The scale is logarithmic. Right: what more rows gain.

# %% tags=["figure"]
found.draw(rates, bandwidths, several)
plt.show()

# %% [markdown]
# ## When it loses
#
# ### A short answer
#
# The compiler takes its time before the first token. When is it paid back?

# %% tags=["loses"]
lesson.say(found.compile_said(first_call, numpy_seconds, rows.nbytes / rates["blocks of 64 outputs"]))

# %% [markdown]
# ### A long prompt
#
# A prompt has many rows. Here is one matrix of the model with all of them: by the kernel for several rows, and by
# NumPy's way, which makes floats once and hands them to BLAS.

# %% tags=["loses"]
PROMPT = 256
as_rows, as_blocks = (some.named("layers.0.gate_up").of_rows(PROMPT) for some in (rows, blocks))


def prompt_by_numpy(codes, scale, x, y):  # (N, M), (N, G), (T, M), (T, N) ->
    w = codes.astype(np.float32)  # (N, M)
    groups = w.reshape(*scale.shape, -1)  # (N, G, inputs of a group)
    groups *= scale[:, :, None]
    np.matmul(x, w.T, out=y)


both = in_turn({"kernel": (as_blocks, by_rows), "numpy": (as_rows, prompt_by_numpy)})
lesson.say(found.prompt_said(PROMPT, *both.values()))

# %% [markdown]
# ### Sums that threads share
#
# One line of the kernel with threads stands at another place: the arrays of sums are made once, outside of the
# `prange`, and not in it. It compiles and runs, and nothing warns. What becomes of the products?


# %% tags=["loses"]
@njit(parallel=True)
def shared(codes, bits, x, y):  # (J, M, 64), (J, G, 64), (M,), (J, 64) ->
    part, word = np.empty(64, np.float32), np.empty(64, np.int32)
    for j in prange(len(codes)):
        half_block(codes[j], bits[j], x, part, word, y[j])


small.run(shared)
lesson.say(found.shared_said(small.furthest(rows), threads))

# %% [markdown]
# ## Exercises
#
# **Exercise: place** · 4 minutes · easy
#
# A matrix of `960` outputs and `576` inputs lies in blocks, an array of shape `(15, 576, 64)`. The array is one long
# row of bytes. At which of them, counted from `0`, is the code of output `200` and input `10`?

# %% tags=["exercise"]
answer = ...
check("place", answer)

# %% [markdown]
# **Exercise: float limit** · 5 minutes · medium
#
# A core reads `READ` weights a second, and it multiplies and adds `ADDED` floats a second; the cell prints both. A
# kernel is as good as it can be: it reads each weight once for all rows, and it computes while it reads. How many times
# as many tokens a second do sixteen rows together make as one row alone?

# %% tags=["exercise"]
lesson.say(f"`READ` is {READ:,.0f}, `ADDED` is {ADDED:,.0f}.")
answer = ...
check("float limit", answer)

# %% [markdown]
# **Exercise: without shift** · 7 minutes · hard
#
# The instruction takes one of its two operands without a sign, `0` to `255`. So the library stores a code as
# `code + 128`. For each output, `total` holds the sum of `(code + 128) · a` over the activations `a` of a group, which
# are `int8`. Give back the sums of `code · a`. The codes themselves are not at hand.


# %% tags=["exercise"]
def without_shift(total, activations):  # (N,), (M,) -> (N,)
    """The sums of code · activation."""
    ...


check("without shift", without_shift)

# %% [markdown]
# ## Read next
#
# - [Williams, Waterman and Patterson, Roofline, sections 3 and 4](https://doi.org/10.1145/1498765.1498785): what a loop
#   waits for, and the ceilings below the roof
# - [Lam, Pitrou and Seibert, Numba](https://doi.org/10.1145/2833157.2833162): how a Python function becomes machine
#   code; [Dettmers et al., LLM.int8()](https://arxiv.org/abs/2208.07339): products of whole numbers, and what they cost
# - [lanes.py](../tinyinfer/backends/lanes.py), this layout for codes of every size;
#   [cpu_kernels](../tinyinfer/backends/cpu_kernels/__init__.py), a whole step in compiled kernels;
#   `python -m tinyinfer bench --backend numba --quantize int8`, which prints the bandwidth that is reached
# - `python -m tinyinfer course start int8_kernel mine`, an assignment: such a product of your own, graded
# - [02 · Prefill and decode](02_prefill_and_decode.ipynb), for the roofline; [09 · Batching](09_batching.ipynb), for
#   who brings several rows
