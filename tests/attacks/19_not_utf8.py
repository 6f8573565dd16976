# base: solution of sampling
# tests: test_top_k
# lost: test_top_k
# why: only a regular file of text is read
# named: is no UTF-8

print("BROKEN: this text was executed")
