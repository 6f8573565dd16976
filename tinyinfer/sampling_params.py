"""SamplingParams: how a request chooses its tokens and when it stops. Apart from sampling.py, it needs no NumPy.

The command line derives its flags from the fields, as it does for EngineConfig's, and `--help` loads no NumPy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Integral, Rational, Real
from typing import Any

from tinyinfer.errors import SwitchError
from tinyinfer.switches import plain_number, switch

MAX_LOGPROBS = 100
MAX_N = 128
MINUS_ONE = {"max_tokens": None, "top_k": 0, "seed": None}  # what -1 says
MAX_PENALTY = 1000.0  # more changes no choice, and far more is no number any longer


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens and when to stop; names and meanings as in vLLM and transformers.

    temperature 0 is greedy. top_k 0 or -1, top_p 1.0, min_p 0.0 and repetition_penalty 1.0 are off. repetition_penalty:
    Keskar et al. 2019, section 4.1. logprobs: how many alternatives to report with each token (0: only the chosen
    one's; None: none at all). max_tokens None or -1: to the end of the context. seed None or -1: a random one; another
    negative seed is a seed as any other (vLLM). cache_salt: in the prefix cache a prompt shares only with prompts of
    one salt, the same or none. n: how many answers (branches) a prompt gets; branch i draws as a request with seed + i.
    prompt_logprobs: as logprobs, of the prompt's own tokens; max_tokens may then be 0: no token is generated.
    None anywhere else is the default. Raises SwitchError for a value out of range.
    """

    max_tokens: int | None = switch(256, flags=("-n",), help="longest answer in tokens; -1: to the context's end")
    temperature: float = switch(
        0.0, flags=("--temp", "--temperature"), help="0 takes the likeliest token, 1 draws as the model predicts"
    )
    top_p: float = switch(1.0, help="draw from the likeliest of mass X (default: all)")
    top_k: int = switch(0, help="draw from the N likeliest tokens (default: all)")
    min_p: float = switch(0.0, help="draw from tokens at least X times as likely as the likeliest (default: all)")
    repetition_penalty: float = switch(
        1.0, flags=("--repeat-penalty",),
        help="above 1: makes tokens less likely that are there already, the prompt's too (default: off)",
    )  # fmt: skip
    presence_penalty: float = switch(
        0.0, help="taken off the logit of a token that was generated before (default: off)"
    )
    frequency_penalty: float = switch(
        0.0, help="taken off the logit of a token for each time that it was generated (default: off)"
    )
    seed: int | None = switch(None, flags=("-s",), help="the same seed gives the same text (default, -1: a random one)")
    stop: tuple[str, ...] | list[str] | str = switch((), metavar="TEXT", help="end before this text (repeatable)")
    stop_token_ids: tuple[int, ...] | list[int] = switch((), metavar="ID", help="end at this token (repeatable)")
    ignore_eos: bool = switch(False, bare=True, help="go on after the model's end token")
    logprobs: int | None = switch(None, help="with --json: log-probabilities of each token and of the N best")
    cache_salt: str | None = None  # this and what follows is for programs: it has no flag
    n: int = 1
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        self._read_words_for_off()
        stops = (self.stop,) if isinstance(self.stop, str) else _items("stop", self.stop)
        object.__setattr__(self, "stop", stops)
        object.__setattr__(self, "stop_token_ids", _items("stop_token_ids", self.stop_token_ids))
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, 1 if self.prompt_logprobs is None else 0)
        _whole("top_k", self.top_k, 0)
        _within("temperature", self.temperature, 0.0, math.inf, "0 is greedy")
        _within("top_p", self.top_p, 0.0, 1.0, "1.0 switches it off", open_below=True)
        _within("min_p", self.min_p, 0.0, 1.0, "0.0 switches it off")
        _within("repetition_penalty", self.repetition_penalty, 1 / MAX_PENALTY, MAX_PENALTY, "1.0 switches it off")
        _within("presence_penalty", self.presence_penalty, -MAX_PENALTY, MAX_PENALTY, "0.0 switches it off")
        _within("frequency_penalty", self.frequency_penalty, -MAX_PENALTY, MAX_PENALTY, "0.0 switches it off")
        if not isinstance(self.ignore_eos, bool):
            raise SwitchError("ignore_eos", self.ignore_eos, "{field}={value!r} must be True or False")
        if self.seed is not None:
            _whole("seed", self.seed, -(2**63), 2**63 - 1)
        if self.logprobs is not None:
            _whole("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if self.prompt_logprobs is not None:
            _whole("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS)
        _whole("n", self.n, 1, MAX_N)
        if self.cache_salt is not None and not (isinstance(self.cache_salt, str) and self.cache_salt):
            raise SwitchError("cache_salt", self.cache_salt, "{field}={value!r} must be a text that is not empty")
        for stop in stops:
            _check_stop(stop)
        for token in self.stop_token_ids:
            _whole("stop_token_ids", token, 0)

    def _read_words_for_off(self) -> None:
        """-1 (vLLM, llama.cpp) and None (vLLM, transformers) become the one value that the field has for it."""
        for one in fields(self):
            value = plain_number(getattr(self, one.name))
            if one.name in MINUS_ONE and isinstance(value, int) and value == -1:
                value = MINUS_ONE[one.name]
            elif value is None and one.name != "max_tokens":
                value = one.default
            object.__setattr__(self, one.name, value)


def _check_stop(stop: object) -> None:
    if not isinstance(stop, str):
        cure = "token ids belong into {stop_token_ids}"
        raise SwitchError("stop", stop, "{field} holds {value!r}, which is no string", cure)
    if not stop:
        raise SwitchError("stop", stop, "{field} holds an empty string, which would stop at once", "leave it out")


def _items(name: str, value: object) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise SwitchError(name, value, "{field}={value!r} must be a list", "an empty one switches it off")
    return tuple(value)


def _whole(name: str, value: object, low: int, high: int | None = None) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < low or (high and value > high):  # type: ignore[operator]
        bound = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise SwitchError(name, value, f"{{field}}={{value!r}} must be a whole number {bound}")


def _within(name: str, value: object, low: float, high: float, cure: str, open_below: bool = False) -> None:
    # NumPy's floats are Real and no Rational, its integers Integral; a Fraction would turn arrays into objects.
    number = isinstance(value, Real) and (isinstance(value, Integral) or not isinstance(value, Rational))
    number &= not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high or (open_below and value == low):  # type: ignore[arg-type,operator]
        ends = f"above {low:g}" if open_below else f"of at least {low:g}"
        upper = f" and at most {high:g}" if math.isfinite(high) else ""
        raise SwitchError(name, value, f"{{field}}={{value!r}} must be a number {ends}{upper}", cure)
