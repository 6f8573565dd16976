"""The compiled CPU backend: products as fast as memory is read, and a whole pass as one plan of kernels.

Every operation that is no product is NumPy's; a pass of a model that the kernels cover (cpu_kernels/) calls none of
them. Wins: decode waits for memory and for nothing else, and quantized weights save time as they save bytes. Loses: the
first use of a kernel compiles it; the results are those of the reference in another order of additions.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.backends.cpu_kernels.buffers import Buffers
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.products import product
from tinyinfer.backends.cpu_kernels.team import team
from tinyinfer.backends.lanes import Arena, DenseLanes, PackedLanes, PackedLanesA8, W8A8Lanes
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.reference import Products, check_range
from tinyinfer.ledger import Ledger
from tinyinfer.model.interfaces import Compiled, KVCache
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import Matrix, QuantizedMatrix, Weight
