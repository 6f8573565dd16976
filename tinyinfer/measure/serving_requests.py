"""What a load generator asks a server, and when: prompts by their kind, arrivals drawn by a seed.

    random             token ids that nothing else begins with, so that a prefix cache finds nothing unless asked for
    prefix_repetition  some prefixes, each with several continuations: what a prefix cache is for
    sharegpt           first questions of conversations, with answers as long as those that were given
    custom             {"prompt": TEXT, "output_tokens": N} a line
    timed_trace        {"timestamp": MS, "input_length": N, "output_length": M, "hash_ids": [...]} a line: what a
                       service was asked, and when, with the names of the 512-token blocks that the prompt began with
                       (the form of Qin et al. 2024, "Mooncake")

Token ids are sent as ids: random ones, as text, would come back as other ids and another number of them. The ids are
those that the server's own tokenizer gives for ordinary words; a server that does not tokenize gets words.

Arrivals are a Poisson process at `rate`; burstiness 1 is that, below 1 the gaps are a gamma distribution that clumps,
above 1 one that is more even. rate inf: all at once. All names are those of vLLM's `bench serve`.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tinyinfer.errors import SwitchError
from tinyinfer.loading.json_fields import CORRECT, fault
from tinyinfer.text.plain_text import decoded

WORDS = [
    "time", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state", "family",
    "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company", "system",
    "program", "question", "work", "government", "number", "night", "point", "home", "water", "room", "mother",
    "area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business",
    "issue", "side", "kind", "head", "house", "service", "friend", "father", "power", "hour", "game", "line", "end",
    "member", "law", "car", "city", "community", "name", "president", "team", "minute", "idea", "body",
    "information", "back", "parent", "face", "others", "level", "office", "door", "health", "person", "art", "war",
    "history", "party", "result", "change", "morning", "reason", "research", "girl", "guy", "moment", "air",
    "teacher", "force", "education",
]  # fmt: skip
BLOCK = 512  # tokens behind one of a trace's hash_ids
SHORTEST, LONGEST_PROMPT, LONGEST = 4, 1024, 2048  # tokens of a ShareGPT conversation that is taken


@dataclass(frozen=True)
class Ask:
    """One request: a text or token ids, how long an answer, and when it is due, in seconds after the beginning."""

    prompt: str | list[int]
    output_tokens: int
    due: float = 0.0


@dataclass(frozen=True)
class Lengths:
    """How long prompts and answers are, in tokens. spread: each is drawn from (1 - spread) to (1 + spread) times it."""

    input: int = 1024
    output: int = 128
    spread: float = 0.0
    prefix: int = 0

    def draw(self, rng: random.Random) -> tuple[int, int]:
        """The lengths of a prompt, without the prefix, and of its answer."""
        low, high = 1 - self.spread, 1 + self.spread
        one, other = (
            rng.randint(max(1, math.floor(n * low)), max(1, math.ceil(n * high))) for n in (self.input, self.output)
        )
        return one, other


class Source:
    """What prompts are made of: a server's token ids, or words where it does not tokenize.

    tokenize: a text's ids by the server's tokenizer; None: it has no such endpoint. as_ids: whether ids may be sent, as
    to completions.
    """

    def __init__(self, tokenize: Callable[[str], list[int]] | None, as_ids: bool = True) -> None:
        self.tokenize = tokenize
        self._ids = sorted(set(tokenize(" ".join(WORDS)))) if tokenize and as_ids else []

    def prompt(self, rng: random.Random, tokens: int) -> list[int] | str:
        """So many random ids; as many words where there are no ids."""
        if self._ids:
            return rng.choices(self._ids, k=tokens)
        return " ".join(rng.choices(WORDS, k=tokens))

    def count(self, text: str) -> int:
        """How many tokens a text has; words where the server does not tell."""
        return len(self.tokenize(text)) if self.tokenize else len(text.split())


def joined(first: list[int] | str, second: list[int] | str) -> list[int] | str:
    """One prompt after another."""
    if isinstance(first, list) and isinstance(second, list):
        return first + second
    return f"{first} {second}" if first else second


def random_asks(source: Source, count: int, lengths: Lengths, rng: random.Random) -> list[Ask]:
    """Prompts that have nothing but `lengths.prefix` first tokens in common."""
    prefix = source.prompt(rng, lengths.prefix) if lengths.prefix else []
    found = []
    for _ in range(count):
        own, output = lengths.draw(rng)
        prompt = source.prompt(rng, own)
        found.append(Ask(joined(prefix, prompt) if prefix else prompt, output))
    return found


def repeated_prefixes(
    source: Source, count: int, prefixes: int, prefix: int, suffix: int, output: int, rng: random.Random
) -> list[Ask]:
    """Prompts that begin with one of so many prefixes, in a random order."""
    begun = [source.prompt(rng, prefix) for _ in range(prefixes)]
    asks = [Ask(joined(begun[n % prefixes], source.prompt(rng, suffix)), output) for n in range(count)]
    rng.shuffle(asks)
    return asks


def sharegpt(source: Source, path: str, count: int, output: int | None, rng: random.Random) -> list[Ask]:
    """Questions of conversations. output: tokens of all answers; None: as many as were given. Raises SwitchError."""
    talks = (one.get("conversations") for one in read_json(path) if isinstance(one, dict))
    firsts = (talk[:2] for talk in talks if isinstance(talk, list))
    pairs = [pair for pair in firsts if len(pair) == 2 and all(isinstance(turn, dict) for turn in pair)]
    rng.shuffle(pairs)
    found: list[Ask] = []
    for question, answer in pairs:
        if len(found) == count:
            break
        text = str(question.get("value", ""))
        asked, wanted = source.count(text), output or source.count(str(answer.get("value", "")))
        if min(asked, wanted) >= SHORTEST and asked <= LONGEST_PROMPT and asked + wanted <= LONGEST:
            found.append(Ask(text, wanted))
    if not found:
        reason = '{field} {value}: holds no {{"conversations": [{{"value": QUESTION}}, {{"value": ANSWER}}]}}'
        raise SwitchError("dataset_path", path, reason + f" of {SHORTEST} to {LONGEST} tokens")
    return found


def custom(path: str, count: int, output: int) -> list[Ask]:
    """The lines of a file, again from the first one when they are fewer than `count`. Raises SwitchError."""
    found = []
    for where, entry in read_lines(path):
        prompt, tokens = entry.get("prompt"), entry.get("output_tokens")
        tokens = output if tokens is None else tokens
        is_ids = isinstance(prompt, list) and all(type(one) is int for one in prompt)
        if not prompt or not (isinstance(prompt, str) or is_ids):
            raise wrong(path, where, '"prompt" must be a text or a list of token ids')
        if type(tokens) is not int or tokens < 1:
            raise wrong(path, where, '"output_tokens" must be a whole number of at least 1')
        found.append(Ask(prompt, tokens))
    return [found[n % len(found)] for n in range(count)]


def timed_trace(source: Source, path: str, count: int, seed: int) -> list[Ask]:
    """The first lines of a trace, each due when it was asked then. Raises SwitchError."""
    found: list[Ask] = []
    for where, entry in read_lines(path):
        if len(found) == count:
            break
        stamp, size, output = (entry.get(key, -1) for key in ("timestamp", "input_length", "output_length"))
        if type(stamp) not in (int, float) or not 0 <= stamp <= 1e15:
            raise wrong(path, where, '"timestamp" must be a number of milliseconds, from 0 to 1e15')
        if not (type(size) is type(output) is int and min(size, output) >= 1):
            raise wrong(path, where, '"input_length" and "output_length" must be whole numbers of at least 1')
        names = entry.get("hash_ids") or []
        if not isinstance(names, list):
            raise wrong(path, where, '"hash_ids" must be a list of names')
        blocks = [source.prompt(random.Random(f"{seed} {name}"), BLOCK) for name in names[: size // BLOCK]]
        own = size - BLOCK * len(blocks)
        blocks += [source.prompt(random.Random(f"{seed} line {where}"), own)] if own else []
        prompt = blocks[0]
        for block in blocks[1:]:
            prompt = joined(prompt, block)
        found.append(Ask(prompt, output, stamp / 1e3))
    first = min(ask.due for ask in found)
    return [Ask(ask.prompt, ask.output_tokens, ask.due - first) for ask in found]


def arrivals(count: int, rate: float, burstiness: float, rng: random.Random, ramp: Ramp | None = None) -> list[float]:
    """When each of `count` requests is due, in seconds after the beginning. ramp: rates that change on the way."""
    due, found = 0.0, []
    for n in range(count):
        found.append(due)
        now = ramp.rate(n, count) if ramp else rate
        if now < math.inf:
            due += rng.gammavariate(burstiness, 1 / (now * burstiness))
    return found


@dataclass(frozen=True)
class Ramp:
    """A rate that grows from the first request to the last: by equal steps, or by equal factors."""

    kind: str  # "linear", "exponential"
    start: float
    end: float

    def rate(self, n: int, count: int) -> float:
        """The rate at the n-th request of so many."""
        share = n / max(1, count - 1)
        if self.kind == "linear":
            return self.start + (self.end - self.start) * share
        return float(self.start * (self.end / self.start) ** share)


# Files.


def read_lines(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and the object of each line that is not empty. Raises SwitchError; also where there is none."""
    count = 0
    for number, line in enumerate(read(path).split(b"\n"), 1):
        if line.strip():
            count += 1
            try:
                entry = json.loads(decoded(line, f"{path}:{number}"))
            except (ValueError, RecursionError) as error:
                at = f"column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
                raise wrong(path, number, f"no JSON ({at}); write one object a line") from None
            if not isinstance(entry, dict):
                raise wrong(path, number, "a request is a JSON object")
            yield number, entry
    if not count:
        raise SwitchError("dataset_path", path, "{field} {value}: holds no line", "write one JSON object a line")


def read_json(path: str) -> list[Any]:
    """The list that a file of JSON holds. Raises SwitchError."""
    text = read(path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason, why = "{field} {value}: is no JSON{why}", fault(text, error)
        raise SwitchError("dataset_path", path, reason, CORRECT, why=why) from None
    if not isinstance(found, list):
        raise SwitchError("dataset_path", path, "{field} {value}: must hold a list of conversations")
    return found


def read(path: str) -> bytes:
    """The bytes of a file. Raises SwitchError."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise SwitchError("dataset_path", path, "{field} {value}: {why}", why=error.strerror or str(error)) from None


def wrong(path: str, line: int, why: str) -> SwitchError:
    """A line of a file that is no request."""
    return SwitchError("dataset_path", path, "{field} {value}:{line}: {why}", line=line, why=why)
