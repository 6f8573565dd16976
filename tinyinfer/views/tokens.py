"""A text as coloured tokens: how likely the model found each of them, and what became of the drafts of a step.

The colour of a token is its surprise, -log2 of its probability: a token of probability 1/2 is paler than one of 1/1000.
(By the probability itself, 0.1 and 0.0001 would look alike.) The number, and what the model found more likely, are in
the token's title and in the line below the text. The first token of a text has no probability, since nothing stands
before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from math import exp, isnan, log2
from typing import TYPE_CHECKING

from tinyinfer.engine.trace import StepTrace, Turn
from tinyinfer.sampling import log_softmax, most_likely
from tinyinfer.views.cells import READOUT_STYLE, keys, readout, themed, unfold
from tinyinfer.views.page import View, legend
from tinyinfer.views.recording import Step
from tinyinfer.views.sentence import counted
from tinyinfer.views.spelling import readable, token_texts

if TYPE_CHECKING:
    from tinyinfer.llm import LLM
    from tinyinfer.text.tokenizer import Tokenizer

MOST = 10.0  # bits of surprise that have the full colour: a probability of 1/1024
HINT = "Point at a token, or press Tab and the arrow keys."
STYLE = (
    READOUT_STYLE
    + themed("--warm: oklch(.79 .145 55);", "--warm: oklch(.46 .105 50);")
    + """
.tinyinfer-view .tokens { overflow-wrap: anywhere; font-size: 14px; }
.tinyinfer-view .tokens [tabindex] { border-radius: 3px; padding: 0 1px; margin: 1px 2px 1px 0; color: var(--ink);
  display: inline-block; max-width: 100%; min-height: 1.5em; white-space: pre-wrap; cursor: default; }
.tinyinfer-view :is(.tokens, .legend) .seen {
  background: color-mix(in oklab, var(--warm) var(--a, 0%), var(--paper)); }
.tinyinfer-view :is(.tokens, .legend) .first { background: none; color: inherit; box-shadow: 0 0 0 1px var(--line); }
.tinyinfer-view :is(.tokens, .legend) .own { background: oklch(var(--fill) 255); }
.tinyinfer-view .tokens .rejected { text-decoration: line-through; }
.tinyinfer-view :is(.tokens, .legend) .unused { background: none; color: inherit; outline: 1px dashed var(--line);
  text-decoration: line-through; }
.tinyinfer-view .tokens b { font-weight: 600; margin-right: 8px; font-size: 12px; display: inline-block;
  min-width: 76px; }
"""
)


@dataclass(frozen=True)
class Token:
    """One coloured token. text: as it can be seen. says: its title. kind: classes. share: of its colour, 0 to 1."""

    text: str
    says: str
    kind: str
    share: float = 0.0

    def html(self, tab: int) -> str:
        """The token as a span. tab: 0 for the token that the Tab key reaches, -1 for the others."""
        style = f' style="--a:{100 * self.share:.0f}%"' if self.share else ""
        kind, says, text = self.kind, escape(self.says), escape(self.text)
        return f'<span tabindex="{tab}" class="{kind}"{style} title="{says}">{text}</span>'


class TokenSpans(View):
    """A text as one coloured span for each token.

    texts: of the tokens (views/spelling.py makes them of ids). probabilities: of each token, None or NaN where there is
    none; without them all tokens look alike. labels: more words for each title, such as the alternatives. Raises
    ValueError for lists of different lengths, and for a number that is no probability.
    """

    style = STYLE

    def __init__(
        self,
        texts: Sequence[str],
        probabilities: Sequence[float | None] | None = None,
        labels: Sequence[str] | None = None,
        title: str = "Tokens",
    ) -> None:
        given = [None] * len(texts) if probabilities is None else list(probabilities)
        more = [""] * len(texts) if labels is None else labels
        if not len(texts) == len(given) == len(more):
            raise ValueError(f"{len(texts)} texts, {len(given)} probabilities and {len(more)} labels; give one of each")
        self.probabilities = [None if p is None or isnan(p) else float(p) for p in given]
        for p in self.probabilities:
            if p is not None and not 0 <= p <= 1:
                raise ValueError(f"{p} is no probability; llm.score gives their logarithms, so use exp")
        self.texts, self.labels, self.title = [readable(text) for text in texts], more, title

    @classmethod
    def of(cls, llm: LLM, text: str, alternatives: int = 3) -> TokenSpans:
        """A text with the probability of each token after those before it, and the model's best tokens there.

        Raises ValueError for a text of fewer than two tokens, and for one that does not fit.
        """
        tokens = llm.tokenizer.encode(text)
        scores = [None, *(exp(score) for score in llm.score(tokens).tolist())]
        best = list(best_tokens(llm, tokens[:-1], alternatives)) if alternatives else [""] * (len(tokens) - 1)
        texts = token_texts(llm.tokenizer, tokens)
        return cls(texts, scores, ["", *best], "How likely the model found each token")

    @staticmethod
    def drafts(steps: Iterable[StepTrace | Step], tokenizer: Tokenizer, sequence: int | None = None) -> DraftSpans:
        """What became of the drafts of some steps. sequence: the id of the one to show; None: all."""
        turns = ((number, turn) for number, step in enumerate(steps, 1) for turn in step.turns)
        return DraftSpans([(number, turn) for number, turn in turns if sequence in (None, turn.id)], tokenizer)

    def tokens(self) -> list[Token]:
        """The tokens as they are drawn."""
        return [self._token(i) for i in range(len(self.texts))]

    def body(self) -> str:
        pairs = enumerate(self.tokens())
        spans = "".join(token.html(-1 if i else 0) + "<br>" * token.text.endswith("↵") for i, token in pairs)
        drawn = readout(keyed("tokens", f"<div data-row>{spans}</div>"), HINT)
        return f"<p>{escape(self._caption())}</p>{self._legend()}{drawn}{unfold(self.text())}"

    def text(self) -> str:
        width = max(map(len, self.texts), default=0)
        lines = [f"{text.ljust(width)}  {token.says}" for text, token in zip(self.texts, self.tokens(), strict=True)]
        return "\n".join([self._caption(), *lines])

    def _token(self, i: int) -> Token:
        p, label = self.probabilities[i], self.labels[i]
        if p is None:
            says = "; ".join(filter(None, [f"token {i}", "no probability", label]))
            return Token(self.texts[i], says, "first")
        bits = min(MOST, -log2(p)) if p else MOST
        says = "; ".join(filter(None, [f"token {i}", f"probability {p:.3g}", label]))
        return Token(self.texts[i], says, "seen", bits / MOST)

    def _caption(self) -> str:
        known = [p for p in self.probabilities if p is not None]
        if not known:
            return f"{counted(len(self.texts), 'token')}."
        likely = sum(p >= 0.5 for p in known)
        return (
            f"{len(self.texts)} tokens. The model gave {likely} of {len(known)} a probability of 0.5 or more, and the "
            f"least likely one {min(known):.2g}."
        )

    def _legend(self) -> str:
        if all(p is None for p in self.probabilities):
            return ""
        steps = {0.9: "probability 0.9", 0.5: "0.5", 0.1: "0.1", 0.01: "0.01", 0.001: "0.001 or less"}
        boxes = [legend([("seen", words)], f"--a:{100 * -log2(p) / MOST:.0f}%") for p, words in steps.items()]
        return keys(*boxes, legend([("first", "without a probability")] * (None in self.probabilities)))


def keyed(name: str, lines: str) -> str:
    """Lines of tokens among which the arrow keys move. name: what a screen reader calls them."""
    return f'<div class="tokens" role="group" aria-label="{name}" data-keys="off">{lines}</div>'


def best_tokens(llm: LLM, tokens: Sequence[int], number: int) -> Iterator[str]:
    """For each token, the tokens that the model finds likeliest after it, in words."""
    for _, logits in llm.logits_by_rows(tokens):
        for row in logits:
            scores = log_softmax(row)  # (V,)
            ids = most_likely(scores, number).tolist()
            texts = token_texts(llm.tokenizer, ids)
            pairs = zip(texts, ids, strict=True)
            yield "likeliest: " + ", ".join(f"“{readable(text)}” {exp(scores[id]):.2g}" for text, id in pairs)


KINDS = {
    "good accepted": "accepted draft",
    "bad rejected": "rejected draft",
    "unused": "draft behind a rejected one, or behind the end: not used",
    "own": "the model's own token",
}


class DraftSpans(View):
    """The drafts of speculative steps: accepted, rejected, and the token that the model chose in their place.

    turns: (step, Turn) pairs. Every step of a sequence ends in one token of the model's own, unless the text ends
    before. Of several candidates for the same position, the one that was accepted furthest counts, as in the ledger.
    """

    style = STYLE

    def __init__(self, turns: Sequence[tuple[int, Turn]], tokenizer: Tokenizer, title: str = "Drafts") -> None:
        self.turns = sorted(
            ((step, turn) for step, turn in turns if turn.drafts or turn.tokens), key=lambda pair: pair[1].id
        )
        self.tokenizer, self.title = tokenizer, title
        self.kept: dict[tuple[int, int], Turn] = {}  # by step and sequence
        for step, turn in self.turns:
            best = self.kept.setdefault((step, turn.id), turn)
            if turn.accepted > best.accepted:
                self.kept[step, turn.id] = turn

    def lines(self) -> list[tuple[str, list[Token]]]:
        """The name and the tokens of each line: a sequence in one step, or in several steps without drafts."""
        several, found = len({turn.id for _, turn in self.turns}) > 1, []
        for plain, group in groupby(self.turns, lambda pair: None if pair[1].drafts else pair[1].id):
            turns = list(group)
            for part in [turns] if plain is not None else [[one] for one in turns]:
                (first, turn), (last, _) = part[0], part[-1]
                name = (f"sequence {turn.id}, " if several else "") + "candidate, " * (turn.phase == "candidate")
                name += f"step {first}" if first == last else f"steps {first}-{last}"
                found.append((name, [token for step, one in part for token in self._tokens(step, one)]))
        return found

    def body(self) -> str:
        lines = []
        for y, (name, tokens) in enumerate(self.lines()):
            spans = "".join(token.html(-1 if x or y else 0) for x, token in enumerate(tokens))
            lines.append(f"<div data-row><b>{escape(name)}</b>{spans}</div>")
        used = {token.kind for _, tokens in self.lines() for token in tokens}
        boxes = legend((kind, words) for kind, words in KINDS.items() if kind in used)
        drawn = readout(keyed("drafts", "".join(lines)), HINT)
        return f"<p>{self._caption()}</p>{boxes}{drawn}{unfold(self.text())}"

    def text(self) -> str:
        marks = {"good accepted": "+", "bad rejected": "-", "unused": "~", "own": "="}
        shown = [(name, " ".join(marks[token.kind] + token.text for token in tokens)) for name, tokens in self.lines()]
        width = max((len(name) for name, _ in shown), default=0)
        signs = "; ".join(f"{marks[kind]} {words}" for kind, words in KINDS.items())
        return "\n".join([self._caption(), *(f"{name.ljust(width)}  {line}" for name, line in shown), signs])

    def _tokens(self, step: int, turn: Turn) -> list[Token]:
        """Accepted drafts, the rejected one, the model's own token, and the drafts that were not used."""
        kept = self.kept[step, turn.id] is turn
        n = turn.accepted if kept else 0
        own = turn.tokens[n:] if kept else ()  # one token, or none where the text ended with a draft
        rejected = turn.drafts[n : n + 1] if own or not kept else ()
        groups = {
            "good accepted": turn.drafts[:n],
            "bad rejected": rejected,
            "own": own,
            "unused": turn.drafts[n + len(rejected) :],
        }
        words = KINDS | {"own": self._reason(turn, bool(rejected))}
        return [
            Token(readable(text), f"“{readable(text)}” (id {id}): {words[kind]}", kind)
            for kind, ids in groups.items()
            for id, text in zip(ids, token_texts(self.tokenizer, ids), strict=True)
        ]

    def _reason(self, turn: Turn, replaced: bool) -> str:
        if replaced:
            return "the model's own token, in place of the rejected draft"
        return "the model's own token, after all drafts were accepted" if turn.drafts else "the model's own token"

    def _caption(self) -> str:
        kept, steps = self.kept.values(), len({step for step, _ in self.kept})
        proposed, accepted = sum(len(turn.drafts) for turn in kept), sum(turn.accepted for turn in kept)
        tokens = sum(len(turn.tokens) for turn in kept)
        made = f"{counted(tokens, 'token')} in {counted(steps, 'step')}"
        return f"{accepted} of {counted(proposed, 'draft')} accepted: {made}."
