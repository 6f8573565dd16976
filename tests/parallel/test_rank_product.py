"""The product of the switches on two ranks: every pair of values that meets in tests/test_product.py meets here, too.

As threads in the default suite. As processes (`-m mpi`) the cases run one after another in one command, which is this
file: `mpiexec -n 2 python test_rank_product.py tensor`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if __name__ == "__main__":  # pytest knows its folders by itself
    sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from divided import leader_of, together
from helpers import ALWAYS_DRAFT, finish, small_config
from test_product import CONFIGS, LONGEST, PAIRS, assert_clean, case_id, expected, requests, workload

from tinyinfer.engine.engine import Engine
from tinyinfer.parallel.comm import Comm

WAYS = {"tensor": (2, 1), "pipeline": (1, 2)}  # ranks of a stage, stages
NAMES = {"tensor": "grouped_windows", "pipeline": "moe"}


def cases(way: str) -> list[dict[str, Any]]:
    """The cases that ranks take: they draft by no layers of their own, and stages verify no candidates."""
    taken = [case for case in PAIRS if case["speculative"] != "self"]
    return [case for case in taken if way == "tensor" or case["num_draft_candidates"] == 1]


def given(way: str, case: dict[str, Any]) -> dict[str, Any]:
    """What `together` and `leader_of` get: as small a pool as the longest sequence allows, and a draft model."""
    more: dict[str, Any] = {"max_model_len": 30, "cost": ALWAYS_DRAFT}
    if case["kv_cache"] == "paged":
        more["num_blocks"] = -(-LONGEST // case["block_size"]) + 1
    if case["speculative"] == "draft":
        second = small_config(vocab_size=CONFIGS[NAMES[way]].vocab_size)
        more |= {"draft_model": "random", "second": second}
    return case | more


def answers(engine: Engine) -> list[list[int]]:
    """The tokens of the workload; nothing is left behind."""
    tokens = finish(engine, *requests(workload(engine.model.config.vocab_size)))
    assert_clean(engine)
    return tokens


@pytest.mark.parametrize(("way", "case"), [
    pytest.param(way, case, id=f"{way}-{case_id(case)}") for way in WAYS for case in cases(way)
])  # fmt: skip
def test_every_pair_of_switches_emits_the_plain_tokens_on_ranks(way: str, case: dict[str, Any]) -> None:
    """Catches features that work alone, and not together with ranks."""
    (ranks, stages), config = WAYS[way], CONFIGS[NAMES[way]]
    found = together(ranks, config, answers, stages=stages, **given(way, case))
    assert found == expected(NAMES[way], Path)


@pytest.mark.mpi
@pytest.mark.parametrize("way", WAYS)
def test_and_as_processes(way: str) -> None:
    """Catches what threads of one process share, and processes do not."""
    command = ["mpiexec", "-n", "2", sys.executable, __file__, way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(\d+) cases", done.stdout) == [str(len(cases(way)))]


def all_cases(way: str, comm: Comm) -> None:
    """What a process does: every case with the same ranks, each with a model of its own. Raises AssertionError."""
    (_, stages), config = WAYS[way], CONFIGS[NAMES[way]]
    for case in cases(way):
        found = leader_of(comm, config, answers, stages=stages, **given(way, case))
        assert comm.rank or found == expected(NAMES[way], Path), case_id(case)
    if comm.rank == 0:
        print(f"{len(cases(way))} cases", flush=True)


if __name__ == "__main__":
    from tinyinfer.ledger import Ledger
    from tinyinfer.parallel.mpi import mpi_comm

    ranks = mpi_comm(Ledger())
    try:
        all_cases(sys.argv[1], ranks)
    except Exception as error:
        ranks.fail(error)
