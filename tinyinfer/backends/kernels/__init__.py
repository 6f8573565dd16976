"""Kernels: CUDA C++ for a decode step, one idea a file, and the Python that turns a file into a text to compile.

Read in this order:

    source.py           a kernel's file with its model's sizes and its headers in place
    nvrtc.py            what a kernel needs of a multiprocessor, told by the compiler without a GPU
    occupancy.py        how many blocks of a kernel fit on a multiprocessor, by formula
    covered.py          which models and caches the kernels cover, and why not the others
    launch.py           one kernel with all that starting it needs, and what it costs
    buffers.py          what the host tells the device of a step, and what comes back
    memory.py           all arrays of a step, allocated before the first one, and the constants of their sizes
    plan.py             the launches of a decode step, five phases a layer
    persistent_plan.py  the same step as a single launch
    bucket.py           a plan as a CUDA graph, for steps of up to so many rows
    ahead.py            steps that the device computes before they are asked for
    prompt_pass.py      every other pass: cuBLAS's products, and attention by kernels
    counts.py           what a pass counts in the ledger, by formula
    graph_step.py       the compiled forward pass, as the engine calls it

Each `.cu` names its formula in reference.py and its roofline in its first lines. Tests run every one on the CPU
(tests/kernels/shim.py) and compile it for two GPUs.
"""
