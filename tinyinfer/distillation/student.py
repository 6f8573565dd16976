"""A student: a smaller model that is there already, or one that begins with random weights of a given shape.

Random weights are normal with a deviation of 0.02. The two matrices of a layer that write to its rows get 1 / sqrt(2L)
of that, so that L layers together change a row about as much as one would (Radford et al. 2019, section 2.3).

Wins, of a pruned model: it knows most of what it will be taught; minutes bring it back. Wins, of random weights: any
shape, also a tenth of the teacher's. Loses: then all must be learned, from millions of tokens.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from tinyinfer.distillation.switches import TrainingSwitches
from tinyinfer.errors import ModelError
from tinyinfer.loading import load
from tinyinfer.loading.checkpoint import Checkpoint, LazyTensor, join_end_tokens
from tinyinfer.loading.hf_config import read_config
from tinyinfer.loading.hf_folder import INDEX, SINGLE
from tinyinfer.loading.hf_vocab import read_vocabulary
from tinyinfer.loading.hub import find
from tinyinfer.loading.plain_folder import check_family, check_heads
from tinyinfer.model.config import ModelConfig, expected_tensors
from tinyinfer.text.tokenizer import Tokenizer

DEVIATION = 0.02
WRITING = ("o", "down")  # the matrices that write to a layer's rows


def open_student(path: str, teacher: Checkpoint, seed: int, compared: bool = True) -> Checkpoint:
    """The model at the path; of a config.json, or a folder with it and without weights, one with random weights.

    A tokenizer that is not beside the config.json is the teacher's. compared: whether teacher and student say something
    of the same tokens. Raises ModelError for what is neither, and if they are compared for a student whose token ids
    mean something else than the teacher's.
    """
    place = Path(path)
    student = random_student(place, teacher, seed) if is_config(place) else load(find(path))
    if not compared:
        return student
    id = teacher.tokenizer.first_difference(student.tokenizer)
    if id is not None:
        wrong = f"{path}: has another vocabulary than {teacher.path} (token id {id} is the first to differ)"
        raise ModelError(f"{wrong}, so the teacher's distributions mean nothing to it; choose loss=cross-entropy")
    return student


def check_student(student: Checkpoint, teacher: Checkpoint, s: TrainingSwitches) -> None:
    """Raises ModelError for a student that cannot be trained so, or whose folder could not be written at the end."""
    c, other, sparse = student.config, teacher.config, any(tensor.sparse for tensor in student.tensors.values())
    wrong = ""
    if c.experts:
        wrong = "is a mixture of experts, which has no gradients here; choose a dense model"
    elif student.quantization and not sparse:
        wrong = "is quantized; train the model that it was made of, and quantize that"
    elif s.window > c.max_position:
        wrong = f"has {c.max_position} positions, and window={s.window} wants more; choose a smaller window"
    elif s.asks_teacher and s.window > other.max_position:
        has = f"its teacher has {other.max_position} positions"
        wrong = f"{has}, and window={s.window} wants more; choose a smaller window"
    elif s.asks_teacher and teacher.tokenizer.vocab_size > other.vocab_size:
        wrong = f"its teacher {teacher.path} knows only {other.vocab_size} of its vocabulary's tokens; choose another"
    elif s.asks_teacher and c.vocab_size > other.vocab_size:
        wrong = f"has {c.vocab_size} tokens, more than the {other.vocab_size} of its teacher; choose loss=cross-entropy"
    elif s.hidden and c.hidden_size != other.hidden_size:
        sizes = f"are {c.hidden_size} wide, and its teacher's {other.hidden_size}"
        wrong = f"its hidden states {sizes}, so hidden={s.hidden} cannot compare them; leave it out"
    elif s.top_k and s.top_k > c.vocab_size:
        wrong = f"has {c.vocab_size} tokens, fewer than top_k={s.top_k}; choose a smaller one"
    if wrong:
        raise ModelError(f"{student.path}: {wrong}")
    if not sparse:
        check_family(c, student)
        check_heads(c, student)


def is_config(place: Path) -> bool:
    """Whether the path is a configuration without weights."""
    if place.suffix == ".json":
        return place.is_file()
    return (place / "config.json").is_file() and not any((place / name).exists() for name in (SINGLE, INDEX))


def random_student(place: Path, teacher: Checkpoint, seed: int) -> Checkpoint:
    """A model of a configuration, with random weights. Raises ModelError for one with too many tokens."""
    folder = place.parent if place.suffix == ".json" else place
    own = (folder / "tokenizer.json").exists()
    tokenizer = Tokenizer(read_vocabulary(str(folder)), str(folder)) if own else teacher.tokenizer
    config = join_end_tokens(read_config(place), tokenizer.end_token_ids)
    if config.vocab_size > teacher.config.vocab_size and not own:
        more = f"vocab_size is {config.vocab_size}, more than the {teacher.config.vocab_size} of {teacher.path}"
        raise ModelError(f"{place}: {more}, whose tokens it gets; make it smaller")
    return random_checkpoint(str(place), config, tokenizer, seed)


def random_checkpoint(path: str, config: ModelConfig, tokenizer: Tokenizer, seed: int) -> Checkpoint:
    """A model of this shape with random weights; path: what messages call it."""
    tensors = {name: random_tensor(name, shape, config, seed) for name, shape in expected_tensors(config).items()}
    return Checkpoint(path, config, tensors, tokenizer)


def random_tensor(name: str, shape: tuple[int, ...], config: ModelConfig, seed: int) -> LazyTensor:
    """Norms of ones, biases of zeros, normal matrices; the same for the same name and seed."""

    def read(start: int, stop: int) -> np.ndarray:
        if len(shape) == 1:
            return np.full(stop - start, 0.0 if name.endswith("bias") else 1.0, np.float32)
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        share = (2 * config.num_layers) ** -0.5 if name.rpartition(".")[2] in WRITING else 1.0
        return (rng.standard_normal(shape, np.float32) * np.float32(DEVIATION * share))[start:stop]

    return LazyTensor(name, shape, 4 * int(np.prod(shape)), read)
