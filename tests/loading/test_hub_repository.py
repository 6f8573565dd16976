"""Of a repository on the hub, the files of one model are fetched, and no others; the hub is a stand-in, or refuses."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import huggingface_hub
import pytest
from golden import write_hf_folder

from tinyinfer.errors import ModelError, ModelWarning
from tinyinfer.loading import load
from tinyinfer.loading.hub import find
from tinyinfer.loading.hub_repository import HubName, choose, find_on_hub, hub_name

QUANTIZATIONS = ["BF16", "F16", "IQ4_XS", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"]
GGUF = ["README.md", *(f"Tiny-{quantization}.gguf" for quantization in QUANTIZATIONS), "mmproj-Tiny-Q8_0.gguf"]
SPLIT = ["Q4_K_M/Big-Q4_K_M-00001-of-00002.gguf", "Q4_K_M/Big-Q4_K_M-00002-of-00002.gguf", "Big-Q8_0.gguf"]


class FakeHub:
    """A repository with these files; what is fetched lies in a folder, as in the package's cache."""

    def __init__(self, files: list[str], folder: Path, reached: bool = True) -> None:
        self.files, self.folder, self.reached = files, folder, reached
        self.fetched: list[str] = []

    def model_info(self, repo_id: str) -> Any:
        if not self.reached:
            raise ConnectionError("no network")
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def snapshot_download(
        self,
        repo_id: str,
        allow_patterns: list[str] | None = None,
        ignore_patterns: list[str] | None = None,
        local_files_only: bool = False,
    ) -> str:
        if not local_files_only:
            allowed, ignored = allow_patterns, ignore_patterns
            self.fetched = list(
                huggingface_hub.utils.filter_repo_objects(self.files, allow_patterns=allowed, ignore_patterns=ignored)
            )
            for name in self.fetched:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).touch()
        return str(self.folder)


def fetch(name: str, files: list[str], folder: Path) -> tuple[str, list[str]]:
    """The path that a name becomes, and the files that were fetched for it."""
    hub, wanted = FakeHub(files, folder), hub_name(name)
    assert wanted is not None
    path = find_on_hub(wanted, hub)
    return os.path.relpath(path, folder), hub.fetched


def refusal(name: str, files: list[str], folder: Path) -> str:
    hub, wanted = FakeHub(files, folder), hub_name(name)
    assert wanted is not None
    with pytest.raises(ModelError) as caught:
        find_on_hub(wanted, hub)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{wanted.repository!r}: ")
    assert hub.fetched == []
    return str(caught.value)


# --- names ---


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Qwen/Qwen3-0.6B", HubName("Qwen/Qwen3-0.6B")),
        ("Qwen/Qwen3-0.6B-GGUF:Q8_0", HubName("Qwen/Qwen3-0.6B-GGUF", "Q8_0")),
        ("Qwen/Qwen3-0.6B-GGUF:latest", HubName("Qwen/Qwen3-0.6B-GGUF")),
        ("unsloth/a-GGUF:UD-Q4_K_XL", HubName("unsloth/a-GGUF", "UD-Q4_K_XL")),
        ("a/b/c.gguf", HubName("a/b", None, "c.gguf")),
        ("a/b/c.GGUF", HubName("a/b", None, "c.GGUF")),
        ("a/b/BF16/c-00001-of-00002.gguf", HubName("a/b", None, "BF16/c-00001-of-00002.gguf")),
    ],
)
def test_a_name_on_the_hub_has_parts(name: str, parts: HubName) -> None:
    """Catches the names of llama.cpp's -hf taken for paths that are not there."""
    assert hub_name(name) == parts


@pytest.mark.parametrize("name", ["a", "a/b.gguf", "C:/m/x.gguf", "C:\\m\\x.gguf", "./a/b", "/a/b", "a/b/c", "a/b:"])
def test_a_path_is_no_name_on_the_hub(name: str) -> None:
    """Catches a file's name with a typing error looked for on the network."""
    assert hub_name(name) is None


# --- which files ---


def test_a_folder_is_what_a_loader_reads_and_no_more(tmp_path: Path) -> None:
    """Catches patterns that fetch a model twice (consolidated, original/, onnx/) or miss its tokenizer."""
    wanted = [
        "config.json", "generation_config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja",
    ]  # fmt: skip
    others = ["README.md", "pytorch_model.bin", "consolidated.safetensors", "original/params.json", "onnx/model.onnx"]
    assert fetch("owner/name", wanted + others + ["m-Q4_K_M.gguf"], tmp_path) == (".", wanted)


@pytest.mark.parametrize("quantization", ["Q8_0", "q8_0", "F16", "BF16", "Q4_K_M", "iq4_xs"])
def test_a_quantization_is_one_file(tmp_path: Path, quantization: str) -> None:
    """As llama.cpp's -hf, in capitals or not; catches F16 in BF16, and a file of another tower (mmproj)."""
    file = f"Tiny-{quantization.upper()}.gguf"
    assert fetch(f"acme/tiny-GGUF:{quantization}", GGUF, tmp_path) == (file, [file])


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (QUANTIZATIONS, "Q4_K_M"),
        (["BF16", "Q4_0", "Q8_0"], "Q8_0"),
        (["Q3_K_S"], "Q3_K_S"),
    ],
)  # fmt: skip
def test_without_one_it_is_the_usual_one(tmp_path: Path, present: list[str], chosen: str) -> None:
    """Q4_K_M, else Q8_0 (llama.cpp, find_best_model), else the only one; config.json alone makes no folder."""
    files = ["config.json", *(f"tiny-{quantization.lower()}.gguf" for quantization in present)]
    file = f"tiny-{chosen.lower()}.gguf"
    assert fetch("acme/tiny-GGUF", files, tmp_path) == (file, [file])


def test_a_file_is_that_file(tmp_path: Path) -> None:
    """Also in a repository that is a folder, and with letters in its name that a pattern would read otherwise."""
    files = [*GGUF, "config.json", "model.safetensors", "sub/Tiny [v2]-Q8_0.gguf"]
    assert fetch("acme/tiny/Tiny-Q6_K.gguf", files, tmp_path) == ("Tiny-Q6_K.gguf", ["Tiny-Q6_K.gguf"])
    file = "sub/Tiny [v2]-Q8_0.gguf"
    assert fetch(f"acme/tiny/{file}", files, tmp_path) == (os.path.normpath(file), [file])


@pytest.mark.parametrize("name", ["acme/big", "acme/big:Q4_K_M", f"acme/big/{SPLIT[0]}", f"acme/big/{SPLIT[1]}"])
def test_a_split_file_is_all_its_parts_and_its_first(tmp_path: Path, name: str) -> None:
    assert fetch(name, SPLIT, tmp_path) == (os.path.normpath(SPLIT[0]), SPLIT[:2])


def test_two_files_of_a_quantization_are_listed(tmp_path: Path) -> None:
    """Catches one of two models taken by the alphabet."""
    files = ["a-1B-Q4_K_M.gguf", "a-3B-Q4_K_M.gguf"]
    for name in ("acme/two", "acme/two:Q4_K_M"):
        assert "give one of 'acme/two/a-1B-Q4_K_M.gguf', 'acme/two/a-3B-Q4_K_M.gguf'" in refusal(name, files, tmp_path)


WRONG = {
    "a quantization that is not there": ("acme/tiny:Q2_K", GGUF, "has no GGUF file of 'Q2_K'; give one of 'acme/tiny/"),
    "a file that is not there": ("acme/tiny/Tiny-Q2_K.gguf", GGUF, "has no file 'Tiny-Q2_K.gguf'; give one of 'acme/"),
    "several unusual ones": ("acme/tiny", ["a-Q2_K.gguf", "a-Q6_K.gguf"], "2 GGUF models, and the name does not say"),
    "no GGUF file": ("acme/tiny:Q8_0", ["config.json", "model.safetensors"], "it has no GGUF file at all"),
    "a part that is missing": ("acme/big:Q4_K_M", SPLIT[:1], "holds only 1 of the 2 parts of 'Q4_K_M/Big-Q4_K_M'"),
    "pickled weights": ("acme/tiny", ["config.json", "pytorch_model.bin"], "from_pretrained('acme/tiny').save_pretr"),
    "an adapter": ("acme/tiny", ["adapter_config.json", "adapter_model.safetensors"], "an adapter, which is no model"),
    "an adapter with a configuration": (
        "acme/tiny", ["adapter_config.json", "adapter_model.safetensors", "config.json"], "an adapter, which is no mod"
    ),
    "no model at all": ("acme/tiny", ["README.md", "config.json"], "holds neither config.json and safetensors nor a"),
    "a model one folder down": ("acme/tiny", ["a/config.json", "a/model.safetensors"], "a folder, 'a'; fetch it by hf"),
    "another engine's": ("acme/tiny", ["config.json", "onnx/model.onnx"], "a model for ONNX Runtime"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_model_that_is_not_there_is_answered_before_anything_is_fetched(tmp_path: Path, case: str) -> None:
    """Catches "download it again", which would fetch the same files, and gigabytes fetched for a sentence."""
    name, files, said = WRONG[case]
    assert said in refusal(name, files, tmp_path)


def test_a_long_list_is_cut_and_a_long_name_is_not() -> None:
    """Catches a name that cannot be copied from the message."""
    long = "long-" * 30
    files = [f"{long}{i:02d}.gguf" for i in range(30)]
    with pytest.raises(ModelError, match=rf"'a/b/{long}23\.gguf' and 6 more"):
        choose(files, HubName("a/b"))


# --- the hub and its cache ---


def test_a_repository_that_is_a_folder_loads(tmp_path: Path) -> None:
    write_hf_folder("llama", tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert load(find_on_hub(HubName("acme/tiny"), FakeHub(files, tmp_path))).config.architecture == "llama"


def test_without_a_network_the_cache_is_the_listing(tmp_path: Path) -> None:
    """Catches a model that is there refused for want of a listing."""
    (tmp_path / "m-Q8_0.gguf").touch()
    hub = FakeHub([], tmp_path, reached=False)
    assert find_on_hub(HubName("acme/tiny"), hub) == str(tmp_path / "m-Q8_0.gguf")
    assert find_on_hub(HubName("acme/tiny", "Q8_0"), hub) == str(tmp_path / "m-Q8_0.gguf")
    assert hub.fetched == []


def test_what_the_cache_lacks_is_not_said_of_the_repository(tmp_path: Path) -> None:
    """Catches "choose another repository" for a download that ended early and cannot go on now."""
    hub = FakeHub([], tmp_path, reached=False)
    (tmp_path / "m-Q8_0-00001-of-00002.gguf").touch()
    with pytest.raises(ModelError, match=r"no GGUF file of 'Q4_K_M'.*downloaded before: the hub cannot be reached"):
        find_on_hub(HubName("acme/tiny", "Q4_K_M"), hub)
    with pytest.raises(ModelError, match=r"1 of the 2 parts.*downloaded before: the hub cannot be reached"):
        find_on_hub(HubName("acme/tiny"), hub)


@pytest.mark.parametrize("name", ["owner/name", "owner/name:Q8_0", "owner/name/m-Q8_0.gguf"])
def test_what_was_fetched_is_there_without_a_network(tmp_path: Path, name: str) -> None:
    """The real package: it keeps the listing, and refuses a cached folder that lacks any other file (README.md)."""
    files = {"README.md": b"of no use", "m-Q8_0.gguf": b"weights", "m-F32.gguf": b"more weights"}
    wanted = hub_name(name)
    assert wanted is not None
    with serving(files) as url:
        fetched = find_on_hub(wanted, Hub(tmp_path, url))
    assert sorted(path.name for path in Path(fetched).parent.iterdir()) == ["m-Q8_0.gguf"]
    assert find_on_hub(wanted, Hub(tmp_path, "http://127.0.0.1:1")) == fetched


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[str]:
    """The address of a hub that has the repository owner/name with these files, tagged as the hub tags large ones."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = unquote(self.path).partition(f"/resolve/{'c' * 40}/")[2]
            listing = {"id": "owner/name", "sha": "c" * 40, "siblings": [{"rfilename": name} for name in files]}
            tree = [{"type": "file", "path": name, "size": len(files[name]), "oid": "0"} for name in files]
            found = tree if "/tree/" in self.path else listing
            body = files[name] if name else json.dumps(found).encode()
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", "c" * 40)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.server_port}"
        listener.shutdown()


@pytest.mark.parametrize("name", ["owner/name", "owner/name:Q8_0"])
def test_a_damaged_file_of_the_cache_is_told_and_fetched_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real package, which itself looks at no byte again. Catches a repair of another file, or of all files."""
    files = {"sub/a [1]-Q8_0.gguf": b"weights", "config.json": b"{}", "model.safetensors": b"more weights"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(tmp_path / "cache", url))
    with serving(files) as url:
        path = Path(find(name, verify=True))
        broken = path / "model.safetensors" if path.is_dir() else path
        right = broken.read_bytes()
        assert "damaged" not in capsys.readouterr().err
        others = [file.stat() for file in path.parent.glob("*/*") if file != broken]
        broken.write_bytes(right[::-1])
        assert find(name) == str(path), "unless it is asked for, nothing is proven"
        assert find(name, verify=True) == str(path)
        assert broken.read_bytes() == right
        told = f"{broken}: is damaged (its SHA-256 is not the expected one), so it is fetched again"
        assert told in capsys.readouterr().err
        assert others == [file.stat() for file in path.parent.glob("*/*") if file != broken]
    broken.write_bytes(right[::-1])
    with pytest.raises(ModelError, match=r"is damaged .*; it was fetched again without success: check the network and"):
        find(name, progress=False, verify=True)
    assert broken.read_bytes() == right[::-1]


def test_a_cache_without_links_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system that has no links the cache keeps no checksums: a note, no refusal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: FakeHub(["m-Q8_0.gguf"], tmp_path / "cache"))
    with pytest.warns(ModelWarning, match=r"m-Q8_0.gguf: no checksum of it is known, so nothing can be proven"):
        assert find("acme/tiny", verify=True) == str(tmp_path / "cache" / "m-Q8_0.gguf")


def test_only_files_that_fit_are_offered() -> None:
    """Catches a list of all files, in which those of the wanted quantization are hidden or cut off."""
    files = [*(f"A-Q{i}_0.gguf" for i in range(30)), "B-IQ4_XS.gguf", "B-UD-IQ4_XS.gguf"]
    with pytest.raises(ModelError, match=r"2 GGUF models of 'IQ4_XS'; give one of 'a/b/B-IQ4_XS.gguf', 'a/b/B-UD-IQ4"):
        choose(files, HubName("a/b", "IQ4_XS"))


class Hub(huggingface_hub.HfApi):
    """The real package, with a cache of its own."""

    def __init__(self, cache: Path, endpoint: str | None = None) -> None:
        super().__init__(endpoint=endpoint, token=False)
        self.cache = cache

    def snapshot_download(self, repo_id: str, **options: Any) -> str:
        return super().snapshot_download(repo_id, cache_dir=self.cache, **options)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "RepoNotFound", "check the spelling"),
        (404, "RepoNotFound", "check the spelling"),
        (403, "GatedRepo", "hf auth login"),
        (500, "", "cannot be reached"),
        (429, "", "refuses it (HTTP status 429); try again later"),
    ],
)
def test_a_no_of_the_hub_is_one_line(tmp_path: Path, status: int, code: str, message: str) -> None:
    """The real package against a server that refuses: its own messages have many lines."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
        hub = Hub(tmp_path, f"http://127.0.0.1:{listener.server_port}")
        with pytest.raises(ModelError) as error:
            find_on_hub(HubName("owner/name"), hub)
        listener.shutdown()
    assert message in str(error.value)
    assert "'owner/name'" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "shown"), [("first\n\nsecond", "(first)"), ("", "(OSError)")])
def test_any_other_error_of_the_hub_is_its_first_line(tmp_path: Path, text: str, shown: str) -> None:
    class Broken(FakeHub):
        def snapshot_download(self, repo_id: str, **options: Any) -> str:
            raise OSError(text)

    with pytest.raises(ModelError) as error:
        find_on_hub(HubName("owner/name"), Broken(["config.json", "model.safetensors"], tmp_path))
    assert shown in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["owner/name", "owner/-.name--x"])
def test_the_hub_offline_is_one_line(tmp_path: Path, name: str) -> None:
    """Also a name that the package itself refuses."""
    hub = Hub(tmp_path, "http://127.0.0.1:9")
    with pytest.raises(ModelError) as error:
        find_on_hub(HubName(name), hub)
    assert repr(name) in str(error.value)
    assert "\n" not in str(error.value)
