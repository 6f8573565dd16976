"""Texts: from a file to documents, and from documents to batches in an order that a seed decides."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from distilling import SMALL, documents, reading_of
from helpers import Letters

from tinyinfer.distillation.texts import LEAST, epoch, in_order, read_documents, read_windows, reading
from tinyinfer.errors import ModelError

LETTERS = Letters(97)


def written(path: Path, *records: object) -> str:
    """A file of such lines: text as it is, the rest as JSON."""
    lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_plain_text_is_one_document_in_windows(tmp_path: Path) -> None:
    """Windows share a token, so that each token but the first is said once. Catches one that is never a target."""
    text = "abcdefghijklmnopqrstuvwxyz" * 2
    (tmp_path / "a.txt").write_text(text)
    found = read_documents(str(tmp_path / "a.txt"), LETTERS, 17)
    assert [len(ids) for ids in found] == [18, 18, 18]
    assert np.concatenate([ids[1:] for ids in found]).tolist() == LETTERS.encode(text)[1:]
    assert all(a[-1] == b[0] for a, b in pairwise(found))


def test_each_line_is_a_document(tmp_path: Path) -> None:
    """The prompt before the text, or the text alone. Catches a document that runs on into the next line's."""
    path = written(tmp_path / "a.jsonl", {"prompt": "Say ", "text": "something."}, {"text": "And more of it."})
    found = read_documents(path, LETTERS, 16)
    assert [ids.tolist() for ids in found] == [LETTERS.encode("Say something."), LETTERS.encode("And more of it.")]
    alone = read_documents(path, LETTERS, 16, answers=True)
    assert [ids.tolist() for ids in alone] == [LETTERS.encode("something."), LETTERS.encode("And more of it.")]


def test_lines_end_where_json_says(tmp_path: Path) -> None:
    """Unicode has more ends of lines, which may stand in a text; an empty line is nothing."""
    text = "one\u2028two\u0085three and four\u2029"
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n\n", encoding="utf-8")
    [found] = read_documents(str(path), LETTERS, 22)
    assert found.tolist() == LETTERS.encode(text)


def test_short_documents_are_left_out(tmp_path: Path) -> None:
    """Also the rest of a long one."""
    path = written(tmp_path / "a.jsonl", {"text": "x" * (LEAST - 1)}, {"text": "y" * LEAST}, {"text": "z" * 23})
    assert [len(ids) for ids in read_documents(path, LETTERS, 20)] == [LEAST, 21]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (['{"text": "good enough"}', "{"], "line 2: is no object with a"),
        (['{"text": "good enough"}', "", "[1]"], "line 3: is no object with a"),
        ([{"text": 3}], "line 1: is no object with a"),
        ([{"prompt": ["x"], "text": "x"}], "line 1: is no object with a"),
        (["[" * 100_000], "line 1: is no object with a"),
        ([{"text": "nine char"}], "has 9 tokens, but a window has 16; give a longer text"),
        ([{"text": "tiny"}] * 20, "has no document of 8 tokens; give longer ones"),
        ([""], "has 0 tokens, but a window has 16"),
    ],
)
def test_what_is_no_text(records: list[object], message: str, tmp_path: Path) -> None:
    """Catches a line that is passed over in silence, and a file without documents, of which there is no epoch."""
    path = written(tmp_path / "a.jsonl", *records)
    with pytest.raises(ModelError) as refused:
        read_documents(path, LETTERS, 16)
    assert message in str(refused.value)
    assert path in str(refused.value)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    for name, message in (("bytes.txt", "convert it to UTF-8"), ("none.txt", "No such file"), (".", "Is a directory")):
        for read in (read_documents, lambda path, letters, window: read_windows(path, letters, window, 100)):
            with pytest.raises(ModelError, match=message):
                read(str(tmp_path / name), LETTERS, 16)


def test_a_finished_text_ends_with_the_end_token(tmp_path: Path) -> None:
    """Catches a student that never reads an end, and so never stops; an unfinished text has none."""
    lines = [{"text": "abcdefgh", "finished": finished} for finished in (True, False)]
    path = written(tmp_path / "a.jsonl", *lines)
    assert [ids.tolist()[8:] for ids in read_documents(path, LETTERS, 16, end=(30,))] == [[30], []]


def test_windows_for_tests(tmp_path: Path) -> None:
    """The first tokens only, in windows without a shared token; also across a file's lines."""
    path = written(tmp_path / "a.jsonl", {"text": "abcdefgh"}, {"text": "ijklmnop"})
    found = read_windows(path, LETTERS, 5, 13)
    assert [ids.tolist() for ids in found] == [LETTERS.encode("abcde"), LETTERS.encode("fghij")]
    with pytest.raises(ModelError, match="has 13 tokens, but a window has 14"):
        read_windows(path, LETTERS, 14, 13)


def test_a_reading_is_its_documents_one_behind_the_other() -> None:
    """Positions begin anew, every row wants its logits. Catches a target of the next document."""
    read = documents([6, 3, 9])
    one = reading(read, [2, 0], SMALL.rotation_sets)
    assert one.batch.tokens.tolist() == [*read[2][:-1], *read[0][:-1]]
    assert one.tokens.tolist() == [*read[2][1:], *read[0][1:]]
    assert one.batch.positions.tolist() == [*range(8), *range(5)]
    assert one.batch.logit_rows.tolist() == list(range(13))
    assert [(span.start, span.stop, span.first) for span in one.batch.spans] == [(0, 8, 0), (8, 13, 0)]
    assert one.documents == (2, 0)
    assert len(one) == 13
    assert len({span.seq.id for span in one.batch.spans}) == 2
    assert len(reading_of([4])) == 3


# The order


def test_an_epoch_reads_every_document_once() -> None:
    read = documents(np.random.default_rng(0).integers(2, 40, 300).tolist())
    for number in range(3):
        batches = epoch(read, 64, 1, number)
        assert Counter(n for batch in batches for n in batch) == Counter(range(300))


def test_no_batch_has_more_than_it_should() -> None:
    """But for a document that is longer by itself; and a batch is full. Catches one batch for each document."""
    read = documents([*np.random.default_rng(0).integers(2, 40, 300).tolist(), 200])
    rows = [sum(len(read[n]) - 1 for n in batch) for batch in epoch(read, 64, 1, 0)]
    assert [n for n in rows if n > 64] == [199]
    assert np.mean(rows) > 45
    assert [len(batch) for batch in epoch(documents([9] * 12), 16, 1, 0)] == [2] * 6


def test_documents_of_a_batch_are_of_like_lengths() -> None:
    """Else attention fills up: here less than a tenth of the places."""
    read = documents(np.random.default_rng(0).integers(2, 40, 600).tolist())
    sizes = [[len(read[n]) - 1 for n in batch] for batch in epoch(read, 128, 1, 0)]
    places, rows = sum(max(size) * len(size) for size in sizes), sum(map(sum, sizes))
    assert rows > 0.9 * places


def test_the_seed_and_the_epoch_decide_the_order() -> None:
    read = documents([9] * 40)
    orders = [epoch(read, 16, seed, number) for seed, number in ((1, 0), (1, 0), (2, 0), (1, 1), (0, 1))]
    assert orders[0] == orders[1]
    assert len({str(order) for order in orders}) == 4
    assert orders[0] != sorted(orders[0])


def test_groups_in_order() -> None:
    """Catches an empty group, and the last one left out."""
    assert list(in_order(documents([5, 5, 30, 3, 3]), 8)) == [[0, 1], [2], [3, 4]]
    assert list(in_order([], 8)) == []
