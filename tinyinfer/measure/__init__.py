"""Measurement: what does an optimization bring, what should it bring, and what does it cost in quality?

The ledger counts work exactly, the roofline turns counts into the least time that a machine needs, and a benchmark
prints that prediction beside the clock. Files in reading order:

    roofline.py          the time that counted work takes at least, and what a model's steps count
    simulated_clock.py   a clock that runs on counted work
    workload.py          requests that arrive over time, from a file or drawn by a seed
    bench.py             rounds of several settings in alternation
    phases.py            what a round says: waits, and prefill and decode beside the roofline
    perplexity.py        how surprised a model is by a text
    kl.py                how far a model has moved from the float model
    evaluate.py          settings by name, and the row of each in a table of quality and bytes
    inspect.py           a model's parameters, bytes and costs, without reading a weight
    cluster.py           many GPUs on paper, and how long they take to add up an array
    split.py             the step of a model that is divided among them
    frontier.py          the splits that no other one beats, and the best one for a latency
    timed_ranks.py       ranks in simulated time: what waits for what, as the engine runs
    serving_requests.py  what a load generator asks a server, and when
    serving_client.py    a client that loads a server, and writes down when each piece came
    serving_figures.py   what that says: waits, throughput, goodput, the knee
    cost.py              what a million tokens cost on whole machines that are paid by the hour
    api_bill.py          what the same requests cost at an API
    break_even.py        from how many requests on machines are cheaper, and what moves that
    cost_week.py         a week whose weekends differ from its other days
    cost_speeds.py       a machine's speeds out of what a benchmark wrote
    cost_choice.py       which of these speeds costs least for the load that there is
    cost_levers.py       what each optimization would make of the cost
    cost_report.py       all of that as one record, and as text
    cost_figures.py      and as pictures
    api_or_own.py        ten questions, and a recommendation with its reasons
    figures.py           pictures: steps beside the roofline, perplexity over bits, the frontier
    workload_figures.py  pictures of workloads: a timeline, latency over load
    tables.py            the same figures as text

Wins: counts and predictions are the same on every machine, so a speed-up can be tested and graded. Loses: what the
roofline leaves out (Python, norms, exponentials) only the clock shows, and a clock on a busy machine shows that too.

Everything takes an LLM (or a function that opens one) and returns records; the command line parses and prints.
Sources: Williams, Waterman & Patterson 2009 (the roofline); Jelinek et al. 1977 (perplexity).
"""
