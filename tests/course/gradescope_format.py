"""A checker of results.json, written from Gradescope's documented format (Autograder Specifications).

What its specification says: either a score at the top or one in each test; the kinds of values; four visibilities. What
it does not say, but others use, is in FORMATS and STATUSES. Keys that it does not know are errors, to find misspelled
ones.
"""

from __future__ import annotations

import math
from typing import Any

VISIBILITIES = {"hidden", "after_due_date", "after_published", "visible"}
FORMATS = {"text", "html", "simple_format", "md", "ansi"}
STATUSES = {"passed", "failed"}
TOP = {"score", "execution_time", "output", "output_format", "test_output_format", "test_name_format", "visibility",
       "stdout_visibility", "extra_data", "tests", "leaderboard"}  # fmt: skip
TEST = {"score", "max_score", "status", "name", "name_format", "number", "output", "output_format", "tags",
        "visibility", "extra_data"}  # fmt: skip


def faults(results: Any) -> list[str]:
    """What is wrong with the content of results.json; nothing when Gradescope accepts it."""
    if not isinstance(results, dict):
        return ["results.json is no object"]
    found = of_keys("results.json", results, TOP)
    tests = results.get("tests", [])
    if not isinstance(tests, list) or not all(isinstance(test, dict) for test in tests):
        return [*found, "tests is no list of objects"]
    if "score" not in results and not (tests and all("score" in test for test in tests)):
        found.append("there is a score neither at the top nor in each test")
    found += of_numbers("results.json", results, ("score", "execution_time"))
    for place, test in enumerate(tests):
        found += of_keys(f"test {place}", test, TEST) + of_numbers(f"test {place}", test, ("score", "max_score"))
        if not all(isinstance(tag, str) for tag in test.get("tags", [])):
            found.append(f"test {place}: a tag is no text")
    return found


def of_numbers(place: str, values: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Numbers that are none, or not finite."""
    given = {key: values[key] for key in keys if key in values}
    return [f"{place}: {key} is {value!r}" for key, value in given.items()
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)]  # fmt: skip


def of_keys(place: str, values: dict[str, Any], known: set[str]) -> list[str]:
    """Unknown keys, and values of the wrong kind or out of their lists."""
    found = [f"{place}: there is no key {key}" for key in values if key not in known]
    for key, value in values.items():
        allowed = VISIBILITIES if key.endswith("visibility") else FORMATS if key.endswith("_format") else None
        allowed = STATUSES if key == "status" else allowed
        if allowed is not None and value not in allowed:
            found.append(f"{place}: {key} is {value!r}")
        if key in ("output", "name", "number") and not isinstance(value, str):
            found.append(f"{place}: {key} is no text")
        if key == "extra_data" and not isinstance(value, dict):
            found.append(f"{place}: extra_data is no object")
    return found
