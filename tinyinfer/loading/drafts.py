"""A draft model beside its target: the same tokens or a refusal, and its weights as they draft fastest.

Wins: a draft model of other tokens is refused before any weight is read. Loses: the tokens are compared, not what the
two models make of them; a draft model that never agrees is found by its acceptance only.
"""

from __future__ import annotations

from pathlib import Path

from tinyinfer.errors import SwitchError
from tinyinfer.loading import load
from tinyinfer.loading.build import build_model, load_model
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.loading.hub import find
from tinyinfer.loading.lent_vocabulary import read_lent
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model
from tinyinfer.pruning.switches import WeightSwitches
from tinyinfer.text.tokenizer import Tokenizer

SMALL = 16 << 20  # bytes in a file of a draft model that may become floats


def draft_checkpoint(name: str, target: Tokenizer) -> Checkpoint:
    """The draft model called `name`. Raises SwitchError when its token ids mean something else than the target's."""
    path = find(name)
    lent = read_lent(Path(path))
    if lent and not lent.fits(target):
        _refuse(name, f"its tokens are the first {lent.tokens:,} of {lent.of}")
    checkpoint = load(path, target)
    id = None if lent else target.first_difference(checkpoint.tokenizer)
    if id is not None:
        _refuse(name, f"token id {id} is the first to differ")
    return checkpoint


def _refuse(name: str, how: str) -> None:
    reason = "{field} {value!r} has another vocabulary ({how}), so its drafts mean something else"
    cure = "name a smaller model of the same family with {draft_model}, or choose another {speculative}"
    raise SwitchError("draft_model", name, reason, cure, how=how)


def load_draft(checkpoint: Checkpoint, ops: Ops) -> Model:
    """A draft model in memory. Where codes would become floats before each product, a small folder that was made to
    draft (lent_vocabulary.py) is floats from the beginning: it is to cost little time.
    """
    size = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    if checkpoint.lent and size <= SMALL and not ops.multiplies_codes:
        return build_model(checkpoint, ops)
    return load_model(checkpoint, ops, WeightSwitches())
