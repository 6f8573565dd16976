"""Compiled CPU kernels: how does a step come to wait for nothing but memory?

A decode step reads each weight once and does two operations with it, so it can be no faster than memory is read. NumPy
is slower than that wherever a weight is no float32: codes become floats in memory first. Here each step is a plan of
kernels that numba compiles: weights go from memory into registers, and threads walk through the plan side by side.

Read in this order:

    vectors.py      vectors of 16 numbers: what a SIMD register holds
    functions.py    exp, tanh and erf of vectors
    integers.py     bytes in memory, whole numbers in vectors
    dot.py          the product of bytes
    scalars.py      single numbers at addresses
    atomics.py      counters and words that several threads use
    kernel.py       a kernel: compiled when it is needed, called by its address
    disk_cache.py   machine code is kept
    plan.py         the launches of a pass, as a table
    team.py         threads that compute a plan together
    crew.py         how many threads
    buffers.py      rows of activations and scratch memory
    outputs.py      what an item of a product computes
    tiles.py        a few rows times 64 outputs, all sums in registers
    dense_product.py   products with float weights
    scales.py       the scales of a group, as products use them
    packed_product.py  products of codes with a few rows
    panel_product.py   products of codes with many rows
    round_rows.py   activations in 8 bits
    integer_tile.py    a group of codes times rows of 8 bits, in registers
    integer_product.py  products of whole numbers
    products.py     which of them multiplies with a weight
    sums.py         many sums in registers, unrolled
    packed_rows.py  keys and values in a few bits
    cached_rows.py  where keys and values lie
    attention_work.py  a piece of attention, its state and its end
    few_queries.py  vectors along a head
    many_queries.py    a lane for each query
    attention_pieces.py  a batch, cut for all threads
    pass_data.py    what changes from pass to pass
    turn_append.py  rotation, and the cache's new rows
    attention.py    the launches of a layer's attention
    embed.py        tokens become vectors
    norms.py        RMSNorm, LayerNorm, norms of heads
    gate.py         the MLP's nonlinearity
    experts.py      mixtures of experts
    rows.py         rows gathered for the head, and capped logits
    ends.py         the greedy token, and the ends of logits
    rotations.py    cosines and sines, kept
    pass_plan.py    the launches of all layers and of the head
    step.py         the compiled pass: what the engine calls

Wins: wherever numba runs, most of all with quantized weights and with several sequences. Loses: the first use compiles,
and a kernel is harder to read than the formula, which stays in reference.py.
"""
