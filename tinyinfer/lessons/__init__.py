"""Lessons, what stands behind the notebooks: predict, count, write the idea in a few lines, and see where it loses.

The text of a lesson stands in `notebooks/src/`; its exercises and our solutions are here, so that a notebook shows
neither. Files in reading order:

    messages.py              what a lesson says: a card in a notebook, lines in a terminal
    exercise.py              an exercise: what is judged, the hints, our solution
    prediction.py            a prediction beside the truth, and the misconception whose value it is
    tiny_model.py            a model of random weights, for lessons about mechanism and for lessons without a network
    models.py                the models of a lesson: weights loaded once, engines made from them
    cell_order.py            which cell to run first, said in place of a NameError
    lesson.py                the one object that a notebook talks to
    endless.py               a student's loop that never ends, stopped
    own_part.py              a student's own cache or verifier in the library's engine
    pages.py                 three runs as saved pages, which open without a notebook
    tour_runs.py             lesson 00: what a question has cost under eight settings
    tour.py                  lesson 00: exercises, and the judge of a generation loop
    roofline_by_hand.py      lesson 02: the cost of a step from the configuration, and the judge of a student's lines
    roofline_found.py        lesson 02: predicted beside measured, and a recording of where the roofline is wrong
    prefill_and_decode.py    lesson 02: exercises
    cache_judge.py           lesson 03: where a student's KV cache first differs, and which usual mistake it is
    kv_cache.py              lesson 03: exercises, and runs with wrong positions
    paging_pool.py           lesson 04: a pool of blocks, and a student's block table inside the engine
    paging_judge.py          lesson 04: the judge of a student's block table
    paging_puzzles.py        lesson 04: where a sequence gets its next block, and when a shared block is copied
    paging.py                lesson 04: exercises, judges and solutions
    rounding.py              lesson 05: rounding in groups, and the judge of a student's lines
    quantization.py          lesson 05: exercises, judges and solutions
    verifier_judge.py        lesson 08: the exact law of what a student's verifier lets through
    speculative_decoding.py  lesson 08: exercises, judges and solutions
    seating.py               lesson 09: which request sits in which seat in each step
    batching_puzzles.py      lesson 09: seats and rows shared out by hand
    batching.py              lesson 09: exercises, judges and solutions
    prefix_walk.py           lesson 11: the walk down the tree, and the judge of a student's walk
    prefix_puzzles.py        lesson 11: the parts of a prompt in order, and requests in order
    prefix_caching.py        lesson 11: exercises, judges and solutions
    compiling.py             lesson 17: numba, or one sentence about how to get it
    kernel_ladder.py         lesson 17: a matrix in blocks of 64 outputs, and its product as plain loops
    kernel_reads.py          lesson 17: in which order a loop reads memory, counted in lines
    kernel_judge.py          lesson 17: the judges of a student's layout and kernel
    kernel_products.py       lesson 17: all products of a token, and a student's kernel inside the engine
    kernel_dots.py           lesson 17: products of whole numbers, for several rows
    kernel_found.py          lesson 17: what was measured beside the memory's speed, and the figure
    cpu_kernels.py           lesson 17: exercises, judges and solutions
    pruned_models.py         lesson 18: pruned models measured, and the inputs of a matrix
    pruning_judge.py         lesson 18: what weights that stay make up for, and the judges of a student's lines
    pruning.py               lesson 18: exercises
    peaks.py                 lesson 19: a teacher of two peaks, and a student of one
    divergence_judge.py      lesson 19: the judge of a divergence with its gradient, by finite differences
    sure_student.py          lesson 19: a student so sure that float32 knows no rest, and the judge of that rest
    distillation_runs.py     lesson 19: two small students, what they read, and what they cost
    distillation.py          lesson 19: exercises, the figure, and what a useful student would cost
    ring_judge.py            lesson 20: a ring of ranks that adds up arrays, and the judge of a student's ring
    shares_judge.py          lesson 20: an MLP divided among ranks, and the judge of a student's shares
    rank_runs.py             lesson 20: the real model on ranks with a student's ring, and GPUs on paper
    parallelism.py           lesson 20: exercises
    cost_runs.py             lesson 21: speeds of the engine in simulated time, and the pictures of cost
    cost.py                  lesson 21: exercises, judges and solutions

Wins: a wrong answer gets a sentence and a hint, and counts judge it on any machine. Loses: a judge knows only the
usual wrong answers; any other one gets the hint of the exercise.

Sources: Rush, GPU-Puzzles (the form of the puzzles); Crouch et al. 2004 (predict before you look).
"""
