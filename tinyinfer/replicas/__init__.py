"""Data parallelism: how do several replicas of a model share one queue of requests?

Tensor parallelism divides a model; here each replica has all of it, and gets requests of its own. Read in this order:

    routing.py    which replica gets the next request: by outstanding tokens, and by the prefixes that its cache has
    messages.py   what the front and a replica tell each other
    serve.py      a replica: does what the front tells it, and reports each step
    peer.py       a replica as the front's process has it: a connection that never waits
    remote.py     what was placed in another replica, and what its reports mean for the front's sequences
    queue.py      which replica has which sequence; what happens when one dies
    front.py      the front: an engine whose steps are those of all replicas
    start.py      how the replicas of one command find each other
    on_ray.py     replicas on the nodes of a Ray cluster

A replica may be divided among ranks (parallel/): then it has the ranks of one model, and its first rank serves the
front.

Wins: throughput, with no message in the middle of a step; and a replica that dies ends no request. Loses: the time of a
single request is as before, and the memory of the weights is needed in each replica. On one machine a larger batch in
one process may win as much as a second replica.

Replicas are routed to by prefixes in SGLang (Zheng et al. 2024) and in Preble (Srivatsa et al. 2024).
"""
