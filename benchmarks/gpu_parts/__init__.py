"""The parts of benchmarks/gpu.py, in reading order.

    cases.py     models of published shapes with random weights, and what is measured with each of them
    machine.py   what the device itself can do: bandwidth, launches, nodes of a graph, barriers
    eager.py     how many operations a decode step of the plain formulas launches, counted by running it
    hollow.py    models that have shapes and no weights, from which the plans of launches are made
    counted.py   launches, bytes, FLOPs, registers and the least time of each variant, without a device
    measured.py  tinyinfer's variants through its engine, and a judge of the tokens that came out
    others.py    transformers and torch.compile with the same weights on the same device
    report.py    the table, the JSON lines, and the words about what is missing
"""
