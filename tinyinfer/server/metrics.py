"""Counters and histograms of the server, by the names of vLLM, so that dashboards made for it show this server.

Counted once: a request at its end, its prompt at its first token (so a preemption, or a wait for room, adds nothing).
Tokens of prompts by source, computed or found in the cache, sum to all of them. What the engine knows itself (its
ledger, its cache) is read when the numbers are asked for. Times are from the arrival of the first byte, before
tokenizing; names and intervals: vLLM's documentation, "Metrics".

With several replicas (replicas/) a number that has no replica of its own is the sum over all, under engine="0".
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tinyinfer.llm import LLM
from tinyinfer.request import Delta, Request
from tinyinfer.server.collected import Collected
from tinyinfer.server.step_metrics import StepNumbers

FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
GAP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)
LONG = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
LABELS = ("model_name", "engine")

COUNTERS = {
    "prompt_tokens": "tokens of prompts",
    "prompt_tokens_cached": "tokens of prompts that were found in the prefix cache",
    "generation_tokens": "tokens of answers",
    "prefix_cache_queries": "tokens of prompts that were looked for in the prefix cache",
    "prefix_cache_hits": "tokens of prompts that were found in the prefix cache",
    "corrupted_requests": "requests that ended because the model's numbers overflowed",
}
LABELLED = {
    "prompt_tokens_by_source": ("source", "tokens of prompts, computed or found in the cache"),
    "request_success": ("finished_reason", "requests that have ended"),
    "admission_rejections": ("reason", "requests that were not let in"),
}
HISTOGRAMS = {
    "time_to_first_token_seconds": (FIRST, "from arrival to the first token"),
    "inter_token_latency_seconds": (GAP, "between two tokens of an answer"),
    "request_time_per_output_token_seconds": (GAP, "mean time of the tokens after the first, one value a request"),
    "e2e_request_latency_seconds": (LONG, "from arrival to the last token"),
    "request_queue_time_seconds": (LONG, "from arrival to the first step"),
    "request_prefill_time_seconds": (LONG, "from the first step to the first token"),
    "request_decode_time_seconds": (LONG, "from the first token to the last"),
    "request_inference_time_seconds": (LONG, "from the first step to the last token"),
    "request_prompt_tokens": (TOKENS, "tokens of a prompt"),
    "request_generation_tokens": (TOKENS, "tokens of an answer"),
    "request_params_n": (TOKENS, "answers that were asked for"),
    "request_params_max_tokens": (TOKENS, "longest answer that was asked for"),
}


class Metrics:
    """The numbers of one server. Used on the server's thread alone."""

    def __init__(self, llm: LLM, name: str) -> None:
        self.registry = CollectorRegistry()
        self.open: set[Request] = set()
        values = (name, "0")
        self._counters: dict[str, Any] = {
            key: Counter(f"vllm:{key}", text, LABELS, registry=self.registry).labels(*values)
            for key, text in COUNTERS.items()
        }
        self._labelled = {
            key: Counter(f"vllm:{key}", text, (*LABELS, label), registry=self.registry)
            for key, (label, text) in LABELLED.items()
        }
        self._histograms = {
            key: Histogram(f"vllm:{key}", text, LABELS, buckets=buckets, registry=self.registry).labels(*values)
            for key, (buckets, text) in HISTOGRAMS.items()
        }
        self._values = values
        self._end = llm.on_step(StepNumbers(self.registry, name, LABELS))
        self.registry.register(EngineNumbers(llm, self.open, values))
        for reason in ("stop", "length", "abort", "error"):
            self._with("request_success", reason)  # a counter that is not there cannot be told from a wrong name

    def began(self, requests: list[Request]) -> None:
        """The engine has these requests."""
        self.open.update(requests)

    def saw(self, answer: Collected, delta: Delta, arrival: float) -> None:
        """New tokens of an answer, which has not taken them yet. arrival: when its call came."""
        new, seen, seq = len(delta.token_ids), len(answer.token_ids), answer.source.seq
        if not seen and answer.is_first and (new or delta.finish_reason == "length"):  # else it was not computed
            self._saw_prompt(len(seq.prompt), seq.progress.cached_tokens)
        if not new:
            return
        times = seq.timing.times[max(0, seen - 1) : seen + new]
        if not seen:
            self._histograms["time_to_first_token_seconds"].observe(times[0] - arrival)
        for earlier, later in pairwise(times):
            self._histograms["inter_token_latency_seconds"].observe(later - earlier)
        self._counters["generation_tokens"].inc(new)

    def ended(self, answer: Collected, arrival: float, reason: str) -> None:
        """The request of an answer is over."""
        request, seq = answer.source, answer.source.seq
        self.open.discard(request)
        self._with("request_success", reason).inc()
        n, times, started = len(answer.token_ids), seq.timing.times[: len(answer.token_ids)], seq.timing.started
        told: dict[str, float] = {
            "request_prompt_tokens": len(seq.prompt), "request_generation_tokens": n,
            "request_params_max_tokens": seq.request.max_tokens,
        }  # fmt: skip
        if answer.is_first:  # vLLM counts it once a prompt, all others once an answer
            told["request_params_n"] = seq.request.params.n
        if times:
            told |= {
                "e2e_request_latency_seconds": times[-1] - arrival,
                "request_queue_time_seconds": started - arrival,
                "request_prefill_time_seconds": times[0] - started,
                "request_decode_time_seconds": times[-1] - times[0],
                "request_inference_time_seconds": times[-1] - started,
            }
        if n > 1:
            told["request_time_per_output_token_seconds"] = (times[-1] - times[0]) / (n - 1)
        for name, value in told.items():
            self._histograms[name].observe(value)

    def corrupted(self) -> None:
        """The model's numbers overflowed for a request."""
        self._counters["corrupted_requests"].inc()

    def rejected(self, reason: str) -> None:
        """A request was not let in."""
        self._with("admission_rejections", reason).inc()

    def close(self) -> None:
        """Counts no more steps."""
        self._end()

    def text(self) -> bytes:
        """All numbers in the format that Prometheus reads."""
        return generate_latest(self.registry)

    def _saw_prompt(self, tokens: int, cached: int) -> None:
        counted = {"prompt_tokens": tokens, "prompt_tokens_cached": cached}
        counted |= {"prefix_cache_queries": tokens, "prefix_cache_hits": cached}
        for name, value in counted.items():
            self._counters[name].inc(value)
        self._with("prompt_tokens_by_source", "local_compute").inc(tokens - cached)
        self._with("prompt_tokens_by_source", "local_cache_hit").inc(cached)

    def _with(self, name: str, label: str) -> Any:
        return self._labelled[name].labels(*self._values, label)


class EngineNumbers(Collector):
    """What is read off the engine when the numbers are asked for."""

    def __init__(self, llm: LLM, open_requests: set[Request], values: tuple[str, str]) -> None:
        self._llm, self._open, self._values = llm, open_requests, values

    def collect(self) -> Iterator[Metric]:
        """The metrics, one by one."""
        engine, ledger = self._llm.engine, self._llm.ledger
        running = sum(bool(request.seq.timing.started) for request in self._open)
        waiting = len(self._open) - running
        yield self._gauge("num_requests_running", "requests in the engine's steps", running)
        yield self._gauge("num_requests_waiting", "requests that wait for their first step", waiting)
        reasons = GaugeMetricFamily(
            "vllm:num_requests_waiting_by_reason", "requests that wait, by reason", labels=[*LABELS, "reason"]
        )
        reasons.add_metric([*self._values, "capacity"], waiting)
        yield reasons
        if most := engine.cache.spec.num_blocks if self._llm.engine_config.kv_cache == "paged" else 0:
            text = "share of a replica's blocks that requests hold"
            usage = GaugeMetricFamily("vllm:kv_cache_usage_perc", text, labels=LABELS)
            for number, blocks in engine.blocks_held.items():
                usage.add_metric([self._values[0], str(number)], blocks / most)
            yield usage
        yield self._counter("num_preemptions", "requests that gave up their blocks", ledger.preemptions)
        yield self._counter("spec_decode_num_draft_tokens", "drafts that were verified", ledger.drafts_proposed)
        yield self._counter("spec_decode_num_accepted_tokens", "drafts that were accepted", ledger.drafts_accepted)
        yield self._cache_config()

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", text, labels=LABELS)
        family.add_metric(self._values, value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", text, labels=LABELS)
        family.add_metric(self._values, value)
        return family

    def _cache_config(self) -> Metric:
        """The switches of the cache as labels of a number that is always 1."""
        config = self._llm.engine_config
        names = ("kv_cache", "block_size", "num_blocks", "kv_bits", "prefix_cache")
        told = {"engine": self._values[1], **{name: str(getattr(config, name)) for name in names}}
        family = GaugeMetricFamily("vllm:cache_config_info", "the switches of the cache", labels=tuple(told))
        family.add_metric(tuple(told.values()), 1)
        return family
