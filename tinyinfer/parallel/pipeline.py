"""Pipeline parallelism: each rank has some layers, and rows go from stage to stage.

A stage computes its layers of a batch, hands the rows (T, D) on to the next stage, and could begin the next batch. It
has the weights and the KV cache of its layers alone. Only the first stage looks up tokens, only the last has logits.

    one batch at a time             0 ■ · · ■ · ·            a stage computes 1/p of the time
                                    1 · ■ · · ■ ·
                                    2 · · ■ · · ■

    m batches behind one another    0 A B C D · ·            GPipe (Huang et al. 2019, section 2.3): in m + p - 1 turns
                                    1 · A B C D ·            each stage is idle for p - 1, a bubble of
                                    2 · · A B C D                (p - 1) / (m + p - 1)

A decode step needs the token of the one before it, so a sequence can be in one batch only. With at least p sequences
the scheduler makes p batches of different ones: the first batch's tokens come when the last one has left stage 0, and
there is no bubble any more. Chunks of a prompt need no token, and follow each other at once.

The head counts as layers do when layers are divided: it is a fifth of SmolLM2's weights.

Wins: a message of T·D numbers between two stages, where tensor parallelism adds up 2·L + 1 times: for ranks far from
each other. Loses: no sequence gets its token sooner, since it goes through all stages one after the other; and with
fewer sequences than stages, stages wait.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.base import Cache
from tinyinfer.model.config import ModelConfig, held_matrices
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model, embed, head, run_layers
from tinyinfer.parallel.comm import Comm
from tinyinfer.sequence import Batch

PIECE = 1 << 17  # bytes


class Stage:
    """A rank's place among the stages of a model.

    comm: all ranks of the model, numbered stage by stage. together: those of this stage, which divide its layers.
    """

    def __init__(self, comm: Comm, stages: int = 1) -> None:
        self.comm, self.count = comm, stages
        self.number = comm.rank // (comm.size // stages)
        self.together = comm.split(self.number)
        self.first, self.last = self.number == 0, self.number == stages - 1

    @property
    def answers(self) -> int:
        """The rank that tells the first one what the last stage has found."""
        return self.comm.size - self.together.size

    def compute(self, model: Model, batch: Batch, cache: Cache, ops: Ops) -> Array | None:  # (T,) -> (R, V) | None
        """This stage's layers, of the rows that the stage before it has computed; None but in the last stage."""
        rank, width = self.comm.rank, self.together.size
        if self.first:
            x = embed(model, batch, ops)  # (T, D)
        else:
            x = ops.xp.empty((len(batch), model.config.hidden_size), np.float32)  # (T, D)
            for piece in pieces(x):
                self.comm.receive(piece, rank - width)
        x = run_layers(model, 0, len(model.layers), x, batch, cache, ops)
        if self.last:
            return head(model, x, batch, ops)
        for piece in pieces(ops.xp.ascontiguousarray(x)):
            self.comm.post(piece, rank + width)
        return None


def pieces(x: Array) -> list[Array]:  # (T, D) ->
    """Some rows each, so few bytes that a library sends them at once; of more it first asks whether they may come, and
    is not there to hear the answer while this rank computes its next batch.
    """
    rows = max(1, PIECE // x[:1].nbytes) if len(x) else 1
    return [x[start : start + rows] for start in range(0, len(x), rows)]


def stage_layers(c: ModelConfig, stages: int) -> list[range]:
    """The layers of each stage, so that all stages read about as many weights in a decode step.

    Raises SwitchError for more stages than layers.
    """
    if stages > c.num_layers:
        reason = "{field}={value} are more stages than the {layers} layers of this model"
        raise SwitchError("pipeline_parallel_size", stages, reason, "choose {layers} at most", layers=c.num_layers)
    weights = [0] * c.num_layers
    for name, matrix in held_matrices(c).items():
        if name != "embedding":
            weights[-1 if name == "head" else int(name.split(".")[1])] += matrix.numbers
    before = [0, *accumulate(weights)]  # weights before each layer, and all of them
    stops = [0]
    for stage in range(1, stages):
        possible = range(stops[-1] + 1, c.num_layers - stages + stage + 1)  # each stage has a layer
        share = before[stops[-1]] + (before[-1] - before[stops[-1]]) / (stages - stage + 1)
        stops.append(min(possible, key=lambda stop: abs(before[stop] - share)))
    return [range(*ends) for ends in zip(stops, [*stops[1:], c.num_layers], strict=True)]
