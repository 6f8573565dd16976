"""The draft head that comes with tinyinfer: the default of speculative=draft, for SmolLM2 and for no other model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from draft_student import of_head

from tinyinfer import LLM, SamplingParams
from tinyinfer.backends.cupy_ops import CupyOps
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.cli import main
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import SwitchError
from tinyinfer.loading.hub import SHIPPED
from tinyinfer.model.draft_head import DraftHead
from tinyinfer.speculative.switches import SHIPPED_DRAFT


@pytest.mark.weights
def test_without_a_name_it_drafts_for_smollm2_and_the_text_is_the_same(smollm2: Path, capsys) -> None:
    """How many drafts are proposed depends on the time that they take, the text does not."""
    words = ["generate", "-m", str(smollm2), "-q", "--json", "-n", "24", "What is gravity?"]
    texts = []
    for flags in ([], ["--speculative", "draft"]):
        assert main([*words, *flags]) == 0
        texts.append(json.loads(capsys.readouterr().out)["token_ids"])
    assert texts[0] == texts[1]


@pytest.mark.weights
def test_it_says_every_third_token_of_an_answer_before_smollm2_does(smollm2: Path) -> None:
    """Catches weights of another vocabulary, or untrained ones: no draft would be accepted, and no text be wrong."""
    target = LLM(str(smollm2), max_model_len=128)
    prompt = target.chat_prompt([{"role": "user", "content": "What is gravity?"}])
    answer = target.generate([prompt], SamplingParams(max_tokens=64))[0]
    said = of_head(target, SHIPPED_DRAFT)(answer.prompt_token_ids, answer.token_ids)
    assert np.mean(np.equal(said, answer.token_ids)) > 1 / 3


def test_another_model_needs_a_draft_model_of_its_own(
    golden_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokens are others: said before weights are read, and with what to choose."""
    monkeypatch.setattr("tinyinfer.loading.build.load_alone", lambda *args: pytest.fail("weights were read"))
    with pytest.raises(SwitchError) as refused:
        LLM(str(golden_folder("llama")), speculative="draft")
    assert str(refused.value) == (
        "draft_model 'smollm2-135m-draft' is a draft head, which fits one model only (its tokens are those of "
        "smollm2-135m); name a smaller model of the same family with draft_model, or choose another speculative"
    )


def test_an_engine_without_drafts_has_no_draft_model_for_another_one() -> None:
    """Catches two engines taken for alike because neither names a draft model."""
    plain, drafting = EngineConfig(), EngineConfig(speculative="draft")
    assert not plain.same_weights(drafting)
    assert drafting.same_weights(EngineConfig(speculative="draft", draft_model=SHIPPED_DRAFT))
    assert not drafting.same_weights(EngineConfig(speculative="draft", draft_model="another"))
    assert plain.same_weights(EngineConfig(speculative="prompt-lookup"))


def test_the_default_is_a_model_that_comes_with_tinyinfer() -> None:
    """The switches must not import the table of names, so the name stands in both."""
    assert SHIPPED_DRAFT in SHIPPED


@pytest.mark.parametrize(("backend", "kept"), [(ReferenceOps, False), (NumpyOps, False), (CupyOps, True)])
def test_which_backends_multiply_codes_as_they_lie(backend: type, kept: bool) -> None:
    """Of numba see tests/cpu_kernels/test_shipped_draft_codes.py."""
    assert backend.multiplies_codes is kept  # type: ignore[attr-defined]


@pytest.mark.weights
@pytest.mark.parametrize("backend", ["numpy", "reference"])
def test_its_codes_become_floats_once_where_products_would_make_floats_of_them(smollm2: Path, backend: str) -> None:
    """In NumPy, a draft of codes would cost four times as much as one of floats."""
    head = LLM(str(smollm2), backend=backend, speculative="draft", max_model_len=64).draft
    assert isinstance(head, DraftHead)
    own = head.values.linear, head.state.linear, head.token.linear, head.mlp.gate_up, head.mlp.down, head.head
    assert all(linear.weight.scheme is None for linear in own)
