"""`cost`: what is given is computed and shown, and what cannot be is one sentence before anything is read."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import feed, short, unopened

from tinyinfer.cli import main
from tinyinfer.cli.arguments import open_model
from tinyinfer.cli.cost import spread_of
from tinyinfer.measure.api_or_own import QUESTIONS
from tinyinfer.measure.cost import Speed
from tinyinfer.measure.cost_report import count, money
from tinyinfer.measure.cost_speeds import ON_PAPER
from tinyinfer.measure.workload import read_workload

__all__ = ["short"]  # fixture

CLUSTERS = Path(__file__).parents[2] / "docs" / "clusters"
PAPER = ("-m", str(CLUSTERS / "llama-2-7b.json"), "--cluster", str(CLUSTERS / "a100.json"), "--dtype", "bfloat16")
TYPED = ("--input-tps", "2000", "--output-tps", "100", "--price-per-hour", "2")
TOLD = ("--input-tokens", "1000", "--output-tokens", "50", "--day", "flat", "--spare", "0", "--busy", "100")
LIMITS = ("--machine", "1GB/s,10GFLOP/s")
Capture = pytest.CaptureFixture[str]


def told(capsys: Capture, *flags: str, opener: Callable[..., Any] = unopened) -> str:
    """What the command prints."""
    assert main(["cost", *flags], opener) == 0
    return capsys.readouterr().out


def line_of(capsys: Capture, *flags: str, opener: Callable[..., Any] = unopened) -> dict[str, Any]:
    return json.loads(told(capsys, *flags, "--json", opener=opener))


def test_given_speeds_and_a_price_make_a_cost(capsys):
    """The hand-worked example of the module: 48 a day, half busy, half of it for prefill."""
    line = line_of(capsys, *TYPED, *TOLD, "--requests-per-day", "43200")
    assert line["cost_per_day"] == 48.0
    assert line["cost_per_million_input_tokens"] == pytest.approx(48 / 2 / 43.2)
    assert line["cost_per_million_output_tokens"] == pytest.approx(48 / 2 / 2.16)
    assert line["utilization_by_hour"] == pytest.approx([0.5] * 24)
    assert line["api"] is None


def test_the_example_api_is_told_to_be_one(capsys):
    """On stderr, so that no one takes its prices for an offer; so is the work of people that is not counted."""
    assert main(["cost", *TYPED, *TOLD, "--api", "example"], unopened) == 0
    out, err = capsys.readouterr()
    assert "break-even" in out
    assert "are an example" in err
    assert "no work of people is counted" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--buy", "30000", "--watts", "900"], "the power of 900 W costs nothing; add --power-price"),
     (["--price-per-hour", "2", "--dtype", "float32"], "weights have 32 bits"),
     (["--price-per-hour", "2", "--tpot", "50"], "--tpot is kept only if the true speed is at least 0."),
     (["--price-per-hour", "2", "--ttft", "100"], "--ttft is kept only if the true speed is at least 0.")],
)  # fmt: skip
def test_what_a_reader_would_forget_is_told(flags, words, capsys):
    """And not where it is given. Catches free power, twice the memory, and a limit that the known error breaks."""
    assert main(["cost", *PAPER, *flags], unopened) == 0
    assert words in capsys.readouterr().err
    assert main(["cost", *PAPER, "--price-per-hour", "2"], unopened) == 0
    assert words not in capsys.readouterr().err


def test_prices_older_than_a_year_are_told(capsys, tmp_path):
    """With their date."""
    prices = {"name": "a", "date": "2020-01-31", "source": "s", "currency": "USD", "input": 1, "output": 2}
    (tmp_path / "p.json").write_text(json.dumps(prices), encoding="utf-8")
    assert main(["cost", *TYPED, "--api", str(tmp_path / "p.json")], unopened) == 0
    assert "2020-01-31, older than a year" in capsys.readouterr().err


def test_prices_of_a_day_to_come_are_told(capsys, tmp_path):
    """A mistyped year would keep old prices young."""
    prices = {"name": "a", "date": "2099-01-31", "source": "s", "currency": "USD", "input": 1, "output": 2}
    (tmp_path / "p.json").write_text(json.dumps(prices), encoding="utf-8")
    assert main(["cost", *TYPED, "--api", str(tmp_path / "p.json")], unopened) == 0
    assert "2099-01-31, which is still to come" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[*TYPED, "--api"], [*PAPER[:2], "--cluster"], ["--questions", "--answers"]])
def test_a_file_that_is_written_by_hand_is_corrected(flags, capsys, tmp_path):
    """By line and column. Catches "download it again", said of prices, GPUs and answers that were typed."""
    (tmp_path / "x.json").write_text('{\n  "name": "a",\n  "date": 2026-11-01\n}\n', encoding="utf-8")
    assert main(["cost", *flags, str(tmp_path / "x.json")], unopened) == 2
    err = capsys.readouterr().err
    assert "x.json: not valid JSON in line 3, column 15 (" in err
    assert err.endswith("; correct the file\n")


def test_the_price_file_of_the_page_is_taken(capsys, tmp_path):
    """Its characters a token alone compare nothing. Catches a page whose file its own command refuses."""
    page = (CLUSTERS.parent / "api-or-self-host.md").read_text(encoding="utf-8")
    (tmp_path / "p.json").write_text(page.split("```json")[1].split("```")[0], encoding="utf-8")
    assert line_of(capsys, *TYPED, "--api", str(tmp_path / "p.json"))["api"]["characters"] == 1.0
    own = line_of(capsys, *TYPED, "--api", str(tmp_path / "p.json"), "--characters-per-token", "8.2")
    assert own["api"]["characters"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"price_per_gpu_hour": -3}, "price_per_gpu_hour is -3"), ({"price_per_gpu_hour": "x"}, "_hour is 'x'"),
     ({"engine": 3}, "engine is 3"), ({"read_bandwidth": "x", "engine": {"model": "m"}}, "read_bandwidth is 'x'")],
)  # fmt: skip
def test_a_file_of_another_shape_is_one_sentence(changed, words, capsys, tmp_path):
    """Catches a negative cost, and tracebacks that do not name the file."""
    line = {"prompt_tps": 9, "generation_tps": 9, "ttft_p50_s": 1, "tpot_p50_s": 1, "matrix_flops": 1}
    (tmp_path / "b.json").write_text(json.dumps(line | changed), encoding="utf-8")
    assert main(["cost", "--from", str(tmp_path / "b.json"), "--price-per-hour", "1"], unopened) == 2
    assert f"b.json: {words}" in capsys.readouterr().err.replace("price_per_gpu_hour is 'x'", "_hour is 'x'")


def test_characters_of_the_same_text_make_tokens_comparable(capsys):
    """Five characters a token here and four there: the API counts a quarter more tokens, and costs so much more."""
    plain = line_of(capsys, *TYPED, "--api", "example")["api"]
    own = line_of(capsys, *TYPED, "--api", "example", "--characters-per-token", "5", "--api-characters-per-token", "4")
    assert own["api"]["cost_per_request"] == pytest.approx(1.25 * plain["cost_per_request"])


def test_batched_requests_pay_the_batch_price(capsys):
    """Half of the requests at half the price; thinking is billed with the answer."""
    plain = line_of(capsys, *TYPED, "--api", "example")["api"]["cost_per_request"]
    assert line_of(capsys, *TYPED, "--api", "example", "--batched", "50")["api"]["cost_per_request"] == 0.75 * plain
    thinking = line_of(capsys, *TYPED, "--api", "example", "--thinking-tokens", "200")["api"]["cost_per_request"]
    assert thinking == pytest.approx(plain + 200 * 1.80 / 1e6)


def test_a_machine_that_is_bought_costs_its_years_and_its_power(capsys):
    """8766 for a year of hours, and 1000 W at 0.5: 1.5 an hour, around the clock."""
    bought = ("--buy", "8766", "--years", "1", "--watts", "1000", "--power-price", "0.5")
    line = line_of(capsys, *TYPED[:4], *bought, *TOLD, "--requests-per-day", "0")
    assert line["machine_hour"] == 1.5
    assert line["cost_per_day"] == 36.0
    assert not line["price"]["by_hour"]
    paid = line_of(capsys, *TYPED, *TOLD, "--work-hours", "20", "--wage", "60.875", "--requests-per-day", "0")
    assert paid["cost_per_day"] == pytest.approx(88.0)


def test_a_model_on_a_cluster_is_predicted_and_its_changes_with_it(capsys):
    """Nothing is opened; a machine is a replica of several GPUs, each at the price; a stricter objective costs more."""
    large = ("--price-per-hour", "2", "--requests-per-day", "1e8")
    cheap = line_of(capsys, *PAPER, *large, "--accepted", "60")
    strict = line_of(capsys, *PAPER, *large, "--tpot", "15")
    assert cheap["machine_hour"] == 2 * cheap["speed"]["units"]
    assert strict["speed"]["tpot_s"] <= 0.015 < cheap["speed"]["tpot_s"]
    names = [one["change"] for one in cheap["levers"]]
    assert names[1:] == ["one at a time", "int8", "int4", "half the layers", "4 drafts, 60% accepted"]
    assert strict["levers"][0]["cost_per_request"] > cheap["levers"][0]["cost_per_request"]


def test_a_small_load_takes_fewer_gpus_than_full_hours_would(capsys):
    """A spare machine of eight GPUs is dear, and none of the hours fills one. Catches the choice for full hours."""
    large = ("-m", str(CLUSTERS / "llama-2-70b.json"), "--cluster", str(CLUSTERS / "h100.json"), "--dtype", "bfloat16")
    line = line_of(capsys, *large, "--price-per-hour", "2.5", "--requests-per-day", "20000", "--tpot", "50")
    assert line["speed"]["units"] < line["full_hours"]["speed"]["units"]
    assert line["cost_per_day"] < line["full_hours"]["cost_per_day"]
    assert line["machines_by_hour"] == [2] * 24  # one, and its spare one
    assert line["speed"]["tpot_s"] <= 0.05


def test_a_load_of_more_gpus_than_the_cluster_has_is_told(capsys):
    """Eight A100s. Catches a fleet of thousands, planned on a file of one node, without a word."""
    for requests, told_of in (("1000", False), ("1e9", True)):
        assert main(["cost", *PAPER, "--price-per-hour", "2", "--requests-per-day", requests], unopened) == 0
        assert (" GPUs, and --cluster has 8\n" in capsys.readouterr().err) == told_of


def test_a_quiet_weekend_is_asked_for_in_percent(capsys):
    """A bought machine waits in it, and is paid: by hand, 24 hours of 2.00 a day, for fewer requests."""
    bought = ("--buy", "17532", "--years", "1", *TYPED[:4], *TOLD)
    for weekend, mean in (("100", 86400), ("0", 86400 * 5 / 7), ("50", 86400 * 6 / 7)):
        line = line_of(capsys, *bought, "--weekend", weekend, "--requests-per-day", f"{mean}")
        assert line["cost_per_day"] == pytest.approx(48.0)
        assert max(line["utilization_by_hour"]) == pytest.approx(1.0)
        assert line["utilization"] == pytest.approx(mean / 86400)
    assert line["weekend"] == 0.5


def test_drafts_are_predicted_only_with_a_share_that_was_given(capsys):
    """And the sentence names it. Catches a share without a measurement, taken for granted."""
    for flags, told_of in (((), False), (("--accepted", "35"), True)):
        text = told(capsys, *PAPER, "--price-per-hour", "2", *flags)
        assert ("4 drafts, 35% accepted" in text) == told_of
        assert ("  - 35% of drafts are accepted." in text.splitlines()) == told_of
        assert ("drafts" in text) == told_of


def test_a_speed_on_paper_is_told_with_the_error_that_such_speeds_had(capsys):
    """Under the answer, and as the range of the speed. Catches a prediction that looks like a measurement."""
    found = line_of(capsys, *PAPER, "--price-per-hour", "2", "--api", "example")["assumptions"]
    assert sum(f"were {ON_PAPER[0]} to {ON_PAPER[1]} times those that others published" in one for one in found) == 1
    assert "published" not in told(capsys, *TYPED, "--api", "example")
    ranges = ("price=1:1.5", "speed=0.5:1")
    bars = line_of(capsys, *TYPED, *TOLD, "--api", "example", "--range", *ranges)["api"]["tornado"]
    found = {bar["name"]: bar["range"] for bar in bars}
    assert (found["price of a machine"], found["speed of a machine"]) == ([1.0, 1.5], [0.5, 1.0])


@pytest.mark.parametrize(
    ("given", "words"),
    [("speeed=0.5:1", "no further input 'speeed'"), ("speed", "has no two ends"), ("speed=1:2:3", "has no two ends"),
     ("speed=2:3", "does not hold the value itself"), ("price=-1:2", "its ends must be numbers from 1e-06"),
     ("price=nan:2", "its ends must be numbers from 1e-06"), ("price=0.5:inf", "its ends must be numbers from 1e-06")],
)  # fmt: skip
def test_a_range_that_is_none_is_one_sentence(given, words, capsys):
    """Catches an input that moves past zero, and a misspelt one that keeps its usual range."""
    assert main(["cost", *TYPED, "--api", "example", "--range", given], unopened) == 2
    assert words in capsys.readouterr().err


PAGE = (CLUSTERS.parent / "api-or-self-host.md").read_text(encoding="utf-8")
BLOCKS = [block.strip().splitlines() for block in PAGE.split("```text")[1:]]
BLOCKS = [block[: block.index("```")] for block in BLOCKS]


def flags_of(command: str) -> list[str]:
    """The flags of a command of the page, which is typed at the top of a checkout."""
    words = shlex.split(command.replace("\\\n", " ")) if command else []
    return [str(CLUSTERS.parents[1] / word) if word.startswith("docs/") else word for word in words]


LARGE = flags_of("\n".join(BLOCKS[0][:2]).replace("--plot cost.png", "").removeprefix("python -m tinyinfer cost"))


@pytest.mark.parametrize("block", [0, 1, 3])
def test_every_line_of_the_page_is_printed(block, capsys):
    """In its order: the cost, what would change it, and the questionnaire. Catches a figure that is no longer true."""
    lines = BLOCKS[block]
    typed = flags_of(lines[0].removeprefix("python -m tinyinfer cost")) if block == 3 else LARGE
    shown = [line for line in lines if not line.startswith(("python -m", "    --price-per-hour"))]
    printed = told(capsys, *typed).replace(f"{CLUSTERS.parents[1]}/", "")
    assert len(shown) >= 6
    at = 0
    for line in shown:
        at = printed.find(f"{line}\n", at)
        assert at >= 0, line
        at += len(line)


CHANGES = [line.strip("| ").split(" | ") for line in PAGE.split("| changed |")[1].split("\n\n")[0].splitlines()[2:]]


@pytest.mark.parametrize("row", CHANGES, ids=lambda row: row[0][:30])
def test_every_change_of_the_page_gives_its_figures(row, capsys):
    """Catches a row of the table that the command no longer prints."""
    flags = flags_of(row[0].split("`")[1]) if "`" in row[0] else []
    line = line_of(capsys, *LARGE, *flags)
    ends = dict.fromkeys(count(end) for end in line["api"]["break_even"].values())
    costs = [money(side["cost_per_day"]) for side in (line, line["api"])]
    assert [str(line["speed"]["units"]), *costs, " to ".join(ends)] == row[1:]


def test_the_figures_in_the_text_of_the_page_are_those_of_the_command(capsys):
    """Of a small load on large machines, its dear tokens, and of a cached prefix. Catches a sentence left behind."""
    small = line_of(capsys, *LARGE, "--requests-per-day", "20000")
    text = " ".join(PAGE.split())
    full = money(small["full_hours"]["cost_per_day"])
    assert f"two small machines cost {money(small['cost_per_day'])} USD, and two of 8 GPUs {full}" in text
    full = line_of(capsys, *LARGE)["cost_per_million_output_tokens"]
    assert f"output tokens cost {money(small['cost_per_million_output_tokens'])} USD and not {full:.2f}." in text
    [cached] = [one for one in line_of(capsys, *LARGE, "--cached-tokens", "800")["levers"] if "cached" in one["change"]]
    assert f"leaves {cached['ratio']:.2f} of the cost" in text
    assert f"predicted over published is {ON_PAPER[0]} to {ON_PAPER[1]}, " in text
    typed = flags_of(BLOCKS[3][0].removeprefix("python -m tinyinfer cost"))
    assert len(line_of(capsys, *typed)["turns"]) == 8
    assert "here these two and six others" in text


def test_what_bench_wrote_is_read(capsys, tmp_path):
    """Of bench on a cluster, whose file has the model, the speeds and the price of a GPU. Catches names that differ.

    The file holds the frontier alone: what a smaller load than full hours would take may be missing, and is told.
    """
    flags = ["--simulate", "-p", "1000", "-g", "200", "--price-per-hour", "2", "--json"]
    assert main(["bench", *PAPER, *flags], unopened) == 0
    (tmp_path / "b.json").write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["cost", "--from", str(tmp_path / "b.json"), "--tpot", "15", "--json"], unopened) == 0
    out, err = capsys.readouterr()
    read = json.loads(out)
    assert "holds the splits of the frontier alone" in err
    paper = line_of(capsys, *PAPER, "--price-per-hour", "2", "--tpot", "15")
    assert set(read["speed"]) == set(paper["speed"])
    assert paper["cost_per_day"] <= read["cost_per_day"]
    assert read["machine_hour"] == 2 * read["speed"]["units"]


def test_a_prefix_that_may_be_counted_twice_is_told(capsys, tmp_path):
    """A load on a server with a prefix cache looks fast at prefill; --cached-tokens would take the same off again."""
    served = {"total_input_tokens": 1000, "total_output_tokens": 400, "duration": 10.0, "mean_ttft_ms": 100.0,
              "mean_e2el_ms": 500.0, "median_ttft_ms": 90.0, "median_tpot_ms": 20.0}  # fmt: skip
    (tmp_path / "s.json").write_text(json.dumps(served), encoding="utf-8")
    flags = ["cost", "--from", str(tmp_path / "s.json"), "--price-per-hour", "1"]
    for cached, told_of in (("0", False), ("500", True)):
        assert main([*flags, "--cached-tokens", cached], unopened) == 0
        assert ("takes it off a second time" in capsys.readouterr().err) == told_of


def test_what_bench_measured_is_read(capsys, tmp_path, short):
    """Its engine and the machine's limits are in the line, so what changes the cost is predicted, too."""
    flags = ["-m", short, "-p", "16", "-g", "4", "-n", "1", *LIMITS, "--json"]
    assert main(["bench", *flags], open_model) == 0
    text = capsys.readouterr().out
    (tmp_path / "b.json").write_text(text, encoding="utf-8")
    asked = ("--input-tokens", "16", "--output-tokens", "4", "--price-per-hour", "1")
    read = line_of(capsys, "--from", str(tmp_path / "b.json"), *asked)
    assert read["speed"]["output_tps"] == json.loads(text)["generation_tps"]
    assert read["levers"][0]["change"] == "one at a time"
    for kept in (json.dumps(json.loads(text), indent=0), "\ufeff" + text):  # as an editor may have left it
        (tmp_path / "k.json").write_text(kept, encoding="utf-8")
        assert line_of(capsys, "--from", str(tmp_path / "k.json"), *asked)["speed"] == read["speed"]
    (tmp_path / "b.json").write_text(text.replace(json.dumps(short), '"gone"'), encoding="utf-8")
    assert main(["cost", "--from", str(tmp_path / "b.json"), *asked, "--json"], unopened) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["levers"] == []
    assert "what changes the cost is left out: " in err


def test_without_a_file_the_model_is_measured(capsys, short):
    """One at a time, four and sixteen; the cheapest is taken, and said."""
    asked = ("-m", short, "--input-tokens", "8", "--output-tokens", "4", "--price-per-hour", "1", *LIMITS)
    line = line_of(capsys, *asked, "--max-num-seqs", "4", opener=open_model)
    assert line["speed"]["name"] in ("1 at a time", "4 at a time")
    assert line["setups"] == 2
    assert line["speed"]["ttft_s"] > 0
    assert len(line["levers"]) >= 4


def test_a_machine_of_known_limits_says_what_would_change(capsys):
    """Also beside speeds that were typed."""
    line = line_of(capsys, *TYPED, "-m", PAPER[1], *LIMITS)
    assert line["levers"][0]["change"] == "one at a time"


def test_a_workload_gives_its_means(capsys, tmp_path):
    """Of prompts that begin alike, all but the first find the shared part."""
    lines = [{"prompt_tokens": 100, "shared_prefix": 60, "prefix_group": "a", "max_tokens": n} for n in (10, 20, 30)]
    (tmp_path / "w.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    line = line_of(capsys, *TYPED, "--workload", str(tmp_path / "w.jsonl"))
    assert line["tokens"] == {"input": 100, "output": 20, "cached": 40, "thinking": 0}
    (tmp_path / "w.jsonl").write_text('{"prompt": "words", "max_tokens": 1}', encoding="utf-8")
    assert main(["cost", *TYPED, "--workload", str(tmp_path / "w.jsonl")], unopened) == 2
    assert "w.jsonl:1: a prompt of text has no length" in capsys.readouterr().err


def test_a_workload_says_where_its_means_mislead(capsys, tmp_path):
    """Nine short prompts and a long one: the cost is that of the mean; the long one's first token is not."""
    lines = [{"prompt_tokens": 100, "max_tokens": 10}] * 9 + [{"prompt_tokens": 5000, "max_tokens": 300}]
    path = tmp_path / "w.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert main(["cost", *TYPED, "--workload", str(path), "--json"], unopened) == 0
    found = capsys.readouterr()
    assert json.loads(found.out)["tokens"]["input"] == 590
    assert "the median request has 100 input and 10 output tokens, one in ten at least 5000 or 300" in found.err
    speed = Speed(2000, 100, ttft_s=0.5)  # 5000 tokens take 2.5 s, 100 take 0.05
    [told] = spread_of(read_workload(str(path)), speed, 1.0)
    assert told.endswith("; 1 of 10 prompts take longer than --ttft by their prefill alone")
    path.write_text("\n".join(map(json.dumps, lines[:9])), encoding="utf-8")
    assert spread_of(read_workload(str(path)), Speed(2000, 100), None) == []


def test_the_picture_is_written(tmp_path):
    """Its content is tested beside cost_figures."""
    assert main(["cost", *TYPED, "--plot", str(tmp_path / "c.png")], unopened) == 0
    assert (tmp_path / "c.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--input-tps", "1", "--output-tps", "1"], "there is no price of a machine"),
     ([*TYPED, "--accepted", "50"], "--accepted belongs to what is predicted"),
     ([], "there is no price of a machine"), ([*PAPER[:2], "--cluster", "nowhere"], "nowhere: there is no such file"),
     ([*TYPED[:4], "--price-per-hour", "-1"], "--price-per-hour -1 must be a number of at least 0"),
     ([*TYPED[:4], "--price-per-hour", "nan"], "must be a number of at least 0"),
     ([*TYPED, "--day", "1,2,3"], "24 hourly weights, and 3 are given"),
     ([*TYPED, "--day", ",".join(["0"] * 24)], "--day: the weights of a day must be"),
     ([*TYPED, "--day", "weekend"], "'weekend' must be flat, office or 24 numbers"),
     ([*TYPED, "--currency", " "], "--currency has no name"),
     ([*TYPED, "--weekend", "-5"], "--weekend -5 must be a number of at least 0"),
     ([*PAPER, "--price-per-hour", "2", "--tpot", "0.1"], "--tpot 0.1 ms: the machine never keeps that; the best it"),
     ([*TYPED, "--ttft", "100"], "nothing was measured of it"),
     ([*TYPED, "--api", "example", "--currency", "EUR"], "--currency EUR is the machine's, and example API is pric"),
     ([*TYPED, "--api", "nowhere.json"], "nowhere.json: there is no such file; give a price file"),
     (["--from", "nowhere.json", "--price-per-hour", "1"], "nowhere.json: there is no such file; write one by"),
     (["--from", "x", *TYPED], "--from and --input-tps both say how fast the machine is"),
     ([*TYPED[:2], "--price-per-hour", "1"], "--output-tps must be a number above 0"),
     ([*PAPER, *LIMITS, "--price-per-hour", "1"], "--machine and --cluster both have a machine's limits"),
     ([*TYPED, "--buy", "100"], "give one of them"), ([*TYPED, "--years", "2"], "--years belongs to a machine that is"),
     ([*TYPED, "--busy", "0"], "--busy 0 must be a number above"), ([*TYPED, "--busy", "101"], "must be a percentage"),
     ([*TYPED, "--cached-tokens", "2000"], "--cached-tokens 2000 exceed the input of 1000"),
     ([*TYPED, "--output-tokens", "0"], "make no token"), ([*TYPED, "--spare", "-1"], "--spare -1 must be"),
     ([*TYPED, "--workload", "x", "--input-tokens", "3"], "--workload has its own lengths; leave out --input-tokens"),
     ([*TYPED, "--api", "example", "--characters-per-token", "4"], "known of one model alone"),
     ([*TYPED, "--plot", "x.txt"], "must end in"), ([*TYPED, "--answers", "data=no"], "--answers belongs to"),
     ([*TYPED, "--requests-per-day", "1e308"], "--requests-per-day 1e+308 must be a number of at most 1e+12"),
     ([*TYPED, "--busy", "1e-320"], "must be a number above 0"), ([*TYPED, "--spare", "9" * 21], "of at most 1e+12"),
     (["--input-tps", "1e-320", *TYPED[2:]], "--input-tps 9.99989e-321 must be a number above 0"),
     ([*TYPED[:4], "--buy", "1e300"], "--buy 1e+300 must be"), ([*TYPED, "--day", ",".join(["1e308"] * 24)], "--day: "),
     ([*TYPED, "--batched", "50"], "--batched belongs to the bill of an API"),
     ([*TYPED, "--characters-per-token", "4"], "--characters-per-token belongs to the bill of an API"),
     ([*TYPED[:4], "--buy", "9", "--reserved"], "leave out --reserved"),
     ([*TYPED, "--percentile", "99"], "--percentile chooses among measured waits"),
     ([*PAPER, "--price-per-hour", "2", "--percentile", "90"], "and --cluster has none; leave it out"),
     ([*PAPER, "--price-per-hour", "2", "--input-tokens", "9000"], "longer than the context of 4096")],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence(flags, words, capsys):
    """Exit status 2, no traceback, and no model opened."""
    assert main(["cost", *flags], unopened) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert words in err


# The questionnaire

ANSWERS = ",".join(f"{one.name}={one.answers[0].word}" for one in QUESTIONS)


def test_ten_answers_recommend(capsys, tmp_path):
    """By a flag or by a file, as text or as JSON."""
    text = told(capsys, "--questions", "--answers", ANSWERS)
    assert text.startswith("Take the API.\n\nReasons:\n")
    words = {one.name: one.answers[0].word for one in QUESTIONS}
    (tmp_path / "a.json").write_text(json.dumps(words | {"data": "no"}), encoding="utf-8")
    line = line_of(capsys, "--questions", "--answers", str(tmp_path / "a.json"))
    assert (line["side"], line["answers"]["data"]) == ("own machines", "no")


def test_an_answer_that_is_no_word_is_one_sentence(capsys, tmp_path):
    """Catches a traceback for a list in the file."""
    (tmp_path / "a.json").write_text('{"data": ["yes"]}', encoding="utf-8")
    assert main(["cost", "--questions", "--answers", str(tmp_path / "a.json")], unopened) == 2
    assert "data is ['yes']; answer with one of yes" in capsys.readouterr().err


def test_they_are_asked_on_a_terminal(capsys, monkeypatch):
    """A wrong answer is asked again; the end of stdin is a mistake that names the question."""
    monkeypatch.setattr("tinyinfer.cli.cost_questions.is_terminal", lambda stream: True)
    feed(monkeypatch, ("maybe\n" + "\n".join(one.answers[0].word for one in QUESTIONS) + "\n").encode())
    assert main(["cost", "--questions"], unopened) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Take the API.")
    assert err.count("yes / contract / no > ") == 2
    feed(monkeypatch, b"yes\n")
    assert main(["cost", "--questions"], unopened) == 2
    assert "control was not answered" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [([], "asks on a terminal, and stdin is none; give --answers for data (yes/contract/no)"),
     (["--answers", "nowhere"], "there is no such file"),
     (["--answers", "data=yes"], "control has no answer; answer with one of no, pinned, tuned"),
     (["--answers", "data=yes,data=no"], "--answers: data is answered twice"),
     (["--answers", ANSWERS, *TYPED], "--questions computes no cost; leave out --input-tps, or run cost without"),
     (["--answers", ANSWERS.replace("volume=0.1", "volume=2x")], "volume is '2x'; answer with a number of at least 0"),
     (["--answers", ANSWERS.replace("data=yes", "data=perhaps")], "data is 'perhaps'; answer with one of yes")],
)  # fmt: skip
def test_wrong_answers_are_one_sentence(flags, words, capsys, monkeypatch):
    """Without a terminal nothing is asked, so that a script does not wait."""
    feed(monkeypatch, b"")
    assert not sys.stdin.isatty()
    assert main(["cost", "--questions", *flags], unopened) == 2
    assert words in capsys.readouterr().err
