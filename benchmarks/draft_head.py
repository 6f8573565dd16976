"""Trains a draft head beside its target: `python benchmarks/draft_head.py TEXT.jsonl... --work WORK -o FOLDER`.

TEXT.jsonl: what the target wrote (`tinyinfer synthesize`). The target reads it once and WORK gets, of every row, the
values that the head will read and the target's 24 likeliest tokens (5 KB a row; what is there is kept). Then the head
learns: each batch takes rows of all texts, and at each the head says the next three tokens' distributions, going on
from its own state behind the true tokens. The loss is the cross entropy with what the target would have said, a later
draft counting less. At the end its matrices are rounded to 4 bits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from tinyinfer import LLM
from tinyinfer.arrays import Array, Xp, to_host
from tinyinfer.cli.console import progress_bar
from tinyinfer.distillation.adamw import AdamW, clip_factor, length_of, rate_at
from tinyinfer.distillation.losses import softmax, top_k
from tinyinfer.distillation.padding import PassCache
from tinyinfer.distillation.parameters import Parameters
from tinyinfer.distillation.tape import Tape
from tinyinfer.distillation.texts import in_order, read_documents, reading
from tinyinfer.loading.draft_heads import first_rows, save_head
from tinyinfer.loading.lent_vocabulary import LentVocabulary
from tinyinfer.model.draft_head import DraftHead, HeadShape, Normed
from tinyinfer.model.mlp import GatedMLP
from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.model.transformer import embed, head, run_layers
from tinyinfer.model.weights import Dense, Linear, RMSNorm
from tinyinfer.quantization.rtn import round_to_nearest
from tinyinfer.sequence import Batch

K, STEPS, LATER = 24, 3, 0.8  # likeliest tokens that are kept; drafts that are learned; weight of a later one
WINDOW, ROWS = 1000, {"numpy": 1024, "cupy": 8192}  # rows of a text, and of a pass
FOUR = QuantScheme(4, 64, symmetric=True)


class Values(PassCache):
    """A cache for one pass that keeps the values of some layers."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.layers, self.kept = layers, list[Array]()

    def append(self, layer: int, k: Array, v: Array, batch: Batch) -> None:  # (T, K, E), (T, K, E) ->
        super().append(layer, k, v, batch)
        if layer in self.layers:
            self.kept.append(v.reshape(len(v), -1).astype(np.float16))


def record(values: int) -> np.dtype:
    """What is kept of a row. left: how many rows of its text come after it, place: how many came before."""
    kept = ("values", "<f2", values), ("tokens", "<u4", K), ("p", "<f2", K)
    return np.dtype([("token", "<u4"), ("place", "<u4"), ("left", "<u4"), *kept])


def read_texts(llm: LLM, texts: list[str], layers: tuple[int, ...], values: int, path: Path) -> np.ndarray:
    """The rows of some texts, from WORK or by passes of the target."""
    kind = record(values)
    if path.exists():
        return np.memmap(path, kind, "r")
    m, ops = llm.model, llm.ops
    end = llm.tokenizer.end_token_ids[:1]
    documents = [one for text in texts for one in read_documents(text, llm.tokenizer, WINDOW, end=end)]
    groups, total = list(in_order(documents, ROWS[llm.engine_config.backend])), sum(len(ids) - 1 for ids in documents)
    part, done = path.with_suffix(".part"), 0
    with part.open("wb") as file, progress_bar("reading") as show:
        for group in groups:
            one, cache = reading(documents, group, m.config.rotation_sets), Values(layers)
            x = run_layers(m, 0, len(m.layers), embed(m, one.batch, ops), one.batch, cache, ops)  # (T, D)
            said = top_k(head(m, x, one.batch, ops), K, 1.0, ops.xp)
            rows = np.empty(len(one), kind)
            rows["token"], rows["place"] = one.batch.tokens, one.batch.positions
            rows["left"] = np.concatenate([np.arange(s.stop - s.start)[::-1] for s in one.batch.spans])
            rows["values"] = ops.to_host(ops.xp.concatenate(cache.kept, axis=1))
            rows["tokens"], rows["p"] = ops.to_host(said.tokens), np.exp(ops.to_host(said.log_p))
            rows.tofile(file)
            done += len(one)
            show(done, total)
    part.rename(path)
    return np.memmap(path, kind, "r")


def random_head(shape: HeadShape, seed: int, xp: Xp) -> DraftHead:
    """A head with random weights and no rows of a target's head, which is not learned."""
    rng = np.random.default_rng(seed)

    def linear(name: str, scale: float = 1.0) -> Linear:
        outputs, inputs = shape.matrices[name]
        w = rng.normal(0, scale / np.sqrt(inputs), (inputs, outputs)).astype(np.float32)
        return Linear(Dense(xp.asarray(w)))

    def norm(name: str) -> RMSNorm:
        return RMSNorm(xp.ones(shape.norms[name], np.float32), shape.norm_eps)

    parts = [Normed(norm(f"{name}_norm"), linear(name, 0.5)) for name in ("values", "state", "token")]
    mlp = GatedMLP(linear("gate_up"), linear("down", 0.02), "silu")
    none = Linear(Dense(xp.empty((shape.hidden_size, 0), np.float32)))
    return DraftHead(shape, *parts, norm("mlp_norm"), mlp, norm("final_norm"), none)  # type: ignore[arg-type]


def batches(usable: np.ndarray, size: int, count: int, seed: int) -> Iterator[np.ndarray]:  # (n,) -> (R,)
    """So many batches of these rows' numbers, in a random order."""
    order, rng = np.empty(0, np.int64), np.random.default_rng(seed)
    for _ in range(count):
        while len(order) < size:
            order = np.concatenate((order, rng.permutation(usable)))
        yield np.sort(order[:size])
        order = order[size:]


def loss_of(logits: Array, said: np.ndarray, weight: float, xp: Xp) -> tuple[Array, Array]:  # (R, N) -> (), (R, N)
    """The mean cross entropy with the target's likeliest tokens, of those that can be drafted, and its gradient."""
    last = logits.shape[1] - 1  # stands for all tokens behind it, without a chance
    p = xp.asarray(said["p"].astype(np.float32) * (said["tokens"] < last))  # (R, K)
    tokens = xp.asarray(np.minimum(said["tokens"], last).astype(np.int64))  # (R, K)
    rows, (gradient, log_total) = xp.arange(len(logits))[:, None], softmax(logits, 1.0, xp)  # (R, 1), (R, N), (R, 1)
    loss = (p * (log_total - logits[rows, tokens])).sum(axis=1).mean()
    gradient *= p.sum(axis=1, keepdims=True)
    gradient[rows, tokens] -= p
    gradient *= np.float32(weight / len(logits))
    return loss, gradient


def train(llm: LLM, rows: np.ndarray, shape: HeadShape, args: argparse.Namespace) -> DraftHead:
    """The head after all batches."""
    ops, embedding, xp = llm.ops, llm.model.embedding, llm.ops.xp
    out = first_rows(llm.model.head, shape.tokens, ops)
    table = out.weight.dequantize(slice(0, shape.tokens)).astype(np.float32)  # (D, N)
    tape = Tape(ops, llm.config)
    p = Parameters.of(random_head(shape, args.seed, xp), tape)  # type: ignore[arg-type]
    one: DraftHead = p.model  # type: ignore[assignment]
    optimizer = AdamW.of(p.values, p.decayed, args.decay, xp)
    usable = np.flatnonzero((rows["place"] > 0) & (rows["left"] >= STEPS - 1))  # behind a row, before others
    steps, begun, mean = int(args.epochs * len(usable) / args.batch), time.perf_counter(), None
    for step, numbers in enumerate(batches(usable, args.batch, steps, args.seed)):
        tape.zero(p.gradients)
        state = xp.asarray(rows["values"][numbers - 1]).astype(np.float32)  # (R, all values)
        behind, losses = [], []
        for n in range(STEPS):
            token = ops.embed(rows["token"][numbers + n].astype(np.int64), rows["place"][numbers + n], embedding)
            state = one.next(state, token, tape) if n else one.first(state, token, tape)  # (R, D)
            normed = tape.norm(state, one.final_norm)  # (R, D)
            loss, gradient = loss_of(normed @ table, rows[numbers + n], LATER**n, xp)
            losses.append(loss)
            behind.append((normed, gradient @ table.T))
        for normed, gradient in behind[1:]:
            tape.shadows.add(normed, gradient)
        tape.backward(*behind[0])
        tape.clear()
        rate = rate_at(step, steps, 50, args.rate)
        optimizer.step(p.values, p.gradients, rate, clip_factor(length_of(p.gradients, xp), 1.0), xp)
        mean = losses if mean is None else [0.97 * a + 0.03 * b for a, b in zip(mean, losses, strict=True)]
        if step % 100 == 0:
            said = " ".join(f"{float(to_host(loss)):.3f}" for loss in mean)
            print(f"{step} of {steps}: {said}, {time.perf_counter() - begun:.0f} s", flush=True)
    return replace(one, head=out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("texts", nargs="+", metavar="TEXT.jsonl")
    parser.add_argument("--work", required=True, type=Path, metavar="WORK")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER")
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--layers", type=int, default=12, help="how many of the last layers' values are read")
    parser.add_argument("--inner", type=int, default=768, help="width of the MLP")
    parser.add_argument("--tokens", type=int, default=8192, help="how many tokens can be drafted")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", choices=list(ROWS), default="numpy")
    parser.add_argument("-t", "--threads", type=int)
    args = parser.parse_args()
    llm = LLM(args.model, backend=args.backend, threads=args.threads)
    layers = tuple(range(llm.config.num_layers))[-args.layers :]
    shape = HeadShape.beside(llm.config, layers, args.inner, args.tokens)
    args.work.mkdir(parents=True, exist_ok=True)
    read = sha256("\n".join([llm.path, str(layers), *(Path(text).read_text("utf-8") for text in args.texts)]).encode())
    path = args.work / f"rows-{read.hexdigest()[:12]}.bin"  # of these texts, by this model
    rows = read_texts(llm, args.texts, layers, len(layers) * shape.value_size, path)
    trained = train(llm, rows, shape, args)

    def rounded(linear: Linear) -> Linear:
        return Linear(llm.ops.take(round_to_nearest(np.ascontiguousarray(to_host(linear.weight.array).T), FOUR)))  # type: ignore[attr-defined]

    parts = {name: getattr(trained, name) for name in ("values", "state", "token")}
    four = {name: replace(part, linear=rounded(part.linear)) for name, part in parts.items()}
    mlp = replace(trained.mlp, gate_up=rounded(trained.mlp.gate_up), down=rounded(trained.mlp.down))
    lent = LentVocabulary.lent(args.model, llm.tokenizer, llm.tokenizer.vocab_size)
    print(save_head(args.output, replace(trained, **four, mlp=mlp), FOUR, lent), "bytes")


if __name__ == "__main__":
    main()
