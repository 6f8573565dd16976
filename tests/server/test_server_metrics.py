"""The numbers of a server: what must add up does, and nothing is counted twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from golden import write_hf_folder
from http_calls import Served, eventually, talk, together
from prometheus_client.parser import text_string_to_metric_families
from scripted import scripted
from thinking_templates import QWEN3

from tinyinfer import LLM
from tinyinfer.errors import NotFiniteError

NAMES = [
    "num_requests_running", "num_requests_waiting", "num_requests_waiting_by_reason", "kv_cache_usage_perc",
    "num_preemptions_total", "prompt_tokens_total", "prompt_tokens_by_source_total", "prompt_tokens_cached_total",
    "generation_tokens_total", "prefix_cache_queries_total", "prefix_cache_hits_total", "request_success_total",
    "admission_rejections_total", "corrupted_requests_total", "time_to_first_token_seconds_count",
    "inter_token_latency_seconds_count", "request_time_per_output_token_seconds_count",
    "e2e_request_latency_seconds_count", "request_queue_time_seconds_count", "request_prefill_time_seconds_count",
    "request_decode_time_seconds_count", "request_inference_time_seconds_count", "request_prompt_tokens_count",
    "request_generation_tokens_count", "request_params_n_count", "request_params_max_tokens_count",
    "iteration_tokens_total_count", "spec_decode_num_drafts_total",
    "spec_decode_num_draft_tokens_total", "spec_decode_num_accepted_tokens_total", "cache_config_info",
]  # fmt: skip


def test_the_names_are_vllms_and_the_format_is_prometheuss(served: Served) -> None:
    """Catches a misspelt name: a dashboard shows nothing for it, and says nothing."""
    served.chat(max_tokens=2)
    served.service.metrics.rejected("queue_full")
    text = served.get("/metrics").body.decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {sample.name for sample in samples}
    assert {"vllm:" + name for name in NAMES} <= found
    assert "tinyinfer:prompt_tokens_recomputed_total" in found, "vLLM's number of that name is another one"
    assert all(sample.labels["engine"] == "0" for sample in samples)
    labelled = [sample for sample in samples if sample.name != "vllm:cache_config_info"]
    assert {sample.labels["model_name"] for sample in labelled} == {"tiny"}


def test_tokens_of_prompts_by_source_sum_to_the_total(served: Served) -> None:
    """The second conversation finds the first one's blocks; the numbers are those of the answers' usage."""
    answers = [served.chat("a long story " * 10, max_tokens=3).json["usage"] for _ in range(2)]
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in answers]
    assert cached[0] == 0 < cached[1]
    total = served.number("prompt_tokens_total")
    assert total == sum(usage["prompt_tokens"] for usage in answers)
    assert served.number("prompt_tokens_by_source_total", source="local_cache_hit") == cached[1]
    assert served.number("prompt_tokens_by_source_total") == total
    assert served.number("prefix_cache_hits_total") == served.number("prompt_tokens_cached_total") == cached[1]
    assert served.number("prefix_cache_queries_total") == total
    assert served.number("generation_tokens_total") == sum(usage["completion_tokens"] for usage in answers)


@pytest.mark.parametrize("stream", [False, True])
def test_18_a_request_is_counted_once_and_its_first_token_is_a_token(served: Served, stream: bool) -> None:
    """Catches a role-only chunk taken for the first token, and a gap counted for it."""
    begun = served.service.clock()
    served.chat(max_tokens=6, ignore_eos=True, stream=stream)
    took = served.service.clock() - begun
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        assert served.number(name + "_count") == 1
    assert served.number("request_success_total", finished_reason="length") == 1
    assert served.number("inter_token_latency_seconds_count") == 5
    parts = [served.number(f"request_{part}_time_seconds_sum") for part in ("queue", "prefill", "decode")]
    whole = served.number("e2e_request_latency_seconds_sum")
    assert sum(parts) == pytest.approx(whole)
    first = served.number("time_to_first_token_seconds_sum")
    assert first == pytest.approx(parts[0] + parts[1])
    assert served.number("inter_token_latency_seconds_sum") == pytest.approx(parts[2])
    assert 0 < first < whole < took


def test_n_is_counted_once_a_prompt_as_in_vllm(served: Served) -> None:
    """Catches four answers to one prompt that show as four calls of n=4."""
    served.complete(["hello", "x"], n=4, max_tokens=2, temperature=1)
    assert served.number("request_params_n_count") == 2
    assert served.number("request_params_n_sum") == 8
    assert served.number("request_params_max_tokens_count") == 8


def test_a_name_that_is_not_there_fails(served: Served) -> None:
    """Catches a test of 0 that passes with a misspelt name."""
    assert served.number("admission_rejections_total", reason="queue_full") == 0
    with pytest.raises(AssertionError, match="no admission_rejection_total"):
        served.number("admission_rejection_total")


def test_running_and_waiting_requests_are_told_apart(served_llm: LLM) -> None:
    """Four run at once: the fifth and the sixth wait. Nothing is left when their clients have gone."""
    served = Served(served_llm)

    async def story() -> None:
        body = talk(ignore_eos=True, stream=True)
        calls = [asyncio.create_task(served.asked("/v1/chat/completions", body)) for _ in range(6)]
        known = served.service.metrics.open
        while len(known) < 6 or sum(bool(one.seq.timing.started) for one in known) < 4:
            await asyncio.sleep(0.001)
        text = (await served.ask("GET", "/metrics", b"", {"host": "localhost"})).body.decode()
        numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        labels = '{engine="0",model_name="tiny"}'
        assert float(numbers["vllm:num_requests_running" + labels]) == 4
        assert float(numbers["vllm:num_requests_waiting" + labels]) == 2
        assert 0 < float(numbers["vllm:kv_cache_usage_perc" + labels]) < 1
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(story())
    assert eventually(served.at_rest)
    assert served.number("num_requests_running") == served.number("num_requests_waiting") == 0
    assert served.number("kv_cache_usage_perc") == 0
    assert served.number("request_success_total", finished_reason="abort") == 6


def test_a_damaged_models_requests_are_counted_and_the_server_lives(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole and streamed. Catches an engine that is dead after NaN, and a 200 without an error in it."""
    step = served.llm.engine.step

    def broken(*args: Any) -> Any:
        raise NotFiniteError("the model's numbers overflow in layer 1", "use float32")

    with monkeypatch.context() as patch:
        patch.setattr(served.llm.engine, "step", broken)
        answer = served.chat(max_tokens=2)
        assert (answer.status, answer.error["type"]) == (500, "server_error")
        assert "overflow in layer 1" in answer.error["message"]
        assert "overflow" in served.chat(max_tokens=2, stream=True).chunks[-1]["error"]["message"]
    assert served.llm.engine.step == step
    assert served.chat(max_tokens=2).status == 200
    assert served.number("corrupted_requests_total") == 2
    assert served.number("request_success_total", finished_reason="error") == 2
    assert served.number("request_success_total") == 3


def test_tokens_of_steps_sum_to_what_the_engine_computed(served: Served, served_llm: LLM) -> None:
    """Three requests share steps. Catches a histogram that counts a step for each request in it."""
    before = served_llm.ledger.copy()
    together(*(served.asked("/v1/chat/completions", talk(max_tokens=5, ignore_eos=True)) for _ in range(3)))
    done = served_llm.ledger - before
    assert served.number("iteration_tokens_total_count") == done.steps
    assert served.number("iteration_tokens_total_sum") == done.tokens_computed
    assert served.number("prompt_tokens_recomputed_total") == done.tokens_recomputed == 0
    assert served.number("spec_decode_num_drafts_total") == 0


def test_drafts_are_counted_by_their_position(tmp_path: Path) -> None:
    """A text that repeats itself. Their sum is what the ledger accepted; a later position is never accepted more often.
    """
    served = Served(scripted(tmp_path, QWEN3, "la " * 60, speculative="prompt-lookup", num_draft_tokens=3))
    before = served.llm.ledger.copy()
    served.complete("la la la la la", max_tokens=50)
    done = served.llm.ledger - before
    by_position = [served.number("spec_decode_num_accepted_tokens_per_pos_total", position=str(n)) for n in range(3)]
    assert done.drafts_accepted == sum(by_position) > 0
    assert by_position == sorted(by_position, reverse=True)
    drafts = served.number("spec_decode_num_drafts_total")
    assert by_position[0] <= drafts <= done.drafts_proposed <= 3 * drafts


def test_prompt_tokens_that_a_preemption_lost_are_counted_once_more(tmp_path: Path) -> None:
    """Of the answer's tokens none. Catches a counter that is the ledger's, which counts both."""
    folder = write_hf_folder("llama", tmp_path)
    served = Served(LLM(str(folder), kv_cache="paged", num_blocks=12, block_size=4))
    body = {"max_tokens": 30, "temperature": 0, "ignore_eos": True}
    together(*(served.asked("/v1/completions", {**body, "prompt": [5 + n] * 10}) for n in range(3)))
    lost = served.number("prompt_tokens_recomputed_total")
    assert lost == 10 * served.number("num_preemptions_total") > 0
    assert lost < served.llm.ledger.tokens_recomputed


def test_a_server_that_has_ended_counts_no_more_steps(served_llm: LLM) -> None:
    """Catches one that is kept for ever by the engine of another one."""
    before = len(served_llm._loop.listeners)
    served = Served(served_llm)
    served.service.close()
    assert len(served_llm._loop.listeners) == before
