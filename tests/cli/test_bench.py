"""`bench`: figures of given times by plain arithmetic, the same work in every round, mistakes told before any work.

No test here looks at how long anything takes: times are given, and the machine's limits, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import interrupt_at, short, unopened
from helpers import request

from tinyinfer import LLM
from tinyinfer.cli import main
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.metrics import cost_per_million
from tinyinfer.engine.trace import StepTrace
from tinyinfer.ledger import Ledger
from tinyinfer.measure import bench, figures, phases
from tinyinfer.measure.roofline import Machine, expected_decode, expected_prefill
from tinyinfer.measure.workload import Request
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Batch, Span

__all__ = ["short"]  # fixture

MACHINE = Machine(read_bandwidth=100.0, matrix_speed=1000.0)
FLAGS = ("-p", "9", "-g", "4", "-n", "2")
PROMISED = [
    "prompt_tps", "generation_tps", "ttft_s", "tpot_s", "peak_memory_bytes", "weight_bytes", "predicted_generation_tps",
    "predicted_prompt_tps", "read_bandwidth", "matrix_flops", "outside_forward_s", "ledger", "engine",
]  # fmt: skip


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the tests the measurement."""
    monkeypatch.setattr("tinyinfer.measure.roofline.measure_machine", lambda threads: MACHINE)


@pytest.fixture
def llm(short: str) -> LLM:
    """A model that `bench` is given instead of opening one."""
    return LLM(short)


def given(llm: LLM) -> Callable[..., LLM]:
    """An opener that opens nothing."""
    return lambda *asked: llm


def measured(capsys: pytest.CaptureFixture[str], llm: LLM | None, *flags: str) -> dict[str, Any]:
    """The JSON of a run, with a model that is open already or with the one that the flags name."""
    assert main(["bench", *flags, "--json"], *([given(llm)] if llm else [])) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert err == ""
    return json.loads(out)


def one_round() -> bench.Round:
    """Two prompts of 3 tokens side by side, three new tokens each: prefill 4 s; then 1.5 s and 1 s."""
    seqs = [request([1, 2, 3], max_tokens=3), request([4, 5, 6], max_tokens=3)]
    steps, now = [], 0.0
    for i, duration in enumerate([4.0, 1.5, 1.0]):
        first, rows = (0, 3) if i == 0 else (2 + i, 1)
        spans = tuple(Span(seq, k * rows, (k + 1) * rows, first) for k, seq in enumerate(seqs))
        batch = Batch(np.arange(2 * rows), np.tile(np.arange(first, first + rows), 2), np.array([rows - 1]), spans)
        decode = Ledger(flops=100, weight_bytes=40, kv_read_bytes=10)
        ledger = decode if i else Ledger(flops=3000, weight_bytes=10)
        times = (now + 0.25, now + duration - 0.125, now + duration)  # a quarter second goes by before it starts
        steps.append(StepTrace(batch, [[Choice(7)], [Choice(7)]], times, ledger, 0, 0))
        now += duration
        for seq in seqs:
            seq.append(Choice(7), now)
    return bench.Round(0.0, seqs, steps, Ledger())


def rounds_of(llm: LLM, *prompts: list[int], new: int = 3, **changes: Any) -> bench.Round:
    """A round of these prompts."""
    requests = [Request(new, tuple(prompt), **changes) for prompt in prompts]
    return bench.run_round(bench.Setting("", "", llm, requests))


def test_figures_of_a_round_by_hand():
    """Catches: the first token counted as decode, a step's time counted once for each of its sequences."""
    assert phases.phase_figures(one_round(), MACHINE) == {
        "prompt_tps": 6 / 4,
        "predicted_prompt_tps": 6 / 3,  # 3000 FLOPs at 1000 a second
        "generation_tps": 4 / 2.5,  # of both together
        "predicted_generation_tps": 4 / (2 * 0.5),  # 50 bytes at 100 a second
        "prefill_seconds": 4.0,
        "predicted_prefill_seconds": 3.0,
        "prefill_matrix_share": 3000 / 4 / 1000,
        "decode_bandwidth_share": 2 * 50 / 2.5 / 100,
        "decode_step_s": 1.25,
        "outside_forward_s": 0.375 / 2,  # before the forward pass and after it, for two tokens
    }


def test_a_step_without_a_cache_is_still_decode(golden_folder):
    """It computes the prompts again, but they were done before."""
    done = rounds_of(LLM(str(golden_folder("llama")), kv_cache="none"), [5, 6, 7], [8, 9, 10])
    assert [phases.is_prefill(step) for step in done.steps] == [True, False, False]
    assert phases.phase(done, False, MACHINE).tokens == 4


def test_pieces_of_prompts_bring_no_tokens_and_mixed_steps_are_prefill(golden_folder):
    """Chunks of 4: the first prompt decodes beside the second one's pieces. Catches tokens counted by spans."""
    done = rounds_of(LLM(str(golden_folder("llama")), max_num_batched_tokens=4), [5] * 3, [6] * 6, new=4)
    kinds = [([span.rows for span in step.batch.spans], phases.is_prefill(step)) for step in done.steps]
    assert kinds[:3] == [([3, 1], True), ([1, 3], True), ([1, 2], True)]
    decode = phases.phase(done, False, MACHINE)
    assert decode.tokens == (4 - 3) + 3  # what the second prompt's pieces did not overlap with
    assert phases.phase(done, True, MACHINE).tokens == 9


def test_guesses_bring_several_tokens_a_step(golden_folder):
    """Catches steps counted instead of tokens: a round that repeats itself generates the same number either way."""
    plain, fast = (LLM(str(golden_folder("llama")), speculative=name) for name in ("off", "prompt-lookup"))
    rounds = [rounds_of(llm, [5, 6, 7, 8] * 4, new=40) for llm in (plain, fast)]
    assert bench.compare_outputs(*([done] for done in rounds)) == "identical"
    assert [phases.phase(done, False, MACHINE).tokens for done in rounds] == [39, 39]
    assert len(rounds[1].steps) < len(rounds[0].steps) == 40


def test_a_round_does_not_find_the_prompts_of_the_one_before(golden_folder):
    """Catches a prefix cache that makes every round but the first one free; within a round it is what is measured."""
    llm = LLM(str(golden_folder("llama")), kv_cache="paged", prefix_cache=True, block_size=4)
    for _ in range(2):
        done = rounds_of(llm, [5] * 9, [5] * 9)
        assert [seq.cached_tokens for seq in done.sequences] == [0, 8]
        assert done.ledger.tokens_computed == 9 + 1 + 2 * 2


def test_no_time_is_lost_between_steps(golden_folder):
    """The durations of the steps add up to all the time from the first step's beginning to the last one's end."""
    ticks = iter(range(10**6))
    llm = LLM(str(golden_folder("llama")), clock=lambda: float(next(ticks)))
    begun = next(ticks)
    done = rounds_of(llm, [5, 6, 7], new=4)
    assert sum(done.seconds) == done.steps[-1].times[2] - (begun + 1)


def test_the_json_line_holds_what_is_promised(llm, capsys):
    """And its counts are those of one round of B prompts side by side, warm-up and other rounds left out."""
    found = measured(capsys, llm, *FLAGS, "-b", "3")
    assert set(PROMISED) <= set(found)
    assert all(found[key] > 0 for key in PROMISED if key not in ("ledger", "engine"))
    expected = [expected_prefill(llm.config, 9)] + [expected_decode(llm.config, 9 + i) for i in range(3)]
    assert found["ledger"]["flops"] == 3 * sum(ledger.flops for ledger in expected)
    embedding = 3 * (9 + 3) * llm.config.hidden_size * 4  # a row for each token; every other weight is read for all
    assert found["ledger"]["weight_bytes"] == embedding + sum(
        ledger.weight_bytes - ledger.tokens_computed * llm.config.hidden_size * 4 for ledger in expected
    )
    assert found["ledger"]["steps"] == 4
    assert llm.ledger.steps == 2 + 2 * 4, "two rounds, and a short one before them"
    assert found["weight_bytes"] == llm.model.nbytes
    assert (found["prompt_tokens"], found["generated_tokens"], found["batch"], found["rounds"]) == (9, 4, 3, 2)
    assert (found["engine"]["kv_cache"], found["engine"]["model"]) == ("contiguous", "smollm2-135m")


def test_predictions_are_the_rooflines(llm, capsys):
    """From the counts and the machine measured in the same run, not from the clock."""
    found = measured(capsys, llm, *FLAGS)
    prefill, decode = expected_prefill(llm.config, 9), [expected_decode(llm.config, 9 + i) for i in range(3)]
    assert found["predicted_prompt_tps"] == pytest.approx(9 / max(prefill.flops / 1000, prefill.bytes_moved / 100))
    assert found["predicted_generation_tps"] == pytest.approx(3 / (sum(step.bytes_moved for step in decode) / 100))
    assert (found["read_bandwidth"], found["matrix_flops"]) == (100.0, 1000.0)


def test_every_round_does_the_same_work(llm, monkeypatch, capsys):
    """The same random prompts in every round, different ones within it, and no end token ends one early."""
    llm.config = replace(llm.config, eos_token_ids=tuple(range(llm.config.vocab_size)))
    seen = []
    make = llm.sequences
    monkeypatch.setattr(llm, "sequences", lambda prompts, params: seen.append(make(prompts, params)) or seen[-1])
    measured(capsys, llm, *FLAGS, "-b", "2")
    tokens = [[seq.tokens for seq in sequences] for sequences in seen]
    rounds = [tokens[i] + tokens[i + 1] for i in range(0, len(tokens), 2)]
    assert len(rounds) == 1 + 1 + 2, "checked, warmed up, measured"
    assert rounds[-1] == rounds[-2]
    assert [one[:9] for one in rounds[1]] == [one[:9] for one in rounds[2]]
    assert rounds[2][0][:9] != rounds[2][1][:9]
    assert [len(one) for one in rounds[2]] == [13, 13]


def test_the_command_line_of_the_comparison_with_others(short, capsys):
    """Every switch is taken and reported; the model is named by --model."""
    found = measured(capsys, None, "--model", short, "-p", "5", "-g", "3", "-n", "1", "--kv-cache", "none", "--dtype",
                     "float16", "-c", "40", "-t", "1", "--backend", "numpy")  # fmt: skip
    given = {"kv_cache": "none", "dtype": "float16", "max_model_len": 40, "threads": 1, "backend": "numpy"}
    assert found["engine"] == {"model": short, **asdict(EngineConfig(**given))}
    assert found["ledger"]["tokens_computed"] == 5 + 6 + 7


def test_the_table_shows_predicted_beside_measured(llm, capsys):
    assert main(["bench", *FLAGS, "--price-per-hour", "2"], given(llm)) == 0
    out = capsys.readouterr().out
    head = next(line for line in out.splitlines() if "predicted" in line)
    assert head.index("predicted") < head.index("measured") < head.index("reached")
    for row in ("prefill, tok/s", "decode, tok/s", "time to first token", "time per output token", "peak memory",
                "outside the forward pass", "a million prompt tokens", "a million generated tokens"):  # fmt: skip
        assert row in out
    assert "of 100 B/s" in out
    assert "of 1 kFLOP/s" in out


def test_what_a_million_tokens_cost(llm, capsys):
    """1.80 an hour at 50 tokens a second: a million take 20 000 s and cost 10."""
    assert cost_per_million(1.8, 50) == pytest.approx(10)
    found = measured(capsys, llm, *FLAGS, "--price-per-hour", "1.8")
    for kind, pace in (("prompt", "prompt_tps"), ("generated", "generation_tps")):
        assert found[f"cost_per_million_{kind}_tokens"] == pytest.approx(1.8 / 3600 * 1e6 / found[pace])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-p", "0"], "-p 0 must be at least 1"),
        (["-g", "1"], "-g 1 must be at least 2 (the first token belongs to the prefill)"),
        (["-b", "0"], "-b 0 must be at least 1"),
        (["-n", "-1"], "-n -1 must be at least 1"),
        (["--price-per-hour", "nan"], "--price-per-hour=nan must be"),
        (["--price-per-hour", "-1"], "--price-per-hour=-1.0 must be"),
        (["--plot", "no/such/folder/b.png"], "there is no folder 'no/such/folder'"),
        (["--plot", "b.txt"], "must end in .png, .svg, .pdf"),
        (["--plot", "."], "must end in"),
    ],
)
def test_mistakes_are_told_before_a_model_is_opened(flags, message, capsys):
    assert main(["bench", *flags], unopened) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_without_matplotlib_a_plot_is_refused_with_the_cure(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    assert main(["bench", "--plot", str(tmp_path / "b.png")], unopened) == 2
    assert "pip install 'tinyinfer[notebooks]'" in capsys.readouterr().err


def test_a_plot_that_would_replace_a_folder_is_refused(tmp_path, capsys):
    (tmp_path / "b.png").mkdir()
    assert main(["bench", "--plot", str(tmp_path / "b.png")], unopened) == 2
    assert "is a folder" in capsys.readouterr().err


def test_a_round_that_does_not_fit_is_refused(llm, capsys):
    """Else generated tokens would be clipped in silence, and the figures be of another work."""
    assert main(["bench", "-p", "100", "-g", "29"], given(llm)) == 2
    why = "-p 100 -g 29: 100 prompt and 29 generated tokens make 129, but the context holds 128"
    assert why in capsys.readouterr().err
    assert llm.ledger.steps == 0
    assert main(["bench", "-p", "100", "-g", "28", "-n", "1"], given(llm)) == 0


def test_ctrl_c_leaves_the_figures_of_the_rounds_so_far(llm, monkeypatch, capsys):
    """Two steps before the rounds, four of the first one; in the second one somebody has enough."""
    interrupt_at(monkeypatch, 2 + 4 + 2)
    assert main(["bench", *FLAGS, "--json"], given(llm)) == 130
    out, err = capsys.readouterr()
    assert json.loads(out)["rounds"] == 1
    assert "interrupted after 1 of 2 rounds" in err


def test_ctrl_c_before_any_round_shows_nothing(llm, monkeypatch, capsys):
    interrupt_at(monkeypatch, 2)
    assert main(["bench", *FLAGS, "--json"], given(llm)) == 130
    assert capsys.readouterr().out == ""


def test_the_plot_is_a_picture_and_leaves_nothing_else(llm, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "bench.png").write_text("an older one")
    measured(capsys, llm, *FLAGS, "--plot", str(tmp_path / "bench.png"))
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["bench.png"]


def test_a_plot_that_cannot_be_written_leaves_the_old_one(tmp_path):
    """Half a picture is on the disk when the disk is full."""

    class Figure:
        def savefig(self, path: Path, dpi: int) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(path))

    (tmp_path / "b.png").write_text("old")
    with pytest.raises(OSError, match="No space left"):
        figures.save(Figure(), str(tmp_path / "b.png"))
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_what_the_plot_draws():
    """Points and lines hold the figures: milliseconds over positions, and GFLOP/s under the roof."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    steps, roof = figure.subplots(1, 2)
    rounds = [one_round(), one_round()]
    figures.draw_steps(steps, rounds, MACHINE)
    measured_line, predicted_line = steps.get_lines()
    assert measured_line.get_xydata().tolist() == [[3, 1500], [4, 1000]]
    assert predicted_line.get_xydata().tolist() == [[3, 500], [4, 500]]
    figures.draw_roofline(roof, rounds, MACHINE)
    points = {line.get_label(): line.get_xydata()[0] for line in roof.get_lines() if line.get_marker() == "o"}
    assert [label.split(":")[0] for label in points] == ["prefill", "decode"]
    np.testing.assert_allclose(list(points.values()), [[300, 3000 / 4 * 1e-9], [2, 200 / 2.5 * 1e-9]])
    for axes in (steps, roof):
        assert all((axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), axes.get_legend()))
