"""loading/gguf_parts.py: any part of a split model loads all parts; a part that is missing or wrong is named."""

from __future__ import annotations

import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf_writer import write_gguf
from golden import load_golden

from tinyinfer import LLM
from tinyinfer.errors import ModelError
from tinyinfer.loading import load
from tinyinfer.loading.gguf import read_gguf
from tinyinfer.loading.gguf_model import load_gguf

NAMES = [f"tiny-{i:05}-of-00004.gguf" for i in (1, 2, 3, 4)]


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """The golden "llama" in four files, written by the gguf package."""
    write_gguf("llama", tmp_path / "tiny.gguf", tensors_in_a_part=13)
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES
    return [tmp_path / name for name in NAMES]


@pytest.mark.parametrize("given", range(4))
def test_any_part_is_the_whole_model(given: int, parts: list[Path], tmp_path: Path) -> None:
    """Catches a split model refused, as every GGUF above 50 GB is, or loaded from its first part only."""
    whole = load_gguf(str(write_gguf("llama", tmp_path / "whole.gguf")))
    ours = load(parts[given])
    assert ours.config == whole.config
    assert ours.tensors.keys() == whole.tensors.keys()
    for name, tensor in ours.tensors.items():
        np.testing.assert_array_equal(tensor.numpy(), whole.tensors[name].numpy(), err_msg=name)
    assert {Path(tensor.path).name for tensor in ours.tensors.values()} == set(NAMES)


def test_logits_equal_those_of_transformers(parts: list[Path]) -> None:
    """Catches tensors that are read from the wrong part."""
    golden = load_golden("llama")
    logits = LLM(str(parts[2])).logits(golden.tokens.tolist())
    assert np.abs(logits - golden.logits).max() < 1e-4 * np.abs(golden.logits).max()


def test_missing_parts_are_named(parts: list[Path]) -> None:
    """Catches "the weight ... is missing", which does not say which file to download."""
    parts[3].unlink()
    with pytest.raises(ModelError) as caught:
        load_gguf(str(parts[0]))
    assert str(caught.value) == (
        f"{parts[0]}: is part 1 of 4, and the part 'tiny-00004-of-00004.gguf' is not beside it; download that too"
    )
    parts[0].unlink()
    with pytest.raises(ModelError, match=r"the parts 'tiny-00001-of-00004.gguf', 'tiny-00004-.*' are not"):
        load_gguf(str(parts[1]))


@pytest.mark.parametrize("name", ["model.gguf", "tiny-00002-of-00003.gguf", "tiny-00001-of-00004.gguf"])
def test_a_part_under_another_name(name: str, parts: list[Path], tmp_path: Path) -> None:
    """Catches other parts looked for under a name that says nothing, or something wrong, about them."""
    renamed = tmp_path / "elsewhere" / name
    renamed.parent.mkdir()
    shutil.copy(parts[1], renamed)
    with pytest.raises(ModelError, match=r"is part 2 of 4; call it NAME-00002-of-00004\.gguf, so that"):
        load_gguf(str(renamed))


def test_a_part_of_another_model_or_number(parts: list[Path]) -> None:
    """Catches a part loaded twice under two names, or a whole model taken for a part."""
    shutil.copy(parts[1], parts[2])
    with pytest.raises(ModelError, match=r"00003-of-00004\.gguf: is not part 3 of 4, as its name says"):
        load_gguf(str(parts[0]))
    write_gguf("llama", parts[2])
    with pytest.raises(ModelError, match=r"00003-of-00004\.gguf: is not part 3 of 4, as its name says"):
        load_gguf(str(parts[0]))


def test_parts_that_do_not_add_up(parts: list[Path]) -> None:
    """Catches a tensor that is in two parts, and parts of two conversions mixed."""
    content = parts[2].read_bytes()
    (name,) = re.findall(rb"blk\.2\.ffn_gate\.weight", content) or re.findall(rb"blk\.1\.ffn_down\.weight", content)
    other = next(tensor for tensor in read_gguf(str(parts[1])).tensors if len(tensor) == len(name))
    parts[2].write_bytes(content.replace(name, other.encode()))
    with pytest.raises(ModelError, match=rf"00003-of-00004\.gguf: holds tensor '{other}' of another part too"):
        load_gguf(str(parts[0]))
    parts[2].write_bytes(content)
    first, key = parts[0].read_bytes(), b"split.tensors.count"
    at = first.index(key) + len(key) + 4
    count = len(load_gguf(str(parts[0])).tensors)
    assert struct.unpack("<i", first[at : at + 4]) == (count,)
    parts[0].write_bytes(first[:at] + struct.pack("<i", 90) + first[at + 4 :])
    with pytest.raises(ModelError, match=rf"the parts hold {count} tensors, but the first part says 90"):
        load_gguf(str(parts[3]))


def test_a_part_beyond_the_last(parts: list[Path]) -> None:
    """Catches the advice to call a damaged file NAME-00010-of-00004.gguf."""
    content, key = parts[1].read_bytes(), b"split.no"
    at = content.index(key) + len(key) + 4
    parts[1].write_bytes(content[:at] + struct.pack("<H", 9) + content[at + 2 :])
    with pytest.raises(ModelError, match=r"'split\.no' is 9, but must be a whole number from 0 to 3"):
        load_gguf(str(parts[1]))


def test_a_git_lfs_pointer_is_told_for_what_it_is(parts: list[Path]) -> None:
    """Catches "is not a GGUF file; give a .gguf file" for a clone without Git LFS, of one file or of a part."""
    parts[1].write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 269060552\n")
    for path in (parts[0], parts[1]):
        with pytest.raises(ModelError, match=r"00002-of-00004\.gguf: is a Git LFS pointer, .*git lfs pull"):
            load_gguf(str(path))
