"""`bench --simulate --cluster`: a table on paper; nothing is opened, and what makes no sense there is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import short, unopened

from tinyinfer.cli import main
from tinyinfer.engine.metrics import cost_per_million

__all__ = ["short"]  # fixture

CLUSTERS = Path(__file__).parents[2] / "docs" / "clusters"
A100, H100 = str(CLUSTERS / "a100.json"), str(CLUSTERS / "h100.json")
LLAMA = ("-m", str(CLUSTERS / "llama-2-7b.json"), "--dtype", "bfloat16")
ONE = ("-p", "5", "-g", "200", "-b", "1")


def told(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """What the command prints; it opens no model."""
    assert main(["bench", "--simulate", "--cluster", *flags], unopened) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def line_of(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    return json.loads(told(capsys, *flags, "--json"))


def sizes(one: dict[str, Any]) -> tuple[int, int, int]:
    return tuple(one[f"{kind}_parallel_size"] for kind in ("tensor", "pipeline", "data"))  # type: ignore[return-value]


def test_the_table_says_what_each_split_gives(capsys):
    """A row for each point of the frontier, in the head's order, the answer marked. Catches a shifted column."""
    out = told(capsys, A100, *LLAMA, *ONE, "--tpot", "5", "--price-per-hour", "2")
    head, *rows = [row for row in out.splitlines() if " x " in row][:5]
    assert head.split()[:5] == ["TP", "x", "PP", "x", "DP"]
    assert head.endswith("a million tokens")
    assert [row[:11] for row in rows] == ["  8 x 1 x 1", "* 4 x 1 x 1", "  2 x 1 x 1", "  1 x 1 x 1"]
    for row, gpus in zip(rows, (8, 4, 2, 1), strict=True):
        *_, milliseconds, speed, of_a_gpu, _, _, _, cost = row.removeprefix("*").split()
        assert float(speed) == pytest.approx(1e3 / float(milliseconds), rel=1e-3)
        assert gpus * float(of_a_gpu) == pytest.approx(float(speed), rel=1e-3)
        assert float(cost) == pytest.approx(2e6 / 3600 / float(of_a_gpu), rel=1e-3)
    assert "* the cheapest split of at most 5 ms per token: 4 x 1 x 1" in out
    assert "communication takes less than half of a decode step of 1 sequence" in out


def test_the_json_line_holds_what_is_promised(capsys):
    """Seconds, tokens a second and bytes under the names that `bench` has elsewhere; cost is of all GPUs together."""
    found = line_of(capsys, A100, *LLAMA, *ONE, "--tpot", "5", "--price-per-hour", "2")
    assert {"cluster", "gpus", "frontier", "best", "communication", "engine", "clock"} <= set(found)
    assert (found["clock"], found["gpus"]) == ("simulated", 8)
    assert (found["prompt_tokens"], found["generated_tokens"]) == (5, 200)
    for one in found["frontier"]:
        assert one["generation_tps"] * one["tpot_s"] == pytest.approx(1)
        cost = cost_per_million(2 * one["gpus"], one["generation_tps"])
        assert one["cost_per_million_generated_tokens"] == pytest.approx(cost)
        assert one["ttft_s"] > 0
        assert one["missing_bytes"] == 0
    assert found["best"] in found["frontier"]
    assert sizes(found["best"]) == (4, 1, 1)
    assert found["engine"]["dtype"] == "bfloat16"


def test_a_price_in_the_file_counts_until_another_is_given(capsys):
    """And without any, no cost is shown. Catches a price of the machine that is divided among its GPUs."""
    flags = ("-m", str(CLUSTERS / "llama-2-70b.json"), "--dtype", "bfloat16", "-tp", "8")
    cheap, dear = line_of(capsys, H100, *flags), line_of(capsys, H100, *flags, "--price-per-hour", "5")
    [of_one, *_], [of_other, *_] = cheap["frontier"], dear["frontier"]
    assert of_other["cost_per_million_generated_tokens"] == 2 * of_one["cost_per_million_generated_tokens"]
    assert "a million tokens" not in told(capsys, A100, *LLAMA, *ONE)


def test_a_given_split_is_the_only_one(capsys):
    """Catches -tp that is ignored, and one that still tries stages and replicas."""
    found = line_of(capsys, A100, *LLAMA, "-tp", "4")
    assert {sizes(one) for one in found["frontier"]} == {(4, 1, 1)}
    assert found["frontier"][0]["sequences"] == 1
    assert found["frontier"][-1]["sequences"] > 100, "as many as fit"
    assert found["predicted"] > len(found["frontier"]) - 1


def test_sequences_at_once_are_those_of_all_copies(capsys):
    """-b 8 on 8 GPUs: up to eight replicas of one sequence. Catches 8 sequences in each replica."""
    found = line_of(capsys, A100, *LLAMA, "-b", "8")
    assert {one["sequences"] for one in found["frontier"]} == {8}
    assert all(one["data_parallel_size"] <= 8 for one in found["frontier"])


def test_it_says_where_communication_takes_over(capsys):
    """On several nodes: the first TP of more than half, and the one before. Catches the last TP, or one of less."""
    flags = (H100, "-m", str(CLUSTERS / "llama-2-70b.json"), "--dtype", "bfloat16")
    shares = {one["tensor_parallel_size"]: one["share"] for one in line_of(capsys, *flags)["communication"]}
    assert (shares[8] < 0.5, shares[16] > 0.5) == (True, True)
    out = told(capsys, *flags)
    assert f"from TP 16 on ({shares[16]:.0%}, and {shares[8]:.0%} at TP 8)" in out


def test_no_split_keeps_a_latency_of_nothing(capsys):
    """Catches the fastest one as an answer to what was not reached."""
    out = told(capsys, A100, *LLAMA, *ONE, "--tpot", "0.001")
    assert "no split keeps at most 0.001 ms per token; the fastest takes 3.349 ms" in out
    assert "* " not in out
    assert line_of(capsys, A100, *LLAMA, *ONE, "--tpot", "0.001")["best"] is None


def test_any_model_that_loads_can_be_predicted(short, tmp_path, capsys):
    """A folder with weights, and one with nothing but config.json. Catches a weight that is asked for."""
    (tmp_path / "config.json").write_bytes((Path(short) / "config.json").read_bytes())
    whole, bare = (line_of(capsys, A100, "-m", str(path), "-p", "9", "-g", "4") for path in (short, tmp_path))
    assert whole["frontier"] == bare["frontier"]


def test_the_frontier_is_drawn(tmp_path, capsys):
    """Catches a plot that fails, or that takes the place of the table."""
    pytest.importorskip("matplotlib")
    out = told(capsys, A100, *LLAMA, "--tpot", "9", "--plot", str(tmp_path / "f.png"))
    assert "TP x PP x DP" in out
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cluster", A100], "--cluster predicts on paper, and nothing is run; add --simulate"),
        (["--tpot", "5"], "--tpot 5 chooses among the splits of a cluster; add --simulate --cluster FILE"),
        (["--simulate", "--cluster", A100, "--tpot", "0"], "--tpot 0 must be a number of milliseconds above 0"),
        (["--simulate", "--cluster", A100, "--tpot", "nan"], "--tpot nan must be"),
        (["--simulate", "--cluster", A100, "-n", "2"], "-n/--rounds belongs to a run"),
        (["--simulate", "--cluster", A100, "--machine", "37GB/s,200GFLOP/s"], "--machine belongs to a run"),
        (["--simulate", "--cluster", A100, "--workload", "synthetic"], "--workload belongs to a run"),
        (["--simulate", "--cluster", A100, "--against=-b 2"], "--against belongs to a run"),
        (["--simulate", "--cluster", A100, "--arrival-rate", "2"], "--arrival-rate belongs to a run"),
        (["--simulate", "--cluster", A100, "--quantize", "keep"], "--quantize keep needs the file's weights"),
        (["--simulate", "--cluster", A100, "--kv-cache", "none"], "--kv-cache none makes other steps"),
        (["--simulate", "--cluster", A100, "--speculative", "prompt-lookup"], "--speculative prompt-lookup makes"),
        (["--simulate", "--cluster", A100, "--quantize", "int8", "--quantize-rules", "head off"], "--quantize-rules"),
        (["--simulate", "--cluster", A100, "--drop-layers", "1"], "--drop-layers names parts"),
        (["--simulate", "--cluster", A100, *LLAMA, "--verify"], "SHA256SUMS"),
        (["--simulate", "--cluster", A100, "--prune", "wanda"], "--prune names parts of a whole model"),
        (["--simulate", "--cluster", A100, "--price-per-hour", "nan"], "--price-per-hour=nan must be"),
        (["--simulate", "--cluster", A100, "--plot", "f.txt"], "must end in .png, .svg, .pdf"),
        (["--simulate", "--cluster", A100, *LLAMA, "-p", "0"], "-p 0 must be at least 1"),
        (["--simulate", "--cluster", A100, *LLAMA, "-g", "1"], "-g 1 must be at least 2"),
        (["--simulate", "--cluster", A100, *LLAMA, "-b", "0"], "-b 0 must be at least 1"),
        (["--simulate", "--cluster", A100, *LLAMA, "-p", "4096"], "make 4224, but the context holds 4096"),
        (["--simulate", "--cluster", A100, *LLAMA, "-tp", "16"], "TP 16 x PP 1 x DP 1 takes 16 GPUs, and the cluster"),
        (["--simulate", "--cluster", H100, *LLAMA, "-tp", "33"], "--tensor-parallel-size=33 are more ranks than"),
        (["--simulate", "--cluster", "none.json"], "none.json: there is no such file"),
        (["--simulate", "--cluster", A100, "-m", str(CLUSTERS / "llama-2-70b.json"), "-tp", "2"],
         "does not fit: each GPU lacks 66.2 GB at least; give more GPUs"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_predicted(flags, message, capsys):
    """Catches a flag that is taken and then ignored, and a traceback for what does not fit."""
    assert main(["bench", *flags], unopened) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
