"""SamplingParams: how a request chooses its tokens and when it stops. Apart from sampling.py, it needs no NumPy.

The command line derives its flags from the fields, as it does for EngineConfig's, and `--help` loads no NumPy.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from numbers import Integral, Rational, Real
from typing import Any

from tinyinfer.errors import SwitchError, all_of
from tinyinfer.switches import plain_number, switch

MAX_LOGPROBS = 100
MINUS_ONE = {"max_tokens": None, "top_k": 0, "seed": None}  # what -1 says
MAX_BIAS = 100.0  # OpenAI's bound: that much bars a token or leaves no other, in practice
GRAMMARS = ("json_schema", "regex", "grammar")
MAX_PENALTY = 1000.0  # more changes no choice, and far more is no number any longer


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens and when to stop; names and meanings as in vLLM and transformers.

    temperature 0 is greedy. top_k 0 or -1, top_p 1.0, min_p 0.0 and repetition_penalty 1.0 are off. repetition_penalty:
    Keskar et al. 2019, section 4.1. logprobs: how many alternatives to report with each token (0: only the chosen
    one's; None: none at all). max_tokens None or -1: to the end of the context. seed None or -1: a random one; another
    negative seed is a seed as any other (vLLM). None anywhere else is the default.

    What bars tokens: before min_tokens new ones, no end token is chosen, and no stop string or stop token ends the
    text. logit_bias, {token id: -100 to 100}, is added to the logits before all else. The answer is a text of one
    json_schema (a dict, or JSON text), regex or grammar (Lark, as llguidance reads it).

    Two equal SamplingParams hash alike: so a list becomes a tuple, a dict of biases a tuple of pairs, and a schema
    JSON text. Raises SwitchError for a value out of range.
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
    min_tokens: int = switch(0, help="end at no end token, stop token or stop text before so many tokens (default: 0)")
    logit_bias: tuple[tuple[int, float], ...] | dict[int, float] = switch(
        (), metavar="ID=X", help="add X, from -100 to 100, to the logit of this token (repeatable)"
    )
    json_schema: str | dict[str, Any] | None = switch(
        None, metavar="FILE", help="the answer is JSON that conforms to the JSON schema in FILE"
    )
    regex: str | None = switch(None, help="all of the answer matches this regular expression")
    grammar: str | None = switch(None, metavar="FILE", help="the answer is a text of the Lark grammar in FILE")

    def __post_init__(self) -> None:
        self._read_words_for_off()
        stops = (self.stop,) if isinstance(self.stop, str) else _items("stop", self.stop)
        object.__setattr__(self, "stop", stops)
        object.__setattr__(self, "stop_token_ids", _items("stop_token_ids", self.stop_token_ids))
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, 1)
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
        _whole("min_tokens", self.min_tokens, 0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            reason = "{field}={value} is more than {max_tokens}={most}"
            raise SwitchError("min_tokens", self.min_tokens, reason, "raise {max_tokens}", most=self.max_tokens)
        object.__setattr__(self, "logit_bias", _biases(self.logit_bias))
        self._read_grammars()
        for stop in stops:
            _check_stop(stop)
        for token in self.stop_token_ids:
            _whole("stop_token_ids", token, 0)

    @property
    def bars(self) -> bool:
        """Whether a token may be barred, or made likelier, whatever came before it."""
        return bool(self.min_tokens or self.logit_bias) or any(getattr(self, name) is not None for name in GRAMMARS)

    def _read_words_for_off(self) -> None:
        """-1 (vLLM, llama.cpp) and None (vLLM, transformers) become the one value that the field has for it."""
        for one in fields(self):
            value = plain_number(getattr(self, one.name))
            if one.name in MINUS_ONE and isinstance(value, int) and value == -1:
                value = MINUS_ONE[one.name]
            elif value is None and one.name != "max_tokens":
                value = one.default
            object.__setattr__(self, one.name, value)

    def _read_grammars(self) -> None:
        """At most one of them, and a schema as JSON text."""
        given = [name for name in GRAMMARS if getattr(self, name) is not None]
        if len(given) > 1:
            raise SwitchError(given[1], getattr(self, given[1]), all_of(given) + " are two forms of one answer",
                              "give only one of them")  # fmt: skip
        if self.json_schema is not None:
            object.__setattr__(self, "json_schema", _schema_text(self.json_schema))
        for name in ("regex", "grammar"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise SwitchError(name, value, "{field}={value!r} must be a text that is not empty")


def _biases(value: object) -> tuple[tuple[int, float], ...]:
    """The pairs (token id, bias) of a dict, or of pairs, by token id."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        cure = "an empty one switches it off"
        raise SwitchError("logit_bias", value, "{field}={value!r} must be a dict of token ids and numbers", cure)
    for token, bias in pairs:
        _whole("logit_bias", token, 0)
        _within("logit_bias", bias, -MAX_BIAS, MAX_BIAS, "0 leaves a token as it is")
    found = {int(token): float(bias) for token, bias in pairs}
    return tuple(sorted((token, bias) for token, bias in found.items() if bias))


def _schema_text(value: object) -> str:
    """A JSON schema, which is an object, or true, as JSON text. Raises SwitchError for anything else."""
    cure = 'give a JSON schema, such as {{"type": "object"}}'
    try:
        schema = json.loads(value) if isinstance(value, str) else value
        text = "{}" if schema is True else json.dumps(schema, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise SwitchError("json_schema", value, "{field} is no JSON: {why}", cure, why=error) from None
    if schema is not True and not isinstance(schema, dict):
        reason = "{field} allows no answer" if schema is False else "{field} is no object"
        raise SwitchError("json_schema", value, reason, cure)
    return text


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
