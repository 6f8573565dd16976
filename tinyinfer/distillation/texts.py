"""From a text file to batches of documents: what a student reads, in an order that a seed decides.

A document is one text: a line of a .jsonl file, or a whole file of plain text. A long one is cut into windows. A batch
is some documents one behind the other without padding, each a sequence of its own, so that none sees its neighbour.
Documents of like lengths come together, since attention fills up the shorter ones (padding.py).

Wins: no position is wasted but within attention. Loses: where documents are short, a window's worth of context is never
seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyinfer.errors import ModelError
from tinyinfer.quantization.calibration import Encoder, Silence
from tinyinfer.rotation_sets import RotationSets
from tinyinfer.sampling import SamplingParams
from tinyinfer.sequence import Batch, RequestSpec, Sequence, Span
from tinyinfer.text.plain_text import decoded
from tinyinfer.text.stop_strings import TextOutput

LEAST = 8  # tokens of a document that is worth reading
SHUFFLED = 16  # batches' worth of documents that are sorted by length together


def read_documents(
    path: str, tokenizer: Encoder, window: int, answers: bool = False, end: Seq[int] = ()
) -> list[np.ndarray]:
    """The documents of a file as arrays of token ids, none longer than window + 1: each has a token more than rows.

    A .jsonl file has a document on each line: its "prompt", if there is one, and its "text". answers: only the latter.
    end: the tokens behind a text whose line says that it is "finished", or no row would teach a student to stop. Raises
    ModelError for a file that cannot be read, a line that is no document, and text shorter than a window.
    """
    documents = []
    for text, finished in _texts(path, answers):
        ids = [*tokenizer.encode(text), *(end if finished else ())]
        documents += [np.array(ids[i : i + window + 1]) for i in range(0, len(ids) - 1, window)]
    total = sum(map(len, documents))
    if total < window:
        raise ModelError(f"the text {path} has {total} tokens, but a window has {window}; give a longer text")
    least = min(LEAST, window)
    read = [ids for ids in documents if len(ids) >= least]
    if not read:
        raise ModelError(f"the text {path} has no document of {least} tokens; give longer ones")
    return read


def read_windows(path: str, tokenizer: Encoder, window: int, count: int, answers: bool = False) -> list[np.ndarray]:
    """The first `count` tokens of a text in windows, for tests. Raises ModelError as read_documents does."""
    ids = [token for text, _ in _texts(path, answers) for token in tokenizer.encode(text)][:count]
    if len(ids) < window:
        raise ModelError(f"the text {path} has {len(ids)} tokens, but a window has {window}; give a longer text")
    return [np.array(ids[i : i + window]) for i in range(0, len(ids) - window + 1, window)]


def _texts(path: str, answers: bool) -> Iterator[tuple[str, bool]]:
    """The texts of a file, one for each document, and whether they are finished."""
    try:
        text = decoded(Path(path).read_bytes(), f"the text {path}")
    except ValueError as error:
        raise ModelError(str(error)) from None
    except OSError as error:
        reason = error.strerror or error
        raise ModelError(f"cannot read the text {path} ({reason}); give the path of a text file") from None
    if not path.endswith(".jsonl"):
        yield text, False
        return
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: a text may have other ends of lines in it
        if not line.strip():
            continue
        record = _record(line)
        if record is None:
            raise ModelError(f'{path}, line {number}: is no object with a "text"; give one document a line')
        yield record["text"] if answers else record.get("prompt", "") + record["text"], bool(record.get("finished"))


def _record(line: str) -> dict[str, Any] | None:
    """The object of a line; None where there is none with a text."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    return record if isinstance(record.get("text"), str) and isinstance(record.get("prompt", ""), str) else None


@dataclass(frozen=True)
class Reading:
    """A batch, and what its rows should say. documents: their numbers; tokens: the token after each row, (T,) int."""

    batch: Batch
    tokens: np.ndarray
    documents: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tokens)


def reading(documents: Seq[np.ndarray], numbers: Seq[int], sets: RotationSets) -> Reading:
    """The documents of these numbers as one batch, every row's logits wanted."""
    spans, start = [], 0
    for number in numbers:
        ids = documents[number].tolist()
        request = RequestSpec(number, ids[:-1], SamplingParams(), seed=0, max_tokens=1, eos=frozenset())
        stop = start + len(ids) - 1
        sequence = Sequence(request, lambda: TextOutput(Silence()))
        spans.append(Span(sequence, start, stop, 0, wanted=0, rotation_set=sets.of(len(ids) - 1)))
        start = stop
    tokens = np.concatenate([documents[n][:-1] for n in numbers])  # (T,)
    positions = np.concatenate([np.arange(len(documents[n]) - 1) for n in numbers])  # (T,)
    following = np.concatenate([documents[n][1:] for n in numbers])  # (T,)
    return Reading(Batch(tokens, positions, np.arange(start), tuple(spans)), following, tuple(numbers))


def epoch(documents: Seq[np.ndarray], size: int, seed: int, number: int) -> list[list[int]]:
    """Which documents come together in the batches of an epoch: about `size` tokens each, in a random order.

    The same for the same seed and number, so that a run can go on where it was.
    """
    rng = np.random.default_rng([seed, number])
    order = rng.permutation(len(documents))
    average = max(1, sum(map(len, documents)) // len(documents))
    some = SHUFFLED * max(1, size // average)
    batches: list[list[int]] = []
    for start in range(0, len(order), some):
        full = size  # so that the first document begins a batch
        for n in sorted(order[start : start + some].tolist(), key=lambda n: len(documents[n])):
            if full + len(documents[n]) - 1 > size:
                batches.append([])
                full = 0
            batches[-1].append(n)
            full += len(documents[n]) - 1
    return [batches[i] for i in rng.permutation(len(batches))]


def in_order(documents: Seq[np.ndarray], size: int) -> Iterator[list[int]]:
    """The documents' numbers in groups that have at most `size` rows together, or one document that is longer."""
    group: list[int] = []
    rows = 0
    for n, ids in enumerate(documents):
        if group and rows + len(ids) - 1 > size:
            yield group
            group, rows = [], 0
        group.append(n)
        rows += len(ids) - 1
    if group:
        yield group
