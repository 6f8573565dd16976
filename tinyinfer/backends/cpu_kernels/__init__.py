"""Compiled CPU kernels: how does a step come to wait for nothing but memory?

A decode step reads each weight once and does two operations with it, so it can be no faster than memory is read. NumPy
is slower than that wherever a weight is no float32: codes become floats in memory first. Here each step is a plan of
kernels that numba compiles: weights go from memory into registers, and threads walk through the plan side by side.

Read in this order:

    vectors.py    vectors of 16 numbers: what a SIMD register holds
    scalars.py    single numbers at addresses
    atomics.py    counters and words that several threads use
    kernel.py     a kernel: compiled when it is needed, called by its address
    plan.py       the launches of a pass, as a table
    team.py       threads that compute a plan together
    buffers.py    rows of activations and scratch memory

Wins: wherever numba runs, most of all with quantized weights and with several sequences. Loses: the first use compiles,
and a kernel is harder to read than the formula, which stays in reference.py.
"""
