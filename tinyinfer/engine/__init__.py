"""The engine: what happens between a queue of requests and their tokens, and what does it cost?

One turn of the engine is one step: drafts are proposed, a batch is put together, the model computes it, tokens are
chosen, and the sequences are updated. Everything that can be switched on is a part that the step calls, so that the
step reads the same whichever optimizations are on.

    config.py      the switches of all optimizations, and which of them cannot work together
    clock.py       the time of the engine: the system's, or any other clock that is passed in
    engine.py      the step, a run of several requests by one caller, and how an engine is built from its switches
    single.py      how an LLM is opened where there is one replica of its model
    choosing.py    new tokens: chosen where the backend computes, or on the host
    overflow.py    logits that are not finite, and the layer where they became so
    room.py        too little memory: for a model on a GPU, and in the middle of a step
    inbox.py       what several callers leave for the engine, and which thread steps it
    scoring.py     log-probabilities of a prompt's own tokens, in pieces between the steps
    turns.py       one turn: read the inbox, step once, tell each caller what came
    loop.py        what a caller can do, from any thread
    recorder.py    writes down what a step does, while it does it
    trace.py       what one step did: which sequences ran, tokens, blocks, drafts, times, costs
    trace_html.py  the same for notebooks, and the timeline of a run
    metrics.py     latency and throughput of requests and of runs, computed from traces

A step wins by sharing one read of the weights among all rows of the batch (Yu et al. 2022). A step loses when it grows:
a larger step delays the next token of every sequence in it, which is the trade of latency for throughput.
"""
