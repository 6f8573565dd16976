"""Training: read a batch, compare, run the adjoints, take a step; again until the tokens are read.

    forward    the transformer, its operations noted by a tape
    loss       the objective's, and its gradient for the logits
    backward   the tape, which adds up the gradients of all parameters
    step       the gradients made short enough, AdamW, a pruned weight kept at zero

A run is decided by its switches, its student and its text. What it needs to go on is one file (checkpoints.py): so a
run that was killed ends with the same bits as one that was not, on one machine and with the same number of threads.

Wins: a student learns from a teacher's whole distribution in each row. Loses: time; a step costs three forward passes.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.distillation.adamw import AdamW, clip_factor, length_of, rate_at
from tinyinfer.distillation.objective import Objective
from tinyinfer.distillation.on_policy import continued
from tinyinfer.distillation.padding import PassCache
from tinyinfer.distillation.parameters import Parameters
from tinyinfer.distillation.switches import TrainingSwitches
from tinyinfer.distillation.tape import Tape
from tinyinfer.distillation.texts import Reading, epoch, in_order, reading
from tinyinfer.errors import TrainingError
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model, embed, head, run_layers
from tinyinfer.sequence import Batch

HELD_OUT = 64  # of how many documents one is only tested on
TESTS = 20  # how often in a run
QUIET = np.errstate(over="ignore", invalid="ignore", divide="ignore")  # a loss that is no number is told once


@dataclass
class Place:
    """Where a run is. losses: (tokens read before, loss) of each step; tests: the same of each test."""

    tokens: int = 0
    epoch: int = 0
    batch: int = 0  # of the epoch, the next one
    losses: list[tuple[int, float]] = field(default_factory=list)
    tests: list[tuple[int, float]] = field(default_factory=list)


class Training:
    """A student, what it reads, and what it is compared with.

    masked: whether weights that are zero stay zero, as those of a pruned student. tested: documents on which its
    cross entropy is measured now and then; without them, some of `documents` are kept out of training for it.
    """

    def __init__(
        self, student: Model, ops: Ops, documents: Seq[np.ndarray], objective: Objective, masked: bool = False,
        tested: Seq[np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        self.switches: TrainingSwitches = objective.switches
        self.ops, self.objective = ops, objective
        self.tape = Tape(ops, student.config)
        self.parameters = Parameters.of(student, self.tape)
        p = self.parameters
        self.mask: Array | None = p.mask(ops.xp) if masked else None  # (P,)
        self.begun = zlib.crc32(ops.to_host(p.values).data)  # which student it was
        self.optimizer = AdamW.of(p.values, p.decayed, self.switches.decay, ops.xp)
        self.place = Place()
        self.documents = documents
        held = range(0, len(documents), HELD_OUT) if len(documents) >= HELD_OUT and tested is None else range(0)
        self.tested = [documents[n] for n in held] if tested is None else tested
        self.read = sorted(set(range(len(documents))) - set(held))
        self.order: tuple[int, list[list[int]]] | None = None  # an epoch, and its batches

    @property
    def model(self) -> Model:
        """The student as it is now."""
        return self.parameters.model

    def go_on(self, steps: int, place: Place) -> None:
        """The run was here; what its arrays were then is in them already."""
        self.optimizer, self.place = replace(self.optimizer, steps=steps), place

    def run(self) -> Iterator[float]:
        """Trains until the tokens are read, and gives the loss of each step. Raises TrainingError."""
        s, place = self.switches, self.place
        between = max(1, s.tokens // TESTS)
        while place.tokens < s.tokens:
            if self.tested and place.tokens >= len(place.tests) * between:
                self._note_test()
            yield self.step()
        if self.tested and (not place.tests or place.tests[-1][0] < place.tokens):
            self._note_test()

    def _note_test(self) -> None:
        """Adds a test to the place. Raises TrainingError for a loss that is no number."""
        loss, place = self.test(), self.place
        if not math.isfinite(loss):
            raise TrainingError(f"step {len(place.losses)}: after it the loss of the test is {loss:.4g}")
        place.tests.append((place.tokens, loss))

    @QUIET
    def check(self) -> None:
        """Raises TrainingError for parameters that are no numbers, or so large that their length is none."""
        if not math.isfinite(length_of(self.parameters.values, self.ops.xp)):
            raise TrainingError(f"step {len(self.place.losses)}: after it the parameters are no numbers")

    @QUIET
    def step(self) -> float:
        """The next batches' gradients, and a step along them. Raises TrainingError for a loss that is no number."""
        s, p, place, xp = self.switches, self.parameters, self.place, self.ops.xp
        self.tape.zero(p.gradients)
        before, read = place.tokens, [self._next() for _ in range(s.accumulate)]
        rows = sum(map(len, read))
        loss = sum(self.backward(one, len(one) / rows) for one in read)
        place.tokens += rows
        gradients = p.gradients  # (P,)
        if self.mask is not None:
            gradients *= self.mask
        length = length_of(gradients, xp)
        if not math.isfinite(loss + length):
            step = len(place.losses) + 1
            raise TrainingError(f"step {step}: the loss is {loss:.4g} and its gradient {length:.4g} long")
        size = s.batch_tokens * s.accumulate
        steps = max(1, s.tokens // size)
        rate = rate_at(before // size, steps, min(s.warm_up, max(1, steps // 5)), s.rate)
        self.optimizer.step(p.values, gradients, rate, clip_factor(length, s.clip), xp)
        place.losses.append((before, loss))
        return loss

    def backward(self, one: Reading, share: float = 1.0) -> float:
        """The loss of a batch; its gradients are added to those of the parameters. share: by which both are scaled."""
        hidden, logits = self._forward(one, self.tape)
        found = self.objective(logits, hidden, one, self.ops)
        of_logits, of_hidden = found.logits, found.hidden  # (T, V), (T, D) or None
        if share != 1:
            of_logits *= of_logits.dtype.type(share)
        if of_hidden is not None:
            self.tape.shadows.add(hidden, of_hidden * of_hidden.dtype.type(share))
        self.tape.backward(logits, of_logits)
        self.tape.clear()
        return found.loss * share

    @QUIET
    def test(self) -> float:
        """The cross entropy of the tested documents, the mean of their rows: its exponential is the perplexity."""
        total = rows = 0.0
        text_alone = Objective(self.switches, None)
        for numbers in in_order(self.tested, self.switches.batch_tokens):
            one = reading(self.tested, numbers, self.model.config.rotation_sets)
            hidden, logits = self._forward(one, self.ops)
            total += text_alone(logits, hidden, one, self.ops).loss * len(one)
            rows += len(one)
        return total / rows

    def _forward(self, one: Reading, ops: Any) -> tuple[Array, Array]:  # -> (T, D), (T, V)
        """The last hidden states and the logits of every row."""
        m, batch = self.model, known(one.batch, self.model.config.vocab_size)
        x = embed(m, batch, ops)  # (T, D)
        if self.switches.recompute and ops is self.tape:
            for i in range(len(m.layers)):
                x = self.tape.recompute(
                    lambda ops, x, i=i: run_layers(m, i, i + 1, x, batch, PassCache(), ops), x
                )  # (T, D)
        else:
            x = run_layers(m, 0, len(m.layers), x, batch, PassCache(), ops)  # (T, D)
        return x, head(m, x, batch, ops)

    def _next(self) -> Reading:
        """The next batch of this epoch, or the first of the next one."""
        s, place = self.switches, self.place
        if self.order is None or self.order[0] != place.epoch:
            kept = [self.documents[n] for n in self.read]
            self.order = place.epoch, epoch(kept, s.batch_tokens, s.seed, place.epoch)
        batches = self.order[1]
        numbers = [self.read[n] for n in batches[place.batch]]
        where = place.epoch, place.batch
        place.batch += 1
        if place.batch == len(batches):
            place.epoch, place.batch = place.epoch + 1, 0
        rng, sets = np.random.default_rng([s.seed, *where]), self.model.config.rotation_sets
        if rng.random() >= s.on_policy:
            return reading(self.documents, numbers, sets)
        begun = [self.documents[n] for n in numbers]
        return reading(continued(self.model, self.ops, begun, int(rng.integers(1 << 62))), range(len(begun)), sets)


def known(batch: Batch, size: int) -> Batch:
    """The batch for a model of so many tokens: its last one stands for those that it does not know."""
    return batch if batch.tokens.max() < size else replace(batch, tokens=np.minimum(batch.tokens, size - 1))
