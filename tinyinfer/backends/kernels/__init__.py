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
    graph_step.py       the compiled forward pass, as the engine calls it

Then the kernels, in CUDA C++. Headers, each with one idea:

    common.cuh   number types, loads, sums over threads
    weights.cuh  how a thread reads a weight matrix, dense or packed
    shares.cuh   how a product is shared out among lanes, warps and blocks
    few.cuh      fewer registers for weights, where one kernel does all
    product.cuh  a product of a few rows, RMSNorm inside
    gate.cuh     the nonlinearity between an MLP's two products
    rope.cuh     a pair of numbers, turned
    cache.cuh    where keys and values lie
    append.cuh   keys and values, normed and turned, go there
    softmax.cuh  a softmax in parts, added up in any order
    decode.cuh   a row's attention, its keys split among blocks
    flash.cuh    attention of many rows, in tiles
    packed.cuh   where the codes of a quantized cache lie
    philox.cuh   noise.py's random numbers
    choice.cuh   the choice of a token as a reduction
    filters.cuh  top-k and top-p without a sort
    mma.cuh      tensor cores
    tiles.cuh    tiles of halves for them

A decode step in the order of its launches, then what other passes and other caches need:

    embed.cu                    rows of the token table
    rms_qkv_rope_append.cu      norm, QKV product, rotation, append to the cache
    attention_decode.cu         attention of single rows
    projection_residual.cu      output projection, or down projection, and the residual
    rms_gate_up.cu              norm, gate and up products, activation
    rms_head_sample.cu          norm, head, and the choice of the token
    rms_product.cu              a product alone
    norm_add.cu                 a norm after a sub-layer
    qk_norm_rope_append.cu      what follows a QKV product that was computed before
    small_batch_product.cu      9 to 256 rows on tensor cores
    attention_prefill.cu        attention of many rows of a sequence
    cap_logits.cu               logits, scaled and capped
    sample.cu                   the choice of tokens from logits, with filters
    append_float_rows.cu        a quantized cache: new rows stay floats
    pack_block.cu               and become codes when their block is full
    attention_decode_packed.cu  which attention reads
    persistent.cu               the whole step in one launch

Each `.cu` names its formula in reference.py and its roofline in its first lines. Tests run every one on the CPU
(tests/kernels/shim.py) and compile it for two GPUs.
"""
