"""Distillation: how does a small model learn what a large one knows?

A student is trained on what the teacher thinks of each next token, which says more than the text itself. Training needs
gradients: they come from the model as it is, by operations that note themselves. Read in this order:

    adjoints.py     for each operation, its gradient, written out by hand
    padding.py      attention of many sequences as one: side by side, as if they were more heads
    tape.py         an Ops that notes the operations of a forward pass, and runs their adjoints in reverse
    losses.py       cross entropy, two Kullback-Leibler divergences, hidden states
    adamw.py        the optimizer: a step for each number, a warm-up, a cosine, a clip
    parameters.py   all parameters of a model in one flat array, and all of their gradients in another one
    switches.py     what a student learns from, how much of it, and how fast
    texts.py        from a text file to batches of documents
    teacher.py      what a teacher says of a text: computed as it is needed, or kept on disk
    objective.py    the sum of losses that a student is trained for
    on_policy.py    text that the student itself goes on with
    training.py     read a batch, compare, run the adjoints, take a step
    checkpoints.py  all that a run needs to go on, in one file
    student.py      a smaller model that is there already, or one of random weights
    distill.py      a whole run: teacher and student in, a folder out

What a student reads may be written by its teacher:

    synthesize.py   documents that a model writes, each by a seed of its own
    prompts.py      what it is asked: a template, and words for its gaps
    words.py        those words
    documents.py    the documents in a file, and where an interrupted run goes on
    part_file.py    a file that grows for hours and may be interrupted at any moment

Wins: a pruned model gets back most of what it lost (pruning/), and a small one learns a task. Loses: training costs
three forward passes a token and four times the weights' memory. (Hinton et al. 2015, Distilling the Knowledge in a
Neural Network; each file names its own.)
"""
