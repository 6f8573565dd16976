"""A student that begins with nothing: its shape, and a byte-level BPE vocabulary of the texts that it will read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write_student(
    folder: Path, shape: dict[str, Any], texts: Iterable[str], size: int, splits: Sequence[Any] = (), **settings: str
) -> None:
    """Writes tokenizer.json, tokenizer_config.json and at last config.json.

    size: tokens of the vocabulary, the end token among them. splits: pre-tokenizers that cut the text before its bytes
    are looked at. settings: more of tokenizer_config.json.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    shape = shape | {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": 0, "eos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(shape), encoding="utf-8")
