"""`notebooks`: the lessons are listed without any extra; executed, each gives a whole page and figure, or nothing.

Tests that need a kernel are marked `notebooks`, as the run of the lessons themselves.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import posix

from tinyinfer.cli import console, main
from tinyinfer.cli import notebooks as command

kernel = pytest.mark.notebooks
ADDRESS = "https://example.org/owner/project"
FIRST = """\
# 03 · The KV cache

**The idea.** Keys & values stay: [paging](04_paging.ipynb), [`llm.py`](../tinyinfer/llm.py#L1).

*35 minutes · you write 3 lines · no GPU, no account*"""
FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2])"
Lessons = Callable[..., Path]


def notebook(title: str, *code: str, tags: tuple[str, ...] = ()) -> dict[str, Any]:
    """A notebook as build.py writes them: the way into Colab, a first screen, and code cells, the last one tagged."""
    texts = [("markdown", "[![Open in Colab](https://x.test/badge.svg)](https://x.test)", ["colab"]),
             ("code", "'the cell that installs'", ["install"]), ("markdown", title, [])]  # fmt: skip
    texts += [("code", text, list(tags) if text is code[-1] else []) for text in code]
    cells = [{"cell_type": kind, "id": f"03-{i:03}", "metadata": {"tags": tagged}, "source": text.splitlines(True)}
             for i, (kind, text, tagged) in enumerate(texts)]  # fmt: skip
    cells = [cell | {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else cell for cell in cells]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def lessons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lessons:
    """A function that makes a checkout with one lesson of these code cells, and a second one, 04, of `print(4)`."""
    folder = tmp_path / "checkout" / "notebooks"

    def make(*code: str, tags: tuple[str, ...] = ()) -> Path:
        folder.mkdir(parents=True)
        (folder.parent / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{ADDRESS}"\n')
        second = FIRST.replace("03 · The KV cache", "04 · Paging").replace("35", "30")
        (folder / "03_kv_cache.ipynb").write_text(json.dumps(notebook(FIRST, *code, tags=tags)))
        (folder / "04_paging.ipynb").write_text(json.dumps(notebook(second, "print(4)")))
        return tmp_path / "out"

    monkeypatch.setattr(command, "FOLDER", folder)
    return make


# Listing and mistakes: without the extra


def test_the_list_tells_minutes_and_how_to_open_the_lessons(lessons: Lessons, capsys) -> None:
    lessons("1")
    assert main(["notebooks"]) == 0
    out, err = capsys.readouterr()
    assert re.match(r"03_kv_cache +35 minutes  03 · The KV cache\n04_paging +30 minutes  04 · Paging\n", out)
    assert "jupyter lab" in out
    assert "pip install 'tinyinfer[notebooks]'" in out
    assert err == ""


@pytest.mark.parametrize("name", ["04_paging", "04", "4", "paging", "notebooks/04_paging.ipynb"])
def test_a_lesson_is_named_as_people_name_it(lessons: Lessons, name: str, capsys) -> None:
    lessons("1")
    assert main(["notebooks", name]) == 0
    assert "04 · Paging" in (out := capsys.readouterr().out)
    assert "03_kv_cache" not in out


def test_a_lesson_named_twice_is_made_once(lessons: Lessons, capsys) -> None:
    lessons("1")
    assert main(["notebooks", "04", "paging", "03"]) == 0
    assert [line[:2] for line in capsys.readouterr().out.splitlines()[:3]] == ["04", "03", ""]


@pytest.mark.parametrize(("name", "hint"), [("04_pagin", " (did you mean '04_paging'?)"), ("99", "")])
def test_an_unknown_lesson_lists_the_known_ones(lessons: Lessons, name: str, hint: str, capsys) -> None:
    lessons("1")
    assert main(["notebooks", name, "--html", "nowhere"]) == 2
    expected = f"tinyinfer: error: there is no lesson {name!r}{hint}; the lessons are 03_kv_cache, 04_paging\n"
    assert capsys.readouterr() == ("", expected)


def test_without_a_checkout_the_cure_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    """The package was installed without its repository."""
    monkeypatch.setattr(command, "FOLDER", tmp_path / "notebooks")
    assert main(["notebooks"]) == 2
    assert "they come with the repository and not with the installed package; clone it" in capsys.readouterr().err


def test_a_damaged_notebook_is_named(lessons: Lessons, tmp_path: Path, capsys) -> None:
    lessons("1")
    (command.FOLDER / "04_paging.ipynb").write_text('{"cells": 3}')
    assert main(["notebooks"]) == 2
    assert "04_paging.ipynb: is no notebook; write it again: python notebooks/build.py" in capsys.readouterr().err


def test_without_the_extra_the_cure_is_told(lessons: Lessons, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Before any work: no folder is made."""
    out = lessons("1")
    monkeypatch.setitem(sys.modules, "nbformat", None)
    monkeypatch.delitem(sys.modules, "tinyinfer.cli.notebook_pages", raising=False)
    assert main(["notebooks", "--html", str(out)]) == 2
    told = "executing a notebook needs nbformat; install the extra by: pip install 'tinyinfer[notebooks]'"
    assert capsys.readouterr().err == f"tinyinfer: error: {told}\n"
    assert not out.exists()


# Pages and figures


@kernel
def test_the_page_of_a_lesson(lessons: Lessons, capsys) -> None:
    """Its text and outputs, and no more: nothing of Colab, nothing loaded from elsewhere, no link to nowhere."""
    out = lessons("x = 40\nprint(x + 2)")
    assert main(["notebooks", "03_kv_cache", "--html", str(out)]) == 0
    page = (out / "03_kv_cache.html").read_text(encoding="utf-8")
    assert "<title>03 · The KV cache</title>" in page
    assert re.search(r"<pre>\s*42\s*</pre>", page)
    assert "Colab" not in page
    assert "the cell that installs" not in page
    assert re.findall(r'href="(?!#)([^"]+)"', page) == [
        "index.html", "04_paging.html", f"{ADDRESS}/blob/main/tinyinfer/llm.py#L1"
    ]  # fmt: skip
    assert not re.findall(r"""src=|@import|url\(""", page)
    assert "prefers-color-scheme: dark" in page
    assert sorted(path.name for path in out.iterdir()) == ["03_kv_cache.html", "index.html"]
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(rf"03_kv_cache: [\d.]+ s, wrote {re.escape(str(out))}/03_kv_cache\.html\n", told.err)


@kernel
def test_the_index_lists_what_is_there(lessons: Lessons) -> None:
    """Also the pages of earlier commands, and no page that was never made."""
    out = lessons("1")
    assert main(["notebooks", "04", "--html", str(out), "-q"]) == 0
    assert 'href="04_paging.html">Paging</a>' in (out / "index.html").read_text(encoding="utf-8")
    assert "03_kv_cache" not in (out / "index.html").read_text(encoding="utf-8")
    assert main(["notebooks", "03", "--html", str(out), "-q"]) == 0
    assert re.findall(r'href="(.+?)"', (out / "index.html").read_text(encoding="utf-8")) == [
        "03_kv_cache.html", "04_paging.html"
    ]  # fmt: skip


@kernel
def test_the_key_figure_is_kept(lessons: Lessons) -> None:
    from PIL import Image

    out = lessons("1", FIGURE, tags=("figure",))
    assert main(["notebooks", "03", "--figures", str(out), "-q"]) == 0
    assert [path.name for path in out.iterdir()] == ["03_kv_cache.png"]
    with Image.open(out / "03_kv_cache.png") as image:
        assert (image.format, image.mode) == ("PNG", "P")
        assert image.size[0] > 400


@kernel
@pytest.mark.parametrize(("code", "told"), [
    ("1 / 0", "03_kv_cache: cell 4 of 4 (1 / 0) failed with ZeroDivisionError: division by zero"),
    ("raise ValueError('two\\nlines')", "03_kv_cache: cell 4 of 4 (raise ValueError('two\\nlines')) failed with "
     "ValueError: two lines"),
    ("import os\nos._exit(1)", "03_kv_cache: cell 4 of 4 (import os): Kernel died; is the memory enough?"),
    ("print(1)", "03_kv_cache: no cell tagged figure draws one"),
])  # fmt: skip
def test_a_lesson_that_fails_writes_nothing(lessons: Lessons, code: str, told: str, capsys) -> None:
    """One sentence: which lesson, which cell, the last line of its error."""
    out = lessons(code, tags=("figure",))
    assert main(["notebooks", "--html", str(out), "--figures", str(out)]) == 2
    assert capsys.readouterr().err == f"tinyinfer: error: {told}\n"
    assert not list(out.iterdir())


@kernel
def test_a_folder_that_takes_no_files_is_told_before_any_work(lessons: Lessons, tmp_path: Path, capsys) -> None:
    lessons("raise SystemExit")
    (tmp_path / "file").write_text("")
    assert main(["notebooks", "--html", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == f"tinyinfer: error: {tmp_path}/file: File exists\n"
    assert main(["notebooks", "--figures", str(tmp_path / "file" / "below")]) == 2
    assert capsys.readouterr().err == f"tinyinfer: error: {tmp_path}/file/below: Not a directory\n"


@kernel
def test_a_terminal_sees_which_cell_runs(lessons: Lessons, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    out = lessons("1", "2")
    monkeypatch.setattr(console, "is_terminal", lambda stream: True)
    assert main(["notebooks", "03", "--html", str(out)]) == 0
    err = capsys.readouterr().err
    for done in range(6):
        assert re.search(rf"03_kv_cache \[[#-]+\] {done}/5", err)


@kernel
@posix
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_page_and_no_kernel(lessons: Lessons, number: int, status: int, tmp_path: Path) -> None:
    """In the middle of a cell of the second lesson: the first one's page is whole."""
    begun = tmp_path / "begun"
    out = lessons("1")
    endless = f"import os, pathlib, time\npathlib.Path({str(begun)!r}).write_text(str(os.getpid()))\ntime.sleep(60)"
    (command.FOLDER / "04_paging.ipynb").write_text(json.dumps(notebook(FIRST, endless)))
    code = "import sys; from pathlib import Path; from tinyinfer.cli import main, notebooks\n"
    code += f"notebooks.FOLDER = Path({str(command.FOLDER)!r}); sys.exit(main(['notebooks', '--html', {str(out)!r}]))"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip
    until(lambda: begun.exists() and begun.read_text() != "")
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert err.splitlines()[1:] == ["tinyinfer: interrupted"] * (number == signal.SIGINT)
    assert sorted(path.name for path in out.iterdir()) == ["03_kv_cache.html", "index.html"]
    until(lambda: not alive(int(begun.read_text())))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(happened: Callable[[], bool]) -> None:
    """Waits for something that takes a second, at most a minute."""
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)
