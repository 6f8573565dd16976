"""text/stop_strings.py: stop strings are found across tokens and never shown, not even their starts."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tinyinfer.text.stop_strings import TextOutput


class Letters:
    """Tokens are indices into a list of pieces."""

    def __init__(self, pieces: list[str], rest: str = "") -> None:
        self.pieces, self.rest = pieces, rest

    def push(self, token: int) -> str:
        return self.pieces[token]

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


@given(st.lists(st.text("ab#", max_size=4), max_size=12), st.lists(st.text("ab#", min_size=1, max_size=4), max_size=3))
def test_text_is_everything_before_the_first_stop_string_and_only_grows(pieces: list[str], stops: list[str]) -> None:
    """The specification, whatever the pieces. Catches text shown that a later token turns into a stop string."""
    text, stopped, shown = run(pieces, tuple(stops))
    whole = "".join(pieces if stopped is None else pieces[: stopped + 1])
    cuts = [whole.find(stop) for stop in stops if stop in whole]
    assert text == (whole[: min(cuts)] if cuts else whole)
    assert (stopped is not None) == bool(cuts)
    for earlier, later in pairwise(shown):
        assert later.startswith(earlier)
    assert all(text.startswith(part) for part in shown)
