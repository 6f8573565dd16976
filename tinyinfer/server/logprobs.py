"""Log-probabilities of an answer's tokens, in OpenAI's two forms: lists side by side, or one object a token.

A token may be a part of a character. Then its text is written as its bytes, `bytes:\\xf0\\x9f`, as OpenAI does: U+FFFD
would say that the text is broken, and two such tokens would be the same key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tinyinfer.request import TokenLogprob
from tinyinfer.text.tokenizer import Tokenizer

LOWEST = -9999.0  # stands for -infinity, which JSON does not have; OpenAI's own
TAIL = 8  # tokens of a prompt that decide how the next one is spelled


class Speller:
    """Single tokens as text and as bytes; a special token is its name."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._named = tokenizer, tokenizer.stream()

    def bytes(self, token: int) -> bytes:
        """What the token is inside a text, in UTF-8."""
        piece = self._tokenizer.piece(token) or self._named.name(token)
        return piece if isinstance(piece, bytes) else piece.encode("utf-8")

    def text(self, token: int) -> str:
        """The token's text, or its bytes where these are no whole characters."""
        spelled = self.bytes(token)
        try:
            return spelled.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)

    def chat(self, logprobs: Iterable[TokenLogprob]) -> dict[str, Any]:
        """The form of chat completions."""
        content = []
        for one in logprobs:
            top = [self._entry(token, logprob) for token, logprob in one.top.items()]
            content.append(self._entry(one.token, one.logprob) | {"top_logprobs": top})
        return {"content": content, "refusal": None}

    def completion(
        self, tokens: list[int], logprobs: Sequence[TokenLogprob | None], offsets: list[int]
    ) -> dict[str, list[Any]]:
        """The form of completions. offsets: where each token begins in the text. A text's first token has none."""
        return {
            "tokens": [self.text(token) for token in tokens],
            "token_logprobs": [one and finite(one.logprob) for one in logprobs],
            "top_logprobs": [one and self._with_chosen(one) for one in logprobs],
            "text_offset": offsets,
        }

    def prompt(self, logprobs: Sequence[TokenLogprob | None]) -> list[dict[str, Any] | None]:
        """vLLM's form of a prompt's log-probabilities: of each token those of the best ones and its own, by their ids.

        rank: null for a token that is not among the best.
        """
        return [None if one is None else self._by_id(one) for one in logprobs]

    def _by_id(self, one: TokenLogprob) -> dict[str, dict[str, Any]]:
        ranks = {token: rank for rank, token in enumerate(one.top, 1)}
        every = {**one.top, one.token: one.logprob}.items()
        return {
            str(token): {"logprob": finite(logprob), "rank": ranks.get(token), "decoded_token": self.text(token)}
            for token, logprob in every
        }

    def _with_chosen(self, one: TokenLogprob) -> dict[str, float]:
        """The best tokens and the chosen one, which may not be among them."""
        return {self.text(token): finite(logprob) for token, logprob in {**one.top, one.token: one.logprob}.items()}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self.text(token), "logprob": finite(logprob), "bytes": list(self.bytes(token))}


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return max(logprob, LOWEST)


class Offsets:
    """Where tokens begin in the text of an answer. start: characters before the answer (an echoed prompt)."""

    def __init__(self, tokenizer: Tokenizer, prompt: list[int], start: int) -> None:
        self._stream, self._place = tokenizer.stream(prompt[-TAIL:]), start

    def of(self, tokens: Iterable[int]) -> list[int]:
        """The offsets of the next tokens."""
        places = []
        for token in tokens:
            places.append(self._place)
            self._place += len(self._stream.push(token))
        return places
