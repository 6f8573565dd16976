"""GGUF metadata -> a tokenizer: the two kinds of vocabulary that tokenizer.json files hold, as llama.cpp writes them.

"gpt2" is byte-level BPE (Radford et al. 2019): text is split into words by a rule of the model, and the words' bytes
are merged by a ranked list. A GGUF only names the rule (`tokenizer.ggml.pre`), so the rules of the supported families
are listed here. Another name is refused, because a wrong rule gives a slightly wrong model and no error.

"llama" is SentencePiece's BPE (Kudo & Richardson 2018): no words, spaces are the letter U+2581, characters not in the
vocabulary become byte tokens, and of all neighbours whose union is a token the best score merges first. Written as a
list of merges by falling score, that is ordinary BPE, which the `tokenizers` library runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyinfer.errors import ModelError
from tinyinfer.text.tokenizer import Vocabulary
from tinyinfer.units import show

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type
SPACE = "\u2581"  # how SentencePiece writes a space
NAMES = {  # a chat template's name of a special token -> the key of its id; "seperator" is how GGUF spells it
    "unk_token": "unknown",
    "sep_token": "seperator",
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}
SENTENCEPIECE_IDS = {"unknown": 0, "bos": 1, "eos": 2}  # what it gives them by itself


@dataclass(frozen=True)
class SplitRule:
    """How a byte-level vocabulary splits text into words, and three settings that go with the rule.

    pattern: a regex whose matches are words; None: GPT-2's own. digits: every digit is a word. nfc: Unicode is composed
    first. whole_words: a word that is a token needs no merges. add_bos: texts begin with BOS unless the file says no.
    """

    pattern: str | None = None
    digits: bool = False
    nfc: bool = False
    whole_words: bool = False
    add_bos: bool = False


def _pattern(number: str) -> str:
    """Llama 3's word pattern; Qwen 2's differs only in `number`."""
    return "|".join(
        [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",  # endings of contractions
            r"[^\r\n\p{L}\p{N}]?\p{L}+",  # letters, with the space or sign before them
            number,
            r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # punctuation, with the line ends after it
            r"\s*[\r\n]+",  # blank lines
            r"\s+(?!\S)",  # spaces, but the last one belongs to the word that follows
            r"\s+",
        ]
    )


_LLAMA3 = SplitRule(pattern=_pattern(r"\p{N}{1,3}"), whole_words=True, add_bos=True)
SPLIT_RULES = {
    "default": SplitRule(),
    "gpt-2": SplitRule(),
    "smollm": SplitRule(digits=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": SplitRule(pattern=_pattern(r"\p{N}"), nfc=True),
}


def read_vocabulary(fields: Mapping[str, Any], path: str) -> Vocabulary:
    """The tokenizer that a GGUF's metadata (key -> parsed value) describes.

    Raises ModelError, naming the file and the key, when a key is missing, broken or not supported.
    """
    metadata = _Metadata(fields, path)
    sentencepiece = metadata.choice("model", ("gpt2", "llama")) == "llama"
    tokens = metadata.tokens()
    defaults = SENTENCEPIECE_IDS if sentencepiece else {}
    bos, eos, unknown = (metadata.token_id(name, len(tokens), defaults) for name in ("bos", "eos", "unknown"))
    types = metadata.types(tokens)
    types[[i for i in (bos, eos) if i is not None]] = CONTROL  # some files do not say so
    vocab = metadata.vocab(tokens, types)
    if sentencepiece:
        backend, rule = _sentencepiece(metadata, vocab, types, unknown), SplitRule(add_bos=True)
    else:
        backend, rule = _byte_level(metadata, vocab)
    _add_tokens(backend, tokens, types)
    return Vocabulary(
        backend,
        special_tokens=metadata.named(tokens, bos, eos),
        around=(metadata.around("bos", bos, rule.add_bos), metadata.around("eos", eos, False)),
        chat_template=metadata.chat_template(),
        template_path=path,
    )


def merges_from_scores(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """SentencePiece's BPE as merges: every pair of pieces whose union is a piece, the union's best score first."""
    merges = []
    for piece in sorted(scores, key=scores.__getitem__, reverse=True):
        for cut in range(1, len(piece)):
            if piece[:cut] in scores and piece[cut:] in scores:
                merges.append((piece[:cut], piece[cut:]))
    return merges


def _byte_level(metadata: _Metadata, vocab: dict[str, int]) -> tuple[Backend, SplitRule]:
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    rule = SPLIT_RULES[metadata.choice("pre", SPLIT_RULES, "default")]
    merges = metadata.merges()
    try:
        backend = Backend(models.BPE(vocab, merges, ignore_merges=rule.whole_words))
    except Exception as error:  # the library has no class of its own; it names the token
        raise metadata.error("merges", f"do not fit the tokens ({error})") from error
    steps: list[pre_tokenizers.PreTokenizer] = []
    if rule.digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if rule.pattern:
        steps.append(pre_tokenizers.Split(Regex(rule.pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule.pattern is None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.normalizer = normalizers.NFC() if rule.nfc else None
    backend.decoder = decoders.ByteLevel()
    return backend, rule


def _sentencepiece(metadata: _Metadata, vocab: dict[str, int], types: np.ndarray, unknown: int | None) -> Backend:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers

    scores = metadata.scores(len(types)).tolist()
    mergeable = np.isin(types, (NORMAL, USER_DEFINED)).tolist()
    pieces = {piece: scores[i] for piece, i in vocab.items() if mergeable[i]}
    unknown_piece = next((piece for piece, i in vocab.items() if i == unknown), None)
    backend = Backend(
        models.BPE(vocab, merges_from_scores(pieces), unk_token=unknown_piece, fuse_unk=True, byte_fallback=True)
    )
    spaces, prefix = [normalizers.Replace(" ", SPACE)], metadata.flag("add_space_prefix", True)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE)] * prefix + spaces)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * prefix)
    return backend


def _add_tokens(backend: Backend, tokens: list[str], types: np.ndarray) -> None:
    """Marks the tokens that are found in a text before it is split; of these, special tokens decode to no text."""
    from tokenizers import AddedToken

    special = np.flatnonzero((types == CONTROL) | (types == UNKNOWN))
    plain = np.flatnonzero(types == USER_DEFINED)
    backend.add_special_tokens([AddedToken(tokens[i], special=True, normalized=False) for i in special])
    backend.add_tokens([AddedToken(tokens[i], special=False, normalized=False) for i in plain])


class _Metadata:
    """The `tokenizer.ggml.` keys of a file; every method raises ModelError for a key that is missing or wrong."""

    def __init__(self, fields: Mapping[str, Any], path: str) -> None:
        self.fields = fields
        self.path = path

    def error(self, key: str, fault: str) -> ModelError:
        return ModelError(f"{self.path}: tokenizer.ggml.{key} {fault}; use another file of this model")

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """The value of a key, of the right type; the default where the key is missing and there is a default."""
        value = self.fields.get(f"tokenizer.ggml.{key}", default)
        if value is None:
            raise self.error(key, "is missing")
        if not isinstance(value, kind):
            raise self.error(key, f"is of the wrong type ({type(value).__name__})")
        return value

    def choice(self, key: str, known: Collection[str], default: str | None = None) -> str:
        value = self.get(key, str, default)
        if value not in known:
            raise self.error(key, f"is {show(value)}; supported are {', '.join(known)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        return self.get(key, (bool, np.bool_), default)

    def token_id(self, name: str, count: int, defaults: Mapping[str, int]) -> int | None:
        key = f"{name}_token_id"
        if f"tokenizer.ggml.{key}" not in self.fields:
            default = defaults.get(name, count)
            return default if default < count else None
        value = self.get(key, (int, np.integer))
        if isinstance(value, bool) or not 0 <= value < count:
            raise self.error(key, f"is {value}, but there are {count} tokens")
        return int(value)

    def named(self, tokens: list[str], bos: int | None, eos: int | None) -> dict[str, str]:
        """The special tokens that the file names, by the names that a chat template knows."""
        ids = {name: self.fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in NAMES.items()}
        known = {name: i for name, i in ids.items() if isinstance(i, int | np.integer) and 0 <= i < len(tokens)}
        known |= {name: i for name, i in (("bos_token", bos), ("eos_token", eos)) if i is not None}
        return {name: tokens[i] for name, i in known.items()}

    def around(self, name: str, token: int | None, default: bool) -> int | None:
        """The id of a token if the model's texts begin or end with it."""
        wanted = self.flag(f"add_{name}_token", default)
        if wanted and token is None:
            raise self.error(f"{name}_token_id", "is missing, but a text needs this token")
        return token if wanted else None

    def chat_template(self) -> str | None:
        template = self.fields.get("tokenizer.chat_template")
        if template is not None and not isinstance(template, str):
            raise ModelError(f"{self.path}: tokenizer.chat_template is not a string; use another file of this model")
        return template

    def strings(self, key: str) -> list[str]:
        values = self.get(key, list)
        if not all(type(value) is str for value in values):
            raise self.error(key, "is not a list of strings")
        return values

    def tokens(self) -> list[str]:
        tokens = self.strings("tokens")
        if not tokens:
            raise self.error("tokens", "is empty")
        return tokens

    def types(self, tokens: list[str]) -> np.ndarray:
        types = self.numbers("token_type", len(tokens), "iu", default=np.full(len(tokens), NORMAL)).astype(np.int64)
        types[[not token for token in tokens]] = UNUSED
        return types

    def scores(self, count: int) -> np.ndarray:
        scores = self.numbers("scores", count, "iuf")
        if not np.isfinite(scores).all():
            raise self.error("scores", "hold numbers that are not finite")
        return scores

    def numbers(self, key: str, count: int, kinds: str, default: np.ndarray | None = None) -> np.ndarray:
        values = np.asarray(self.get(key, (list, np.ndarray), default))
        if values.ndim != 1 or values.dtype.kind not in kinds:
            raise self.error(key, "is not a list of numbers")
        if len(values) != count:
            raise self.error(key, f"has {len(values)} entries, but there are {count} tokens")
        return values

    def vocab(self, tokens: list[str], types: np.ndarray) -> dict[str, int]:
        """Text -> id of the tokens in use: an unused one is padding, which must never decode to text."""
        used = np.flatnonzero(types != UNUSED).tolist()
        vocab = {tokens[i]: i for i in used}
        if len(vocab) != len(used):
            first, second = next((i, vocab[tokens[i]]) for i in used if vocab[tokens[i]] != i)
            raise self.error("tokens", f"holds {show(tokens[first])} twice, as {first} and {second}")
        return vocab

    def merges(self) -> list[tuple[str, str]]:
        pairs = [tuple(merge.split(" ")) for merge in self.strings("merges")]
        if any(len(pair) != 2 for pair in pairs):
            broken = next(" ".join(pair) for pair in pairs if len(pair) != 2)
            raise self.error("merges", f"holds {show(broken)}, which is not two tokens")
        return pairs  # type: ignore[return-value]
