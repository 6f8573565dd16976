"""Kernels: CUDA C++ for a decode step, one idea a file, and the Python that turns a file into a text to compile.

Read in this order:

    source.py     a kernel's file with its model's sizes and its headers in place
    nvrtc.py      what a kernel needs of a multiprocessor, told by the compiler without a GPU
    occupancy.py  how many blocks of a kernel fit on a multiprocessor, by formula

Each `.cu` names its formula in reference.py and its roofline in its first lines. Tests run every one on the CPU
(tests/kernels/shim.py) and compile it for two GPUs.
"""
