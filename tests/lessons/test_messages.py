"""Messages: the same words in a notebook and in a terminal, and nothing of an answer becomes markup."""

from __future__ import annotations

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
