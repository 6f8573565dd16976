"""Workloads: every mistake in a file is told by its line; lengths and arrivals are drawn as they say."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from tinyinfer.measure.workload import READY, Lengths, Request, parse_lengths, prompts, read_workload, synthetic


@pytest.fixture
def written(tmp_path: Path):
    """A function from lines to the name of a file that holds them."""

    def write(*lines: str | bytes) -> str:
        path = tmp_path / "requests.jsonl"
        path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
        return str(path)

    return write


def test_every_kind_of_line(written):
    """Catches a default that is missing, an empty last line taken for a request, lines counted without empty ones."""
    name = written(
        '{"prompt": "Once upon a time", "max_tokens": 64}',
        "",
        '{"prompt_token_ids": [1, 2, 3], "max_tokens": 8, "arrival": 0.5}',
        '{"prompt_tokens": 20, "shared_prefix": 16, "prefix_group": "system", "max_tokens": 16, "arrival": 2}',
        "",
    )
    assert read_workload(name) == [
        Request(64, "Once upon a time", where=f"{name}:1"),
        Request(8, (1, 2, 3), arrival=0.5, where=f"{name}:3"),
        Request(16, None, 20, 16, "system", 2.0, f"{name}:4"),
    ]


def test_a_file_of_another_system_holds_the_same_requests(tmp_path):
    """Catches a byte order mark or CRLF that is refused as no JSON, and UTF-16 that is called broken UTF-8."""
    line = '{"prompt": "x", "max_tokens": 1}\n'
    for name, data in {"w": "\ufeff" + line.replace("\n", "\r\n") * 2, "u": line * 2}.items():
        (tmp_path / name).write_bytes(data.encode())
    ours, theirs = ([r.prompt for r in read_workload(str(tmp_path / name))] for name in "wu")
    assert ours == theirs == ["x", "x"]
    (tmp_path / "16").write_bytes(line.encode("utf-16"))
    with pytest.raises(ValueError, match="16:1: UTF-16 text; convert it to UTF-8 first"):
        read_workload(str(tmp_path / "16"))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON (Expecting property name enclosed in double quotes, column 2); write one object a line"),
        ("[1]", 'a request is a JSON object, such as {"prompt_tokens": 100, "max_tokens": 20}'),
        ("7", "a request is a JSON object"),
        (b'{"prompt": "\xff", "max_tokens": 1}', "not UTF-8 text (byte 12); convert it to UTF-8 first"),
        ('{"max_tokens": 1}', "give exactly one of prompt, prompt_token_ids, prompt_tokens"),
        ('{"prompt": "x", "prompt_tokens": 3, "max_tokens": 1}', "give exactly one of"),
        ('{"prompt": "x"}', "max_tokens is missing"),
        ('{"prompt": "x", "max_token": 1}', "unknown key 'max_token' (did you mean 'max_tokens'?); known: prompt,"),
        ('{"prompt": "", "max_tokens": 1}', 'prompt must be a text that is not empty, not ""'),
        ('{"prompt": 7, "max_tokens": 1}', "prompt must be a text"),
        ('{"prompt_token_ids": [], "max_tokens": 1}', "prompt_token_ids must be a list of token ids, at least one"),
        ('{"prompt_token_ids": [1, -2], "max_tokens": 1}', "not [1, -2]"),
        ('{"prompt_token_ids": [1, 2.5], "max_tokens": 1}', "prompt_token_ids must be"),
        ('{"prompt_tokens": 0, "max_tokens": 1}', "prompt_tokens must be a whole number of at least 1, not 0"),
        ('{"prompt_tokens": 5, "max_tokens": 0}', "max_tokens must be a whole number of at least 1"),
        ('{"prompt_tokens": 5, "max_tokens": true}', "max_tokens must be a whole number of at least 1, not true"),
        ('{"prompt_tokens": 5, "max_tokens": 1.5}', "max_tokens must be"),
        ('{"prompt_tokens": 5, "max_tokens": 1, "arrival": -1}', "arrival must be a number of seconds of at least 0"),
        ('{"prompt_tokens": 5, "max_tokens": 1, "arrival": NaN}', "arrival must be"),
        ('{"prompt_tokens": 5, "max_tokens": 1, "arrival": "now"}', "arrival must be"),
        ('{"prompt_tokens": 5, "max_tokens": 1, "shared_prefix": 6}', "shared_prefix 6 is longer than the prompt's 5"),
        ('{"prompt_tokens": 5, "max_tokens": 1, "prefix_group": 3}', "prefix_group must be a text"),
        ('{"prompt": "x", "max_tokens": 1, "shared_prefix": 1}', "shared_prefix and prefix_group are of random"),
    ],
)
def test_a_broken_line_is_told_by_its_number(line, why, written):
    """Catches a traceback, a line that is skipped in silence, a number counted from 0."""
    name = written('{"prompt": "fine", "max_tokens": 3}', line)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - looked at below
        read_workload(name)
    assert str(error.value).startswith(f"{name}:2: ")
    assert why in str(error.value)
    assert "\n" not in str(error.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=6,
)
LIKELY = {
    "prompt": st.text(min_size=1), "prompt_token_ids": st.lists(st.integers(0, 9), min_size=1, max_size=4),
    "prompt_tokens": st.integers(1, 9), "shared_prefix": st.integers(0, 9), "prefix_group": st.text(),
    "arrival": st.floats(0, 9) | st.integers(0, 9), "max_tokens": st.integers(1, 9),
}  # fmt: skip
MAY_STAND = ("shared_prefix", "prefix_group", "arrival")
ENTRIES = st.sampled_from(["prompt", "prompt_token_ids", "prompt_tokens"]).flatmap(
    lambda prompt: st.fixed_dictionaries(
        {prompt: LIKELY[prompt] | VALUES, "max_tokens": LIKELY["max_tokens"] | VALUES},
        optional={key: LIKELY[key] | VALUES for key in MAY_STAND},
    )
)
LINES = st.binary() | st.text().map(str.encode) | (VALUES | ENTRIES).map(lambda value: json.dumps(value).encode())


@example([b"[" * 100_000])
@example([b'{"prompt_tokens": 1, "max_tokens": ' + b"9" * 5000 + b"}"])
@example([b'{"prompt_tokens": 1, "max_tokens": ' + b"9" * 30 + b"}"])
@example([b'{"prompt_tokens": ' + b"9" * 30 + b', "max_tokens": 1}'])
@example([b'{"prompt": "x", "max_tokens": 1, "arrival": 1' + b"0" * 400 + b"}"])
@example([b'{"prompt": "\\ud800", "max_tokens": 1}'])
@example([b'{"prompt_tokens": 3, "max_tokens": 1, "prefix_group": "\\udfff"}'])
@given(st.lists(LINES, min_size=1, max_size=4))
def test_any_line_is_a_request_or_one_error(lines: list[bytes]):
    """Whatever a file holds. Catches a traceback, an error without a place or of two lines, a request that cannot be
    drawn, a line that is skipped."""
    with TemporaryDirectory() as folder:
        name = str(Path(folder) / "requests.jsonl")
        Path(name).write_bytes(b"\n".join(lines))
        filled = [line for line in b"\n".join(lines).split(b"\n") if line.strip()]
        try:
            found = read_workload(name)
        except ValueError as error:
            message = str(error)
            assert re.match(re.escape(name) + (r":[1-9]\d*: " if filled else " holds no request"), message)
            assert len(message.splitlines()) == 1
            return
    assert len(found) == len(filled)
    for request in found:
        assert request.max_tokens >= 1
        assert 0 <= request.shared <= request.random_tokens
        assert math.isfinite(request.arrival)
        assert request.arrival >= 0
        if request.random_tokens < 1000:
            [prompt] = prompts([request], 10)
            assert len(prompt) > 0
            assert len(str(prompt).encode()) > 0


def test_files_without_requests_are_refused(written):
    """An empty file would be a run of nothing; a missing one is told with what there is."""
    with pytest.raises(ValueError, match="holds no request; write one JSON object a line"):
        read_workload(written("", "  "))
    with pytest.raises(ValueError, match="there is no workload 'nowhere'; give a JSONL file, 'synthetic', or one of"):
        read_workload("nowhere")


@pytest.mark.parametrize("path", sorted(READY.glob("*.jsonl")), ids=lambda path: path.stem)
def test_ready_workloads_are_known_by_their_bare_names(path):
    """Catches a broken one, and one that is not part of the package."""
    assert [request.max_tokens for request in read_workload(path.stem)] == [
        json.loads(line)["max_tokens"] for line in path.read_text().splitlines()
    ]


def test_random_prompts_are_the_same_every_time_and_share_what_they_should():
    """Catches ids that depend on the neighbours, groups that share one prefix, own tokens that are the same."""
    requests = [
        Request(1, random_tokens=12, shared=8, group="a"),
        Request(1, random_tokens=12, shared=8, group="b"),
        Request(1, random_tokens=9, shared=4, group="a"),
        Request(1, (3, 1)),
        Request(1, "text"),
        Request(1, random_tokens=8),
    ]
    a, b, short, ids, text, alone = prompts(requests, 1000)
    assert [len(a), len(b), len(short), len(alone)] == [12, 12, 9, 8]
    assert a[:4] == short[:4] != b[:4]
    assert a[8:] != b[8:]
    assert (ids, text) == ([3, 1], "text")
    assert prompts(requests, 1000) == [a, b, short, ids, text, alone]
    assert prompts(requests[:1], 1000) == [a]
    assert all(0 <= token < 7 for token in prompts([Request(1, random_tokens=500)], 7)[0])


def test_lengths_are_drawn_as_they_say():
    """The law itself, by Kolmogorov and Smirnov or exactly; false alarms with probability 0.001 each. Catches a high
    end left out, a mean taken for a median, a sigma of the lengths instead of their logarithms."""
    rng = np.random.default_rng(1)
    assert parse_lengths("7").draw(3, rng) == [7, 7, 7]
    uniform = parse_lengths("uniform:3-6").draw(4000, rng)
    assert stats.chisquare(np.bincount(uniform, minlength=8)[3:7]).pvalue > 1e-3
    assert set(uniform) == {3, 4, 5, 6}
    found = parse_lengths("lognormal:4800,0.8").draw(4000, rng)
    assert stats.kstest(found, stats.lognorm(s=0.8, scale=4800).cdf).pvalue > 1e-3
    assert min(parse_lengths("lognormal:1,2").draw(1000, rng)) == 1, "never a request of nothing"


@pytest.mark.parametrize("text", [
    "", "0", "-3", "1.5", "many", "uniform:5", "uniform:9-5", "uniform:0-5", "uniform:1-x", "lognormal:48",
    "lognormal:0,1", "lognormal:48,-1", "lognormal:nan,1", "lognormal:48,inf", "normal:3,4",
])  # fmt: skip
def test_lengths_that_make_no_sense_are_refused(text):
    with pytest.raises(ValueError, match="write 100, uniform:16-128"):
        parse_lengths(text)


def test_synthetic_requests():
    """Arrivals are Poisson: exponential gaps at the rate. Catches gaps taken for moments, a prefix that is not added,
    lengths that change with the rate, so that a sweep over rates would compare different work."""
    at_once = synthetic(2000, Lengths("uniform", 4, 9), Lengths("lognormal", 48, 0.8), shared=10, seed=3)
    assert {request.arrival for request in at_once} == {0.0}
    assert {request.random_tokens for request in at_once} == set(range(14, 20))
    over_time = synthetic(2000, Lengths("uniform", 4, 9), Lengths("lognormal", 48, 0.8), 5.0, 10, 3)
    assert [(r.random_tokens, r.max_tokens) for r in over_time] == [(r.random_tokens, r.max_tokens) for r in at_once]
    gaps = np.diff([0.0, *(request.arrival for request in over_time)])
    assert stats.kstest(gaps, stats.expon(scale=1 / 5).cdf).pvalue > 1e-3
    assert synthetic(20, Lengths("fixed", 4), Lengths("uniform", 1, 9), seed=3) != synthetic(
        20, Lengths("fixed", 4), Lengths("uniform", 1, 9), seed=4
    )
    first, second = prompts(at_once[:2], 1000)
    assert first[:10] == second[:10]
    assert first[10:14] != second[10:14]
