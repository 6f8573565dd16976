"""Checkpoints: a run that goes on ends with the same bits, and what is no checkpoint of it is refused."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distilling import documents, training_of
from helpers import small_config
from safetensors.numpy import load_file, save_file

from tinyinfer.distillation import checkpoints
from tinyinfer.distillation.checkpoints import KEY, restore, save
from tinyinfer.distillation.training import Training
from tinyinfer.errors import ModelError

ABOUT = {"rate": 0.01, "top_k": None, "teacher": "t", "the student's weights": 7}
TESTED = documents([9, 5])


def begun(**changes: Any) -> Training:
    """A run of several epochs, so that a checkpoint lies inside one."""
    return training_of(documents([9, 13, 17, 11, 5]), tested=TESTED, decay=0.1, **changes)


def steps(training: Training, count: int) -> Training:
    """So many steps of a run, which then stops without its end."""
    run = training.run()
    for _ in range(count):
        next(run)
    return training


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_run_that_goes_on_ends_with_the_same_bits(count: int, tmp_path: Path) -> None:
    """Parameters, the optimizer, the losses, the tests. Catches an order that begins anew, and a step counted twice."""
    whole = begun()
    losses = list(whole.run())
    save(tmp_path / "one", steps(begun(), count), ABOUT)
    other = begun()
    assert restore(tmp_path / "one", other, ABOUT)
    assert list(other.run()) == losses[count:]
    np.testing.assert_array_equal(other.parameters.values, whole.parameters.values)
    np.testing.assert_array_equal(other.optimizer.means, whole.optimizer.means)
    np.testing.assert_array_equal(other.optimizer.squares, whole.optimizer.squares)
    assert other.place == whole.place
    assert other.optimizer.steps == whole.optimizer.steps == len(losses)


def test_the_model_that_goes_on_is_the_one_of_the_checkpoint(tmp_path: Path) -> None:
    """Catches arrays that are replaced, so that the model keeps its own."""
    save(tmp_path / "one", one := steps(begun(), 2), ABOUT)
    other = begun()
    restore(tmp_path / "one", other, ABOUT)
    assert other.test() == one.test() != begun().test()


def test_without_a_file_a_run_begins(tmp_path: Path) -> None:
    training = begun()
    before = training.parameters.values.copy()
    assert not restore(tmp_path / "none", training, ABOUT)
    np.testing.assert_array_equal(training.parameters.values, before)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte, and nothing beside it. Catches a file that is written over in place."""
    path, training = tmp_path / "one", steps(begun(), 1)
    save(path, training, ABOUT)
    before = path.read_bytes()

    def full(arrays: Any, part: Path, metadata: Any) -> None:
        part.write_bytes(before[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    message = r"one: the checkpoint cannot be written \(No space left on device\); make room, and run the same command"
    with pytest.raises(ModelError, match=message):
        save(path, steps(training, 1), ABOUT)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.02}, "one: the checkpoint is of another run (rate 0.01, now 0.02); give the same flags, or remove"),
        ({"teacher": "u", "top_k": 9}, "(top_k None, now 9; teacher 't', now 'u')"),
        ({"the student's weights": 8}, "(the student's weights 7, now 8)"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Naming what differs, with nothing changed. Catches a run that goes on from another student's weights."""
    save(tmp_path / "one", steps(begun(), 1), ABOUT)
    training = begun()
    before = training.parameters.values.copy()
    with pytest.raises(ModelError) as refused:
        restore(tmp_path / "one", training, ABOUT | changes)
    assert message in str(refused.value)
    np.testing.assert_array_equal(training.parameters.values, before)


def test_what_is_no_checkpoint_of_this_student(tmp_path: Path) -> None:
    """One sentence each: no such file at all, a torn one, another program's, another student's, a folder."""
    path = tmp_path / "one"
    save(path, begun(), ABOUT)
    whole, arrays = path.read_bytes(), load_file(path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "torn").write_bytes(whole[:-50])
    (tmp_path / "empty").write_bytes(b"")
    save_file(arrays, tmp_path / "foreign")
    save_file(arrays, tmp_path / "odd", {KEY: "[]"})
    save_file(arrays, tmp_path / "half", {KEY: json.dumps({"about": ABOUT})})
    for name in ("folder", "torn", "empty", "foreign", "odd", "half"):
        with pytest.raises(ModelError, match=f"{name}: is no checkpoint of this student .*; remove it, or choose"):
            restore(tmp_path / name, begun(), ABOUT)
    with pytest.raises(ModelError, match="one: is no checkpoint of this student"):
        restore(path, begun(config=small_config(num_layers=1)), ABOUT)


def test_which_student_it_was(tmp_path: Path) -> None:
    """A sum of its weights at the beginning, which another pruned model of the same shape does not share."""
    training = begun()
    first = training.begun
    steps(training, 2)
    assert training.begun == first == begun().begun
    assert begun(student=training.model).begun != first
