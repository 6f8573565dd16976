"""Logits that are not finite end their request, and no other, with the name of the part where that began."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from callers import LONG, check_rest
from golden import write_hf_folder
from guided_steps import guided
from helpers import (
    ALWAYS_DRAFT,
    branches,
    check_blocks,
    checkpoint_of,
    finish,
    make_engine,
    one_bad_token,
    random_tensors,
    request,
    small_config,
)
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


def bad_source(likely: bool = False) -> Checkpoint:
    """A model whose token BAD is infinite. likely: whether it comes as often as any other token."""
    config, tensors = one_bad_token(small_config(), BAD)
    tensors["head"] *= np.float32(not likely)
    return checkpoint_of(config, tensors)


def served(engine: Engine, *sequences: Sequence) -> dict[int, str]:
    """Runs all to their ends as a server does; the sentences of those that an error ended."""
    for seq in sequences:
        engine.add(seq, 0.0)
    while engine.busy:
        try:
            engine.step()
        except NotFiniteError as error:
            [seq] = [seq for seq in sequences if seq.id == error.request_id]
            assert not seq.finished
            seq.fail(error)
            engine.abort(seq)
    failed = [seq for seq in sequences if seq.progress.error is not None]
    assert all(seq.progress.finish_reason == "abort" for seq in failed)
    return {seq.id: str(seq.progress.error) for seq in failed}


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_others_of_the_batch_go_on_and_get_their_plain_tokens(switches: dict[str, Any]) -> None:
    """Also those that share the bad one's beginning, in the same step or later."""
    source = bad_source()
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


ALONE = SWITCHES | {
    "dynamic": {"batching": "dynamic", "max_num_seqs": 3, "batch_timeout": 0.0},
    "always drafts": {"speculative": "prompt-lookup", "draft_cost": ALWAYS_DRAFT},
    "candidates": {"speculative": "self", "num_draft_candidates": 3, "kv_cache": "paged", "draft_cost": ALWAYS_DRAFT},
}


@pytest.mark.parametrize("switches", ALONE.values(), ids=ALONE)
def test_an_overflow_costs_the_others_of_its_step_nothing(switches: dict[str, Any]) -> None:
    """Two overflow in one step, one by a token of its prompt and one by its own token, beside one that is sound.
    Catches a step that is rolled back for one request: all others would be preempted, and computed again."""
    source, prompt = bad_source(), [3, 4, 5, 6] * 3
    alone, other = (request(prompt, 12) for _ in range(2))
    finish(make_engine(source, **switches), alone)
    engine, by_prompt = make_engine(source, **switches), request([9, 8, BAD, 7, 6], 12)
    by_token = guided([20, 21], 12, source.config.vocab_size, logit_bias={BAD: 100.0})
    errors = served(engine, other, by_prompt, by_token)
    assert errors.keys() == {by_prompt.id, by_token.id}
    assert all("overflow in the embedding" in sentence for sentence in errors.values())
    assert by_token.new_tokens == [BAD]
    assert by_prompt.new_tokens == []
    assert (other.new_tokens, other.progress.preemptions) == (alone.new_tokens, 0)
    assert engine.ledger.preemptions == 0
    assert engine.scheduler.blocks_held == 0


@pytest.mark.parametrize("switches", ALONE.values(), ids=ALONE)
def test_broken_weights_end_every_request_with_the_error(switches: dict[str, Any]) -> None:
    """Catches one that goes on with token 0, and one that is computed again for ever."""
    config = small_config(logit_scale=1e38)
    engine = make_engine(checkpoint_of(config, random_tensors(config)), **switches)
    sequences = [request(prompt, 9) for prompt in (*GOOD, GOOD[0])]
    errors = served(engine, *sequences)
    assert errors.keys() == {seq.id for seq in sequences}
    assert all("overflow in the output head" in sentence for sentence in errors.values())
    assert not any(seq.new_tokens for seq in sequences)


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("switches", [ALONE[way] for way in ALONE if "self" not in ALONE[way].values()])
def test_branches_of_a_prompt_that_overflow_by_their_own_tokens_end_alone(switches: dict[str, Any], n: int) -> None:
    """Catches an error that ends the other answers to the prompt, and one that a branch gets with a fork."""
    source, prompt = bad_source(likely=True), GOOD[0]
    drawn = {"temperature": 1.0, "seed": 3}
    plain = branches(prompt, n, 12, **drawn)
    served(make_engine(source, kv_cache="none", max_num_seqs=1), *plain)
    found = branches(prompt, n, 12, **drawn)
    engine = make_engine(source, **switches)
    errors = served(engine, *found)
    assert [seq.new_tokens for seq in found] == [seq.new_tokens for seq in plain]
    assert errors.keys() == {seq.id for seq in found if BAD in seq.new_tokens[:11]} != set()
    assert engine.ledger.preemptions == 0


def test_a_block_that_a_request_spoils_leaves_the_tree_with_it() -> None:
    """And no other one. Catches a step that stands with a block of numbers that are not finite, and a tree that
    counts it twice."""
    source, engine = bad_source(), make_engine(bad_source(), **SWITCHES["paged"])
    first, bad, other = request([*GOOD[0][:4], 9], 3), request([*GOOD[0][:4], 9, BAD, 8, 9], 3), request(GOOD[1], 3)
    assert not served(engine, first)
    tree: Any = engine.scheduler.prefixes
    kept = tree.evictable
    assert served(engine, bad, other).keys() == {bad.id}
    assert engine.ledger.preemptions == 0
    assert tree.evictable == kept + len(other.tokens[:-1]) // 2
    check_blocks(engine, tree)
    again = request([*GOOD[0][:4], 9, 5, 8, 9], 3)
    assert not served(engine, again)
    assert [again.new_tokens] == finish(make_engine(source), request(again.prompt, 3))


def test_blocks_that_a_later_token_spoiled_serve_nobody() -> None:
    """A chunk without logits is not checked, and its rows before the bad one are spoiled in it: a weight of 0 times a
    value of NaN is NaN. Catches their blocks in the prefix cache, where they end each request with this beginning."""
    source = bad_source()
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
    engine = make_engine(bad_source(), speculative="prompt-lookup")
    seq = request(GOOD[0], 5)
    engine.add(seq, 0.0)
    engine.step()
    seq.set_drafts([Draft(BAD)])
    engine.step()
    assert "overflow only beside drafts or other requests," in str(seq.progress.error)
    assert seq.progress.finish_reason == "abort"


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
    engine = make_engine(bad_source())

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
    assert llm.engine.ledger.preemptions == 0
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
