# base: solution of sampling
# tests: test_top_k, test_softmax
# lost: test_top_k, test_softmax
# why: the file is never loaded; without a loaded file no test can run
# limits: request_seconds=1, test_seconds=2
# named: did not answer within 1 seconds

import time

print("import\n" * 100_000)
time.sleep(100)
