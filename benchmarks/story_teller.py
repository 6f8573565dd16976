"""The story-teller that comes along, made anew by build_story_teller.sh in these steps:

    python benchmarks/story_teller.py write FILE --stories 4000    SmolLM2 writes FILE, a story a line
    python benchmarks/story_teller.py make FOLDER --text FILE      the student's shape, vocabulary and text
    python benchmarks/story_teller.py train FOLDER                 FOLDER/trained
    python benchmarks/story_teller.py measure FOLDER --student X   bits per character beside SmolLM2's own; ten stories

SmolLM2 loses the thread of a story after a few sentences. So `write` draws a plan: who finds, loses or wants to make
what, what is wrong with it, and who helps how. It gives SmolLM2 the beginning of each sentence ("But then the kite got
stuck in a tree"), and SmolLM2 ends it, behind three stories of those forms; an end is asked for again where it is no
plain sentence, says what the story said before, or names another creature. A plan is drawn from word lists, so that a
story can be made again from its number. `measure` looks at the ends of the sentences of FOLDER/test.jsonl, from which
the student has not learned; not at our beginnings, which are easy to guess.
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

EXAMPLES = ["""\
Once upon a time, there was a small frog named Rosa. Rosa lived in a green pond behind the mill. Every morning, she sat
on a stone and sang a song for the fish. One day, Rosa found a red kite in the grass. She took the kite and ran up the
hill with it. But then the kite got stuck in a tree. Rosa was sad, because she could not climb so high. Then a bird came
by and said, "I can help you to get the kite out of the tree." To get the kite out of the tree, the bird pulled at the
string with its beak. Soon the kite was back in the sky. In the end, Rosa and the bird flew the kite until it was dark.

Once upon a time, there was a shy boy named Tom. Tom lived in a little house at the end of the street. Every day, he
walked to school by the river. One day, Tom lost his left shoe. He looked for the shoe under his bed. Tom was sad,
because without the shoe he could not run with the others. Then a mouse came by and said, "I saw your shoe behind the
stove." Tom followed the mouse and looked where it was warm. And there was the shoe, full of nuts. Tom thanked the mouse
and gave it a piece of cheese. From that day on, Tom put both shoes under his pillow.

Once upon a time, there was a proud cat named Nora. Nora lived in a bakery next to the market. She loved to sleep in the
warm flour. One day, Nora wanted to bake a big cake for her friends. First, she put flour and eggs into a bowl. But the
cake was too hard. Nora was sad, because no one could bite into it. Then a girl came by and said, "Your dough
needs some milk and a little honey." To bake a softer cake, the girl and Nora mixed new dough. At last, the cake was as
soft as a cloud. In the end, Nora and the girl shared it with the whole street.""", """\
Once upon a time, there was an old fox named Otto. Otto lived in a cave at the edge of the wood. Every day, he went for
a long walk in the snow. One day, Otto found a lantern beside the road. Otto picked up the lantern and carried it home
under his arm. But the lantern got very dirty on the way. Otto was worried, because it gave no light any more. Then a
hen came by and said, "I can help you to clean the lantern." To clean the lantern, the hen brought a soft cloth. Now the
lantern was as bright as the moon. Otto thanked the hen and hung the lantern over the door.

Once upon a time, there was a curious girl named Lily. Lily lived in a tall house by the harbor. She loved to watch the
ships from her window. One day, Lily lost her blue scarf on the beach. She looked everywhere, but the wind had carried
it away. Lily was worried, because the scarf was a present from her grandmother. Then a duck came by and said, "I saw
your scarf in the tall grass." Lily and the duck ran there and pushed the stalks aside. And there was the scarf, as dry
as before. Lily was happy and gave the duck some bread. In the end, Lily tied the scarf with two knots.

Once upon a time, there was a lazy bear named Ben. Ben lived in a hut on a mountain. Every day, he slept until noon. One
day, Ben wanted to build a little boat. He began to tie branches together. But then the boat had a hole. Ben was sad,
because the water came in from all sides. Then a goat came by and said, "I can help you to close the hole." Together,
they pressed wool and clay into it. Soon the boat was dry inside. In the end, Ben and the goat sailed to the other side
of the lake."""]
BEFORE = tuple("\n\n".join(" ".join(story.split("\n")) for story in three.split("\n\n")) + "\n\n" for three in EXAMPLES)

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
    a red kite, a golden key, an old map, a big box, a shiny stone, a blue ball, a warm hat, a broken boat, a strange
    egg, a sweet cake, a yellow umbrella, a letter, a lantern, a silver bell, a little drum, a toy train, a heavy book
    """)
LOST = words("shoe, favorite hat, red ball, house key, blue scarf, drum, little boat, bell, book, kite, doll, basket")
PLACES = words("""
    behind the mill, under the old bridge, in the tall grass, by the river, at the market, under a bush, in the barn,
    on the hill, behind the house, in the garden, near the well, in a nest
    """)
# What happens to what was found, and what helps then.
TROUBLES = [
    ("got stuck in a tree", "get the {thing} out of the tree"), ("was too heavy", "carry the {thing}"),
    ("fell into the river", "get the {thing} out of the water"), ("got very dirty", "clean the {thing}"),
    ("broke", "mend the {thing}"),
    ("rolled down the hill", "bring the {thing} back"), ("got wet", "dry the {thing}"),
    ("belonged to someone else", "find the owner of the {thing}"), ("got lost in the grass", "look for the {thing}"),
]  # fmt: skip
# What is wanted, what is wrong with it at first, and what helps then.
WANTED = [
    ("build a little boat", "had a hole", "close the hole"), ("build a tall tower", "fell down", "build it again"),
    ("build a house", "had no roof", "make a roof"), ("bake a big cake", "was too hard", "bake a softer cake"),
    ("make a warm soup", "had no taste", "add some salt"), ("make a snowman", "had no nose", "find a carrot"),
    ("plant a tree", "was too dry", "water the tree"), ("grow a pumpkin", "did not grow", "water the pumpkin"),
    ("paint a picture", "looked too dark", "add more colors"), ("knit a scarf", "was too short", "knit some more"),
    ("sing a new song", "was too hard", "sing it slowly"), ("fly a kite", "did not rise", "run against the wind"),
    ("make a gift", "looked too plain", "tie a ribbon around it"), ("grow a flower", "had no light", "move the flower"),
]  # fmt: skip
# A story of each form keeps to one thing and one helper. The beginnings of its sentences, in words like {thing}; one
# of those between |. A sentence may end where a beginning with * ends.
OPENING = """
    Once upon a time, there was {a_hero} named {name}. {name} lived in
    Every morning, {he}|Every day, {he}|{He} loved to
    """
HELP = """
    But the {thing} {trouble}*|But then the {thing} {trouble}*
    {name} was sad, because|{name} was worried, because
    Then {a_helper} came by and said, "I can help you to {remedy}*|Then {a_helper} came by and said, "Let us {remedy}*
    To {remedy}, the {helper}|Together, they
    Soon the {thing} was|Now the {thing} was|At last, the {thing} was
    In the end, {name} and the {helper}|{name} thanked the {helper} and|From that day on, {name} and the {helper}
    """
FORMS = {
    "found": """
        One day, {name} found {phrase}*
        {He} took the {thing} and|{He} wanted to play with the {thing}, so {he}|{name} picked up the {thing} and
        """ + HELP,
    "wanted": """
        One day, {name} wanted to {phrase}*
        First, {he}|{He} began to
        """ + HELP,
    "lost": """
        One day, {name} lost {his} {phrase}*
        {He} looked for the {thing} in|{He} looked for the {thing} under|{He} looked everywhere, but
        {name} was sad, because without the {thing} {he} could not|{name} was worried, because the {thing}
        Then {a_helper} came by and said, "I saw your {thing} {place}*
        {name} followed the {helper} and|{name} and the {helper} ran there and
        And there was the {thing}*|And there lay the {thing},
        {name} thanked the {helper} and|{name} was happy and gave the {helper}
        In the end, {name}|From that day on, {name}
        """,
}  # fmt: skip
FOOD = "cake", "soup", "pumpkin", "egg"  # nothing else is eaten

Line = dict[str, Any]  # a story in its file
Told = tuple[int, dict[int, float]]  # a token, and the log-probabilities of those that could have been drawn
DRAWN = SamplingParams(temperature=0.5, min_p=0.05)
DRAWABLE = 16  # tokens whose log-probabilities are asked for; where no token is likely, more could be drawn
TRIES, SENTENCE, TOGETHER = 8, 28, 192  # ends of a sentence that are asked for, its tokens, stories that grow together
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


@dataclass(frozen=True)
class Plan:
    """What is drawn of a story before SmolLM2 writes it. beginnings: of its sentences, and whether one may end there.

    strangers: names, kinds and pronouns of no one in it, and other words that would lead away from its thread.
    """

    beginnings: list[tuple[str, bool]]
    strangers: re.Pattern[str]


@cache
def plan(seed: int, i: int) -> Plan:
    """The plan of story i."""
    rng = random.Random(f"{seed} {i}")
    he = rng.choice(sorted(NAMES))
    name, his, child = rng.choice(NAMES[he]), {"he": "his", "she": "her"}[he], {"he": "boy", "she": "girl"}[he]
    hero, helper = rng.sample([*KINDS, child, child], 2)
    trait, form, trouble, remedy = rng.choice(TRAITS), rng.choice(sorted(FORMS)), "", ""
    if form == "wanted":
        phrase, trouble, remedy = rng.choice(WANTED)
    else:
        phrase = rng.choice({"found": FOUND, "lost": LOST}[form])
    thing = phrase.split()[-1]
    if form == "found":
        trouble, remedy = rng.choice(TROUBLES)
    a_hero, a_helper = f"{article(trait)} {trait} {hero}", f"{article(helper)} {helper}"
    filled = (OPENING + FORMS[form]).format(
        name=name, he=he, He=he.capitalize(), his=his, a_hero=a_hero, a_helper=a_helper, helper=helper, phrase=phrase,
        thing=thing, trouble=trouble, remedy=remedy.format(thing=thing), place=rng.choice(PLACES),
    )  # fmt: skip
    lines = [line.strip() for line in filled.splitlines() if line.strip()]
    chosen = [rng.choice(line.split("|")) for line in lines]
    others = [one for names in NAMES.values() for one in names if one != name]
    others += [one for one in (*KINDS, "boy", "girl") if one not in (hero, helper)]
    others += ["she", "her", "hers", "herself"] if he == "he" else ["he", "him", "his", "himself"]
    others += ["one day", *([] if thing in FOOD else ["eat", "ate", "eaten"])]
    strangers = re.compile(rf"(?i:\b({'|'.join(others)})s?\b)")
    return Plan([(one.rstrip("*"), one.endswith("*")) for one in chosen], strangers)


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

    @property
    def next(self) -> tuple[str, bool]:
        """How the next sentence begins, and whether it may end there."""
        return plan(self.seed, self.i).beginnings[len(self.parts)]

    def asked(self) -> str:
        """What SmolLM2 continues."""
        return f"{BEFORE[self.i % 2]}{self.text} {self.next[0]}".replace("\n\n ", "\n\n")

    def params(self) -> SamplingParams:
        """How it continues it: each try has noise of its own."""
        seed = random.Random(f"{self.seed} {self.i} {len(self.parts)} {self.tries}").randrange(2**31)
        return replace(DRAWN, max_tokens=SENTENCE, stop=[".", "!", "?", "\n"], logprobs=DRAWABLE, seed=seed)

    def take(self, end: str, mark: str, said: list[Told]) -> None:
        """Adds the end of a sentence, or notes that it was refused. mark: what comes behind it."""
        beginning, whole = self.next
        quoted = beginning.count('"') == 1
        good = mark in (".", "!", "?") and (PLAIN.fullmatch(end) or (whole and not end)) and not UNFIT.search(end)
        good = good and not plan(self.seed, self.i).strangers.search(end)
        good = good and (beginning.endswith('"') or not end[:1].isalpha())  # "the bell" may not become "the bellhop"
        if good and (whole or len(end.split()) > 1) and not self.repeats(end):
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
        done = [story for story in growing if len(story.parts) == len(plan(seed, story.i).beginnings)]
        growing = [story for story in growing if story not in done and story.tries < TRIES]
        yield from done


def write(file: Path, total: int, seed: int, model: str, switches: dict[str, Any]) -> None:
    """Writes a file of so many stories. After a kill it goes on behind the last number in FILE.part.

    Raises ValueError for a file that is there, or was begun with another seed or model.
    """
    check_place(file)
    fast: dict[str, Any] = {"kv_cache": "paged", "prefix_cache": True, "block_size": 8, "num_blocks": 10_000}
    with part_file(file, {"seed": seed, "model": model}) as part:
        numbers = [record["i"] for record in part.records()]
        llm = LLM(model, max_model_len=1024, max_num_seqs=TOGETHER, **fast, **switches)
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


def train(folder: Path, s: TrainingSwitches, model: str, switches: dict[str, Any]) -> None:
    """Trains the student of a folder into FOLDER/trained; goes on after a kill."""
    teacher = load(find(model))
    ops = make_ops(EngineConfig(**switches), Ledger())
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


def bits_per_character(llm: LLM, held_out: list[Line], before: tuple[str, ...] = ("", "")) -> float:
    """What a model pays for the ends of the sentences, each given all that stands before it; before: the story, too, of
    an even and of an odd number.
    """
    bits, characters = 0.0, 0
    for story in held_out:
        examples = before[story["i"] % 2]
        ids = llm.tokenizer.encode(examples + story["text"])
        written = [len(llm.tokenizer.decode(ids[:k])) for k in range(1, len(ids))]  # characters before token k
        costs, at = -llm.score(ids) / np.log(2), len(examples) - 1
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


def measure(folder: Path, student: str, teacher: str, switches: dict[str, Any]) -> str:
    """Bits per character of both models, and ten stories of the student."""
    held_out = read(folder / "test.jsonl")
    small, large = LLM(student, **switches), LLM(teacher, **switches)
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
    parser.add_argument("--batch-tokens", type=int, default=1024, help="of a step of `train`")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--student", help="a trained folder (default: FOLDER/trained)")
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--backend", choices=["numba", "numpy", "cupy"], help="default: numba, but for `train` numpy")
    parser.add_argument("-t", "--threads", type=int)
    args = parser.parse_args()
    backend = args.backend or ("numpy" if args.step == "train" else "numba")
    switches = {"backend": backend, "threads": args.threads}
    if args.step == "write":
        write(args.path, args.stories, args.seed, args.model, switches)
    elif args.step == "make":
        make(args.path, args.text)
    elif args.step == "train":
        s = TrainingSwitches(top_k=DRAWABLE, tokens=args.tokens, rate=args.rate, batch_tokens=args.batch_tokens,
                             warm_up=100, decay=0.1)  # fmt: skip
        train(args.path, s, args.model, switches)
    else:
        print(measure(args.path, args.student or str(args.path / "trained"), args.model, switches))


if __name__ == "__main__":
    main()
