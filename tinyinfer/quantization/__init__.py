"""Quantization: how few bits can a weight have before the model notices?

Decode waits for weights to arrive from memory, so weights in fewer bits are faster wherever a kernel multiplies them as
they are, and smaller everywhere. A method chooses grids and codes; it never knows how a backend packs them. Read in
this order:

    rtn.py            the grid, and rounding each weight to the nearest point of it
    hqq.py            a better grid without any data: outliers need not fit well
    calibration.py    what real text sends into each linear layer
    gptq.py           better codes: the weights still to come make up for each error
    folding.py        a layer's inputs divided by a scale at no cost
    awq.py            inputs that matter scaled up before rounding
    w8a8.py           activations in 8 bits, too; SmoothQuant moves their outliers into the weights
    recipe.py         which matrix is rounded how: rules by name
    apply.py          a whole model quantized, while it is loaded or by text that it reads
    switches.py       the switches of the section and what they refuse

Wins: memory, and decode time on a backend with kernels for packed weights. Loses: precision, little at 8 bits and much
at 2; in plain NumPy also time, because codes become floats before each product.
(Nagel et al. 2021, A White Paper on Neural Network Quantization; each file names its own.)
"""
