# base: solution of sampling
# tests: test_top_k
# named: hard link(.|\n)*ignored: .*(FIFO|symbolic link|letters that are not seen)

# What lies beside the file is the attack: links, a FIFO, a device, names that a terminal obeys.
