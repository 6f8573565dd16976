"""LLM: a model on disk, ready to answer. Text goes in and comes out here; the engine below sees only tokens.

>>> llm = LLM("smollm2-135m")                                                       # doctest: +SKIP
>>> llm.generate("The capital of France is", SamplingParams(max_tokens=8))[0].text  # doctest: +SKIP
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from collections.abc import Sequence as Seq
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from tinyinfer.engine.clock import Clock, WallClock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import context_length
from tinyinfer.engine.loop import EngineLoop
from tinyinfer.engine.room import fitting_ops
from tinyinfer.engine.single import Single
from tinyinfer.engine.trace import StepTrace
from tinyinfer.engine.turns import StepLock
from tinyinfer.errors import SwitchError
from tinyinfer.guided.bars import Bars
from tinyinfer.guided.grammar import bars
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.loading.drafts import load_draft, open_draft
from tinyinfer.loading.hub import find
from tinyinfer.model.transformer import Model
from tinyinfer.parallel.switches import REPLICAS
from tinyinfer.prompts import (
    Messages,
    Params,
    Prompt,
    Prompts,
    Variables,
    check_ids,
    each,
    one_of,
    one_text,
    template_variables,
    token_ids,
)
from tinyinfer.request import Request, RequestOutput, request_output
from tinyinfer.sampling import SamplingParams, token_scores
from tinyinfer.sequence import RequestSpec, Sequence
from tinyinfer.switches import resolve
from tinyinfer.text.reasoning import ChatPrompt
from tinyinfer.text.stop_strings import text_output

SCORE_ROWS = 128  # rows whose logits `score` holds at a time: 25 MB for a vocabulary of 49152


class LLM:
    """A model and an engine with the chosen optimizations. All methods may be called from any thread.

    model: a known name, a Hugging Face folder, a .gguf file or owner/name on the hub. switches: EngineConfig's fields.
    on_load(done, total): called as layers are loaded. clock: real time, unless another one is given.
    Raises ModelError when the model is missing, broken or unsupported. Raises ValueError for a model that is no name,
    a switch that does not exist, a value or a combination that cannot work, and a switch that does not suit the model:
    a context longer than the model's, a group size that does not divide its heads, a draft model of other tokens.
    """

    def __init__(
        self,
        model: str = "smollm2-135m",
        *,
        on_load: Callable[[int, int], None] = lambda done, total: None,
        clock: Clock | None = None,
        **switches: Any,
    ) -> None:
        config = EngineConfig.from_switches(**switches)
        checkpoint = load(find(model))
        self.tokenizer, self.path = checkpoint.tokenizer, checkpoint.path
        context_length(checkpoint.config, config.max_model_len)  # what is wrong is said before the weights are read
        second = open_draft(config.second_model, checkpoint) if config.second_model else None
        self.ledger = Ledger()
        self._replicas: Single = resolve(REPLICAS, config.replicas)(config, self.ledger)
        ops = fitting_ops(checkpoint, config, self.ledger)
        self.model, self.ops = self._replicas.load(checkpoint, ops, config, on_load)
        self.draft = load_draft(second, self.model, self.ops) if second else None
        self._ids = count()
        self._build_engine(config, clock or WallClock(), StepLock())

    def with_engine(self, config: EngineConfig, clock: Clock | None = None, model: Model | None = None) -> LLM:
        """The same weights and tokenizer under another engine: no weight is loaded twice. clock, model: None for this
        one's; another model must read the same tokens, as a pruned one does.

        Each may be used from any thread; their steps take turns. Raises ValueError for switches that would need other
        weights, or that do not suit the model.
        """
        self._loop.check_open()
        if not config.same_weights(self.engine_config):
            raise ValueError("these switches need other weights than those in memory; open the model again")
        other = copy(self)
        other.model = model or self.model
        other._build_engine(config, clock or self.engine.clock, self._loop.step_lock)
        return other

    def close(self) -> None:
        """Ends all open requests (finish_reason "abort") and the engine's thread; then no request is taken any more.

        Closing again does nothing. `with LLM(...) as llm:` closes at the end of the block.
        """
        self._loop.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _build_engine(self, config: EngineConfig, clock: Clock, step_lock: StepLock) -> None:
        self.engine_config, self.config = config, self.model.config
        self.engine = self._replicas.build(self.model, self.ops, config, clock, self.draft)
        self._loop = EngineLoop(self.engine, step_lock)
        self.max_model_len = self.engine.cache.capacity

    def generate(
        self, prompts: Prompts, params: Params = None, *, sampling_params: Params = None
    ) -> list[RequestOutput]:
        """Continues each prompt (text, or token ids), with one SamplingParams for all or one each.

        One output a prompt, in their order; with n > 1 its `outputs` are those of all branches.
        sampling_params: vLLM's name of params. Raises ValueError, before any work, for an empty prompt, a token id
        outside the vocabulary or a prompt that leaves no room in the context. Raises FloatingPointError when the
        model's numbers overflow with one of the prompts, and ends the others; requests of `submit` go on.
        """
        self._loop.check_caller()
        firsts = [self._request(prompt, p) for prompt, p in each(prompts, one_of(params, sampling_params))]
        requests = [branch for first in firsts for branch in first.branches]
        try:
            self._loop.submit(requests)
            found = [[branch.result() for branch in first.branches] for first in firsts]
        except BaseException:  # Ctrl-C, too: the caller has left
            for request in requests:
                request.cancel()
            raise
        return [replace(first, others=tuple(others)) for first, *others in found]

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        on_progress: Callable[[Request], None] | None = None,
        *,
        sampling_params: SamplingParams | None = None,
    ) -> Request:
        """Hands one prompt to the engine and returns at once; from any thread. on_progress: see Request.

        With n > 1 it is the request of the first branch; its `branches` are those of all.
        Raises ValueError where `generate` does, RuntimeError when this LLM is closed.
        """
        [(prompt, params)] = each([prompt], one_of(params, sampling_params))
        request = self._request(prompt, params, on_progress)
        self._loop.submit(request.branches)
        return request

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, sampling_params: SamplingParams | None = None
    ) -> Iterator[str]:
        """Yields the continuation of one prompt, piece by piece as it comes; no piece ends inside a character.

        What a model thinks before its answer is not yielded (`submit` gives both).

        Raises ValueError, at the first piece, where `generate` does.
        """
        self._loop.check_caller()
        for delta in self.submit(prompt, one_text(one_of(params, sampling_params))):
            if delta.text:
                yield delta.text

    async def astream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, sampling_params: SamplingParams | None = None
    ) -> AsyncIterator[str]:
        """`stream` for asyncio: the event loop goes on while the engine computes; a cancelled task cancels the request.

        Raises ValueError, at the first piece, where `generate` does.
        """
        request = self.submit(prompt, one_text(one_of(params, sampling_params)))
        try:
            async for delta in request:
                if delta.text:
                    yield delta.text
        finally:
            request.cancel()

    def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        sampling_params: SamplingParams | None = None,
        chat_template_kwargs: Variables = None,
        parse_special: bool = False,
    ) -> RequestOutput:
        """The answer to a conversation: [{"role": "user", "content": "..."}, ...], by the model's chat template.

        chat_template_kwargs: the template's own variables, such as {"enable_thinking": False}. parse_special: whether
        the name of a control token, such as <|im_start|>, is the token also where a user, a system prompt or a tool
        writes it; else it is ordinary text there. Raises ValueError where `generate` does, for messages of another form
        and for a model without a chat template, ModelError for a template that fails.
        """
        prompt = self.chat_prompt(messages, chat_template_kwargs, parse_special)
        return self.generate([prompt], one_of(params, sampling_params))[0]

    def chat_prompt(
        self, messages: Messages, chat_template_kwargs: Variables = None, parse_special: bool = False
    ) -> ChatPrompt:
        """The token ids that a conversation becomes; the template writes the special tokens itself.

        They are a list that also knows how the answer's thinking is split from its text. parse_special: see `chat`.

        Raises ValueError for messages of another form and for a model without a chat template, ModelError for a
        template that fails.
        """
        return self.tokenizer.encode_chat(messages, template_variables(chat_template_kwargs), parse_special)

    def steps(self, prompts: Prompts, params: Params = None, *, sampling_params: Params = None) -> Iterator[StepTrace]:
        """Runs `generate` one engine step at a time, and yields what each step did.

        Raises ValueError, at the first step, where `generate` does.
        """
        yield from self.run(self.sequences(prompts, one_of(params, sampling_params)), watch=True)

    def run(self, sequences: list[Sequence], watch: bool = False) -> Iterator[StepTrace]:
        """Runs sequences (of `sequences`) to their end on the caller's thread, and yields what each step did.

        Leaving early aborts them. While the engine's thread serves other callers, its steps are yielded.
        watch: whether the traces hold block tables and the waiting queue, too.
        """
        return self._loop.steps(sequences, watch)

    def on_step(self, listener: Callable[[StepTrace], None]) -> Callable[[], None]:
        """Calls `listener` with the trace of each step, of all callers; returns what ends that.

        It is called on the thread that took the step, which waits for it, so it is short and raises nothing.
        """
        return self._loop.listen(listener)

    def logits(self, tokens: list[int]) -> np.ndarray:
        """The logits after each of the tokens, (n, vocab) float32, all of them finite.

        Raises ValueError for no tokens, a token id outside the vocabulary, or more tokens than the context holds,
        FloatingPointError when the model's numbers overflow.
        """
        seq = self._sequence(token_ids(tokens), SamplingParams(max_tokens=1), room=0)
        return np.concatenate([logits for _, logits in self._loop.logits(seq, len(tokens))])

    def score(self, tokens: list[int]) -> np.ndarray:
        """The log-probability of each token but the first, given those before it, (n-1,) float64.

        The last token is only looked up, so there may be one more than the context holds. Raises ValueError for fewer
        than two tokens, and where `logits` does.
        """
        tokens = token_ids(tokens)
        if len(tokens) < 2:
            raise ValueError("scoring needs at least two tokens; the first one has nothing before it")
        check_ids(tokens, self.config.vocab_size, self.tokenizer.vocab_size)
        pieces = self.logits_by_rows(tokens[:-1])
        return np.array([score for start, logits in pieces for score in token_scores(logits, tokens[start + 1 :])])

    def logits_by_rows(self, tokens: Seq[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields pairs (first position, logits of it and of some more positions): `logits` where memory is short.

        Raises ValueError, at the first pair, where `logits` does.
        """
        seq = self._sequence(token_ids(tokens), SamplingParams(max_tokens=1), room=0)
        yield from self._loop.logits(seq, SCORE_ROWS)

    def sequences(self, prompts: Prompts, params: Params = None) -> list[Sequence]:
        """The prompts as sequences that the engine can run, n of each. Raises ValueError, for any of them, before one
        runs.
        """
        return [seq for prompt, p in each(prompts, params) for seq in self._branches(prompt, p)]

    def output(self, seq: Sequence) -> RequestOutput:
        """Builds the RequestOutput of a sequence: its text, tokens, log-probabilities and metrics."""
        return request_output(seq, seq.progress.finish_reason or "abort")

    def _request(
        self, prompt: Prompt, params: SamplingParams, on_progress: Callable[[Request], None] | None = None
    ) -> Request:
        """The request of a prompt's first branch, with those of the others."""
        first, *others = self._branches(prompt, params)
        return Request(first, self._loop, on_progress, tuple(Request(seq, self._loop, on_progress) for seq in others))

    def _branches(self, prompt: Prompt, params: SamplingParams) -> list[Sequence]:
        """The n continuations of a prompt."""
        first = self._sequence(prompt, params)
        return [first, *(first.another_branch(next(self._ids), branch) for branch in range(1, params.n))]

    def _sequence(self, prompt: Prompt, params: SamplingParams, room: int = 1) -> Sequence:
        tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else token_ids(prompt)
        if not len(prompt) or not tokens:  # some tokenizers would begin even an empty text with a token
            raise ValueError("the prompt is empty; give some text, or at least one token")
        named = {"stop_token_ids": params.stop_token_ids, "logit_bias": dict(params.logit_bias)}
        check_ids(tokens, self.config.vocab_size, self.tokenizer.vocab_size, **named)
        left = room_behind(self, tokens, min(room, 1 if params.max_tokens is None else params.max_tokens))
        # A chat's answer is a text of its own; any other continues its prompt, at whose end a space may be its first.
        chat, before = (prompt, []) if isinstance(prompt, ChatPrompt) else (ChatPrompt([], None), tokens)
        ends = frozenset(params.stop_token_ids) | frozenset(() if params.ignore_eos else self.config.eos_token_ids)
        request = RequestSpec(
            id=(number := next(self._ids)),
            group=number if params.n > 1 else None,
            prompt=tokens,
            params=params,
            seed=secrets.randbits(63) if params.seed is None else params.seed % 2**64,
            max_tokens=left if params.max_tokens is None else min(params.max_tokens, left),
            eos=ends,
            new_bars=partial(bars, self.tokenizer, params, ends, chat.thought) if params.bars else Bars,
        )
        stops, least = tuple(params.stop), params.min_tokens
        return Sequence(request, partial(text_output, self.tokenizer, before, stops, chat.thinking, least, chat.marks))


def room_behind(llm: LLM, tokens: list[int], room: int) -> int:
    """How many tokens of the context a prompt leaves to its answer. Raises SwitchError for fewer than `room`."""
    if len(tokens) + room > llm.max_model_len:
        reason = "the prompt has {value} tokens, but the context holds {held}"
        reason += " and the answer needs at least one of them" if room else ""
        raise SwitchError("", len(tokens), reason, f"shorten it or {longer(llm)}", held=llm.max_model_len)
    return llm.max_model_len - len(tokens)


def longer(llm: LLM) -> str:
    """How the context could hold more, as a template of SwitchError."""
    asked = context_length(llm.config, llm.engine_config.max_model_len)
    if llm.max_model_len < asked:
        return "raise {num_blocks}"
    return "raise {max_model_len}" if asked < llm.config.max_position else "use a model with a longer context"
