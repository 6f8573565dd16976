"""Caches touch arrays through `device.xp` only: they run on a device whose arrays refuse NumPy's functions and indices.

The device is a stand-in for CuPy: arrays of its own type, which take no list and no array of NumPy's as an index, no
such operand, and no function that is not its module's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import flat_batch, request

from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import Rows
from tinyinfer.switches import CACHES, KV_BITS, resolve


class DeviceArray(np.ndarray):
    """An array on the device."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = (), **options: Any) -> Any:
        for x in (*inputs, *out):
            refuse(type(x) is np.ndarray, f"{ufunc.__name__} mixes arrays of two devices")
        plain = [x.view(np.ndarray) if isinstance(x, DeviceArray) else x for x in inputs]
        if out:
            options["out"] = tuple(x.view(np.ndarray) for x in out)
        return on_device(getattr(ufunc, method)(*plain, **options))

    def __array_function__(self, function: Any, *others: Any) -> Any:
        raise TypeError(f"NumPy's {function.__name__} was called with an array on the device")

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(checked(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        refuse(type(value) is np.ndarray, "an array of NumPy's is written into one on the device")
        super().__setitem__(checked(key), value)

    def take(self, indices: Any, axis: int) -> Any:
        return np.ndarray.take(self, checked(indices), axis)


def refuse(wrong: bool, why: str) -> None:
    if wrong:
        raise TypeError(why)


def checked(key: Any) -> Any:
    for part in key if isinstance(key, tuple) else (key,):
        refuse(isinstance(part, list) or type(part) is np.ndarray, "the index is not on the device")
    return key


def on_device(result: Any) -> Any:
    return result.view(DeviceArray) if isinstance(result, np.ndarray) else result


class Module:
    """NumPy's functions under another name, from device arrays to device arrays."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            host = [x.view(np.ndarray) if isinstance(x, DeviceArray) else x for x in args]
            options = {key: x.view(np.ndarray) if isinstance(x, DeviceArray) else x for key, x in options.items()}
            return on_device(found(*host, **options))

        return call


class Device:
    """What a cache is given of a backend."""

    xp: Any = Module()

    def __init__(self) -> None:
        self.ledger = Ledger()

    def reserve(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
        return on_device(np.zeros(shape, dtype))

    def to_host(self, array: Any) -> np.ndarray:
        return array.view(np.ndarray)


KINDS = [("off", kind) for kind in sorted(CACHES)] + [(4, kind) for kind in sorted(KV_BITS[4])]


@pytest.mark.parametrize(("bits", "kind"), KINDS)
def test_a_cache_runs_on_a_device_that_is_not_numpys(bits, kind):
    """Steps, scattered blocks, a rollback, a fork with copy-on-write; read back on the host."""
    cache = resolve(KV_BITS[bits], kind)(CacheSpec((Rows(2, 6, 6), Rows(2, 6, 6)), 40, 4, 20, bits), Device())
    a, b, child = (request(range(40)) for _ in range(3))

    def step(seq: Any, stop: int, keep: int | None = None) -> None:
        first = cache.length(seq)
        cache.reserve(seq, stop - first)
        for layer in range(2):
            x = on_device(np.random.default_rng(layer).standard_normal((40, 2, 6), np.float32))[first:stop]
            batch = flat_batch([(seq, first, stop)])
            cache.append(layer, x, -x, batch)
            for part in cache.split(batch.spans[0]):
                k, v = cache.read(layer, seq, 0, part.first + part.rows)
                assert isinstance(k, DeviceArray)
                assert np.allclose(k.view(np.ndarray)[-1], x.view(np.ndarray)[part.first + part.rows - 1 - first])
                assert len(v) == part.first + part.rows
        cache.commit(seq, stop - first if keep is None else keep)

    for stop in (6, 9, 17):
        step(a, stop)
        step(b, stop)
    if cache.can_chunk:
        step(a, 23, keep=2)
        cache.truncate(a, 18)
        cache.fork(a, child)
        step(child, 25)
        step(a, 20)


@pytest.mark.parametrize(
    "wrong",
    [lambda x: x[[0, 1]], lambda x: x[np.array([0])], lambda x: x + np.ones(3), lambda x: np.concatenate((x, x))],
)
def test_the_device_refuses_what_cupy_would(wrong):
    """A stand-in that allows everything would show nothing."""
    with pytest.raises(TypeError):
        wrong(on_device(np.zeros(3)))
