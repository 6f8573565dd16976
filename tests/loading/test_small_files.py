"""loading/small_files.py: what is no file, has no end or is all tiny values is refused in a line before it is read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from gguf_writer import write_gguf

from tinyinfer import LLM
from tinyinfer.errors import ModelError
from tinyinfer.loading import load
from tinyinfer.loading.gguf_vocab import read_vocabulary
from tinyinfer.loading.json_fields import parse_object, read_json
from tinyinfer.loading.small_files import LIMIT, LIMITS, VALUES, check_values, read_whole

Folder = Callable[[str], Path]
EVERY_FILE = [
    "config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json",
]  # fmt: skip


@pytest.fixture
def copy(golden_folder: Folder, tmp_path: Path) -> Path:
    """A model folder to be changed."""
    return Path(shutil.copytree(golden_folder("llama2"), tmp_path / "copy"))


@pytest.fixture(autouse=True)
def _waits_no_longer_than_20_seconds() -> Iterator[None]:
    """A reader that waits for a pipe would wait for ever: the signal ends the test in its place."""
    signal.alarm(20)
    yield
    signal.alarm(0)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_pipe_in_place_of_any_file_of_a_folder(name: str, copy: Path) -> None:
    """Catches L4 of the bug pages: `open` of a pipe waits for a writer that never comes."""
    if name == "model.safetensors.index.json":
        (copy / "model.safetensors").unlink()
    if name == "chat_template.json":  # read only where no other file has a template
        (copy / "tokenizer_config.json").write_text("{}")
    (copy / name).unlink(missing_ok=True)
    os.mkfifo(copy / name)
    with pytest.raises(ModelError) as caught:
        load(copy)
    assert str(caught.value) == f"{copy / name}: is a pipe, a socket or a device; put a regular file in its place"


def test_a_pipe_in_place_of_vocab_and_merges(copy: Path) -> None:
    """The same where the library is told the paths."""
    (copy / "tokenizer.json").unlink()
    (copy / "vocab.json").write_text("{}")
    os.mkfifo(copy / "merges.txt")
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        load(copy)


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_device_in_place_of_a_file(name: str, copy: Path) -> None:
    """Catches a template that is read until memory ends: /dev/zero, which a link leads to, has no end."""
    (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to("/dev/zero")
    with pytest.raises(ModelError, match="is a pipe, a socket or a device"):
        load(copy)


def test_a_pipe_or_a_socket_in_place_of_a_model(tmp_path: Path) -> None:
    """Catches "there is no such folder or file" for what is there, and a part of a GGUF model that waits."""
    os.mkfifo(tmp_path / "x.gguf")
    with socket.socket(socket.AF_UNIX) as made:
        with suppress(OSError):
            made.bind(str(tmp_path / "s.gguf"))
        for name in ("x.gguf", "s.gguf"):
            with pytest.raises(ModelError, match="is a pipe, a socket or a device"):
                load(tmp_path / name)


def test_a_folder_of_links_loads(golden_folder: Folder, tmp_path: Path) -> None:
    """Catches a check of the link and not of its file: the hub's cache is made of links."""
    for path in golden_folder("llama2").iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert LLM(str(tmp_path)).config == load(golden_folder("llama2")).config
    write_gguf("llama2", tmp_path / "whole.gguf")
    (tmp_path / "link.gguf").symlink_to(tmp_path / "whole.gguf")
    assert load(tmp_path / "link.gguf").config.num_layers == 3


@pytest.mark.parametrize("name", ["chat_template.jinja", "config.json", "tokenizer_config.json"])
def test_a_file_larger_than_its_kind(name: str, copy: Path) -> None:
    """Catches L5: one limit of 100 MB for a page of settings as for the largest vocabulary."""
    most = LIMITS.get(name, LIMIT)
    with open(copy / name, "ab") as file:
        file.truncate(most + 1)
    with pytest.raises(ModelError) as caught:
        load(copy)
    assert str(caught.value) == (
        f"{copy / name}: is larger than {most} bytes, which no such file is; download it again"
    )


TINY = {"objects": "{},", "lists": "[[]],", "numbers": "1e9,", "strings": '"ab",'}


@pytest.mark.parametrize("kind", TINY)
def test_a_file_of_tiny_values(kind: str, copy: Path) -> None:
    """Catches `{},` a million times, which took 26 times its size in memory, within any limit of size."""
    text = f'{{"a": [{TINY[kind] * (VALUES + 1)}0]}}'
    (copy / "generation_config.json").write_text(text)
    with pytest.raises(ModelError, match=rf"generation_config\.json: holds about \d+ values in {len(text)} bytes"):
        load(copy)


def test_what_real_files_hold_is_accepted() -> None:
    """Catches a bound that refuses a real file: densities of published ones, and more values than VALUES."""
    index = b'"model.layers.60.mlp.experts.128.up_proj.weight":"model-00001-of-00163.safetensors",' * 160_000
    added = b'"128256": {"content": "<custom_token_1>", "lstrip": false, "normalized": false, "rstrip": false, '
    added = (added + b'"single_word": false, "special": true}, ') * 22_000
    for text in (index, added):
        assert sum(text.count(sign) for sign in (b",", b":", b"{")) > VALUES
        check_values(text, "x", len(text))
    check_values(b'"token":1,' * 200_000, "tokenizer.json", 4_000_000)  # 2 MB of it, and the embedding beside it
    check_values(b'"the":1,' * 125_600, "tokenizer.json", 1_758_491)  # GPT-2's without spaces, beside 0.4 MB of weights


def test_a_tokenizer_may_hold_what_the_whole_model_explains(copy: Path) -> None:
    """Catches a tokenizer.json of some MB that takes 52 times its size in the library."""
    values = json.loads((copy / "tokenizer.json").read_text())
    values["model"]["merges"] = [["h", "e"]] * VALUES
    (copy / "tokenizer.json").write_text(json.dumps(values, separators=(",", ":")))
    with pytest.raises(ModelError, match=r"tokenizer\.json: holds about \d+ values"):
        load(copy)


NAMES = [f"<{i}>" for i in range(20_000)]
ADDING: dict[str, tuple[str, object]] = {
    "a list": ("tokenizer_config.json", {"additional_special_tokens": NAMES}),
    "names": ("tokenizer_config.json", {"extra_special_tokens": dict(zip(NAMES, NAMES, strict=True))}),
    "named fields": ("special_tokens_map.json", {f"{name}_token": name for name in NAMES}),
    "ids": ("added_tokens.json", {name: i for i, name in enumerate(NAMES)}),
    "settings": (
        "tokenizer_config.json",
        {"added_tokens_decoder": {str(i): {"content": name} for i, name in enumerate(NAMES)}},
    ),
}


@pytest.mark.parametrize("case", ADDING)
def test_more_added_tokens_than_a_model_explains(case: str, copy: Path) -> None:
    """Catches 2 MB of names that take 286 MB: the library looks for each of them in every text."""
    name, values = ADDING[case]
    (copy / name).write_text(json.dumps(values))
    with pytest.raises(ModelError, match=rf"{name}: lists \d+ added tokens in a model of \d+ bytes"):
        load(copy)


def test_more_control_tokens_than_a_gguf_explains(tmp_path: Path) -> None:
    """The same of tokens that a GGUF types as control tokens; a large model may have as many as it likes."""
    count = 20_000
    fields = {f"tokenizer.ggml.{name}": value for name, value in {
        "model": "gpt2", "pre": "gpt-2", "tokens": [f"<{i}>" for i in range(count)], "merges": [],
        "token_type": np.full(count, 3),
    }.items()}  # fmt: skip
    with pytest.raises(ModelError, match=r"^x\.gguf: lists 20000 added tokens in a model of 1000000 bytes"):
        read_vocabulary(fields, "x.gguf", 1_000_000)
    assert read_vocabulary(fields, "x.gguf", 5_000_000).backend.encode("<19999>").ids == [19999]


LARGE = {
    "mixtral": ("num_hidden_layers", "num_local_experts", "num_experts_per_tok", "intermediate_size", "vocab_size"),
    "gemma3": ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "sliding_window"),
    "gpt2": ("n_layer", "n_embd", "n_head", "n_positions", "vocab_size"),
}


@pytest.mark.full
@pytest.mark.parametrize("name", LARGE)
def test_a_number_that_no_file_backs(name: str, golden_folder: Folder, tmp_path: Path) -> None:
    """Catches a loop over, or an array of, what config.json only claims: each number at its most, and a bit below."""
    folder = Path(shutil.copytree(golden_folder(name), tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    tracemalloc.start()
    for field in LARGE[name]:
        for value in (2**31 - 1, 65536, 4096):
            (folder / "config.json").write_text(json.dumps(config | {field: value, "layer_types": None}))
            with suppress(ModelError):
                load(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_one_byte_more_than_the_limit_is_read(tmp_path: Path) -> None:
    """Catches a limit that is looked up in the size alone: files of /proc say 0."""
    with suppress(FileNotFoundError):
        assert read_whole("/proc/self/status")
    (tmp_path / "x.json").write_bytes(b" " * (LIMIT - 2) + b"{}")
    assert read_json(tmp_path / "x.json") == {}


@pytest.mark.full
@pytest.mark.parametrize("shape", ["{},", "[[]],", "[1],", '{"a":1},', '"\U0001f600",', "1e9,", '"%06d":1,'])
def test_the_worst_that_is_accepted_takes_less_than_64_mb(shape: str) -> None:
    """The promise that VALUES makes, for shapes of which one or another was the worst per value."""
    unit = sum(shape.count(sign) for sign in ",:[{")
    many = range((VALUES - 9) // unit)
    body = ",".join(shape[:-1] % i if "%" in shape else shape[:-1] for i in many)
    text = (f"{{{body}}}" if "%" in shape else f'{{"a":[{body}]}}').encode()
    tracemalloc.start()
    parse_object(text, "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < max(64 << 20, 20 * len(text))
