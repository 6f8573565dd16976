"""`generate --use DIR`: a model answers through a student's file, and the answer is compared with the engine's own."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import posix, short, start, unopened

import tinyinfer
from tinyinfer import LLM, SamplingParams
from tinyinfer.cli import main, parse
from tinyinfer.cli.arguments import UsageError
from tinyinfer.cli.as_student import check_package, in_words
from tinyinfer.cli.comparison import Comparison, first_difference
from tinyinfer.cli.signals import ending_signals
from tinyinfer.cli.use import read_students, status_of, with_switches
from tinyinfer.course.assignment import assignment, assignments
from tinyinfer.course.cut import skeleton, solution
from tinyinfer.course.errors import CourseError

__all__ = ["short"]  # fixtures
Make = Callable[..., Path]
CACHE = solution(assignment("kv_cache"))
BACK = "        return k, v\n"
STORE = "keys[:, first:stop] = k["


@pytest.fixture
def student(tmp_path: Path) -> Make:
    """Makes the folder of a student: with our solution, or with another source."""

    def make(name: str = "kv_cache", source: str | None = None, folder: str = "") -> Path:
        place = tmp_path / (folder or name)
        place.mkdir()
        text = solution(assignment(name)) if source is None else source
        (place / f"{name}.py").write_text(text, encoding="utf-8")
        (place / "assignment.toml").write_text(f'name = "{name}"\nversion = "1"\nengine = "0"\n')
        return place

    return make


def changed(old: str, new: str) -> str:
    """Our cache with a change."""
    assert CACHE.count(old) == 1
    return CACHE.replace(old, new)


# --- Both runs ---


def test_a_right_file_gives_identical_tokens_and_an_equal_ledger(
    student: Make, short: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches a run that does not reach stdout, and a comparison that is not made."""
    words = ["generate", "-m", short, "-n", "12", "hello", "-p", "what"]
    assert main(words) == 0
    plain = capfd.readouterr().out
    assert main([*words, "--use", str(student())]) == 0
    out, err = capfd.readouterr()
    assert out == plain
    *statistics, first, second, ledgers = err.splitlines()
    assert [line.partition(":")[0] for line in statistics] == ["Prompt", "Generation", "Peak memory"]
    assert first == "prompt 1 of 2: identical: 12 tokens"
    assert second == "prompt 2 of 2: identical: 12 tokens"
    assert ledgers == "the ledgers are equal"


@pytest.mark.course
def test_every_assignment_serves_beside_the_others(
    student: Make, short: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches assignments that cannot be used together, and a seed that the two runs do not share."""
    serving = [a for a in assignments().values() if a.generates]
    switches = {name: value for a in serving for name, value in a.switches.items()}
    folders = [word for a in serving for word in ("--use", str(student(a.name)))]
    words = ["generate", "-m", short, "-n", "6", "--ignore-eos", "hello", "-q", "--temp", "0.9", "--top-k", "40"]
    assert main([*words, *folders]) == 0
    out, err = capfd.readouterr()
    assert out.strip()
    assert err == "identical: 6 tokens\nthe ledgers are equal\n"
    assert switches["kv_cache"] == "contiguous"


def test_without_a_network_the_story_teller_answers_in_both_runs(
    student: Make, short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches a process that has no model where the other one has, and two that tell of it."""
    monkeypatch.setenv("TINYINFER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr("tinyinfer.loading.hub.install", lambda *args, **known: short)  # by then the network is back
    assert main(["generate", "-n", "6", "Once upon a time", "-q", "--use", str(student())]) == 0
    out, err = capfd.readouterr()
    assert out.strip()
    told, *compared = err.splitlines()
    assert "so story-teller continues your text" in told
    assert compared == ["identical: 6 tokens", "the ledgers are equal"]


def test_a_wrong_file_is_told_by_token_and_by_ledger(
    student: Make, short: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches a comparison of texts, of lengths or of nothing; --trace shows the student's steps."""
    source = changed(STORE, "keys[:, first:stop] = -k[").replace(
        "self.ledger.kv_written_bytes += k.nbytes + v.nbytes", "self.ledger.kv_written_bytes += np.prod(k.shape) * 4"
    )
    source += "\nimport numpy as np  # whose whole numbers JSON does not have\n"
    folder = student(source=source)
    assert main(["generate", "-m", short, "-n", "8", "hello", "--trace", "--use", str(folder)]) == 1
    err = capfd.readouterr().err
    assert "step of 22 rows" in err
    *_, tokens, ledger = err.splitlines()
    assert tokens.startswith("different: token 1 is ")
    llm = LLM(short)
    right = llm.chat([{"role": "user", "content": "hello"}], SamplingParams(max_tokens=8))
    assert f"(id {right.token_ids[0]})" in tokens.partition("; the engine's own code gives ")[2]
    written = llm.ledger.kv_written_bytes
    assert ledger == f"ledger: kv_written_bytes {written // 2:,} instead of {written:,}"


@pytest.mark.course
def test_json_lines_hold_the_comparison_of_sampled_prompts(
    student: Make, short: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches text among the JSON, and a comparison that belongs to another prompt."""
    folder = student(
        source=changed(
            "stop = self._written[seq.id] if stop",
            "self.ledger.steps += 1; print(1)\n        stop = self._written[seq.id] if stop",
        )
    )
    words = ["generate", "-m", short, "-n", "5", "--ignore-eos", "hello", "-p", "what is", "--temp", "0.9"]
    assert main([*words, "--json", "-q", "--use", str(folder)]) == 0
    out, err = capfd.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [len(line["token_ids"]) for line in lines] == [5, 5]
    reads = LLM(short).config.num_layers * (5 + 5)  # a read of each sequence in each layer and step
    assert [line["reference"] for line in lines] == [
        {"identical": True, "first_difference": None, "ledger_difference": {"steps": reads}}
    ] * 2
    assert err.splitlines()[-1].startswith("ledger: steps ")
    assert "1" in err.splitlines()  # what the student's code prints is no answer


# --- What is wrong with a student's file ---


def test_a_file_that_is_not_written_names_its_task(
    student: Make, short: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback, and the task of a clean-up that failed after the first."""
    folder = student(source=skeleton(assignment("kv_cache")))
    assert main(["generate", "-m", short, "hello", "--use", str(folder)]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"tinyinfer: error: {folder / 'kv_cache.py'}:")
    assert re.search(r":\d+: not written yet: kv_cache, task \d: ContiguousCache.missing$", line)


@pytest.mark.course
def test_an_error_shows_the_students_lines_and_none_of_ours(
    student: Make, short: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches our frames in a student's traceback."""
    folder = student(source=changed(STORE, "keys[:, first:stop] = nothing["))
    assert main(["generate", "-m", short, "hello", "--use", str(folder)]) == 2
    lines = capfd.readouterr().err.splitlines()
    path, number = folder / "kv_cache.py", CACHE.partition(STORE)[0].count("\n") + 1
    assert (
        lines[0] == f"tinyinfer: error: {path}:{number}: the code stopped with NameError: name 'nothing' is not defined"
    )
    assert lines[1] == f"  {path}, line {number}, in append"
    assert lines[2].startswith("    keys[:, first:stop] = nothing[")
    assert len(lines) == 3


@pytest.mark.course
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (BACK, "        return k[:, :, 1:], v\n", "the engine cannot go on with what {} gave (ValueError: "),
        ("import annotations\n", "import annotations\nimport nothing\n", "No module named 'nothing'"),
        ("    def free(", "    def release(", "kv_cache.py does not define ContiguousCache.free, which"),
        (BACK, "        return k * float('nan'), v\n", "cannot go on with what {} gave (NaN or infinity); run"),
        (BACK, "        raise GeneratorExit\n", "the code stopped with GeneratorExit"),
        (BACK, "        import os; os._exit(0)\n", "ended with exit status 0, before all answers"),
        (BACK, "        raise SystemExit(0)\n", "the code stopped with SystemExit: 0"),
        (BACK, "        import os; os.kill(os.getpid(), 9)\n", "ended by signal 9 (Killed), before all"),
    ],
)  # fmt: skip
def test_a_file_that_stops_the_run_is_told_in_one_sentence(
    student: Make, short: str, capfd: pytest.CaptureFixture[str], old: str, new: str, told: str
) -> None:
    """Catches tracebacks of ours, and a silent end."""
    folder = student(source=changed(old, new))
    assert main(["generate", "-m", short, "hello", "-q", "--use", str(folder)]) == 2
    err = capfd.readouterr().err
    assert told.format(folder / "kv_cache.py") in err
    assert "Traceback" not in err
    assert not [line for line in err.splitlines() if "tinyinfer/" in line]


def test_of_a_long_traceback_the_last_lines_are_shown(tmp_path: Path) -> None:
    """Catches a thousand lines of a recursion."""
    path = tmp_path / "kv_cache.py"
    path.write_text("def f(n):\n    return f(n + 1)\n")
    space: dict[str, Callable[[int], int]] = {}
    exec(compile(path.read_text(), str(path), "exec"), space)
    try:
        space["f"](0)
    except RecursionError as error:
        told = in_words(error, {str(path): "mine/kv_cache.py"}) or []
    assert told[0].startswith("mine/kv_cache.py:2: the code stopped with RecursionError: maximum recursion depth")
    assert told[1].endswith(" calls more")
    assert told[-2:] == ["  mine/kv_cache.py, line 2, in f", "    return f(n + 1)"]
    assert len(told) == 2 + 2 * 8


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / "kv_cache.py").unlink(), "kv_cache.py: is missing; `course start` writes it"),
        (
            lambda folder: (folder / "kv_cache.py").write_text("x = 1\ndef f(:\n"),
            "kv_cache.py:2: is no Python: invalid",
        ),
        (lambda folder: (folder / "kv_cache.py").write_bytes(b"x = '\xff'"), "kv_cache.py:1: is no Python: "),
        (lambda folder: (folder / "kv_cache.py").write_bytes(b"x = 1\0"), "is no Python: source code"),
        (lambda folder: (folder / "assignment.toml").unlink(), "assignment.toml: is missing, so the assignment"),
        (lambda folder: (folder / "assignment.toml").write_text('name = "kv"'), "no assignment 'kv' (did you mean"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_before_a_model_is_opened(
    student: Make, capfd: pytest.CaptureFixture[str], change: Callable[[Path], object], told: str
) -> None:
    """Catches a mistake that costs the loading of a model."""
    folder = student()
    change(folder)
    assert main(["generate", "hello", "--use", str(folder)], unopened) == 2
    err = capfd.readouterr().err
    assert told in err
    assert str(folder) in err
    assert err.count("\n") == 1


def test_two_folders_of_one_assignment_are_refused(student: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches one student's code that silently serves in the place of the other's."""
    folders = [student(folder="ann"), student(folder="bob")]
    assert main(["generate", "hello", "--use", str(folders[0]), "--use", str(folders[1])], unopened) == 2
    assert "are both folders of kv_cache; use one of them" in capfd.readouterr().err


def test_code_that_no_answer_runs_is_refused(student: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches "identical" for a backward pass that is not even written."""
    folder = student("rms_norm_backward")
    assert main(["generate", "hello", "--use", str(folder)], unopened) == 2
    told = f"{folder}: no answer runs the code of rms_norm_backward; `pytest {folder}` gives its score"
    assert told in capfd.readouterr().err


# --- Switches ---


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--kv-cache", "paged"], "runs under --kv-cache contiguous, not under --kv-cache paged; leave it out"),
        (["--kv-cache=none"], "runs under --kv-cache contiguous, not under --kv-cache none; leave it out"),
        (["--temp", "-1"], "--temp=-1.0 "),
        (["--raw", "-sys", "x"], "--system-prompt needs the chat template"),
    ],
)
def test_flags_that_contradict_are_refused_before_a_model_is_opened(
    student: Make, capfd: pytest.CaptureFixture[str], flags: list[str], told: str
) -> None:
    """Catches a run that does not use the student's code at all."""
    assert main(["generate", "hello", "--use", str(student()), *flags], unopened) == 2
    assert told in capfd.readouterr().err


def test_a_switch_may_have_each_value_under_which_the_code_runs(student: Make) -> None:
    """Catches a student who may not try fewer bits with correct code."""
    students = read_students([str(student("quantization"))])
    for words, value in (["--quantize", "int2"], "int2"), ([], "int4"):
        args = with_switches(parse(["generate", "hello", *words]), students)
        assert args.quantize == value
    with pytest.raises(UsageError, match=r"runs under --quantize int4 or .*, not under --quantize off; leave it out"):
        with_switches(parse(["generate", "hello", "--quantize", "off"]), students)


def test_each_filter_of_a_sampler_runs(student: Make) -> None:
    """Catches "identical" for a sampler whose filters are not written: the engine's default is greedy."""
    args = with_switches(parse(["generate", "hello"]), read_students([str(student("sampling"))]))
    assert min(args.temperature, args.top_k, args.min_p, 1 - args.top_p, args.repetition_penalty - 1) > 0


def test_only_drawn_tokens_get_a_seed(student: Make) -> None:
    """Catches two runs with different noise, and a seed that the user gave and that is replaced."""
    students = read_students([str(student())])
    seeds = [
        with_switches(parse(["generate", "hello", *words]), students).seed
        for words in ([], ["--temp", "1"], ["--temp", "1", "-s", "-1"], ["--temp", "1", "-s7"])
    ]
    assert seeds[0] is None
    assert isinstance(seeds[1], int)
    assert isinstance(seeds[2], int)
    assert seeds[2] >= 0
    assert seeds[3] == 7


@pytest.mark.course
def test_the_switches_of_an_assignment_are_added_and_said(
    student: Make, short: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a student's code that never runs, because the engine's default does not use it."""
    folder = student("quantization", folder="rounding")
    assert dict(assignment("quantization").switches)
    assert main(["generate", "-m", short, "-n", "3", "hello", "--use", str(folder)]) == 0
    first = capfd.readouterr().err.splitlines()[0]
    assert first.startswith("with --quantize ")
    assert first.endswith(", for --use")


# --- The comparison by itself ---


class Letters:
    """A tokenizer whose token 65 is the letter A."""

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("mine", "right", "told"),
    [
        ([65, 66], [65, 66], None),
        ([65, 66], [65, 67], 'token 2 is "B" (id 66); the engine\'s own code gives "C" (id 67)'),
        ([65], [65, 67], 'token 2 is none; the engine\'s own code gives "C" (id 67)'),
        ([65, 10], [65], 'token 2 is "\\n" (id 10); the engine\'s own code gives none'),
    ],
)
def test_the_first_token_that_differs_is_found(mine: list[int], right: list[int], told: str | None) -> None:
    """Catches an answer that is shorter and counts as equal."""
    difference = first_difference(mine, right, Letters())  # type: ignore[arg-type]
    assert (str(difference) if difference else None) == told


def test_only_the_counts_that_differ_are_told() -> None:
    """Catches a ledger that is printed whole."""
    found = Comparison((3,), (None,), {"flops": (1200, 1000)})
    assert found.lines() == ["identical: 3 tokens", "ledger: flops 1,200 instead of 1,000"]
    assert found.as_dict(0)["ledger_difference"] == {"flops": 200}


# --- Ctrl-C ---


@posix
@pytest.mark.course
@pytest.mark.parametrize("whole_group", [True, False], ids=["terminal", "kill"])
def test_ctrl_c_ends_both_processes_and_leaves_nothing(
    student: Make, tmp_path: Path, golden_folder: Callable[..., Path], whole_group: bool
) -> None:
    """Catches a process that goes on, and a package that stays in the temporary folder."""
    source = changed(STORE, "import time; time.sleep(0.05); keys[:, first:stop] = k[")
    (tmp_path / "tmp").mkdir()
    words = ["generate", "-m", str(golden_folder("llama")), "-n", "100", "hello", "--use", str(student(source=source))]
    process = start(*words, start_new_session=True, env=os.environ | {"TMPDIR": str(tmp_path / "tmp")})
    assert process.stdout
    assert process.stderr
    process.stdout.read(1)  # the answer has begun
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    err = process.stderr.read().decode()
    assert "Generation: " in err
    assert "identical" not in err
    assert not list((tmp_path / "tmp").iterdir())


# --- What the machine does ---


def test_a_full_disk_is_told_with_its_folder(
    student: Make, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches "stdin or stdout: No space left on device", or 250 names of files."""

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(source))

    monkeypatch.setattr("tinyinfer.course.cut.shutil.copyfile", full)
    assert main(["generate", "hello", "--use", str(student())], unopened) == 2
    err = capfd.readouterr().err
    assert "takes no copy of the package (No space left on device); set TMPDIR to another folder" in err
    assert err.count("\n") == 1


def test_a_process_without_the_students_code_is_refused(tmp_path: Path) -> None:
    """Catches "identical" for the engine's own code twice, where the folder's name breaks PYTHONPATH."""
    with pytest.raises(CourseError, match="no student's code would run; set TMPDIR"):
        check_package(tmp_path)
    check_package(Path(tinyinfer.__file__).parents[1])


def test_an_exit_that_nobody_told_is_told(student: Make) -> None:
    """Catches os._exit(2) in a student's code, which looked like a mistake that was told already."""
    students = read_students([str(student())])
    assert [status_of(2, True, students), status_of(141, True, students)] == [2, 141]
    assert [status_of(130, False, students), status_of(-signal.SIGINT, False, students)] == [130, 130]
    with pytest.raises(CourseError, match="ended with exit status 2, before all answers"):
        status_of(2, False, students)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("raise NotImplementedError", "mine.py:1: not written yet: <module>"),
        ("raise ValueError('one\\ntwo')", "mine.py:1: the code stopped with ValueError: one\ntwo"),
        ("e = ValueError('one'); e.add_note('two'); raise e", "mine.py:1: the code stopped with ValueError: one"),
        ("raise KeyError", "mine.py:1: the code stopped with KeyError"),
    ],
)
def test_an_error_is_told_with_its_kind(line: str, told: str) -> None:
    """Catches an error whose kind is lost behind its second line, and a task without a name."""
    with pytest.raises((NotImplementedError, ValueError, KeyError)) as caught:
        exec(compile(line, "/a/mine.py", "exec"), {})
    assert (in_words(caught.value, {"/a/mine.py": "mine.py"}) or [])[0] == told


@posix
def test_a_signal_is_no_error_of_the_code_that_ran() -> None:
    """Catches "the code stopped with SystemExit: 143" after `timeout` has ended the command."""
    code = compile("import os\nos.kill(os.getpid(), 15)\nfor i in range(10 ** 6): pass", "/a/mine.py", "exec")
    with pytest.raises(SystemExit) as caught, ending_signals():
        exec(code, {})
    assert in_words(caught.value, {"/a/mine.py": "mine.py"}) is None


@pytest.mark.course
def test_a_thread_that_stays_holds_nothing_up(student: Make, short: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches a command that waits for ever for a student's thread, and a student's code that runs at the end."""
    more = "import threading, time, atexit, os\nthreading.Thread(target=time.sleep, args=(300,)).start()\n"
    folder = student(source=CACHE + more + "atexit.register(os._exit, 3)\n")
    assert main(["generate", "-m", short, "-n", "3", "hello", "-q", "--use", str(folder)]) == 0
    assert "identical: 3 tokens" in capfd.readouterr().err


@posix
@pytest.mark.course
def test_code_that_holds_ctrl_c_back_is_ended(student: Make, golden_folder: Callable[..., Path]) -> None:
    """Catches "ended by signal 9" as an answer to Ctrl-C."""
    more = "import time\ndef wait():\n  print(flush=True)\n  while True:\n    try: time.sleep(9)\n    except: pass\n"
    folder = student(source=changed(STORE, "wait(); keys[:, first:stop] = k[") + more)
    process = start("generate", "-m", str(golden_folder("llama")), "hello", "--use", str(folder))
    assert process.stdout
    assert process.stderr
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert process.stderr.read().decode().splitlines()[-1] == "tinyinfer: interrupted"
