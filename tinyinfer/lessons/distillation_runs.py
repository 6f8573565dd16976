"""Lesson 19, distillation: a student of four hundred thousand weights, what it reads, and how it is trained.

All of it is the package's own training (distillation/), on so little text that the lesson sees its end: pages of
Python's documentation, each of which the student reads forty times. So a student that is told only the text
can learn it by heart, and one that is told distributions has more to learn than that.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.distillation.losses import merged, softmax
from tinyinfer.distillation.objective import Losses, Objective
from tinyinfer.distillation.student import random_checkpoint
from tinyinfer.distillation.switches import TrainingSwitches
from tinyinfer.distillation.tape import Tape
from tinyinfer.distillation.teacher import Kept, Teacher, keep
from tinyinfer.distillation.texts import Reading, reading
from tinyinfer.distillation.training import Training, known
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import build_engine
from tinyinfer.llm import LLM
from tinyinfer.loading.build import build_model
from tinyinfer.model.config import ModelConfig, RopeConfig
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model
from tinyinfer.sampling_params import SamplingParams

WINDOW, READ, TESTED = 64, 32, 16  # tokens of a page; pages that a student reads, and those that it is tested on
KNOWN, WIDTH, LAYERS = 4096, 64, 2  # the student's vocabulary, and its size
K = 24  # tokens that are kept of each row of the teacher's
PASS = 256  # rows of a pass of the teacher, whose logits have 50 MB
TRAINING = TrainingSwitches(
    top_k=K, tokens=40 * READ * WINDOW, window=WINDOW, batch_tokens=2 * WINDOW, rate=1e-2, seed=1
)
UNKNOWN = "□"  # what a token that the student does not know is written as


@dataclass(frozen=True)
class Pages:
    """What students read and what they are tested on: arrays of WINDOW + 1 tokens. known: tokens of the vocabulary."""

    read: list[np.ndarray]
    tested: list[np.ndarray]
    known: int

    def share(self) -> float:
        """The share of all tokens that the student knows."""
        return float(np.mean([ids < self.known - 1 for ids in (*self.read, *self.tested)]))

    def reading(self, read: bool = True) -> Reading:
        """All rows that are read, or all that are tested, as one batch."""
        documents = self.read if read else self.tested
        return reading(documents, range(len(documents)), small_config(self.known).rotation_sets)


def pages(llm: LLM) -> Pages:
    """The pages of Python's documentation that have the most different tokens that the student knows.

    Those are sentences, where other pages are tables and names. Every third one is for tests.
    """
    size = min(KNOWN, llm.config.vocab_size)
    ids = np.array(llm.tokenizer.encode("\n".join(text for _, text in sorted(topics.items()))))
    starts = np.arange(0, len(ids) - WINDOW, WINDOW)
    different = [len(np.unique(page[page < size - 1])) for page in (ids[n : n + WINDOW] for n in starts)]
    best = np.sort(np.argsort(different, kind="stable")[::-1][: READ + TESTED])
    found = [ids[n : n + WINDOW + 1] for n in starts[best].tolist()]
    return Pages([page for i, page in enumerate(found) if i % 3], found[::3], size)


def small_config(vocabulary: int) -> ModelConfig:
    """The student's shape: that of a Llama, with two layers."""
    heads, width = 2, WIDTH // 2
    return ModelConfig(
        "llama", vocabulary, WIDTH, 4 * WIDTH, LAYERS, heads, heads, width, max_position=512, norm_eps=1e-5,
        attention_scale=width**-0.5, rope=(RopeConfig(),) * LAYERS, windows=(None,) * LAYERS, tied_head=True,
    )  # fmt: skip


def student(llm: LLM, vocabulary: int) -> Model:
    """A student that knows nothing: random weights, the same ones each time."""
    checkpoint = random_checkpoint("student", small_config(vocabulary), llm.tokenizer, TRAINING.seed)
    return build_model(checkpoint, llm.ops)


def what_the_teacher_says(llm: LLM, text: Pages) -> tuple[Kept, float]:
    """Of each row that students read, the teacher's K likeliest tokens and the rest; and the seconds that it took."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path, k = Path(folder) / "teacher", min(K, text.known)
        found = keep(path, Teacher(llm.model, llm.ops), text.read, k, 1.0, text.known, {}, batch=PASS)
        kept = Kept(np.array(found.rows), found.starts)
        del found  # a file that is still mapped cannot be removed everywhere
    return kept, time.perf_counter() - begun


def training(llm: LLM, text: Pages, said: Kept | None) -> Training:
    """A new student before its first step. said: what it learns from; None: the text alone."""
    switches = TRAINING if said else replace(TRAINING, top_k=None, loss="cross-entropy")
    return Training(student(llm, text.known), llm.ops, text.read, Objective(switches, said), tested=text.tested)


@dataclass(frozen=True)
class Trained:
    """A run that is over. losses, tests: pairs (rounds through the pages, mean loss of a round or loss of a test)."""

    training: Training
    seconds: float

    @property
    def losses(self) -> np.ndarray:  # -> (n, 2)
        """The mean loss of each of n rounds through the pages."""
        losses = np.array([loss for _, loss in self.training.place.losses])  # (steps,)
        rounds = losses[: len(losses) // STEPS * STEPS].reshape(-1, STEPS).mean(axis=1)  # (n,)
        return np.stack((np.arange(len(rounds)) + 0.5, rounds), axis=1)

    @property
    def tests(self) -> np.ndarray:  # -> (n, 2)
        """The cross entropy of the tested pages, n times in a run."""
        return np.array([(tokens / (READ * WINDOW), loss) for tokens, loss in self.training.place.tests])

    @property
    def best(self) -> float:
        """The lowest cross entropy of all tests."""
        return float(self.tests[:, 1].min())

    @property
    def last(self) -> float:
        """The cross entropy of the test at the end."""
        return float(self.tests[-1, 1])

    @property
    def speed(self) -> float:
        """Tokens a second, tests included."""
        return self.training.place.tokens / self.seconds


STEPS = READ * WINDOW // TRAINING.batch_tokens  # of a round through the pages


def train(llm: LLM, text: Pages, said: Kept | None) -> Trained:
    """Trains a new student to the end."""
    begun, new = time.perf_counter(), training(llm, text, said)
    for _ in new.run():
        continue
    return Trained(new, time.perf_counter() - begun)


@dataclass(frozen=True)
class OwnObjective(Objective):
    """An objective whose divergence is a student's own: (logits, teacher's logits, temperature) -> loss, gradient."""

    divergence: Callable[[np.ndarray, np.ndarray, float], tuple[float, np.ndarray]]

    def __call__(self, logits: Array, hidden: Array, one: Reading, ops: Ops) -> Losses:  # (T, V), (T, D) ->
        """As the package's, with the teacher asked live."""
        assert isinstance(self.teacher, Teacher)
        said = merged(self.teacher(one)[0], logits.shape[1], ops.xp)  # (T, V)
        loss, gradient = self.divergence(logits, said, self.switches.temperature)
        return Losses(float(loss), np.array(gradient, np.float32))


def first_steps(llm: LLM, text: Pages, divergence: Any, steps: int) -> list[float]:
    """The losses of a new student's first steps, half a page each. divergence: a student's own; None: the package's."""
    short = [page[: WINDOW // 2 + 1] for page in text.read[:1]]
    switches = replace(TRAINING, top_k=None, tokens=steps * WINDOW // 2, batch_tokens=WINDOW // 2)
    asked = Teacher(llm.model, llm.ops)
    objective = OwnObjective(switches, asked, divergence) if divergence else Objective(switches, asked)
    return list(Training(student(llm, text.known), llm.ops, short, objective, tested=[]).run())


# What a step costs.


@dataclass(frozen=True)
class Step:
    """What a pass of a student has cost. flops: of the forward pass, a row; notes: what a tape has noted of it."""

    flops: float
    notes: int
    forward: float  # seconds
    whole: float  # seconds, the way back and the loss included


def step_cost(llm: LLM, text: Pages, said: Kept) -> Step:
    """Counts a forward pass, and times it against one with loss and gradients: the medians of five passes."""
    new, one = training(llm, text, said), text.reading()
    tape = Tape(llm.ops, new.model.config)
    fitting = clipped(one, text.known)
    before = llm.ledger.copy()
    Teacher(new.model, tape)(fitting)
    flops = (llm.ledger - before).flops / len(one)
    times: dict[bool, list[float]] = {True: [], False: []}
    for whole in (True, False) * 5:
        begun = time.perf_counter()
        if whole:
            new.backward(one)
        else:
            Teacher(new.model, llm.ops)(fitting)
        times[whole].append(time.perf_counter() - begun)
    return Step(flops, len(tape.notes), float(np.median(times[False])), float(np.median(times[True])))


def clipped(one: Reading, size: int) -> Reading:
    """The batch as a student of so many tokens reads it."""
    return Reading(known(one.batch, size), one.tokens, one.documents)


# What came of it.


def probabilities(llm: LLM, model: Model, one: Reading, size: int) -> np.ndarray:  # -> (T, V)
    """What a model says of each row of a batch, over the student's vocabulary."""
    batch = clipped(one, model.config.vocab_size)
    return softmax(merged(Teacher(model, llm.ops)(batch)[0], size, np), 1.0, np)[0]


def right_share(llm: LLM, model: Model, text: Pages, read: bool) -> float:
    """The share of rows whose likeliest token is the text's, on the pages that are read or on the tested ones."""
    one = text.reading(read)
    likeliest = probabilities(llm, model, one, text.known).argmax(axis=1)  # (T,)
    return float((likeliest == np.minimum(one.tokens, text.known - 1)).mean())


def mistaken(said: Kept, text: Pages, least: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """The rows where the teacher is sure of a token that the text does not have, and these tokens. least: how sure."""
    first, sure = said.rows["tokens"][:, 0].astype(np.int64), np.exp(said.rows["log_p"][:, 0].astype(np.float32))
    right = text.reading().tokens
    found = (sure > least) & (first != right) & (right < text.known - 1) & (first < text.known - 1)
    return np.flatnonzero(found), first[found]


def rows_of(llm: LLM, text: Pages, said: Kept, page: int, places: Sequence[int]) -> list[tuple[str, str, str]]:
    """Some rows of a page: the words before, the token that the text has next, and the teacher's likeliest ones."""
    ids, found = text.read[page], []
    for place in places:
        row = said.rows[said.starts[page] + place]
        likely = [
            f"{quoted(text_of(llm, [token], text.known))} {np.exp(np.float32(log_p)):.0%}"
            for token, log_p in zip(row["tokens"][:4], row["log_p"][:4], strict=True)
        ]
        before = text_of(llm, ids[max(0, place - 7) : place + 1], text.known)
        found.append((quoted(before), quoted(text_of(llm, [ids[place + 1]], text.known)), ", ".join(likely)))
    return found


def quoted(text: str) -> str:
    """A text as code on one line, so that spaces and ends of lines can be seen, also in a table."""
    return f"`{text.replace(chr(10), '⏎').replace('`', chr(39)).replace('|', '/')}`"


def written(llm: LLM, model: Model, prompt: str, count: int = 40, seed: int = 1) -> str:
    """What a model goes on with, drawn at temperature 0.7; a token that it does not know as a box."""
    size = model.config.vocab_size
    ids = [min(token, size - 1) for token in llm.tokenizer.encode(prompt)]
    [seq] = llm.sequences([ids], SamplingParams(max_tokens=count, temperature=0.7, seed=seed, ignore_eos=True))
    for _ in build_engine(model, llm.ops, EngineConfig(), llm.engine.clock).run([seq]):
        continue
    if size == llm.config.vocab_size:
        return llm.tokenizer.decode(seq.new_tokens)
    return text_of(llm, seq.new_tokens, size)


def text_of(llm: LLM, tokens: Iterable[int], size: int) -> str:
    """Tokens as a student of so many tokens knows them."""
    parts: list[str] = []
    begun: list[int] = []
    for token in (*tokens, size):
        if token < size - 1:
            begun.append(int(token))
            continue
        parts.append(llm.tokenizer.decode(begun) if begun else "")
        begun = []
    return UNKNOWN.join(parts)
