"""What a load says of a server, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyinfer.measure.serving_client import Answered
from tinyinfer.measure.serving_figures import (
    details,
    draw_knee,
    keeps,
    latencies,
    serving_text,
    summary,
)

# Due at 0, sent at 1, tokens at 1.5, 1.7 and 2.1, over at 2.2.
SLOW = Answered(0.0, 1.0, 2.2, [(1.5, 1), (1.7, 1), (2.1, 1)], 10, 3)
FAST = Answered(2.0, 2.0, 3.0, [(2.1, 1), (2.5, 4)], 20, 5)
FAILED = Answered(2.0, 2.0, 2.1, error="HTTP 429: queue is full")
DONE = [SLOW, FAST, FAILED]


def test_the_latencies_of_a_request() -> None:
    found = latencies([SLOW])
    assert found["ttft"] == pytest.approx([500])
    assert found["tpot"] == pytest.approx([300])
    assert found["itl"] == pytest.approx([200, 400])
    assert found["e2el"] == pytest.approx([1200])
    assert found["client_queue_time"] == pytest.approx([1000])
    assert found["ttft_including_client_queue"] == pytest.approx([1500])
    assert found["e2el_including_client_queue"] == pytest.approx([2200])


def test_a_piece_of_four_tokens_has_four_gaps() -> None:
    assert latencies([FAST])["itl"] == pytest.approx([100] * 4)
    assert latencies([FAST])["tpot"] == pytest.approx([100])


def test_one_token_has_no_pace() -> None:
    assert latencies([Answered(0.0, 0.0, 1.0, [(0.5, 1)], 1, 1)])["tpot"] == []


def test_a_failure_has_no_latency_and_is_counted() -> None:
    """Catches refusals that make a server fast."""
    found = summary(DONE, {}, [99])
    assert (found["completed"], found["failed"]) == (2, 1)
    assert found["failures"] == {"HTTP 429: queue is full": 1}
    assert len(latencies(DONE)["ttft"]) == 2


def test_throughput_is_of_all_the_time() -> None:
    found = summary(DONE, {}, [99])
    assert found["duration"] == 3.0
    assert found["request_throughput"] == pytest.approx(2 / 3)
    assert found["output_throughput"] == pytest.approx(8 / 3)
    assert found["total_token_throughput"] == pytest.approx(38 / 3)
    assert found["max_output_tokens_per_s"] == 6  # between 2 and 3: one of the first, five of the second
    assert found["max_concurrent_requests"] == 3
    assert found["request_goodput"] is None


@pytest.mark.parametrize(
    ("promise", "kept"),
    [
        ({"ttft": 500.1}, True), ({"ttft": 499.9}, False), ({"tpot": 300.1}, True), ({"tpot": 299.9}, False),
        ({"e2el": 1200.1}, True), ({"ttft": 600, "e2el": 1199.9}, False),
    ],
)  # fmt: skip
def test_a_promise_is_kept_or_not(promise: dict[str, float], kept: bool) -> None:
    assert keeps(SLOW, promise) is kept
    assert not keeps(FAILED, promise)


def test_goodput_counts_those_that_kept_every_promise() -> None:
    assert summary(DONE, {"ttft": 200}, [99])["request_goodput"] == pytest.approx(1 / 3)


def test_the_percentiles_are_those_that_were_asked_for() -> None:
    found = summary(DONE, {}, [50, 99.9])
    assert found["p50_ttft_ms"] == pytest.approx(found["median_ttft_ms"]) == pytest.approx(300)
    assert found["p99.9_ttft_ms"] == pytest.approx(499.6)
    assert "p90_ttft_ms" not in found


def test_a_load_without_an_answer_has_no_latencies() -> None:
    """Catches a division by zero, and zeros that look like figures."""
    found = summary([FAILED], {"ttft": 5}, [99])
    assert found["mean_ttft_ms"] is None
    assert found["completed"] == 0
    assert "1 failed: HTTP 429" in serving_text(found, [99], ["ttft"])
    assert summary([], {}, [99])["completed"] == 0


def test_details_come_in_the_order_of_the_requests() -> None:
    found = details([FAST, FAILED, SLOW])
    assert found["output_lens"] == [3, 5, 0]
    assert found["ttfts"] == pytest.approx([0.5, 0.1, None])
    assert found["errors"] == ["", "", "HTTP 429: queue is full"]


def test_the_figures_for_people() -> None:
    text = serving_text(summary(DONE, {"ttft": 200}, [90, 99]), [90, 99], ["ttft", "tpot"])
    assert text.startswith("1 failed: HTTP 429: queue is full")
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("requests failed")] == ["1"]
    assert "time to first token" in text
    assert "gap between tokens" not in text


def test_a_sweep_is_drawn(tmp_path: Path) -> None:
    records = [summary(DONE, {}, [99]) | {"load": name} for name in ("one at a time", "all at once")]
    draw_knee(str(tmp_path / "knee.svg"), "a model", records)
    drawn = (tmp_path / "knee.svg").read_text()
    assert "all at once" in drawn
    assert "Time to first token" in drawn
