"""The teacher: what it says of each row, and the file that keeps it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distilling import OPS, SMALL, documents, model_of
from scipy.special import logsumexp, softmax

from tinyinfer.distillation import teacher as teachers
from tinyinfer.distillation.padding import PassCache
from tinyinfer.distillation.teacher import Kept, Teacher, beside, keep
from tinyinfer.distillation.texts import reading
from tinyinfer.errors import ModelError
from tinyinfer.model.transformer import transformer

READ = documents([6, 9, 4, 12, 7, 5, 8, 11, 10, 6])
RECORD = 3 * (4 + 2) + 4  # bytes of a row at k = 3


class Counted(Teacher):
    """A teacher that notes what it is asked, and stops at a pass of the given number."""

    asked: list[tuple[int, ...]]
    stop_at: int

    def __call__(self, one: Any) -> Any:
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(one.documents)
        return super().__call__(one)


def teacher(stop_at: int = -1) -> Counted:
    one = Counted(model_of(seed=5), OPS)
    object.__setattr__(one, "asked", [])
    object.__setattr__(one, "stop_at", stop_at)
    return one


def kept(path: Path, one: Teacher | None = None, k: int = 3, temperature: float = 2.0, known: int = 31,
         **about: Any) -> Kept:  # fmt: skip
    return keep(path, one or teacher(), READ, k, temperature, known, {"teacher": "t", "text": 7} | about)


@pytest.fixture(autouse=True)
def small_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some passes for ten documents."""
    monkeypatch.setattr(teachers, "BATCH", 16)


def logits_of(numbers: list[int]) -> np.ndarray:  # -> (T, V)
    """Each document by itself."""
    model = model_of(seed=5)
    batches = [reading(READ, [n], SMALL.rotation_sets).batch for n in numbers]
    return np.concatenate([transformer(model, batch, PassCache(), OPS) for batch in batches])


def test_a_teacher_says_of_each_document_what_it_says_of_it_alone() -> None:
    """Catches a document that sees its neighbour. The hidden states are those before the last norm, of each row."""
    logits, hidden = teacher()(reading(READ, [3, 0, 2], SMALL.rotation_sets))
    np.testing.assert_allclose(logits, logits_of([3, 0, 2]), atol=1e-4)
    assert hidden.shape == (len(logits), 20)
    model = model_of(seed=5)
    head = OPS.linear(OPS.norm(hidden.copy(), model.final_norm), model.head)
    np.testing.assert_allclose(head, logits, atol=1e-4)


def test_the_file_has_the_likeliest_of_every_row(tmp_path: Path) -> None:
    """Read in any order. Catches rows of another document, and log-probabilities without the temperature."""
    found = kept(tmp_path / "said").top_k(reading(READ, [8, 1], SMALL.rotation_sets), np)
    p = softmax(logits_of([8, 1]) / 2, axis=1)
    np.testing.assert_array_equal(found.tokens, np.argsort(-p, axis=1)[:, :3])
    np.testing.assert_allclose(found.log_p, np.log(-np.sort(-p, axis=1)[:, :3]), atol=2e-3)
    np.testing.assert_allclose(found.rest, -np.sort(-p, axis=1)[:, 3:].sum(axis=1), atol=1e-5)
    assert (tmp_path / "said").stat().st_size == RECORD * sum(len(ids) - 1 for ids in READ)


def test_a_student_of_fewer_tokens(tmp_path: Path) -> None:
    """Its last token has the probability of all that it does not know. Catches a token that it does not have."""
    found = kept(tmp_path / "said", k=10, known=10).top_k(reading(READ, [3], SMALL.rotation_sets), np)
    logits = logits_of([3])
    few = np.concatenate([logits[:, :9] / 2, logsumexp(logits[:, 9:], axis=1)[:, None] / 2], axis=1)
    p = softmax(few, axis=1)
    np.testing.assert_array_equal(np.sort(found.tokens, axis=1), np.tile(np.arange(10), (11, 1)))
    np.testing.assert_allclose(np.exp(found.log_p), np.take_along_axis(p, found.tokens, 1), atol=1e-3)


@pytest.mark.parametrize("torn", [0, 5, RECORD, 3 * RECORD + 1, -7])
@pytest.mark.parametrize("passes", [0, 2, 4])
def test_interrupted_and_resumed_gives_the_same_bytes(passes: int, torn: int, tmp_path: Path) -> None:
    """Also with a part of the next pass, or of a record, on disk; what is there whole is not asked again.

    Catches passes that are divided in another way afterwards, in which a last bit may differ.
    """
    kept(tmp_path / "whole", whole := teacher())
    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "said", teacher(passes))
    written = (tmp_path / "said").read_bytes()
    there = written + b"\x55" * torn if torn >= 0 else written[:torn]
    (tmp_path / "said").write_bytes(there)
    kept(tmp_path / "said", rest := teacher())
    assert (tmp_path / "said").read_bytes() == (tmp_path / "whole").read_bytes()
    assert rest.asked == whole.asked[len(whole.asked) - len(rest.asked) :]
    assert len(rest.asked) <= len(whole.asked) - passes + (torn < 0)


def test_a_whole_file_is_only_read(tmp_path: Path) -> None:
    first = kept(tmp_path / "said")
    again = kept(tmp_path / "said", one := teacher())
    assert one.asked == []
    np.testing.assert_array_equal(first.rows, again.rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "u"}, "was written for teacher 't', not 'u'; remove it, or choose another -o"),
        ({"text": 8}, "was written for text 7, not 8"),
        ({"k": 4}, "was written for top_k 3, not 4"),
        ({"temperature": 1.0, "known": 9}, "was written for temperature 2.0, not 1.0, known 31, not 9"),
    ],
)
def test_a_file_of_something_else_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """And stays as it is. Catches distributions of another teacher that are believed."""
    kept(tmp_path / "said")
    before = (tmp_path / "said").read_bytes()
    with pytest.raises(ModelError) as refused:
        kept(tmp_path / "said", **changes)
    assert message in str(refused.value)
    assert (tmp_path / "said").read_bytes() == before


def test_a_full_disk_is_told_and_what_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, calls = teachers._said, []

    def full(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return said(*args)

    monkeypatch.setattr(teachers, "_said", full)
    with pytest.raises(ModelError, match=r"said: cannot be written \(No space left on device\); make room"):
        kept(tmp_path / "said")
    monkeypatch.undo()
    monkeypatch.setattr(teachers, "BATCH", 16)
    kept(tmp_path / "said", rest := teacher())
    kept(tmp_path / "whole", whole := teacher())
    assert len(rest.asked) == len(whole.asked) - 2
    assert (tmp_path / "said").read_bytes() == (tmp_path / "whole").read_bytes()


def test_what_it_was_written_for_stands_beside_it(tmp_path: Path) -> None:
    """Under a name of its own. Catches the student's own NAME.json, which would be written over."""
    kept(tmp_path / "out.v1.teacher")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.v1.teacher", "out.v1.teacher.json"]
    assert beside(tmp_path / "out.teacher").name == "out.teacher.json"
