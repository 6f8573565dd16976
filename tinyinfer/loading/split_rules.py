"""How a byte-level vocabulary splits text into words, by the name that a GGUF has for it (`tokenizer.ggml.pre`).

No merge crosses the border of a word, so another rule gives other ids, a slightly worse model and no error. A tokenizer
that is trained anew often brings a rule of its own; a tokenizer.json holds the rule itself, a GGUF only its name. The
table has the names that llama.cpp's conversion gives to tokenizers of the architectures that are loaded here.

A rule is one or more regexes, each applied to the pieces that the one before has left: a match is a piece, and so is
the text between two matches. llama.cpp's C++ library has no classes for capital letters and marks, so llama.cpp
approximates "tekken" and "gpt-4o"; here both are as published. (Names, settings, regexes: llama-vocab.cpp of llama.cpp,
which quotes those of the models' own tokenizer.json. The first such rule: Radford et al. 2019, GPT-2.)
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

MISSING = "default"  # the name in files that know no rule


@dataclass(frozen=True)
class SplitRule:
    """The regexes of a rule, and three settings that go with its name.

    nfc: Unicode is composed first. whole_words: a word that is a token needs no merges. add_bos: texts begin with BOS
    unless the file says no.
    """

    patterns: tuple[str, ...] = ()
    nfc: bool = False
    whole_words: bool = False
    add_bos: bool = False


CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
BLANKS = r"\s+(?!\S)|\s+"  # spaces, but the last one belongs to the word that follows
GPT2 = rf"{CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{BLANKS}"
DIGIT, THREE = r"\p{N}", r"\p{N}{1,3}"


def _llama3(number: str, signs: str = r" ?[^\s\p{L}\p{N}]+[\r\n]*") -> str:
    """Llama 3's regex: letters with the space or sign before them, signs with the line ends after them."""
    return rf"(?i:{CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{number}|{signs}|\s*[\r\n]+|{BLANKS}"


def _by_case(number: str, endings: str = "") -> str:
    """GPT-4o's regex: a word also ends where a capital follows a small letter; a mark is a letter of both kinds."""
    capital, small, before = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[^\r\n\p{L}\p{N}]?"
    words = f"{before}{capital}*{small}+{endings}|{before}{capital}+{small}*{endings}"
    return rf"{words}|{number}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|{BLANKS}"


# DeepSeek's classes: letters with two cases as their authors listed them, signs, and an Asian range from U+0800 on.
CASED = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫ"
    "ᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭ"
    "ℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟"
    "𞤀-𞥃"
)
SIGNS = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
ASIAN = "[\u0800-\u9fa5\uac00-\ud7ff]+"
DEEPSEEK_3 = "|".join(
    [
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        r" ?[\p{P}\p{S}]+[\r\n]*",
        r"\s*[\r\n]+",
        BLANKS,
    ]
)

RULES = (
    (MISSING, SplitRule((r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))),
    (
        "gpt-2 phi-2 gigachat a.x-4.0 mellum mpt jais trillion exaone4 granite-docling modern-bert "
        "jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe",
        SplitRule((GPT2,)),
    ),
    ("olmo", SplitRule((GPT2,), nfc=True)),  # with GPT-NeoX, of whose vocabulary OLMo's and OLMoE's are extensions
    ("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", SplitRule((DIGIT, GPT2))),
    (
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        SplitRule((_llama3(THREE),), whole_words=True, add_bos=True),
    ),
    ("smaug-bpe dbrx chatglm-bpe", SplitRule((_llama3(THREE),))),
    ("minicpm5", SplitRule((THREE, _llama3(r"\p{N}+")), whole_words=True)),
    ("qwen2 deepseek-r1-qwen f2llmv2", SplitRule((_llama3(DIGIT),), nfc=True)),
    ("megrez kormo stablelm2 hunyuan solar-open grok-2", SplitRule((_llama3(DIGIT),))),
    ("seed-coder", SplitRule((_llama3(DIGIT, signs=r" ?[^\s\p{L}\p{N}\r\n]+"),))),
    ("tekken", SplitRule((_by_case(DIGIT),), whole_words=True, add_bos=True)),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", SplitRule((_by_case(THREE, f"(?i:{CONTRACTIONS})?"),))),
    ("deepseek-coder", SplitRule((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", ASIAN, DIGIT))),
    ("deepseek-llm", SplitRule((r"[\r\n]", rf"\s?[{CASED}]+", rf"\s?[{SIGNS}]+", r"\s+$", ASIAN, r"\p{N}+"))),
    (
        "deepseek-v3 hunyuan-dense joyai-llm",
        SplitRule((THREE, "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", DEEPSEEK_3)),
    ),
    ("viking", SplitRule((r" ?[^(\s|.,!?…。，、।۔،)]+", DIGIT))),
)
SPLIT_RULES = {name: rule for names, rule in RULES for name in names.split()}
FAMILY_RULES = {  # of architectures whose models all have one
    "qwen2": "qwen2", "qwen2moe": "qwen2", "qwen3": "qwen2", "qwen3moe": "qwen2", "gpt2": "gpt-2", "gptneox": "olmo",
    "olmoe": "olmo", "gpt-oss": "gpt-4o",
}  # fmt: skip


def split_words(backend: Backend, rule: SplitRule) -> None:
    """Gives a byte-level tokenizer of the library this rule, and the way back from its letters to bytes."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    built_in = rule.patterns == (GPT2,)  # ByteLevel itself splits so, and can put a space before the whole text
    patterns = () if built_in else rule.patterns
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=built_in)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Sequence([*steps, letters]), decoders.ByteLevel()
    backend.normalizer = normalizers.NFC() if rule.nfc else None


def family_rule(architecture: object, tokens: Container[str]) -> str | None:
    """The name of the rule that all models of a family share, for files from before rules had names; None: several.

    tokens: of the vocabulary. Of the models whose architecture is called llama, this token tells Llama 3.
    """
    if architecture == "llama":
        return "llama-bpe" if "<|begin_of_text|>" in tokens else None
    return FAMILY_RULES.get(architecture) if isinstance(architecture, str) else None
