"""Rows for the kernels that choose tokens, what the host chooses of the same logits, and what a launch must leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinyinfer.sampling import choose
from tinyinfer.sampling_params import SamplingParams

RING = 3
HOST_SEED = 2**63 + 12345  # needs all 64 bits


@dataclass
class Rows:
    """Per row of a pass: how its token is chosen, its seed, its position (-1: padded)."""

    params: Sequence[SamplingParams]
    positions: np.ndarray  # (T,)

    @property
    def seeds(self) -> np.ndarray:  # -> (T,)
        return HOST_SEED + np.arange(len(self.params), dtype=np.uint64) * np.uint64(2**32 + 1)

    def numbers(self, name: str, dtype: type = np.float64) -> np.ndarray:  # -> (T,)
        """One field of all rows' parameters."""
        return np.array([getattr(params, name) for params in self.params], dtype)

    def chosen(self, logits: np.ndarray) -> list[int]:  # (T, V) ->
        """What sampling.py chooses; the noise is that of the position behind a row's own."""
        return [
            choose(row, params, range(position + 1), (), int(seed)).token
            for row, params, position, seed in zip(logits, self.params, self.positions, self.seeds, strict=True)
        ]


def check(
    logits: np.ndarray, rows: Rows, tokens: list[int], outputs: Sequence[np.ndarray], step: int, before: np.ndarray
) -> None:  # (T, V)
    """A launch wrote these tokens, moved their rows on and reported them, and left padded rows alone."""
    new_tokens, positions, steps, results = outputs
    padded = rows.positions < 0
    assert steps.tolist() == [step + 1]
    assert new_tokens.tolist() == np.where(padded, before, tokens).tolist()
    assert positions.tolist() == np.where(padded, -1, rows.positions + 1).tolist()
    ends = np.stack((logits.min(axis=1), logits.max(axis=1)), axis=1)  # (T, 2)
    report = results[step % RING]
    assert report[~padded, 0].tolist() == np.array(tokens)[~padded].tolist()
    np.testing.assert_array_equal(report[~padded, 1:3].view(np.float32), ends[~padded])
    assert not report[~padded, 3].any()
    assert (report[padded] == -1).all()  # as poisoned
    assert (np.delete(results, step % RING, axis=0) == -1).all()
