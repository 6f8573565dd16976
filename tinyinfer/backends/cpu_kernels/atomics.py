"""What threads need to agree on who does what: counters that two of them can raise, and words that one sees of another.

numba has these for GPUs only, so here they are as LLVM instructions, each in a line or two. An atomic addition returns
the old value, so that no two threads get the same number; a load that acquires sees all that was written before the
value was. Additions and swaps stand in one order for all threads: of two threads of which each writes one word and
then reads the other's, at least one sees what the other wrote, and so no thread sleeps for ever.

A thread that sleeps costs no time. Linux compares a word and puts the thread to sleep in one step (futex), so that no
change of the word can come between; elsewhere a thread looks again after a pause.
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

import platform
import sys
import time

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

I64 = ir.IntType(64)
X86 = platform.machine() in ("x86_64", "AMD64")  # other CPUs wait without a hint

sched_yield = types.ExternalFunction("sched_yield", types.int32())  # gives the core to another thread that waits for it

clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.int64))  # (which, address)
MONOTONIC = np.int32(time.CLOCK_MONOTONIC if hasattr(time, "CLOCK_MONOTONIC") else 1)


syscall = types.ExternalFunction("syscall", types.int64(*[types.int64] * 7))
usleep = types.ExternalFunction("usleep", types.int32(types.uint32))  # microseconds
# The number of Linux's call `futex` on this CPU; 0: there is none, or no number is known.
FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98}.get(platform.machine(), 0) if sys.platform == "linux" else 0
WAIT, WAKE, LOW_HALF, PAUSE = 128, 129, 0xFFFFFFFF, 500


def _word(builder, address):
    return builder.inttoptr(address, I64.as_pointer())


@intrinsic
def atomic_add(typing, address, value):
    """Adds to the int64 at an address, and returns what was there before."""

    def code(context, builder, signature, args):
        return builder.atomic_rmw("add", _word(builder, args[0]), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), code


@intrinsic
def atomic_swap(typing, address, value):
    """Writes the int64 at an address, after all that was written before, and returns what was there."""

    def code(context, builder, signature, args):
        return builder.atomic_rmw("xchg", _word(builder, args[0]), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), code


@intrinsic
def load_acquire(typing, address):
    """The int64 at an address, and with it all that was written before it was."""

    def code(context, builder, signature, args):
        return builder.load_atomic(_word(builder, args[0]), "acquire", 8)

    return types.int64(types.int64), code


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


@njit(error_model="numpy")
def sleep_while(word: int, value: int) -> None:
    """Sleeps if the int64 at an address is `value`, until `wake_all` of the address; may return before."""
    if FUTEX:
        syscall(FUTEX, word, WAIT, value & LOW_HALF, 0, 0, 0)
    elif load_acquire(word) == value:
        usleep(np.uint32(PAUSE))


@njit(error_model="numpy")
def wake_all(word: int) -> None:
    """Wakes all threads that sleep at an address."""
    if FUTEX:
        syscall(FUTEX, word, WAKE, LOW_HALF >> 1, 0, 0, 0)
