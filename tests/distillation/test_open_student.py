"""Students: random ones of a configuration, and what is refused before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distilling import switches, write_config
from helpers import small_config

from tinyinfer.distillation.student import check_student, is_config, open_student, random_student, random_tensor
from tinyinfer.errors import ModelError
from tinyinfer.loading import load
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.model.config import MoEConfig, RopeConfig

Folder = Callable[[str], Path]


@pytest.fixture
def teacher(golden_folder: Folder) -> Checkpoint:
    return load(golden_folder("llama"))


def test_random_weights_are_as_gpt_2s() -> None:
    """0.02, and 1 / sqrt(2L) of it where a layer writes; norms of ones, biases of zeros."""
    config = small_config(num_layers=8)
    for name, share in (("layers.0.q", 1.0), ("embedding", 1.0), ("layers.3.o", 0.25), ("layers.0.down", 0.25)):
        array = random_tensor(name, (300, 400), config, 1).numpy()
        assert array.std() == pytest.approx(0.02 * share, rel=0.01)
        assert abs(array.mean()) < 0.02 * share * 0.02
        assert array.dtype == np.float32
    assert (random_tensor("layers.0.norm1", (9,), config, 1).numpy() == 1).all()
    assert (random_tensor("layers.0.q.bias", (9,), config, 1).numpy() == 0).all()


def test_the_seed_and_the_name_decide() -> None:
    """Catches layers that are all the same, and rows that depend on how they are read."""
    config = small_config()
    asked = [("a", 1), ("a", 1), ("b", 1), ("a", 2)]
    read = [random_tensor(name, (8, 5), config, seed).numpy() for name, seed in asked]
    np.testing.assert_array_equal(read[0], read[1])
    assert (read[0] != read[2]).all()
    assert (read[0] != read[3]).all()
    np.testing.assert_array_equal(random_tensor("a", (8, 5), config, 1).read(3, 6), read[0][3:6])
    assert random_tensor("a.bias", (8,), config, 1).read(3, 6).shape == (3,)


@pytest.mark.parametrize("name", ["any name.json", "config.json"])
def test_a_configuration_becomes_a_student(name: str, teacher: Checkpoint, tmp_path: Path) -> None:
    """As a file of any name, or a folder with it; the vocabulary is the teacher's."""
    path = write_config(tmp_path / name, vocab_size=100)
    for place in [path, str(tmp_path)] if name == "config.json" else [path]:
        student = open_student(place, teacher, 3)
        assert (student.config.hidden_size, student.config.vocab_size) == (16, 100)
        assert student.tokenizer is teacher.tokenizer
        assert student.tensors["embedding"].numpy().shape == (100, 16)


def test_a_folder_with_weights_is_a_model(golden_folder: Folder, teacher: Checkpoint) -> None:
    """Catches a student that loses all that it knows."""
    folder = golden_folder("llama")
    assert not is_config(folder)
    student = open_student(str(folder), teacher, 3)
    for name, tensor in teacher.tensors.items():
        np.testing.assert_array_equal(student.tensors[name].numpy(), tensor.numpy())


def test_a_vocabulary_of_its_own(golden_folder: Folder, teacher: Checkpoint, tmp_path: Path) -> None:
    """Beside the config.json. Of other tokens it may only learn from the text."""
    shutil.copy(golden_folder("llama") / "tokenizer_config.json", tmp_path)
    vocabulary = json.loads((golden_folder("llama") / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary))
    write_config(tmp_path / "config.json", vocab_size=300)
    student = open_student(str(tmp_path), teacher, 3)
    assert student.tokenizer is not teacher.tokenizer
    tokens = vocabulary["model"]["vocab"]
    a, b = "a", "b"
    tokens[a], tokens[b] = tokens[b], tokens[a]
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ModelError) as refused:
        open_student(str(tmp_path), teacher, 3)
    first = min(tokens[a], tokens[b])
    assert str(refused.value) == (
        f"{tmp_path}: has another vocabulary than {teacher.path} (token id {first} is the first to differ), "
        "so the teacher's distributions mean nothing to it; choose loss=cross-entropy"
    )
    assert open_student(str(tmp_path), teacher, 3, compared=False).config.vocab_size == 300


def test_more_tokens_than_the_teachers_vocabulary(teacher: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"vocab_size is 278, more than the 277 of .*, whose tokens it gets; make it"):
        random_student(Path(write_config(tmp_path / "c.json", vocab_size=278)), teacher, 1)


@pytest.mark.parametrize("name", ["none.json", "folder"])
def test_a_student_that_is_not_there(name: str, teacher: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such folder or \.gguf file"):
        open_student(str(tmp_path / name), teacher, 1)


LLAMA, PARTLY = {"loss": "forward-kl"}, (RopeConfig(size=4),) * 2


@pytest.mark.parametrize(
    ("config", "asked", "message"),
    [
        ({"experts": MoEConfig(3, 2, 12)}, LLAMA, "is a mixture of experts, which has no gradients here; choose a"),
        ({"max_position": 15}, LLAMA, "has 15 positions, and window=16 wants more; choose a smaller window"),
        ({"max_position": 200}, LLAMA | {"window": 129}, "its teacher has 128 positions, and window=129 wants more"),
        ({"vocab_size": 278}, LLAMA, "has 278 tokens, more than the 277 of its teacher; choose loss=cross-entropy"),
        ({}, LLAMA | {"hidden": 1.0}, "its hidden states are 20 wide, and its teacher's 60, so hidden=1.0 cannot"),
        ({}, LLAMA | {"top_k": 32}, "has 31 tokens, fewer than top_k=32; choose a smaller one"),
        ({"architecture": "gpt_neox"}, LLAMA, "so that no plain folder is written"),
        ({"rope": PARTLY}, LLAMA, "so that no plain folder is written"),
        ({"hidden_size": 22}, LLAMA, "is no multiple of the 4 query heads"),
    ],
)
def test_what_cannot_be_trained_or_written(
    config: dict[str, Any], asked: dict[str, Any], message: str, teacher: Checkpoint
) -> None:
    """Before any work. Catches an error of NumPy in the first step, and a folder that fails after hours."""
    student = replace(teacher, path="mine", config=small_config(**config))
    with pytest.raises(ModelError) as refused:
        check_student(student, teacher, switches(**asked))
    assert message in str(refused.value)
    assert str(refused.value).startswith("mine: ")


def test_what_can(teacher: Checkpoint) -> None:
    """The text alone asks nothing of the teacher."""
    check_student(replace(teacher, config=small_config()), teacher, switches(loss="forward-kl", top_k=31))
    alone = small_config(vocab_size=999, max_position=500)
    check_student(replace(teacher, config=alone), teacher, switches(window=500))
