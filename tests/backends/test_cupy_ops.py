"""The CuPy backend over the fake device: what only it does. Its parity with NumPy is tested in tests/gpu.

Few launches, weights as kernels read them, choices on the device, one wait in a step, and memory that ends in the
middle of serving.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fake_cuda import OutOfMemoryError, Stream
from fake_cupy import DeviceArray, fake_cupy
from features import CACHES, CONFIGS
from golden import load_golden
from helpers import Letters, checkpoint_of, finish, lazy, make_engine, random_tensors, request, small_config

from tinyinfer import LLM
from tinyinfer.backends.cupy_device import free_memory
from tinyinfer.backends.cupy_ops import CupyOps
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.packed import W8A8
from tinyinfer.backends.packed_rows import PackedRows
from tinyinfer.engine.engine import Engine
from tinyinfer.errors import RoomError
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.loading.checkpoint import Joined
from tinyinfer.model.quantized_matrix import W8A8_SCHEME, QuantScheme
from tinyinfer.model.weights import Linear
from tinyinfer.quantization.rtn import round_to_nearest
from tinyinfer.sampling import is_plain
from tinyinfer.sampling_params import SamplingParams

POOL = fake_cupy.get_default_memory_pool()
WORK: list[tuple[list[int], int, dict[str, Any]]] = [
    ([3, 4, 5, 6] * 3, 8, {}), ([7], 9, {"temperature": 0.9, "seed": 4}), ([3, 4, 5, 9], 6, {"logprobs": 2}),
]  # fmt: skip


def ops(dtype: Any = np.float32) -> CupyOps:
    return CupyOps(Ledger(), dtype, decode="eager", xp=fake_cupy)


def engine(name: str = "llama", **switches: Any) -> Engine:
    return make_engine(CONFIGS[name], ops=ops(), max_model_len=32, **switches)


def sequences() -> list[Any]:
    return [request(prompt, n, **params) for prompt, n, params in WORK]


# The whole


@pytest.mark.parametrize("scores", [1 << 26, 60])
@pytest.mark.parametrize("switches", [{}, {"max_num_batched_tokens": 5}], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_an_engine_emits_what_it_emits_on_numpy(name: str, switches: Any, scores: int, monkeypatch: Any) -> None:
    """Greedy, drawn and with log-probabilities in one batch; in chunks, and a few queries at a time; the same counts.

    Catches a mask that forgets where the keys of a window begin, or which query is the first of a tile.
    """
    monkeypatch.setattr("tinyinfer.backends.cupy_ops.MOST_SCORES", scores)
    on_device, on_host = engine(name, **switches), make_engine(CONFIGS[name], max_model_len=32, **switches)
    assert finish(on_device, *sequences()) == finish(on_host, *sequences())
    assert on_device.ledger == on_host.ledger


@pytest.mark.parametrize("name", ["gpt_oss", pytest.param("gemma2", marks=pytest.mark.cuda)])
def test_families_with_sinks_caps_and_windows(name: str, golden_folder: Any) -> None:
    """The greedy text of a golden."""
    golden = load_golden(name)
    found = finish(make_engine(load(golden_folder(name)), ops=ops()), request(golden.prompt, len(golden.greedy)))
    assert found == [golden.greedy]


# Weights


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_dense_weights_lie_outputs_first(dtype: Any) -> None:
    """As the kernels of kernels/ read them, and as cuBLAS needs no copy."""
    w = np.arange(15, dtype=np.float32).reshape(5, 3)
    array = ops(dtype).take(Joined((lazy("w", w),))).array
    assert array.T.flags.c_contiguous
    assert array.dtype == dtype
    np.testing.assert_array_equal(array.get(), w.T.astype(dtype))


def test_codes_lie_as_the_gpu_reads_them() -> None:
    w = np.random.default_rng(0).standard_normal((8, 12)).astype(np.float32)
    assert isinstance(ops().take(round_to_nearest(w, QuantScheme(4, 4, False))), PackedRows)
    held = ops().take(round_to_nearest(w, W8A8_SCHEME))
    assert isinstance(held, W8A8)
    assert held.codes.T.flags.c_contiguous


@pytest.mark.parametrize(("inputs", "outputs", "by_cublas"), [(64, 12, True), (7, 12, False), (64, 10, False)])
def test_sums_of_whole_numbers_are_exact(inputs: int, outputs: int, by_cublas: bool, monkeypatch: Any) -> None:
    """By cuBLAS where its rules for sizes allow. Catches a float32 sum, which rounds from 2^24 on."""
    calls: list[int] = []
    product = fake_cupy.cuda.cublas.gemmEx
    monkeypatch.setattr(fake_cupy.cuda.cublas, "gemmEx", lambda *args: calls.append(1) or product(*args))
    matrix = round_to_nearest(np.full((outputs, 4096 + inputs), 1.0, np.float32), W8A8_SCHEME)
    x = np.full((3, 4096 + inputs), 1.0, np.float32)
    x[:, 0] = 1 / 127
    found = ops().linear(fake_cupy.asarray(x), Linear(ops().take(matrix))).get()
    wanted = NumpyOps(Ledger()).linear(x, Linear(NumpyOps(Ledger()).take(matrix)))
    np.testing.assert_array_equal(found, wanted)
    assert bool(calls) == by_cublas


# Launches and waits


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """One entry for each piece of work that the device was given."""
    seen: list[Stream] = []
    do = Stream.do

    def counted(self: Stream, work: Any, memories: Any = ()) -> None:
        seen.append(self)
        do(self, work, memories)

    monkeypatch.setattr(Stream, "do", counted)
    return seen


@pytest.mark.parametrize(("dtype", "most"), [(np.float32, 20), (ml_dtypes.bfloat16, 24)])
def test_a_layer_takes_few_launches(launches: list[Stream], dtype: Any, most: int) -> None:
    """In decode of one sequence, where the host's launches are the time of a step. Catches an operation that fell apart
    again: the reference needs 46 for a layer.
    """
    counts = {}
    for layers in (1, 2):
        config = small_config(num_layers=layers)
        running = make_engine(config, ops=ops(dtype), max_model_len=32)
        for trace in running.run([request([1, 2, 3], 6)]):
            counts[layers] = len(launches)
            launches.clear()
            assert trace.batch
    assert counts[2] - counts[1] == most


@pytest.fixture
def transfers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the arrays that were brought back to the host so far."""
    seen: list[tuple[int, ...]] = []
    get = DeviceArray.get

    def counted(self: DeviceArray, *args: Any, **options: Any) -> np.ndarray:
        seen.append(self.shape)
        return get(self, *args, **options)

    monkeypatch.setattr(DeviceArray, "get", counted)
    return seen


@pytest.mark.parametrize("switches", CACHES[:4], ids=str)
def test_a_step_waits_once_for_three_numbers_of_each_row(switches: Any, transfers: list[Any]) -> None:
    """The logits stay on the device; a prompt's overflow is looked for once more (engine/overflow.py)."""
    running = engine(**switches)
    transfers.clear()
    for trace in running.run([request([3, 4, 5], 5), request([4, 5, 6], 4, temperature=0.8, seed=1)]):
        rows = len(trace.batch.logit_rows)
        prompts = sum(span.rows > span.wanted for span in trace.batch.spans)
        assert transfers == [(3, rows), *[(prompts,)] * bool(prompts)]
        transfers.clear()


def test_rows_that_the_host_must_see_come_alone(transfers: list[Any]) -> None:
    """Of three sequences the one with log-probabilities. Catches a copy of all logits for one of them."""
    running = engine()
    transfers.clear()
    list(running.run(sequences()))
    wide = [shape for shape in transfers if shape[-1] == 31]
    assert wide == [(1, 31)] * 6


@pytest.mark.parametrize(
    ("params", "plain"),
    [({}, True), ({"top_k": 3, "top_p": 0.5}, True), ({"temperature": 1.0}, True),
     ({"temperature": 1.0, "top_k": 3}, False), ({"temperature": 1.0, "top_p": 0.9}, False),
     ({"temperature": 1.0, "min_p": 0.1}, False), ({"logprobs": 0}, False),
     ({"presence_penalty": 1.0}, False)],
)  # fmt: skip
def test_what_the_device_chooses(params: dict[str, Any], plain: bool) -> None:
    """Greedy tokens need no filter: the largest stays the largest."""
    assert is_plain(SamplingParams(**params)) == plain


def test_drafts_are_proposed_as_if_rows_were_free_up_to_the_ridge() -> None:
    assert [ops().relative_cost(rows) for rows in (1, 8, 256, 512)] == [1.0, 1.0, 1.0, 2.0]


# Memory that ends


def test_memory_that_is_free_is_the_pools_and_the_devices(monkeypatch: Any) -> None:
    """Catches a pool of blocks that is sized by the host's memory, and a limit of which nothing seems to be taken."""
    held = fake_cupy.zeros(10_000, dtype=np.float32)
    free = free_memory(fake_cupy)
    assert ops().available_memory() == free > 1 << 30
    monkeypatch.setattr(POOL, "limit", POOL.used_bytes() + 70_000)
    assert ops().available_memory() == 70_000
    assert held.nbytes <= POOL.used_bytes()
    asked = engine(kv_cache="paged", block_size=4)
    assert 0 < asked.cache.spec.num_blocks * 4 * asked.cache.position_bytes <= asked.ops.available_memory() / 2


def test_a_cache_that_cannot_grow_on_the_device_waits_as_on_the_host(monkeypatch: Any) -> None:
    """CuPy's error is a MemoryError: sequences take turns in what there is, and emit what they emit alone."""
    running, wanted = engine(kv_cache="paged", block_size=4), finish(engine(), *sequences())
    monkeypatch.setattr(POOL, "limit", POOL.used_bytes() + 30_000)
    assert finish(running, *sequences()) == wanted


@pytest.fixture
def llm(golden_folder: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLM]:
    """A model on the fake device, for several callers."""

    def fitting(checkpoint: Any, c: Any, ledger: Ledger) -> CupyOps:
        return CupyOps(ledger, decode="eager", xp=fake_cupy)

    monkeypatch.setattr("tinyinfer.llm.fitting_ops", fitting)
    with LLM(str(golden_folder("llama"))) as llm:
        yield llm


def test_memory_that_ends_in_a_step_ends_the_youngest_request_only(llm: LLM, monkeypatch: Any) -> None:
    """Two small requests and a long prompt, under limits from what the small ones need up to what all need. Whatever
    the limit, the small ones get their tokens, and the long one gets its own or one sentence.

    Catches a step that is tried for ever, all requests of a step ended, and memory that stays taken.
    """
    small = [(prompt, SamplingParams(max_tokens=n, ignore_eos=True)) for prompt, n in (([3, 4, 5], 9), ([7], 7))]
    long = (list(range(3, 33)) * 3, SamplingParams(max_tokens=3, ignore_eos=True))

    def peak(*work: Any) -> tuple[int, list[list[int]]]:
        gc.collect()  # what earlier work left in cycles of references
        monkeypatch.setattr(POOL, "peak", 0)
        tokens = [request.result(60).token_ids for request in [llm.submit(*one) for one in work]]
        return POOL.peak, tokens

    (least, wanted), (most, [right]) = peak(*small), peak(long)
    said = []
    for limit in np.linspace(least + 3000, most + least // 4, 7).astype(int).tolist():
        POOL.set_limit(limit)
        requests = [llm.submit(*one) for one in (*small, long)]
        try:
            assert [request.result(60).token_ids for request in requests[:2]] == wanted
            try:
                assert requests[2].result(60).token_ids == right
            except RoomError as error:
                said.append(str(error))
        finally:
            POOL.set_limit(0)
    assert any(re.match(r"a step of \d+ rows needs more memory than there is \(Out of memory", text) for text in said)
    assert all("give a s" in text for text in said)
    assert not any("this process" in text for text in said), "that is the host's memory"


def test_memory_that_ends_in_the_choice_of_tokens_ends_the_youngest_request_too(monkeypatch: Any) -> None:
    """Drawing makes arrays of the vocabulary's size in float64. Catches an error that names no request."""
    running, (old, young) = engine(), sequences()[:2]

    def short(logits: Any, wanted: Any) -> Any:
        raise OutOfMemoryError(1 << 40, POOL.used_bytes())

    monkeypatch.setattr(running.ops, "draw", short)
    with pytest.raises(RoomError, match=r"a step of \d+ rows needs more memory than there is") as caught:
        finish(running, old, young)
    assert caught.value.request_id == young.id > old.id


def test_an_error_that_is_kept_keeps_no_memory(monkeypatch: Any) -> None:
    """Its traceback has the frames of the pass, with all arrays of it. Catches a failed step that makes others fail."""
    running, seq = engine(), request([5] * 20, 2)
    gc.collect()
    before, taken = POOL.used_bytes(), []

    def short(x: Any, rows: Any) -> Any:
        taken.append(POOL.used_bytes() - before)
        raise OutOfMemoryError(1 << 40, POOL.used_bytes())

    monkeypatch.setattr(running.ops, "gather", short)
    with pytest.raises(RoomError) as caught:
        finish(running, seq)
    assert caught.value.request_id == seq.id
    assert taken[0] > 2000, "there are arrays to be kept"
    assert POOL.used_bytes() == before


def test_the_device_s_memory_comes_back_when_an_engine_goes() -> None:
    """Catches a cache or a weight that something outside of the engine goes on holding."""
    gc.collect()  # what earlier tests left in cycles of references
    before = POOL.used_bytes()
    finish(engine(), *sequences())
    gc.collect()
    assert POOL.used_bytes() == before


def test_a_model_that_read_a_text_runs_in_whole_numbers() -> None:
    """Inputs summed up on the host, norms divided on the device, products of int8."""
    checkpoint = checkpoint_of(CONFIGS["llama"], random_tensors(CONFIGS["llama"]))
    letters: Any = Letters(31)
    switches = {"quantize": "w8a8", "quantize_head": "int8", "calibration_tokens": 128}
    both = [make_engine(replace(checkpoint, tokenizer=letters), ops=one, max_model_len=32, **switches)
            for one in (ops(), NumpyOps(Ledger()))]  # fmt: skip
    assert finish(both[0], *sequences()) == finish(both[1], *sequences())
