"""Only the template and the model write control tokens; the same letters in the words of others are ordinary text.

A chat template puts control tokens between the messages: `<|im_start|>system`. A user, a tool or a document may write
these letters, too, and in the rendered text both look alike; transformers and vLLM read both as the token, so that a
user can speak as the system. Here the letters in a message of anyone but the assistant, and in variables that are lists
or objects (`tools`, `documents`, SmolLM3's `xml_tools`), are tokens of ordinary text. The assistant's messages keep
theirs, because a model thinks and calls tools by them.

Three steps, of which a conversation without such letters takes only the first:

1. The whole text is tokenized. If no control token in it holds a letter of others, these are the ids.
2. The conversation is rendered again with a secret word for each letter of others that begins or ends a name, such as <
   and >. Where the words stand, others wrote. This is believed only if the letters, put back, give the first text: a
   template may trim, quote, cut and join, but it may also look for such letters.
3. A copy of the tokenizer has secret names for control tokens. The template's are spelled so, and no other letters are
   one, while merges and spaces are those of the whole text.

Only tokens of the kind "special" (of GGUF: control) are control tokens. `<think>` and `<tool_call>` of Qwen 3 are not;
they are tokens wherever they stand, as with the library's `encode_special_tokens` and llama.cpp's `parse_special` off.

Wins: a conversation cannot be forged by what is said in it. Loses: a second rendering where someone writes such letters
(a millisecond), and for the first forgery a copy of the vocabulary. A template that changes a name is not seen through
(a note tells), nor one that makes it of other letters (&lt; to <, or backwards; no note). What a model repeats of a
name is a token in the next turn, as its own words are.
"""

from __future__ import annotations

import json
import re
import secrets
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tinyinfer.errors import ModelError, note

if TYPE_CHECKING:  # loaded on use: the library costs start-up time
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Backend

MODEL_ROLES = ("assistant", "model")  # whose messages hold control tokens
NAMES = ("role", "type")  # keys whose values templates compare with words of their own
Message = Mapping[str, Any]
Render = Callable[..., str]  # ChatTemplate.render
Place = tuple[int, int]  # of letters in a text: start and stop


@dataclass(frozen=True)
class Written:
    """A control token in a text, and where its name stands."""

    id: int
    start: int
    stop: int


class ControlTokens:
    """The control tokens of a vocabulary, id -> name: where a text holds them, and its ids when only some count."""

    def __init__(self, backend: Backend, names: Mapping[int, str]) -> None:
        self._backend, self._names = backend, names

    def found(self, encoding: Encoding, text: str) -> list[Written]:
        """The control tokens of an encoded text, but not one that stands for a letter that the vocabulary lacks."""
        found = []
        for i, id in enumerate(encoding.ids):
            if id in self._names:
                start, stop = encoding.token_to_chars(i) or (0, 0)
                token, name = text[start:stop], self._names[id]  # with the spaces that it takes in
                if name not in token:
                    name = token.strip() if name in self._normal(token) else ""
                start += token.find(name)
                found += [Written(id, start, start + len(name))] if name else []
        return found

    def encode(self, text: str, counted: list[Written]) -> list[int] | None:
        """Ids of a text in which only these control tokens count; None where the tokenizer spoils secret names."""
        backend, names = self._copy
        pieces, at = [], 0
        for one in counted:
            pieces += [text[at : one.start], names[one.id]]
            at = one.stop
        spelled = "".join(pieces) + text[at:]
        encoding = backend.encode(spelled, add_special_tokens=False)
        found = ControlTokens(backend, names).found(encoding, spelled)
        return encoding.ids if [one.id for one in found] == [one.id for one in counted] else None

    def _normal(self, token: str) -> str:
        normalizer = self._backend.normalizer
        return normalizer.normalize_str(token) if normalizer else token

    @cached_property
    def _copy(self) -> tuple[Backend, dict[int, str]]:
        """The tokenizer with secret names for its control tokens, and these names by their ids."""
        from tokenizers import Tokenizer as Backend

        secret = secrets.token_hex(8)
        names = {id: f"{secret}{id}x" for id in self._names}
        renamed = {name: names[id] for id, name in self._names.items()}
        spec = json.loads(self._backend.to_str())
        _rename(spec["model"], spec["added_tokens"], renamed)
        return Backend.from_str(json.dumps(spec | {"post_processor": None})), names


def _rename(model: dict[str, Any], added: list[dict[str, Any]], renamed: Mapping[str, str]) -> None:
    """Renames tokens in the parts of a tokenizer.json, and forgets the merges that make them of letters."""
    for token in added:
        token["content"] = renamed.get(token["content"], token["content"])
    vocab = model["vocab"]
    if isinstance(vocab, dict):  # with the added tokens: the library would count those that it lacks anew
        vocab = {renamed.get(token, token): id for token, id in vocab.items()}
        model["vocab"] = vocab | {token["content"]: token["id"] for token in added}
    else:
        model["vocab"] = [[renamed.get(token, token), score] for token, score in vocab]
    if "merges" in model:
        model["merges"] = [m for m in model["merges"] if not {*m, "".join(m)} & renamed.keys()]
    if model.get("unk_token") is not None:
        model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])


class Masks:
    """Secret words that stand for certain letters, or longer texts, in what others wrote."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._pattern = re.compile("|".join(map(re.escape, texts)))
        self._secret = secrets.token_hex(8)
        self._words: dict[str, int] = {}  # text -> number of its word

    def of(self, value: Any) -> Any:
        """A copy of a message, or of other JSON, with secret words in all its texts.

        A template asks for keys, roles and types by their names: those that are one plain word stay.
        """
        if isinstance(value, dict):
            return {self._named(k): self._named(item) if k in NAMES else self.of(item) for k, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(item) for item in value]
        return self._pattern.sub(self._word, value) if isinstance(value, str) else value

    def restored(self, text: str) -> tuple[str, list[Place]]:
        """The text with what the words stand for, and its places; a template may have changed the case of a word."""
        texts, pieces, places, at, length = list(self._words), [], [], 0, 0
        for word in re.finditer(rf"{self._secret}(\d+)x", text, re.IGNORECASE):
            before, masked = text[at : word.start()], texts[int(word[1])]
            start = length + len(before)
            length, at = start + len(masked), word.end()
            pieces += [before, masked]
            places.append((start, length))
        return "".join(pieces) + text[at:], places

    def _named(self, value: Any) -> Any:
        return value if isinstance(value, str) and value.isidentifier() else self.of(value)

    def _word(self, found: re.Match[str]) -> str:
        return f"{self._secret}{self._words.setdefault(found[0], len(self._words))}x"


class Conversation:
    """A rendered conversation: which letters of its text are the words of others.

    render: of the messages and the template's variables, which gave the text.
    """

    def __init__(self, render: Render, text: str, messages: Sequence[Message], variables: Message) -> None:
        self._render, self.text, self._variables = render, text, variables
        data = {name: value for name, value in variables.items() if isinstance(value, dict | list | tuple)}
        self._items = [*messages, data]

    def places(self, names: set[str]) -> tuple[list[Place], bool]:
        """Where others wrote letters of these names, and whether all of it is known; in their order.

        The first and the last letter of a name are enough: no token without them, however the template cuts and joins.
        Where it looks for such a letter (`startswith("<tool_response>")`), whole names are told from the rest.
        """
        letters = {letter for name in names for letter in (name[0], name[-1])}
        for masks in (Masks(letters), Masks(names)):
            masked = [item if item.get("role") in MODEL_ROLES else masks.of(item) for item in self._items]
            suspected = {i for i, item in enumerate(masked) if item != self._items[i]}
            places = self._told(masks, masked, suspected) if suspected else []
            if places is not None:
                return places, True
        told = {i for i in suspected if self._told(masks, masked, {i}) is not None}
        return self._told(masks, masked, told) or [], False

    def _told(self, masks: Masks, masked: list[Message], chosen: set[int]) -> list[Place] | None:
        """The places of the secret words in the chosen messages; None where the template would write another text."""
        items = [masked[i] if i in chosen else item for i, item in enumerate(self._items)]
        try:
            text, places = masks.restored(self._render(items[:-1], **{**self._variables, **items[-1]}))
        except ModelError:  # the template refuses them
            return None
        return places if text == self.text else None


def conversation_ids(control: ControlTokens, encoding: Encoding, conversation: Conversation, path: str) -> list[int]:
    """The ids of a conversation, in which the names of control tokens are ordinary text where others wrote them.

    encoding: of its whole text, with control tokens recognised. path: the file of the chat template, for a note.
    """
    text = conversation.text
    found = control.found(encoding, text)
    if not found:
        return encoding.ids
    places, known = conversation.places({text[one.start : one.stop] for one in found})
    counted = [one for one in found if not _overlaps(one, places)]
    ids = encoding.ids if len(counted) == len(found) else control.encode(text, counted)
    if ids is None or not known:
        note(
            f"{path}: the chat template changes a message that holds the name of a control token, so that the name may "
            "be read as the token; take the name out of the message"
        )
    return encoding.ids if ids is None else ids


def _overlaps(one: Written, places: list[Place]) -> bool:
    """Whether a token has letters of one of the places, which are in their order and apart from each other."""
    before = bisect_left(places, (one.stop,))
    return before > 0 and places[before - 1][1] > one.start
