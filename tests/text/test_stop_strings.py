"""text/stop_strings.py: stop strings are found across tokens and never shown, not even their starts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from golden import write_hf_folder
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from tinyinfer import LLM, SamplingParams
from tinyinfer.text.stop_strings import TextOutput
from tinyinfer.text.tokenizer import Tokenizer, Vocabulary


class Letters:
    """Tokens are indices into a list of pieces; those in `names` are special tokens."""

    names = ("<x>", "<end>")

    def __init__(self, pieces: list[str], rest: str = "") -> None:
        self.pieces, self.rest = pieces, rest

    def push(self, token: int) -> str:
        return "" if self.pieces[token] in self.names else self.pieces[token]

    def name(self, token: int) -> str:
        return self.pieces[token] if self.pieces[token] in self.names else ""

    def finish(self) -> str:
        return self.rest


def run(pieces: list[str], stops: tuple[str, ...], rest: str = "") -> tuple[str, int | None, list[str]]:
    """The final text, the index of the piece that stopped it, and what was shown after each piece."""
    out = TextOutput(Letters(pieces, rest), stops)
    shown = []
    for i in range(len(pieces)):
        stopped = out.push(i)
        if stopped:
            out.finish()
        shown.append(out.text)
        if stopped:
            return out.text, i, shown
    out.finish()
    return out.text, None, [*shown, out.text]


def test_a_stop_string_that_spans_tokens_ends_the_text_before_it() -> None:
    assert run(["one E", "N", "D two"], ("END",))[:2] == ("one ", 2)


def test_what_may_begin_a_stop_string_is_held_back_and_released() -> None:
    text, stopped, shown = run(["a#", "#", "b"], ("###",))
    assert (text, stopped) == ("a##b", None)
    assert shown[:3] == ["a", "a", "a##b"]


def test_a_beginning_left_at_the_end_is_shown() -> None:
    assert run(["done.", "\nUs"], ("\nUser:",))[0] == "done.\nUs"


def test_the_earliest_of_several_stop_strings_counts() -> None:
    assert run(["x BB AA"], ("AA", "BB"))[0] == "x "


def test_a_stop_string_completed_by_the_last_bytes_is_not_shown() -> None:
    assert run(["a"], ("é",), rest="é!")[0] == "a"


def test_a_stop_string_may_be_the_name_of_a_special_token() -> None:
    """Catches an answer that runs past `<|im_end|>` because special tokens are no text (transformers stops there)."""
    assert run(["one", " two", "<end>", "three"], ("<end>",))[:2] == ("one two", 2)
    assert run(["one", "<end>", "two"], ("end",))[:2] == ("one", 1)


def test_a_stop_string_may_span_a_special_token() -> None:
    """Catches text before the token that is shown too early, and a name that is shown at all."""
    text, stopped, shown = run(["a", ".", "<end>", "b"], (".<end>b",))
    assert (text, stopped) == ("a", 3)
    assert shown == ["a", "a", "a", "a"]
    assert run(["a", ".", "<end>", "c"], (".<end>b",))[:2] == ("a.c", None)


def test_a_stop_string_is_found_across_a_special_token() -> None:
    """Catches a stop string that is shown because a token without text stands inside it."""
    assert run(["a E", "<x>", "ND b"], ("END",))[:2] == ("a ", 2)


def test_names_of_special_tokens_are_never_shown() -> None:
    assert run(["a", "<x>", "b", "<end>"], ("<x>c",)) == ("ab", None, ["a", "a", "ab", "ab", "ab"])
    assert run(["a", "<x>", "b"], ())[0] == "ab"


PIECES = st.text("ab#<x", max_size=4) | st.sampled_from(Letters.names)
STOPS = st.text("ab#<x>", min_size=1, max_size=4)


@given(st.lists(PIECES, max_size=12), st.lists(STOPS, max_size=3))
def test_text_is_everything_before_the_first_stop_string_and_only_grows(pieces: list[str], stops: list[str]) -> None:
    """The specification, whatever the pieces. Catches text shown that a later token turns into a stop string.

    A stop string is looked for in the text, and in the text with the names of special tokens.
    """
    text, stopped, shown = run(pieces, tuple(stops))
    said = pieces if stopped is None else pieces[: stopped + 1]
    letters = [(letter, piece not in Letters.names) for piece in said for letter in piece]
    visible = [i for i, (_, is_text) in enumerate(letters) if is_text]
    cuts = []
    for places in (range(len(letters)), visible):
        whole = "".join(letters[i][0] for i in places)
        cuts += [places[whole.find(stop)] for stop in stops if stop in whole]
    end = min(cuts, default=len(letters))
    assert text == "".join(letters[i][0] for i in visible if i < end)
    assert (stopped is not None) == bool(cuts)
    for earlier, later in pairwise(shown):
        assert later.startswith(earlier)
    assert all(text.startswith(part) for part in shown)


# min_tokens


def early(pieces: list[str], stops: tuple[str, ...], least: int) -> tuple[str, int | None]:
    """The final text, and the index of the piece that stopped it."""
    out = TextOutput(Letters(pieces), stops, least=least)
    stopped = next((i for i in range(len(pieces)) if out.push(i)), None)
    out.finish()
    return out.text, stopped


def test_a_stop_string_that_is_complete_too_early_is_text() -> None:
    """Right: vLLM, in which a stop string must end behind the first min_tokens tokens."""
    pieces = ["a", "#b", "c#", "b", "d"]
    assert early(pieces, ("#b",), 0) == ("a", 1)
    assert early(pieces, ("#b",), 1) == ("a", 1)
    assert early(pieces, ("#b",), 2) == ("a#bc", 3)
    assert early(pieces, ("#b",), 3) == ("a#bc", 3)  # begun early, complete behind
    assert early(pieces, ("#b",), 4) == ("a#bc#bd", None)


def test_an_early_stop_string_that_is_held_back_stops_nothing_later() -> None:
    """It may begin a longer one. Catches the old one found again when that does not come, and what ends at the end."""
    assert early(["aa", "c", "d"], ("aa", "aaab"), 1) == ("aacd", None)
    assert early(["aa", "a", "d"], ("aa", "aaab"), 1) == ("a", 1)
    assert early(["x#", "b"], ("#b",), 2) == ("x#b", None)
    assert early(["<end>", "a", "<end>"], ("<end>",), 1) == ("a", 2)


@given(st.lists(PIECES, max_size=12), st.lists(st.text("ab#", min_size=1, max_size=3), min_size=1), st.integers(0, 13))
def test_min_tokens_moves_the_first_stop_and_loses_no_text(pieces: list[str], stops: list[str], least: int) -> None:
    pieces = [piece for piece in pieces if piece not in Letters.names]
    text, stopped = early(pieces, tuple(stops), least)
    whole = "".join(pieces)
    before = len("".join(pieces[:least]))
    starts = [(begin + len(stop), begin) for stop in stops for begin in range(len(whole))
              if whole.startswith(stop, begin) and begin + len(stop) > before]  # fmt: skip
    if not starts:
        assert (text, stopped) == (whole, None)
        return
    ends = [len("".join(pieces[: n + 1])) for n in range(len(pieces))]
    place = next(n for n, end in enumerate(ends) if any(stop <= end for stop, _ in starts))
    assert stopped == place
    assert text == whole[: min(begin for stop, begin in starts if stop <= ends[place])]


# With a tokenizer and a model


def pieces_tokenizer() -> Backend:
    """A SentencePiece vocabulary of 277 tokens, a golden model's size: words with a space, but for the first two."""
    tokens = ["<s>", "<0x0A>", *[f"▁w{i}" for i in range(2, 277)]]
    backend = Backend(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    backend.add_special_tokens(["<s>"])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return backend


def test_a_byte_token_completes_a_stop_string_at_once() -> None:
    """Catches a stop at "\\n" that is seen tokens later, with finish_reason "length": DecodeStream says it at once."""
    output = TextOutput(Tokenizer(Vocabulary(pieces_tokenizer()), "x").stream(), ("\n",))
    assert [output.push(i) for i in (9, 1)] == [False, True]
    output.finish()
    assert output.text == "w9"


def test_a_generation_stops_at_the_name_of_a_special_token(tmp_path: Path) -> None:
    """transformers' generate(stop_strings=...) ends this golden model's text after 29 tokens, too."""
    llm = LLM(str(write_hf_folder("llama", tmp_path)))
    params = SamplingParams(max_tokens=60, ignore_eos=True, stop=["<|im_start|>"])
    [stopped] = llm.generate([[5, 6, 7, 9]], params)
    [free] = llm.generate([[5, 6, 7, 9]], SamplingParams(max_tokens=28, ignore_eos=True))
    assert (stopped.finish_reason, len(stopped.token_ids), stopped.token_ids[-1]) == ("stop", 29, 1)
    assert free.text.startswith(stopped.text)


def test_prompt_and_text_of_a_sentencepiece_model_join(tmp_path: Path) -> None:
    """Catches "helloworld": text and stream leave out the space that stands between the prompt and the answer."""
    folder = write_hf_folder("llama", tmp_path)
    pieces_tokenizer().save(str(folder / "tokenizer.json"))
    llm = LLM(str(folder))
    tokenizer, params = llm.tokenizer, SamplingParams(max_tokens=6, ignore_eos=True)
    [out] = llm.generate([[5, 6]], params)
    assert out.text.startswith(" w")
    assert tokenizer.decode([5, 6]) + out.text == tokenizer.decode([5, 6, *out.token_ids])
    assert "".join(llm.stream([5, 6], params)) == out.text
