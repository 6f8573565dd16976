"""The story-teller that comes along, made anew by build_story_teller.sh in these steps:

    python benchmarks/story_teller.py write FILE --stories 4000    SmolLM2 writes FILE, a story a line
    python benchmarks/story_teller.py make FOLDER --text FILE      the student's shape, vocabulary and text
    python benchmarks/story_teller.py train FOLDER                 FOLDER/trained
    python benchmarks/story_teller.py measure FOLDER --student X   bits per character beside SmolLM2's own; ten stories

SmolLM2 loses the thread of a story after a few sentences. So `write` draws a plan (story_plans.py): who finds, loses or
wants to make what, what is wrong with it, and who helps how. The plan says some sentences whole ("But then the kite got
stuck in a tree."); of the others it gives SmolLM2 the beginning, and SmolLM2 ends them, behind three stories of those
forms; an end is asked for again where it is no plain sentence, says what the story or an example said before, or names
another creature. `make` mixes more stories from those, other plans with ends that SmolLM2 has written. `measure` looks
at the ends of the sentences of FOLDER/test.jsonl, from which the student has not learned; not at what the plan says,
which is easy to guess.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from own_vocabulary import write_student
from story_plans import Beginning, plan

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

Line = dict[str, Any]  # a story in its file
Told = tuple[int, dict[int, float]]  # a token, and the log-probabilities of those that could have been drawn
DRAWN = SamplingParams(temperature=0.5, min_p=0.05)
DRAWABLE = 16  # tokens whose log-probabilities are asked for; where no token is likely, more could be drawn
TRIES, SENTENCE, TOGETHER = 8, 28, 192  # ends of a sentence that are asked for, its tokens, stories that grow together
PLAIN = re.compile(r"[A-Za-z ,'-]+")
# What is not for children, or eats the heroes.
BAD = r"(?i:kill\w*|die[sd]?|dead|death|blood\w*|guns?|shot|sex\w*|naked|drunk|beer|wine|stab\w*|meat|chickens?)"
UNFIT = re.compile(rf"\b({BAD}|Mrs?|Dr|St)\b")  # and what has a dot that ends no sentence
VOCABULARY, HELD_OUT = 2048, 100  # tokens; stories of test.jsonl
CONTINUED = "{{ messages | map(attribute='content') | join('\n') }}"  # no chat: what was said is continued
NEVER = -87.0  # the logarithm of a chance that is none
SHAPE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 192, "intermediate_size": 512,
    "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 2048, "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu",
}  # fmt: skip


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
    def line(self) -> Line:
        """The story as its file has it."""
        return {"i": self.i, "text": self.text, "finished": True, "parts": self.parts, "said": self.said}

    @property
    def next(self) -> Beginning:
        """How the next sentence begins."""
        return plan(self.seed, self.i).beginnings[len(self.parts)]

    @property
    def done(self) -> bool:
        """Whether all sentences are there."""
        return len(self.parts) == len(plan(self.seed, self.i).beginnings)

    def asked(self) -> str:
        """What SmolLM2 continues."""
        return f"{BEFORE[self.i % 2]}{self.text} {self.next.text}".replace("\n\n ", "\n\n")

    def params(self) -> SamplingParams:
        """How it continues it: each try has noise of its own."""
        seed = random.Random(f"{self.seed} {self.i} {len(self.parts)} {self.tries}").randrange(2**31)
        return replace(DRAWN, max_tokens=SENTENCE, stop=[".", "!", "?", "\n"], logprobs=DRAWABLE, seed=seed)

    def take(self, end: str, mark: str, said: list[Told]) -> None:
        """Adds the end of a sentence and the whole sentences that follow, or notes that the end was refused.

        mark: what comes behind it.
        """
        good = mark in (".", "!", "?") and (PLAIN.fullmatch(end) or (self.next.may_end and not end))
        good = good and not UNFIT.search(end) and not plan(self.seed, self.i).strangers.search(end)
        if not self.next.text.endswith('"'):
            good = good and not end[:1].isalpha()  # "the bell" may not become "the bellhop"
        if not good or not (self.next.may_end or len(end.split()) > 1) or self.repeats(end):
            self.tries += 1
            return
        quoted = self.next.text.count('"') == 1
        self.parts.append([self.next.text, end + mark + ('"' if quoted else "")])
        self.said.append(said)
        self.tries = 0
        while not self.done and self.next.whole:
            self.parts.append([self.next.text, ""])
            self.said.append([])

    def repeats(self, end: str) -> bool:
        """Whether four words of it stand one behind the other in the story, in what the plan will say, or in the
        examples.
        """
        new = re.findall(r"[a-z'-]+", end.lower())
        coming = " ".join(one.text for one in plan(self.seed, self.i).beginnings)
        known = re.findall(r"[a-z'-]+", f"{BEFORE[self.i % 2]} {self.text} {coming}".lower())
        runs = {tuple(known[k : k + 4]) for k in range(len(known) - 3)}
        return any(tuple(new[k : k + 4]) in runs for k in range(len(new) - 3))


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
        done = [story for story in growing if story.done]
        growing = [story for story in growing if story not in done and story.tries < TRIES]
        yield from done


def write(file: Path, total: int, seed: int, model: str, switches: dict[str, Any]) -> None:
    """Writes a file of so many stories. After a kill it goes on behind the last number in FILE.part.

    Raises ValueError for a file that is there, or was begun with another seed, model or version of this script.
    """
    check_place(file)
    fast: dict[str, Any] = {"kv_cache": "paged", "prefix_cache": True, "block_size": 8, "num_blocks": 10_000}
    with part_file(file, settings(seed, model)) as part:
        numbers = [record["i"] for record in part.records()]
        llm = LLM(model, max_model_len=1024, max_num_seqs=TOGETHER, **fast, **switches)
        made = stories(llm, seed, 1 + max(numbers, default=-1))
        for n, story in zip(range(len(numbers) + 1, total + 1), made, strict=False):
            part.write(story.line)
            print(f"\r{n} of {total} stories", end="", file=sys.stderr, flush=True)
        part.finish()


def settings(seed: int, model: str) -> dict[str, Any]:
    """What all stories of a file have in common: this file and the plans, too, so that no file holds two kinds."""
    written = b"".join((Path(__file__).parent / name).read_bytes() for name in ("story_plans.py", "story_teller.py"))
    return {"seed": seed, "model": model, "script": hashlib.sha256(written).hexdigest()[:12]}


def read(file: Path) -> list[Line]:
    """The stories of a file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def make(folder: Path, texts: list[Path], total: int) -> None:
    """Writes what the student learns from, stories that are held out, a vocabulary and the student's shape.

    total: stories to learn from; those that are more than the texts hold are mixed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = [story for text in texts for story in read(text)]
    learned = told[:-HELD_OUT]
    learned += islice(mixed(learned), max(0, total - len(learned)))
    for name, some in (("train.jsonl", learned), ("test.jsonl", told[-HELD_OUT:])):
        (folder / name).write_text("".join(json.dumps(story) + "\n" for story in some), encoding="utf-8")
    write_student(folder, SHAPE, (story["text"] for story in learned), VOCABULARY, chat_template=CONTINUED)


def mixed(told: list[Line]) -> Iterator[Line]:
    """Stories of other plans, whose sentences end as SmolLM2 has ended sentences that begin alike, but for the name.

    A plan is a small part of a story's words, and there are many more plans than SmolLM2 has time for. An end that
    would be refused in its new place is passed over, and so is a plan with a sentence that has no end.
    """
    ends: defaultdict[str, list[tuple[str, list[Told]]]] = defaultdict(list)
    for story in told:
        name = name_in(story["text"])
        for (beginning, end), said in zip(story["parts"], story["said"], strict=True):
            if end:
                ends[beginning.replace(name, "{name}")].append((end, said))
    for i in count():
        story, rng = Story(0, i), random.Random(f"mixed {i}")
        while not story.done and story.tries < TRIES:
            text = story.next.text
            known = ends.get(text.replace(name_in(f"{story.text} {text}"), "{name}"))
            if not known:
                break
            end, said = rng.choice(known)
            story.take(end[:-1], end[-1], said)
        if story.done:
            yield story.line


def name_in(text: str) -> str:
    """The hero's name, which the first sentence of a story gives."""
    return text.partition(" named ")[2].partition(".")[0]


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
    written = sum(len(end) for story in held_out for _, end in story["parts"])
    share = written / sum(len(story["text"]) for story in held_out)
    told = small.generate(
        ["Once upon a time"] * 10,
        [SamplingParams(temperature=0.7, min_p=0.05, max_tokens=300, seed=seed) for seed in range(10)],
    )
    ten = "\n\n".join(f"Once upon a time{out.text}" for out in told)
    rows = [["model", "bits a character", "the student over it"], *rows]
    return f"{table(rows)}\n{len(held_out)} stories, of which SmolLM2 wrote {share:.0%}\n\n{ten}"


def main() -> None:
    """One of the four steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["write", "make", "train", "measure"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--stories", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--text", type=Path, nargs="+", help="what `write` wrote")
    parser.add_argument("--mixed", type=int, default=0, help="stories that `make` mixes from those, to have so many")
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
        make(args.path, args.text, args.mixed)
    elif args.step == "train":
        s = TrainingSwitches(top_k=DRAWABLE, tokens=args.tokens, rate=args.rate, batch_tokens=args.batch_tokens,
                             warm_up=100, decay=0.1)  # fmt: skip
        train(args.path, s, args.model, switches)
    else:
        print(measure(args.path, args.student or str(args.path / "trained"), args.model, switches))


if __name__ == "__main__":
    main()
