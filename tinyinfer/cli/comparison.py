"""A run of some prompts, and what differs between two of them: tokens, and counts of work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from tinyinfer.errors import one_line

if TYPE_CHECKING:
    from tinyinfer.llm import LLM
    from tinyinfer.sequence import Sequence as Answer
    from tinyinfer.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Generation:
    """A run that has ended. model: the name of the one that answered; finished: not by Ctrl-C."""

    llm: LLM
    model: str
    sequences: list[Answer]
    finished: bool

    @property
    def status(self) -> int:
        return 0 if self.finished else 130

    def record(self) -> dict[str, Any]:
        """What a comparison needs of this run, for JSON."""
        ids = [self.llm.output(seq).token_ids for seq in self.sequences]
        return {"model": self.model, "token_ids": ids, "ledger": self.llm.ledger.as_dict()}


@dataclass(frozen=True)
class Difference:
    """The first token of an answer that differs; position counts from 0, and no token is behind an answer's end."""

    position: int
    token_id: int | None
    text: str
    reference_token_id: int | None
    reference_text: str

    def __str__(self) -> str:
        mine, right = shown(self.token_id, self.text), shown(self.reference_token_id, self.reference_text)
        return f"token {self.position + 1} is {mine}; the engine's own code gives {right}"


@dataclass(frozen=True)
class Comparison:
    """What differs between a run and the reference's.

    tokens: of each answer. differences: of each answer, None where it is identical. ledger: field -> both counts, of
    those that differ.
    """

    tokens: tuple[int, ...]
    differences: tuple[Difference | None, ...]
    ledger: Mapping[str, tuple[int, int]]

    @property
    def identical(self) -> bool:
        return not any(self.differences)

    def lines(self) -> list[str]:
        """The comparison in words: one line a prompt, then the ledgers."""
        several = len(self.tokens) > 1
        lines = []
        for i, (count, difference) in enumerate(zip(self.tokens, self.differences, strict=True), 1):
            place = f"prompt {i} of {len(self.tokens)}: " * several
            lines.append(place + (f"different: {difference}" if difference else f"identical: {count} tokens"))
        counts = [f"ledger: {name} {mine:,} instead of {right:,}" for name, (mine, right) in self.ledger.items()]
        return lines + (counts or ["the ledgers are equal"])

    def as_dict(self, i: int) -> dict[str, Any]:
        """What a line of JSON says of answer i. ledger_difference: of the whole run, counts minus the reference's."""
        difference = self.differences[i]
        return {
            "identical": difference is None,
            "first_difference": difference and asdict(difference),
            "ledger_difference": {name: mine - right for name, (mine, right) in self.ledger.items()},
        }


def compare_runs(mine: Mapping[str, Any], reference: Generation) -> Comparison:
    """Compares a run's record with another run, answer by answer, and their ledgers."""
    right, tokenizer = reference.record(), reference.llm.tokenizer
    pairs = zip(mine["token_ids"], right["token_ids"], strict=True)
    counts = {name: (mine["ledger"].get(name, 0), count) for name, count in right["ledger"].items()}
    return Comparison(
        tuple(map(len, mine["token_ids"])),
        tuple(first_difference(ids, others, tokenizer) for ids, others in pairs),
        {name: both for name, both in counts.items() if both[0] != both[1]},
    )


def first_difference(mine: Sequence[int], right: Sequence[int], tokenizer: Tokenizer) -> Difference | None:
    """Where two answers first differ, or None."""
    for position, (token, reference) in enumerate(zip_longest(mine, right)):
        if token != reference:
            texts = ["" if id is None else tokenizer.decode([id]) for id in (token, reference)]
            return Difference(position, token, texts[0], reference, texts[1])
    return None


def shown(token: int | None, text: str) -> str:
    """A token in a message: its text and id."""
    return "none" if token is None else f"{one_line(json.dumps(text, ensure_ascii=False))} (id {token})"
