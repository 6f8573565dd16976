"""`bench`: the same work in every round, predictions of a given machine, mistakes told before any work.

No test here looks at how long anything takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from cli_helpers import interrupt_at, short, unopened
from rounds import MACHINE

from tinyinfer import LLM
from tinyinfer.cli import main
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.metrics import cost_per_million
from tinyinfer.measure import figures
from tinyinfer.measure.roofline import expected_decode, expected_prefill

__all__ = ["short"]  # fixture

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
        (["-b", str(2**63)], "-b 9223372036854775808 must be at most 1000000"),
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
    """Two steps before the rounds, four of the first one; the second one is interrupted."""
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
