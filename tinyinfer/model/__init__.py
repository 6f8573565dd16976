"""The model: what does a token pass through between its id and the logits of its successor?

A decoder-only transformer, every family of it, in code without branches. Read in this order:

    config.py         what a family is, as numbers and names: ModelConfig, and which tensors and matrices it has
    quantized_matrix.py  a matrix as codes, scales and minimums
    weights.py        the parameters as data: weights, norms, rotations, and what a backend takes
    heads.py          attention as data: heads, scale, window, and what is done to scores
    interfaces.py     the seam: what the model asks of a backend (Ops) and of a cache (KVCache)
    transformer.py    the model itself: embed, the layers, the head
    layers.py         a layer: attention and MLP one after the other, or side by side
    attention.py      the mixer of a layer: grouped-query attention, and its formula
    mlp.py            the other sub-layer: every row by itself
    moe.py            a mixture of experts in place of one MLP
    draft_head.py     a small network that drafts a model's next tokens from its KV cache
    visit.py          one walk over all matrices, for whatever reads or replaces them

The letters of all shapes are listed in arrays.py.

Prefill computes many rows at once and is bound by arithmetic; decode computes one row for each sequence, reads every
weight for it, and is bound by memory. All later sections live off this difference.
(Vaswani et al. 2017; Touvron et al. 2023; Ainslie et al. 2023; Shazeer et al. 2017.)
"""
