"""The server: how do programs that know nothing of tinyinfer use a model, over HTTP and at the same time?

`python -m tinyinfer serve` answers in the form that OpenAI's clients read. The server is a client of `LLM.submit` and
nothing else: there is no second engine loop, so requests of all connections share the steps of one engine (engine/).
Files in reading order:

    switches.py     address, key and limits, as fields
    errors.py       an error in OpenAI's form
    fields.py       the fields of a JSON body: null, wrong types, unknown ones, those that are not there
    structured.py   the form of an answer: response_format, structured_outputs, guided_*
    sampling.py     the fields that both kinds of completions share, and SamplingParams
    body.py         a body of limited size
    admission.py    a bounded queue, bodies that come in time, and the end: draining
    running.py      requests of the engine, as asyncio sees them
    tool_calls/     calls in a model's text, by family
    collected.py    what came of one answer so far, and the usage of all
    logprobs.py     log-probabilities in OpenAI's two forms
    template_fields.py  what a body gives to the chat template
    items.py        items of the Responses API, as messages, and answers as items and events
    responses.py    /v1/responses: how it is asked and answered
    step_metrics.py  what each step of the engine adds to the numbers
    metrics.py      counters and histograms by vLLM's names
    service.py      what the endpoints share: the model, the threads, the queue
    events.py       server-sent events
    chunks.py       choices and chunks: the form of both kinds of completions
    completions.py  /v1/completions: how it is asked and answered
    messages.py     the messages of a conversation, as the chat template is given them
    tools.py        the tools that a caller offers
    turn.py         a conversation becomes a prompt, and its next message text and calls
    chat.py         /v1/chat/completions: how it is asked and answered
    answer.py       one call, from its body to the last byte: whole or streamed
    endpoints.py    models, tokens, health
    openapi.py      /openapi.json: all of that for programs, out of the tables that check it
    gate.py         who gets in, what an exception becomes, and one log line a request
    app.py          the routes
    connection.py   one connection: how long it may say nothing
    process.py      a socket, uvicorn, and signals

Wins: any language and any client; a slow client holds up no other one. Loses: each token becomes JSON and passes a
second thread, which costs some tenths of a millisecond; a program in Python that uses a model alone is better served by
LLM itself. The shapes are those of OpenAI's API reference; fields beyond it, and the names of metrics, are vLLM's.
"""
