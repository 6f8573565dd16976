"""Engines whose steps run by kernels of our own, captured and not, against NumPy: features and families.

On the fake CuPy, where a kernel's launch takes milliseconds, only a few of them; all on a GPU (`pytest -m gpu -n 0`).
"""

from __future__ import annotations

from typing import Any

import pytest
from features import CACHES, DRAFTS, SERVING, WEIGHTS
from golden import FAMILIES, load_golden
from helpers import finish, make_engine, request
from parity import Device, assert_engines_agree

from tinyinfer.loading import load

DECODES = ["graph", "kernels", "persistent"]
FEATURES = [*CACHES[1:], *SERVING, *DRAFTS, *WEIGHTS]
AHEAD = [switches for switches in DRAFTS if switches["speculative"] == "self" or switches.get("draft_model") == "head"]
ON_THE_FAKE = [("graph", SERVING[2]), ("kernels", {}), *(("graph", switches) for switches in AHEAD)]
pytestmark = pytest.mark.filterwarnings("ignore:gpu_decode=")  # where a note says that CuPy's operations take over


@pytest.mark.gpu
@pytest.mark.parametrize("decode", DECODES)
@pytest.mark.parametrize("switches", FEATURES, ids=str)
def test_engines_with_kernels(decode: str, switches: dict[str, Any]) -> None:
    """Every cache, scheduler, drafter and quantized weight, with each way of running a step."""
    assert_engines_agree(Device("gpu"), "llama", switches, decode)


@pytest.mark.cuda
@pytest.mark.parametrize(("decode", "switches"), ON_THE_FAKE, ids=str)
def test_engines_with_kernels_on_the_fake(decode: str, switches: dict[str, Any]) -> None:
    """Chunks of prompts and shared prefixes beside decodes, captured; the launches one by one; and, captured, drafts of
    the model itself, which have a cache of their own there, and of a head, which reads what captured steps wrote.
    """
    assert_engines_agree(Device("fake"), "llama", switches, decode)


@pytest.mark.gpu
@pytest.mark.parametrize("decode", DECODES)
@pytest.mark.parametrize("name", FAMILIES)
def test_families_with_kernels(decode: str, name: str, golden_folder: Any) -> None:
    """The greedy text of every golden: by kernels where they cover the family, else by CuPy's operations."""
    golden = load_golden(name)
    engine = make_engine(load(golden_folder(name)), ops=Device("gpu").ops(decode=decode))
    [tokens] = finish(engine, request(golden.prompt, len(golden.greedy)))
    assert tokens == golden.greedy
