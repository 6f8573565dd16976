# base: solution of sampling
# tests: test_top_k
# lost: test_top_k
# why: only a regular file of text is read
# named: is a symbolic link

print("BROKEN: this text was executed")
