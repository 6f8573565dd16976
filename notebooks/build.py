"""The notebooks out of their sources: `python notebooks/build.py` writes them, `--check` tells which ones differ.

A lesson is written in `src/NN_name.py`, Python with cells ("py:percent"), because text can be reviewed line by line.
Colab and GitHub open only .ipynb, so `NN_name.ipynb` is kept, too. It is a function of its source alone: no outputs, no
random ids, no version of any program. In front the build puts what a lesson should not repeat: the way into Colab, and
the cell that installs the package there. Both are made from `[project.urls]` of pyproject.toml.

Needs: pip install -e '.[notebooks]' (or '.[test]').
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import jupytext
import nbformat

FOLDER = Path(__file__).parent
PYPROJECT = FOLDER.parent / "pyproject.toml"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address})"
COLAB = "https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}.ipynb"
INSTALL = '''\
# Outside of Colab this cell does nothing. There it installs tinyinfer beside Colab's own NumPy and CuPy.
import sys

if "google.colab" in sys.modules:
    import subprocess
    from importlib.metadata import distributions
    from pathlib import Path

    kept = {{d.name: d.version for d in distributions() if (d.name or "").lower().startswith(("numpy", "cupy"))}}
    Path("kept.txt").write_text("\\n".join(f"{{name}}=={{version}}" for name, version in kept.items()))
    package = "tinyinfer[lessons] @ git+{address}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", "kept.txt", package]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit("pip could not install tinyinfer: " + done.stderr[-1000:])'''


def repository() -> str:
    """The address of the project's repository, which pyproject.toml alone names."""
    with PYPROJECT.open("rb") as file:
        return str(tomllib.load(file)["project"]["urls"]["Repository"]).rstrip("/")


def sources(folder: Path = FOLDER) -> dict[str, Path]:
    """The name of each lesson, such as 03_kv_cache, and its source."""
    return {path.stem: path for path in sorted((folder / "src").glob("*.py"))}


def built(name: str, source: str, address: str) -> str:
    """The notebook of a lesson as the text of its file. Raises ValueError for a cell of an unknown kind."""
    badge = BADGE.format(address=COLAB.format(repository=address.partition("://")[2].partition("/")[2], name=name))
    front = [("markdown", badge, ["colab"]), ("code", INSTALL.format(address=address), ["install"])]
    parsed = jupytext.reads(source, fmt="py:percent").cells
    written = [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in parsed]
    cells = [_cell(f"{name[:2]}-{i:03}", *parts) for i, parts in enumerate([*front, *written])]
    notebook = {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    nbformat.validate(notebook)
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _cell(ident: str, kind: str, text: str, tags: list[str]) -> dict[str, Any]:
    if kind not in ("markdown", "code"):
        raise ValueError(f"cell {ident} is {kind}: a lesson has only Markdown and code")
    metadata: dict[str, Any] = {"tags": tags} if tags else {}
    if "reveal" in tags:  # folded in Jupyter and in Colab: the truth must not be read before it was guessed
        metadata |= {"jupyter": {"source_hidden": True}, "cellView": "form"}
    cell = {"cell_type": kind, "id": ident, "metadata": metadata, "source": text.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def differences(folder: Path, address: str) -> list[str]:
    """One sentence for each notebook that is not what its source gives."""
    found, known = [], sources(folder)
    for name, source in known.items():
        notebook, wanted = folder / f"{name}.ipynb", built(name, source.read_text(encoding="utf-8"), address)
        if not notebook.is_file():
            found.append(f"{name}.ipynb: is not there, but src/{name}.py is")
        elif notebook.read_bytes() != wanted.encode():
            found.append(f"{name}.ipynb: {_difference(notebook.read_text(encoding='utf-8'), json.loads(wanted))}")
    for path in sorted(folder.glob("*.ipynb")):
        if path.stem not in known:
            found.append(f"{path.name}: has no source src/{path.stem}.py")
    return found


def _difference(text: str, wanted: dict[str, Any]) -> str:
    """What is different about a notebook, in words."""
    try:
        cells = {cell.get("id", "?"): cell for cell in json.loads(text)["cells"]}
    except (ValueError, TypeError, KeyError, AttributeError):
        return "is no notebook"
    if full := [ident for ident, cell in cells.items() if cell.get("outputs") or cell.get("execution_count")]:
        return f"holds the outputs of cell {full[0]}; clear all outputs"
    for cell in wanted["cells"]:
        if cell != cells.get(cell["id"]):
            return f"cell {cell['id']} is not what the source says"
    return "is not what the source says"


def main(argv: list[str] | None = None) -> int:
    """Writes all notebooks, or with --check only says which differ; the exit status is 1 when one does."""
    parser = argparse.ArgumentParser(description="Write notebooks/NN_name.ipynb from notebooks/src/NN_name.py.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a notebook differs")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="the folder of the notebooks (default: this one)")
    args = parser.parse_args(argv)
    if not args.check:
        for name, source in sources(args.folder).items():
            text = built(name, source.read_text(encoding="utf-8"), repository())
            (args.folder / f"{name}.ipynb").write_bytes(text.encode())
    faults = differences(args.folder, repository())
    for fault in faults:
        print(f"{fault} (edit src/, then run: python notebooks/build.py)" if args.check else fault, file=sys.stderr)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
