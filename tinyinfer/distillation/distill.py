"""A whole run of distillation: teacher and student into memory, training with checkpoints, the student to a folder."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tinyinfer.distillation.checkpoints import restore, save
from tinyinfer.distillation.documents import fingerprint
from tinyinfer.distillation.objective import Objective
from tinyinfer.distillation.student import check_student
from tinyinfer.distillation.switches import TrainingSwitches
from tinyinfer.distillation.teacher import Kept, Teacher, beside, keep
from tinyinfer.distillation.training import Training
from tinyinfer.errors import TrainingError
from tinyinfer.loading.build import build_model
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.loading.plain_folder import save_plain
from tinyinfer.loading.saving import save_model
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model
from tinyinfer.model.visit import map_matrices
from tinyinfer.model.weights import Floats, SparseMatrix, Weight
from tinyinfer.pruning.apply import is_pruned

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Run:
    """What a run is made of. Its files stand beside `folder`, which it becomes: a checkpoint, and what a teacher said.

    documents: what is read; tested: what is only measured on, None for some of the documents. kept: what a teacher said
    of the documents, if that is known; then `teacher` only lends its name.
    """

    folder: Path
    switches: TrainingSwitches
    teacher: Checkpoint
    student: Checkpoint
    documents: Seq[np.ndarray]
    tested: Seq[np.ndarray] | None
    ops: Ops
    kept: Kept | None = None

    @property
    def checkpoint(self) -> Path:
        """Where the run's state is kept."""
        return self.folder.with_name(self.folder.name + ".checkpoint")

    @property
    def said(self) -> Path:
        """Where the top k of the teacher's distributions are kept."""
        return self.folder.with_name(self.folder.name + ".teacher")

    @property
    def masked(self) -> bool:
        """Whether the student is pruned weight by weight, so that these stay zero."""
        return any(tensor.sparse for tensor in self.student.tensors.values())

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the run's numbers depend on, but for the student's weights."""
        sums = {"text": checksum(self.documents), "test": checksum(self.tested or ())}
        sums |= {"said": zlib.crc32(self.kept.rows.tobytes())} if self.kept is not None else {}
        teacher = Path(self.teacher.path)
        names = {"teacher": f"{teacher.name} ({fingerprint(teacher)})", "student": Path(self.student.path).name}
        c = self.student.config
        shape = {f"the student's {one.name}": str(getattr(c, one.name)) for one in fields(c)}
        return {**self.switches.about, **names, **sums, **shape}

    def about_of(self, training: Training) -> dict[str, Any]:
        """What a checkpoint is of."""
        return {**self.about, "the student's weights": training.begun}

    def begin(self, on_rows: Progress = lambda done, of: None) -> Training:
        """The run at its checkpoint, or at its beginning. on_rows(done, total): as the teacher's file is written."""
        check_student(self.student, self.teacher, self.switches)
        student = build_model(self.student, self.ops)
        objective = Objective(self.switches, self._teacher(on_rows) if self.switches.asks_teacher else None)
        training = Training(student, self.ops, self.documents, objective, self.masked, self.tested)
        restore(self.checkpoint, training, self.about_of(training))
        return training

    def _teacher(self, on_rows: Progress) -> Teacher | Kept:
        """The teacher itself, or what it said of all documents."""
        s = self.switches
        if self.kept is not None:
            return self.kept
        teacher = Teacher(build_model(self.teacher, self.ops), self.ops)
        if s.top_k is None:
            return teacher
        known, about = self.student.config.vocab_size, self.about
        about = {name: about[name] for name in ("teacher", "text")}
        return keep(self.said, teacher, self.documents, s.top_k, s.temperature, known, about, on_rows)

    def train(self, training: Training, on_step: Callable[[Training], None] = lambda training: None) -> None:
        """Trains to the end, and writes checkpoints. on_step is called after each step.

        Raises TrainingError, naming the checkpoint that is left, for a loss that is no number.
        """
        try:
            for _ in training.run():
                if training.optimizer.steps % self.switches.save_every == 0:
                    training.check()
                    save(self.checkpoint, training, self.about_of(training))
                on_step(training)
            training.check()
        except TrainingError as error:
            left = f"the checkpoint before it is {self.checkpoint}" if self.checkpoint.exists() else "none was written"
            cure = "a lower rate or clip may help; remove the checkpoint to begin anew with them"
            raise TrainingError(f"{error}; {left}; {cure}") from None
        save(self.checkpoint, training, self.about_of(training))

    def write(self, training: Training, on_tensor: Progress = lambda done, of: None) -> int:
        """Writes the student's folder, and removes the run's other files; the number of bytes of the folder's files."""
        if self.masked:
            given = self.student.quantization or {}
            about: dict[str, Any] = {name: given[name] for name in ("method", "recipe") if name in given}
            about["recipe"] = {**about.get("recipe", {}), "quantize": "off", "quantize_head": "off"}  # floats again
            size = save_model(self.folder, self._sparse(training.model), self.student, about, on_tensor)
        else:
            size = save_plain(self.folder, training.model, self.student, on_tensor)
        for path in (self.checkpoint, *([self.said, beside(self.said)] if self.switches.top_k else [])):
            path.unlink(missing_ok=True)
        return size

    def _sparse(self, model: Model) -> Model:
        """The model without the zeros of the layers' matrices, in the layout that the student's folder has."""
        [layout] = {tensor.sparse for tensor in self.student.tensors.values() if tensor.sparse}

        def change(name: str, weight: Weight) -> Weight:
            matrix = weight.matrix()
            assert isinstance(matrix, Floats)
            return self.ops.take(SparseMatrix(matrix, layout)) if is_pruned(name) else weight

        return map_matrices(model, change)


def checksum(documents: Seq[np.ndarray]) -> int:
    """A checksum of documents' tokens, and of where one ends and the next begins."""
    return zlib.crc32(b"".join(ids.astype("<i8").tobytes() + b"." for ids in documents))
