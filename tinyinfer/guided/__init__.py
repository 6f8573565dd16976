"""Guided decoding: how is a model kept to a form, when all that it does is to choose one token after another?

By what it may choose. Before each choice, the tokens with which the answer cannot go on lose all their probability; the
model chooses among the others. So what comes is JSON of the schema that was asked for, whatever the model would rather
have written.

    bars.py     what a row of logits may choose: a bias, no end too early, a grammar's tokens, also behind drafts
    schemas.py  JSON schemas in fewer keywords, of which fewer are refused
    references.py  all references of a schema as names of its own, anchors and dynamic ones too
    opposites.py  what is surely not of a schema, for `not` and `oneOf`
    unevaluated.py  what no schema has looked at, as a choice between ways to keep them
    narrower.py  a schema that can be followed, all of whose values one that cannot allows
    thoughts.py  a thought before the answer of a model that thinks, in which the form asks for nothing
    grammar.py  a JSON schema, a regex or a Lark grammar, and a vocabulary, become a set of next tokens

Wins: a program reads the answer without a doubt about its form, from a small model, too. Loses: the form alone is sure,
not what stands in it; and a model that is pushed away from what it would say may say it worse, so ask for the form in
the prompt as well.

Willard & Louf 2023, "Efficient Guided Generation for Large Language Models", section 3.
"""
