"""Text: how does text become token ids, and how do tokens become text while more of them are coming?

The engine sees only token ids. Text is split, merged and numbered before the engine, and read from tokens after it: a
token may be half a character, the start of a stop string, or a mark of the chat format that is no text at all.

    plain_text.py      what another program put around a text: byte order marks, line ends, encodings
    spelling.py        how tokens are written in a vocabulary: letters that are bytes, or marks that are spaces
    control_tokens.py  a user's `<|im_start|>` is text: only the template and the model write control tokens
    tokenizer.py       text to token ids and back; a stream of text from tokens that come one by one
    stop_strings.py    the output text of one request: held back while it may be the start of a stop string
    reasoning.py       a model's thinking and its answer, split by the markers of the chat template
    chat_template.py   a conversation as one text, written by the model's own template

Wins: text appears as soon as no later token can change it, at constant work for each token. Loses: a text that may
become a stop string appears some tokens late.

Byte-level BPE: GPT-2 (Radford et al. 2019). SentencePiece: Kudo & Richardson 2018. Chat templates: the Hugging Face
documentation of transformers.
"""
