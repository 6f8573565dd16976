"""What the tests of the command line share: a model, a way to feed stdin, Ctrl-C, processes and terminals."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from golden import write_hf_folder

from tinyinfer import LLM, SamplingParams
from tinyinfer.engine.engine import Engine

ROOT = Path(__file__).parents[1]
STATISTICS = re.compile(
    r"Prompt: (\d+) tokens, [\d.]+ tokens-per-sec, TTFT [\d.]+ s( on average)?\n"
    r"Generation: (\d+) tokens, [\d.]+ tokens-per-sec\n"
    r"Peak memory: \d+\.\d+ GB\n"
)
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and terminals of POSIX")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that could go on for a minute."""
    return str(write_hf_folder("llama", tmp_path_factory.mktemp("long"), changes={"max_position_embeddings": 50_000}))


@pytest.fixture(scope="session")
def llm(folder: str) -> LLM:
    """The same model in Python: what the command line must agree with."""
    return LLM(folder)


@pytest.fixture
def short(golden_folder: Callable[[str], Path]) -> str:
    """A model with a context of 128."""
    return str(golden_folder("llama"))


def chat_text(llm: LLM, prompt: str, n: int, system: str | None = None) -> str:
    start = [] if system is None else [{"role": "system", "content": system}]
    return llm.chat([*start, {"role": "user", "content": prompt}], SamplingParams(max_tokens=n)).text


def unopened(*asked: object) -> LLM:
    """An opener for `main`: opening a model is a failure, since what is tested must come before."""
    pytest.fail("a model was opened before the mistake was told")


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C in the middle of the engine's step of that number (from 1)."""
    forward, steps = Engine.forward, []

    def wrapped(self: Engine, batch: Any) -> Any:
        steps.append(batch)
        if len(steps) == step:
            raise KeyboardInterrupt
        return forward(self, batch)

    monkeypatch.setattr(Engine, "forward", wrapped)


@pytest.fixture
def base_model(short: str, tmp_path: Path) -> str:
    """A model without a chat template; the weights are links to another's."""
    for file in Path(short).iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return str(tmp_path)


def start(*words: str, **options: Any) -> subprocess.Popen[bytes]:
    """The command line in a process of its own; Ctrl-C reaches it whatever this process was told about signals."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
    return subprocess.Popen(
        [sys.executable, "-m", "tinyinfer", *words], cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes,
    )  # fmt: skip


def resize(terminal: int, columns: int) -> None:
    """Gives a terminal another width."""
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


@contextmanager
def terminal(
    monkeypatch: pytest.MonkeyPatch, streams: str, columns: int = 80
) -> Iterator[Callable[[], str]]:
    """A terminal in the place of sys.stdout, sys.stderr or both ("stdout stderr"); gives what was written to it."""
    import pty

    main, end = pty.openpty()
    resize(end, columns)
    seen: list[str] = []
    with os.fdopen(main, "rb"), monkeypatch.context() as patch:
        with open(end, "w", encoding="utf-8") as stream:
            for name in streams.split():
                patch.setattr(sys, name, stream)
            reader = Thread(target=lambda: seen.append(read_terminal(main)))
            reader.start()
            yield lambda: seen[0]
        reader.join(30)


def read_terminal(terminal: int, until: str | None = None) -> str:
    """What is written to a terminal until its other side closes, or until it ends with `until`."""
    seen = b""
    while until is None or not seen.decode(errors="ignore").endswith(until):
        ready, _, _ = select.select([terminal], [], [], 30)
        assert ready, seen
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # Linux's way to say that it has closed
            break
        if not piece:
            break
        seen += piece
    return seen.decode()


def screen(seen: str) -> list[str]:
    """The lines that a terminal shows at last: after \\r, text writes over what is there; ESC [K clears the rest."""
    lines = []
    for line in seen.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            written, *erased = part.split("\x1b[K")
            shown = "".join([written, *erased]) if erased else part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines
