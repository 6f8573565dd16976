"""A repository of the Hugging Face Hub -> the files of one model in the hub's cache.

    owner/name                config.json and safetensors; where it has none, its GGUF file of DEFAULTS
    owner/name:Q8_0           the GGUF file with this quantization in its name, in capitals or not
    owner/name/file.gguf      this file, which may lie in a folder of the repository

A repository of GGUF files often holds twenty quantizations of one model, 100 GB and more. So the files are listed
first, and those of one model are fetched, all parts of a split one. Which file a quantization means, and which one is
meant where none is given, is llama.cpp's rule (find_best_model behind its flag -hf), with two differences. F16 is not
BF16. And where several files would do, nothing is chosen: the sentence lists them.

Wins: one name says what to fetch and what to load. Loses: a listing costs a request at every start; without a network,
what is in the cache is the listing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

from tinyinfer.errors import ModelError
from tinyinfer.loading.strangers import told
from tinyinfer.units import show

FOLDER_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "merges.txt"]
NOT_FOLDER_FILES = ["*/*", "consolidated*"]  # folders of other formats, and the same weights a second time
DEFAULTS = ("Q4_K_M", "Q8_0")
_NAME = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)"
    r"(?::(?P<quantization>[\w.-]+)|/(?P<file>(?:[^/\\:]+/)*[^/\\:]+\.(?i:gguf)))?"
)
_PART = re.compile(r"(?P<model>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_IN_CACHE = re.compile(r".*/models--[^/]+/snapshots/[^/]+/")  # before the name of a file in its repository
_NO_MODEL = re.compile(r"(^|.*/)[^/]*(mmproj|imatrix|mtp-|eagle3-|dflash-|dspark-)[^/]*", re.IGNORECASE)


class Hub(Protocol):
    """What is asked of the hub: huggingface_hub.HfApi, or its stand-in in tests."""

    def model_info(self, repo_id: str) -> Any:
        """What the hub says of a repository; `siblings` are its files, each with a `rfilename`."""
        ...

    def snapshot_download(self, repo_id: str, **options: Any) -> str:
        """The folder in the cache with the files that the patterns allow, fetched where they are not there."""
        ...


@dataclass(frozen=True)
class HubName:
    """The name of a model on the hub: a repository, and in it a quantization or a file."""

    repository: str
    quantization: str | None = None
    file: str | None = None


def hub_name(name: str) -> HubName | None:
    """The parts of a name on the hub; None for what is none, as a path on this machine."""
    match = _NAME.fullmatch(name)
    if not match or match["repository"].endswith((".gguf", ".safetensors")):
        return None
    tag = match["quantization"]
    return HubName(match["repository"], None if tag == "latest" else tag, match["file"])


def find_on_hub(wanted: HubName, hub: Hub | None = None) -> str:
    """The folder or the GGUF file in the cache of huggingface_hub, which fetches it when it is not there.

    Raises ModelError for a repository that is not there or may not be read, and one without the wanted model.
    """
    from huggingface_hub import HfApi

    with _hub_errors(wanted):
        return _fetch(hub or cast(Hub, HfApi()), wanted)


def fetch_again(wanted: HubName, files: Iterable[Path], hub: Hub | None = None) -> None:
    """Fetches files over those of the same names in the cache. Raises ModelError as find_on_hub does."""
    from huggingface_hub import HfApi

    names = [_IN_CACHE.sub("", file.as_posix()) for file in files]
    with _hub_errors(wanted):
        hub = hub or cast(Hub, HfApi())
        hub.snapshot_download(wanted.repository, allow_patterns=list(map(escape, names)), force_download=True)


@contextmanager
def _hub_errors(wanted: HubName) -> Iterator[None]:
    """Turns what huggingface_hub raises into a ModelError that names the repository."""
    from huggingface_hub import errors

    try:
        yield
        return
    except ModelError:
        raise
    except errors.GatedRepoError:
        reason = "its owner asks for consent: give it on the model's page, then log in with: hf auth login"
    except errors.RepositoryNotFoundError:
        reason = "no such folder here and no such public model on the Hugging Face Hub; check the spelling"
    except errors.LocalEntryNotFoundError:
        reason = "not downloaded yet, and the Hugging Face Hub cannot be reached; check the network and HF_HUB_OFFLINE"
    except Exception as error:  # three network libraries beneath it, without a common base class
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = f"the Hugging Face Hub did not give it ({line[:200]}); try again, or download it by hand"
    raise ModelError(f"{wanted.repository!r}: {reason}") from None


def _fetch(hub: Hub, wanted: HubName) -> str:
    """Lists a repository's files, and fetches those of one model."""
    from huggingface_hub import errors

    repository, cached = wanted.repository, None
    try:
        files = [file.rfilename for file in hub.model_info(repository).siblings or ()]
    except errors.RepositoryNotFoundError:  # a gated one is of this kind
        raise
    except Exception as error:  # no network, or the hub has a fault: what is in the cache may be all that is needed
        try:  # asked for no file at all: else the package refuses a folder without README.md, which is never fetched
            cached = hub.snapshot_download(repository, local_files_only=True, allow_patterns=[])
        except errors.LocalEntryNotFoundError:
            status = getattr(getattr(error, "response", None), "status_code", 0)
            if not 400 <= status < 500:
                raise
            reason = f"the Hugging Face Hub refuses it (HTTP status {status})"
            raise ModelError(f"{repository!r}: {reason}; try again later, or log in with: hf auth login") from None
        files = files_below(cached)
    try:
        chosen = choose(files, wanted)
    except ModelError as error:
        if cached is None:
            raise
        raise ModelError(f"{error}; that is what was downloaded before: the hub cannot be reached now") from None
    if cached is None and chosen:
        cached = hub.snapshot_download(repository, allow_patterns=[escape(name) for name in chosen])
    elif cached is None:
        cached = hub.snapshot_download(repository, allow_patterns=FOLDER_FILES, ignore_patterns=NOT_FOLDER_FILES)
    return os.path.join(cached, chosen[0]) if chosen else cached


def files_below(folder: str) -> list[str]:
    """The names of all files of a folder, as a repository lists them."""
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def choose(files: Iterable[str], wanted: HubName) -> list[str]:
    """The GGUF files that are wanted, a split one's parts in order; none where the repository's folder is the model.

    Raises ModelError, which lists what is there, when no file is the wanted one or several are.
    """
    files = list(files)
    models = _gguf_models(files)
    if wanted.file:
        found = [parts for parts in models.values() if wanted.file in parts]
        found = found or [[name] for name in files if name == wanted.file]
        why = f"has no file {wanted.file!r}"
    elif wanted.quantization:
        found = _of(models, wanted.quantization)
        why = f"has {_count(found)} of {wanted.quantization!r}"
    elif _is_folder(files):
        return []
    elif not models:
        _refuse(files, wanted)
    else:
        found = next((some for tag in DEFAULTS if (some := _of(models, tag))), list(models.values()))
        why = f"has {_count(found)}, and the name does not say which"
    if len(found) != 1:
        offered = found or list(models.values())
        raise ModelError(f"{wanted.repository!r}: {why}; {_offer(wanted, offered)}")
    return _whole(found[0], wanted)


def _refuse(files: list[str], wanted: HubName) -> NoReturn:
    """Raises ModelError for a repository without a model to read, which is told for what it is."""
    inner = sorted(name for name in files if name.endswith("/config.json"))
    if "config.json" not in files and inner:
        cure = f"fetch it by hf download {wanted.repository} --local-dir FOLDER and give the folder in it"
        raise ModelError(f"{wanted.repository!r}: has its model in a folder, {inner[0].rpartition('/')[0]!r}; {cure}")
    if instead := told(files, wanted.repository):
        raise ModelError(f"{wanted.repository!r}: holds no model that is read, but {instead}")
    held = "holds neither config.json and safetensors nor a GGUF file"
    raise ModelError(f"{wanted.repository!r}: {held}; check the spelling")


def _gguf_models(files: list[str]) -> dict[str, list[str]]:
    """The GGUF files by model, its name without the ending: one file, or the parts of a split one in order."""
    models: dict[str, list[str]] = {}
    for name in sorted(files):
        if name.lower().endswith(".gguf") and not _NO_MODEL.fullmatch(name):
            part = _PART.fullmatch(name)
            models.setdefault(part["model"] if part else name[: -len(".gguf")], []).append(name)
    return models


def _of(models: dict[str, list[str]], quantization: str) -> list[list[str]]:
    """The models with this quantization in their names."""
    named = re.compile(rf"(?<![a-z0-9]){re.escape(quantization)}(?![a-z0-9_])", re.IGNORECASE)
    return [parts for model, parts in models.items() if named.search(model)]


def _is_folder(files: list[str]) -> bool:
    """Whether the repository is a model folder: config.json and safetensors that are no adapter's."""
    weights = (name for name in files if name.endswith(".safetensors") and "/" not in name)
    return "config.json" in files and any(not name.startswith(("adapter", "consolidated")) for name in weights)


def _whole(parts: list[str], wanted: HubName) -> list[str]:
    """The parts. Raises ModelError when some of a split file are not there."""
    part = _PART.fullmatch(parts[0])
    if part and len(parts) != int(part["count"]):
        missing = f"{len(parts)} of the {int(part['count'])} parts of {show(part['model'])}"
        raise ModelError(f"{wanted.repository!r}: holds only {missing}; choose another file, or another repository")
    return parts


def _count(found: list[list[str]]) -> str:
    return f"{len(found)} GGUF models" if found else "no GGUF file"


def _offer(wanted: HubName, models: list[list[str]]) -> str:
    """The end of the sentence: what there is, by the names under which it can be asked for."""
    if not models:
        return "it has no GGUF file at all; check the spelling"
    names = [f"{wanted.repository}/{parts[0]}" for parts in models]
    listed = ", ".join(map(repr, names[:24])) + (f" and {len(names) - 24} more" if len(names) > 24 else "")
    return f"give one of {listed}"
