"""What one step did, for people: who ran, what was computed and reused, what came out, what it cost.

Step through `LLM.steps(...)` and print each one, or let a notebook show it.
"""

from __future__ import annotations

import html
from dataclasses import dataclass

from tinyinfer.ledger import Ledger
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Batch


@dataclass(frozen=True)
class StepTrace:
    """One engine step. times: when it began, when the logits were there, when it ended (seconds).

    ledger: what this step alone counted. cache_bytes, wasted_bytes: what the cache holds after it, and the unused part.
    """

    batch: Batch
    choices: list[Choice]
    times: tuple[float, float, float]
    ledger: Ledger
    cache_bytes: int
    wasted_bytes: int

    @property
    def seconds(self) -> float:
        """Duration of the whole step."""
        return self.times[2] - self.times[0]

    @property
    def seconds_outside(self) -> float:
        """The part of it not spent in the forward pass: choosing tokens, text, bookkeeping."""
        return self.times[2] - self.times[1]

    def rows(self) -> list[dict[str, object]]:
        """One record per sequence that ran: id, phase, tokens computed and reused, the new token, how it ended."""
        rows = []
        for span, choice in zip(self.batch.spans, self.choices, strict=True):
            computed = span.stop - span.start
            phase = "prefill" if span.first + computed <= len(span.seq.prompt) else "decode"
            position = span.first + computed
            last = position + 1 == len(span.seq.tokens)
            rows.append(
                {
                    "sequence": span.seq.id,
                    "phase": phase,
                    "positions": f"{span.first}-{position - 1}",
                    "computed": computed,
                    "reused": span.first,
                    "token": choice.token,
                    "ended": (span.seq.finish_reason or "") if last else "",
                }
            )
        return rows

    def _totals(self) -> str:
        c = self.ledger
        return (
            f"{self.seconds * 1e3:.1f} ms, {c.flops / 1e9:.3f} GFLOP, {c.weight_bytes / 1e6:.1f} MB of weights, "
            f"KV {c.kv_read_bytes / 1e6:.2f} MB read + {c.kv_written_bytes / 1e6:.2f} MB written, "
            f"cache {self.cache_bytes / 1e6:.1f} MB ({self.wasted_bytes / 1e6:.1f} unused)"
        )

    def __str__(self) -> str:
        lines = [f"step of {len(self.batch)} rows: {self._totals()}"]
        for row in self.rows():
            ended = f", ended: {row['ended']}" if row["ended"] else ""
            lines.append(
                f"  sequence {row['sequence']}: {row['phase']} of positions {row['positions']} "
                f"({row['computed']} computed, {row['reused']} reused) -> token {row['token']}{ended}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        rows = self.rows()
        head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row.values()) + "</tr>" for row in rows
        )
        return f"<table><caption>{html.escape(self._totals())}</caption><tr>{head}</tr>{body}</table>"
