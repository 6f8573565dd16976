"""A lesson executed by a kernel of this Python, and rendered: an HTML page of its own, and its key figure.

A page loads nothing from elsewhere and follows the reader's light or dark theme. What only a notebook needs, the way
into Colab, is left out, and a link to a file of the repository leads there.

The imports are the `notebooks` extra: the command imports this file only when a lesson is to be executed.
"""

from __future__ import annotations

import io
import os
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import nbformat
from ipykernel.kernelspec import make_ipkernel_cmd
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from PIL import Image
from pygments.formatters import HtmlFormatter

NOT_FOR_PAGES = {"colab", "install"}  # tags
COLORS = 64  # of a figure that is kept
STYLE = """
:root { color-scheme: light dark; --text: #1d1f23; --back: #fff; --soft: #f4f5f7; --line: #d5d8dd; --link: #0b57d0 }
@media (prefers-color-scheme: dark) {
  :root { --text: #dfe2e7; --back: #16181c; --soft: #202329; --line: #3a3f47; --link: #8ab4f8 }
}
body { margin: 0 auto; max-width: 1000px; padding: 12px 20px 60px; background: var(--back); color: var(--text);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: anywhere }
a { color: var(--link) }
a.anchor-link { display: none }
code, pre { font: 13.5px/1.45 ui-monospace, monospace }
p code, li code, td code { background: var(--soft); padding: 1px 4px; border-radius: 4px }
pre { margin: 0; overflow-x: auto; white-space: pre-wrap }
.highlight, .text_cell_render pre { background: var(--soft); border: 1px solid var(--line); border-radius: 6px;
  padding: 8px 12px; margin: 8px 0 }
.output_subarea { margin: 8px 0; overflow-x: auto }
table { border-collapse: collapse; display: block; overflow-x: auto; max-width: 100% }
td, th { border-bottom: 1px solid var(--line); padding: 3px 10px }
img, svg { max-width: 100%; height: auto }
.output_png img { background: #fff; border-radius: 6px }
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body>
{body}
</body></html>
"""


class CellError(Exception):
    """A cell of a lesson failed; the message says which, and the last line of its error."""


class OwnKernel(AsyncKernelManager):
    """Starts kernels of the running Python, whatever kernels the user has registered under its name."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The command of a kernel."""
        return KernelSpec(argv=make_ipkernel_cmd(), display_name="Python 3", language="python")


@contextmanager
def running(notebook: Any, folder: Path, **environ: str) -> Iterator[NotebookClient]:
    """What executes cells of the notebook: a new kernel in `folder`, with these environment variables besides ours.

    A cell may take as long as it needs. What the kernel writes about itself is not shown. Raises RuntimeError where no
    kernel starts.
    """
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=None, kernel_manager_class=OwnKernel, resources=resources, coalesce_streams=True
    )
    with client.setup_kernel(env={**os.environ, **environ}, stdout=DEVNULL, stderr=DEVNULL):
        try:
            yield client
        except BaseException:  # the cell that is waited for ends later, and asyncio would write a traceback about it
            ensure_event_loop().set_exception_handler(lambda loop, context: None)
            raise


def execute(path: Path, show: Callable[[int, int], None]) -> Any:
    """The notebook at `path` with its outputs. show(done, total) is called before each cell. Raises CellError."""
    notebook, place = nbformat.read(path, as_version=4), "the beginning"
    total = len(notebook.cells)
    try:
        with running(notebook, path.parent) as client:
            for i, cell in enumerate(notebook.cells):
                show(i, total)
                place = f"cell {i + 1} of {total} ({_first_line(cell.source)})"
                client.execute_cell(cell, i)
    except CellExecutionError as error:
        what = f"{error.ename}: {error.evalue}".removesuffix(": ")
        raise CellError(f"{place} failed with {what}") from None
    except RuntimeError as error:  # a kernel that died, or did not start
        raise CellError(f"{place}: {error}; is the memory enough?") from None
    show(total, total)
    return notebook


def lesson_page(notebook: Any, title: str, repository: str) -> str:
    """The page of an executed notebook. repository: the address that links to the project's files lead to."""
    cells = [cell for cell in notebook.cells if not NOT_FOR_PAGES & {*cell.metadata.get("tags", [])}]
    texts = [relinked(cell.source, repository) if cell.cell_type == "markdown" else cell.source for cell in cells]
    linked = [{**cell, "source": text} for cell, text in zip(cells, texts, strict=True)]
    shown = nbformat.from_dict({**notebook, "cells": linked})
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(shown)
    return _page(title, f'<p><a href="index.html">All lessons</a></p>\n{body}')


def relinked(markdown: str, repository: str) -> str:
    """Links between notebooks become links between pages, and those to other files lead to the repository."""
    pages = re.sub(r"\]\((\d\d_\w+)\.ipynb(#[^)\s]*)?\)", r"](\1.html\2)", markdown)
    return re.sub(r"\]\(\.\./([^)\s]+)\)", rf"]({repository}/blob/main/\1)", pages)


def index_page(lessons: list[tuple[str, str, int]]) -> str:
    """The list of the pages. lessons: name, title and minutes of each."""
    rows = (
        f'<tr><td>{name[:2]}</td><td><a href="{name}.html">{escape(title)}</a></td><td>{minutes} minutes</td></tr>'
        for name, title, minutes in lessons
    )
    return _page("Lessons", f"<h1>Lessons</h1>\n<table>{''.join(rows)}</table>")


def key_figure(notebook: Any) -> bytes:
    """The figure of the cell tagged `figure`, as a small PNG. Raises CellError for a lesson that draws none."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []) if "figure" in cell.metadata.get("tags", []) else []:
            if image := output.get("data", {}).get("image/png"):
                small = io.BytesIO()
                picture = Image.open(io.BytesIO(b64decode(image))).convert("RGB")
                picture.quantize(COLORS).save(small, "PNG", optimize=True)
                return small.getvalue()
    raise CellError("no cell tagged figure draws one")


def _page(title: str, body: str) -> str:
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    colors = f"{HtmlFormatter().get_style_defs('.highlight')}\n@media (prefers-color-scheme: dark) {{ {dark} }}"
    return PAGE.format(title=escape(title), style=f"{colors}\n{STYLE}", body=body)


def _first_line(source: str) -> str:
    return source.strip().partition("\n")[0]
