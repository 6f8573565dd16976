"""What a student is trained for: the sum of the losses that the switches name, and its gradients.

    loss = (1 - text_share) · divergence(student, teacher) + text_share · cross entropy + hidden · (1 - cosine)

All are means over the rows of a batch. A student may know fewer tokens than its teacher, the first ones, which a BPE
vocabulary has learned first and which are the most frequent ones; its last token then stands for all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.distillation.losses import cross_entropy, forward_kl, hidden_states, merged, reverse_kl, top_k_kl
from tinyinfer.distillation.switches import TrainingSwitches
from tinyinfer.distillation.teacher import Kept, Teacher
from tinyinfer.distillation.texts import Reading
from tinyinfer.model.interfaces import Ops

Loss = Callable[[Array, Array, float, Any], tuple[float, Array]]
DIVERGENCES: dict[str, Loss] = {"forward-kl": forward_kl, "reverse-kl": reverse_kl}


@dataclass(frozen=True)
class Losses:
    """A batch's loss, and its gradients for the student's logits (T, V) and, if asked for, hidden states (T, D)."""

    loss: float
    logits: Array
    hidden: Array | None = None


@dataclass(frozen=True)
class Objective:
    """The losses of a run. teacher: a model, what a model said, or None where the text alone teaches."""

    switches: TrainingSwitches
    teacher: Teacher | Kept | None

    def __call__(self, logits: Array, hidden: Array, one: Reading, ops: Ops) -> Losses:  # (T, V), (T, D) ->
        """The loss of a batch and its gradients. logits, hidden: the student's, of every row."""
        s, xp = self.switches, ops.xp
        known = logits.shape[1]
        tokens = xp.asarray(np.minimum(one.tokens, known - 1))  # (T,)
        if self.teacher is None:
            return Losses(*cross_entropy(logits, tokens, xp))
        far, wide, loss = 0.0, None, 0.0
        gradient: Array | None = None  # (T, V)
        share = 1.0 if s.loss == "cross-entropy" else s.text_share
        if isinstance(self.teacher, Kept):
            loss, gradient = top_k_kl(logits, self.teacher.top_k(one, xp), s.temperature, xp)
        else:
            said, states = self.teacher(one)  # (T, V or more), (T, D)
            said = merged(said, known, xp)  # (T, V)
            if share < 1:
                loss, gradient = DIVERGENCES[s.loss](logits, said, s.temperature, xp)
            if s.hidden:
                far, wide = hidden_states(hidden, states, xp)  # wide: (T, D)
                wide *= wide.dtype.type(s.hidden)
        if share:
            of_text, down = cross_entropy(logits, tokens, xp)  # down: (T, V)
            down *= down.dtype.type(share)
            if gradient is not None:
                gradient *= gradient.dtype.type(1 - share)
                down += gradient
            loss, gradient = (1 - share) * loss + share * of_text, down
        assert gradient is not None, "a share below 1 leaves a divergence"
        return Losses(loss + s.hidden * far, gradient, wide)
