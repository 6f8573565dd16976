# base: solution of sampling
# tests: test_top_k
# lost: test_top_k
# why: the child cannot compile the file within its memory
# named: has a name with a hundred dots(.|\n)*(MemoryError|MB of memory)

# The text of the import is written by attacked.py: it has 90,000 letters.
