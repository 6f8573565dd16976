"""Speculative decoding: can one forward pass bring more than one token?

A decode step reads every weight to compute one row, and a few more rows with the same read are nearly free. So a
drafter proposes the next tokens cheaply, the drafts become further rows of the step, and the logits of each row say
whether the next draft is accepted (Leviathan, Kalman & Matias 2023, algorithm 1; Chen et al. 2023).

    base.py           what the engine asks of a drafter, and the null objects: no drafts, no candidates
    verify.py         accepts a draft that is the target's own choice: the text of no drafts
    best_coupling.py  accepts or replaces a drawn draft: the most acceptance, and the target's distribution
    prompt_lookup.py  drafts copied from what followed the same tokens before (Saxena 2023)
    drafting.py       drafts of a model, one token at a time for all sequences together
    draft_head.py     drafts of a head that reads the target's KV cache
    draft_model.py    drafts of a second, smaller model, or of the model's own first layers (LayerSkip)
    draft_cache.py    where a draft model's keys and values lie: in its own cache, or in the target's
    costs.py          what rows and drafts cost here, measured, and an end of drafting where it loses
    draft_length.py   how many drafts pay, by how often the drafts of a sequence were accepted
    candidates.py     several drafts for the same position, verified side by side
    switches.py       the switches of the section and what they refuse

Wins: one sequence or few, decode that waits for memory, predictable text. Loses: a rejected draft costs its row, and a
draft model costs its own steps; a large batch leaves no arithmetic idle for drafts.
"""
