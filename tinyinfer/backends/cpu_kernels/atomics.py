"""What threads need to agree on who does what: counters that two of them can raise, and words that one sees of another.

numba has these for GPUs only, so here they are as LLVM instructions, each in a line or two. An atomic addition returns
the old value, so that no two threads get the same number; a load that acquires sees all that was written before the
store that released the value.
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

import platform
import time

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

I64 = ir.IntType(64)
X86 = platform.machine() in ("x86_64", "AMD64")  # other CPUs wait without a hint

sched_yield = types.ExternalFunction("sched_yield", types.int32())  # gives the core to another thread that waits for it

clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.int64))  # (which, address)
MONOTONIC = np.int32(time.CLOCK_MONOTONIC if hasattr(time, "CLOCK_MONOTONIC") else 1)


def _word(builder, address):
    return builder.inttoptr(address, I64.as_pointer())


@intrinsic
def atomic_add(typing, address, value):
    """Adds to the int64 at an address, and returns what was there before."""

    def code(context, builder, signature, args):
        return builder.atomic_rmw("add", _word(builder, args[0]), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), code


@intrinsic
def load_acquire(typing, address):
    """The int64 at an address, and with it all that was written before it was stored."""

    def code(context, builder, signature, args):
        return builder.load_atomic(_word(builder, args[0]), "acquire", 8)

    return types.int64(types.int64), code


@intrinsic
def store_release(typing, address, value):
    """Writes the int64 at an address, after all that was written before."""

    def code(context, builder, signature, args):
        builder.store_atomic(args[1], _word(builder, args[0]), "release", 8)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), code


@intrinsic
def pause(typing):
    """Tells the core that a thread only waits, so that the loop takes less of what another one computes with."""

    def code(context, builder, signature, args):
        if X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", fnty=kind), [])
        return context.get_dummy_value()

    return types.none(), code


@intrinsic
def call_kernel(typing, kernel, arguments, item, thread):
    """Calls the kernel at an address: kernel(arguments, item, thread), see kernel.py."""

    def code(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [I64.as_pointer(), I64, I64])
        function = builder.inttoptr(args[0], kind.as_pointer())
        builder.call(function, [_word(builder, args[1]), args[2], args[3]])
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64, types.int64), code
