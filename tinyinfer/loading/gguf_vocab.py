"""GGUF metadata -> a tokenizer: the two kinds of vocabulary that tokenizer.json files hold, as llama.cpp writes them.

"gpt2" is byte-level BPE (Radford et al. 2019): text is split into words by a rule of the model (split_rules.py), and
the words' bytes are merged by a ranked list.

"llama" is SentencePiece's BPE (Kudo & Richardson 2018): no words, spaces are the letter U+2581, characters not in the
vocabulary become byte tokens, and of all neighbours whose union is a token the best score merges first. Written as a
list of merges by falling score, that is ordinary BPE, which the `tokenizers` library runs. (transformers' converter
finds the same merges, llama.cpp needs no list: it looks for the best pair of the text at hand.)

That list is longer than the file: pieces that begin one another make n²/2 merges. In real vocabularies a piece has 2;
only runs of one letter have more, 64 spaces 2,016. So tokens and merges are counted while they are made, and a file may
not have many more than its size explains (MAX_VALUES, BYTES_A_VALUE); nor may pieces be so long that looking for their
halves takes seconds (MAX_WORK).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyinfer.errors import ModelError, note
from tinyinfer.loading import gguf_specials
from tinyinfer.loading.gguf_specials import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from tinyinfer.loading.small_files import check_added
from tinyinfer.loading.split_rules import MISSING, SPLIT_RULES, SplitRule, family_rule, split_words
from tinyinfer.text.tokenizer import Vocabulary
from tinyinfer.units import show

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

MAX_VALUES = 150_000  # tokens and merges of a file of any size; one takes up to 330 bytes
BYTES_A_VALUE = 17  # of a larger file; Gemma 3's 262,144 tokens and 514,906 merges need 13 MB, the smallest has 290
MAX_WORK = 1 << 28  # squared lengths of all pieces, a second's work; Gemma 3's are 2^24
SPACE = "\u2581"  # how SentencePiece writes a space
NAMES = {  # a chat template's name of a special token -> the key of its id; "seperator" is how GGUF spells it
    "unk_token": "unknown",
    "sep_token": "seperator",
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}
SENTENCEPIECE_IDS = {"unknown": 0, "bos": 1, "eos": 2}  # what it gives them by itself


def read_vocabulary(fields: Mapping[str, Any], path: str, size: int = 0) -> Vocabulary:
    """The tokenizer that a GGUF's metadata (key -> parsed value) describes. size: bytes of the whole model.

    Raises ModelError, naming the file and the key, when a key is missing, broken or not supported, and for more tokens
    and merges than a model of this size has.
    """
    metadata = _Metadata(fields, path, size)
    tokens = metadata.tokens()
    bos, eos, unknown = (metadata.token_id(name, len(tokens)) for name in ("bos", "eos", "unknown"))
    types, added = _repaired_types(metadata, tokens)
    if added:
        names = ", ".join(show(name) for name in added[:3]) + ", ..." * (len(added) > 3)
        note(f"{path}: types added tokens as normal text ({len(added)}: {names}); each is one token all the same")
    ends = gguf_specials.end_tokens(tokens, types, metadata.named_ends(len(tokens)))
    types[[i for i in (bos, *ends) if i is not None]] = CONTROL  # some files do not say so
    check_added(int(np.isin(types, (CONTROL, UNKNOWN, USER_DEFINED)).sum()), path, size)
    vocab = metadata.vocab(tokens, types)
    if metadata.sentencepiece:
        backend, rule = _sentencepiece(metadata, vocab, types, unknown), SplitRule(add_bos=True)
    else:
        backend, rule = _byte_level(metadata, vocab)
    gguf_specials.add_tokens(backend, tokens, types, metadata.strips_spaces)
    return Vocabulary(
        backend,
        special_tokens=metadata.named(tokens, bos, eos),
        around=(metadata.around("bos", bos, rule.add_bos), metadata.around("eos", eos, False)),
        chat_template=metadata.chat_template(),
        template_path=path,
    )


def read_end_tokens(fields: Mapping[str, Any], path: str, size: int = 0) -> tuple[int, ...]:
    """The ids that end a text: those that the file names, and those that llama.cpp knows by their names.

    Raises ModelError, as read_vocabulary does.
    """
    metadata = _Metadata(fields, path, size)
    tokens = metadata.tokens()
    return gguf_specials.end_tokens(tokens, _repaired_types(metadata, tokens)[0], metadata.named_ends(len(tokens)))


def _repaired_types(metadata: _Metadata, tokens: list[str]) -> tuple[np.ndarray, list[str]]:
    """The type of each token, and the tokens that the file types as normal text by mistake."""
    types = metadata.types(tokens)
    names = gguf_specials.suspects(tokens, types, not metadata.sentencepiece)
    unions = metadata.unions(names, tokens, types)
    added = {name: i for name, i in names.items() if name not in unions}
    for i, kind in gguf_specials.retyped(added).items():
        types[i] = kind
    return types, list(added)


def merges_from_scores(scores: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """SentencePiece's BPE as merges: every pair of pieces whose union is a piece, the union's best score first."""
    pieces = {piece: piece for piece in scores}  # a half is the piece itself, not a copy
    for piece in sorted(scores, key=scores.__getitem__, reverse=True):
        for cut in range(1, len(piece)):
            if (left := pieces.get(piece[:cut])) and (right := pieces.get(piece[cut:])):
                yield left, right


def _byte_level(metadata: _Metadata, vocab: dict[str, int]) -> tuple[Backend, SplitRule]:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    rule, merges = _split_rule(metadata, vocab), metadata.merges()
    try:
        backend = Backend(models.BPE(vocab, merges, ignore_merges=rule.whole_words))
    except Exception as error:  # the library has no class of its own; it names the token
        raise metadata.error("merges", f"do not fit the tokens ({str(error)[:200]})") from error
    split_words(backend, rule)
    return backend, rule


def _split_rule(metadata: _Metadata, vocab: Collection[str]) -> SplitRule:
    """The rule that the file names; without a name its family's rule, else llama.cpp's default, and a note."""
    name, path = metadata.get("pre", str, MISSING) or MISSING, metadata.path
    if name == MISSING:
        name = family_rule(metadata.fields.get("general.architecture"), vocab) or MISSING
        unnamed = f"{path}: names no rule for splitting text (tokenizer.ggml.pre)"
        if name == MISSING:
            worse = "llama.cpp's default rule is used, and the model may answer worse"
            note(f"{unnamed}, so {worse}; use a newer file of this model")
        else:
            note(f"{unnamed}, so {name}'s rule is used, which models of this family have")
    if name not in SPLIT_RULES:
        cure = "use this model's Hugging Face folder, whose tokenizer.json holds the rule itself"
        raise ModelError(
            f"{path}: tokenizer.ggml.pre is {show(name)}, a rule for splitting text not known here; {cure}"
        )
    return SPLIT_RULES[name]


def _sentencepiece(metadata: _Metadata, vocab: dict[str, int], types: np.ndarray, unknown: int | None) -> Backend:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers

    scores = metadata.scores(len(types)).tolist()
    mergeable = np.isin(types, (NORMAL, USER_DEFINED)).tolist()
    pieces = {piece: scores[i] for piece, i in vocab.items() if mergeable[i]}
    unknown_piece = next((piece for piece, i in vocab.items() if i == unknown), None)
    merges = metadata.counted(merges_from_scores(pieces))
    backend = Backend(models.BPE(vocab, merges, unk_token=unknown_piece, fuse_unk=True, byte_fallback=True))
    spaces, prefix = [normalizers.Replace(" ", SPACE)], metadata.flag("add_space_prefix", True)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE)] * prefix + spaces)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * prefix)
    return backend


class _Metadata:
    """The `tokenizer.ggml.` keys of a file; every method raises ModelError for a key that is missing or wrong."""

    def __init__(self, fields: Mapping[str, Any], path: str, size: int = 0) -> None:
        self.fields, self.path, self.size = fields, path, size

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

    @property
    def sentencepiece(self) -> bool:
        """Whether the vocabulary is SentencePiece's, else it is byte-level."""
        value = self.get("model", str)
        if value not in ("gpt2", "llama"):
            raise self.error("model", f"is {show(value)}; supported are gpt2, llama")
        return value == "llama"

    @property
    def strips_spaces(self) -> bool:
        """Whether a special token takes the space behind it; llama.cpp looks for Phi-3 in the model's name."""
        return self.sentencepiece and self.fields.get("general.architecture") == "phi3"

    def flag(self, key: str, default: bool) -> bool:
        return self.get(key, (bool, np.bool_), default)

    def token_id(self, name: str, count: int) -> int | None:
        value = self.given_id(name)
        if value is not None and value >= count:
            raise self.error(f"{name}_token_id", f"is {value}, but there are {count} tokens")
        return value if value is not None else self.default_id(name, count)

    def named_ends(self, count: int) -> dict[str, int]:
        """The end tokens that the file names, by role; an id beyond the vocabulary is how some files write "none"."""
        ids = {role: self.given_id(role) for role in ("eos", "eot", "eom", *gguf_specials.INFILL_ENDS)}
        ids = {role: i if i is not None and i < count else self.default_id(role, count) for role, i in ids.items()}
        return {role: i for role, i in ids.items() if i is not None}

    def default_id(self, name: str, count: int) -> int | None:
        found = SENTENCEPIECE_IDS.get(name) if self.sentencepiece else None
        return found if found is not None and found < count else None

    def given_id(self, name: str) -> int | None:
        key = f"{name}_token_id"
        if f"tokenizer.ggml.{key}" not in self.fields:
            return None
        value = self.get(key, (int, np.integer))
        if isinstance(value, bool) or value < 0:
            raise self.error(key, f"is {value}, but must be a token's number from 0 on")
        return int(value)

    def named(self, tokens: list[str], bos: int | None, eos: int | None) -> dict[str, str]:
        """The special tokens that the file names, by the names that a chat template knows."""
        ids = {name: self.fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in NAMES.items()}
        known = {name: i for name, i in ids.items() if isinstance(i, int | np.integer) and 0 <= i < len(tokens)}
        known |= {name: i for name, i in (("bos_token", bos), ("eos_token", eos)) if i is not None}
        return {name: tokens[i] for name, i in known.items()}

    def around(self, name: str, token: int | None, default: bool) -> int | None:
        """The id of a token if the model's texts begin or end with it; a default asks for no token that is missing."""
        if self.flag(f"add_{name}_token", default and token is not None):
            if token is None:
                raise self.error(f"{name}_token_id", "is missing, but a text needs this token")
            return token
        return None

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
        if len(tokens) > self.room:
            raise self.error("tokens", f"holds {len(tokens)} tokens, more than a model of {self.size} bytes has")
        if self.sentencepiece and sum(len(token) ** 2 for token in tokens) > MAX_WORK:
            raise self.error("tokens", f"holds pieces of {max(map(len, tokens))} letters, longer than any vocabulary's")
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

    def unions(self, names: Collection[str], tokens: list[str], types: np.ndarray) -> set[str]:
        """Those of the tokens `names` that training has made: the vocabulary can make them of two others."""
        if not self.sentencepiece:
            likely = (merge for merge in self.strings("merges") if merge.endswith((">", "]", "[")))
            return {union for merge in likely if (union := merge.replace(" ", "")) in names}
        normal = {tokens[i] for i in np.flatnonzero(types == NORMAL).tolist()}
        return {x for x in names if any(x[:cut] in normal and x[cut:] in normal for cut in range(1, len(x)))}

    def vocab(self, tokens: list[str], types: np.ndarray) -> dict[str, int]:
        """Text -> id of the tokens in use: an unused one is padding, which must never decode to text."""
        used = np.flatnonzero(types != UNUSED).tolist()
        vocab = {tokens[i]: i for i in used}
        if len(vocab) != len(used):
            first, second = next((i, vocab[tokens[i]]) for i in used if vocab[tokens[i]] != i)
            raise self.error("tokens", f"holds {show(tokens[first])} twice, as {first} and {second}")
        return vocab

    @property
    def room(self) -> int:
        """How many tokens and merges a model of this size may have."""
        return max(MAX_VALUES, self.size // BYTES_A_VALUE)

    def counted(self, merges: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """The merges. Raises ModelError when they and the tokens are more than a model of this size has."""
        room = self.room - len(self.tokens())
        found: list[tuple[str, str]] = []
        for left, right in merges:
            room -= 1 + (len(left) + len(right)) // 64
            if room < 0:
                raise self.error("tokens", f"make more merges than a model of {self.size} bytes has ({len(found)})")
            found.append((left, right))
        return found

    def merges(self) -> list[tuple[str, str]]:
        return self.counted(map(self.pair, self.strings("merges")))

    def pair(self, merge: str) -> tuple[str, str]:
        left, space, right = merge.partition(" ")
        if not space or " " in right:
            raise self.error("merges", f"holds {show(merge)}, which is not two tokens")
        return left, right
