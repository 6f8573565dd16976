"""An optimization's file can be deleted: everything but its own switch still works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tinyinfer

PACKAGE, TESTS = Path(tinyinfer.__file__).parent, Path(__file__).parent
PROGRAM = """
import json, sys
from fake_cupy import fake_cupy
from shorter import LLM, SamplingParams
from shorter.backends import cupy_device
cupy_device.find_cupy = lambda: fake_cupy
llm = LLM(sys.argv[1], **json.loads(sys.argv[2]))
print([out.token_ids for out in llm.generate([[5, 6, 7, 8] * 5, [5, 6, 7, 8, 9]], SamplingParams(max_tokens=8))])
"""
STAY = ("__init__.py", "base.py", "switches.py", "__pycache__")  # what is used where the idea is off, or refuses it
OTHERS = {"kv_cache": "paged", "block_size": 4, "max_num_batched_tokens": 9}


DEFAULT = [
    ("speculative", {**OTHERS, "prefix_cache": True}),
    ("kv_cache/prefix_cache.py", {**OTHERS, "speculative": "prompt-lookup"}),
    ("quantization", {**OTHERS, "dtype": "float32"}),
    ("backends/numpy_ops.py", {**OTHERS, "backend": "reference"}),
]
MORE = [
    ("speculative/draft_model.py", {**OTHERS, "prefix_cache": True}),
    ("kv_cache/paged.py", {"max_num_batched_tokens": 9, "speculative": "self"}),
    ("speculative/candidates.py", {**OTHERS, "speculative": "self"}),
    ("kv_cache/packed_blocks.py", {**OTHERS, "prefix_cache": True}),
    ("kv_cache/quantized.py", {**OTHERS, "prefix_cache": True, "speculative": "self"}),
    ("kv_cache/contiguous.py", {**OTHERS, "prefix_cache": True}),
]
ON_A_GPU = [
    pytest.param("backends/kernels", {"backend": "cupy", "gpu_decode": "eager", **OTHERS}, marks=pytest.mark.cuda),
    pytest.param("backends/cupy_ops.py", OTHERS, marks=pytest.mark.cuda),
]
IN_FULL = [pytest.param(*one, marks=pytest.mark.full) for one in MORE]


@pytest.mark.parametrize(("file", "switches"), [*DEFAULT, *IN_FULL, *ON_A_GPU])
def test_without_its_file_only_its_own_switch_is_gone(file, switches, golden_folder, tmp_path):
    """Catches an import of an optimization by a module that should not know of it."""
    # Under another name, else an installed one would step in for what is missing.
    for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.cu"), *PACKAGE.rglob("*.cuh")]:
        copy = tmp_path / "shorter" / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(re.sub(r"\btinyinfer\b", "shorter", path.read_text(encoding="utf-8")), encoding="utf-8")

    def run(**switches) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", PROGRAM, str(golden_folder("llama")), json.dumps(switches)]
        paths = os.pathsep.join([str(tmp_path), *map(str, (TESTS, TESTS / "kernels", TESTS.parent))])
        environment = {**os.environ, "PYTHONPATH": paths}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)

    own = {"speculative": {"speculative": "self"}, "speculative/draft_model.py": {"speculative": "self"},
           "speculative/candidates.py": {"kv_cache": "paged", "speculative": "self", "num_draft_candidates": 2},
           "kv_cache/paged.py": {"kv_cache": "paged"}, "kv_cache/packed_blocks.py": {"kv_bits": 8},
           "kv_cache/prefix_cache.py": {"kv_cache": "paged", "prefix_cache": True},
           "kv_cache/quantized.py": {"kv_bits": 8}, "quantization": {"quantize": "int8"}, "kv_cache/contiguous.py": {},
           "backends/numpy_ops.py": {}, "backends/kernels": {"backend": "cupy"},
           "backends/cupy_ops.py": {"backend": "cupy", "gpu_decode": "eager"}}[file]  # fmt: skip
    assert run(**own).returncode == 0
    expected = run().stdout
    unwanted = tmp_path / "shorter" / file
    for path in unwanted.iterdir() if unwanted.is_dir() else [unwanted]:
        if path.name not in STAY:
            path.unlink()
    assert run(**switches).stdout == expected != ""
    assert file.removesuffix(".py").replace("/", ".") in run(**own).stderr
