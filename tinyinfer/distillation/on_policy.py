"""On-policy text: a student goes on where a document's first half ends, and is then told what its teacher thinks of it.

A student that only ever reads good text never sees the states that its own mistakes lead to. So a share of the batches
is written by the student as it is now, sampled by the engine at temperature 1; the teacher says in each row what it
would have said there (GKD, Agarwal et al. 2024, algorithm 1). No gradient goes through the sampling.

Wins: the student is corrected where it really is. Loses: time, since it must write before it learns; and a student of
random weights writes noise, so it had better learn from texts first.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np

from tinyinfer.engine.clock import WallClock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import build_engine
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model
from tinyinfer.quantization.calibration import Silence
from tinyinfer.sampling import SamplingParams
from tinyinfer.sequence import RequestSpec, Sequence
from tinyinfer.text.stop_strings import TextOutput


def continued(student: Model, ops: Ops, documents: Seq[np.ndarray], seed: int) -> list[np.ndarray]:
    """Each document's first half, and the student's continuation, together as long as its rows; ids of the student."""
    most = student.config.vocab_size - 1
    halves = [np.minimum(ids[: (len(ids) + 1) // 2], most) for ids in documents]
    switches = EngineConfig(
        max_num_seqs=len(documents), max_num_batched_tokens=sum(map(len, halves)) + 1,
        max_model_len=max(map(len, documents)) - 1,
    )  # fmt: skip
    engine = build_engine(student, ops, switches, WallClock())
    sequences = []
    for n, (ids, half) in enumerate(zip(documents, halves, strict=True)):
        params, left = SamplingParams(temperature=1.0), len(ids) - 1 - len(half)
        request = RequestSpec(n, half.tolist(), params, seed=seed + n, max_tokens=left, eos=frozenset())
        sequences.append(Sequence(request, lambda: TextOutput(Silence())))
    for _ in engine.run(sequences):
        pass
    return [np.array(seq.tokens) for seq in sequences]
