"""Lessons, what stands behind the notebooks: predict, count, write the idea in a few lines, and see where it loses.

The text of a lesson stands in `notebooks/src/`; its exercises and our solutions are here, so that a notebook shows
neither. Files in reading order:

    messages.py          what a lesson says: a card in a notebook, lines in a terminal
    exercise.py          an exercise: what is judged, the hints, our solution
    prediction.py        a prediction beside the truth, and the misconception whose value it is
    tiny_model.py        a model of random weights, for lessons about mechanism and for lessons without a network
    models.py            the models of a lesson: weights loaded once, engines made from them
    cell_order.py        which cell to run first, said in place of a NameError
    lesson.py            the one object that a notebook talks to
    own_part.py          a student's own cache or verifier in the library's engine
    cache_judge.py       where a student's KV cache first differs from the truth, and which usual mistake it is
    kv_cache.py          lesson 03
    rounding.py          lesson 05: a group's scale, minimum and codes by hand
    quantization.py      lesson 05: a model with other weights, and what a bit costs
    seating.py           lesson 09: which request sits in which seat in each step
    batching_puzzles.py  lesson 09: seats and rows shared out by hand
    batching.py          lesson 09: who shares a step, and what that costs

Wins: a wrong answer gets a sentence and a hint, and counts judge it on any machine. Loses: a judge knows only the
usual wrong answers; any other one gets the hint of the exercise.

Sources: Rush, GPU-Puzzles (the form of the puzzles); Crouch et al. 2004 (predict before you look).
"""
