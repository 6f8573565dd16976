"""Lesson 00, a tour: a generation loop of five lines, and what eight settings of the engine change and do not change.

The judge of the loop gives it a model without weights, whose next token depends on every token before it. So a loop
that drops a part of the text, reads another row or stops early writes other tokens, and the hint names the reason.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Seq
from types import MappingProxyType
from typing import Any

import numpy as np

from tinyinfer.ledger import Ledger
from tinyinfer.lessons.exercise import Exercise, Wrong, judge_number
from tinyinfer.lessons.roofline_by_hand import PAPER, SMOLLM2
from tinyinfer.measure.roofline import Machine, expected_decode, predict_seconds
from tinyinfer.units import show

SETTINGS = MappingProxyType({  # name -> the switches
    "as it comes": {},
    "no cache": {"kv_cache": "none"},
    "blocks": {"kv_cache": "paged"},
    "prefix cache": {"kv_cache": "paged", "prefix_cache": True},
    "prompt lookup": {"speculative": "prompt-lookup"},
    "batch of four": {},
    "eight bits": {"quantize": "int8"},
    "small steps": {"max_num_batched_tokens": 16},
})  # fmt: skip
PROMPT, ANSWER = 5, 24  # tokens, of the exercise that counts steps


# The student's lines.


def write(llm: Any, tokens: list[int], count: int) -> list[int]:
    """The `count` tokens that the model writes after `tokens`, each the likeliest one."""
    new: list[int] = []
    for _ in range(count):
        logits = llm.logits(tokens + new)
        new.append(int(logits[-1].argmax()))
    return new


class HashModel:
    """Stands for a model: the likeliest next token is a hash of all tokens so far.

    asked: the tokens of each call of `logits`.
    """

    vocab = 211

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def logits(self, tokens: Seq[int]) -> np.ndarray:
        """As LLM.logits: a row of scores for each token, of what may come after it."""
        self.asked.append([int(token) for token in tokens])
        scores = np.zeros((len(tokens), self.vocab), np.float32)  # (T, V)
        for row in range(len(tokens)):
            scores[row, self.after(self.asked[-1][: row + 1])] = 1.0
            scores[row, self.after([0, *self.asked[-1][: row + 1]])] -= 2.0
        return scores

    def after(self, tokens: list[int]) -> int:
        """The likeliest token after these."""
        return zlib.crc32(repr(tokens).encode()) % self.vocab

    def wrong_loops(self, prompt: list[int], right: list[int]) -> list[tuple[list[int], str]]:
        """What usual mistakes would write, each with its hint."""
        count = len(right)
        alone = self._looped(count, prompt[-1:], lambda new: new[-1:])
        forgetful = self._looped(count, right[:1], lambda new: new[-1:])
        without_prompt = self._looped(count, right[:1], lambda new: new)
        rows = [int(token) for token in self.logits(prompt).argmax(axis=-1)]
        return [
            (prompt + right, "give only the new tokens, without the prompt"),
            (right[:1], f"the loop ends in its first turn: it has to go round {count} times, and to return behind it"),
            (right[:-1], f"one token is missing: the loop has to go round {count} times"),
            ([right[0]] * count, "each turn asks what follows the same text: put each new token behind the text, and "
             "take the last row"),
            (alone[1:], "the model sees only the last token: it has no memory, so give it the whole text each time"),
            (forgetful[:count], "after the first turn the model sees a single token: `logits` keeps nothing, so "
             "give it the whole text each time"),
            (without_prompt[:count], "after the first turn the model sees no prompt: give it `tokens`, too"),
            ([rows[0]] * count, "that is the first row: the row of the last token, `[-1]`, says what comes next"),
            (rows[:count], "one call gives a row for each token that is there already: the next token is known only "
             "from the last row, so a text needs one call for each token"),
        ]  # fmt: skip

    def _looped(self, count: int, start: list[int], seen: Callable[[list[int]], list[int]]) -> list[int]:
        """`count` more tokens behind the start, of a loop that shows the model only a part of them."""
        new = list(start)
        for _ in range(count):
            new.append(self.after(seen(new)))
        return new


def judge_write(answer: Any) -> Wrong | None:
    """Compares with the greedy continuation of two prompts, token by token; the prompt has to stay as it is."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", "keep the line `def write(llm, tokens, count):`")
    for prompt, count in (([3, 141, 59, 26, 53, 58, 97, 93], 6), ([7, 7], 1)):
        model, given = HashModel(), list(prompt)
        right = write(HashModel(), prompt, count)
        try:
            wrong = _compared(answer(model, given, count), prompt, right)
        except AttributeError as error:
            if error.obj is not model:
                raise
            return Wrong(f"`llm.{error.name}` would do the work for you.", "use only `llm.logits`: the loop is yours")
        if wrong is None and given != prompt:
            wrong = Wrong("The tokens are right, but the caller's list has grown.", "copy it: `list(tokens)`")
        if wrong:
            return wrong
    return None


def _compared(given: object, prompt: list[int], right: list[int]) -> Wrong | None:
    kind = "give back a list of whole numbers, such as `[504, 30]`"
    if given is None:
        return Wrong("The function gives nothing back.", "end with `return` and the list of the new tokens")
    if not isinstance(given, Iterable) or isinstance(given, str | Mapping):
        return Wrong(f"The function gives {show(given)}, not a list.", kind)
    given = list(given)
    if not all(isinstance(token, int | np.integer) and not isinstance(token, bool) for token in given):
        return Wrong(f"The function gives {show(given)}, not token ids.", kind)
    tokens = [int(token) for token in given]
    if tokens == right:
        return None
    if tokens[: len(right)] == right:
        hint = f"the loop has to go round `count` times, here {len(right)}"
        return Wrong(f"The function writes {len(tokens) - len(right)} too many.", hint)
    pairs = enumerate(zip(tokens, right, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(tokens), len(right)))
    sentence = f"Of {len(right)} tokens, the first that differs is number {first + 1}."
    known = HashModel().wrong_loops(prompt, right)
    hint = next((why for wrong, why in known if wrong == tokens), "text so far, its logits, last row, largest, repeat")
    return Wrong(sentence, hint)


# The exercises.


def judge_settings(answer: Any) -> Wrong | None:
    """A set of names of SETTINGS: those whose numbers are not those of the model's file."""
    names = {answer} if isinstance(answer, str) else answer
    names = set(names) if isinstance(names, Iterable) and not isinstance(names, Mapping) else None
    if names is None or not all(isinstance(name, str) for name in names):
        return Wrong(f"{show(answer)} is not a set of names.", 'write names in braces, such as {"no cache", "blocks"}')
    if unknown := sorted(names - set(SETTINGS)):
        return Wrong(f"{unknown[0]!r} is none of the settings.", f"they are {', '.join(map(repr, SETTINGS))}")
    if names == {"eight bits"}:
        return None
    sentence = "Not all of these compute with other numbers than the file's." if names else "There is one such setting."
    hints = {
        "prompt lookup": "a draft is verified: the model computes its row, and rejects what it would not have written",
        "batch of four": "sequences of one step share weights, and each row sees only its own sequence",
        "prefix cache": "keys and values of the same tokens are the same numbers, whichever request computed them",
        "no cache": "without a cache the same keys and values are computed again: more work, the same numbers",
        "blocks": "where a key lies in memory does not change the key",
        "as it comes": "this setting has no switch: the engine computes with the file's numbers",
        "small steps": "a prompt in pieces is the same prompt: each piece finds the earlier ones in the cache",
    }
    named = next((hints[name] for name in hints if name in names), "one setting rounds the weights to other numbers")
    return Wrong(sentence, named)


STEPS = judge_number(
    ANSWER,
    "steps",
    {
        1: Wrong(
            "A model writes no sentence at once.",
            "each token depends on the one before it: which of them can be computed in the same step?",
        ),
        PROMPT + ANSWER: Wrong(
            "That would be one step for each token, those of the prompt included.",
            "the prompt is known already: all its rows are computed in one step",
        ),
        ANSWER + 1: Wrong(
            "The prompt's step does more than reading the prompt.",
            "the last row of the prompt says already which token comes first",
        ),
        ANSWER - 1: Wrong(
            "Those are the steps behind the prompt's.",
            "the prompt's step is one, too, and the last row of the prompt gives the first token",
        ),
        2: Wrong(
            "One step for the prompt and one for the answer would need the answer beforehand.",
            "token number two of the answer is an input of token number three",
        ),
    },
    "look at the column of steps in the table of the eight settings, and at what the first step gives",
    tolerance=1e-9,
)


def chip_factor(speed: float = 10.0) -> float:
    """How many times sooner a token of SmolLM2 comes on PAPER with so many times its matrix speed, by the roofline."""
    cost, faster = expected_decode(SMOLLM2, 50), Machine(PAPER.read_bandwidth, speed * PAPER.matrix_speed)
    return predict_seconds(cost, PAPER) / predict_seconds(cost, faster)


def arithmetic_share() -> float:
    """The part of a token's time on PAPER in which arithmetic is done, by the roofline."""
    cost = expected_decode(SMOLLM2, 50)
    return cost.flops / PAPER.matrix_speed / predict_seconds(cost, PAPER)


def misconceptions(token: Ledger) -> dict[float, str]:
    """The share of arithmetic in the time of a token, in percent, that a usual idea gives -> what is behind it."""
    return {
        100: "That would be right if arithmetic were all there is to do: speed is not FLOPs alone.",
        100 * token.flops / token.bytes_moved: "FLOPs divided by bytes are no share of the time: the machine does "
        "several FLOPs while it reads one byte.",
        100 * PAPER.read_bandwidth / PAPER.matrix_speed: "That divides the two speeds. The work has to come in, too: a "
        "token needs more bytes than FLOPs.",
    }


CHIP = judge_number(
    chip_factor(),
    "times",
    {
        10.0: Wrong(
            "Ten times the FLOPs a second do not make ten times the speed.",
            "what does the processor wait for while it makes one token?",
        ),
        0.1: Wrong("A tenth would be ten times as slow.", "what does the processor wait for while it makes one token?"),
        (1 + arithmetic_share()) / (1 + arithmetic_share() / 10): Wrong(
            "That is right for a machine that reads first and computes afterwards.",
            "a processor computes while it reads: the roofline takes the maximum, not the sum",
        ),
        1 / (1 - arithmetic_share() + arithmetic_share() / 10): Wrong(
            "That is right for a machine that reads first and computes afterwards.",
            "a processor computes while it reads: the roofline takes the maximum, not the sum",
        ),
        0: Wrong("Zero times as fast would be no token at all.", "the same speed as before is a factor of one"),
        1 + arithmetic_share(): Wrong(
            "That would be right if no arithmetic were left and all of its time were saved.",
            "a processor computes while it reads: the roofline takes the maximum, not the sum",
        ),
    },
    "compute the time of a token on both machines: the larger one of arithmetic and reading",
    tolerance=0.005,
)

EXERCISES = (
    Exercise(
        "generation loop",
        judge_write,
        write,
        "Every engine runs this loop. All optimizations are ways to do less work for the same tokens.",
    ),
    Exercise(
        "steps",
        STEPS,
        ANSWER,
        "The prompt's step gives the first token, and each further token needs a step of its own.",
    ),
    Exercise(
        "faster chip",
        CHIP,
        chip_factor(),
        "One token waits for memory. What helps is to read fewer bytes, or to use each byte for several tokens.",
    ),
    Exercise(
        "other numbers",
        judge_settings,
        {"eight bits"},
        "The other seven do the same arithmetic in another order or another number of times.",
    ),
)
