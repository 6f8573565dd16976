"""The reference backend on an array module that is not NumPy: `xp` is passed everywhere, and NumPy is named nowhere.

First the model alone, by the goldens; then whole engines with every cache, scheduler, drafter and weight, which emit
the same tokens and count the same work as on NumPy; then how often the host waits for the device.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from draft_heads import head_of
from fake_cupy import DeviceArray, fake_cupy
from features import CACHES, CONFIGS, DRAFTS, SERVING, WEIGHTS, WITH_TEXT, WORK
from golden import FAMILIES, load_golden
from helpers import (
    ALWAYS_DRAFT,
    TOLERANCE,
    Letters,
    checkpoint_of,
    finish,
    golden_distance,
    make_engine,
    random_tensors,
    request,
    small_config,
)

from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.engine.engine import Engine
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.model.visit import matrices, weights
from tinyinfer.sequence import Sequence


def engine_on(xp: Any, name: str, switches: dict[str, Any]) -> Engine:
    """An engine whose arrays are those of a module."""
    checkpoint = checkpoint_of(CONFIGS[name], random_tensors(CONFIGS[name]))
    letters: Any = Letters(31)
    second = {"random": small_config(), "head": head_of, None: None}[switches.get("draft_model")]
    return make_engine(replace(checkpoint, tokenizer=letters), ops=ReferenceOps(Ledger(), xp=xp), second=second,
                       draft_cost=ALWAYS_DRAFT, max_model_len=32, **switches)  # fmt: skip


def sequences() -> list[Sequence]:
    return [request(prompt, n, logprobs=3) for prompt, n in WORK]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_golden_runs_on_another_array_module(name, golden_folder):
    """Catches a NumPy call, a NumPy array or a conversion on the way of a token through the model and its cache."""
    golden = load_golden(name)
    checkpoint = load(golden_folder(name))
    found = golden_distance("tinyinfer", checkpoint, golden.tokens, golden.logits, "reference", fake_cupy)
    assert found <= TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_every_golden_runs_on_the_reference_in_numpy(name, golden_folder):
    """The oracle of every backend is itself right."""
    golden = load_golden(name)
    found = golden_distance("tinyinfer", load(golden_folder(name)), golden.tokens, golden.logits, "reference")
    assert found <= TOLERANCE


@pytest.mark.parametrize(
    "misuse",
    [
        lambda x: x + np.ones(3),
        lambda x: np.ones(3) * x,
        lambda x: x[np.array([0, 1])],
        lambda x: np.asarray(x),
        lambda x: np.exp(x),
        lambda x: fake_cupy.exp(np.ones(3)),
        lambda x: bool(x[0] > 0),
        lambda x: float(x[0]),
        lambda x: int(x[0]),
        lambda x: x.__setitem__(0, np.ones(())),
        lambda x: fake_cupy.vecdot(x, x),
    ],
)
def test_what_a_device_refuses_is_refused(misuse):
    """Else the tests above would prove nothing."""
    with pytest.raises((TypeError, AttributeError)):
        misuse(fake_cupy.asarray(np.ones(3)))


def test_what_a_device_computes_is_computed():
    x = fake_cupy.asarray(np.arange(6.0).reshape(2, 3))
    y = fake_cupy.where(x > 2, x @ x.T.reshape(3, 2)[:, :1], -fake_cupy.inf)
    assert isinstance(y, DeviceArray)
    np.testing.assert_array_equal(y.get(), [[-np.inf] * 3, [14] * 3])


# Whole engines


def assert_same_on_device_and_host(name: str, switches: dict[str, Any]) -> Engine:
    """Tokens, log-probabilities and ledgers; the engine on the device."""
    device, host = engine_on(fake_cupy, name, switches), engine_on(np, name, switches)
    found, wanted = sequences(), sequences()
    assert finish(device, *found) == finish(host, *wanted)
    for one, other in zip(found, wanted, strict=True):
        for choice, same in zip(one.progress.choices, other.progress.choices, strict=True):
            assert choice.logprob == pytest.approx(same.logprob, abs=1e-4)
    assert device.ledger == host.ledger
    return device


@pytest.mark.parametrize("switches", [*CACHES, *SERVING, *DRAFTS, *WEIGHTS], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_whole_engine_runs_on_another_array_module(name, switches):
    """Catches a NumPy array among the indices of a cache, in a draft's copy of the weights, or in a packed weight."""
    engine = assert_same_on_device_and_host(name, switches)
    assert engine.ledger.drafts_proposed > 0 or "speculative" not in switches
    assert engine.ledger.tokens_cached > 0 or not switches.get("prefix_cache")


@pytest.mark.parametrize("switches", WITH_TEXT, ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_methods_that_read_text_run_on_another_array_module(name, switches):
    """Inputs are summed up on the host, norms are divided on the device. Catches a scale that stays on the host."""
    assert_same_on_device_and_host(name, switches | {"calibration_tokens": 128})


@pytest.mark.parametrize("switches", [{}, *WEIGHTS], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_all_weights_lie_on_the_device(name, switches):
    """Catches a weight or a bias that each product would have to carry over."""
    model = engine_on(fake_cupy, name, switches).model
    for place, held in matrices(model):
        arrays = [value for one in (held, *weights(held)) for value in vars(one).values()]
        assert not [value for value in arrays if isinstance(value, np.ndarray)], place
        assert [value for value in arrays if isinstance(value, DeviceArray)], place


# Waiting for the device


@pytest.fixture
def transfers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the arrays that were brought back to the host so far."""
    seen: list[tuple[int, ...]] = []
    get = DeviceArray.get

    def counted(self: DeviceArray) -> np.ndarray:
        seen.append(self.shape)
        return get(self)

    monkeypatch.setattr(DeviceArray, "get", counted)
    return seen


@pytest.mark.parametrize("switches", CACHES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_waits_for_the_device_once(name, switches, transfers):
    """For the logits, whatever the cache, and after a prompt's rows for whether they overflowed (engine/overflow.py). A
    mixture of experts also waits in each layer: which experts are multiplied is decided on the host."""
    engine = engine_on(fake_cupy, name, switches)
    transfers.clear()
    for trace in engine.run(sequences()):
        rows, batch = len(trace.batch), trace.batch
        routed = [(rows, 2)] * 2 if name == "moe" else []
        turns = zip(trace.turns, batch.spans, strict=True)
        prompts = sum(span.rows > span.wanted and turn.phase != "padding" for turn, span in turns)
        assert transfers == [*routed, (len(batch.logit_rows), 31), *[(prompts,)] * bool(prompts)]
        transfers.clear()


def test_each_draft_of_a_model_waits_once_more(transfers):
    """A token is drawn on the host before the next one is proposed. A prompt's values are looked at, too."""
    engine = engine_on(fake_cupy, "llama", {"speculative": "self", "num_draft_tokens": 3})
    transfers.clear()
    for trace in engine.run(sequences()):
        drafts = max((len(turn.drafts) for turn in trace.turns), default=0)
        assert len(transfers) == 1 + drafts + any(span.rows > span.wanted for span in trace.batch.spans)
        transfers.clear()
