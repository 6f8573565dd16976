"""Distillation: how does a small model learn what a large one knows?

A student is trained on what the teacher thinks of each next token, which says more than the text itself. Training needs
gradients: they come from the model as it is, by operations that note themselves. Read in this order:

    adjoints.py   for each operation, its gradient, written out by hand
    tape.py       an Ops that notes the operations of a forward pass, and runs their adjoints in reverse
    losses.py     cross entropy, two Kullback-Leibler divergences, hidden states
    adamw.py      the optimizer: a step for each number, a warm-up, a cosine, a clip

Wins: a pruned model gets back most of what it lost (pruning/), and a small one learns a task. Loses: training costs
three forward passes a token and four times the weights' memory. (Hinton et al. 2015, Distilling the Knowledge in a
Neural Network; each file names its own.)
"""
