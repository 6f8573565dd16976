"""schemathesis, which none here wrote, reads /openapi.json and sends what it describes, and what it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import folder, start
from http_calls import eventually

from tinyinfer.replicas.on_ray import free_port

__all__ = ["folder"]


@pytest.mark.full
def test_schemathesis_finds_nothing(folder: str) -> None:
    """No 500, no answer of another form, no wrong type that is taken: `pip install schemathesis` first, two minutes.

    positive_data_acceptance is left out: a schema does not say which numbers go together, so that some bodies that fit
    it are 400 (top_logprobs without logprobs).
    """
    port = free_port("127.0.0.1")
    server = start("serve", "-m", folder, "--port", str(port), "-c", "64", stderr=subprocess.DEVNULL)
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"http://127.0.0.1:{port}/openapi.json"]
    command += ["--wait-for-schema", "60", "--exclude-checks", "positive_data_acceptance"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stdout[-5000:]
        assert eventually(lambda: server.poll() is None)
    finally:
        server.kill()
        server.communicate()
