"""Text that a model writes, for a student to learn from: sequence-level distillation (Kim and Rush 2016).

>>> for document in synthesize(llm, prompts, tokens=100_000): print(document.text)      # doctest: +SKIP

A student that is trained on a teacher's answers needs no logits: they are the teacher's own modes, simpler than what
people write, and with chat prompts they teach the form of an answer, too. The engine's continuous batching makes them:
always twice as many requests as run together are in the engine, so that no seat is empty until the last ones. A
document is turned into text once, at its end; while its tokens come, nothing is done for them but what a step does.

Each document has a seed of its own, made from (seed, i), so its text does not depend on what runs beside it, nor on
where an interrupted run went on. Rounding does depend on that: the rows of a batch change the last bits of a product,
and can change a token where two scores lie within that rounding (sampling.py): seldom in float32, more often with few
bits (kv_bits, w8a8, activations=int8). Then a run that was interrupted differs from one that was not, from that token
to the end of its document.

Wins: any amount of text in the teacher's words, on the subjects that are wanted. Loses: what the teacher does not know
or makes up is learned as well, and a likely text is less varied than a human one (temperature helps, at some cost in
sense); a student that sees the teacher's distribution at each token learns more from the same text (losses.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import accumulate, count

from tinyinfer.distillation.prompts import Prompts
from tinyinfer.engine.engine import Engine
from tinyinfer.errors import RequestError, SwitchError, placed
from tinyinfer.llm import LLM
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import Sequence
from tinyinfer.text.stop_strings import TextOutput
from tinyinfer.text.tokenizer import Tokenizer

USUAL = SamplingParams(temperature=0.8)


@dataclass(frozen=True)
class Document:
    """An answer. prompt: the rendered conversation. text: the answer without special tokens, thinking included.

    tokens: how many were generated, the end token included. finished: whether the model itself ended the text.
    """

    prompt: str
    text: str
    tokens: int
    finished: bool


class Unread(TextOutput):
    """The text of a sequence that is not read while its tokens come."""

    def push(self, token: int) -> bool:
        """Adds nothing, and finds no stop string."""
        return False

    def finish(self) -> None:
        """Adds nothing at the end."""


def synthesize(
    llm: LLM,
    prompts: Prompts,
    tokens: int,
    params: SamplingParams = USUAL,
    *,
    seed: int = 0,
    start: int = 0,
    on_step: Callable[[int], None] = lambda generated: None,
) -> Iterator[Document]:
    """Yields the documents start, start + 1, ... until they have at least `tokens` tokens together.

    prompts(i): the question of document i. seed: with i, it decides the noise of document i. on_step(generated): called
    after each step with the number of tokens that it brought. llm: nothing else may use it meanwhile. Raises ValueError
    for a prompt that does not fit into the context, RequestError where the model's numbers overflow or memory is short,
    both naming the document.
    """
    if tokens < 1:
        raise ValueError(f"tokens={tokens} must be at least 1")
    if params.stop:
        raise SwitchError("stop", params.stop, "{field}={value!r} needs text while it comes", "cut the documents later")
    writer = Writer(llm, prompts, params, seed, start)
    try:
        yield from writer.documents(tokens, on_step)
    finally:
        llm.engine.abort(*writer.open)


class Writer:
    """Keeps the engine full, and gives documents in order.

    open: the sequences that the engine has, each with the number and the prompt of its document. done: documents that
    have ended before an earlier one. While that one is computed, the others have at most max_tokens steps, so `done`
    holds about max_tokens * max_num_seqs tokens at most, however many are asked for.
    """

    def __init__(self, llm: LLM, prompts: Prompts, params: SamplingParams, seed: int, start: int) -> None:
        self.llm, self.prompts, self.params, self.seed = llm, prompts, params, seed
        self.open: dict[Sequence, tuple[int, str]] = {}
        self.done: dict[int, Document] = {}
        self.number, self.next = count(start), start  # of the next document to ask for, and to yield
        self.generated = 0  # tokens of all steps; with rejected drafts a few more than the documents have

    def documents(self, tokens: int, on_step: Callable[[int], None]) -> Iterator[Document]:
        """Steps until the documents in order have so many tokens together."""
        given = 0
        while given < tokens:
            if self.generated < tokens or not self.suffices(tokens - given):
                self.fill()
            on_step(self.step(self.llm.engine))
            while given < tokens and self.next in self.done:
                document = self.done.pop(self.next)
                self.next, given = self.next + 1, given + document.tokens
                yield document

    def fill(self) -> None:
        """Hands requests to the engine up to twice as many as run together."""
        now, c = self.llm.engine.clock(), self.llm.engine_config
        while len(self.open) < 2 * c.max_num_seqs * c.data_parallel_size:
            i = next(self.number)
            prompt = self.prompts(i)
            seq = self.request(i, prompt)
            self.open[seq] = i, prompt_text(self.llm, prompt)
            self.llm.engine.add(seq, now)

    def suffices(self, tokens: int) -> bool:
        """Whether the tokens that are there are enough; then drops documents that will come after the last one given.

        Tokens are only added. So if documents up to one have enough together, no later one will ever be given.
        """
        sizes = {i: len(seq.progress.choices) for seq, (i, _) in self.open.items()}
        sizes |= {i: document.tokens for i, document in self.done.items()}
        numbers = sorted(sizes)
        sums = accumulate(sizes[i] for i in numbers)
        last = next((i for i, have in zip(numbers, sums, strict=True) if have >= tokens), None)
        if last is None:
            return False
        late = [seq for seq, (i, _) in self.open.items() if i > last]
        self.llm.engine.abort(*late)
        for seq in late:
            del self.open[seq]
        return True

    def request(self, i: int, prompt: str) -> Sequence:
        """Document i as a sequence of the engine. Raises ValueError for a prompt that does not fit."""
        params = replace(self.params, seed=seed_of(self.seed, i))
        try:
            [seq] = self.llm.sequences([prompt_ids(self.llm, prompt)], params)
        except ValueError as error:
            raise placed(f"document {i}", error) from None
        return Sequence(seq.request, partial(unread, self.llm.tokenizer))

    def step(self, engine: Engine) -> int:
        """One step of the engine; documents that end in it are kept. Returns how many tokens it brought."""
        try:
            if not engine.wait():
                return 0
            trace = engine.step()
        except RequestError as error:
            places = [f"document {i}" for seq, (i, _) in self.open.items() if seq.id == error.request_id]
            raise (placed(places[0], error) if places else error) from None
        for seq in trace.left:
            i, prompt = self.open.pop(seq)
            if seq.progress.error is not None:
                raise placed(f"document {i}", seq.progress.error)
            n, finished = len(seq.new_tokens), seq.progress.finish_reason == "stop"
            self.done[i] = Document(prompt, answer_text(self.llm, seq), n, finished)
        new = sum(map(len, trace.choices))
        self.generated += new
        return new


def unread(tokenizer: Tokenizer) -> Unread:
    """The text of a document while it is written; a function with a name, which another process has, too."""
    return Unread(tokenizer.stream())


def seed_of(seed: int, i: int) -> int:
    """The seed of document i's own noise."""
    return int.from_bytes(sha256(f"{seed} {i}".encode()).digest()[:8]) % 2**63


def conversation(prompt: str) -> list[dict[str, str]]:
    """A question as a conversation that the model has to answer."""
    return [{"role": "user", "content": prompt}]


def prompt_text(llm: LLM, prompt: str) -> str:
    """What the model sees of a question: the conversation, or the prompt itself if there is no chat template."""
    return prompt if llm.tokenizer.chat_template is None else llm.tokenizer.render(conversation(prompt))


def prompt_ids(llm: LLM, prompt: str) -> list[int]:
    """The token ids of `prompt_text`."""
    if llm.tokenizer.chat_template is None:
        return llm.tokenizer.encode(prompt)
    return llm.chat_prompt(conversation(prompt))


def answer_text(llm: LLM, seq: Sequence) -> str:
    """The text of a sequence's new tokens, special tokens left out; all at once, which is fast."""
    if llm.tokenizer.chat_template is not None:
        return llm.tokenizer.decode(seq.new_tokens)
    stream = llm.tokenizer.stream(seq.prompt)  # a space between prompt and answer belongs to the answer
    return "".join(map(stream.push, seq.new_tokens)) + stream.finish()
