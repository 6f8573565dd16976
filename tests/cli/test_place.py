"""Of several processes one says what all of them would say."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tinyinfer.cli.console import fail
from tinyinfer.cli.place import FOLDER, said_elsewhere


def test_the_first_process_says_it_and_the_others_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a line for each process, and one that a replica says before the first process could."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv("TINYINFER_PLACE", "1")
    found: list[bool] = []
    replica = threading.Thread(target=lambda: found.append(said_elsewhere("there is no such model")))
    replica.start()
    time.sleep(0.1)
    assert replica.is_alive()
    monkeypatch.delenv("TINYINFER_PLACE")
    assert fail("there is no such model") == 2
    assert fail("there is no such model") == 2
    replica.join(20)
    assert found == [True]
    assert capsys.readouterr().err == "tinyinfer: error: there is no such model\n"


def test_what_one_replica_has_to_say_is_said_with_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also on a node of a cluster, which has no such folder. Catches an error that no process says."""
    monkeypatch.setattr("tinyinfer.cli.place.MOMENT", 0.05)
    monkeypatch.setenv("TINYINFER_PLACE", "2")
    for folder in (tmp_path, tmp_path / "none"):
        monkeypatch.setenv(FOLDER, str(folder))
        fail("no GPU is here")
        assert capsys.readouterr().err == "tinyinfer: error: replica 2: no GPU is here\n"
