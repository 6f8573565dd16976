"""Messages: the same words in a notebook and in a terminal, and nothing of an answer becomes markup."""

from __future__ import annotations

import os
from io import BytesIO, TextIOWrapper

from tinyinfer.lessons.messages import Message, Prose, show


def test_a_card_says_the_same_as_the_lines():
    """Catches a hint that only one of the two shows."""
    message = Message("wrong", "Not yet.", "count again", ("show our solution", "95"))
    assert repr(message) == "Not yet.\nHint: count again\n[show our solution]\n95"
    html = message._repr_html_()
    assert all(part in html for part in ("Not yet.", "count again", "<summary>show our solution</summary>", "95"))


def test_an_answer_is_text_and_no_markup():
    """Catches an answer such as "<b>" that changes the page."""
    html = Message("wrong", "'<img onerror=x>' is not a number", "<b>", ("<i>", "</pre>"))._repr_html_()
    assert "<img" not in html
    assert "&lt;img" in html
    assert "&lt;/pre&gt;" in html


def test_code_in_a_sentence_is_code():
    """Catches backticks that a card shows as they are."""
    assert "Replace <code>...</code> by &lt;b&gt;" in Message("open", "Replace `...` by <b>")._repr_html_()


def test_without_a_notebook_messages_are_printed(capsys):
    """Lessons are usable from a plain Python, too."""
    show(Prose("Two **rows**."))
    show(Message("note", "Noted."))
    assert capsys.readouterr().out == "Two **rows**.\nNoted.\n"


def test_what_a_terminal_obeys_is_shown_as_letters():
    """Catches an answer's text that clears the screen, or that no encoding has, and one of 10 MB."""
    message = Message("wrong", "\x1b[2J \ud800 \0" + "z" * 10_000_000, "z" * 10_000_000, ("more", "  a\x07\n"))
    for text in (repr(message), message._repr_html_()):
        text.encode()
        assert r"\x1b[2J \ud800 \x00zz" in text
        assert r"  a\x07" in text
        assert "\x1b" not in text
        assert len(text) < 5000


def test_a_console_without_a_letter_shows_its_number(monkeypatch):
    """Catches a UnicodeEncodeError on a console that is not UTF-8."""
    console = TextIOWrapper(BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr("sys.stdout", console)
    show(Message("right", "2·L"))
    assert console.buffer.getvalue().decode() == f"2\\xb7L{os.linesep}"
