# base: solution of sampling
# tests: test_top_k
# lost: test_top_k
# why: the folder says that it is for another assignment
# named: says that this folder is for transformer_operations

print("BROKEN: graded by another assignment's marker")
