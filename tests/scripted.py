"""A model that answers what a test wants: its logits follow a script, all else is the real engine."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from golden import write_hf_folder

from tinyinfer import LLM
from tinyinfer.sequence import Batch, Draft, Sequence
from tinyinfer.speculative.verify import verify


class Prompter:
    """A drafter that knows the script, so that one step brings several tokens."""

    verify = staticmethod(verify)

    def __init__(self, script: list[int]) -> None:
        self.script = script

    def propose(self, sequences: list[Sequence]) -> None:
        for seq in sequences:
            done = len(seq.new_tokens)
            room = seq.request.max_tokens - done - 1
            seq.set_drafts([Draft(token) for token in self.script[done : done + min(room, 5)]])

    def observe(self, batch: Batch) -> None:
        """Learns nothing."""

    def free(self, seq: Sequence) -> None:
        """Keeps nothing of a sequence."""

    def keep(self, sequences: Collection[Sequence]) -> None:
        """Keeps nothing of a sequence."""


def scripted(folder: Path, template: str, answer: str, drafts: bool = False, **switches: Any) -> LLM:
    """A golden Llama with this chat template, which answers every prompt with `answer` and its end token."""
    write_hf_folder("llama", folder, changes={"max_position_embeddings": 2000})
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}), encoding="utf-8")
    llm = LLM(str(folder), **switches)
    script = [*llm.tokenizer.encode(answer, add_special_tokens=False), llm.config.eos_token_ids[0]]

    def forward(batch: Batch) -> np.ndarray:  # -> (R, V)
        with llm.engine.recorder.forward(batch, llm.engine.clock):
            pass  # the step knows its batch, and so tells each request what came
        places = [len(span.seq.new_tokens) + row for span in batch.spans for row in range(span.wanted)]
        return np.eye(llm.config.vocab_size, dtype=np.float32)[[script[min(i, len(script) - 1)] for i in places]]

    llm.engine.forward = forward  # type: ignore[method-assign]
    if drafts:
        llm.engine.drafter = llm.engine.scheduler.drafter = Prompter(script)
    return llm
