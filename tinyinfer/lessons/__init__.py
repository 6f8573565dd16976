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
    verifier_judge.py    the exact law of what a student's verifier of drafts lets through, and the usual mistakes
    speculative_decoding.py  lesson 08

Wins: a wrong answer gets a sentence and a hint, and counts judge it on any machine. Loses: a judge knows only the
usual wrong answers; any other one gets the hint of the exercise.

Sources: Rush, GPU-Puzzles (the form of the puzzles); Crouch et al. 2004 (predict before you look).
"""
