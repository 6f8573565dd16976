"""Backends: on which machine do the operations run, and in which order does the memory lie?

Each backend fulfils the protocol `Ops` (model/interfaces.py), gives the reference's results and counts the reference's
ledger. `--backend` chooses one. Read in this order:

    uncompiled.py     the null answers of a backend that compiles no pass
    reference.py      the formulas, on any array module that works like NumPy: the oracle of every other backend
    numpy_ops.py      the same where NumPy can be made faster, each override with what it saves
    flash.py          attention in tiles with an online softmax
    packing.py        codes of 8 to 2 bits in bytes
    rows_in_lanes.py  rows in blocks of 64: the order in which a product of few rows reads a matrix
    packed.py         quantized weights as the backends lay them out
    packed_rows.py    the same, as a GPU reads them
    lanes.py          the same, as compiled CPU kernels read them
    stacked.py        a fused matrix whose parts a file has rounded differently
    sparse.py         matrices whose zeros are not kept
    sparse_lanes.py   the same of 2:4, as compiled CPU kernels read them
    int8_inputs.py    the inputs of products rounded, too, so that sums are of whole numbers
    cupy_ops.py       the reference on a GPU, operation by operation, in few launches
    cupy_kernels.py   the small kernels that save launches
    cupy_products.py  products by cuBLAS, where CuPy's own would convert or copy
    cupy_device.py    what must be there for a GPU: CuPy, a driver, a device, memory
    int8_kernel.py    a product of int8 codes in plain loops, compiled: what the fast kernels do, to be read first
    numba_ops.py      compiled kernels on the CPU, a whole pass at once (cpu_kernels/)
    numba_device.py   what must be there for numba
    compiling.py      who is told that kernels are being compiled
    auto.py           the fastest backend that can be used here
    counts.py         what a compiled pass counts in the ledger, by formula
    limits.py         how many cores and how much memory the process may use
    cpu.py            threads and memory of the process
    delegate.py       an Ops that wraps another one: for calibration, tracing, gradients
    overflow_search.py  an Ops that looks where numbers overflow
    switches.py       which backends there are, and their switches

A faster backend wins time and loses plainness: the reference stays, to be read and to be compared with.
"""
