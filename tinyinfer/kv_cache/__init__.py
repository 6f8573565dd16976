"""The KV cache: how are the keys and values of earlier tokens kept, and in how much memory?

Attention of a new token reads the keys and values of all tokens before it. Keys and values never change. Without a
cache, each new token runs the whole sequence through the model again: n + (n+1) + (n+2) + ... rows; with a cache, one
row a token. The price is memory: Σ over layers of K·(Ek + Ev)·4 bytes a position, more than the weights once contexts
or batches are large. So the files ask how to waste none of it, how to share it, and how to make it smaller.

    contiguous.py     one array for each sequence, filled from the front
    memory.py         KV bytes per token, and all other bytes of the section
    base.py           the contract of every cache; the null objects: no cache, no prefix cache
    blocks.py         which blocks hold a sequence's positions: block pool, block tables, copy-on-write
    paged.py          one pool of blocks for all sequences
    prefix_cache.py   the common beginning of prompts is computed and stored once
    packed_blocks.py  a block of keys and values in 8, 4 or 2 bits a number
    in_place.py       the same blocks as kernels see them
    quantized.py      the contiguous and the paged cache with packed blocks
    switches.py       the switches of the section and what they refuse

Wins: always, once more than a token or two is generated. Paged: many sequences of different lengths. Prefix cache:
prompts that begin alike. Quantized: memory. Loses: a cache trades memory for arithmetic, and decode becomes a matter of
reading memory; blocks must be gathered, the tree must be searched, packed numbers must be unpacked and are not exact.

Papers: PagedAttention (Kwon et al. 2023), RadixAttention (SGLang; Zheng et al. 2024), KIVI (Liu et al. 2024).
"""
