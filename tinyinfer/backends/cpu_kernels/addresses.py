"""Addresses as kernels write them: whole numbers, in bytes, which become pointers where memory is read or written.

LLVM may split an address in two where it is used, and takes one part, a mere number, for where an array begins. Then it
holds two accesses of the same memory for independent, and moves or drops a store. Here it is told to keep addresses
whole, before anything is compiled: every module that makes pointers makes them here.
"""
# numba has no type hints
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import llvmlite.binding as llvm

llvm.set_option("", "--addr-sink-using-gep=false")


def pointer(builder, address, element):
    """An address as a pointer to an LLVM type."""
    return builder.inttoptr(address, element.as_pointer())
