"""What the model is: every supported family as one record, so that transformer.py is written once.

Loaders fill it in from config.json or GGUF metadata; nothing later asks which file it came from.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyinfer.rotation_sets import RotationSets


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding of one kind of layer (Su et al. 2021, RoFormer, section 3.4).

    theta: base of the wavelengths. size: how many numbers of a head are rotated, the rest stay; None: all. amplitude:
    multiplies cosines and sines, so scores by its square (Peng et al. 2023, YaRN, section 3.4).

    scaling says how wavelengths are stretched beyond the length that the model was first trained on:
        "none"
        "linear"    positions divided by factor (Chen et al. 2023)
        "llama3"    only the long wavelengths (Llama 3.1)
        "yarn"      pairs that turn fewer than beta_slow times within original_max_position, blended up to those that
                    turn beta_fast times; truncate: the ends of the blend are whole pairs (YaRN, section 3.2)
        "longrope"  by one list of divisors up to original_max_position, by another beyond (Ding et al. 2024, LongRoPE)
    divisors: the stretch per frequency, given outright (LongRoPE's short ones; a GGUF file's). long_divisors: those of
    LongRoPE for sequences longer than original_max_position.
    """

    theta: float = 10000.0
    scaling: str = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192
    divisors: tuple[float, ...] | None = None
    size: int | None = None
    amplitude: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    long_divisors: tuple[float, ...] | None = None


@dataclass(frozen=True)
class MoEConfig:
    """A mixture of experts (Shazeer et al. 2017): experts in a layer, how many each token uses, each one's width F.

    renormalize: whether the weights of the chosen experts are scaled to sum to 1, which equals a softmax over these
    alone. shared_size: the width of an MLP that every token uses beside them (Qwen2-MoE); 0: none. dense_layers: the
    layers that have one dense MLP and no mixture.
    """

    num_experts: int
    experts_per_token: int
    expert_size: int
    renormalize: bool = True
    shared_size: int = 0
    dense_layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Rows:
    """What one layer remembers of each position: keys of K heads of `key_size` numbers, and values of `value_size`."""

    heads: int
    key_size: int
    value_size: int

    @property
    def numbers(self) -> int:
        """Numbers a position, keys and values together."""
        return self.heads * (self.key_size + self.value_size)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder-only transformer. Behind the sizes: their letters (arrays.py)."""

    architecture: str  # the family's name in config.json: llama, qwen2, gemma3, gpt_oss ...
    vocab_size: int  # V
    hidden_size: int  # D
    intermediate_size: int  # F
    num_layers: int  # L
    num_heads: int  # H
    num_kv_heads: int  # K
    head_dim: int  # E
    max_position: int  # the longest context the model was made for
    norm_eps: float
    attention_scale: float  # multiplies the scores; 1/sqrt(E) nearly everywhere
    rope: tuple[RopeConfig | None, ...]  # one a layer; None: no rotation
    windows: tuple[int | None, ...]  # one a layer: how many positions back a query sees, itself included; None: all
    norm: str = "rms"  # "rms" (Zhang & Sennrich 2019) or "layer" (Ba et al. 2016, with a bias)
    activation: str = "silu"  # "silu", "gelu_tanh", "gelu", or "clamped" (a gate's only; Ops.gate)
    gated: bool = True  # down(act(gate(x)) * up(x)) (Shazeer 2020) rather than down(act(up(x)))
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False  # of experts, too, and of their router
    qk_norm: str = "none"  # "none", "head" (each head of E by one shared weight), "full" (all heads together)
    pre_norms: bool = True  # OLMo-2 has no norm before attention and before the MLP
    post_norms: bool = False  # Gemma and OLMo-2: a norm after attention and after the MLP
    parallel: bool = False  # GPT-NeoX: attention and MLP read the same rows
    learned_positions: bool = False  # GPT-2: a table of positions added to the embedding
    embedding_scale: float = 1.0
    residual_scale: float = 1.0  # multiplies what attention and the MLP add to a row (Granite)
    logit_scale: float = 1.0  # multiplies the logits
    logit_cap: float | None = None  # c · tanh(logit / c) (Gemma 2); None: no cap
    score_cap: float | None = None  # the same, of attention's scores
    sinks: bool = False  # gpt-oss: each query head has one more score, whose value is zero
    tied_head: bool = False  # the head is the embedding
    experts: MoEConfig | None = None
    eos_token_ids: tuple[int, ...] = ()

    @property
    def memory(self) -> tuple[Rows, ...]:
        """What each layer remembers of a position: what a cache is built for, and what its bytes are a sum over."""
        return (Rows(self.num_kv_heads, self.head_dim, self.head_dim),) * self.num_layers

    @property
    def rotation_sets(self) -> RotationSets:
        """Which frequencies rotate the rows of a sequence, by its length: LongRoPE has two sets of them."""
        lengths = [rope.original_max_position for rope in self.rope if rope and rope.long_divisors]
        return RotationSets(min(lengths, default=None))

    def mixture(self, layer: int) -> MoEConfig | None:
        """The mixture of experts of a layer; None where its MLP is dense."""
        return None if self.experts is None or layer in self.experts.dense_layers else self.experts


def expected_tensors(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every weight that a model of this configuration has."""
    h, k, e, d = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.head_dim, c.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"embedding": (c.vocab_size, d)}
    if c.learned_positions:
        shapes["positions"] = (c.max_position, d)
    for i in range(c.num_layers):
        layer = {"q": (h, d), "k": (k, d), "v": (k, d), "o": (d, h), **_mlp_tensors(c, c.mixture(i))}
        biases = ["q", "k", "v"] * c.qkv_bias + ["o"] * c.o_bias + ["router", "gate", "up", "down"] * c.mlp_bias
        layer |= {f"{name}.bias": layer[name][:-1] for name in biases if name in layer}
        if c.sinks:
            layer["sinks"] = (c.num_heads,)
        norms = ["attention_norm", "mlp_norm"] * c.pre_norms + ["post_attention_norm", "post_mlp_norm"] * c.post_norms
        layer |= dict.fromkeys(norms, (d,))
        if c.norm == "layer":
            layer |= {f"{name}.bias": (d,) for name in norms}
        if c.qk_norm != "none":
            layer |= {"q_norm": (e,), "k_norm": (e,)} if c.qk_norm == "head" else {"q_norm": (h,), "k_norm": (k,)}
        shapes |= {f"layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes["final_norm"] = (d,)
    if c.norm == "layer":
        shapes["final_norm.bias"] = (d,)
    if not c.tied_head:
        shapes["head"] = (c.vocab_size, d)
    return shapes


def _mlp_tensors(c: ModelConfig, moe: MoEConfig | None) -> dict[str, tuple[int, ...]]:
    d, f = c.hidden_size, c.intermediate_size
    if moe is None:
        return {"gate": (f, d), "up": (f, d), "down": (d, f)} if c.gated else {"up": (f, d), "down": (d, f)}
    n, f, s = moe.num_experts, moe.expert_size, moe.shared_size
    routed: dict[str, tuple[int, ...]] = {"router": (n, d), "gate": (n, f, d), "up": (n, f, d), "down": (n, d, f)}
    shared = {"shared_router": (1, d), "shared_gate": (s, d), "shared_up": (s, d), "shared_down": (d, s)}
    return routed | (shared if s else {})


FUSED = {  # canonical name -> the matrix that holds it
    "q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up",
    "shared_gate": "shared_gate_up", "shared_up": "shared_gate_up",
}  # fmt: skip


@dataclass(frozen=True)
class HeldMatrix:
    """A matrix as the model holds it: `count` equal ones for experts, else 1, each of N outputs and M inputs.

    parts: (canonical name, outputs) of the tensors that lie in it, one below another.
    """

    name: str
    count: int
    inputs: int
    parts: tuple[tuple[str, int], ...]

    @property
    def outputs(self) -> int:
        """N: the outputs of all parts together."""
        return sum(outputs for _, outputs in self.parts)

    @property
    def numbers(self) -> int:
        """How many weights the matrix has, or all its experts together."""
        return self.count * self.outputs * self.inputs


def held_matrices(c: ModelConfig) -> dict[str, HeldMatrix]:
    """Every matrix of a model by the name under which the model holds it; this function alone decides what is fused.

    Names are layers.3.qkv, .o, .gate_up (.up where there is no gate), .down, .router; of a shared expert
    .shared_router, .shared_gate_up, .shared_down; embedding and head, or only head where the two are one matrix.
    """
    fused = FUSED | ({"up": "gate_up"} if c.gated else {})
    held: dict[str, HeldMatrix] = {}
    for name, shape in expected_tensors(c).items():
        if len(shape) == 1 or name == "positions" or name.endswith(".bias"):
            continue
        *layer, last = name.split(".")
        key = ".".join([*layer, "head" if c.tied_head and last == "embedding" else fused.get(last, last)])
        parts = held[key].parts if key in held else ()
        held[key] = HeldMatrix(key, shape[0] if len(shape) == 3 else 1, shape[-1], (*parts, (name, shape[-2])))
    return held
