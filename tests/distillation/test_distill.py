"""A whole run: what it leaves beside its folder, what the folder is, and what keeps it from going on."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distilling import OPS, switches, write_config

from tinyinfer import LLM
from tinyinfer.cli import main
from tinyinfer.distillation import checkpoints
from tinyinfer.distillation.distill import Run
from tinyinfer.distillation.student import open_student
from tinyinfer.distillation.teacher import Kept
from tinyinfer.distillation.texts import read_documents, reading
from tinyinfer.errors import ModelError, TrainingError
from tinyinfer.loading import load

Folder = Callable[[str], Path]
TEXT = "The rain in the spring is a thing of the hills, and the hills are green and far away. " * 12


class Case:
    """Runs of one teacher and one text in a folder of their own."""

    def __init__(self, teacher: Path, folder: Path) -> None:
        self.teacher, self.folder = load(teacher), folder
        (folder / "text.txt").write_text(TEXT)
        self.config = write_config(folder / "small.json")

    def run(self, student: str | None = None, **changes: Any) -> Run:
        """A run that becomes `out`."""
        s = switches(**{"loss": "forward-kl", "tokens": 256, "save_every": 2} | changes)
        opened = open_student(student or self.config, self.teacher, s.seed)
        read = read_documents(str(self.folder / "text.txt"), self.teacher.tokenizer, s.window)
        return Run(self.folder / "out", s, self.teacher, opened, read, read[:2], OPS)

    def left(self) -> list[str]:
        """What stands beside text and configuration."""
        return sorted({path.name for path in self.folder.iterdir()} - {"text.txt", "small.json"})


@pytest.fixture
def case(golden_folder: Folder, tmp_path: Path) -> Case:
    return Case(golden_folder("llama"), tmp_path)


def finished(run: Run) -> np.ndarray:
    """The parameters at the end of a run, whose folder is written."""
    training = run.begin()
    run.train(training)
    run.write(training)
    return training.parameters.values


def interrupted(run: Run, steps: int) -> None:
    """A run that is stopped after so many steps."""

    def stop(training: Any) -> None:
        if training.optimizer.steps == steps:
            raise KeyboardInterrupt

    training = run.begin()
    with pytest.raises(KeyboardInterrupt):
        run.train(training, stop)


def test_the_folder_holds_what_was_learned(case: Case) -> None:
    """And nothing else is left. Catches a folder of the student before its training."""
    run = case.run()
    training = run.begin()
    run.train(training)
    size = run.write(training)
    llm = LLM(str(case.folder / "out"))
    tokens = run.documents[0].tolist()
    right = training._forward(reading([np.array([*tokens, 0])], [0], llm.model.config.rotation_sets), OPS)[1]
    np.testing.assert_allclose(llm.logits(tokens), right, atol=1e-5)
    assert size == sum(path.stat().st_size for path in (case.folder / "out").iterdir())
    assert case.left() == ["out"]


def test_a_file_of_ones_own_stays(case: Case) -> None:
    """Its student's out.json, and out.teacher.json only of a run. Catches a clean-up of whatever has the name."""
    mine = write_config(case.folder / "out.json")
    finished(case.run(mine, top_k=4))
    assert case.left() == ["out", "out.json"]
    assert Path(mine).read_text()


@pytest.mark.parametrize("changes", [{}, {"top_k": 5, "temperature": 2.0}, {"hidden": 0.0, "recompute": True}])
def test_an_interrupted_run_ends_with_the_same_bits(changes: dict[str, Any], case: Case) -> None:
    """Stopped between two checkpoints, and once more. Catches steps that are made twice."""
    whole = finished(case.run(**changes))
    files = {path.name: path.read_bytes() for path in (case.folder / "out").iterdir()}
    for path in (case.folder / "out").iterdir():
        path.unlink()
    for steps in (3, 5):
        interrupted(case.run(**changes), steps)
        assert "out.checkpoint" in case.left()
    np.testing.assert_array_equal(finished(case.run(**changes)), whole)
    assert {path.name: path.read_bytes() for path in (case.folder / "out").iterdir()} == files


def test_a_run_that_was_done_but_not_written_is_only_written(case: Case) -> None:
    run = case.run()
    training = run.begin()
    run.train(training)
    again = case.run().begin()
    assert list(again.run()) == []
    assert again.place == training.place
    np.testing.assert_array_equal(finished(case.run()), training.parameters.values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.5}, "(rate 0.01, now 0.5); give the same flags, or remove the file to begin anew"),
        ({"loss": "reverse-kl", "tokens": 999}, "(loss 'forward-kl', now 'reverse-kl'; tokens 256, now 999)"),
        ({"window": 8}, "(window 16, now 8; text "),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(changes: dict[str, Any], message: str, case: Case) -> None:
    """Naming what differs. Catches a run that says it has a rate which it never had."""
    interrupted(case.run(), 3)
    with pytest.raises(ModelError) as refused:
        case.run(**changes).begin()
    assert message in str(refused.value)


def test_the_checkpoint_of_another_configuration_is_refused(case: Case) -> None:
    """The field is named, and the sentence is short. Catches the whole configuration, twice."""
    interrupted(case.run(), 3)
    write_config(Path(case.config), intermediate_size=32)
    with pytest.raises(ModelError) as refused:
        case.run().begin()
    assert "(the student's intermediate_size '24', now '32'; the student's weights" in str(refused.value)
    assert len(str(refused.value)) < 400


def test_how_often_it_is_saved_may_change(case: Case) -> None:
    interrupted(case.run(), 3)
    assert case.run(save_every=1).begin().optimizer.steps == 2


def test_a_teachers_file_of_another_run_is_refused(case: Case) -> None:
    """Catches distributions at another temperature."""
    interrupted(case.run(top_k=4), 1)
    with pytest.raises(ModelError, match=r"out\.teacher: was written for temperature 1\.0, not 2\.0"):
        case.run(top_k=4, temperature=2.0).begin()


def test_the_teachers_file_has_all_documents(case: Case) -> None:
    """Also those that are only tested on, so that the place in it is a document's number."""
    run = case.run(top_k=4)
    kept = run.begin().objective.teacher
    assert isinstance(kept, Kept)
    assert len(kept.rows) == kept.starts[-1] == sum(len(ids) - 1 for ids in run.documents)


# Pruned students


@pytest.mark.parametrize("words", ["", "--sparsity 2:4", "--quantize int4"])
def test_a_pruned_student_stays_pruned(words: str, golden_folder: Folder, case: Case) -> None:
    """Zero where it was, sparse in the folder as before, and what the folder says of itself is true."""
    source = str(case.folder / "pruned")
    pruned = ["prune", "-q", "-m", str(golden_folder("llama")), "--method", "magnitude", "-o", source]
    assert main([*pruned, *words.split()]) == 0
    run = case.run(source, decay=0.1)
    training = run.begin()
    before = training.parameters.values.copy()
    run.train(training)
    run.write(training)
    assert not training.parameters.values[before == 0].any()
    found, given = load(case.folder / "out"), load(source)
    layouts = {name: tensor.sparse for name, tensor in given.tensors.items()}
    assert {name: tensor.sparse for name, tensor in found.tensors.items()} == layouts
    changed = [name for name, tensor in found.tensors.items() if layouts[name]]
    assert len(changed) == 21
    for name in changed:
        one, other = found.tensors[name].numpy(), given.tensors[name].numpy()
        assert not one[other == 0].any()
        assert (one != other)[other != 0].mean() > 0.9
    assert found.quantization["method"] == "magnitude"
    recipe = found.quantization["recipe"]
    assert recipe["sparsity"] == given.quantization["recipe"]["sparsity"]
    assert recipe["quantize"] == "off"
    assert np.isfinite(LLM(str(case.folder / "out")).logits([1, 5, 9])).all()


def test_another_pruned_student_does_not_go_on_from_there(golden_folder: Folder, case: Case) -> None:
    """Of the same name and shape, but with zeros elsewhere. Catches a model that is no more as sparse as it says."""
    source = case.folder / "pruned"
    words = ["prune", "-q", "-m", str(golden_folder("llama")), "-o", str(source), "--method"]
    assert main([*words, "magnitude"]) == 0
    interrupted(case.run(str(source)), 3)
    for path in source.iterdir():
        path.unlink()
    assert main([*words, "wanda", "--calibration", str(case.folder / "text.txt")]) == 0
    with pytest.raises(ModelError, match=r"checkpoint is of another run \(the student's weights "):
        case.run(str(source)).begin()


# Trouble


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step and the checkpoint are named; and the same command does not go on beyond it."""
    run, said = case.run(save_every=1), []
    training = run.begin()
    backward = training.backward

    def spoiled(one: Any, share: float) -> float:
        said.append(one)
        return backward(one, share) if len(said) < 4 else float("nan")

    monkeypatch.setattr(training, "backward", spoiled)
    with pytest.raises(TrainingError) as stopped:
        run.train(training)
    assert "step 4: the loss is nan" in str(stopped.value)
    assert f"; the checkpoint before it is {run.checkpoint}; a lower rate" in str(stopped.value)
    again = case.run(save_every=1).begin()
    assert again.optimizer.steps == 3
    assert np.isfinite(again.parameters.values).all()


@pytest.mark.parametrize("save_every", [1, 50])
@pytest.mark.parametrize("tokens", [16, 256])
def test_an_absurd_rate_leaves_no_checkpoint_without_numbers(tokens: int, save_every: int, case: Case) -> None:
    """Its loss was a number before the step that spoiled all weights. Catches a checkpoint after that step."""
    run = replace(case.run(rate=1e38, tokens=tokens, save_every=save_every), tested=[])
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"step [12]: .*; none was written; a lower rate"):
            run.train(run.begin())
        assert case.left() == []


def test_a_full_disk_at_a_checkpoint(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before stays, and with room again the same run ends as it would have."""
    whole = finished(case.run())
    for path in (case.folder / "out").iterdir():
        path.unlink()
    save_file, saved = checkpoints.save_file, []

    def full(arrays: Any, part: Path, metadata: Any) -> None:
        saved.append(part)
        if len(saved) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(arrays, part, metadata)

    monkeypatch.setattr(checkpoints, "save_file", full)
    run = case.run()
    with pytest.raises(ModelError, match=r"the checkpoint cannot be written .*No space left on device"):
        run.train(run.begin())
    assert case.run().begin().optimizer.steps == 4
    assert case.left() == ["out", "out.checkpoint"]
    np.testing.assert_array_equal(finished(case.run()), whole)


def test_a_student_of_fewer_tokens(case: Case) -> None:
    """It learns, is written, and loads with its teacher's vocabulary. Catches an id that it does not have."""
    mine = write_config(case.folder / "few.json", vocab_size=200)
    run = case.run(mine, tokens=1600, text_share=0.5)
    assert max(int(ids.max()) for ids in run.documents) > 199
    training = run.begin()
    run.train(training)
    run.write(training)
    first, last = (np.mean([loss for _, loss in part]) for part in
                   (training.place.losses[:5], training.place.losses[-5:]))  # fmt: skip
    assert last < first
    assert load(case.folder / "out").config.vocab_size == 200
    assert LLM(str(case.folder / "out")).logits([5, 6, 199]).shape[1] == 200


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "gemma3", "phi3", "olmo2"])
def test_families_come_back(name: str, golden_folder: Folder, case: Case) -> None:
    """Each is trained and written as its family is. Catches a part that has a gradient and no place in a file."""
    run = case.run(str(golden_folder(name)), tokens=64)
    training = run.begin()
    run.train(training)
    run.write(training)
    np.testing.assert_allclose(
        LLM(str(case.folder / "out")).model.final_norm.weight, training.model.final_norm.weight, rtol=1e-6
    )
    assert load(case.folder / "out").config == load(golden_folder(name)).config
