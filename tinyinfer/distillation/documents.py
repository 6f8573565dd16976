"""Documents in a file: one line of JSON each, in order, and where an interrupted run goes on.

The i-th line depends on the settings and on i alone (synthesize.py), so a run that goes on after the last whole line
makes the file that it would have made without the interruption. What is compared is what decides about the text: the
model's bytes, the switches that change its numbers, how tokens are drawn, and the prompts, also the last line's.

Wins: a night of work survives a reboot. Loses: the backend is not compared, so that a run may go on on another machine;
rounding then differs a little (synthesize.py says what that changes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from tinyinfer.distillation.part_file import PartFile, check_place, part_file
from tinyinfer.distillation.prompts import PromptSource
from tinyinfer.distillation.synthesize import USUAL, prompt_text, synthesize
from tinyinfer.llm import LLM
from tinyinfer.pruning.switches import WeightSwitches
from tinyinfer.sampling_params import SamplingParams

SAMPLES, SAMPLE_BYTES = 16, 1 << 16  # of each file of weights, evenly spread
SWITCHES = (  # that change the numbers of a model, and so its text
    *(one.name for one in fields(WeightSwitches)),
    *("dtype", "activations", "kv_bits", "kv_group_size", "max_model_len", "verification"),
)
DRAWING = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
           "frequency_penalty", "stop_token_ids", "ignore_eos")  # fmt: skip


@dataclass(frozen=True)
class Totals:
    """How many documents there are, and how many tokens they have together."""

    documents: int = 0
    tokens: int = 0


def write_documents(
    llm: LLM,
    target: Path,
    source: PromptSource,
    tokens: int,
    params: SamplingParams = USUAL,
    *,
    seed: int = 0,
    on_document: Callable[[Totals], None] = lambda totals: None,
    on_step: Callable[[int], None] = lambda generated: None,
) -> Totals:
    """Writes documents with at least `tokens` tokens together to a new file, or goes on with those of FILE.part.

    on_document(totals): called with what is there at the beginning, and after each document. on_step: as in
    `synthesize`. Raises ValueError for a file that cannot be made or was begun with other settings, ModelError for a
    full disk, and what `synthesize` raises; FILE.part keeps what was written.
    """
    check_place(target)
    with part_file(target, settings(llm, source, params, seed)) as part:
        totals = read_totals(part, llm, source, tokens)
        on_document(totals)
        if totals.tokens < tokens:
            left = tokens - totals.tokens
            for one in synthesize(
                llm, source.prompts, left, params, seed=seed, start=totals.documents, on_step=on_step
            ):
                part.write(asdict(one))
                totals = Totals(totals.documents + 1, totals.tokens + one.tokens)
                on_document(totals)
        part.finish()
    return totals


def read_totals(part: PartFile, llm: LLM, source: PromptSource, tokens: int) -> Totals:
    """What the file has already. Raises ValueError for documents of other prompts, and for more than are wanted."""
    documents = have = 0
    record: dict[str, Any] = {}
    for record in part.records():
        if have >= tokens:
            cure = f"ask for more, or remove {part.path} to begin anew"
            raise ValueError(f"{part.path}: has more than {tokens} tokens already, made for a longer file; {cure}")
        if not isinstance(record.get("tokens"), int) or not isinstance(record.get("prompt"), str):
            cure = "another program has changed the file; remove it, or give another name"
            raise ValueError(f"{part.path}: line {documents + 1} is no document; {cure}")
        documents, have = documents + 1, have + record["tokens"]
    if documents and record["prompt"] != prompt_text(llm, source.prompts(documents - 1)):
        cure = f"remove {part.path} to begin anew, or give another name"
        raise ValueError(f"{part.path}: was begun with other prompts of the same name; {cure}")
    return Totals(documents, have)


def settings(llm: LLM, source: PromptSource, params: SamplingParams, seed: int) -> dict[str, Any]:
    """All that decides about the text of a document, as JSON gives it back."""
    drawing = {name: getattr(params, name) for name in DRAWING}
    drawing |= {"stop_token_ids": list(params.stop_token_ids)}
    switches = {name: getattr(llm.engine_config, name) for name in SWITCHES}
    model = f"{Path(llm.path).name} ({fingerprint(Path(llm.path))})"
    return {"model": model, "prompts": source.name, "seed": seed, **drawing, **switches}


def fingerprint(path: Path) -> str:
    """A checksum of the sizes and of some bytes of a model's files: another model, or one trained on, has another.

    It reads a MB of each file, not all of them, and does not depend on where they lie.
    """
    files = [path] if path.is_file() else sorted([path / "config.json", *path.glob("*.safetensors")])
    digest = sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name if path.is_dir() else ''} {size}\n".encode())
        with open(file, "rb") as opened:
            for n in range(SAMPLES):
                opened.seek(max(0, size - SAMPLE_BYTES) * n // (SAMPLES - 1))
                digest.update(opened.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]
