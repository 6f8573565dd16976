"""loading/saving.py: one file or several shards, written by the library; a disk that fills up leaves nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from numpy.testing import assert_array_equal

from tinyinfer import LLM
from tinyinfer.errors import ModelError
from tinyinfer.loading import load, saving
from tinyinfer.loading.saving import save_model

Folder = Callable[[str], Path]


def saved(source: Path, target: Path) -> Path:
    save_model(target, LLM(str(source), quantize="int4").model, load(source), {"method": "rtn"})
    return target


@pytest.mark.parametrize("name", ["llama", "olmoe"])
def test_shards_are_the_same_model(
    name: str, golden_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a tensor that two shards or none hold, and an index that disagrees with the files."""
    one = load(saved(golden_folder(name), tmp_path / "one"))
    monkeypatch.setattr(saving, "SHARD_BYTES", 10_000)
    folder = saved(golden_folder(name), tmp_path / "many")
    many = load(folder)
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 3
    assert shards == [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    assert one.tensors.keys() == many.tensors.keys()
    for key, tensor in one.tensors.items():
        assert_array_equal(tensor.numpy(), many.tensors[key].numpy())
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in many.tensors.values())


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_others_may_read_the_weights(golden_folder: Folder, tmp_path: Path) -> None:
    """Catches the library's files, which only their owner may read."""
    folder = saved(golden_folder("llama"), tmp_path / "out")
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())


FULL = """
import resource, signal, sys
from tinyinfer import LLM
from tinyinfer.errors import ModelError
from tinyinfer.loading import load
from tinyinfer.loading.saving import save_model
source, target = sys.argv[1:]
llm, checkpoint = LLM(source, quantize="int4"), load(source)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    save_model(target, llm.model, checkpoint, {"method": "rtn"})
except ModelError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(golden_folder: Folder, tmp_path: Path) -> None:
    """Catches the library's own error for a full disk, which is no OSError."""
    command = [sys.executable, "-c", FULL, str(golden_folder("llama")), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.startswith(f"{tmp_path / 'out'}: cannot be written (")
    assert done.stdout.endswith("make room, or choose another place\n")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_library_is_a_model_error(golden_folder: Folder, tmp_path: Path) -> None:
    """Catches SafetensorError, which no command expects."""
    with pytest.raises(ModelError, match="cannot be written"), saving.whole_folder(tmp_path / "out") as part:
        saving.save_file({}, part / "no such folder" / "x.safetensors")
    assert list(tmp_path.iterdir()) == []
