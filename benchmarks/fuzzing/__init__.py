"""Mutated model files for benchmarks/fuzz.py: small whole models, and what strangers could make of them.

    seeds.py           small whole models: every family as a folder, GGUF files, split, quantized and nested models
    values.py          values and bytes that have broken readers of files
    trees.py           a JSON text with some nodes replaced, deleted, duplicated, copied
    gguf_bytes.py      a GGUF file taken apart, changed field by field and written again
    tensor_bytes.py    a safetensors file: its header, its places, its numbers
    grown.py           one list, object or array of a file with thousands of entries more
    grammar.py         parts of a tokenizer.json and of a chat template put together anew
    kinds.py           the kinds of inputs: which file of which model is changed, and how
    trial.py           one input: loaded, encoded, rendered, generated; what it may raise, take and hold

An input follows from its kind and its number alone, so a finding is two words: `--kind gguf --only 12345`.
"""
