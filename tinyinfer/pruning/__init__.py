"""Pruning: which weights can go without the model noticing?

A trained model has more weights than it needs. Two kinds of pruning remove some: single weights, wherever they stand,
which then must be stored as sparse matrices (backends/sparse.py); or whole layers, neurons, heads and numbers of the
model width, which leaves smaller dense matrices that every backend multiplies faster. Read in this order:

    patterns.py     which of the scored weights stay: a share of them, or N of every M neighbours
    magnitude.py    the score: the weight's size
    wanda.py        the size times the norm of its input
    sparsegpt.py    the error that removing it leaves, once the weights that stay have made up for it
    layers.py       whole layers: those whose output is almost their input
    width.py        neurons, heads and model width: those that are hardly ever active
    refit.py        what the removed parts did, the layers that are left take over
    apply.py        a whole model pruned, layer by layer with text to look at
    switches.py     the switches of the section and what they refuse

Wins: memory and bytes read, and with whole parts gone, time everywhere. Loses: quality, at once and much more than
quantization loses for as many bytes; a pruned model wants to be trained again (distillation/). (Han et al. 2015,
Learning both Weights and Connections; each file names its own.)
"""
