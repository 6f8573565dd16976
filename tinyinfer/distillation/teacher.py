"""What a teacher says of a text: its logits, computed as they are needed, or kept on disk as the top k and a rest.

The teacher's pass over a batch costs a third of the student's step when both are of one size. Over several epochs, or
several students, it is cheaper to run the teacher once and to keep of each row the k likeliest tokens, their
log-probabilities and the probability of all others: at k = 24 that is 148 bytes a row, where the logits have 197 KB.

Wins: the teacher is not even in memory while the student learns. Loses: temperature is fixed when the file is written,
and reverse KL needs what only the whole distribution says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.distillation.losses import TopK, merged, top_k
from tinyinfer.distillation.padding import PassCache
from tinyinfer.distillation.texts import Reading, in_order, reading
from tinyinfer.errors import ModelError
from tinyinfer.loading.whole import whole
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model, embed, head, run_layers

BATCH = 2048  # rows of a pass of the teacher


@dataclass(frozen=True)
class Teacher:
    """A model that is asked, and never changed."""

    model: Model
    ops: Ops

    def __call__(self, one: Reading) -> tuple[Array, Array]:  # -> (T, V), (T, D)
        """The logits and the last hidden states of every row."""
        m, batch = self.model, one.batch
        hidden = run_layers(m, 0, len(m.layers), embed(m, batch, self.ops), batch, PassCache(), self.ops)  # (T, D)
        return head(m, hidden, batch, self.ops), hidden


@dataclass(frozen=True)
class Kept:
    """What a teacher said of documents, read from its file. starts: the first row of each document."""

    rows: np.ndarray
    starts: np.ndarray

    def top_k(self, one: Reading, xp: Any) -> TopK:
        """The rows of a batch's documents."""
        found = np.concatenate([self.rows[self.starts[n] : self.starts[n + 1]] for n in one.documents])
        parts = found["tokens"].astype(np.int64), found["log_p"].astype(np.float32), found["rest"]
        return TopK(*map(xp.asarray, parts))


def keep(
    path: Path,
    teacher: Teacher,
    documents: Seq[np.ndarray],
    k: int,
    temperature: float,
    known: int,
    about: dict[str, Any],
    on_rows: Callable[[int, int], None] = lambda done, of: None,
    batch: int | None = None,
) -> Kept:
    """Writes what the teacher says of each document, and goes on where an earlier call was stopped.

    known: how many tokens the student has. about: what the file must have been written for; a file of something else is
    refused. on_rows(done, total) is called after each pass. batch: rows of a pass of the teacher, if not BATCH; fewer
    take less memory. Raises ModelError for such a file, and for one that cannot be written.
    """
    record = np.dtype([("tokens", "<u4", k), ("log_p", "<f2", k), ("rest", "<f4")])
    starts = np.cumsum([0, *(len(ids) - 1 for ids in documents)])
    groups = list(in_order(documents, batch or BATCH))  # always the same passes: in other ones a last bit may differ
    try:
        rows = _begun(path, record, {**about, "top_k": k, "temperature": temperature, "known": known})
        todo = [numbers for numbers in groups if starts[numbers[-1] + 1] > rows]
        with open(path, "r+b") as file:
            file.truncate(int(starts[todo[0][0] if todo else -1]) * record.itemsize)
            file.seek(0, os.SEEK_END)
            for numbers in todo:
                file.write(_said(teacher, documents, numbers, k, temperature, known, record).tobytes())
                file.flush()
                on_rows(int(starts[numbers[-1] + 1]), int(starts[-1]))
    except OSError as error:
        reason = error.strerror or error
        raise ModelError(f"{path}: cannot be written ({reason}); make room, or choose another place") from None
    return Kept(np.memmap(path, record, "r"), starts)


def beside(path: Path) -> Path:
    """Where it stands what a teacher's file was written for."""
    return path.with_name(path.name + ".json")


def _begun(path: Path, record: np.dtype, about: dict[str, Any]) -> int:
    """How many rows the file has whole; a new file has none. Raises ModelError for a file of something else."""
    if path.exists():
        try:
            found = dict(json.loads(beside(path).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            wrong = f"{path}: is there, and {beside(path).name} does not say what for"
            raise ModelError(f"{wrong}; remove it, or choose another -o") from None
        if found != about:
            other = [f"{key} {found.get(key)!r}, not {about[key]!r}" for key in about if found.get(key) != about[key]]
            raise ModelError(f"{path}: was written for {', '.join(other)}; remove it, or choose another -o")
        return path.stat().st_size // record.itemsize
    with whole(beside(path)) as part:
        part.write_text(json.dumps(about), encoding="utf-8")
    path.write_bytes(b"")
    return 0


def _said(
    teacher: Teacher, documents: Seq[np.ndarray], numbers: Seq[int], k: int, temperature: float, known: int,
    record: np.dtype,
) -> np.ndarray:  # fmt: skip
    """The records of some documents' rows."""
    one = reading(documents, numbers, teacher.model.config.rotation_sets)
    xp = teacher.ops.xp
    said = top_k(merged(teacher(one)[0], known, xp), k, temperature, xp)
    rows = np.empty(len(one), record)
    rows["tokens"], rows["log_p"], rows["rest"] = map(teacher.ops.to_host, (said.tokens, said.log_p, said.rest))
    return rows
