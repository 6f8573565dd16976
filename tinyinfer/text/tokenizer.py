"""Text <-> token ids, and text from tokens that come one by one.

The `tokenizers` library splits and merges text. An engine also needs the way back, token by token. A token may be a
third of a character, and the bytes of the next tokens decide whether that becomes a letter or U+FFFD. `TextStream`
turns tokens into bytes and gives each character with its last byte. Decoding the whole answer at every step would be
simpler but quadratic; the stream does constant work for each token. Its pieces joined are the decoded text, but for
broken bytes of a SentencePiece vocabulary (`TextStream`).
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, takewhile
from typing import TYPE_CHECKING, Any

from tinyinfer.errors import TextError
from tinyinfer.text.control_tokens import ControlTokens, Conversation, conversation_ids
from tinyinfer.text.reasoning import THINKING_SWITCHES, ChatPrompt, Thinking
from tinyinfer.text.spelling import read_spelling

if TYPE_CHECKING:  # both are loaded on use: they cost start-up time
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Backend

    from tinyinfer.text.chat_template import ChatTemplate

_BAD_ID = "a token id is not between 0 and 2**32 - 1; give ids that the model returned"


@dataclass(frozen=True)
class Vocabulary:
    """What a loader reads: the library's tokenizer, the chat template and the special tokens that the template needs.

    special_tokens: those with a name, by the name that a template knows: bos_token, eos_token, pad_token and others.
    around: the ids before and after every text (None: no token on that side); None: as tokenizer.json says.
    template_path: the file that holds the template, for error messages.
    """

    backend: Backend
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    around: tuple[int | None, int | None] | None = None
    chat_template: str | None = None
    template_path: str = ""


class Tokenizer:
    """A model's tokenizer and chat template, from a Hugging Face folder or a GGUF file."""

    def __init__(self, vocabulary: Vocabulary, path: str) -> None:
        """Raises ModelError, naming path, when the tokenizer writes its tokens in a way that is not supported."""
        self._vocabulary = vocabulary
        self._path = path
        self._backend = vocabulary.backend
        self._backend.no_truncation()  # settings of training, which some files still hold
        self._backend.no_padding()
        if vocabulary.around is not None:
            _surround(self._backend, *vocabulary.around)
        self._spelling = read_spelling(self._backend, path)
        self._pieces: dict[tuple[int, bool], bytes | str] = {}

    def save(self, folder: str) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which loading/hf_vocab.py reads as the same tokenizer."""
        vocab = self._vocabulary
        own = {name: token for name, token in vocab.special_tokens.items() if not name.endswith("_token")}
        usual = {name: token for name, token in vocab.special_tokens.items() if name not in own}
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **usual, "extra_special_tokens": own}
        if vocab.chat_template is not None:
            config["chat_template"] = vocab.chat_template
        with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8", newline="") as file:
            file.write(self._backend.to_str(pretty=True))
        with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8", newline="") as file:
            json.dump(config, file, indent=2, ensure_ascii=False)

    @property
    def vocab_size(self) -> int:
        """The number of ids that can be decoded; a model may have more rows, as padding."""
        return self._backend.get_vocab_size()

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """The id of eos_token; empty when the tokenizer names none."""
        id = self._backend.token_to_id(self._vocabulary.special_tokens.get("eos_token", ""))
        return () if id is None else (id,)

    def names(self, count: int) -> list[str | None]:
        """The names of the first ids in the vocabulary, as `first_difference` compares them; None for an id without."""
        return [self._backend.id_to_token(id) for id in range(count)]

    def first_difference(self, other: Tokenizer) -> int | None:
        """The smallest id whose token differs between the vocabularies; None when all ids that both have agree.

        One of them may have more: a later model has marks of its own, perhaps where a GGUF file lists its padding as
        tokens (`[PAD7]`, the converter's name of an id without a token).
        """
        named = ([(id, token) for token, id in t._backend.get_vocab().items()] for t in (self, other))
        ours, theirs = ({id: token for id, token in pairs if token != f"[PAD{id}]"} for pairs in named)
        return min((id for id in ours.keys() & theirs.keys() if ours[id] != theirs[id]), default=None)

    @property
    def special_tokens(self) -> dict[str, str]:
        """The special tokens that have a name, by the name that a template knows, such as eos_token."""
        return dict(self._vocabulary.special_tokens)

    @property
    def chat_template(self) -> str | None:
        """The source of the chat template, None when the model has none."""
        return self._vocabulary.chat_template

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Special tokens written in the text are recognised; those around it are added if asked.

        One thing differs from transformers, which has the beginning token twice: a text that begins with it, such as a
        rendered conversation, is given no other one. Raises ValueError when text is not valid Unicode, ModelError when
        the tokenizer fails on it.
        """
        ids = self._encoding(text, add_special_tokens).ids
        if add_special_tokens and self.beginning:
            n, name = len(self.beginning), self._special_names.get(self.beginning[0])
            if name and text.startswith(name) and ids[n : 2 * n] == self.beginning:
                return ids[n:]
        return ids

    def encode_chat(
        self, messages: list[dict[str, Any]], variables: Mapping[str, Any] | None = None, parse_special: bool = False
    ) -> ChatPrompt:
        """The token ids of a conversation as the model's chat template writes it, with how its answer is to be split.

        Only the template and the assistant write control tokens: their names in messages of others, and in tools and
        documents, are ordinary text (text/control_tokens.py). parse_special: there, too, they are the tokens, as in
        transformers. Raises ValueError and ModelError where `render` does.
        """
        variables = variables or {}
        text = self.render(messages, **variables)
        encoding = self._encoding(text, add_special_tokens=False)
        ids = encoding.ids
        if not parse_special:
            conversation = Conversation(self.render, text, messages, variables)
            ids = conversation_ids(self._control_tokens, encoding, conversation, self._vocabulary.template_path)
        thinking, off = self.thinking(text), False in (variables.get(name) for name in THINKING_SWITCHES)
        return ChatPrompt(ids, replace(thinking, off=off) if thinking else None)

    def _encoding(self, text: str, add_special_tokens: bool) -> Encoding:
        try:
            return self._backend.encode(text, add_special_tokens=add_special_tokens)
        except TypeError as error:  # the library's answer to a surrogate
            cure = "read it as UTF-8, or use a UTF-8 locale, such as LC_ALL=C.UTF-8"
            raise ValueError(f"the text is not valid Unicode, but bytes of another encoding; {cure}") from error
        except BaseException as error:  # the library raises bare Exceptions, and its panics are not even those
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            reason = " ".join(str(error).split())[:200]
            cure = "use another tokenizer of this model"
            raise TextError(self._path, f"its tokenizer fails on a text ({reason}); {cure}") from error

    @cached_property
    def beginning(self) -> list[int]:
        """The token ids that `encode` puts before every text, such as the one of <s>; empty when it puts none."""
        texts = chain(["a"], self._backend.get_vocab())  # a vocabulary without unknown tokens may drop the "a"
        text = next((one for one in texts if self._encoding(one, add_special_tokens=False).ids), "")
        encoding = self._encoding(text, add_special_tokens=True)
        pairs = zip(encoding.ids, encoding.special_tokens_mask, strict=True)  # the mask: 1 where a token was added
        return [id for id, _ in takewhile(lambda pair: pair[1], pairs)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens and ids outside the vocabulary are no text.

        Raises ValueError when an id is negative or 2**32 and more.
        """
        try:
            return self._backend.decode([int(i) for i in ids], skip_special_tokens=True)
        except OverflowError as error:
            raise ValueError(_BAD_ID) from error

    def render(self, messages: list[dict[str, Any]], /, add_generation_prompt: bool = True, **variables: Any) -> str:
        """A conversation as the model's chat template writes it; tokenize it with add_special_tokens=False.

        variables: the template's own, such as enable_thinking=False. Raises ValueError when the model has no chat
        template and for variables that are no JSON, ModelError when the template is broken or refuses.
        """
        return self._template.render(messages, add_generation_prompt, **variables)

    def unused_variables(self, names: Iterable[str]) -> list[str]:
        """Those of the names that the chat template has no use for."""
        return self._template.unused(names)

    def thinking(self, prompt: str) -> Thinking | None:
        """How the answer to a rendered conversation is split; None when the model has no thinking to write there."""
        markers = self._template.thinking
        return markers.after(prompt) if markers else None

    def stream(self, prompt: Sequence[int] = ()) -> TextStream:
        """A new stream of text: what the tokens that follow the prompt's ids add to the prompt's text.

        Raises ValueError when an id is negative or 2**32 and more.
        """
        return TextStream(self, prompt)

    def piece(self, token_id: int) -> bytes | str:
        """What one token is inside a text: characters, or bytes that may be a part of one; empty for special tokens.

        Raises ValueError when an id is negative or 2**32 and more.
        """
        return self._piece(token_id, first=False)

    def bytes_of(self, token_id: int) -> bytes:
        """What one token is inside a text, in UTF-8; of a special token its name, of an id without a token nothing."""
        piece = self.piece(token_id) or self._special_names.get(token_id, "")
        return piece if isinstance(piece, bytes) else piece.encode("utf-8")

    @property
    def most_ids(self) -> int:
        """One more than the largest id: there may be ids between without a token."""
        return max(self._backend.get_vocab().values(), default=-1) + 1

    @property
    def special_ids(self) -> list[int]:
        """The ids of special tokens, which are no text."""
        return sorted(self._special_names)

    def specials_in(self, text: str) -> dict[int, str]:
        """The special tokens that are written in a text, id -> token."""
        ids = self.encode(text, add_special_tokens=False)
        return {id: self._special_names[id] for id in ids if id in self._special_names}

    @cached_property
    def _template(self) -> ChatTemplate:
        from tinyinfer.text.chat_template import ChatTemplate

        vocab = self._vocabulary
        if vocab.chat_template is None:
            raise ValueError(f"{self._path} has no chat template; give a plain text instead of a conversation")
        return ChatTemplate(vocab.chat_template, vocab.template_path, vocab.special_tokens)

    @cached_property
    def _control_tokens(self) -> ControlTokens:
        return ControlTokens(self._backend, self._special_names)

    @cached_property
    def _special_names(self) -> dict[int, str]:
        return {i: token.content for i, token in self._backend.get_added_tokens_decoder().items() if token.special}

    def _piece(self, token_id: int, first: bool) -> bytes | str:
        """The text of one token: whole characters, or bytes that may need the next tokens' bytes to be a character."""
        piece = self._pieces.get((token_id, first))
        if piece is None:
            try:
                token = None if token_id in self._special_names else self._backend.id_to_token(token_id)
            except OverflowError as error:
                raise ValueError(_BAD_ID) from error
            piece = self._pieces[token_id, first] = b"" if token is None else self._spelling.piece(token, first)
        return piece


class TextStream:
    """The text of tokens that come one by one; all pieces joined equal `Tokenizer.decode` of all ids.

    After a prompt they are what the answer adds to the prompt's text: the first space of a SentencePiece text is taken
    off the prompt, and bytes of the answer may complete a character that the prompt begins. llama.cpp and vLLM do so.

    One difference: `decode` turns a whole run of byte tokens (`<0x0A>`) into U+FFFD when one byte of it is broken, but
    a stream has then shown the characters before that byte, and cannot take them back. So the bytes of a stream are
    UTF-8, with U+FFFD for each broken character only, as in byte-level vocabularies and in llama.cpp.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        spelling = tokenizer._spelling
        self._piece = tokenizer._piece
        self._names = tokenizer._special_names
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = spelling.strip  # spaces still to be taken off the beginning
        self._first = spelling.first_without_marks
        for token_id in prompt:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """The text that is complete with this token; "" while a character is incomplete.

        Raises ValueError when the id is negative or 2**32 and more.
        """
        piece = self._piece(token_id, self._first)
        self._first = self._first and piece == b""  # special tokens do not count
        if isinstance(piece, bytes):
            return self._stripped(self._bytes.decode(piece))
        return self._stripped(self._bytes.decode(b"", True) + piece)

    def name(self, token_id: int) -> str:
        """The name of a special token, which is no text; "" for other tokens."""
        return self._names.get(token_id, "")

    def finish(self) -> str:
        """The text of the incomplete rest, broken characters as U+FFFD."""
        return self._stripped(self._bytes.decode(b"", True))

    def _stripped(self, text: str) -> str:
        if not self._strip or not text:
            return text
        spaces = min(self._strip, len(text) - len(text.lstrip(" ")))
        self._strip = self._strip - spaces if spaces == len(text) else 0
        return text[spaces:]


def _surround(backend: Backend, before: int | None, after: int | None) -> None:
    """Makes `encode` put these token ids around every text."""
    from tokenizers.processors import TemplateProcessing

    around = {"before": before, "after": after}
    special = [{"id": name, "ids": [i], "tokens": [name]} for name, i in around.items() if i is not None]
    single = ["before"] * (before is not None) + ["$A"] + ["after"] * (after is not None)
    backend.post_processor = TemplateProcessing(single=single, special_tokens=special)
