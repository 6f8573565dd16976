"""Logits that are not finite end their request, and no other, with the name of the part where that began."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from callers import LONG, check_rest
from golden import write_hf_folder
from helpers import checkpoint_of, finish, make_engine, random_tensors, request, small_config
from safetensors.numpy import load_file, save_file

from tinyinfer import LLM, SamplingParams
from tinyinfer.engine.engine import Engine
from tinyinfer.errors import NotFiniteError
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.sequence import Draft, Sequence

pytestmark = pytest.mark.filterwarnings("error")  # NumPy's warnings would be noise on stderr
GREEDY = SamplingParams(max_tokens=4, ignore_eos=True, logprobs=1)
SAMPLED = SamplingParams(max_tokens=4, ignore_eos=True, temperature=1.0, seed=1)
LLAMA, GPT2 = "model.layers.", "transformer.h."
DAMAGES = [
    ("llama", LLAMA + "0.mlp.down_proj.weight", 1e38, "in layer 0's MLP, so that its logits are not finite"),
    ("llama", LLAMA + "1.self_attn.v_proj.weight", 3e38, "in layer 1's attention, so that its logits are not finite"),
    ("llama", LLAMA + "1.mlp.down_proj.weight", 1e30, "in layer 1's MLP, so that its logits are all the same"),
    ("llama", "model.embed_tokens.weight", 1e30, "in the embedding, so that its logits are all the same"),
    ("llama", "model.norm.weight", 3e38, "in the output head, so that its logits are not finite"),
    ("gpt2", GPT2 + "2.mlp.c_proj.weight", 1e38, "in layer 2's MLP, so that its logits are not finite"),
    ("gemma3", LLAMA + "1.mlp.down_proj.weight", 3e38, "in layer 1's MLP, so that its logits are not finite"),
    ("olmoe", LLAMA + "1.mlp.experts.{}.down_proj.weight", 3e38, "in layer 1's MLP, so that its logits are not finite"),
]


def damaged(folder: Path, golden: str, name: str, factor: float) -> str:
    """A golden's folder, the matrices of that name multiplied by a factor: all its numbers are finite."""
    write_hf_folder(golden, folder)
    weights = load_file(folder / "model.safetensors")
    for one in {name.format(expert) for expert in range(64)} & weights.keys():
        weights[one] = np.clip(weights[one].astype(np.float64) * factor, -3e38, 3e38).astype(np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize(("golden", "name", "factor", "where"), DAMAGES, ids=[damage[1] for damage in DAMAGES])
def test_the_error_names_the_part_that_overflowed_first(
    golden: str, name: str, factor: float, where: str, tmp_path: Path
) -> None:
    """Greedy and sampled text, log-probabilities and logits. Catches token 0 for ever, and IndexError."""
    llm = LLM(damaged(tmp_path, golden, name, factor))
    calls: list[Callable[[], Any]] = [
        lambda: llm.generate("Hi", GREEDY), lambda: llm.generate("Hi", SAMPLED), lambda: list(llm.stream("Hi", GREEDY)),
        lambda: llm.logits([5, 6]), lambda: llm.score([5, 6, 7]),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(FloatingPointError, match=f"^the model's numbers overflow {where}; its weights are damaged"):
            call()
    check_rest(llm)


@pytest.mark.parametrize("switches", [
    {"dtype": "float16"}, {"kv_bits": 8}, {"quantize": "int8", "kv_bits": 4, "dtype": "bfloat16"},
])  # fmt: skip
def test_the_cure_names_what_rounds_numbers(switches: dict[str, Any], tmp_path: Path) -> None:
    """Catches a cure that was tried already, and one that changes nothing."""
    llm = LLM(damaged(tmp_path, "llama", "model.norm.weight", 3e38), **switches)
    plain = {"dtype": "float32", "quantize": "off", "kv_bits": "off"}
    cures = " and ".join(f"{name}={plain[name]}" for name in plain if name in switches)
    with pytest.raises(NotFiniteError, match=f"get its files again, or try {cures}$"):
        llm.generate("Hi", GREEDY)


# One token of the vocabulary overflows, in a model that is sound otherwise.

BAD, GOOD = 30, [[i, 7, 3 + i, 11, 5] for i in range(3)]
SWITCHES = {
    "contiguous": {},
    "no cache": {"kv_cache": "none"},
    "paged": {"kv_cache": "paged", "block_size": 2, "prefix_cache": True},
    "chunks": {"kv_cache": "paged", "block_size": 2, "prefix_cache": True, "max_num_batched_tokens": 3},
    "static": {"batching": "static", "max_num_seqs": 3},
    "quantized": {"kv_cache": "paged", "block_size": 2, "kv_bits": 8, "prefix_cache": True},
    "lookup": {"speculative": "prompt-lookup"},
    "self": {"speculative": "self", "kv_cache": "paged", "block_size": 2, "num_draft_candidates": 2},
}


def one_bad_token(scale: float = 1e2, **changes: Any) -> Checkpoint:
    """A model whose token BAD has an infinite vector: its number times the embedding's scale."""
    config = small_config(embedding_scale=scale, **changes)
    tensors = random_tensors(config)
    tensors["embedding"] /= np.float32(scale)
    tensors["embedding"][BAD] = 3e38
    return checkpoint_of(config, tensors)


def served(engine: Engine, *sequences: Sequence) -> dict[int, str]:
    """Runs all to their ends as a server does; the sentences of those that an error ended."""
    errors = {}
    for seq in sequences:
        engine.add(seq, 0.0)
    while not all(seq.finished for seq in sequences):
        try:
            engine.step()
        except NotFiniteError as error:
            [seq] = [seq for seq in sequences if seq.id == error.request_id]
            assert seq.id not in errors
            errors[seq.id] = str(error)
            engine.abort(seq)
    return errors


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_others_of_the_batch_go_on_and_get_their_plain_tokens(switches: dict[str, Any]) -> None:
    """Also those that share the bad one's beginning, in the same step or later."""
    source = one_bad_token()
    wanted = [finish(make_engine(source, kv_cache="none"), request(prompt))[0] for prompt in GOOD]
    engine = make_engine(source, **switches)
    for _ in range(2):
        good, bad = [request(prompt) for prompt in GOOD], [request([*GOOD[0][:4], BAD, 8, 9]), request([BAD])]
        errors = served(engine, bad[0], *good, bad[1])
        if "kv_bits" not in switches:
            assert [seq.new_tokens for seq in good] == wanted
        assert errors.keys() == {seq.id for seq in bad}
        assert all("overflow in the embedding" in sentence for sentence in errors.values())
        assert all(len(seq.new_tokens) == 5 for seq in good)
        assert not engine.scheduler.busy


def test_blocks_that_a_later_token_spoiled_serve_nobody() -> None:
    """A chunk without logits is not checked, and its rows before the bad one are spoiled in it: a weight of 0 times a
    value of NaN is NaN. Catches their blocks in the prefix cache, where they end each request with this beginning."""
    source = one_bad_token()
    engine = make_engine(source, **SWITCHES["paged"], max_num_batched_tokens=6)
    assert served(engine, request([*GOOD[0][:4], BAD, 8, 9]))
    good = request(GOOD[0])
    assert not served(engine, good)
    assert [good.new_tokens] == finish(make_engine(source), request(GOOD[0]))


def test_a_draft_model_that_overflows_proposes_nothing() -> None:
    """The target decides alone. Catches token 0 proposed for ever, and an error of a model that only helps."""
    source = small_config()
    broken = checkpoint_of(small_config(num_layers=1), random_tensors(small_config(num_layers=1)))
    engine = make_engine(source, speculative="draft", draft_model="x", second=broken.config)
    norm = engine.drafter.model.final_norm  # type: ignore[attr-defined]
    norm.weight[:] = np.inf
    wanted = finish(make_engine(source), *map(request, GOOD))
    assert finish(engine, *map(request, GOOD)) == wanted
    assert engine.ledger.drafts_proposed == 0


def test_what_overflows_only_beside_a_draft_names_no_layer() -> None:
    """The bad token is a draft, so the request's own tokens show no layer that overflows."""
    engine = make_engine(one_bad_token(), speculative="prompt-lookup")
    seq = request(GOOD[0], 5)
    engine.add(seq, 0.0)
    engine.step()
    seq.set_drafts([Draft(BAD)])
    with pytest.raises(NotFiniteError, match=r"overflow only beside drafts or other requests,") as caught:
        engine.step()
    assert caught.value.request_id == seq.id


def test_an_earlier_row_that_overflows_in_the_head_is_told_as_such() -> None:
    """Of the rows whose logits were asked for, only the first one overflows, and only in the output head. Catches a
    search that looks at the last row alone, and blames other requests where there are none."""
    source = small_config()
    tensors, prompt, worst = random_tensors(source), [5, 6, 7, 8], 19
    logits = make_engine(checkpoint_of(source, tensors)).logits(request(prompt, 1), 0, 99)  # (4, V)
    tensors["head"][worst] *= np.float32(3.5e38 / abs(float(logits[0, worst])))
    engine = make_engine(checkpoint_of(source, tensors))
    with pytest.raises(NotFiniteError, match="in the output head, so that its logits are not finite"):
        engine.logits(request(prompt, 1), 0, 99)
    assert np.isfinite(engine.logits(request(prompt, 1), 1, 99)).all()


def test_a_model_whose_logits_are_all_the_same_for_another_reason_is_served() -> None:
    """Catches an error for a head of zeros, as a model has before training."""
    source = small_config()
    tensors = random_tensors(source)
    tensors["head"][:] = 0
    assert finish(make_engine(checkpoint_of(source, tensors)), request([5, 6], 3)) == [[0, 0, 0]]


def test_a_search_without_memory_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an error that ends another request: a MemoryError names none."""
    engine = make_engine(one_bad_token())

    def refused(*given: object) -> Any:
        raise MemoryError

    monkeypatch.setattr("tinyinfer.engine.overflow.transformer", refused)
    [sentence] = served(engine, request([BAD])).values()
    assert "in a part that could not be looked for, since memory is short" in sentence


# Who is told


@pytest.fixture
def llm(golden_folder: Callable[[str], Path]) -> LLM:
    """A Llama for which the token of "H" is infinite."""
    llm = LLM(str(golden_folder("llama")))
    assert not llm.config.tied_head
    llm.model.embedding.table.array[:, llm.tokenizer.encode("H")[-1]] = np.inf  # type: ignore[attr-defined]
    return llm


def test_submitted_requests_of_others_go_on(llm: LLM) -> None:
    """The error is the result of one request. Catches an error for all that came with it, or for all that ran."""
    wanted = [out.token_ids for out in llm.generate(["One", "Two"], GREEDY)]
    first, bad, second, streamed = (llm.submit(text, GREEDY) for text in ("One", "aHa", "Two", "aHa"))
    assert [first.result(LONG).token_ids, second.result(LONG).token_ids] == wanted
    with pytest.raises(NotFiniteError, match="in the embedding"):
        bad.result(LONG)
    with pytest.raises(NotFiniteError, match="in the embedding"):
        list(streamed)
    check_rest(llm)


def test_steps_go_on_for_the_others_and_end_with_the_error(llm: LLM) -> None:
    """Catches a run that is cut off for all by the error of one."""
    sequences = llm.sequences(["One", "aHa", "Two"], GREEDY)
    with pytest.raises(NotFiniteError) as caught:
        list(llm.run(sequences))
    assert caught.value.request_id == sequences[1].id
    assert [seq.progress.finish_reason for seq in sequences] == ["length", "abort", "length"]
    assert [seq.new_tokens for seq in sequences[::2]] == [out.token_ids for out in llm.generate(["One", "Two"], GREEDY)]
    check_rest(llm)
