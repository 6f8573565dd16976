"""What a GPU must compute as NumPy does: arrays in, arrays out, one operation or one engine at a time.

`Device("fake")` is fake_cupy, on which CI runs these tests; `Device("gpu")` is CuPy on a real one (`pytest -m gpu`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from draft_heads import head_of
from fake_cupy import fake_cupy
from features import CONFIGS
from helpers import (
    ALWAYS_DRAFT,
    Letters,
    checkpoint_of,
    distance,
    finish,
    make_engine,
    random_tensors,
    request,
    small_config,
)

from tinyinfer.backends.cupy_device import find_cupy
from tinyinfer.backends.cupy_ops import CupyOps
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.engine import Engine
from tinyinfer.errors import SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.sequence import Sequence
from tinyinfer.speculative import draft_model

DEVICES = [pytest.param("fake", marks=pytest.mark.cuda), pytest.param("gpu", marks=pytest.mark.gpu)]
# A prefix in common, repetition, one token. Some rows are chosen on the device, some need more than it does.
WORK: list[tuple[list[int], int, dict[str, Any]]] = [
    ([3, 4, 5, 6] * 3, 8, {}),
    ([3, 4, 5, 6] * 2 + [9], 6, {"temperature": 0.8, "seed": 5}),
    ([7], 9, {"logprobs": 3}),
    ([9, 8, 7, 6, 5], 5, {"temperature": 1.3, "seed": 2, "top_k": 9, "top_p": 0.9}),
    ([2, 3], 6, {"repetition_penalty": 1.2}),
]


@dataclass(frozen=True)
class Device:
    """An array module by its name, and the way there and back."""

    name: str

    @property
    def xp(self) -> Any:
        """The module; a test of a GPU is skipped where there is none, and fails where there is one that does not work.
        """
        if self.name == "fake":
            return fake_cupy
        try:
            return find_cupy()
        except SwitchError as error:
            if Path("/dev/nvidiactl").exists():
                raise
            pytest.skip(str(error))

    def ops(self, dtype: Any = np.float32, decode: str = "eager") -> CupyOps:
        """CuPy's operations, with a ledger of their own."""
        return CupyOps(Ledger(), dtype, decode=decode, xp=self.xp)

    def put(self, value: Any) -> Any:
        """The arrays in a value, also in those of its fields and parts, on the device; everything else as it is."""
        if isinstance(value, np.ndarray):
            return self.xp.asarray(value)
        if isinstance(value, tuple | list):
            return type(value)(self.put(part) for part in value)
        if hasattr(value, "__dataclass_fields__"):
            return replace(value, **{name: self.put(getattr(value, name)) for name in value.__dataclass_fields__})
        return value

    def get(self, value: Any) -> Any:
        """An array, or a tuple of arrays, on the host."""
        return tuple(map(self.get, value)) if isinstance(value, tuple) else np.asarray(value.get())


def assert_same(device: Device, work: Callable[[Any], Any], tolerance: float, dtype: Any = np.float32) -> None:
    """work(ops, put) gives the same arrays on the device as on NumPy, and the same counts."""
    ops, host = device.ops(dtype), NumpyOps(Ledger(), dtype)
    found, wanted = device.get(work(ops, device.put)), work(host, lambda value: value)
    pairs = zip(found, wanted, strict=True) if isinstance(wanted, tuple) else [(found, wanted)]
    for one, other in pairs:
        assert one.dtype == other.dtype
        assert distance(one, other) <= tolerance
    assert_counts(ops.ledger, host.ledger)


def assert_counts(found: Ledger, wanted: Ledger, *besides: str) -> None:
    """Both ledgers are the same, besides these counters; the message names those that are not."""
    pairs = {name: (count, wanted.as_dict()[name]) for name, count in found.as_dict().items() if name not in besides}
    differ = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    assert not differ, f"counted on the device and on NumPy: {differ}"


def engine_on(ops: Any, name: str, switches: dict[str, Any]) -> Engine:
    """An engine of a small model on these operations."""
    checkpoint = checkpoint_of(CONFIGS[name], random_tensors(CONFIGS[name]))
    letters: Any = Letters(31)
    second = {"random": small_config(), "head": head_of, None: None}[switches.get("draft_model")]
    return make_engine(replace(checkpoint, tokenizer=letters), ops=ops, second=second, draft_cost=ALWAYS_DRAFT,
                       max_model_len=32, **switches)  # fmt: skip


def engine_on_host(name: str, switches: dict[str, Any], decode: str) -> Engine:
    """The same engine on NumPy. A draft of the model itself has its own cache wherever it has one on the device, which
    is beside compiled steps (draft_cache.py), since other keys mean other drafts and other counts.
    """
    own = patch.object(draft_model, "shares_cache", lambda *args: False) if decode != "eager" else nullcontext()
    with own:
        return engine_on(NumpyOps(Ledger()), name, switches)


def sequences() -> list[Sequence]:
    return [request(prompt, n, **params) for prompt, n, params in WORK]


def assert_engines_agree(device: Device, name: str, switches: dict[str, Any], decode: str = "eager") -> Engine:
    """Tokens, log-probabilities and counts are NumPy's; returns the engine on the device.

    Of packed weights the bytes may differ, since each backend fills them up in its own way; of copies within a cache,
    too, since kernels read scattered blocks where they lie.
    """
    ours, host = engine_on(device.ops(decode=decode), name, switches), engine_on_host(name, switches, decode)
    found, wanted = sequences(), sequences()
    assert finish(ours, *found) == finish(host, *wanted)
    for one, other in zip(found, wanted, strict=True):
        for choice, same in zip(one.progress.choices, other.progress.choices, strict=True):
            assert choice.logprob == pytest.approx(same.logprob, abs=1e-4)
    packed = {"quantize", "draft_quantize"} & set(switches) or switches.get("draft_model") == "head"
    besides = ["weight_bytes"] if packed else []
    besides += ["kv_copied_bytes"] if decode != "eager" else []
    assert_counts(ours.ledger, host.ledger, *besides)
    return ours
