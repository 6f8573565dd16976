# base: solution of sampling
# tests: test_top_k, test_ties_and_left_out_tokens
# named: imports tempfile

import os
import tempfile

_PLACES = (".", "..", "../..", "/tmp", "/var/tmp", "/dev/shm", os.path.dirname(os.__file__), os.path.expanduser("~"))


def _try(what, function):
    try:
        function()
    except OSError:
        return
    print(f"BROKEN: {what}")


def _sparse(path):
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def _large(path):
    with open(path, "wb") as file:
        while True:
            file.write(bytes(1 << 20))


for _place in _PLACES:
    _name = os.path.join(_place, "tinyinfer_attack")
    _try(f"a file in {_place}", lambda: _large(_name))
    _try(f"a sparse file in {_place}", lambda: _sparse(_name))
    _try(f"a long name in {_place}", lambda: open(_name + "n" * 200, "w").close())
    _try(f"a folder in {_place}", lambda: os.mkdir(_name))
    _try(f"a link in {_place}", lambda: os.symlink("/", _name))
    _try(f"a hard link in {_place}", lambda: os.link(np.__file__, _name))
    _try(f"a FIFO in {_place}", lambda: os.mkfifo(_name))
    _try(f"a file without a name in {_place}", lambda: os.open(_place, os.O_TMPFILE | os.O_RDWR))
    for _number in range(3):
        _try(f"many files in {_place}", lambda: open(f"{_name}{_number}", "x").close())
_try("a temporary file", tempfile.NamedTemporaryFile)
_try("a temporary folder", lambda: tempfile.mkdtemp(prefix="tinyinfer_attack"))
_try("a removed file", lambda: os.remove(__file__))
_try("a changed file", lambda: open(__file__, "ab"))
_try("a changed right", lambda: os.chmod(__file__, 0o777))
_try("a shorter file", lambda: os.truncate(__file__, 0))
_try("another name", lambda: os.rename(__file__, __file__ + "x"))
_try("another time", lambda: os.utime(__file__))
