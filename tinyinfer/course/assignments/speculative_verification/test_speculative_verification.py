"""Public tests of the assignment "speculative_verification": each names the bug that it catches.

The model of these tests is a table: row t holds the logits behind token t. So the text without drafts can be written
here one token at a time, and the text with drafts must be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tinyinfer.course.compare import Failure, equal, same_array, same_value
from tinyinfer.course.laws import same_law, same_share
from tinyinfer.course.sandbox.stand_ins import SequenceView
from tinyinfer.course.student import hinting
from tinyinfer.noise import uniform
from tinyinfer.sampling import choose, distribution, draw, filtered, softmax
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import Draft
from tinyinfer.speculative import best_coupling, draft_length
from tinyinfer.speculative.best_coupling import ACCEPT_STREAM, DRAFT_STREAM
from tinyinfer.speculative.verify import verify
from tinyinfer.units import show

pytest_plugins = ["tinyinfer.course.pytest_plugin"]

ROUNDING = 1e-12  # float64 rounds to 1e-16; some hundred operations
GREEDY = SamplingParams(temperature=0.0)
DRAWN = SamplingParams(temperature=0.9, top_p=0.95)
PROMPT, NEW, SEED, POSITION = [2, 7, 1], [5, 0], 11, 5
Table = np.ndarray  # (V, V) float32
Usual = Iterator[tuple[Any, str]]


# Texts with drafts


def test_greedy_drafts(student, part, rng):
    """Catches drafts that stay behind a rejected one, a bonus token that is forgotten, rows that are off by one."""
    for name, right in (("all accepted", 4), ("the first rejected", 0), ("the third rejected", 2)):
        with part(name):
            check_step(student, random_table(rng, 12), GREEDY, right, f"verify ({name})")


def test_steps_without_drafts(student, part, rng):
    """Catches a chunk of a prompt that makes tokens, and a step without drafts that makes none."""
    table, seq = random_table(rng, 12), sequence(DRAWN, PROMPT, NEW, [Draft(3)])
    with part("no logits"):
        hint = "the step computed a chunk of the prompt, and no row for the drafts: there is no token yet"
        with hinting("IndexError", hint), hinting("ValueError", hint):
            mine = tokens_of(student.verify(table[:0], seq))
        same_value(mine, [], "verify without logits", usual=[([3], hint)])
    with part("no drafts"):
        seq = sequence(DRAWN, PROMPT, NEW, [])
        right = [choose(table[NEW[-1]], *seq.sampling).token]
        hint = "the row of the last token is there, so the step brings one token"
        same_value(tokens_of(student.verify(table[NEW[-1:]], seq)), right, "verify without drafts", usual=[([], hint)])


def test_drawn_text_is_the_text_without_drafts(student, part, rng):
    """Catches a draft that is compared with the largest logit, and noise that does not move on with the drafts."""
    for name, right in (("all accepted", 4), ("the second rejected", 1)):
        with part(name):
            for _ in range(5):
                check_step(student, random_table(rng, 12), DRAWN, right, f"verify at temperature 0.9 ({name})")


def test_penalties_see_the_drafts_before_a_row(student, part, rng):
    """Catches penalties that do not see earlier drafts: the text would repeat what plain decoding would not."""
    params = SamplingParams(temperature=0.0, frequency_penalty=2.0)
    table = np.tile(np.array([0, 1, 2, 3, 4, 5, 5.5, 6], np.float32), (8, 1))  # the same wish behind each token
    for name, right in (("all accepted", 4), ("the fourth rejected", 3)):
        with part(name):
            check_step(student, table, params, right, f"verify with a frequency penalty ({name})")


def test_log_probabilities_are_reported(student, part, rng):
    """Catches tokens without the log-probabilities that the request asked for."""
    table, params = random_table(rng, 12), replace(DRAWN, logprobs=2)
    text = [Draft(token) for token in plain(table, params, PROMPT, NEW, SEED, 3)]
    for name, drafts in (("drafts", text), ("drawn drafts", drawn_drafts(table, params, 3))):  # all are right
        with part(name):
            seq = sequence(params, PROMPT, NEW, drafts)
            logits = table[[NEW[-1], *(draft.token for draft in drafts)]]
            mine, right = student.verify(logits, seq), verify(logits, seq)
            hint = "the tokens come first: the tests of a step and of the law say more about them"
            same_value(tokens_of(mine), tokens_of(right), f"verify, right {name}", usual=[(tokens_of(mine), hint)])
            reports = [[report(choice) for choice in choices] for choices in (mine, right)]
            none = [[choice.token, None, None] for choice in right[:-1]]
            hint = "a Choice has what the request asked for: describe(token, logits, params) makes it"
            missing = [([*none, last], hint) for last in ([right[-1].token, None, None], reports[1][-1])]
            same_value(*reports, "the log-probabilities of the tokens", rtol=1e-9, usual=missing)


def random_table(rng: np.random.Generator, size: int) -> Table:
    """A random model: row t holds the logits behind token t."""
    return (2 * rng.standard_normal((size, size))).astype(np.float32)


def sequence(params: SamplingParams, prompt: list[int], new: list[int], drafts: list[Draft], seed: int = SEED) -> Any:
    """A sequence with drafts, as `verify` gets it."""
    return SequenceView(1, list(prompt), list(new), drafts, 100, params, seed)


def plain(table: Table, params: SamplingParams, prompt: list[int], new: list[int], seed: int, n: int) -> list[int]:
    """The next n tokens of the text without drafts."""
    text = list(new)
    for _ in range(n):
        text.append(choose(table[[*prompt, *text][-1]], params, prompt, text, seed).token)
    return text[len(new) :]


def check_step(
    student: Any, table: Table, params: SamplingParams, right: int, what: str,
    prompt: list[int] = PROMPT, new: list[int] = NEW, seed: int = SEED, n: int = 4,
) -> None:  # fmt: skip
    """Compares a step with n drafts, of which the first `right` are right, with the text without drafts.

    Behind the first wrong draft stand drafts that would be accepted if the wrong one were the text's.
    """
    text = plain(table, params, prompt, new, seed, n + 1)
    drafts = text[:right]
    if right < n:
        drafts.append((text[right] + 1) % len(table))
        drafts += plain(table, params, prompt, [*new, *drafts], seed, n - right - 1)
    seq = sequence(params, prompt, new, [Draft(token) for token in drafts], seed)
    logits = table[[[*prompt, *new][-1], *drafts]]
    mine = tokens_of(student.verify(logits, seq))
    same_value(mine, text[: right + 1], what, usual=step_mistakes(logits, seq, text[: right + 1]))


def tokens_of(choices: Any) -> list[Any]:
    """The tokens of choices. Raises Failure for what is no list of choices."""
    if not isinstance(choices, list) or not all(hasattr(choice, "token") for choice in choices):
        hint = "choose and describe make a Choice; verify gives a list of them"
        raise Failure(f"verify: the result is {show(choices)}, and a list of Choice is expected.", hint)
    return [choice.token for choice in choices]


def report(choice: Any) -> list[Any]:
    """A choice's token, its log-probability and the alternatives, as plain lists."""
    return [choice.token, choice.logprob, choice.top if choice.top is None else [list(x) for x in choice.top.items()]]


def step_mistakes(logits: np.ndarray, seq: Any, right: list[int]) -> Usual:
    """The tokens of a step that usual mistakes give; right: the right ones."""
    params, prompt, new, seed = seq.sampling
    drafts = [draft.token for draft in seq.drafts]

    def by(before: Callable[[int], list[int]]) -> list[int]:
        """The tokens up to the first rejected draft, if row i sees the new tokens and before(i)."""
        tokens = [choose(row, params, prompt, [*new, *before(i)], seed).token for i, row in enumerate(logits)]
        wrong = [i for i, draft in enumerate(drafts) if tokens[i] != draft]
        return tokens[: wrong[0] + 1] if wrong else tokens

    rows = [choose(row, params, prompt, [*new, *drafts[:i]], seed).token for i, row in enumerate(logits)]
    if len(right) > len(drafts):
        yield right[:-1], "the bonus token is forgotten: the row of the last draft is computed already, so it is free"
    else:
        yield rows, "tokens behind the rejected draft stay: their rows follow a token that is not in the text"
        yield right[:-1], "a rejected draft is replaced: its row says which token stands in its place"
        yield [*right[:-1], drafts[len(right) - 1]], "the rejected draft stays in the text: the row's token replaces it"
        yield [*drafts, rows[-1]], "every draft is accepted: compare each with the token of its row"
    yield right[:1], "accepted drafts are thrown away: the step ends at the first draft that is rejected"
    yield drafts, "the drafts are given back as they are: compare each with the token of its row"
    greedy = tokens_of(verify(logits, replace(seq, params=replace(params, temperature=0.0))))
    yield greedy, "the draft is compared with the largest logit: plain decoding draws its token, if it is not greedy"
    for step in (-1, 1):
        moved = tokens_of(verify(np.roll(logits, step, axis=0), seq))
        yield moved, "the rows are off by one: row 0 follows the last token, and judges the first draft"
    hint = "each row sees the drafts before it: penalties count them, and the noise is that of the row's own position"
    yield by(lambda i: []), hint
    yield by(lambda i: drafts), "a row sees only the drafts before it, not those behind it"
    yield by(lambda i: drafts[: i + 1]), "a row sees only the drafts before it, not the one that it judges"


# Drafts that were drawn

PAIRS = {  # p, q
    "p far from q": ([0.6, 0.2, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]),
    "p = q": ([0.5, 0.3, 0.2], [0.5, 0.3, 0.2]),
    "tokens that one of them never takes": ([0.0, 0.5, 0.4, 0.1], [0.25, 0.25, 0.0, 0.5]),
    "nothing in common": ([0.7, 0.3, 0.0, 0.0], [0.0, 0.0, 0.4, 0.6]),
}


def test_law_of_a_verified_token(student, part):
    """Catches replacements from p, and a wrong quotient. A right law fails once in a million (course/laws.py)."""
    for name, (p, q) in PAIRS.items():
        with part(name):
            check_law(student, np.array(p), np.array(q), 100, f"accept_or_replace ({name})")


def test_as_many_drafts_are_accepted_as_possible(student):
    """Catches a rule that is lawful and rejects too much: 1 - (total variation distance) can be accepted."""
    p, q, n = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5]), 250
    drafts = spread(q, n)
    mine = [student.accept_or_replace(p, q, token, seed, POSITION) for seed, token in enumerate(drafts)]
    hits = sum(equal(token, draft) for token, draft in zip(mine, drafts, strict=True))
    low = "drafts are rejected that need not be: accept with probability min(1, p/q)"
    high = "more drafts come out than a right law allows: those that q likes too much must be rejected now and then"
    same_share(hits, n, float(np.minimum(p, q).sum()), "drafts that came out", low, high)


def test_random_numbers_of_the_rule(student, part, rng):
    """Catches random numbers of another stream or position: the text of a seed could not be repeated."""
    with part("streams"):
        p, q = (softmax(2 * rng.standard_normal(6)) for _ in range(2))
        cases = list(enumerate(spread(q, 40)))
        mine = [student.accept_or_replace(p, q, token, seed, 3 * seed) for seed, token in cases]
        right = [best_coupling.accept_or_replace(p, q, token, seed, 3 * seed) for seed, token in cases]
        same_value(mine, right, "40 tokens of accept_or_replace", usual=stream_mistakes(p, q, cases))
    with part("p and q that differ by rounding"):
        q = np.array([0.1, 0.2, 0.7])
        seed = next(seed for seed in range(10_000) if uniform(seed, POSITION, ACCEPT_STREAM) > 0.995)
        right_token = draw(np.log(0.99 * q), seed, POSITION)
        token = next(token for token in (0, 1, 2) if token != right_token)
        mine = student.accept_or_replace(0.99 * q, q, token, seed, POSITION)
        hint = "q lacks nothing, so max(p - q, 0) is 0 everywhere: then the replacement is drawn from p"
        others = [(other, hint) for other in (0, 1, 2) if other != right_token]
        same_value(mine, right_token, "accept_or_replace(0.99 q, q)", usual=others)
        p, q = np.array([0.0, 0.6, 0.4]), np.array([0.0, 0.5, 0.5])  # a drafter in float32 may propose token 0
        never = [(0, "u < p/q is never true where p is 0, even if q is 0, too: the target never takes this token")]
        mine = student.accept_or_replace(p, q, 0, SEED, POSITION)
        same_value(mine, 1, "accept_or_replace of a token that is 0 in p and q", usual=never)


def test_a_drawn_draft(student, rng):
    """Catches a draft drawn by the noise of its own replacement, and a q that is not the law of the draw."""
    logits, params = random_table(rng, 12)[0], SamplingParams(temperature=0.7, top_k=6, presence_penalty=1.0)
    for seed in range(12):
        mine = student.drawn(logits, params, PROMPT, NEW, seed)
        if not hasattr(mine, "token") or not hasattr(mine, "probs"):
            raise Failure(f"drawn: the result is {show(mine)}, and a Draft is expected.")
        s = filtered(logits, params, PROMPT, NEW)
        wrong_probs = [(softmax(logits.astype(np.float64)), "q is the law that the draft is drawn from: after filters")]
        same_array(mine.probs, softmax(s), "the probs of a drawn draft", rtol=ROUNDING, usual=wrong_probs)
        wrong = [
            (draw(s, seed, POSITION), "the noise of DRAFT_STREAM draws drafts: that of stream 0 draws replacements"),
            (int(s.argmax()), "the draft is the likeliest token, and no draw from its probs"),
            (draw(s, seed, len(NEW), DRAFT_STREAM), "the position counts the prompt's tokens, too"),
        ]
        same_value(mine.token, draw(s, seed, POSITION, DRAFT_STREAM), f"the token of drawn, seed {seed}", usual=wrong)


def test_steps_with_drawn_drafts(student, part, rng):
    """Catches p without filters, p that does not see earlier drafts, and a position that stays."""
    asked = {
        "with filters": SamplingParams(temperature=0.7, top_k=8),
        "with a penalty": SamplingParams(temperature=1.0, frequency_penalty=2.0),
    }
    for name, params in asked.items():
        with part(name):
            for seed in range(20):
                table = random_table(rng, 12)
                check_drawn_step(student, table, table / 2, params, PROMPT, NEW, seed, name)


def check_drawn_step(
    student: Any, table: Table, drafter: Table, params: SamplingParams, prompt: list[int], new: list[int], seed: int,
    what: str,
) -> None:  # fmt: skip
    """Compares a step with three drafts that another model has drawn with the engine's."""
    drafts = drawn_drafts(drafter, params, 3, prompt, new, seed)
    seq = sequence(params, prompt, new, drafts, seed)
    logits = table[[new[-1], *(draft.token for draft in drafts)]]
    mine, right = tokens_of(student.verify(logits, seq)), tokens_of(verify(logits, seq))
    same_value(mine, right, f"verify of drawn drafts, {what}", usual=drawn_step_mistakes(logits, seq))


def spread(q: np.ndarray, n: int) -> list[int]:
    """n tokens, each as often as q says."""
    return np.searchsorted(np.cumsum(q), (np.arange(n) + 0.5) / n * q.sum()).tolist()


def check_law(student: Any, p: np.ndarray, q: np.ndarray, n: int, what: str) -> None:
    """Lets `accept_or_replace` judge n drafts from q; Raises Failure unless what comes out follows p."""
    cases = list(enumerate(spread(q, n)))
    mine = [student.accept_or_replace(p, q, token, seed, POSITION) for seed, token in cases]
    right = [best_coupling.accept_or_replace(p, q, token, seed, POSITION) for seed, token in cases]
    if equal(mine, right):
        return
    for tokens, hint in rule_mistakes(p, q, cases, right):
        if equal(mine, tokens):
            wrong = [i for i, token in enumerate(mine) if token != right[i]]
            first, draft = wrong[0], cases[wrong[0]][1]
            sentence = f"{what}: draft {draft} with seed {first} became token {mine[first]}, not {right[first]}"
            raise Failure(f"{sentence}; {len(wrong)} of {n} tokens differ.", hint)
    same_law(mine, p, what, [(q, "the text follows the drafter's law q, as if every draft were accepted")])


def rule_mistakes(p: np.ndarray, q: np.ndarray, cases: list[tuple[int, int]], right: list[int]) -> Usual:
    """The tokens that wrong rules give with the right random numbers; right: the right tokens.

    By the right rule a rejected draft never comes back as its own replacement.
    """
    passed = [token == draft for token, (_, draft) in zip(right, cases, strict=True)]
    u = [uniform(seed, POSITION, ACCEPT_STREAM) for seed, _ in cases]

    def by(accepted: list[bool], law: np.ndarray) -> list[int]:
        """The tokens if these drafts are accepted and the others are replaced from a law."""
        with np.errstate(divide="ignore"):
            s = np.log(law if law.any() else p)
        return [x if ok else draw(s, seed, POSITION) for (seed, x), ok in zip(cases, accepted, strict=True)]

    lacking = np.maximum(p - q, 0)
    likelier = "all or nothing is not enough: where q is a little above p, some drafts must pass"
    for accepted, hint in (
        ([True] * len(cases), "every draft is accepted, so the text follows the drafter's law q"),
        ([not ok for ok in passed], "the comparison with u is the other way round"),
        ([bool(u[i] * p[x] < q[x]) for i, (_, x) in enumerate(cases)], "the quotient is upside down: accept with p/q"),
        ([bool(u[i] < p[x]) for i, (_, x) in enumerate(cases)],
         "a draft is accepted with probability p, whatever q is: divide by q"),
        ([bool(p[x] >= q[x]) for _, x in cases], likelier),
        ([bool(p[x] > q[x]) for _, x in cases], likelier),
    ):  # fmt: skip
        yield by(accepted, lacking), hint
        yield by(accepted, p), f"{hint}; and a rejected draft is replaced from what q lacks, max(p - q, 0)"
    hint = "a rejected draft is replaced from p: tokens that were accepted often enough come a second time"
    yield by(passed, p), f"{hint}. Replace only from what q lacks, max(p - q, 0)"
    yield by(passed, q), "a rejected draft is replaced from q, which proposes too much of just these tokens"
    yield by(passed, np.abs(p - q)), "p - q is taken without its sign: only what q lacks may be added"
    yield by(passed, np.maximum(q - p, 0)), "the replacement is upside down: it adds what q has too much of"
    yield by(passed, np.eye(len(p))[(p - q).argmax()]), "the replacement is drawn, not the likeliest"


def stream_mistakes(p: np.ndarray, q: np.ndarray, cases: list[tuple[int, int]]) -> Usual:
    """The tokens that come of other random numbers; the position is three times the seed."""
    with np.errstate(divide="ignore"):
        s = np.log(np.maximum(p - q, 0))
    for stream, position, replacing, hint in (
        (0, 0, 0, "u is that of ACCEPT_STREAM: stream 0 draws the replacement"),
        (ACCEPT_STREAM, 1, 0, "the position is off by one"),
        (ACCEPT_STREAM, 0, ACCEPT_STREAM, "a replacement is drawn by stream 0"),
        (ACCEPT_STREAM, 0, DRAFT_STREAM, "a replacement is drawn by stream 0: DRAFT_STREAM has drawn the draft"),
    ):
        tokens = []
        for seed, x in cases:
            at = 3 * seed + position
            accepted = uniform(seed, at, stream) * q[x] < p[x]
            tokens.append(x if accepted else draw(s, seed, at, replacing))
        yield tokens, hint


def drawn_drafts(
    drafter: Table, params: SamplingParams, n: int,
    prompt: list[int] = PROMPT, new: list[int] = NEW, seed: int = SEED,
) -> list[Draft]:  # fmt: skip
    """n drafts that another model has drawn, with their laws."""
    drafts: list[Draft] = []
    for _ in range(n):
        text = [*new, *(draft.token for draft in drafts)]
        drafts.append(best_coupling.drawn(drafter[[*prompt, *text][-1]], params, prompt, text, seed))
    return drafts


def drawn_step_mistakes(logits: np.ndarray, seq: Any) -> Usual:
    """The tokens of a step with drawn drafts that usual mistakes give."""
    params, prompt, new, seed = seq.sampling

    def by(p_of: Callable[[np.ndarray, list[int]], np.ndarray], moves: bool) -> list[int]:
        """The tokens of the step, if p is p_of(row, new tokens so far), and the position moves on or not."""
        found: list[int] = []
        for row, draft in zip(logits[:-1], seq.drafts, strict=True):
            at = len(prompt) + len(new) + moves * len(found)
            p = p_of(row, [*new, *found])
            found.append(best_coupling.accept_or_replace(p, draft.probs, draft.token, seed, at))
            if found[-1] != draft.token:
                return found
        return [*found, choose(logits[-1], params, prompt, [*new, *found], seed).token]

    def right(row: np.ndarray, text: list[int]) -> np.ndarray:
        return distribution(row, params, prompt, text)

    yield by(right, False), "the position moves on with each accepted draft"
    fixed = by(lambda row, text: distribution(row, params, prompt, new), True)
    yield fixed, "penalties see the drafts before a row: p is the law behind the new tokens and these drafts"
    unfiltered = by(lambda row, text: softmax(row.astype(np.float64)), True)
    yield unfiltered, "p is the law that plain decoding draws from: with temperature, penalties and filters"
    same_text = replace(seq, drafts=[Draft(draft.token) for draft in seq.drafts])
    yield tokens_of(verify(logits, same_text)), "a draft with probs was drawn by itself: judge_drawn judges it"


# How many drafts pay


def test_tokens_of_a_step(student):
    """Catches a formula that counts right drafts behind a wrong one, or forgets the model's own token."""
    length, a = student.DraftLength(), draft_length.OPTIMISM
    for k in (0, 1, 4):
        right = sum(a**i for i in range(k + 1))
        wrong = [
            (1 + k * a, "a right draft behind a wrong one does not count: the i-th counts with probability a^i"),
            (right - 1, "every step brings one token of the model itself, also without drafts"),
            (1 + k * a**k, "all or nothing is not the rule: the right drafts in front of a wrong one stay"),
            (right + a ** (k + 1), "one draft too many"),
        ]
        same_value(length.tokens(k), right, f"tokens({k}) at the rate {a}", rtol=ROUNDING, usual=wrong)


def test_the_rate_is_learnt(student, part):
    """Catches a rate that is learnt from drafts that were never verified, and one that never recovers."""
    steps = {"all accepted": [(3, 3)], "the second rejected": [(4, 1)], "no drafts": [(2, 0), (2, 0), (0, 0), (0, 0)]}
    for name, learnt in steps.items():
        with part(name):
            check_rate(student, learnt)


def check_rate(student: Any, steps: list[tuple[int, int]]) -> None:
    """Compares the rate after some steps, (drafts proposed, drafts accepted), with the engine's."""
    length = student.DraftLength()
    cost: Any = None
    right = draft_length.DraftLength(4, cost)
    for proposed, accepted in steps:
        before = right.rate
        length.learn(proposed, accepted)
        right.learn(proposed, accepted)
        wrong = [
            (learnt(before, accepted, proposed - accepted),
             "drafts behind the first rejected one were not verified: they say nothing about the rate"),
            (learnt(before, accepted, 0), "the first rejected draft counts, too"),
            (learnt(before, 0, min(1, proposed)), "the accepted drafts count, too"),
            (before, "after a step without drafts the rate moves a little towards OPTIMISM"),
        ]  # fmt: skip
        what = f"the rate after learn({proposed}, {accepted}), from {before:.4f}"
        same_value(length.rate, right.rate, what, rtol=ROUNDING, usual=wrong)


def learnt(rate: float, accepted: int, rejected: int) -> float:
    """A rate after some accepted and then some rejected drafts."""
    for hit in [1] * accepted + [0] * rejected:
        rate += 0.1 * (hit - rate)
    return rate
