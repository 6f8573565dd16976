# base: solution of kv_cache
# tests: test_rows_come_back, test_bytes_of_a_step
# lost: test_bytes_of_a_step 3
# why: this test counts the bytes that cross for each read
# named: test_bytes_of_a_step: (failed|partial)

import numpy as np

_Right = ContiguousCache


class ContiguousCache(_Right):
    """Every read returns all rows from position 0, twice in one pair of arrays: a transformer would mask the others."""

    def read(self, layer, seq, start, stop=None):
        k, v = super().read(layer, seq, 0, None)
        return (k, v) if start == 0 else (np.concatenate([k, k]), np.concatenate([v, v]))
