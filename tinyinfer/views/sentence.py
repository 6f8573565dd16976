"""A step in one sentence: what each sequence did, who came and went, and how full the pool is.

It is what a screen reader says of a step, and the line of the step in a table of all steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from itertools import groupby
from operator import attrgetter

from tinyinfer.engine.trace import Turn
from tinyinfer.views.recording import Recording, Step

PHASE = attrgetter("phase")
FEW = 6  # sequences that are named; more are counted


def sentence(recording: Recording, i: int) -> str:
    """What step i of a recording did, with its place in the run."""
    return f"Step {i + 1} of {len(recording.steps)}: {described(recording.steps[i])}"


def described(step: Step) -> str:
    """What a step did."""
    return "; ".join(clauses(step)) + "."


def clauses(step: Step) -> Iterator[str]:
    """The parts of the sentence."""
    plain = [turn.id for turn in step.turns if turn.phase == "decode" and not turn.drafts]
    padding = [turn.id for turn in step.turns if turn.phase == "padding"]
    if step.preempted:
        yield f"{subject(step.preempted, 'is', 'are')} preempted"
    if plain:
        yield subject(plain, "decodes", "decode")
    others = [turn for turn in step.turns if turn.phase not in ("candidate", "padding") and turn.id not in plain]
    for phase, group in groupby(sorted(others, key=PHASE), PHASE):
        turns = list(group)
        if len(turns) > FEW:
            yield common_clause(phase, turns)
        else:
            yield from (own_clause(turn, turn.id in step.joined) for turn in turns)
    candidates = sum(turn.phase == "candidate" for turn in step.turns)
    if candidates:
        yield f"{candidates} more candidate" + "s are verified" * (candidates > 1) + " is verified" * (candidates == 1)
    if padding:
        yield f"{subject(padding, 'is', 'are')} padding"
    if step.idle:
        yield f"{subject(step.idle, 'has', 'have')} no rows"
    yield from changes(step)


def changes(step: Step) -> Iterator[str]:
    """Who leaves and waits, what is evicted, and how full the pool is."""
    if step.left:
        yield subject(step.left, "leaves", "leave")
    if step.waiting:
        yield subject(step.waiting, "waits", "wait")
    if step.ledger.blocks_evicted:
        yield f"the prefix cache evicts {counted(step.ledger.blocks_evicted, 'block')}"
    if step.num_blocks:
        yield f"{len(step.blocks)} of {step.num_blocks} blocks in use"


def own_clause(turn: Turn, joined: bool) -> str:
    """What one sequence did that others of the step did not do alike."""
    name, rows = f"sequence {turn.id}", counted(turn.rows, "row")
    if turn.phase == "decode":
        return f"{name} decodes with {turn.accepted} of {counted(len(turn.drafts), 'draft')} accepted"
    if turn.phase == "recompute":
        return f"{name} {'joins again and ' * joined}computes {rows} again"
    if not joined:
        return f"{name} computes {rows} more of its prompt"
    cached = f" and {counted(turn.cached, 'position')} from the prefix cache" if turn.cached else ""
    return f"{name} joins with {rows} of its prompt{cached}"


def common_clause(phase: str, turns: Seq[Turn]) -> str:
    """What many sequences did, summed up."""
    rows = counted(sum(turn.rows for turn in turns), "row")
    if phase == "decode":
        accepted, drafts = sum(turn.accepted for turn in turns), sum(len(turn.drafts) for turn in turns)
        return f"{len(turns)} sequences decode with {accepted} of {drafts} drafts accepted"
    if phase == "recompute":
        return f"{len(turns)} sequences compute {rows} again"
    cached = sum(turn.cached for turn in turns)
    found = f" and {counted(cached, 'position')} from the prefix cache" if cached else ""
    return f"{len(turns)} sequences compute {rows} of their prompts{found}"


def subject(ids: Seq[int], one: str, many: str) -> str:
    """Sequences and their verb: "sequences 0 and 1 decode"."""
    if len(ids) == 1:
        return f"sequence {ids[0]} {one}"
    if len(ids) > FEW:
        return f"{len(ids)} sequences {many}"
    return f"sequences {', '.join(map(str, ids[:-1]))} and {ids[-1]} {many}"


def counted(n: int, thing: str) -> str:
    """A number of things, in the singular where it is one."""
    return f"{n} {thing}" + "s" * (n != 1)
