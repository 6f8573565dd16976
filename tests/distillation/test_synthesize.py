"""Synthesis: each document is what the model writes to its prompt alone; an interrupted file ends as a whole one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import base_model, short

from tinyinfer import LLM, SamplingParams
from tinyinfer.distillation.documents import Totals, fingerprint, write_documents
from tinyinfer.distillation.prompts import PromptSource
from tinyinfer.distillation.synthesize import Document, conversation, seed_of, synthesize
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import ModelError, NotFiniteError, SwitchError

__all__ = ["base_model", "short"]  # fixtures

SHORT = SamplingParams(max_tokens=6, temperature=0.8)


def prompts(i: int) -> str:
    return f"the {i}" + " thing" * (i % 3)


SOURCE = PromptSource("mine", prompts)


@pytest.fixture(scope="module")
def llm(golden_folder: Callable[[str], Path]) -> LLM:
    return LLM(str(golden_folder("llama")), max_num_seqs=3, kv_cache="paged")


def documents(llm: LLM, tokens: int, params: SamplingParams = SHORT, **options: Any) -> list[Document]:
    return list(synthesize(llm, prompts, tokens, params, **options))


# The documents


def test_each_document_is_what_the_model_writes_alone(llm: LLM) -> None:
    """Catches text that depends on what runs beside it, documents out of order, and a prompt that is not rendered."""
    found = documents(llm, 80, seed=5)
    for i, document in enumerate(found):
        params = SamplingParams(max_tokens=6, temperature=0.8, seed=seed_of(5, i))
        out = llm.chat(conversation(prompts(i)), params)
        assert document.prompt == llm.tokenizer.render(conversation(prompts(i)))
        assert (document.text, document.tokens) == (out.text, len(out.token_ids))
        assert document.finished == (out.finish_reason == "stop")
    assert len({document.text for document in found}) > 5


def test_the_same_prompt_gets_another_answer_each_time(llm: LLM) -> None:
    """A file of few prompts is taken in turn. Catches one seed for all documents."""
    found = list(synthesize(llm, lambda i: "the thing", 60, SHORT))
    assert len({document.text for document in found}) > len(found) / 2


@pytest.mark.parametrize(
    "switches",
    [
        {"kv_cache": "none"},
        {"batching": "static"},
        {"kv_cache": "paged", "prefix_cache": True, "num_blocks": 20},
        {"speculative": "prompt-lookup", "max_num_seqs": 1},
    ],
)
def test_every_engine_writes_the_same(llm: LLM, switches: dict[str, Any]) -> None:
    """Finished requests that keep a seat, preemptions and several tokens a step lose no document."""
    other = llm.with_engine(EngineConfig(**{"max_num_seqs": 5} | switches))
    assert documents(other, 80) == documents(llm, 80)


def test_without_a_chat_template_the_prompt_is_the_text(base_model: str) -> None:
    """Catches a space between prompt and answer that is lost."""
    llm = LLM(base_model, max_num_seqs=3)
    for i, document in enumerate(documents(llm, 40)):
        params = SamplingParams(max_tokens=6, temperature=0.8, seed=seed_of(0, i))
        assert (document.prompt, document.text) == (prompts(i), llm.generate(prompts(i), params)[0].text)


def test_it_ends_with_the_first_document_that_reaches_the_tokens(llm: LLM) -> None:
    """Not with the first that ends: fewer tokens are a beginning of more. Catches a file that depends on the batch."""
    long = documents(llm, 90)
    for tokens in (1, 6, 7, 50):
        few = documents(llm, tokens)
        assert few == long[: len(few)]
        assert sum(d.tokens for d in few[:-1]) < tokens <= sum(d.tokens for d in few)


def test_the_first_documents_can_be_left_out(llm: LLM) -> None:
    whole = documents(llm, 90)
    assert documents(llm, sum(d.tokens for d in whole[4:]), start=4) == whole[4:]


def test_an_end_token_finishes_a_document(llm: LLM) -> None:
    """The end token counts as a token, and is no text."""
    ended = [d for d in documents(llm, 1200, SamplingParams(max_tokens=40, temperature=1.5)) if d.finished]
    assert ended
    assert all(d.tokens <= 40 and "<|im_end|>" not in d.text for d in ended)


def test_the_batch_never_drains_and_little_is_in_the_engine(llm: LLM) -> None:
    """All seats are taken in each step but the last ones, and at most twice as many requests are in the engine.

    Catches rounds of requests, each as slow as its longest answer, and a list of all requests in memory.
    """
    sizes: list[tuple[int, int]] = []

    def look(generated: int) -> None:
        scheduler = llm.engine.scheduler
        sizes.append((generated, len(scheduler.running) + len(scheduler.waiting)))

    documents(llm, 200, on_step=look)
    assert len(sizes) > 60
    assert {generated for generated, _ in sizes[:-12]} == {3}
    assert max(size for _, size in sizes) <= 6


def test_what_comes_too_late_is_not_computed(llm: LLM) -> None:
    """Four answers of 6 tokens by three seats: of the second three requests, one leaves halfway, and then another.

    Catches requests that are computed to their end although no document of theirs can be in the file.
    """
    steps: list[int] = []
    params = SamplingParams(max_tokens=6, temperature=0.8, ignore_eos=True)
    assert len(documents(llm, 24, params, on_step=steps.append)) == 4
    assert steps == [3] * 9 + [2] * 3


def test_leaving_early_frees_the_engine(llm: LLM) -> None:
    """Catches blocks that are held for documents that nothing waits for."""
    for _ in synthesize(llm, prompts, 1000, SHORT):
        break
    assert not llm.engine.scheduler.busy
    assert llm.engine.cache.blocks_in_use == 0
    assert len(llm.generate("the thing", SHORT)) == 1


def test_wrong_arguments(llm: LLM) -> None:
    with pytest.raises(ValueError, match="tokens=0 must be at least 1"):
        documents(llm, 0)
    with pytest.raises(SwitchError, match="needs text while it comes"):
        documents(llm, 9, SamplingParams(stop="."))
    with pytest.raises(ValueError, match=r"document 2: the prompt has \d+ tokens, but the context holds 128"):
        list(synthesize(llm, lambda i: "the thing " * 100 * (i == 2) + "x", 1000, SHORT))


def test_an_overflow_names_its_document(short: str) -> None:
    """And what was written before it is there."""
    llm, found = LLM(short, max_num_seqs=2), []
    llm.engine.choose = overflow_at(llm, 20)  # type: ignore[method-assign]
    with pytest.raises(NotFiniteError, match=r"document \d+: numbers"):
        found.extend(synthesize(llm, prompts, 1000, SHORT))
    assert not llm.engine.scheduler.busy


def overflow_at(llm: LLM, step: int) -> Callable[..., Any]:
    """Chooses as before until the step of that number, which overflows in the first sequence of its batch."""
    choose, steps = llm.engine.choose, []

    def wrapped(logits: Any, batch: Any) -> Any:
        steps.append(batch)
        if len(steps) == step:
            raise NotFiniteError("numbers overflow", "stop", batch.spans[0].seq.id)
        return choose(logits, batch)

    return wrapped


# The file


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_has_a_line_for_each_document(llm: LLM, tmp_path: Path) -> None:
    """In order; nothing is left beside it."""
    told: list[Totals] = []
    totals = write_documents(llm, tmp_path / "out", SOURCE, 50, SHORT, seed=5, on_document=told.append)
    found = documents(llm, 50, seed=5)
    assert lines(tmp_path / "out") == [asdict(document) for document in found]
    assert totals == told[-1] == Totals(len(found), sum(d.tokens for d in found))
    assert told[0] == Totals()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class Interrupted(Exception):
    """What ends a run in the middle."""


def interrupt(llm: LLM, target: Path, after: int, tokens: int = 80) -> None:
    """Begins a file, and is interrupted after some documents."""

    def stop(totals: Totals) -> None:
        if totals.documents == after:
            raise Interrupted

    with pytest.raises(Interrupted):
        write_documents(llm, target, SOURCE, tokens, SHORT, on_document=stop)


@pytest.mark.parametrize("torn", ["", '{"prompt": "the 5", "te', "x" * 9000], ids=["whole", "torn", "long"])
def test_an_interrupted_file_is_the_same_as_one_of_one_run(llm: LLM, torn: str, tmp_path: Path) -> None:
    """Byte by byte, after two interruptions and with a last line that a kill tore off."""
    write_documents(llm, tmp_path / "whole", SOURCE, 80, SHORT)
    target, seen = tmp_path / "out", []
    for after in (5, 8):
        interrupt(llm, target, after)
        with open(tmp_path / "out.part", "a") as part:
            part.write(torn)
    write_documents(llm, target, SOURCE, 80, SHORT, on_document=seen.append)
    assert seen[0].documents == 8
    assert target.read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_a_kill_between_the_last_line_and_the_name(llm: LLM, tmp_path: Path) -> None:
    """Nothing is computed any more. Catches one document too many."""
    write_documents(llm, tmp_path / "whole", SOURCE, 80, SHORT)
    interrupt(llm, tmp_path / "out", len(lines(tmp_path / "whole")))
    steps: list[int] = []
    write_documents(llm, tmp_path / "out", SOURCE, 80, SHORT, on_step=steps.append)
    assert steps == []
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_longer_file_goes_on_and_a_shorter_one_is_refused(llm: LLM, tmp_path: Path) -> None:
    """More tokens only add lines; fewer would throw away what was computed."""
    interrupt(llm, tmp_path / "out", 2)
    with pytest.raises(ValueError, match=r"out\.part: has more than 6 tokens already, .*; ask for more, or remove"):
        write_documents(llm, tmp_path / "out", SOURCE, 6, SHORT)
    assert len(lines(tmp_path / "out.part")) == 2
    write_documents(llm, tmp_path / "out", SOURCE, 100, SHORT)
    assert lines(tmp_path / "out") == [asdict(document) for document in documents(llm, 100)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"params": SamplingParams(max_tokens=7, temperature=0.8)}, "max_tokens was 6 and is now 7"),
        ({"params": SamplingParams(max_tokens=6)}, "temperature was 0.8 and is now 0.0"),
        ({"source": PromptSource("other", prompts)}, "prompts was 'mine' and is now 'other'"),
        ({"source": PromptSource("mine", "another {}".format)}, "was begun with other prompts of the same name"),
    ],
)
def test_other_settings_are_refused(llm: LLM, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Catches a file of two halves; the lines stay. One sentence says what differs, and what to do."""
    interrupt(llm, tmp_path / "out", 5)
    asked = {"source": SOURCE, "params": SHORT, "seed": 0} | change
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        write_documents(llm, tmp_path / "out", asked["source"], 80, asked["params"], seed=asked["seed"])
    assert f"remove {tmp_path / 'out.part'} to begin anew, or give another name" in str(refused.value)
    assert len(lines(tmp_path / "out.part")) == 5


def test_another_model_and_other_bits_are_refused(llm: LLM, golden_folder, tmp_path: Path) -> None:
    interrupt(llm, tmp_path / "out", 5)
    with pytest.raises(ValueError, match=r"model was 'llama.* and is now 'qwen2"):
        write_documents(LLM(str(golden_folder("qwen2"))), tmp_path / "out", SOURCE, 80, SHORT)
    with pytest.raises(ValueError, match="dtype was 'float32' and is now 'bfloat16'"):
        write_documents(LLM(llm.path, dtype="bfloat16"), tmp_path / "out", SOURCE, 80, SHORT)


def test_a_trained_model_has_another_fingerprint(short: str, tmp_path: Path) -> None:
    """The same sizes, other bytes. Catches a file whose second half is another model's."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in Path(short).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert fingerprint(copy) == fingerprint(Path(short))
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert fingerprint(copy) != fingerprint(Path(short))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json\n", "line 1 is no JSON object"),
        ("[1]\n", "line 1 is no JSON object"),
        ('{"prompt": 3}\n', "line 1 is no document"),
    ],
)
def test_a_part_that_another_program_has_changed(llm: LLM, text: str, message: str, tmp_path: Path) -> None:
    interrupt(llm, tmp_path / "out", 5)
    (tmp_path / "out.part").write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"out.part: {message}; another program has changed the file")):
        write_documents(llm, tmp_path / "out", SOURCE, 80, SHORT)


def test_a_part_without_its_settings(llm: LLM, tmp_path: Path) -> None:
    interrupt(llm, tmp_path / "out", 5)
    (tmp_path / "out.part.json").unlink()
    with pytest.raises(ValueError, match=r"out\.part: was begun, but out\.part\.json beside it does not say"):
        write_documents(llm, tmp_path / "out", SOURCE, 80, SHORT)


def test_two_programs_do_not_write_one_file(llm: LLM, tmp_path: Path) -> None:
    """Catches lines of two runs, mixed."""

    def second(totals: Totals) -> None:
        with pytest.raises(ValueError, match="out: is being written by another program"):
            write_documents(llm, tmp_path / "out", SOURCE, 20, SHORT)

    write_documents(llm, tmp_path / "out", SOURCE, 20, SHORT, on_document=second)
    assert lines(tmp_path / "out") == [asdict(document) for document in documents(llm, 20)]


def test_a_full_disk_loses_nothing(llm: LLM, tmp_path: Path) -> None:
    """The error says how to go on, and that gives the whole file. Catches a half line that is taken for a document."""
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    write_documents(llm, tmp_path / "whole", SOURCE, 80, SHORT)
    limits, size = resource.getrlimit(resource.RLIMIT_FSIZE), (tmp_path / "whole").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(size * 2 // 3, 1200), limits[1]))
    try:
        with pytest.raises(
            ModelError, match=r"out\.part: cannot be written \(.*\); make room, and run the same command"
        ):
            write_documents(llm, tmp_path / "out", SOURCE, 160, SHORT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    write_documents(llm, tmp_path / "out", SOURCE, 160, SHORT)
    assert (tmp_path / "out").read_bytes().startswith((tmp_path / "whole").read_bytes())
