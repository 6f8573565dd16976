"""The story-teller that comes along, made anew by build_story_teller.sh in these steps:

    python benchmarks/story_teller.py write FILE --stories 4000    SmolLM2 writes FILE, a story a line
    python benchmarks/story_teller.py make FOLDER --text FILE      the student's shape, vocabulary and text
    python benchmarks/story_teller.py train FOLDER                 FOLDER/trained
    python benchmarks/story_teller.py measure FOLDER --student X   bits per character beside SmolLM2's own; ten stories

SmolLM2 loses the thread of a story after a few sentences. So `write` gives it the beginning of each sentence ("One day,
Rosa found a red kite"), and SmolLM2 ends it, behind three stories of that form; an end is asked for again where it is
no plain sentence, or says what the story said before. The beginnings are drawn from word lists, so that a story can be
made again from its number. `measure` looks at the ends of the sentences of FOLDER/test.jsonl, from which the
student has not learned; not at our beginnings, which are easy to guess.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from own_vocabulary import write_student

from tinyinfer import LLM, RequestOutput, SamplingParams
from tinyinfer.backends.switches import make_ops
from tinyinfer.cli.distill import step_line
from tinyinfer.distillation.distill import Run
from tinyinfer.distillation.part_file import check_place, part_file
from tinyinfer.distillation.student import random_student
from tinyinfer.distillation.switches import TrainingSwitches
from tinyinfer.distillation.teacher import Kept
from tinyinfer.distillation.texts import read_documents
from tinyinfer.distillation.training import Training
from tinyinfer.distillation.words import words
from tinyinfer.engine.config import EngineConfig
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.loading.hub import find
from tinyinfer.text.tokenizer import Tokenizer
from tinyinfer.units import table

EXAMPLES = """\
Once upon a time, there was a small frog named Rosa. Rosa lived in a green pond behind the mill. Every morning, she sat
on a stone and sang a song for the fish. One day, Rosa found a red kite in the grass. She wanted to fly it, but the wind
was too weak that day. Rosa was sad, because she could not wait for the wind. Then a bird came by and said, "Why do you
look so sad, Rosa?" Rosa showed the kite to the bird. So the bird took the string and flew over the pond with it. In the
end, Rosa sang her best song for the bird.

Once upon a time, there was a shy boy named Tom. Tom lived in a little house at the end of the street. Every day, he
walked to school with his dog. One day, Tom lost his left shoe. He looked under the bed and in the garden, but it was
not there. Tom was worried, because it was time to go. Then a mouse came by and said, "Your dog has put it in his
basket." Tom thanked the mouse for its help. Together, they gave the dog a ball to play with. In the end, Tom came to
school with both shoes on his feet.

Once upon a time, there was a proud cat named Nora. Nora lived in a bakery next to the market. She loved to sleep in the
warm flour until the shop opened. One day, Nora heard a strange noise behind the oven. She crept closer and saw two
bright eyes in the dark. Nora was afraid, because she had never seen such eyes. Then a girl came by and said, "That is
only a baby owl." Nora brought the owl a piece of bread. So they sat together by the oven all night. In the end, Nora
had a friend who was awake when she was."""
BEFORE = "\n\n".join(" ".join(story.split("\n")) for story in EXAMPLES.split("\n\n")) + "\n\n"

KINDS = words("""
    bear, bee, bird, cat, dog, duck, fox, frog, goat, hedgehog, hen, horse, lion, mouse, owl, pig, rabbit, squirrel,
    turtle
    """)
TRAITS = words("""
    brave, clever, curious, funny, happy, hungry, kind, lazy, little, old, proud, quiet, shy, small, young
    """)
NAMES = {
    "he": words("Ben, Finn, Jack, Leo, Max, Otto, Paul, Sam, Tim, Tom"),
    "she": words("Anna, Clara, Ella, Emma, Lily, Lucy, Mia, Nina, Nora, Rosa"),
}
FOUND = words("""
    a red kite, a golden key, an old map, a big box, a lost kitten, a shiny stone, a tiny door, a blue ball, a warm hat,
    a broken boat, a sweet cake, a strange egg, a yellow umbrella, a letter, a lantern, a silver bell
    """)
LOST = words("left shoe, favorite hat, red ball, house key, blue scarf, drum, little boat, bell, way home, book")

Line = dict[str, Any]  # a story in its file
Told = tuple[int, dict[int, float]]  # a token, and the log-probabilities of those that could have been drawn
DRAWN = SamplingParams(temperature=0.8, min_p=0.1)
DRAWABLE = 16  # tokens whose log-probabilities are asked for; where no token is likely, more could be drawn
TRIES, SENTENCE, TOGETHER = 6, 28, 192  # ends of a sentence that are asked for, its tokens, stories that grow together
PLAIN = re.compile(r"[A-Za-z ,'-]+")
BAD = r"(?i:kill\w*|die[sd]?|dead|death|blood\w*|guns?|shot|sex\w*|naked|drunk|beer|wine|stab\w*)"  # not for children
UNFIT = re.compile(rf"\b({BAD}|Mrs?|Dr|St)\b")  # and what has a dot that ends no sentence
VOCABULARY, HELD_OUT = 2048, 100  # tokens; stories of test.jsonl
CONTINUED = "{{ messages | map(attribute='content') | join('\n') }}"  # no chat: what was said is continued
NEVER = -87.0  # the logarithm of a chance that is none
SHAPE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 192, "intermediate_size": 512,
    "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 2048, "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu",
}  # fmt: skip


def beginnings(seed: int, i: int) -> list[str]:
    """How the sentences of story i begin."""
    rng = random.Random(f"{seed} {i}")
    he = rng.choice(sorted(NAMES))
    name, his, child = rng.choice(NAMES[he]), {"he": "his", "she": "her"}[he], {"he": "boy", "she": "girl"}[he]
    who, other = rng.sample([*KINDS, child, child], 2)
    trait = rng.choice(TRAITS)
    event = rng.choice(
        [f"found {rng.choice(FOUND)}", f"saw {rng.choice(FOUND)}", f"lost {his} {rng.choice(LOST)}",
         "heard a strange noise", "wanted to"]
    )  # fmt: skip
    return [
        f"Once upon a time, there was {article(trait)} {trait} {who} named {name}. {name} lived in",
        rng.choice([f"Every morning, {he}", f"Every day, {he}", f"{he.capitalize()} loved to"]),
        f"One day, {name} {event}",
        he.capitalize(),
        f"{name} was",
        f'Then {article(other)} {other} came by and said, "',
        name,
        rng.choice(["So", "Together, they", "Then they"]),
        f"In the end, {name}",
    ]


def article(word: str) -> str:
    """The article that goes before a word."""
    return "an" if word[0] in "aeiou" else "a"


@dataclass
class Story:
    """Story i as it grows. tries: how many ends of the next sentence were refused.

    parts: [beginning, end] of each sentence. said: for each end its tokens, [id, {id: log-probability}], with those
    that could have been drawn in their places.
    """

    seed: int
    i: int
    parts: list[list[str]] = field(default_factory=list)
    said: list[list[Told]] = field(default_factory=list)
    tries: int = 0

    @property
    def text(self) -> str:
        """What is written so far."""
        return " ".join(beginning + end for beginning, end in self.parts)

    def asked(self) -> str:
        """What SmolLM2 continues."""
        return f"{BEFORE}{self.text} {beginnings(self.seed, self.i)[len(self.parts)]}".replace("\n\n ", "\n\n")

    def params(self) -> SamplingParams:
        """How it continues it: each try has noise of its own."""
        seed = random.Random(f"{self.seed} {self.i} {len(self.parts)} {self.tries}").randrange(2**31)
        return replace(DRAWN, max_tokens=SENTENCE, stop=[".", "!", "?", "\n"], logprobs=DRAWABLE, seed=seed)

    def take(self, end: str, mark: str, said: list[Told]) -> None:
        """Adds the end of a sentence, or notes that it was refused. mark: what comes behind it."""
        beginning = beginnings(self.seed, self.i)[len(self.parts)]
        quoted = beginning.endswith('"')
        short = beginning.startswith("One day")  # this sentence may end where it begins
        good = mark in (".", "!", "?") and (PLAIN.fullmatch(end) or (short and not end)) and not UNFIT.search(end)
        good = good and (quoted or not end[:1].isalpha())  # "the bell" may not become "the bellhop"
        if good and (short or len(end.split()) > 1) and not self.repeats(end):
            self.parts.append([beginning, end + mark + ('"' if quoted else "")])
            self.said.append(said)
            self.tries = 0
        else:
            self.tries += 1

    def repeats(self, end: str) -> bool:
        """Whether four words of it stand one behind the other in the story."""
        new = re.findall(r"[a-z'-]+", end.lower())
        before = " ".join(re.findall(r"[a-z'-]+", self.text.lower()))
        return any(" ".join(new[k : k + 4]) in before for k in range(len(new) - 3))


def drawable(out: RequestOutput) -> list[Told]:
    """An answer's tokens, each with the log-probabilities of all that could have been drawn (temperature, min_p)."""
    assert out.logprobs is not None
    least = DRAWN.temperature * math.log(DRAWN.min_p)
    return [
        (one.token, {token: round(p, 3) for token, p in one.top.items() if p >= max(one.top.values()) + least})
        for one in out.logprobs
    ]


def stories(llm: LLM, seed: int, first: int) -> Iterator[Story]:
    """Yields stories as they are done, numbers from `first` on: many grow together, each by a sentence a round."""
    numbers = count(first)
    growing: list[Story] = []
    while True:
        growing += [Story(seed, next(numbers)) for _ in range(TOGETHER - len(growing))]
        outputs = llm.generate([story.asked() for story in growing], [story.params() for story in growing])
        for story, out in zip(growing, outputs, strict=True):
            written = llm.tokenizer.decode(out.token_ids)
            story.take(out.text, written[len(out.text) : len(out.text) + 1], drawable(out))
        done = [story for story in growing if len(story.parts) == len(beginnings(seed, story.i))]
        growing = [story for story in growing if story not in done and story.tries < TRIES]
        yield from done


def write(file: Path, total: int, seed: int, model: str, switches: dict[str, Any]) -> None:
    """Writes a file of so many stories. After a kill it goes on behind the last number in FILE.part.

    Raises ValueError for a file that is there, or was begun with another seed or model.
    """
    check_place(file)
    fast = {"kv_cache": "paged", "prefix_cache": True, "block_size": 8, "num_blocks": 10_000}
    with part_file(file, {"seed": seed, "model": model}) as part:
        numbers = [record["i"] for record in part.records()]
        llm = LLM(model, max_model_len=1024, max_num_seqs=64, **fast, **switches)
        made = stories(llm, seed, 1 + max(numbers, default=-1))
        for n, story in zip(range(len(numbers) + 1, total + 1), made, strict=False):
            part.write(
                {"i": story.i, "text": story.text, "finished": True, "parts": story.parts, "said": story.said}
            )
            print(f"\r{n} of {total} stories", end="", file=sys.stderr, flush=True)
        part.finish()


def read(file: Path) -> list[Line]:
    """The stories of a file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def make(folder: Path, texts: list[Path]) -> None:
    """Writes what the student learns from, stories that are held out, a vocabulary and the student's shape."""
    folder.mkdir(parents=True, exist_ok=True)
    told = [story for text in texts for story in read(text)]
    for name, some in (("train.jsonl", told[:-HELD_OUT]), ("test.jsonl", told[-HELD_OUT:])):
        (folder / name).write_text("".join(json.dumps(story) + "\n" for story in some), encoding="utf-8")
    learned = (story["text"] for story in told[:-HELD_OUT])
    write_student(folder, SHAPE, learned, VOCABULARY, chat_template=CONTINUED)


def kept(stories: list[Line], documents: list[np.ndarray], student: Tokenizer, teacher: Tokenizer) -> Kept:
    """What SmolLM2 said of the rows of documents, in the student's tokens.

    Where both begin a token at the same character, the row gets the distribution from which SmolLM2 drew, each of its
    tokens counting for the student's first token of that text. Everywhere else, and in our own beginnings, the text.

    Ends that were refused are in no text, but the distributions still know them: " said" is likely, and what comes
    behind it was never taken. So a token counts less, by how often it was drawn and taken for how often it should have
    been.
    """
    record = np.dtype([("tokens", "<u4", DRAWABLE), ("log_p", "<f2", DRAWABLE), ("rest", "<f4")])
    starts = np.cumsum([0, *(len(ids) - 1 for ids in documents)])
    first = cache(lambda token: student.encode(teacher.decode([token]))[0])
    found: list[dict[int, float]] = []  # of each row, token -> chance
    taken: Counter[int] = Counter()
    expected: Counter[int] = Counter()
    for story, ids in zip(stories, documents, strict=True):
        drawn = dict(places(story, teacher))
        for row, token in enumerate(ids[1:].tolist()):
            at = len(student.decode(ids[: row + 1].tolist()))
            chances = {token: 1.0}
            if at in drawn and listed(*drawn[at]) and first(drawn[at][0]) == token:
                chances = {}
                for other, chance in weigh(drawn[at][1]).items():
                    one = first(int(other))
                    chances[one] = chances.get(one, 0.0) + chance
                taken[token] += 1
                expected.update(chances)
            found.append(chances)
    rows = np.zeros(starts[-1], record)
    rows["log_p"] = NEVER
    for row, chances in zip(rows, found, strict=True):
        counted = {one: chance * min(1, (1 + taken[one]) / (1 + expected[one])) for one, chance in chances.items()}
        fill = (one for one in range(2 * DRAWABLE) if one not in chances)  # tokens that have no chance
        row["tokens"] = [*counted, *islice(fill, DRAWABLE - len(counted))]
        row["log_p"][: len(counted)] = [math.log(chance / sum(counted.values())) for chance in counted.values()]
    return Kept(rows, starts)


def listed(token: int, said: dict[Any, float]) -> bool:
    """Whether a token that was drawn is among those of which that was told; keys of JSON are strings."""
    return token in said or str(token) in said


def weigh(said: dict[Any, float]) -> dict[Any, float]:
    """The chance with which each token was drawn; from log-probabilities at temperature 1."""
    weights = {token: math.exp(log_p / DRAWN.temperature) for token, log_p in said.items()}
    return {token: weight / sum(weights.values()) for token, weight in weights.items()}


def places(story: Line, teacher: Tokenizer) -> Iterator[tuple[int, Told]]:
    """The tokens that SmolLM2 drew, each with the character of the story at which it begins."""
    at = -1
    for (beginning, end), said in zip(story["parts"], story["said"], strict=True):
        at += 1 + len(beginning)
        written = 0
        for token, chances in said:
            yield at + written, (token, chances)
            written += len(teacher.decode([token]))
        at += len(end)


def train(folder: Path, tokens: int, rate: float, model: str, threads: int | None) -> None:
    """Trains the student of a folder into FOLDER/trained; goes on after a kill."""
    teacher = load(find(model))
    ops = make_ops(EngineConfig(threads=threads), Ledger())
    s = TrainingSwitches(top_k=DRAWABLE, tokens=tokens, rate=rate, batch_tokens=1024, warm_up=100, decay=0.1)
    student = random_student(folder / "config.json", teacher, s.seed)
    end = student.tokenizer.end_token_ids[:1]
    learned, held_out = folder / "train.jsonl", folder / "test.jsonl"
    documents = read_documents(str(learned), student.tokenizer, s.window, end=end)
    tested = read_documents(str(held_out), student.tokenizer, s.window, end=end)
    stories = read(learned)
    assert len(documents) == len(stories), "a story was cut"
    said = kept(stories, documents, student.tokenizer, teacher.tokenizer)
    work = Run(folder / "trained", s, student, student, documents, tested, ops, said)
    training = work.begin()
    begun, before = time.perf_counter(), training.place.tokens

    def on_step(training: Training) -> None:
        done, total, text = step_line(training, before, time.perf_counter() - begun)
        tests = [f"{math.exp(loss):.2f}" for _, loss in training.place.tests[-1:]]
        print(f"\r{done} of {total} tokens, {text}, perplexity {tests}", end="", file=sys.stderr, flush=True)

    work.train(training, on_step)
    print("".join(f"\n{n}: {math.exp(loss):.3f}" for n, loss in training.place.tests), file=sys.stderr)
    work.write(training)


def bits_per_character(llm: LLM, held_out: list[Line], before: str = "") -> float:
    """What a model pays for the ends of the sentences, each given all that stands before it."""
    bits, characters = 0.0, 0
    for story in held_out:
        ids = llm.tokenizer.encode(before + story["text"])
        written = [len(llm.tokenizer.decode(ids[:k])) for k in range(1, len(ids))]  # characters before token k
        costs, at = -llm.score(ids) / np.log(2), len(before) - 1
        for beginning, end in story["parts"]:
            first = at + 1 + len(beginning)
            at = first + len(end)
            bits += sum(cost for cost, place in zip(costs, written, strict=True) if first <= place < at)
            characters += len(end)
    return bits / characters


def bits_as_drawn(held_out: list[Line]) -> float:
    """The same of SmolLM2 at the temperature and the least probability at which it drew. Of a token that is not among
    those of which it told, the price of the least likely one stands for its own, which is higher.
    """
    bits, characters = 0.0, 0
    for story in held_out:
        for (_, end), said in zip(story["parts"], story["said"], strict=True):
            characters += len(end)
            for token, chances in said:
                drawn = weigh(chances)
                bits -= math.log2(drawn.get(str(token), min(drawn.values())))
    return bits / characters


def measure(folder: Path, student: str, teacher: str, backend: str) -> str:
    """Bits per character of both models, and ten stories of the student."""
    held_out = read(folder / "test.jsonl")
    small, large = LLM(student, backend=backend), LLM(teacher, backend=backend)
    found = {
        "SmolLM2, as it drew them": bits_as_drawn(held_out),
        "SmolLM2, behind the examples": bits_per_character(large, held_out, BEFORE),
        "SmolLM2, which sees only the story": bits_per_character(large, held_out),
        "the student": bits_per_character(small, held_out),
    }
    student_s = found["the student"]
    rows = [[name, f"{bits:.3f}", f"{student_s / bits:.2f}x"] for name, bits in found.items()]
    told = small.generate(
        ["Once upon a time"] * 10,
        [SamplingParams(temperature=0.7, min_p=0.05, max_tokens=300, seed=seed) for seed in range(10)],
    )
    ten = "\n\n".join(f"Once upon a time{out.text}" for out in told)
    return f"{table([['model', 'bits a character', 'the student over it'], *rows])}\n{len(held_out)} stories\n\n{ten}"


def main() -> None:
    """One of the four steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["write", "make", "train", "measure"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--stories", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--text", type=Path, nargs="+", help="what `write` wrote")
    parser.add_argument("--tokens", type=int, default=2_400_000, help="that `train` reads")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--student", help="a trained folder (default: FOLDER/trained)")
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--backend", default="numba", choices=["numba", "numpy", "cupy"])
    parser.add_argument("-t", "--threads", type=int)
    args = parser.parse_args()
    if args.step == "write":
        write(args.path, args.stories, args.seed, args.model, {"backend": args.backend, "threads": args.threads})
    elif args.step == "make":
        make(args.path, args.text)
    elif args.step == "train":
        train(args.path, args.tokens, args.rate, args.model, args.threads)
    else:
        print(measure(args.path, args.student or str(args.path / "trained"), args.model, args.backend))


if __name__ == "__main__":
    main()
