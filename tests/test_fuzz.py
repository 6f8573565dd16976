"""benchmarks/fuzz.py: an input follows from its kind and number, and a finding is told from what is promised."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="the fuzzer forks, and reads /proc")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from fuzz import Scratch, State, Tally, joined, outcomes, replay
from fuzzing import seeds, trial
from fuzzing.gguf_bytes import parsed
from fuzzing.kinds import KINDS, made
from fuzzing.trial import Outcome, _ended

from tinyinfer.errors import ModelError, SwitchError


def test_an_input_is_the_same_every_time() -> None:
    """Catches a finding that cannot be made again: its kind and its number are all that is kept of it."""
    inputs = [made("vocab.json, merges.txt", number) for number in range(20)]
    assert inputs == [made("vocab.json, merges.txt", number) for number in range(20)]
    assert len({str(changed) for _, changed in inputs}) > 15


def test_a_gguf_taken_apart_and_written_is_the_same() -> None:
    """Catches a mutator whose every file is broken, so that no loader is tried beyond the first check."""
    for seed in seeds.vocabularies():
        assert parsed(seed.files[seed.opened]).packed() == seed.files[seed.opened]


def test_only_promised_exceptions_are_no_finding() -> None:
    """Catches a harness that takes a bare ValueError, or a message without an end, for an answer."""

    def raising(error: BaseException) -> tuple[str, bool]:
        def work() -> str:
            raise error

        ending, fault = _ended(work)
        return ending, bool(fault)

    assert raising(ModelError("x: is broken; download it again")) == ("refused", False)
    assert raising(SwitchError("a", 1, "{field} is {value}")) == ("declined", False)
    assert raising(ModelError(f"x: {'y' * 2000}")) == ("refused", True)
    assert raising(ValueError("could not broadcast input array")) == ("raised", True)
    assert raising(IndexError("9")) == ("raised", True)
    assert _ended(lambda: "loaded") == ("loaded", "")


def test_time_is_a_finding_whoever_catches_its_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a slow check that passes: the tokenizer's loader takes any exception for the library's, Late too."""
    monkeypatch.setattr(trial, "SECONDS", 0.1)

    def slow() -> str:
        try:
            while True:
                pass
        except BaseException:
            raise ModelError("x: is not a tokenizer") from None

    ending, fault = _ended(slow)
    assert (ending, fault.splitlines()[0]) == ("late", "takes more than 0 s")
    assert "in slow" in fault


def test_a_state_is_gone_on_with(tmp_path: Path) -> None:
    """Catches numbers that are run twice or never, and a finding that is lost."""
    first = State(tmp_path)
    first.add("gguf", Outcome("loaded", 1.0, 2.0, 0.0))
    first.add("gguf", Outcome("raised", 0.1, 9.0, 0.0, "IndexError: 9\nplace"))
    first.save()
    again = State(tmp_path)
    assert (again.tallies["gguf"].next, again.tallies["gguf"].findings) == (2, 1)
    assert again.tallies["gguf"].endings == {"loaded": 1, "raised": 1}
    assert [(found["kind"], found["number"]) for found in again.listed()] == [("gguf", 1)]


def test_a_second_state_has_inputs_of_its_own(tmp_path: Path) -> None:
    """Catches two processes that run the same inputs, and count them twice."""
    second = State(tmp_path, first=5_000_000)
    second.add("gguf", Outcome("loaded", 1.0, 2.0, 0.0))
    second.save()
    assert (State(tmp_path).tallies["gguf"].next, State(tmp_path).tallies["gguf"].count) == (5_000_001, 1)
    assert joined([second.tallies["gguf"], Tally(next=7)]).count == 8


def test_the_whole_seed_loads_after_an_input(tmp_path: Path) -> None:
    """Catches an input whose files stay behind and spoil the next one."""
    scratch = Scratch(tmp_path)
    for number in range(5):
        scratch.run("vocab.json, merges.txt", number)
    for seed in seeds.without_tokenizer_json():
        folder = scratch.folders.get(seed.name)
        assert folder is None or {path.name: path.read_bytes() for path in folder.iterdir()} == seed.files


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_no_finding_among_the_first_inputs(kind: str) -> None:
    """What a million inputs show, in little: only promised exceptions, no crash, time and memory within bounds."""
    found = list(outcomes(kind, range(100)))
    assert len(found) == 100
    assert not [(i, outcome.fault) for i, outcome in enumerate(found) if outcome.fault]


@pytest.mark.full
def test_a_mended_finding_is_dropped(tmp_path: Path) -> None:
    """Catches a replay that forgets what remains, or keeps what was mended."""
    state = State(tmp_path)
    state.add("config.json", Outcome("raised", 0.1, 9.0, 0.0, "IndexError: 9\nplace"))
    replay(state)
    assert state.listed() == []
    assert State(tmp_path).tallies["config.json"].findings == 0
