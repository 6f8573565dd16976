"""A served model behind a real socket in this process, for clients that no one here wrote."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from http_calls import Served, eventually


@contextmanager
def listening(served: Served) -> Iterator[str]:
    """The address, for the time of the block."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(served.app, lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        assert eventually(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
