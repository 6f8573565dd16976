"""A small assignment for tests of the frame: two functions of sampling.py, two tests with few points."""

from __future__ import annotations

from pathlib import Path

from tinyinfer.course.assignment import Assignment, read_assignment

MANIFEST = """
version = "1"
title = "Small"
minutes = 5
lines = 4
about = "two functions"
[[cut]]
module = "tinyinfer.sampling"
names = ["softmax", "keep_top_k"]
[[tests]]
name = "test_softmax"
points = 60
parts = 2
catches = "a sum that is not 1"
[[tests]]
name = "test_top_k"
points = 40
catches = "one token too many"
"""
RIGHT = '''
import numpy as np

def softmax(s):
    e = np.exp(s - s.max())
    return e / e.sum()

def keep_top_k(s, k):
    return np.where(s < np.sort(s)[-k], -np.inf, s)
'''


def small_assignment(folder: Path, manifest: str = MANIFEST) -> Assignment:
    """The small assignment, with its manifest in `folder`."""
    home = folder / "small"
    home.mkdir(exist_ok=True)
    (home / "assignment.toml").write_text(manifest, encoding="utf-8")
    return read_assignment(home)
