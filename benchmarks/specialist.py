"""A specialist against a large model that is asked: `python benchmarks/specialist.py make|measure FOLDER`.

The task: dates and amounts in words become numbers, "the third of May nineteen eighty-four" 1984-05-03. A model of less
than a million weights with a vocabulary of its own learns nothing else; SmolLM2 gets the task with examples.

    python benchmarks/specialist.py make FOLDER                        FOLDER/: config.json, tokenizer.json, train.jsonl
    python -m tinyinfer distill --student FOLDER/config.json --loss cross-entropy --text FOLDER/train.jsonl \\
        --window 64 --batch-tokens 4096 --rate 3e-3 --tokens 6000000 -o FOLDER/trained
    python -m tinyinfer quantize -m FOLDER/trained --quantize int8 --quantize-head int8 -o FOLDER/int8
    python benchmarks/specialist.py measure FOLDER --student FOLDER/int8

`measure` asks both models the same questions; no number of theirs is in train.jsonl, in whatever words. It prints the
share of answers that are right to the letter, the median time of an answer (other questions, one at a time, the models
in turn; SmolLM2's examples stay in its prefix cache) and the bytes in memory.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from own_vocabulary import write_student

from tinyinfer import LLM, SamplingParams
from tinyinfer.units import amount, table

ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
ONES = (ONES + " eighteen nineteen").split()
TENS = ["_", "_", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November"]
MONTHS += ["December"]
ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
ORDINALS |= {"twelve": "twelfth"}
CURRENCIES = {"EUR": ("euro", "euros", "cent"), "USD": ("dollar", "dollars", "cent"), "GBP": ("pound", "pounds", "p")}
FIRST = date(1700, 1, 1)
VOCABULARY, TIMED = 384, 40  # tokens; questions that are asked alone
SHAPE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 128, "intermediate_size": 352,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 256, "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu",
}  # fmt: skip
TASK = "Write dates and amounts of money in numbers. Answer with the number only.\n\n"
Pair = tuple[str, str]  # words, numbers


def words(n: int, joint: str = " and ") -> str:
    """A number below a million in words. joint: what stands behind hundreds."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + ("-" + ONES[n % 10] if n % 10 else "")
    if n < 1000:
        return ONES[n // 100] + " hundred" + (joint + words(n % 100, joint) if n % 100 else "")
    rest = n % 1000
    between = joint if 0 < rest < 100 else " "
    return words(n // 1000, joint) + " thousand" + (between + words(rest, joint) if rest else "")


def ordinal(n: int) -> str:
    """The day of a month in words: twenty-third."""
    before, dash, last = words(n).rpartition("-")
    last = ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return before + dash + last


def year(n: int, rng: random.Random) -> str:
    """A year as people say it: nineteen eighty-four, nineteen oh five, two thousand and nine."""
    century, rest = divmod(n, 100)
    if n // 10 == 200 or (century == 20 and rng.random() < 0.5):
        return words(n, rng.choice([" and ", " "]))
    if not rest:
        return words(century) + " hundred"
    return words(century) + (" oh " if rest < 10 else " ") + words(rest)


def a_date(rng: random.Random) -> Pair:
    """A day in one of the usual orders."""
    day = FIRST + timedelta(days=rng.randrange(365 * 400))
    month, nth, said = MONTHS[day.month - 1], ordinal(day.day), year(day.year, rng)
    text = rng.choice(["the {d} of {m} {y}", "{m} {d}, {y}", "{m} the {d}, {y}", "{d} of {m}, {y}", "{d} {m} {y}"])
    return text.format(d=nth, m=month, y=said), day.isoformat()


def an_amount(rng: random.Random) -> Pair:
    """A sum of money, with cents or without; small ones as often as large ones."""
    whole, cents = int(10 ** rng.uniform(0, 5.9999)), rng.choice([0, rng.randrange(1, 100)])
    code, (one, many, cent) = rng.choice(sorted(CURRENCIES.items()))
    text = f"{words(whole, rng.choice([' and ', ' ']))} {one if whole == 1 else many}"
    small = cent if cent == "p" or cents == 1 else cent + "s"
    if cents:
        text += rng.choice([" and ", ", ", " "]) + f"{words(cents)} {small}"
    return text, f"{whole}.{cents:02d} {code}"


def pairs(count: int, seed: int, without: Collection[str] = ()) -> list[Pair]:
    """So many different pairs, as many of each kind; none whose number is in `without`."""
    rng, found = random.Random(seed), dict[str, str]()
    while len(found) < count:
        text, number = (a_date, an_amount)[len(found) % 2](rng)
        if number not in without:
            found[text] = number
    return list(found.items())


def tested() -> list[Pair]:
    """The questions that `measure` may ask."""
    return pairs(2000, 0)


def make(folder: Path, count: int) -> None:
    """Writes the training text, a vocabulary of the words in it, and the student's shape."""
    from tokenizers import pre_tokenizers

    folder.mkdir(parents=True)
    kept = {number for _, number in tested()}
    lines = [{"text": f"{text}\n{number}", "finished": True} for text, number in pairs(count, 1, kept)]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    digits = pre_tokenizers.Digits(individual_digits=True)  # or a number would be a token that was hardly ever seen
    write_student(folder, SHAPE, (line["text"] for line in lines), VOCABULARY, [digits])


PARAMS = SamplingParams(max_tokens=16, temperature=0.0, stop="\n")


@dataclass(frozen=True)
class Asked:
    """A model, and how a question is put to it."""

    name: str
    llm: LLM
    before: str

    def answers(self, tests: list[Pair]) -> float:
        """The share of right answers, all asked at once."""
        outputs = self.llm.generate([f"{self.before}{text}\n" for text, _ in tests], PARAMS)
        return sum(out.text.strip() == number for out, (_, number) in zip(outputs, tests, strict=True)) / len(tests)

    def seconds(self, text: str) -> float:
        """The time of one answer."""
        begun = time.perf_counter()
        self.llm.generate([f"{self.before}{text}\n"], PARAMS)
        return time.perf_counter() - begun


def measure(student: str, teacher: str, count: int, backend: str) -> str:
    """A table: each model's answers, seconds and bytes."""
    tests, alone = tested()[:count], tested()[-TIMED:]
    examples = "".join(f"{text}\n{number}\n\n" for text, number in pairs(8, 2))
    fast = {"backend": backend, "kv_cache": "paged", "prefix_cache": True}
    large = {"quantize": "int8"} if backend == "numba" else {}  # where that is faster
    both = [
        Asked("the student", LLM(student, **fast), ""),
        Asked("SmolLM2, 8 examples", LLM(teacher, **fast, **large), TASK + examples),
    ]
    right = [one.answers(tests) for one in both]
    rounds = [[one.seconds(text) for one in both] for text, _ in alone]
    took = [statistics.median(row) for row in zip(*rounds, strict=True)]
    sizes = [one.llm.model.nbytes for one in both]
    cells = [
        [one.name, f"{r:.1%}", f"{s * 1e3:.1f} ms", amount(n, "B")]
        for one, r, s, n in zip(both, right, took, sizes, strict=True)
    ]
    ratio = f"{took[1] / took[0]:.1f} times as fast, {sizes[1] / sizes[0]:.0f} times as small"
    return f"{table([['model', 'right', 'an answer', 'weights'], *cells])}\n{ratio}, {len(tests)} questions"


def main() -> None:
    """Makes what the student learns from, or measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["make", "measure"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=60_000, help="of train.jsonl")
    parser.add_argument("--student", help="a trained folder (default: FOLDER/trained)")
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--backend", default="numba", choices=["numba", "numpy"])
    args = parser.parse_args()
    if args.step == "make":
        make(args.folder, args.pairs)
    else:
        print(measure(args.student or str(args.folder / "trained"), args.model, args.questions, args.backend))


if __name__ == "__main__":
    main()
