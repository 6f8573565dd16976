# base: solution of kv_cache
# tests: test_rows_come_back, test_bytes_of_a_step
# lost: test_rows_come_back, test_bytes_of_a_step
# why: fewer bytes cannot hold the rows
# named: test_bytes_of_a_step: (failed|error)(.|\n)*

_Right = ContiguousCache


class ContiguousCache(_Right):
    """Rows of half as many bytes, and no bytes held at all."""

    held_bytes = 0

    def read(self, layer, seq, start, stop=None):
        k, v = super().read(layer, seq, start, stop)
        return k.astype(np.float16), v.astype(np.float16)
