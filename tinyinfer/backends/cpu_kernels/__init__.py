"""Compiled CPU kernels: how does a step come to wait for nothing but memory?

A decode step reads each weight once and does two operations with it, so it can be no faster than memory is read. NumPy
is slower than that wherever a weight is no float32: codes become floats in memory first. Here each step is a plan of
kernels that numba compiles: weights go from memory into registers, and threads walk through the plan side by side.

Read in this order:

    vectors.py           vectors of 16 numbers: what a SIMD register holds
    integers.py          the same of whole numbers
    functions.py         exp, tanh and erf of vectors
    sums.py              many vectors of sums at once, kept in registers
    scalars.py           single numbers at addresses
    registers.py         how many sums a core keeps in registers
    halves.py            float16 on any CPU
    dot.py               the product of bytes, four at a time
    atomics.py           counters and words that several threads use
    kernel.py            a kernel: compiled when it is needed, called by its address
    disk_cache.py        machine code is kept
    plan.py              the launches of a pass, as a table
    team.py              threads that compute a plan together
    crew.py              how many threads
    transpose.py         rows of float weights become lanes
    buffers.py           rows of activations and scratch memory
    embed.py             tokens become vectors
    norms.py             RMSNorm, LayerNorm, norms of heads
    outputs.py           what an item of a product computes
    tiles.py             a few rows times 64 outputs, all sums in registers
    dense_product.py     products with float weights
    sparse_tile.py       a few rows times 64 outputs, two of four weights kept
    sparse_product.py    products with float weights pruned 2:4
    three_bytes.py       floats as the sum of three bytes
    scales.py            the scales of a group, as products use them
    packed_product.py    products of codes with a few rows
    digit_tile.py        one or two rows of such bytes times 64 outputs
    digit_product.py     products of codes with floats as bytes
    panel_product.py     products of codes with many rows
    round_rows.py        rows of activations rounded to 8 bits
    integer_tile.py      a few rows of bytes times 64 outputs
    integer_product.py   products of whole numbers
    stacked_product.py   matrices whose parts have different types
    products.py          which of them multiplies with a weight
    cached_rows.py       where a key and a value lie
    packed_rows.py       keys and values of 8, 4 and 2 bits
    turn_append.py       rotation, and new rows for the cache
    attention_work.py    what all attention kernels share
    attention_pieces.py  how a batch is cut into pieces
    few_queries.py       attention of a few rows: decode
    many_queries.py      attention of many rows: prompts
    pass_data.py         what a pass tells the kernels of its batch and cache
    attention.py         the launches of a layer's attention
    gate.py              the MLP's nonlinearity
    experts.py           a mixture of experts
    rows.py              rows gathered for the head, and capped logits
    ends.py              the greedy token, and the ends of logits
    rotations.py         cosines and sines, kept
    pass_plan.py         the launches of all layers and of the head
    step.py              the compiled pass: what the engine calls
    head_pass.py         the same for a draft head

Wins: wherever numba runs, most of all with quantized weights and with several sequences. Loses: the first use compiles,
and a kernel is harder to read than the formula, which stays in reference.py.
"""
