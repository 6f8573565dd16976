"""Speeds out of what `bench` wrote: its phases apart, or the time of a whole load divided between them."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace

import pytest

from tinyinfer.errors import ModelError
from tinyinfer.measure import cost_speeds
from tinyinfer.measure.cost import Speed, Tokens
from tinyinfer.measure.cost_speeds import read_lines, speeds_of
from tinyinfer.measure.serving_client import Answered
from tinyinfer.measure.serving_figures import summary

BENCH = {"prompt_tps": 600.0, "generation_tps": 80.0, "ttft_p50_s": 0.2, "ttft_p99_s": 0.9, "tpot_p50_s": 0.05,
         "tpot_p99_s": 0.06, "batch": 4}  # fmt: skip
SERVED = {"total_input_tokens": 1000, "total_output_tokens": 400, "duration": 10.0, "mean_ttft_ms": 100.0,
          "mean_e2el_ms": 500.0, "median_ttft_ms": 90.0, "p99_ttft_ms": 300.0, "median_tpot_ms": 20.0,
          "p99_tpot_ms": 40.0, "load": "2/s"}  # fmt: skip
SPLIT = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2, "data_parallel_size": 3, "gpus": 24, "sequences": 96,
         "prompt_tps": 3000.0, "generation_tps": 900.0, "ttft_s": 0.1, "tpot_s": 0.03}  # fmt: skip


def test_the_examples_of_the_module():
    """How the seconds of a load are divided, by hand."""
    assert doctest.testmod(cost_speeds) == (0, 1)


def test_bench_has_both_phases():
    """Its own figures, at the percentile that is asked for."""
    assert speeds_of(BENCH, "b.json") == [Speed(600.0, 80.0, 0.2, 0.05, 1, "4 at a time")]
    assert speeds_of(BENCH, "b.json", 99)[0].ttft_s == 0.9


def test_a_load_costs_what_it_was_measured_to_cost():
    """Ten seconds for all its tokens, whatever the division. Catches an output speed that leaves prefill's time out."""
    [speed] = speeds_of(SERVED, "s.json")
    assert sum(speed.seconds(Tokens(1000, 400))) == pytest.approx(10.0)
    assert speed.seconds(Tokens(1000, 400))[0] == pytest.approx(2.0)  # a fifth of a client's wait
    assert (speed.ttft_s, speed.tpot_s, speed.name) == (0.09, 0.02, "2/s")
    assert speeds_of(SERVED, "s.json", 99)[0].tpot_s == 0.04


def test_the_names_are_those_that_bench_serve_writes():
    """Catches a figure that was renamed there: two requests, of 30 tokens in and 8 out, in three seconds."""
    done = [Answered(0.0, 1.0, 2.2, [(1.5, 1), (1.7, 1), (2.1, 1)], 10, 3),
            Answered(2.0, 2.0, 3.0, [(2.1, 1), (2.5, 4)], 20, 5)]  # fmt: skip
    [speed] = speeds_of(summary(done, {}, [90, 99]), "s.json", 90)
    assert sum(speed.seconds(Tokens(30, 8))) == pytest.approx(3.0)
    assert speed.ttft_s == pytest.approx(0.1 + 0.9 * 0.4)


def test_input_that_a_prefix_cache_had_is_taken_off_once():
    """Two requests of 100 tokens, 80 of them cached: 40 were computed, and such a request costs what it was measured to
    cost. Catches a load that counts the cached part as computed, which --cached-tokens then takes off a second time.
    """
    done = [Answered(0.0, 0.0, 1.0, [(0.5, 1), (1.0, 1)], 100, 2, cached_tokens=80) for _ in range(2)]
    [speed] = speeds_of(summary(done, {}, [50]), "s.json")
    assert 2 * sum(speed.seconds(Tokens(100, 2, cached=80))) == pytest.approx(1.0)
    [whole] = speeds_of(summary([replace(one, cached_tokens=None) for one in done], {}, [50]), "s.json")
    assert 2 * sum(whole.seconds(Tokens(100, 2))) == pytest.approx(1.0)


def test_a_replayed_workload_costs_what_it_was_measured_to_cost():
    """Its phases overlap in time, so that their own speeds would count seconds twice."""
    line = {**BENCH, "workload": "w", "seconds": 4.0, "computed_prompt_tokens": 1200, "generated_tokens": 160}
    [speed] = speeds_of(line, "w.json")
    assert speed.seconds(Tokens(1200, 160)) == (pytest.approx(2.0), pytest.approx(2.0))
    assert len(speeds_of(line | {"sweep": [line, line]}, "w.json")) == 2


def test_a_machine_of_a_cluster_is_a_replica():
    """Three replicas of eight GPUs are three machines, each a third of the speed."""
    [speed] = speeds_of({"frontier": [SPLIT]}, "c.json")
    assert speed == Speed(1000.0, 300.0, 0.1, 0.03, 8, "TP 4 x PP 2, 32 at a time", on_paper=True)


@pytest.mark.parametrize(
    ("line", "words"),
    [({}, "holds no speeds"), (BENCH | {"prompt_tps": None}, "prompt_tps is None"),
     (BENCH | {"generation_tps": -1}, "generation_tps is -1"), (SERVED | {"duration": 0}, "duration is 0"),
     ({"frontier": [SPLIT | {"tpot_s": "x"}]}, "tpot_s is 'x'"), ({"frontier": 5}, "frontier is 5"),
     ({"sweep": [1]}, "sweep is [1]"), ({"sweep": []}, "sweep is []"),
     (SERVED | {"median_tpot_ms": "x"}, "median_tpot_ms is 'x'"),
     (SERVED | {"failed": 900}, "900 requests of the load failed")],
)  # fmt: skip
def test_a_file_without_speeds_is_one_sentence(line, words):
    """It names the file. Catches a traceback for a field that is missing."""
    with pytest.raises(ValueError, match=r"^f\.json: ") as told:
        speeds_of(line, "f.json")
    assert words in str(told.value)


def test_a_percentile_that_was_not_measured_is_refused():
    """Catches a median that is taken for the 90th."""
    with pytest.raises(ValueError, match=r"percentile 90: s\.json has no such percentile of ttft"):
        speeds_of(SERVED, "s.json", 90)


def test_a_file_holds_one_object_or_one_a_line(tmp_path):
    """`bench serve --json` writes a line for each load of a sweep."""
    path = tmp_path / "x.json"
    for text, count in ((json.dumps(BENCH, indent=2), 1), (f"{json.dumps(BENCH)}\n{json.dumps(SERVED)}\n", 2)):
        path.write_text(text, encoding="utf-8")
        assert len(read_lines(str(path))) == count
    for text, words in (("{", "in line 1, column 2"), ("[1]", "instead of a JSON object"), ("", "in line 1, column 1"),
                        (f"{json.dumps(BENCH)}\n\n{{,}}\n", "in line 3, column 2")):  # fmt: skip
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ModelError, match=rf"x\.json: .*{words}.*; give what `bench --json` or"):
            read_lines(str(path))
    with pytest.raises(ValueError, match="there is no such file"):
        read_lines(str(tmp_path / "nowhere"))
