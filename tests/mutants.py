"""Planted bugs: the package with one line changed, loaded beside the real one under another name.

A golden that no bug can break proves nothing. `MUTANTS` are typical mistakes, each with the golden that must notice it;
`deletions` gives every statement of a function left out in turn. test_mutants.py runs them all.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import tinyinfer

SOURCES = Path(tinyinfer.__file__).parent
APART = ("cli", "course", "lessons", "measure", "views")  # no golden runs these
_numbers = count()


@dataclass(frozen=True)
class Mutant:
    """In `file`, the text `old` (which is there exactly once) becomes `new`; golden `family` must notice."""

    name: str
    file: str
    old: str
    new: str
    family: str

    @property
    def source(self) -> str:
        """The changed file; AssertionError when the line is no longer there, so that no mutant dies unseen."""
        text = path_of(self.file).read_text(encoding="utf-8")
        assert text.count(self.old) == 1, f"{self.name}: {self.old!r} must be in {self.file}.py exactly once"
        return text.replace(self.old, self.new)


TRANSFORMER, LAYERS, ATTENTION = "model.transformer", "model.layers", "model.attention"
HEADS, MOE = "model.heads", "model.moe"
BUILD, ROTATIONS, CACHE, CONFIG = "loading.build", "loading.rotations", "kv_cache.contiguous", "model.config"
REFERENCE, NUMPY_OPS, FLASH = "backends.reference", "backends.numpy_ops", "backends.flash"

MUTANTS = [
    Mutant("no rope", ATTENTION, "qk = ops.rope(ops.norm(qk, self.qk_norm), rotations[self.rotation])",
           "qk = ops.norm(qk, self.qk_norm)", "llama2"),
    Mutant("rope before the q/k norms", ATTENTION, "ops.rope(ops.norm(qk, self.qk_norm), rotations[self.rotation])",
           "ops.norm(ops.rope(qk, rotations[self.rotation]), self.qk_norm)", "qwen3"),
    Mutant("no q/k norms", ATTENTION, "ops.rope(ops.norm(qk, self.qk_norm), rotations[self.rotation])",
           "ops.rope(qk, rotations[self.rotation])", "gemma3"),
    Mutant("no residual around attention", LAYERS, "x = ops.add(x, ops.norm(h, self.post_attention_norm), self.scale)",
           "x = ops.norm(h, self.post_attention_norm)", "llama2"),
    Mutant("no norm after attention", LAYERS, "ops.norm(h, self.post_attention_norm)", "h", "gemma3"),
    Mutant("no norm after the MLP", LAYERS, "ops.norm(h, self.post_mlp_norm)", "h", "gemma3"),
    Mutant("one rotation for all layers", ATTENTION, "rotations[self.rotation]", "rotations[0]", "gemma3"),
    Mutant("one layer's cache for all layers", ATTENTION, "cache.append(layer, k, v, batch)",
           "cache.append(0, k, v, batch)", "llama2"),
    Mutant("one layer's weights for all layers", TRANSFORMER, "in enumerate(model.layers[first:stop], first):",
           "in enumerate([model.layers[-1]] * len(model.layers)):", "llama2"),
    Mutant("no final norm", TRANSFORMER, "x = ops.norm(ops.gather(x, batch.logit_rows), model.final_norm)",
           "x = ops.gather(x, batch.logit_rows)", "llama2"),
    Mutant("no attention scale", FLASH, "fold(q * heads.scale, ", "fold(q, ", "llama2"),
    Mutant("query heads grouped with the wrong key heads", ATTENTION, "q.transpose(1, 0, 2).reshape(key_heads,",
           "q.reshape(len(q), -1, key_heads, q.shape[2]).transpose(2, 1, 0, 3).reshape(key_heads,", "smollm2"),
    Mutant("window one too long", ATTENTION, "seen & (back < window)", "seen & (back <= window)", "mistral"),
    Mutant("window ignored", ATTENTION, "seen if window is None else seen & (back < window)", "seen", "qwen2_window"),
    Mutant("a query sees one token of the future", ATTENTION, "seen = back >= 0", "seen = back >= -1", "llama2"),
    Mutant("a query does not see itself", ATTENTION, "seen = back >= 0", "seen = back > 0", "llama2"),
    Mutant("weights of experts not renormalized", MOE, "if moe.renormalize:", "if False:", "mixtral"),
    Mutant("weights of experts always renormalized", MOE, "if moe.renormalize:", "if True:", "qwen3_moe_raw"),
    Mutant("the router's weights not applied", REFERENCE, " * weights[rows, slots][:, None]", "", "olmoe"),
    Mutant("one expert too few", MOE, "[:, : moe.experts_per_token]", "[:, : moe.experts_per_token - 1]", "olmoe"),
    Mutant("a row's second expert in place of the sum", REFERENCE, "y[rows] += self", "y[rows] = self", "mixtral"),
    Mutant("no embedding scale", REFERENCE, " * self.xp.float32(embedding.scale)", "", "gemma3"),
    Mutant("no learned positions", REFERENCE, "x += embedding.positions[self.xp.asarray(positions)]", "pass", "gpt2"),
    Mutant("epsilon left out of RMSNorm", NUMPY_OPS, "mean + np.float32(norm.eps)", "mean", "llama"),
    Mutant("epsilon left out of LayerNorm", NUMPY_OPS, "keepdims=True) + np.float32(norm.eps)",
           "keepdims=True)", "gpt2"),
    Mutant("LayerNorm without its mean", NUMPY_OPS,
           "np.subtract(x, x.mean(axis=-1, keepdims=True), out=out)", "out[...] = x", "gpt2"),
    Mutant("biases left out", REFERENCE, "else y + linear.bias", "else y", "qwen2"),
    Mutant("gate and up swapped", CONFIG, '{"gate": (f, d), "up": (f, d), "down": (d, f)}',
           '{"up": (f, d), "gate": (f, d), "down": (d, f)}', "llama2"),
    Mutant("rope turns the other way", REFERENCE, "concatenate((-sin, sin), axis=-1)",
           "concatenate((sin, -sin), axis=-1)", "llama2"),
    Mutant("rope on neighbouring pairs", NUMPY_OPS, "swapped[..., half:] = x[..., half:], x[..., :half]",
           "swapped[..., half:] = x[..., 1::2], x[..., ::2]", "llama2"),
    Mutant("norms of queries and keys swapped", NUMPY_OPS, "split = len(norm.query.weight)",
           "split = len(norm.key.weight); norm = FullQKNorm(norm.key, norm.query)", "olmoe"),
    Mutant("q/k norms by head swapped", BUILD, "[norms[0]] * c.num_heads + [norms[1]] * c.num_kv_heads",
           "[norms[1]] * c.num_heads + [norms[0]] * c.num_kv_heads", "qwen3"),
    Mutant("keys and values swapped", CONFIG, '"k": (k, d), "v": (k, d),', '"v": (k, d), "k": (k, d),', "llama2"),
    Mutant("GELU's constant", NUMPY_OPS, "np.float32(0.044715)", "np.float32(0.0)", "gpt2"),
    Mutant("linear rope scaling ignored", ROTATIONS, 'if rope.scaling == "linear":', "if False:", "llama_linear"),
    Mutant("llama3 rope scaling ignored", ROTATIONS, 'elif rope.scaling == "llama3"', "elif False", "llama3"),
    Mutant("long and short wavelengths swapped", ROTATIONS, "(1 - blend) * f / np.float32(rope.factor) + blend * f",
           "blend * f / np.float32(rope.factor) + (1 - blend) * f", "llama3"),
    Mutant("untied head taken for tied", BUILD, "head_of = None if c.tied_head", "head_of = None if True",
           "llama3"),
    Mutant("windows shifted by a layer", BUILD, "c.windows[i]", "c.windows[i - 1]", "gemma3"),
    Mutant("residual scale left out behind attention", LAYERS,
           "x = ops.add(x, ops.norm(h, self.post_attention_norm), self.scale)",
           "x = ops.add(x, ops.norm(h, self.post_attention_norm), 1.0)", "granite"),
    Mutant("residual scale left out behind the MLP", LAYERS,
           "return ops.add(x, ops.norm(h, self.post_mlp_norm), self.scale)",
           "return ops.add(x, ops.norm(h, self.post_mlp_norm), 1.0)", "granite"),
    Mutant("logits not scaled", TRANSFORMER, "ops.scale(x, model.logit_scale)", "x", "granite"),
    Mutant("logits not capped", TRANSFORMER,
           "ops.cap(ops.linear(ops.scale(x, model.logit_scale), model.head), model.logit_cap)",
           "ops.linear(ops.scale(x, model.logit_scale), model.head)", "gemma2"),
    Mutant("the MLP reads what attention changed", LAYERS,
           "mixed = self.mixer(ops.norm(x, self.attention_norm), rotations, layer, batch, cache, ops)  # (T, D)\n"
           "        h = self.mlp(ops.norm(x, self.mlp_norm), ops)  # (T, D): before",
           "mixed = self.mixer(ops.norm(x, self.attention_norm), rotations, layer, batch, cache, ops)  # (T, D)\n"
           "        h = self.mlp(ops.norm(x + mixed, self.mlp_norm), ops)  # (T, D): before", "gpt_neox"),
    Mutant("only attention's change is added", LAYERS, "ops.add(ops.add(x, mixed, self.scale), h, self.scale)",
           "ops.add(x, mixed, self.scale)", "gpt_neox"),
    Mutant("cap after the mask", FLASH,
           "s = heads.cap(scores(folded, k[begin:end], len(q)), xp)  # (K, H/K·T, end - begin)\n"
           "        mask_tile(s, len(q), first, start + begin, heads.window, xp)\n",
           "s = scores(folded, k[begin:end], len(q))\n"
           "        mask_tile(s, len(q), first, start + begin, heads.window, xp)\n"
           "        s = heads.cap(s, xp)\n", "gemma2"),
    Mutant("cap before the scale", FLASH, "s = heads.cap(scores(folded, k[begin:end], len(q)), xp)",
           "s = heads.cap(scores(folded / heads.scale, k[begin:end], len(q)), xp) * heads.scale", "gemma2"),
    Mutant("a cap that forgets its limit", HEADS, "return limit * xp.tanh(x / limit)", "return xp.tanh(x / limit)",
           "gemma2"),
    Mutant("sinks take no share", FLASH, "heads.sinks.total(tile_total, largest, xp), tile_mixed",
           "tile_total, tile_mixed", "gpt_oss"),
    Mutant("a sink with a value", FLASH, "mixed /= total",
           "mixed = (mixed + (total - p.sum(axis=-1, keepdims=True)) * v[0][:, None]) / total", "gpt_oss"),
    Mutant("one sink for the heads of a key", HEADS, "m.reshape(keys, queries, -1))  # (K, H/K, T)",
           "m.reshape(keys, queries, -1)).mean(axis=1, keepdims=True).repeat(queries, 1)", "gpt_oss"),
    Mutant("the shared expert's gate left out", MOE, "return routed + weight * shared", "return routed + shared",
           "qwen2_moe"),
    Mutant("the shared expert left out", MOE, "return routed + weight * shared", "return routed", "qwen2_moe"),
    Mutant("the shared expert's gate by tanh", MOE, "(ops.xp.tanh(half) + ops.xp.float32(1)) * ops.xp.float32(0.5)",
           "ops.xp.tanh(half)", "qwen2_moe"),
    Mutant("GELU by tanh", NUMPY_OPS, '"gelu": gelu_into}', '"gelu": gelu_tanh_into}', "gpt_neox"),
    Mutant("an error function of lower order", REFERENCE, "f(-1.453152027) + t * f(1.061405429)", "f(-1.453152027)",
           "gpt_neox_serial"),
    Mutant("the gate clamped below, too", NUMPY_OPS, "silu_into(np.minimum(gate, np.float32(CLAMP))",
           "silu_into(np.clip(gate, np.float32(-1), np.float32(CLAMP))", "gpt_oss"),
    Mutant("the gate not clamped", NUMPY_OPS, "silu_into(np.minimum(gate, np.float32(CLAMP))", "silu_into(gate",
           "gpt_oss"),
    Mutant("up not clamped", NUMPY_OPS, "np.clip(up, np.float32(-CLAMP), np.float32(CLAMP))", "up", "gpt_oss"),
    Mutant("up clamped above only", NUMPY_OPS, "np.clip(up, np.float32(-CLAMP), np.float32(CLAMP))",
           "np.minimum(up, np.float32(CLAMP))", "gpt_oss"),
    Mutant("up without its 1", NUMPY_OPS, "np.float32(CLAMP)) + np.float32(1)", "np.float32(CLAMP))", "gpt_oss"),
    Mutant("biases of experts left out", BUILD, "[bias.numpy() for bias in biases if bias]", "[]", "gpt_oss"),
    Mutant("one expert's biases for all", BUILD, "stack[e] for stack in stacks", "stack[0] for stack in stacks",
           "gpt_oss"),
    Mutant("sinks divided among other heads", BUILD, ".reshape(c.num_kv_heads, -1, 1)  # (K, H/K, 1)",
           ".reshape(-1, c.num_kv_heads, 1).transpose(1, 0, 2)", "gpt_oss"),
    Mutant("parallel layers built as serial ones", BUILD, "if c.parallel:", "if False:", "gpt_neox"),
    Mutant("one set of rotations for all rows", REFERENCE, "rotation.frequencies[sets]",
           "rotation.frequencies[sets * 0]", "phi3_long"),
    Mutant("amplitude of the cosine only", REFERENCE, "amplitude * xp.sin(angle)", "xp.sin(angle)", "llama_yarn"),
    Mutant("amplitude of the numbers that stay, too", ROTATIONS, "constant_values=1", "constant_values=rope.amplitude",
           "phi3_long"),
    Mutant("yarn ignored", ROTATIONS, 'elif rope.scaling == "yarn"', "elif False", "llama_yarn"),
    Mutant("yarn's blend the other way round", ROTATIONS, "f / np.float32(rope.factor) * divided + f * (1 - divided)",
           "f / np.float32(rope.factor) * (1 - divided) + f * divided", "llama_yarn"),
    Mutant("yarn's pairs by the natural logarithm of the turns", ROTATIONS,
           "math.log(rope.original_max_position / (turns * 2 * math.pi))",
           "math.log(rope.original_max_position / turns)", "qwen2_yarn"),
    Mutant("yarn's blend begins at the last pair", ROTATIONS, "for turns in (rope.beta_fast, rope.beta_slow)",
           "for turns in (rope.beta_slow, rope.beta_fast)", "qwen2_yarn"),
    Mutant("partial rotation by the wavelengths of a whole head", ROTATIONS, "rope.size or head_dim)",
           "head_dim)[:, : (rope.size or head_dim) // 2]", "gpt_neox"),
    Mutant("keys stored one position late", CACHE, "first, stop = span.first, span.first + span.rows",
           "first, stop = (p + (span.first > 0) for p in (span.first, span.first + span.rows))", "llama2"),
]  # fmt: skip


def deletions(file: str, only: Collection[str] = (), spared: Collection[str] = ()) -> Iterator[tuple[int, str, str]]:
    """(line, text, source without it) for every simple statement of a file's functions.

    only: names of the functions to take, instead of all; spared: functions to leave alone, and statements that only
    call them. What only counts for the ledger is left alone too.
    """
    source = path_of(file).read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or function.name in spared:
            continue
        if only and function.name not in only:
            continue
        for node in ast.walk(function):
            text = ast.unparse(node) if isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.Return) else ""
            if text.partition("(")[0] in spared:
                continue
            if text and ".ledger." not in text and not isinstance(getattr(node, "value", None), ast.Constant | None):
                gap = " " * node.col_offset + "pass\n"
                yield node.lineno, text, "".join([*lines[: node.lineno - 1], gap, *lines[node.end_lineno :]])


def path_of(file: str) -> Path:
    """Where a module of the package lies, named as in an import."""
    return SOURCES / f"{file.replace('.', '/')}.py"


@contextmanager
def planted(folder: Path, changed: Mapping[str, str] | None = None) -> Iterator[str]:
    """The name of a copy of the core with other sources of some modules; it can be imported within the context."""
    sources = {path_of(file): source for file, source in (changed or {}).items()}
    name = f"tinyinfer_copy_{next(_numbers)}"
    for path in [path for path in SOURCES.rglob("*.py") if path.relative_to(SOURCES).parts[0] not in APART]:
        text = sources.get(path) or path.read_text(encoding="utf-8")
        target = folder / name / path.relative_to(SOURCES)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(re.sub(r"\btinyinfer\.", f"{name}.", text), encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        yield name
    finally:
        sys.path.remove(str(folder))
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            del sys.modules[module]
