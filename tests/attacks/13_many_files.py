# base: solution of sampling
# tests: test_top_k
# named: more than 10,000 files

# The files of the submission are written by attacked.py.
