"""Tool calls: a model writes calls as text, each family in its own way; clients want them apart from the text.

Reading happens while the text comes, so each file thinks in letters. In reading order:

    json_letters.py  JSON that comes letter by letter
    calls.py         what is found of calls: when a call is told, and what becomes of one that breaks
    splitter.py      text and calls, split letter by letter; what a format is
    json_call.py     a call as a JSON object
    hermes.py        <tool_call>{...}</tool_call>
    llama3_json.py   {"name": ..., "parameters": {...}}
    mistral.py       [TOOL_CALLS][...], [TOOL_CALLS]name[ARGS]{...}
    pythonic.py      [name(key=value)]
    forced.py        a call that must come, as a grammar
    formats.py       the format of a model, from its chat template

Wins: the same calls, streamed or whole, wherever the stream is cut, at constant work for each letter. Loses: a new
family needs a format of its own. Toolformer (Schick et al. 2023) showed that a model can learn to write calls as text.
"""
