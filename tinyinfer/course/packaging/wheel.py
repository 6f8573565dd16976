"""A wheel of this package, out of the files that Python imports here: without git, setuptools or network.

A wheel is a zip file of the package and of a folder with three files of metadata (PyPA's binary distribution format).
The same files give the same bytes: entries are in order, and have one date and one mode.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tinyinfer.course.hidden import SECRET

PACKAGE = Path(__file__).parents[2]
DATE = (1980, 1, 1, 0, 0, 0)  # of every entry: the first that a zip file can hold
LEFT_OUT = ("__pycache__",)


def wheel(version: str, requirements: Sequence[str], package: Path = PACKAGE) -> tuple[str, bytes]:
    """The file name and the bytes of the wheel; requirements: as pip reads them. The hidden tests are left out."""
    name, info = package.name, f"{package.name}-{version}.dist-info"
    files = {f"{name}/{path.relative_to(package).as_posix()}": path.read_bytes() for path in sources(package)}
    needs = "".join(f"Requires-Dist: {one}\n" for one in requirements)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: >=3.11\n{needs}"
    files[f"{info}/METADATA"] = metadata.encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tinyinfer\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = recorded(files, f"{info}/RECORD").encode()
    return f"{name}-{version}-py3-none-any.whl", zipped(files)


def sources(package: Path) -> list[Path]:
    """The files of the package that travel: no caches, no hidden tests, and no secret that lies beside those."""
    found = [path for path in package.rglob("*") if path.is_file() and not set(LEFT_OUT) & set(path.parts)]
    return sorted(path for path in found if path.parents[1].name != "assignments" or not hides(path.name))


def hides(name: str) -> bool:
    """Whether a file of an assignment's folder is the teacher's only; copies of an editor's have longer names."""
    return name.lstrip(".").startswith(("hidden_", SECRET))


def recorded(files: Mapping[str, bytes], record: str) -> str:
    """The list of all files with their SHA-256 and sizes; its own line has neither."""
    digests = {name: base64.urlsafe_b64encode(hashlib.sha256(data).digest()) for name, data in files.items()}
    lines = [f"{name},sha256={digests[name].decode().rstrip('=')},{len(data)}\n" for name, data in files.items()]
    return "".join([*lines, f"{record},,\n"])


def zipped(files: Mapping[str, bytes], executable: Sequence[str] = ()) -> bytes:
    """A zip file; the same files give the same bytes. executable: names of programs."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, DATE)
            entry.external_attr = (0o100755 if name in executable else 0o100644) << 16
            entry.create_system = 3  # Unix, on Windows too, so that the mode counts
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return out.getvalue()
