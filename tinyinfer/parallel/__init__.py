"""Parallelism: how do several processes run one model that is too large, or too slow, for one of them?

Read in this order:

    divided_mlp.py    an MLP divided among ranks, on plain arrays
    comm.py           what ranks call to pass arrays to each other, and what that sends
    collectives.py    an all-reduce written out, as a ring and as a tree
    local.py          all ranks in one process, in an order drawn from a seed
    mpi.py            ranks as processes, on one machine or on several
    shared_memory.py  small arrays between ranks of one machine, without MPI's latency
    staged.py         arrays of GPUs that go through the hosts' memory
    nccl.py           arrays of GPUs that go from GPU to GPU
    devices.py        which GPU each rank takes, and which of both ways its arrays go
    shards.py         a part of a matrix, in whatever form the matrix is
    pipeline.py       layers divided: stages, and rows that go from one to the next
    schedule.py       a pipeline on paper: when each stage begins what, and how long it is idle
    experts.py        what experts on different ranks give, added up by all-to-all
    tensor.py         every layer divided among the ranks: heads, neurons, experts, the vocabulary
    switches.py       how many ranks there are, and how many replicas
    choose.py         tokens chosen by all ranks together, without all logits
    tally.py          what all ranks have counted, in one ledger
    orders.py         what the leader tells the others, and in it the changes of its caches
    lead.py           one rank schedules, the others follow its orders
    start.py          how the ranks of one command begin

Replicas of a model, each with requests of its own (data parallelism), are in replicas/.

Wins: memory and time of a step are divided. Loses: ranks wait for each other, and for their wires.
"""
