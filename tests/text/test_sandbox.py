"""The meter of a rendering belongs to that rendering, whatever other threads render."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from jinja2.sandbox import SecurityError

from tinyinfer.text.sandbox import Sandbox


def test_renderings_of_two_threads_count_their_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins and ends inside the first one. Catches steps that the second adds to the first, or forgets."""
    monkeypatch.setattr("tinyinfer.text.sandbox.MAX_STEPS", 100)
    sandbox = Sandbox()
    loop = "{% for i in range(n) %}{% endfor %}"
    template = sandbox.metered_template(f"{loop}{{{{ other() }}}}{loop}")

    def other() -> str:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(sandbox.render, template, {"n": 40, "other": str}).result()

    assert sandbox.render(template, {"n": 40, "other": other}) == ""
    with pytest.raises(SecurityError, match="more than 100 steps"):
        sandbox.render(template, {"n": 60, "other": str})
