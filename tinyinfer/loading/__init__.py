"""Loading: how does a file on disk become a model in memory, and how is a quantized model saved?

Files disagree on names, on the orientation of matrices and on conventions that they do not state. A loader reads one
kind of file and gives a Checkpoint: a configuration, a tokenizer, and the tensors under one canonical naming. Tensors
are read by rows when the builder asks for them. `load` chooses the loader; the builder does not know which one it was.

    checkpoint.py      what every loader gives: configuration, lazy tensors by canonical name, tokenizer
    hf_folder.py       a Hugging Face folder: which files it has and which loader reads each of them
    safetensors.py     the safetensors format: a header, and rows of tensors on demand
    strangers.py       what a folder is that no loader reads, and the cure
    pointers.py        a Git LFS pointer in place of a file
    small_files.py     files that are read whole: regular ones, no larger than such files are
    json_fields.py     fields of a JSON file by name and type; unread fields are refused
    hf_config.py       config.json to a ModelConfig
    hf_families.py     defaults of each family of models
    hf_layers.py       what config.json says of single layers: windows, rotations, experts
    hf_rope.py         what config.json says of rotary positions, in both dialects
    hf_fields.py       which fields of config.json may stay unread
    hf_nested.py       the text part of a model that also reads images or sound
    hf_names.py        tensor names of Hugging Face to canonical names
    hf_storage.py      how each family stores matrices: fused, transposed, interleaved; split row by row
    mxfp4.py           gpt-oss's experts as published: numbers of 4 bits to floats
    reorder.py         rows in another order than the file's: the pairs that rotary positions turn
    hf_vocab.py        tokenizer.json and the files beside it to a tokenizer
    hf_growth.py       how much longer the steps of a tokenizer.json make a text
    hf_tokens.py       the special tokens that only the files beside tokenizer.json name
    gguf_model.py      a GGUF file: its metadata to a ModelConfig
    gguf_families.py   what a GGUF file does not say about its architecture, as a table
    gguf_rope.py       the rotation of each layer of a GGUF file
    gguf_names.py      its tensors to canonical names; fused ones cut, rows of heads in order
    gguf.py            the GGUF format: metadata, and rows of quantized tensors on demand
    gguf_parts.py      a GGUF model in several files
    gguf_blocks.py     GGUF's simple block types as codes, scales and minimums
    gguf_vocab.py      GGUF metadata to a tokenizer
    split_rules.py     the rules by which a byte-level vocabulary splits text into words, by their names in a GGUF
    gguf_specials.py   which tokens of a GGUF end a text, and which are control tokens that the file types as text
    build.py           a checkpoint to a model: what is fused, what keeps its codes, what is rounded
    sizes.py           how many bytes its weights will take, before any is read
    lent_vocabulary.py  whose tokens a folder without a tokenizer has
    draft_heads.py     the folder of a draft head
    drafts.py          a draft model beside its target: the same tokens, or a refusal
    side_by_side.py    layers taken by several threads, and handed over in order
    rotations.py       rotary positions to frequencies and amplitudes: the ways of stretching them
    quantized.py       the folder that `tinyinfer quantize` or `prune` writes, read
    sparse_tensors.py  its matrices without zeros
    export.py          a model in memory to canonical tensors: fused matrices are split
    saving.py          those tensors to such a folder, whole or not at all
    plain_folder.py    a smaller model of floats to a folder as on the hub
    whole.py           a file or a folder, whole or absent, also after a kill
    hf_writer.py       a ModelConfig to config.json
    hub.py             the name of a model to its path, downloaded on first use
    hub_repository.py  which files of a repository on the hub are the model
    checksums.py       a model's files against their checksums, where these are known
    download.py        a file over a bad network: resumed, checked, whole or absent

Wins: the peak of memory is the weights and a tile for each thread, whatever the file. Loses: every start reads and
converts the whole file, where llama.cpp maps its file and starts at once.

Formats: safetensors (Hugging Face documentation), GGUF (docs/gguf.md of ggml).
"""

from __future__ import annotations

import os
from pathlib import Path

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.loading.pointers import refuse_pointer
from tinyinfer.loading.small_files import check_file
from tinyinfer.loading.strangers import told

GGUF_MAGIC = b"GGUF"


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """The model at `path`: a Hugging Face folder or a GGUF file. Raises ModelError when it is neither, or broken."""
    path = os.fspath(path)
    check_file(path)
    if os.path.isdir(path):
        from tinyinfer.loading.hf_folder import load_folder

        return load_folder(path)
    if os.path.isfile(path) and (path.lower().endswith(".gguf") or _first_bytes(path) == GGUF_MAGIC):
        from tinyinfer.loading.gguf_model import load_gguf

        return load_gguf(path)
    if os.path.isfile(path):
        refuse_pointer(path)
        given = Path(path)
        instead = told([given.name], str(given.parent))
        cure = f", but {instead}" if instead else "; give one of those"
        if given.suffix == ".safetensors" or (given.suffix == ".json" and (given.parent / "config.json").is_file()):
            cure = f"; give its folder, {str(given.parent)!r}"
        raise ModelError(f"{path}: neither a model folder (config.json, model.safetensors) nor a GGUF file{cure}")
    raise ModelError(f"{path!r}: there is no such folder or file; a Hugging Face folder or a .gguf file was looked for")


def _first_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None
