"""Quantization: weights in fewer bits. grid.py is how numbers become codes; the other files are how to choose them."""
