"""`bench --workload`, `--against` and sweeps, in the time that a given machine would need: the same figures anywhere.

No test looks at how long anything takes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import interrupt_at, short, unopened

from tinyinfer import LLM
from tinyinfer.cli import main, parse
from tinyinfer.cli.bench import split_settings
from tinyinfer.measure import bench as rounds
from tinyinfer.units import number

__all__ = ["short"]  # fixture

SIMULATED = ("--simulate", "--machine", "1MB/s,5MFLOP/s")
SYNTHETIC = ("--workload", "synthetic", "--requests", "6", "--prompt-lengths", "uniform:4-20", "--output-lengths",
             "uniform:2-8", *SIMULATED)  # fmt: skip


@pytest.fixture
def bench(short: str, capsys: pytest.CaptureFixture[str]):
    """A function from flags to what `bench --json` tells."""

    def run(*flags: str, status: int = 0) -> dict[str, Any]:
        assert main(["bench", "-m", short, *flags, "--json"]) == status
        out, err = capsys.readouterr()
        assert out.count("\n") == 1, err
        return json.loads(out)

    return run


def test_a_file_is_replayed_as_it_says(bench, tmp_path: Path):
    """Three requests, the last one long after the others. Catches: arrivals ignored, an end token that ends one early,
    the ledger of another round."""
    lines = [
        {"prompt": "hello", "max_tokens": 5},
        {"prompt_token_ids": [5, 6, 7], "max_tokens": 4},
        {"prompt_tokens": 9, "max_tokens": 3, "arrival": 1000},
    ]
    (tmp_path / "w.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = bench("--workload", str(tmp_path / "w.jsonl"), *SIMULATED)
    assert (found["requests"], found["finished"], found["generated_tokens"]) == (3, 3, 12)
    assert found["ledger"]["steps"] == found["steps"] == 5 + 3
    assert 1000 < found["seconds"] < 1010
    assert found["queue_max_s"] == 0
    assert found["output_tps"] == pytest.approx(12 / found["seconds"])
    assert found["clock"] == "simulated"
    assert found["workload"] == str(tmp_path / "w.jsonl")


def test_simulated_figures_are_the_same_every_time(bench):
    """Catches real time that leaks into simulated time."""
    first, second = (bench(*SYNTHETIC, "--arrival-rate", "2") for _ in range(2))
    differ = {name for name in first if first[name] != second[name]}
    assert differ <= {"peak_memory_bytes"}
    assert first["synthetic"]["arrival_rate"] == 2.0
    assert first["queue_max_s"] > 0


def test_the_simulated_time_is_the_rooflines(bench):
    """One request: a quarter of the bandwidth takes four times as long, when memory binds."""
    flags = ("--workload", "synthetic", "--requests", "1", "--prompt-lengths", "1", "--output-lengths", "5",
             "--simulate")  # fmt: skip
    fast = bench(*flags, "--machine", "4MB/s,1TFLOP/s")
    slow = bench(*flags, "--machine", "1MB/s,1TFLOP/s")
    assert slow["seconds"] == pytest.approx(4 * fast["seconds"])
    moved = sum(fast["ledger"][name] for name in ("weight_bytes", "kv_read_bytes", "kv_written_bytes"))
    assert fast["seconds"] == pytest.approx(moved / 4e6)


def test_static_batching_is_slower_and_says_the_same(bench):
    """Both settings do the same work in the same process; the ratios are first / second."""
    found = bench(*SYNTHETIC, "--max-num-seqs", "3", "--against=--batching static")
    other = found["against"]
    assert (found["engine"]["batching"], other["engine"]["batching"]) == ("continuous", "static")
    assert found["engine"]["max_num_seqs"] == other["engine"]["max_num_seqs"] == 3
    assert found["outputs"] == "identical"
    assert (found["padding_tokens"], found["generated_tokens"]) == (0, other["generated_tokens"])
    assert other["padding_tokens"] > 0
    assert found["ratios"]["output_tps"] == pytest.approx(found["output_tps"] / other["output_tps"])
    assert found["ratios"]["output_tps"] > 1


def test_sixteen_requests_that_share_a_prefix(bench):
    """The row of the issue, smaller: 16 x (32 shared + 4 own) tokens, computed once each. Catches a cache that is
    shared between the settings, and prompts that are found again from the untimed round."""
    flags = ("--workload", "synthetic", "--requests", "16", "--shared-prefix", "32", "--prompt-lengths", "4",
             "--output-lengths", "2", "--kv-cache", "paged", "--block-size", "8", *SIMULATED)  # fmt: skip
    found = bench(*flags, "--prefix-cache", "on", "-n", "2", "--against=--prefix-cache off")
    assert found["computed_prompt_tokens"] == 32 + 16 * 4
    assert found["cached_tokens"] == 15 * 32
    assert found["against"]["computed_prompt_tokens"] == 16 * 36
    assert found["ttft_s"] < found["against"]["ttft_s"]
    assert found["outputs"] == "identical"


def test_waste_is_printed_beside_the_formula(short, bench):
    """Contiguous and paged, counted and by the formula, for the same lengths. Without a context that is asked for, a
    sequence reserves prompt and answer, and the formula does not hold.
    """
    flags = ("--workload", "synthetic", "--requests", "8", "--prompt-lengths", "uniform:10-100",
             "--output-lengths", "2", *SIMULATED)  # fmt: skip
    found = bench(*flags, "-c", "128", "--against=--kv-cache paged --block-size 4")
    for one in (found, found["against"]):
        assert one["wasted_share"] == pytest.approx(one["formula_wasted_share"])
    lengths = [seq.prompt for seq in rounds.sequences_of(of(short, *flags))]
    assert found["wasted_share"] == pytest.approx(1 - sum(map(len, lengths)) / (8 * 128))
    assert found["against"]["wasted_share"] < 0.1
    alone = bench(*flags)
    assert alone["wasted_share"] < 0.1
    assert "formula_wasted_share" not in alone


def of(model: str, *flags: str) -> rounds.Setting:
    """The setting of a command line, opened."""
    from tinyinfer.cli.bench_workload import requests_of

    args = parse(["bench", "-m", model, *flags])
    return rounds.Setting("", model, LLM(model), requests_of(args))


def test_a_plain_comparison(bench):
    """Cache against none: the same tokens, one row a step against all. The second setting takes its own sizes, too."""
    found = bench("-p", "8", "-g", "5", "-n", "2", *SIMULATED, "--against=--kv-cache none")
    assert found["outputs"] == "identical"
    assert found["ledger"]["tokens_computed"] == 8 + 4
    assert found["against"]["ledger"]["tokens_computed"] == 8 + 9 + 10 + 11 + 12
    assert found["ratios"]["decode_step_s"] < 1
    found = bench("-p", "8", "-g", "5", "-b", "4", *SIMULATED, "--against=-b 1")
    assert (found["batch"], found["against"]["batch"], found["outputs"]) == (4, 1, None)
    assert found["steps"] == found["against"]["steps"] == 5


def test_sweeps(bench):
    """The price of batching, and latency over load. Catches a sweep that runs the same setting again and again."""
    found = bench(*SYNTHETIC, "--sweep-batch", "1,2,6")
    assert [one["engine"]["max_num_seqs"] for one in found["sweep"]] == [1, 2, 6]
    assert [one["setting"] for one in found["sweep"]] == ["1 at a time", "2 at a time", "6 at a time"]
    tps = [one["output_tps"] for one in found["sweep"]]
    tpot = [one["tpot_s"] for one in found["sweep"]]
    assert tps == sorted(tps)
    assert tpot == sorted(tpot)
    found = bench(*SYNTHETIC, "--sweep-rate", "0.01,100")
    idle, busy = found["sweep"]
    assert (idle["synthetic"]["arrival_rate"], busy["synthetic"]["arrival_rate"]) == (0.01, 100.0)
    assert idle["queue_mean_s"] < busy["queue_mean_s"]
    assert idle["generated_tokens"] == busy["generated_tokens"]


def test_tables(short, capsys):
    """Waiting by percentiles, then everything together; several settings side by side with the ratio."""
    assert main(["bench", "-m", short, *SYNTHETIC, "--price-per-hour", "1", "-c", "64"]) == 0
    out = capsys.readouterr().out
    for word in ("synthetic workload of 6 requests, simulated", "p50", "p99", "max", "time to first token, s",
                 "queue, s", "gap between tokens, ms", "output, tok/s", "KV cache, peak MB", "the same by the formula",
                 "cost of a million output tokens"):  # fmt: skip
        assert word in out
    assert main(["bench", "-m", short, *SYNTHETIC, "--against=--kv-cache paged"]) == 0
    out = capsys.readouterr().out
    head = next(line for line in out.splitlines() if "as given" in line)
    assert head.split("  ")[-1].strip() == "first/second"
    assert "--kv-cache paged" in head
    assert "outputs: identical" in out


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (3, "3"), (0.0, "0"), (12345.6, "12346"), (0.123456, "0.1235"), (4.4e-6, "0.00000")]
)
def test_numbers_are_never_powers_of_ten(value, text):
    """Catches 1.235e+04 in a table for people."""
    assert number(value) == text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workload", "nowhere.jsonl"], "there is no workload 'nowhere.jsonl'"),
        (["--workload", "synthetic", "-p", "3"], "-p 3 is the size of a round, and --workload has its own"),
        (["--workload", "synthetic", "--against=-b 3"], "-b 3 is the size of a round"),
        (["--requests", "3"], "--requests belongs to a synthetic workload; add --workload synthetic"),
        (["--workload", "copying", "--shared-prefix", "3"], "--shared-prefix belongs to a synthetic workload"),
        (["--workload", "synthetic", "--requests", "0"], "--requests 0 must be at least 1"),
        (["--workload", "synthetic", "--prompt-lengths", "x"], "--prompt-lengths 'x' is no distribution"),
        (["--workload", "synthetic", "--output-lengths", "uniform:9-1"], "--output-lengths 'uniform:9-1' is no"),
        (["--workload", "synthetic", "--arrival-rate", "0"], "--arrival-rate 0 must be a number above 0"),
        (["--workload", "synthetic", "--shared-prefix", "-1"], "--shared-prefix -1 must be at least 0"),
        (["--workload", "synthetic", "--workload-seed", "-1"], "--workload-seed -1 must be at least 0"),
        (["--sweep-batch", "1,4"], "--sweep-batch needs a workload"),
        (["--workload", "copying", "--sweep-rate", "1,4"], "--sweep-rate needs arrivals that can be drawn"),
        (["--workload", "synthetic", "--sweep-batch", "1,x"], "--sweep-batch '1,x' must be numbers above 0"),
        (["--workload", "synthetic", "--sweep-batch", "0,1"], "must be numbers above 0"),
        (["--workload", "synthetic", "--sweep-rate", "nan"], "must be numbers above 0"),
        (["--workload", "synthetic", "--sweep-rate", "1", "--against=-b 2"], "give one of them"),
        (["--against=--nonsense"], "--against cannot change '--nonsense'"),
        (["--against=--plot x.png"], "--against cannot change '--plot'"),
        (["--against=--kv-cache 'none"], "No closing quotation"),
        (["--against=--kv-cache nonsense"], "invalid choice: 'nonsense'"),
        (["--against=--prefix-cache on"], "add --kv-cache=paged"),
        (["--machine", "fast"], "--machine 'fast' is no machine; write bandwidth and speed, such as 37GB/s,200GFLO"),
        (["--machine", "0GB/s,1GFLOP/s"], "is no machine"),
    ],
)
def test_mistakes_are_told_before_a_model_is_opened(flags, message, capsys):
    assert main(["bench", *flags], unopened) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.parametrize(
    ("line", "flags", "message"),
    [
        ('{"prompt_tokens": 120, "max_tokens": 9}', [], "w.jsonl:2: 120 prompt and 9 generated tokens make 129"),
        ('{"prompt_tokens": 30, "max_tokens": 9}', ["--kv-cache=paged", "--num-blocks=2"], "w.jsonl:2: 30 prompt and"),
        ('{"prompt_tokens": 128, "max_tokens": 1}', [], "w.jsonl:2: the prompt has 128 tokens"),
        ('{"prompt_token_ids": [9999], "max_tokens": 1}', [], "w.jsonl:2: token id 9999 is outside the vocabulary of"),
    ],
)
def test_a_request_that_can_never_fit_is_refused_before_the_run(
    line, flags, message, short, monkeypatch, tmp_path, capsys
):
    """Catches a run of an hour that ends in an error, or clips what was asked for."""
    monkeypatch.chdir(tmp_path)
    Path("w.jsonl").write_text('{"prompt_tokens": 3, "max_tokens": 2}\n' + line)
    interrupt_at(monkeypatch, 1)  # would be 130
    assert main(["bench", "-m", short, "--workload", "w.jsonl", *flags]) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_prints_the_figures_so_far(bench, monkeypatch):
    """In the fourth step of the only round; nothing of the cut step counts."""
    interrupt_at(monkeypatch, 4)
    flags = ("--workload", "synthetic", "--requests", "2", "--prompt-lengths", "5", "--output-lengths", "8", *SIMULATED)
    found = bench(*flags, status=130)
    assert (found["complete"], found["finished"], found["generated_tokens"], found["steps"]) == (False, 0, 6, 3)


def test_ctrl_c_before_the_second_setting_leaves_the_first_ones_figures(bench, monkeypatch):
    """Catches a comparison with nothing, and figures thrown away because there are no others."""
    interrupt_at(monkeypatch, 8 + 1)
    flags = ("--workload", "synthetic", "--requests", "2", "--prompt-lengths", "5", "--output-lengths", "8", *SIMULATED)
    found = bench(*flags, "--against=--kv-cache none", status=130)
    assert (found["complete"], found["generated_tokens"]) == (True, 16)
    assert "ratios" not in found


def test_the_plots_are_pictures(bench, tmp_path: Path):
    """One setting, two beside each other, and both sweeps; nothing else is left in the folder."""
    pytest.importorskip("matplotlib")
    every = [(), ("--against=--batching static",), ("--sweep-batch", "1,2"), ("--sweep-rate", "1,2")]
    for i, flags in enumerate(every):
        bench(*SYNTHETIC, *flags, "--plot", str(tmp_path / f"{i}.png"))
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["0.png", "1.png", "2.png", "3.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_settings_by_name():
    """Catches a second setting that changes the first."""
    lines = split_settings(parse(["bench", "--kv-cache", "paged", "--against=--prefix-cache on -b 4"]))
    first, second = lines.values()
    assert list(lines) == ["as given", "--prefix-cache on -b 4"]
    assert (first.prefix_cache, first.batch, first.kv_cache) == (False, 1, "paged")
    assert (second.prefix_cache, second.batch, second.kv_cache) == (True, 4, "paged")
