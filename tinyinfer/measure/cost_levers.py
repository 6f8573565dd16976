"""What each optimization makes of the cost of tokens, by counted work: the roofline with one thing changed at a time.

The ledger of a request is known without a run (roofline.py, split.py), so a change of it is a change of the bill of a
busy machine. Compared are, with the same number of sequences at a time:

    one at a time     without batching: each token pays for reading all weights
    int8, int4        fewer bytes of weights; decode waits for bytes, prefill for arithmetic, so only decode gains
    prefix cached     the cached part of the input is not computed
    half the layers   a smaller model: both phases halve, quality is yours to measure
    4 drafts          a pass of five rows for (1 - a^5)/(1 - a) tokens, a: the share of drafts that your own texts had
                      accepted (`bench --speculative ...` measures it; without it nothing is said), drafts for free

Wins: what pays is seen before it is switched on. Loses: the roofline leaves out norms, Python and a queue, and quality.
Source: Leviathan, Kalman & Matias 2023, equation 1 (tokens a pass); Williams, Waterman & Patterson 2009.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tinyinfer.measure.cluster import Cluster, Link
from tinyinfer.measure.cost import SECONDS, Tokens
from tinyinfer.measure.roofline import Machine
from tinyinfer.measure.split import Paper, Split, Work, some_layers

DRAFTS = 4


def alone(machine: Machine) -> Cluster:
    """A cluster of one machine, with memory for everything and nothing beside bytes and FLOPs."""
    link = Link(math.inf, 0.0)
    return Cluster("one machine", 1, 1, machine, math.inf, 0.0, link, link, 0.0)


@dataclass(frozen=True)
class Lever:
    """A change, and the least seconds of a machine for a request's prefill and for its decode."""

    name: str
    prefill: float
    decode: float

    def cost(self, price_per_hour: float) -> float:
        """The money for a request on a machine that is always busy."""
        return price_per_hour * (self.prefill + self.decode) / SECONDS


def tokens_a_pass(drafts: int, accepted: float) -> float:
    """Tokens that a verified pass is expected to give, each draft being accepted with that probability.

    >>> round(tokens_a_pass(2, 0.5), 6)  # one, and the first draft, and both
    1.75
    """
    return sum(accepted**i for i in range(drafts + 1))


def predicted(name: str, paper: Paper, tokens: Tokens, at_a_time: int, accepted: float | None = None) -> Lever:
    """The least time of a request among so many of a replica; prompts come one by one, and every stage is busy.

    accepted: the share of DRAFTS drafts that verification accepts; None: nothing is drafted.
    """
    drafts = 0 if accepted is None else DRAFTS
    work, cached = paper.work, round(tokens.cached)
    prefill = paper.passes(cached, max(1, work.prompt - cached), 1)[1]
    groups = min(at_a_time, paper.split.pp)
    through, slowest = paper.passes(work.middle, drafts + 1, -(-at_a_time // groups))
    step = max(through.total, groups * slowest)
    passes = tokens.written / tokens_a_pass(drafts, accepted or 0.0)
    return Lever(name, prefill, passes * step / at_a_time)


def levers(
    work: Work, cluster: Cluster, split: Split, tokens: Tokens, at_a_time: int, accepted: float | None = None
) -> list[Lever]:
    """The first as it is, without a cached part; then each change of it. accepted: as `predicted` has it."""
    whole = replace(tokens, cached=0)
    paper = Paper(work, cluster, split)

    def of(
        name: str, changed: Paper = paper, asked: Tokens = whole, n: int = at_a_time, drafted: float | None = None
    ) -> Lever:
        return predicted(name, changed, asked, n, drafted)

    found = [of(f"{at_a_time} at a time"), of("one at a time", n=1)] if at_a_time > 1 else [of("one at a time")]
    for bits in ("int8", "int4"):
        if not work.engine.quantizes:
            rounded = replace(work, engine=replace(work.engine, quantize=bits))
            found.append(of(bits, Paper(rounded, cluster, split)))
    if tokens.cached:
        found.append(of(f"{tokens.cached:g} of {tokens.input:g} cached", asked=tokens))
    c = work.config
    if c.num_layers // 2 >= split.pp:
        half = replace(work, config=some_layers(c, range(c.num_layers // 2), True))
        found.append(of("half the layers", Paper(half, cluster, split)))
    return found if accepted is None else [*found, of(f"{DRAFTS} drafts, {accepted:.0%} accepted", drafted=accepted)]
