"""A model in several GGUF files, as llama.cpp's gguf-split cuts one that is too large for a host of files.

    NAME-00001-of-00003.gguf    all metadata of the model, and the first tensors
    NAME-00002-of-00003.gguf    its number (split.no, counted from 0), how many there are (split.count), more tensors

The parts lie in one folder, and any of them stands for all. A tensor lies in one part, whole, so the model is one
dictionary of tensors that are read from several files. (gguf-split.cpp of llama.cpp.)
"""

from __future__ import annotations

import os
import re

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import LazyTensor
from tinyinfer.loading.gguf import GGUFFile, read_gguf
from tinyinfer.loading.json_fields import Fields
from tinyinfer.units import show

PART_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL | re.IGNORECASE)


def read_parts(path: str) -> GGUFFile:
    """The file at `path`, or, when that is one part of a model, all parts as one file.

    Raises ModelError, naming the file, when a part is missing, broken or belongs to another model.
    """
    file = read_gguf(path)
    number, count = _part(file)
    if count < 2:
        return file
    paths = part_paths(path, number, count)
    if missing := [os.path.basename(part) for part in paths if not os.path.isfile(part)]:
        names = ", ".join(show(name) for name in missing[:3]) + f" and {len(missing) - 3} more" * (len(missing) > 3)
        parts = f"the part {names} is" if len(missing) == 1 else f"the parts {names} are"
        raise ModelError(f"{path}: is part {number + 1} of {count}, and {parts} not beside it; download that too")
    return joined([file if part == path else read_gguf(part) for part in paths])


def part_paths(path: str, number: int, count: int) -> list[str]:
    """The paths of all parts, by the path of the part with this number (from 0).

    Raises ModelError when its name is not a part's name with this number.
    """
    folder, name = os.path.split(path)
    found = PART_NAME.fullmatch(name)
    if found is None or (int(found[2]), int(found[3])) != (number + 1, count):
        cure = f"call it NAME-{number + 1:05}-of-{count:05}.gguf, so that the other parts are found"
        raise ModelError(f"{path}: is part {number + 1} of {count}; {cure}")
    names = (f"{found[1]}-{i + 1:05}-of-{count:05}{name[-5:]}" for i in range(count))
    return [os.path.join(folder, part) for part in names]


def joined(files: list[GGUFFile]) -> GGUFFile:
    """All parts as one file: the metadata of the first part, the tensors of all.

    Raises ModelError when the parts are not those of one model.
    """
    first, tensors = files[0], dict[str, LazyTensor]()
    for number, file in enumerate(files):
        if _part(file) != (number, len(files)):
            wrong = f"is not part {number + 1} of {len(files)}, as its name says"
            raise ModelError(f"{file.path}: {wrong}; download it again")
        if twice := tensors.keys() & file.tensors.keys():
            raise ModelError(f"{file.path}: holds tensor {show(min(twice))} of another part too; download both again")
        tensors |= file.tensors
    wanted = Fields(first.path, first.fields).size("split.tensors.count", len(tensors), least=0)
    if wanted != len(tensors):
        found = f"the parts hold {len(tensors)} tensors, but the first part says {wanted}"
        raise ModelError(f"{first.path}: {found}; download all parts again")
    return GGUFFile(first.path, first.fields, tensors, sum(file.size for file in files))


def _part(file: GGUFFile) -> tuple[int, int]:
    """The number of this part, from 0, and how many there are."""
    f = Fields(file.path, file.fields)
    count = f.size("split.count", 1, least=0, most=2**16 - 1)
    return f.size("split.no", 0, least=0, most=max(count - 1, 0)), count
