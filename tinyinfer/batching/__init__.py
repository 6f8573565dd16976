"""Batching: which sequences share a step?

Decode reads every weight of the model to compute one row, and would read the same weights for many rows. So a step
computes rows of several sequences together, and the questions are which ones, how many rows of each, and what happens
when the cache is full.

    policies.py     when a batch may start and when sequences join and leave: static, dynamic, continuous
    bookkeeping.py  which sequences wait and run, and how an interrupt between two lines leaves no trace
    branches.py     several answers to one prompt, which is computed once
    scheduler.py    admission, chunks of prompts, room in the cache, preemption
    switches.py     the switches of the section and what they refuse

Wins: throughput, nearly for free while decode waits for memory. Loses: every step takes a little longer, so the time
per token of each sequence grows. Continuous batching is Orca's (Yu et al. 2022), chunked prefill Sarathi's (Agrawal et
al. 2023), preemption PagedAttention's (Kwon et al. 2023).
"""
