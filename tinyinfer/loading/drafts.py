"""A draft model, or a draft head, beside its target: the same tokens, or a refusal.

Wins: a draft model of other tokens is refused before any weight is read. Loses: the tokens are compared, not what the
two models make of them; a draft model that never agrees is found by its acceptance only.
"""

from __future__ import annotations

from tinyinfer.errors import SwitchError
from tinyinfer.loading import load
from tinyinfer.loading.build import load_model
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.loading.draft_heads import HeadFolder, is_head, load_head, open_head
from tinyinfer.loading.hub import find
from tinyinfer.model.draft_head import DraftHead, no_fit
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model
from tinyinfer.pruning.switches import WeightSwitches


def open_draft(name: str, target: Checkpoint) -> Checkpoint | HeadFolder:
    """The draft model, or the draft head, called `name`. Raises SwitchError when its token ids mean something else than
    the target's, or when a head was made for another model.
    """
    path = find(name)
    if is_head(path):
        head = open_head(path)
        other = None if head.lent.fits(target.tokenizer) else f"its tokens are those of {head.lent.of}"
        if other := other or head.shape.misfit(target.config):
            raise no_fit(name, other)
        return head
    checkpoint = load(path)
    id = target.tokenizer.first_difference(checkpoint.tokenizer)
    if id is not None:
        reason = "{field} {value!r} has another vocabulary (token id {id} is the first to differ), so its drafts mean "
        cure = "name a smaller model of the same family with {draft_model}, or choose another {speculative}"
        raise SwitchError("draft_model", name, reason + "something else", cure, id=id)
    return checkpoint


def load_draft(opened: Checkpoint | HeadFolder, target: Model, ops: Ops) -> Model | DraftHead:
    """A draft model, or a head, in memory."""
    if isinstance(opened, HeadFolder):
        return load_head(opened, target, ops)
    return load_model(opened, ops, WeightSwitches())
