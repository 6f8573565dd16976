"""llm.py: the Python interface: what goes in is checked before any work, what comes out is what transformers gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import Golden, load_golden
from helpers import ALWAYS_DRAFT, finish
from safetensors.numpy import load_file, save_file
from scipy.special import log_softmax
from tokenizers import Tokenizer as Backend

from tinyinfer import LLM, ModelError, SamplingParams
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import build_engine
from tinyinfer.errors import SwitchError
from tinyinfer.measure.roofline import Machine
from tinyinfer.measure.simulated_clock import SimulatedClock
from tinyinfer.pruning.layers import keep_layers

Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def llm(golden_folder: Folder) -> LLM:
    return LLM(str(golden_folder("llama")))


@pytest.fixture(scope="module")
def golden() -> Golden:
    return load_golden("llama")


def greedy(n: int, **more: object) -> SamplingParams:
    return SamplingParams(max_tokens=n, ignore_eos=True, **more)  # type: ignore[arg-type]


def test_generate_gives_transformers_tokens_with_the_reason_they_ended(llm: LLM, golden: Golden) -> None:
    """Catches a token dropped at either end."""
    n = len(golden.greedy)
    out = llm.generate([list(golden.prompt)], greedy(n))[0]
    assert out.token_ids == list(golden.greedy)
    assert out.prompt_token_ids == list(golden.prompt)
    assert out.finish_reason == "length"
    assert out.text == llm.tokenizer.decode(out.token_ids)


def test_the_same_model_under_another_engine(llm: LLM, golden: Golden) -> None:
    """Two engines over one set of weights. Catches a second copy in memory, and a first engine that is changed."""
    config = EngineConfig(kv_cache="paged", num_blocks=3, block_size=16)
    clock = SimulatedClock(llm.ledger, Machine(1e6, 1e6))
    other = llm.with_engine(config, clock)
    assert (other.model, other.tokenizer, other.ops) == (llm.model, llm.tokenizer, llm.ops)
    assert (other.engine_config, other.engine.clock, other.max_model_len) == (config, clock, 48)
    assert (llm.engine_config, llm.max_model_len) == (EngineConfig(), llm.config.max_position)
    assert llm.engine.clock is llm.with_engine(config).engine.clock is not clock
    n = len(golden.greedy)
    [found], [wanted] = (one.generate([list(golden.prompt)], greedy(n)) for one in (other, llm))
    assert found.token_ids == wanted.token_ids == list(golden.greedy)


def test_another_model_under_the_same_engine(llm: LLM, golden: Golden) -> None:
    """Catches an engine that still runs the first model, and a first one that is changed."""
    smaller = keep_layers(llm.model, [1])
    other = llm.with_engine(llm.engine_config, model=smaller)
    assert (other.model, other.config.num_layers, other.tokenizer) == (smaller, 1, llm.tokenizer)
    assert llm.config.num_layers == len(llm.model.layers) > 1
    tokens = list(golden.prompt)
    rows = llm.with_engine(llm.engine_config, model=llm.model).logits(tokens)  # (n, vocab)
    assert np.array_equal(rows, llm.logits(tokens))
    assert not np.allclose(rows, other.logits(tokens))


@pytest.mark.parametrize("switches", [{"dtype": "float16"}, {"quantize": "int8"}, {"backend": "reference"}], ids=str)
def test_an_engine_that_needs_other_weights_is_refused(llm: LLM, switches: dict[str, Any]) -> None:
    """Catches switches that are shown and have no effect."""
    with pytest.raises(ValueError, match="need other weights than those in memory; open the model again"):
        llm.with_engine(EngineConfig(**switches))


def test_the_reference_backend_answers_the_same(llm: LLM, golden_folder: Folder, golden: Golden) -> None:
    """`backend="reference"` from Python: transformers' tokens, and the ledger of NumPy."""
    reference = LLM(str(golden_folder("llama")), backend="reference")
    before, n = llm.ledger.copy(), len(golden.greedy)
    [found], [wanted] = (one.generate([list(golden.prompt)], greedy(n)) for one in (reference, llm))
    assert found.token_ids == wanted.token_ids == list(golden.greedy)
    assert reference.ledger == llm.ledger - before


def test_stream_joins_to_the_text_of_generate(llm: LLM) -> None:
    """Catches a piece shown twice, or the last one lost."""
    params = greedy(30)
    assert "".join(llm.stream("Hello there", params)) == llm.generate("Hello there", params)[0].text


def test_several_prompts_come_back_in_their_order_each_with_its_own_params(llm: LLM, golden: Golden) -> None:
    """Catches one sequence's parameters or cache leaking into the next."""
    prompts = [list(golden.prompt), [5, 6, 7], list(golden.prompt)]
    outs = llm.generate(prompts, [greedy(4), greedy(2), greedy(6)])
    assert [len(out.token_ids) for out in outs] == [4, 2, 6]
    assert outs[0].token_ids == outs[2].token_ids[:4]
    assert outs[1].token_ids == llm.generate([[5, 6, 7]], greedy(2))[0].token_ids


def test_the_end_token_ends_and_is_in_token_ids_unless_ignored(llm: LLM, golden: Golden) -> None:
    """Catches an end token that is swallowed, shown as text, or stops although it was to be ignored."""
    third = int(golden.greedy[2])
    stops = list(golden.greedy).index(third)
    out = llm.generate([list(golden.prompt)], greedy(20, stop_token_ids=[third]))[0]
    assert out.finish_reason == "stop"
    assert out.token_ids == [int(t) for t in golden.greedy[: stops + 1]]
    assert out.text == llm.tokenizer.decode(out.token_ids[:-1])


def test_a_stop_string_is_not_shown(llm: LLM) -> None:
    """Catches a stop string left in the text, or one found only within a token."""
    text = llm.generate("Hello", greedy(40))[0].text
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    out = llm.generate("Hello", greedy(40, stop=[stop]))[0]
    assert out.finish_reason == "stop"
    assert out.text == text[: text.index(stop)]


def test_same_seed_same_text_and_no_seed_differs(llm: LLM) -> None:
    """Catches a seed that is ignored, and a default seed that makes all samples alike."""
    params = greedy(12, temperature=2.0, seed=5)
    again = [llm.generate("Hi", params)[0].token_ids for _ in range(2)]
    assert again[0] == again[1]
    free = [tuple(llm.generate("Hi", greedy(12, temperature=2.0))[0].token_ids) for _ in range(3)]
    assert len(set(free)) == 3  # twelve tokens at temperature 2: equal by chance less often than once in 10^9


def test_n_answers_are_outputs_of_one_result_and_branches_of_one_request(llm: LLM) -> None:
    """Those of single requests with the seeds that follow. Catches a result for each branch, and one that is lost."""
    prompts, drawn = ["once", "upon"], {"temperature": 1.2, "max_tokens": 5, "ignore_eos": True}
    single = [[llm.generate(p, SamplingParams(seed=2**63 - 1 - i, **drawn))[0] for i in (1, 0)] for p in prompts]  # type: ignore[arg-type]
    params = SamplingParams(n=2, seed=2**63 - 2, **drawn)  # type: ignore[arg-type]
    found = llm.generate(prompts, params)
    assert [[one.text for one in out.outputs] for out in found] == [[out.text for out in outs] for outs in single]
    assert [[one.index for one in out.outputs] for out in found] == [[0, 1]] * 2
    assert single[0][0].outputs == [single[0][0]]
    told: list[Any] = []
    branches = llm.submit("once", params, told.append).branches
    assert [branch.result().token_ids for branch in branches] == [out.token_ids for out in single[0]]
    assert set(told) == set(branches)
    assert len({branch.id for branch in branches}) == 2


def test_a_stream_of_text_is_of_one_answer(llm: LLM) -> None:
    """Catches answers that are computed and that no reader gets."""
    with pytest.raises(SwitchError, match=r"n=2 asks for several answers.*use generate, or submit and its branches"):
        next(iter(llm.stream("once", SamplingParams(n=2))))


@pytest.mark.parametrize("n", [0, 129, 1.5, True, "2"])
def test_a_number_of_answers_is_a_whole_number_within_limits(n: Any) -> None:
    with pytest.raises(SwitchError, match=r"n=.* must be a whole number from 1 to 128"):
        SamplingParams(n=n)


def test_a_negative_seed_is_a_seed_unless_it_is_minus_one(llm: LLM) -> None:
    """Catches bug B15: -1 is a random seed, any other negative one gives the same text each time (vLLM)."""

    def texts(seed: int) -> set[tuple[int, ...]]:
        params = greedy(12, temperature=2.0, seed=seed)
        return {tuple(llm.generate("Hi", params)[0].token_ids) for _ in range(3)}

    assert (len(texts(-1)), len(texts(-7)), len(texts(-7) | texts(7) | texts(-8))) == (3, 1, 3)


@pytest.mark.parametrize("most", [None, -1])
def test_no_longest_answer_means_to_the_end_of_the_context(llm: LLM, most: int | None) -> None:
    """Catches bug B15, and a context passed by one token."""
    [out] = llm.generate([[5, 6, 7]], SamplingParams(max_tokens=most, ignore_eos=True))
    assert (len(out.token_ids), out.finish_reason) == (llm.max_model_len - 3, "length")


def test_params_have_vllms_name_too(llm: LLM) -> None:
    """Catches bug B15: sampling_params=, as vLLM's users write it, was a TypeError."""
    p, messages = greedy(3), [{"role": "user", "content": "Hi"}]
    want = llm.generate("Hi", p)[0].token_ids
    assert llm.generate("Hi", sampling_params=p)[0].token_ids == want
    assert len(list(llm.steps("Hi", sampling_params=p))) == len(want)
    assert "".join(llm.stream("Hi", sampling_params=p)) == llm.generate("Hi", p)[0].text
    assert llm.chat(messages, sampling_params=p).token_ids == llm.chat(messages, p).token_ids
    with pytest.raises(ValueError, match="two names of one argument; give only one of them"):
        llm.generate("Hi", p, sampling_params=p)


def test_logits_and_score_equal_transformers(llm: LLM, golden: Golden) -> None:
    """Catches scores shifted by a token."""
    tokens = [int(t) for t in golden.tokens]
    logits = llm.logits(tokens)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, golden.logits, atol=1e-4 * np.abs(golden.logits).max())
    expected = log_softmax(golden.logits.astype(np.float64), axis=1)[np.arange(len(tokens) - 1), tokens[1:]]
    np.testing.assert_allclose(llm.score(tokens), expected, atol=2e-4 * np.abs(golden.logits).max())


def test_logprobs_belong_to_the_tokens(llm: LLM, golden: Golden) -> None:
    """Catches logprobs of the neighbouring position."""
    prompt = [int(t) for t in golden.prompt]
    out = llm.generate([prompt], greedy(5, logprobs=3))[0]
    assert out.logprobs is not None
    scores = llm.score(prompt + out.token_ids)[len(prompt) - 1 :]
    assert [item.logprob for item in out.logprobs] == pytest.approx(list(scores), abs=1e-4)
    assert [item.token for item in out.logprobs] == out.token_ids == [next(iter(item.top)) for item in out.logprobs]


def test_max_tokens_is_clipped_to_the_context(golden_folder: Folder) -> None:
    """Catches a write beyond the cache, or a refusal where clipping was promised."""
    small = LLM(str(golden_folder("llama")), max_model_len=12)
    out = small.generate([[1, 2, 3, 4]], greedy(100))[0]
    assert len(out.token_ids) == 8
    assert out.finish_reason == "length"


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ([[]], "prompt is empty"),
        ([""], "prompt is empty"),
        ([[1, 2, 10**6]], "outside the vocabulary"),
        ([[1, -1]], "outside the vocabulary"),
        ([[1] * 12], "context holds 12"),
        ([[1] * 500], "context holds 12"),
    ],
    ids=str,
)
def test_an_impossible_prompt_is_refused_before_any_work(golden_folder: Folder, prompt: list, sentence: str) -> None:
    """Catches an IndexError deep in the embedding, and negative ids that NumPy would take from the end."""
    small = LLM(str(golden_folder("llama")), max_model_len=12)
    with pytest.raises(ValueError, match=sentence):
        small.generate([[1, 2], *prompt])
    assert small.ledger.steps == 0


def test_wrong_switches_are_refused_with_the_choices(golden_folder: Folder) -> None:
    """Catches unknown keyword arguments dropped silently."""
    folder = str(golden_folder("llama"))
    with pytest.raises(ValueError, match="'kv_cash'; the switches are kv_cache"):
        LLM(folder, kv_cash="none")
    with pytest.raises(ValueError, match="choose one of contiguous, none"):
        LLM(folder, kv_cache="paged?")
    with pytest.raises(ValueError, match="max_model_len=100000"):
        LLM(folder, max_model_len=100000)
    with pytest.raises(ValueError, match="threads=0"):
        LLM(folder, threads=0)
    with pytest.raises(ValueError, match="2 prompts but 1"):
        LLM(folder).generate(["a", "b"], [SamplingParams()])


def test_a_model_that_does_not_exist_is_a_model_error() -> None:
    """Catches a bare FileNotFoundError."""
    with pytest.raises(ModelError, match="no-such-model"):
        LLM("no-such-model")


def test_metrics_follow_their_definitions_on_an_injected_clock(golden_folder: Folder) -> None:
    """Catches a TPOT divided by n instead of n - 1. The clock advances by one second at every reading."""
    ticks = iter(range(10**6))
    timed = LLM(str(golden_folder("llama")), clock=lambda: float(next(ticks)))
    out = timed.generate([[1, 2, 3]], greedy(5))[0]
    m = out.metrics
    assert m.ttft_s is not None
    assert m.tpot_s is not None
    assert m.e2e_s == m.ttft_s + 4 * m.tpot_s
    assert m.generation_tps == 1 / m.tpot_s
    assert (m.prompt_tokens, m.generated_tokens, m.cached_tokens) == (3, 5, 0)
    assert timed.generate([[1, 2, 3]], greedy(1))[0].metrics.tpot_s is None


@pytest.mark.parametrize(
    "prompts",
    [None, 5, [1.5], {"a": 1}, b"x", [True], [b"x"], [["a", "b"]], [[1, 1.5]], [[1, "2"]], [1, "a"], ["a", 1], [None],
     {"a"}, np.array([1.0])],
    ids=str,
)  # fmt: skip
def test_what_is_no_prompt_is_a_value_error(llm: LLM, prompts: Any) -> None:
    """Catches a TypeError, KeyError or IndexError from somewhere inside, bytes and truth values taken for token ids."""
    with pytest.raises(ValueError, match="give text, or a list of token ids") as caught:
        llm.generate(prompts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prompts", ["a", [1, 2], (1, 2), range(2), np.array([1, 2]), ["a", [1]], np.array([[1], [2]])])
def test_every_form_of_prompts_is_taken(llm: LLM, prompts: Any) -> None:
    """Catches a check that refuses what worked."""
    assert llm.generate(prompts, greedy(1))


def test_stream_takes_one_prompt(llm: LLM) -> None:
    """Catches "invalid literal for int()" said of a second prompt."""
    with pytest.raises(ValueError, match=r"\['a', 'b'\] .* give text, or a list of token ids"):
        next(llm.stream(["a", "b"]))  # type: ignore[list-item]


@pytest.mark.parametrize("params", [{}, {"max_tokens": 3}, 3, "greedy", [None], [{}]], ids=str)
def test_what_are_no_params_is_a_value_error(llm: LLM, params: Any) -> None:
    """Catches an AttributeError, and an empty dictionary taken for the defaults."""
    with pytest.raises(ValueError, match="give a SamplingParams"):
        llm.generate(["a"], params)


@pytest.mark.parametrize("tokens", [None, 3, "text", [1.5, 2, 3], ["a", "b"]], ids=str)
def test_what_are_no_tokens_to_score_is_a_value_error(llm: LLM, tokens: Any) -> None:
    """Catches a TypeError of a comparison."""
    for function in (llm.score, llm.logits):
        with pytest.raises(ValueError, match="a list of token ids"):
            function(tokens)


@pytest.mark.parametrize("model", [None, 3, b"model", ["model"]], ids=str)
def test_what_is_no_name_of_a_model_is_a_value_error(model: Any) -> None:
    """Catches a TypeError of os.fspath."""
    with pytest.raises(ValueError, match="is no name of a model; give"):
        LLM(model)


@pytest.mark.parametrize(
    ("switches", "cure", "not_cure"),
    [
        ({}, "use a model with a longer context", "max_model_len"),
        ({"max_model_len": 12}, "raise max_model_len", "longer context"),
        ({"kv_cache": "paged", "block_size": 4, "num_blocks": 3}, "raise num_blocks", "max_model_len"),
        ({"kv_cache": "paged", "block_size": 4, "max_model_len": 12}, "raise max_model_len", "num_blocks"),
    ],
    ids=str,
)
def test_a_prompt_that_is_too_long_is_told_what_would_help(
    golden_folder: Folder, switches: dict[str, Any], cure: str, not_cure: str
) -> None:
    """Catches the advice to raise what cannot be raised."""
    model = LLM(str(golden_folder("llama")), **switches)
    with pytest.raises(ValueError, match=f"context holds {model.max_model_len}.*shorten it.*{cure}") as caught:
        model.generate([[1] * model.max_model_len])
    assert not_cure not in str(caught.value)


def test_a_draft_model_may_be_padded_to_another_size(golden_folder: Folder, tmp_path: Path) -> None:
    """Catches bug B8: one tokenizer, 128 rows of padding more. Right: transformers' assisted generation, both ways."""
    plain, padded = golden_folder("qwen2"), tmp_path / "padded"
    shutil.copytree(plain, padded)
    weights, config = load_file(plain / "model.safetensors"), json.loads((plain / "config.json").read_text())
    for name in [name for name in weights if "embed_tokens" in name or "lm_head" in name]:
        weights[name] = np.pad(weights[name], ((0, 128), (0, 0)))
    save_file(weights, padded / "model.safetensors", metadata={"format": "pt"})
    (padded / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 128}))
    prompts, params = ["Once upon a time", [5, 6, 7]], greedy(20)
    for model, draft in [(plain, padded), (padded, plain)]:
        want = [out.token_ids for out in LLM(str(model)).generate(prompts, params)]
        llm = LLM(str(model), speculative="draft", draft_model=str(draft))
        engine = build_engine(llm.model, llm.ops, llm.engine_config, llm.engine.clock, llm.draft, ALWAYS_DRAFT)
        sequences = llm.sequences(prompts, params)
        finish(engine, *sequences)
        found = [llm.output(seq) for seq in sequences]
        assert [out.token_ids for out in found] == want
        assert [out.metrics.acceptance_rate for out in found] == [1, 1], "the padding alone differs"


def test_a_draft_model_may_have_more_tokens(llm: LLM, golden_folder: Folder, tmp_path: Path) -> None:
    """Catches a GGUF file's padding tokens, or a later model's marks, taken for another vocabulary (llama.cpp)."""
    other = tmp_path / "other"
    shutil.copytree(golden_folder("llama"), other)
    tokens = Backend.from_file(str(other / "tokenizer.json"))
    tokens.add_special_tokens(["[PAD277]"])
    tokens.save(str(other / "tokenizer.json"))
    assert LLM(llm.path, speculative="draft", draft_model=str(other)).generate([[5, 6]], greedy(3))
    assert LLM(str(other), speculative="draft", draft_model=llm.path).generate([[5, 6]], greedy(3))


def test_padding_that_a_gguf_file_lists_is_no_token(golden_folder: Folder, tmp_path: Path) -> None:
    """Catches a Qwen2.5 GGUF file refused as draft of a Qwen3, whose `<think>` is the file's [PAD151667].

    As a folder, the same draft has no token there and is taken.
    """
    paths = []
    for name, token in (("later", "<think>"), ("gguf", "[PAD{}]")):
        paths.append(str(tmp_path / name))
        shutil.copytree(golden_folder("llama"), paths[-1])
        tokens = Backend.from_file(f"{paths[-1]}/tokenizer.json")
        tokens.add_special_tokens([token.format(tokens.get_vocab_size())])
        tokens.save(f"{paths[-1]}/tokenizer.json")
    for target, draft in (paths, paths[::-1]):
        assert LLM(target, speculative="draft", draft_model=draft).generate([[5, 6]], greedy(3))


def test_a_draft_model_with_other_tokens_is_refused(llm: LLM, golden_folder: Folder, tmp_path: Path) -> None:
    """Of the same size, but two tokens changed places: every draft would mean something else, without an error."""
    other = tmp_path / "other"
    shutil.copytree(golden_folder("llama"), other)
    words = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = words["model"]["vocab"]
    a, b = sorted(vocab, key=vocab.__getitem__)[40:42]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    (other / "tokenizer.json").write_text(json.dumps(words), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"another vocabulary \(token id {vocab[b]} is the first to differ\)"):
        LLM(llm.path, speculative="draft", draft_model=str(other))
    assert LLM(llm.path, speculative="draft", draft_model=llm.path).generate([[5, 6]], greedy(3))
