"""Ranks on two hosts: network namespaces that see each other through one wire, whose bytes the system counts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WIRE = "10.99.7."  # addresses of the two hosts: .1 and .2
LAUNCHER = """#!/bin/bash
# As ssh would: launcher -x HOST COMMAND
while [[ $1 == -* ]]; do shift; done
host=$1; shift
exec ip netns exec tinyinfer${host##*.} sh -c "$*"
"""
OVER_THE_WIRE = {"UCX_TLS": "tcp,self"}  # else ranks of one machine meet in its memory, whatever hosts they have


def ip(*words: str) -> bool:
    """Whether the system has done what `ip` was asked for."""
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[str]]:
    """Two namespaces, joined by a wire. Skips where the system makes none."""
    names = ["tinyinfer1", "tinyinfer2"]
    if not shutil.which("ip") or not all(map(ip, ["netns"] * 2, ["add"] * 2, names)):
        for name in names:
            ip("netns", "delete", name)
        pytest.skip("this system makes no network namespaces: they need `ip` and root")
    ip("link", "add", "wire1", "netns", names[0], "type", "veth", "peer", "name", "wire2", "netns", names[1])
    for n, name in enumerate(names, 1):
        ip("-n", name, "address", "add", f"{WIRE}{n}/24", "dev", f"wire{n}")
        ip("-n", name, "link", "set", f"wire{n}", "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield names
    for name in names:
        ip("netns", "delete", name)


def carried(host: str) -> int:
    """Bytes that the first host's wire has carried, in both directions."""
    shown = subprocess.run(["ip", "-n", host, "-s", "-j", "link", "show", "wire1"], capture_output=True, check=True)
    counted = json.loads(shown.stdout)[0]["stats64"]
    return int(counted["tx"]["bytes"]) + int(counted["rx"]["bytes"])


@pytest.mark.mpi
@pytest.mark.parametrize("flag", ["-tp", "-pp"])
def test_two_hosts_say_what_one_process_says(
    hosts: list[str], flag: str, golden_folder: Any, tmp_path: Path
) -> None:
    """And what the ledger counts goes over the wire. Catches ranks that meet in memory, or name a host alike."""
    launcher = tmp_path / "launcher.sh"
    launcher.write_text(LAUNCHER, encoding="utf-8")
    launcher.chmod(0o755)
    words = ["-m", "tinyinfer", "generate", "-m", str(golden_folder("smollm2")), "--raw", "--ignore-eos", "-n", "60"]
    words += ["--json", "the in er an on"]
    alone = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    before = carried(hosts[0])
    done = subprocess.run(
        ["ip", "netns", "exec", hosts[0], "mpiexec", "-launcher", "ssh", "-launcher-exec", str(launcher),
         "-localhost", f"{WIRE}1", "-hosts", f"{WIRE}1,{WIRE}2", "-n", "2", "-ppn", "1",
         sys.executable, *words, flag, "2"],
        capture_output=True, text=True, timeout=120, check=False, env=os.environ | OVER_THE_WIRE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["token_ids"] == json.loads(alone.stdout)["token_ids"]
    assert carried(hosts[0]) - before > answer["ledger"]["bytes_sent"] > 0  # the ledger's are those of both ranks
