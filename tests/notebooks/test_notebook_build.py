"""The notebooks are a function of their sources: what lies in the folder is what a build would write, byte by byte."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from lesson_source import NOTEBOOKS, ROOT, builder
from test_readable import files

ADDRESS = "https://example.org/owner/project"
EXAMPLE = (Path(__file__).parent / "example.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def build() -> ModuleType:
    return builder()


@pytest.fixture
def folder(build: ModuleType, tmp_path: Path) -> Path:
    """A folder of notebooks with one lesson, built."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "03_kv_cache.py").write_text(EXAMPLE, encoding="utf-8")
    (tmp_path / "03_kv_cache.ipynb").write_text(build.built("03_kv_cache", EXAMPLE, ADDRESS), encoding="utf-8")
    assert not build.differences(tmp_path, ADDRESS)
    return tmp_path


def edit(notebook: Path, **cell: Any) -> None:
    """Changes the last code cell of a notebook, and nothing else of the file."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    [*_, last] = [one for one in content["cells"] if one["cell_type"] == "code"]
    last |= cell
    notebook.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


# What lies in the folder


def test_the_notebooks_are_what_their_sources_give(build: ModuleType) -> None:
    """Catches an edited .ipynb, outputs left in one, a source without its notebook and a notebook without its source.

    The cure: edit notebooks/src, then `python notebooks/build.py`.
    """
    assert not build.differences(NOTEBOOKS, build.repository())


def test_a_notebook_edited_by_hand_is_found(build: ModuleType, folder: Path) -> None:
    edit(folder / "03_kv_cache.ipynb", source=["print(1)\n"])
    assert build.differences(folder, ADDRESS) == ["03_kv_cache.ipynb: cell 03-023 is not what the source says"]


def test_outputs_left_in_a_notebook_are_found(build: ModuleType, folder: Path) -> None:
    edit(folder / "03_kv_cache.ipynb", outputs=[{"output_type": "stream", "name": "stdout", "text": ["1\n"]}])
    assert build.differences(folder, ADDRESS) == [
        "03_kv_cache.ipynb: holds the outputs of cell 03-023; clear all outputs"
    ]


def test_a_count_of_executions_left_in_a_notebook_is_found(build: ModuleType, folder: Path) -> None:
    edit(folder / "03_kv_cache.ipynb", execution_count=3)
    assert "holds the outputs" in build.differences(folder, ADDRESS)[0]


def test_metadata_that_an_editor_added_is_found(build: ModuleType, folder: Path) -> None:
    """Editors write their own version, and each student's machine has another one."""
    notebook = folder / "03_kv_cache.ipynb"
    content = json.loads(notebook.read_text(encoding="utf-8"))
    content["metadata"]["language_info"]["version"] = "3.11.7"
    notebook.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    assert build.differences(folder, ADDRESS) == ["03_kv_cache.ipynb: is not what the source says"]


@pytest.mark.parametrize("text", ["", "[]", '{"cells": 1}', "{}"])
def test_a_file_that_is_no_notebook_is_found(build: ModuleType, folder: Path, text: str) -> None:
    (folder / "03_kv_cache.ipynb").write_text(text)
    assert build.differences(folder, ADDRESS) == ["03_kv_cache.ipynb: is no notebook"]


def test_a_source_without_its_notebook_is_found(build: ModuleType, folder: Path) -> None:
    (folder / "03_kv_cache.ipynb").unlink()
    assert build.differences(folder, ADDRESS) == ["03_kv_cache.ipynb: is not there, but src/03_kv_cache.py is"]


def test_a_notebook_without_its_source_is_found(build: ModuleType, folder: Path) -> None:
    (folder / "src" / "03_kv_cache.py").unlink()
    assert build.differences(folder, ADDRESS) == ["03_kv_cache.ipynb: has no source src/03_kv_cache.py"]


def test_the_command_writes_and_then_finds_nothing_different(build: ModuleType, folder: Path, capsys) -> None:
    """`--check` writes nothing, and exits with 1 where a notebook differs."""
    words = ["--folder", str(folder)]
    before = (folder / "03_kv_cache.ipynb").read_bytes()
    assert build.main([*words, "--check"]) == 1  # the fixture's notebook has another address
    assert capsys.readouterr().err.startswith("03_kv_cache.ipynb: cell 03-000 is not what the source says (edit src/,")
    assert (folder / "03_kv_cache.ipynb").read_bytes() == before
    assert build.main(words) == 0
    assert build.main([*words, "--check"]) == 0
    assert capsys.readouterr() == ("", "")


# What a build writes


def test_the_answer_to_a_prediction_is_folded(build: ModuleType) -> None:
    """Catches a truth that is read one line below the guess, before it was guessed; all other code is in sight."""
    cells = json.loads(build.built("03_kv_cache", EXAMPLE, ADDRESS))["cells"]
    folded = [cell for cell in cells if cell["metadata"].get("jupyter", {}).get("source_hidden")]
    assert [cell["metadata"] for cell in folded] == [
        {"tags": ["reveal"], "jupyter": {"source_hidden": True}, "cellView": "form"}
    ]


def test_a_notebook_is_no_function_of_time_or_chance(build: ModuleType) -> None:
    """Catches random ids, and the names of programs and their versions."""
    text = build.built("03_kv_cache", EXAMPLE, ADDRESS)
    content = json.loads(text)
    assert text == build.built("03_kv_cache", EXAMPLE, ADDRESS)
    assert [cell["id"] for cell in content["cells"]] == [f"03-{i:03}" for i in range(len(content["cells"]))]
    assert not re.search(r"jupytext|version", text.replace("version in kept", "").replace("d.version", "").replace(
        "{version}", ""))  # fmt: skip
    assert {*content} == {"cells", "metadata", "nbformat", "nbformat_minor"}


def test_a_cell_that_is_neither_text_nor_code_is_refused(build: ModuleType) -> None:
    with pytest.raises(ValueError, match="03-002 is raw"):
        build.built("03_kv_cache", "# %% [raw]\n# x\n", ADDRESS)


def test_what_stands_in_front_comes_from_the_address(build: ModuleType) -> None:
    """A fork names its own address once, and its notebooks install the fork."""
    badge, install, first = json.loads(build.built("03_kv_cache", EXAMPLE, ADDRESS))["cells"][:3]
    assert "/github/owner/project/blob/main/notebooks/03_kv_cache.ipynb" in "".join(badge["source"])
    assert f'"tinyinfer[lessons] @ git+{ADDRESS}"' in "".join(install["source"])
    assert install["metadata"]["tags"] == ["install"]
    assert first["source"][0] == "# 03 · A small lesson\n"


@pytest.mark.parametrize("status", [0, 1])
def test_the_install_cell_in_colab(
    build: ModuleType, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a pip that would replace Colab's own NumPy, and a failure that only shows some cells later."""
    called: list[list[str]] = []
    cell = "".join(json.loads(build.built("03_kv_cache", EXAMPLE, ADDRESS))["cells"][1]["source"])
    monkeypatch.chdir(tmp_path)

    def run(argv: list[str], **options: object) -> SimpleNamespace:
        called.append(argv)
        return SimpleNamespace(returncode=status, stderr="no room")

    monkeypatch.setattr(subprocess, "run", run)
    exec(cell, {})
    assert not called
    assert not list(tmp_path.iterdir())

    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    if status:
        with pytest.raises(SystemExit, match="pip could not install tinyinfer: no room"):
            exec(cell, {})
    else:
        exec(cell, {})
    [argv] = called
    assert argv[argv.index("--constraint") + 1] == "kept.txt"
    numpy = [line for line in (tmp_path / "kept.txt").read_text().splitlines() if line.startswith("numpy")]
    assert numpy == [f"numpy=={__import__('numpy').__version__}"]


# The address


def test_pyproject_alone_names_the_address(build: ModuleType) -> None:
    """Catches a second place that a fork would have to find; the notebooks are built from the first."""
    bare = build.repository().partition("://")[2]
    texts = {path: path.read_bytes() for path in files() if path.suffix != ".ipynb"}
    assert [path.relative_to(ROOT).as_posix() for path, text in texts.items() if bare.encode() in text] == [
        "pyproject.toml"
    ]
    assert bare.count("/") == 2


def test_the_extras_hold_what_notebooks_and_their_tests_need() -> None:
    """Catches a lesson's import that only our own environments have."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    names = {extra: {re.split(r"[>=\[]", one)[0] for one in needs} for extra, needs in extras.items()}
    assert names["lessons"] == {"matplotlib", "scipy", "tinyinfer"}
    assert "tinyinfer[cpu]" in extras["lessons"]  # lesson 17 compiles
    assert names["notebooks"] >= {"jupyter", "nbclient", "nbconvert", "jupytext"}
    assert "tinyinfer[lessons]" in extras["notebooks"]
    assert "jupytext" in names["test"]
