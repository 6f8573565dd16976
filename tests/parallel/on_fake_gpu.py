"""The command line on the fake device, for processes that mpiexec starts: all of them see one GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

sys.path.append(str(Path(__file__).parents[1]))

from fake_cupy import fake_cupy

from tinyinfer.cli import main

if __name__ == "__main__":
    with (
        patch("tinyinfer.backends.cupy_ops.find_cupy", lambda: fake_cupy),
        patch("tinyinfer.parallel.devices.find_cupy", lambda: fake_cupy),
    ):
        sys.exit(main(sys.argv[1:]))
