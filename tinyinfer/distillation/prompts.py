"""Prompts by number: a template, and words for its gaps, both drawn from (seed, i). No text is downloaded.

>>> questions(seed=0, i=5) == questions(seed=0, i=5)
True

A teacher's answers teach only what its prompts ask for, so prompts have to be many and unlike each other. Templates
multiply: 90 sentences with gaps and some hundred words for a gap are a million questions, and none of them has to be
stored, since the i-th can be made again from its number.

Wins: any number of prompts, the same on every machine. Loses: prompts of people are more varied than any list; a file
of real ones (`file_prompts`) is better where there is one. (TinyStories, Eldan and Li 2023, draws words in this way, so
that stories differ; Self-Instruct, Wang et al. 2022, lets the model write the prompts, too.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from tinyinfer.distillation import words
from tinyinfer.text.plain_text import decoded

Prompts = Callable[[int], str]  # the i-th prompt, i from 0

ABOUT_TOPICS = """\
What is the most important thing to know about {topic}?
Explain {topic} in simple words.
Explain {topic} to a child of {age} years.
Explain {topic} in one sentence.
Explain {topic} in {few} sentences.
Write a short paragraph about {topic}.
Write an introduction to a school essay about {topic}.
Write an encyclopedia entry about {topic} in about 100 words.
Tell me {few} facts about {topic}.
List {few} reasons why {topic} can be important.
List {few} common mistakes that people make when they talk about {topic}.
List {few} words that have to do with {topic}, and say what each of them means.
What do most people not know about {topic}?
What is surprising about {topic}?
What are the advantages and disadvantages of {topic}?
Why do people care about {topic}?
How would you teach a lesson about {topic}?
Make a quiz of {few} questions about {topic}, with answers.
Write {few} questions that a curious student could ask about {topic}.
Give me an example from everyday life that has to do with {topic}.
Give me a definition of {topic} and an example.
What is the difference between {topic} and {topic2}?
Compare {topic} and {topic2} in a few sentences.
What do {topic} and {topic2} have in common?
Which is more useful to learn about, {topic} or {topic2}? Give a reason.
Write a short poem about {topic}.
Write a haiku about {topic}.
Write four lines that rhyme about {topic}.
Write a riddle whose answer is {topic}.
Write a short dialogue between two friends about {topic}.
Write a friendly speech of one minute about {topic}.
Write a headline and a short news report about {topic}.
Write an advertisement for a book about {topic}.
Suggest {few} titles for a book about {topic}.
Suggest a museum exhibit about {topic}: what would visitors see first?
Plan a small experiment or activity about {topic} that can be done at home.
Would {topic} be a good subject for a school project? Answer in {few} sentences.
Tell me a short true story about {topic}.
Describe {topic} in {few} sentences.
Describe {topic} to someone who has never heard of such a thing.
Summarize what is known about {topic} in {few} bullet points.
Where would you meet {topic} in daily life?
I have to give a talk about {topic} tomorrow. What should I say?
My child asked me about {topic}. What is a good answer?
Turn this into a question: "I would like to know more about {topic}."
""".splitlines()

ABOUT_THE_WORLD = """\
Where is {place}, and what is it known for?
What should I see in {place} in {few} days?
What is the weather like in {place} during the year?
Name {few} things that people eat in {place}.
Describe {place} in {few} sentences.
How would you travel from {place} to {place2}?
Compare {place} and {place2} for a holiday.
Tell me something about the history of {place}.
Who was {person}?
What is {person} famous for? Answer in {few} sentences.
What would you ask {person} if you could?
Write a short biography of {person}.
What did {person} and {person2} have in common?
What does {job} do all day?
What does one have to learn to become {job}?
What is hard about the work of {job}, and what is nice?
How do I {skill}?
Give me {few} tips to {skill}.
Explain step by step how to {skill}.
What do I need to {skill}, and what should I avoid?
I tried to {skill}, but it did not work. What could be wrong?
I would like to {skill}, but I have only ten minutes. What do you suggest?
Is it worth the time to {skill}? Why?
""".splitlines()

TASKS = """\
What is {number} plus {number2}?
What is {number} times {digit}? Show the steps.
What is {number} minus {digit}?
What is {number} divided by {digit}, and what is the remainder?
{name} has {number} {goods} and gives {digit} of them to {name2}. How many {goods} does {name} have left?
{name} buys {digit} boxes of {number} {goods}. How many {goods} is that?
Which is larger, {number} or {number2}? By how much?
Count from {digit} to {number} in steps of {digit}, but stop after ten numbers.
Write a program in {language} that {task}.
Write a function that {task}, in {language}, and explain it.
How would you test a program that {task}?
What is {concept} in programming? Give an example.
Explain {concept} to a beginner who knows a little {language}.
Write a short letter to {receiver} {reason}.
Write an e-mail to {receiver} {reason}. Keep it polite and brief.
Write a text message to {receiver} {reason}.
What is the opposite of "{adjective}"? Use both words in a sentence.
Give me {few} words that mean nearly the same as "{adjective}".
Write a sentence with the words "{adjective}" and "{adjective2}".
Describe someone who is {adjective} and {adjective2}, in {few} sentences.
Summarize in one sentence: this is about {building}; {fact}; {fact2}; {fact3}.
Rewrite as one friendly paragraph: this is about {building}; {fact}; {fact2}; {fact3}.
Here are facts about {building}: {fact}; {fact2}. Is there anything that a visitor should plan for?
""".splitlines()

TEMPLATES = (*(f"{question}{{wish}}" for question in ABOUT_TOPICS + ABOUT_THE_WORLD), *TASKS)

FURTHER = """\
Use simple words.
Be brief.
Be precise.
Make it fun to read.
No introduction, please.
Answer as a friendly teacher would.
I am a beginner.
I am in a hurry.
It is for my class.
Please be honest about what is not known.
Please give an example.
I want to be sure that I understand it.
""".splitlines()
WISHES = (*[""] * len(FURTHER), *(f" {wish}" for wish in FURTHER))  # half of the questions have none

STORIES = (
    "{start} about {a_character} called {name} and {a_object}. It happens {scene}. {name} is {trait}. {event} {rest}",
    "{start} about {a_trait} {character} and {a_trait2} {character2} {scene}. {event} {rest}",
    "{start} about {a_trait} {character} who finds {a_object} {scene}. {event} At the end {ending}. {rest}",
    "{start} about {a_character}, {a_character2} and {a_object} {scene}. One of them is {trait}. {event} {rest}",
    "{start} about {name}, {a_trait} {character} who wishes for {a_object}. It happens {scene}. {event} {rest}",
)

START = "Write a short story for a small child"
RESTS = (
    "Use plain words. The story has a beginning, one problem and a happy end, in about 120 words.",
    "Use short sentences and plain words. Begin quietly, let one problem come, and end happily, in about 120 words.",
    "Tell it in about 120 plain words: a beginning, one problem, a happy end.",
)

GAPS: Mapping[str, tuple[str, ...]] = {
    "topic": words.TOPICS, "wish": WISHES, "place": words.PLACES, "person": words.PEOPLE, "job": words.JOBS,
    "skill": words.SKILLS,
    "age": ("five", "seven", "eight", "ten", "twelve"), "few": ("two", "three", "four", "five"),
    "number": words.NUMBERS, "digit": tuple("23456789"), "name": words.NAMES, "goods": words.GOODS,
    "language": words.LANGUAGES, "task": words.TASKS, "concept": words.CONCEPTS, "receiver": words.RECEIVERS,
    "reason": words.REASONS, "adjective": words.ADJECTIVES, "building": words.BUILDINGS, "fact": words.FACTS,
    "character": words.CHARACTERS, "object": words.OBJECTS, "scene": words.SCENES, "trait": words.TRAITS,
    "event": tuple(f"In the story, {event}." for event in words.EVENTS), "ending": words.ENDINGS,
    "start": (START,), "rest": RESTS,
}  # fmt: skip


class Drawn(dict[str, str]):
    """The words of one prompt: each is drawn when a template first asks for it, and no two gaps get the same one.

    topic2 is another topic than topic, of the same list, so that both can be compared; a_trait is the trait with its
    article.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self._rng = rng

    def __missing__(self, gap: str) -> str:
        if gap.startswith("a_"):
            word = self[gap.removeprefix("a_")]
            return f"an {word}" if word[0] in "aeiou" else f"a {word}"
        choices = GAPS[gap.rstrip("23")]
        if gap == "topic2":
            choices = next(one for one in words.TOPIC_LISTS if self["topic"] in one)
        word = choices[int(self._rng.integers(len(choices)))]
        while word in self.values():
            word = choices[int(self._rng.integers(len(choices)))]
        self[gap] = word
        return word


def questions(seed: int, i: int) -> str:
    """The i-th question of a seed: science, history, places, skills, code, sums, letters, words and more."""
    return _drawn(TEMPLATES, seed, i)


def stories(seed: int, i: int) -> str:
    """The i-th wish for a story of a seed: who, what, where, what happens, and how it is to be told."""
    return _drawn(STORIES, seed, i)


def _drawn(templates: tuple[str, ...] | list[str], seed: int, i: int) -> str:
    rng = np.random.default_rng([seed, i])
    return templates[int(rng.integers(len(templates)))].format_map(Drawn(rng))


# What the command line calls prompts.

KINDS = {"questions": questions, "stories": stories}


@dataclass(frozen=True)
class PromptSource:
    """Where prompts come from. name: what it is called; with the checksum of its text when that is a file."""

    name: str
    prompts: Prompts


def prompt_source(name: str, seed: int) -> PromptSource:
    """The prompts of a name, questions or stories, or else of a file. Raises ValueError where `file_prompts` does."""
    if name in KINDS:
        return PromptSource(name, lambda i: KINDS[name](seed, i))
    return file_prompts(name)


def file_prompts(path: str) -> PromptSource:
    """The lines of a file that are not empty, one prompt a line, in turn; after the last one comes the first.

    The same prompt gets another answer in each round, since each answer has a seed of its own. Raises ValueError for a
    file that is not there, empty, or not UTF-8.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or error
        cure = f"give {', '.join(KINDS)} or a text file with one prompt a line"
        raise ValueError(f"the prompts {path!r} cannot be read ({reason}); {cure}") from None
    prompts = [line.strip() for line in decoded(data, path).split("\n") if line.strip()]
    if not prompts:
        raise ValueError(f"{path}: holds no prompt; write one prompt a line")
    name = f"{Path(path).name} (SHA-256 {sha256(data).hexdigest()[:16]})"
    return PromptSource(name, lambda i: prompts[i % len(prompts)])
