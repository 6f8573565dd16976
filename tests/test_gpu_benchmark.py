"""benchmarks/gpu.py: what it counts is right, a wrong variant is seen, and a part that hangs costs its own line only.

No device is needed: the figures of one come from nowhere else, and every part around them is run here.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import gpu
from fake_cupy import fake_cupy
from gpu_parts import cases, counted, eager, hollow, machine, measured, report
from gpu_parts.cases import CASES, SHAPES, Case, random_checkpoint, rehearsal
from gpu_parts.serving import open_engine, sequences
from helpers import finish, make_engine, request, small_config
from host_time import TOKEN, NoTimeOps

from tinyinfer.backends.kernels import nvrtc
from tinyinfer.backends.kernels.nvrtc import ARCHITECTURES, Usage
from tinyinfer.backends.kernels.occupancy import MULTIPROCESSORS, occupancy
from tinyinfer.engine.config import EngineConfig
from tinyinfer.ledger import Ledger
from tinyinfer.measure.roofline import expected_decode
from tinyinfer.model.config import ModelConfig, held_matrices

BATCH_1 = CASES[0]
FLOAT32 = EngineConfig(max_model_len=32)


# Models with random weights.


@pytest.mark.parametrize("weights", ["bfloat16", "int8", "int4"])
def test_a_random_tensor_is_the_same_in_whatever_pieces_it_is_read(weights):
    """Backends read tiles of different sizes. Catches two engines that are compared with different weights."""
    for name, tensor in random_checkpoint(SHAPES["tiny"], weights).tensors.items():
        whole, cut = tensor.numpy(), len(tensor.numpy()) // 3
        assert np.array_equal(whole, np.concatenate((tensor.rows(0, cut), tensor.rows(cut, len(whole))))), name


@pytest.mark.parametrize("weights", ["bfloat16", "int8", "int4"])
def test_random_weights_keep_activations_near_one(weights):
    """Catches codes whose scale makes every layer explode, or vanish beside the embedding."""
    tensors = random_checkpoint(SHAPES["tiny"], weights).tensors
    for name, size in (("layers.0.down", 192**-0.5), ("layers.0.q", 128**-0.5), ("embedding", 128**-0.5)):
        assert tensors[name].numpy().std() == pytest.approx(size, rel=0.05), name
        assert abs(tensors[name].numpy().mean()) < 0.05 * size, name


def test_no_two_rows_of_a_large_matrix_are_equal():
    """Equal rows of the head would tie. Catches a pool whose size is a multiple of the width."""
    head = random_checkpoint(SHAPES["Llama-3.2-1B"], "bfloat16").tensors["embedding"]
    firsts = [head.read(row, row + 1)[0, :16].tobytes() for row in range(0, head.shape[0], 64)]
    assert len(set(firsts)) == len(firsts)


# Counts.


def test_bytes_and_flops_of_a_plan_are_those_of_the_ledger():
    """Beside them a plan counts the rows that go in and out of its kernels. Catches a layer that is left out."""
    step, ledger = counted.step_of(BATCH_1, "graph"), expected_decode(BATCH_1.config, BATCH_1.context - 1, 2)
    assert step.flops == ledger.flops
    assert ledger.bytes_moved < step.nbytes < 1.02 * ledger.bytes_moved


def test_codes_are_counted_with_their_scales():
    """8 bits and a half-precision scale for 32 weights are 8.5 bits. Catches scales that are left out."""
    numbers = sum(matrix.numbers for matrix in held_matrices(BATCH_1.config).values())
    both = [counted.step_of(replace(BATCH_1, weights=weights), "graph").nbytes for weights in ("bfloat16", "int8")]
    assert both[0] - both[1] == pytest.approx(numbers * (2 - 8.5 / 8), rel=1e-4)  # the embedding's row is less, too


def test_a_layer_is_five_launches_for_few_rows_and_six_for_many():
    """The counts that docs/gpu.md speaks of. Catches a phase that is counted once for all layers."""
    layers = BATCH_1.config.num_layers
    assert counted.step_of(BATCH_1, "graph").launches == 5 * layers + 2
    assert counted.step_of(replace(BATCH_1, batch=9), "graph").launches == 6 * layers + 3
    assert counted.step_of(BATCH_1, "persistent").launches == 1


def test_a_model_without_weights_takes_no_memory():
    """A billion weights are counted on any machine. Catches an array that is filled."""
    model = hollow.hollow_model(next(case for case in CASES if case.shape == "Llama-3.2-1B"))
    assert model.nbytes > 2e9
    assert model.embedding.table.array.strides == model.layers[0].mlp.down.weight.array.strides == (0, 0)


def test_the_table_of_kernels_has_registers_and_occupancy(monkeypatch):
    """As the compiler says them. Catches dynamic shared memory, or another architecture, that is left out."""
    monkeypatch.setattr(counted, "report", lambda text, arch: defaultdict(lambda: Usage(int(arch), 1000, 0)))
    lines = report.resources((replace(BATCH_1, shape="tiny"),)).splitlines()
    [line] = [line for line in lines if line.startswith("rms_gate_up 128 to 384")]
    kernel = next(one for one in counted.kernels(replace(BATCH_1, shape="tiny")) if one.name == "rms_gate_up")
    share = occupancy(kernel.launch.block, 90, kernel.launch.shared + 1000, MULTIPROCESSORS["sm_90"]).share
    assert line.split()[8:11] == [str(kernel.launch.shared + 1000), "80", "0"]
    assert line.split()[-4:-1] == ["90", "0", f"{share:.0%}"]
    [whole] = [line for line in lines if line.startswith("persistent")]
    assert whole.split()[3:5] == [str(hollow.MULTIPROCESSORS), "256"]  # one block each: all must be resident at once


def test_the_least_time_is_the_largest_of_three():
    """Catches a sum, and a beginning that is taken from another variant."""
    step = counted.Step(launches=10, phases=10, nbytes=600, flops=500)
    slow = {"operation_us": 1e6, "node_us": 0.0, "read_bandwidth": 100.0, "matrix_speed": 100.0}
    assert counted.least_seconds(step, "graph", slow) == 6.0
    assert counted.least_seconds(step, "eager", slow) == 10.0
    assert counted.least_seconds(replace(step, flops=700), "graph", slow) == 7.0


def test_launches_of_the_formulas_grow_by_one_layer():
    """They are counted by running a step. Catches an operation that counts twice, and a count of the first step."""
    config = SHAPES["tiny"]
    each = [eager.launches_of_a_step(layers_of(config, n)) for n in (1, 2, 3)]
    assert each[2] - each[1] == each[1] - each[0] > 20


def test_views_launch_nothing():
    """Catches a slice, a transpose or a shape that is counted as a kernel."""
    launches = eager.Launches()
    xp = eager.CountingModule(launches)
    x = xp.zeros((4, 6), dtype=np.float32)
    before = launches.count
    x[1:].T.reshape(-1, 2).swapaxes(0, 1)
    assert launches.count == before
    x[np.array([1])] * 2 + 1  # a gather and two operations
    assert launches.count == before + 3


def layers_of(config: ModelConfig, n: int) -> ModelConfig:
    return replace(config, num_layers=n, rope=config.rope[:1] * n, windows=(None,) * n)


# The table.


def test_without_a_device_the_measured_columns_are_empty_and_it_says_so():
    """A prediction must not pass for a measurement. Catches a figure in a measured column."""
    assert "No device" in report.machine_text(None)
    assert "assumed" in report.machine_text(None)
    [graph] = [line for line in report.results(CASES[:1], [], None).splitlines() if line.startswith("  graph ")]
    assert graph.split()[1:3] == ["152", "276.4"]  # the next columns after the empty ones


def test_a_measured_line_has_its_share_of_the_same_runs_bandwidth():
    """Catches the assumed bandwidth in the column of a device."""
    figures = counted.ASSUMED | {"read_bandwidth": 1e12}
    found = {"step_seconds": 1e-3, "tokens_per_second": 1000.0, "alone_seconds": 8e-4, "verdict": "right (0)"}
    cells = report.row(BATCH_1, "graph", found, figures)
    step = counted.step_of(BATCH_1, "graph")
    assert cells[1:5] == ("1000", "1000", "800", f"{step.nbytes / 1e-3 / 1e12:.0%}")
    assert cells[-1] == "right (0)"


def test_the_lesson_shows_what_the_command_prints():
    """docs/gpu.md. Catches a plan that has changed since, and a figure in a measured column that no run wrote down."""
    text = (Path(__file__).parents[1] / "docs" / "gpu.md").read_text(encoding="utf-8")
    shown = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line[:1] == "|"]
    name, found = "", set()
    folder = Path(report.__file__).parent
    records = list(map(json.loads, (folder / "h100.jsonl").read_text(encoding="utf-8").splitlines()))
    for cells in shown:
        name = cells[0] if len(cells) == 8 and cells[0] else name
        for case in CASES:
            if len(cells) == 8 and name.startswith(case.name) and cells[1] in case.variants:
                printed = report.row(case, cells[1], None, counted.ASSUMED)
                assert cells[2:6] == [printed[5], printed[6], printed[8], printed[9]]
                there = report.row(case, cells[1], report.measured(records[1:], case, cells[1]), records[0])
                assert [cells[6].strip("*"), cells[7]] == [there[2], there[4]]
                found.add((name, *cells[:2]))
            if len(cells) == 3 and cells[0] == f"{case.shape}, {case.weights}" and case.batch == 1:
                printed = report.row(case, "graph", None, counted.ASSUMED)
                assert cells[1:] == [printed[6], printed[8]]
                found.add((name, *cells[:2]))
    assert len(found) == 15
    plain = eager.launches_of_a_step(BATCH_1.config, plain=True)
    assert f"{plain:,} launches a token" in text
    assert f"{counted.step_of(BATCH_1, 'eager').launches} launches" in text


# The judge.


@pytest.fixture(scope="module")
def tiny() -> Case:
    return replace(BATCH_1, shape="tiny", prompt=5, new=8)


@pytest.fixture(scope="module")
def judge(tiny) -> measured.Judge:
    return measured.Judge(tiny, random_checkpoint(tiny.config, "bfloat16"), FLOAT32)


def test_right_tokens_are_right_and_one_wrong_token_is_seen(tiny, judge):
    """Catches a judge that looks at the last token only, or at the logits of another row."""
    run = measured.own_run(tiny, open_engine(random_checkpoint(tiny.config, "bfloat16"), FLOAT32))
    tokens = run(tiny.new).tokens
    assert judge.worst(tokens) == 0
    for place in range(tiny.new):
        wrong = [list(tokens[0])]
        wrong[0][place] = (wrong[0][place] + 1) % tiny.config.vocab_size
        assert judge.worst(wrong) > measured.ROUNDED
    assert measured.verdict(tiny, "eager", judge.worst(wrong)).startswith("WRONG")


def test_wrong_attention_changes_the_tokens(tiny, judge):
    """What random weights must show. Catches weights with which a cache that forgets the prompt answers alike."""
    forgetful = replace(tiny.config, windows=(1,) * tiny.config.num_layers)
    other = open_engine(random_checkpoint(forgetful, "bfloat16"), FLOAT32)
    wrong = measured.own_run(tiny, other)(tiny.new).tokens
    assert judge.worst(wrong) > measured.ROUNDED


def test_prefill_is_timed_to_the_first_token_and_decode_while_all_sequences_run():
    """Catches a decode figure with the prompt in it, or with steps of a batch that is not full."""
    served = sequences([[1, 2], [3, 4, 5]], 4)
    for seq, times in zip(served, ([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]), strict=True):
        seq.timing.times = times
    assert measured.prefill_of(served, 0.5) == (1.5, 5)
    assert measured.decode_of(served) == (2.0, 4)


def test_a_round_is_counted_by_its_own_tokens(tiny):
    """The median over rounds. Catches a speed of the wrong number of tokens, and the first round in the median."""
    answers = iter([measured.Answer(9.0, 1, []), *(measured.Answer(s, 10, [[7]]) for s in (1.0, 2.0, 4.0))])
    found = measured.timed(tiny, lambda new: next(answers), 60.0)
    assert (found["tokens_per_second"], found["step_seconds"], found["tokens"]) == (5.0, 0.2, [[7]])


# The flow.


def written(*records: str, then: str = "") -> list[str]:
    """A process that writes these lines and then does something else."""
    code = "".join(f"print({record!r}, flush=True)\n" for record in records) + then
    return [sys.executable, "-c", f"import time\n{code}"]


def test_lines_come_as_they_are_written_and_a_process_that_hangs_is_ended(monkeypatch):
    """Catches a table that waits for ever, and lines that are lost when two are written at once."""
    monkeypatch.setattr(gpu, "START", 5.0)
    found = list(gpu.lines(written('{"a": 1}\n{"a": 2}', "a warning", then="time.sleep(60)"), 0.3))
    assert found == [{"a": 1}, {"a": 2}, {"error": "no answer in 0 s"}]


def test_after_a_variant_that_fails_the_others_are_measured_in_a_new_process():
    """Catches a broken device that takes all later lines with it, and a variant that is tried for ever."""
    asked, kept = [], []

    def run(case, variants, limit):
        if case is None:
            yield {"read_bandwidth": 1.0}
            return
        asked.append(variants)
        for variant in variants:
            if variant == "silent":
                return
            yield {"error": "it broke"} if variant == "broken" else {"verdict": variant}
            if variant == "broken":
                return

    case = replace(BATCH_1, variants=("a", "broken", "b", "silent", "c"))
    gpu.measure_all((case,), run, 1.0, 60.0, kept.append)
    figures, *found = kept
    assert figures == {"read_bandwidth": 1.0}
    assert [(one["variant"], one.get("verdict", one.get("error"))) for one in found] == [
        ("a", "a"), ("broken", "it broke"), ("b", "b"), ("silent", "its process ended without a word"), ("c", "c"),
    ]  # fmt: skip
    assert asked == [case.variants, ("b", "silent", "c"), ("silent", "c"), ("c",)]


def test_no_variant_begins_when_the_time_is_over():
    """Catches a run that its caller has to kill, and loses its table."""
    kept = []
    gpu.measure_all((BATCH_1,), lambda *_: iter([{}]), 1.0, 0.0, kept.append)
    assert kept == [{}]


def test_a_run_that_is_cut_off_prints_what_it_has():
    """A machine that is lent for minutes ends the run. Catches a table that needs all of its lines."""
    without = report.whole(CASES[:1], [])
    assert "No device" in without
    assert without == report.whole(CASES[:1], [{"error": "the device was not measured"}])
    figures = machine.measure(fake_cupy, small=True)
    assert "not there" in report.whole(CASES[:1], [figures, {"case": "batch 1", "variant": "graph", "error": "broke"}])


def test_the_fastest_variant_is_compared_with_each_other_engine():
    """Catches a slower variant, another case, or the inverse."""
    speeds = {"eager": 100.0, "graph": 2000.0, cases.GENERATE: 80.0}
    found = [{"case": "batch 1", "variant": name, "tokens_per_second": speed} for name, speed in speeds.items()]
    found.append({"case": "batch 64", "variant": "graph", "tokens_per_second": 9e9})
    assert report.ratios(CASES, found) == f"batch 1: graph is 25 times as fast as {cases.GENERATE}"


def test_the_device_is_measured_by_every_name_that_the_table_needs():
    """On a device that is not there. Catches a name that CuPy does not have, and a kernel that does not compile."""
    figures = machine.measure(fake_cupy, small=True)
    assert set(report.FIGURES) <= set(figures)
    assert all(figures[name] > 0 for name in report.FIGURES)
    assert "not there" in report.machine_text(figures)


@pytest.mark.cuda
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_kernels_that_measure_the_device_compile(arch):
    """NVRTC is what a device has. Catches a word that g++ knows and NVRTC does not."""
    found = nvrtc.report(machine.SOURCE.read_text(encoding="utf-8"), arch)
    assert set(found) == {"read_all", "nothing", "barriers"}
    assert not any(usage.spills for usage in found.values())


@pytest.fixture
def device(monkeypatch):
    """A device that is not there, in the place of CuPy."""
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)


REHEARSED = ("batch 1", "batch 64", "prefill 8 x 1024", "batch 1, int4")  # the others differ in their sizes


def own(case: Case) -> tuple[str, ...]:
    return tuple(variant for variant in case.variants if variant in cases.OWN)


@pytest.mark.parametrize("case", [case for case in rehearsal() if case.name in REHEARSED], ids=lambda case: case.name)
@pytest.mark.cuda
def test_the_whole_flow_on_a_device_that_is_not_there(case, device):
    """With the kernels run on the CPU. Catches whatever would fail on a machine that is lent for minutes."""
    variants = own(case) if case.batch < 9 else ("graph",)
    found = list(gpu.answers(case, variants, 0.1))
    assert [one["variant"] for one in found] == list(variants)
    assert not [one["error"] for one in found if "error" in one]
    assert all(one["verdict"].startswith("right") for one in found)
    table = report.results((case,), found, counted.ASSUMED)
    assert table.count("right") == len(found)
    json.dumps(found)


def test_the_flow_begins_with_the_formulas(device):
    """The quick part of the same: one variant without a kernel of our own."""
    case = replace(rehearsal()[0], new=3)
    [found] = gpu.answers(case, ("eager",), 0.1)
    assert found["verdict"].startswith("right")


def test_an_error_in_the_end_costs_nothing_that_was_measured_before(device, monkeypatch):
    """Catches a line that is lost, and a device in an unknown state that goes on."""
    monkeypatch.setattr(gpu, "alone", lambda *_: 1 / 0)
    case = replace(rehearsal()[0], new=3)
    [found] = gpu.answers(case, ("eager", "eager"), 0.1)
    assert found["verdict"].startswith("right")
    assert "ZeroDivisionError" in found["failed_alone"]


def test_a_line_whose_variant_did_not_run_is_refused():
    """Catches a fallback that is printed under the name of what it fell back from."""
    with pytest.raises(RuntimeError, match="ran as eager"):
        measured.check_way("graph", open_engine(random_checkpoint(SHAPES["tiny"], "bfloat16"), FLOAT32))


def test_the_host_s_time_is_that_of_the_engine_alone():
    """Catches a seam of the engine that has changed since: the benchmark would stop with a TypeError."""
    engine, seq = make_engine(small_config(), ops=NoTimeOps(Ledger())), request([3, 4, 5], 6)
    assert finish(engine, seq) == [[TOKEN] * 6]
    assert engine.ledger.flops == 0
