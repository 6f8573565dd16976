"""Tokens of a GGUF that are no ordinary text: which of them end a text, and which are typed as text by mistake.

A GGUF names one end token; the generation_config.json of the same model often names several, and a chat ends at any of
them. llama.cpp knows the others by their names (llama_vocab_is_eog), and so does `end_tokens`.

Some exporters type every token as normal. Then `<|im_start|>` is not found in a prompt, and is split into six. A token
that training has made is the union of two others; a token with brackets that is no such union was added by hand, and
`retyped` gives its type back. Unions also tell the `</s>` that is HTML to Qwen from the `</s>` that ends a text: there
llama.cpp, which looks at names alone, ends Qwen's answers.

Sources: llama-vocab.cpp; does_token_look_special in llama.cpp's converter. In the 13 vocabularies of
these kinds that llama.cpp's own tests use, with all types set to normal, every control token was found again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type

END_NAMES = frozenset(
    ["</s>", "<eos>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
     "<|end_of_text|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<｜end▁of▁sentence｜>", "<end_of_utterance>",
     "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<turn|>", "<|tool_response>", "[e~["]
)  # fmt: skip
INFILL_ENDS = {  # of code models, which fill gaps in files: the name of each role's key in a file, and its tokens
    "fim_pad": {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"},
    "fim_rep": {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"},
    "fim_sep": {"<|file_sep|>"},
}
ADDED = re.compile(r"<[^<>\s]+>|\[(?!PAD\d+\])[^\[\]\s]+\]|\s+")  # [PAD7]: the converter's name of an id without token
CONTROL_NAME = re.compile(
    r"<\|.+\|>|<｜.+｜>|</?(s|unk|bos|eos|pad|mask|cls|sep|2mass)>|<unused\d+>|</?(start|end)_of_\w+>|<fim[-_]\w+>"
    r"|</?[A-Z_]+>|\[/?[A-Z_]+\]|\[@BOS@\]"
)
BYTE_NAME = re.compile("<0x[0-9A-F]{2}>")
KEEP_SPACES = ("<unk>", "<s>", "<|endoftext|>")  # Phi-3's tokens that do not take the space behind them


def suspects(tokens: list[str], types: np.ndarray, byte_level: bool) -> dict[str, int]:
    """Text -> id of the normal tokens that look as if added by hand: names, or words in brackets.

    Also runs of spaces, which a byte-level vocabulary cannot make: its own space is the letter U+0120.
    """
    first = ("<", "[", "_", *(" \t\n\r" if byte_level else ""))
    names = {tokens[i]: i for i in np.flatnonzero(types == NORMAL).tolist() if tokens[i].startswith(first)}
    return {name: i for name, i in names.items() if name in END_NAMES or ADDED.fullmatch(name)}


def retyped(added: Mapping[str, int]) -> dict[int, int]:
    """Id -> type of tokens (text -> id) that were added by hand: bytes, control tokens, the rest defined by users."""
    types = {}
    for name, i in added.items():
        control = name in END_NAMES or CONTROL_NAME.fullmatch(name)
        types[i] = BYTE if BYTE_NAME.fullmatch(name) else CONTROL if control else USER_DEFINED
    return types


def end_tokens(tokens: list[str], types: np.ndarray, named: Mapping[str, int]) -> tuple[int, ...]:
    """The ids that end a text; named: ids by their role in the file ("eos", "eot", "eom", "fim_pad", ...).

    A name is no end where it is text: typed as normal, or as HTML by a user (`</s>`, Gemma).
    """
    names = END_NAMES.union(*(texts for role, texts in INFILL_ENDS.items() if role not in named))
    found = {token: i for i, token in enumerate(tokens) if token in names and types[i] != NORMAL}
    if "</s>" in found and (types[found["</s>"]] == USER_DEFINED or "<|tool_response>" in found):
        del found["</s>"]
    if found.keys() & {"<|call|>", "<|calls|>"} and found.keys() & {"<|return|>", "<|flush|>"}:
        found.pop("<|end|>", None)  # there it ends a message, of which an answer has several (gpt-oss, Solar Open)
    return tuple(dict.fromkeys([*named.values(), *found.values()]))


def add_tokens(backend: Backend, tokens: list[str], types: np.ndarray, strips: bool) -> None:
    """Marks the tokens that are found in a text before it is split; of these, special tokens decode to no text.

    strips: with spaces and line ends that follow them, as Phi-3's tokenizer does.
    """
    from tokenizers import AddedToken

    def added(kinds: tuple[int, ...], special: bool) -> list[AddedToken]:
        texts = [tokens[i] for i in np.flatnonzero(np.isin(types, kinds))]
        ends = [strips and text not in KEEP_SPACES for text in texts]
        return [
            AddedToken(text, special=special, normalized=False, rstrip=end)
            for text, end in zip(texts, ends, strict=True)
        ]

    backend.add_special_tokens(added((CONTROL, UNKNOWN), True))
    backend.add_tokens(added((USER_DEFINED,), False))
