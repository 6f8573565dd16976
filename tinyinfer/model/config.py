"""What the model is: every supported family as one record, so that transformer.py is written once.

Loaders fill it in from config.json or GGUF metadata; nothing later asks which file it came from.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding of one kind of layer (Su et al. 2021, RoFormer, section 3.4).

    theta: base of the wavelengths. scaling: "none", "linear" (positions divided by factor; Chen et al. 2023) or
    "llama3" (only the long wavelengths stretched; Llama 3.1). divisors: the stretch per frequency, given outright
    (GGUF does).
    """

    theta: float = 10000.0
    scaling: str = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192
    divisors: tuple[float, ...] | None = None


@dataclass(frozen=True)
class MoEConfig:
    """A mixture of experts (Shazeer et al. 2017): experts in a layer, how many each token uses, each one's width F.

    renormalize: whether the weights of the chosen experts are scaled to sum to 1.
    """

    num_experts: int
    experts_per_token: int
    expert_size: int
    renormalize: bool = True


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

    architecture: str  # llama, mistral, qwen2, qwen3, gemma3, gpt2, mixtral, qwen3_moe, olmoe
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
    activation: str = "silu"  # "silu" or "gelu_tanh"
    gated: bool = True  # down(act(gate(x)) * up(x)) (Shazeer 2020) rather than down(act(up(x)))
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: str = "none"  # "none", "head" (each head of E by one shared weight), "full" (all heads together)
    post_norms: bool = False  # Gemma: a norm also after attention and after the MLP
    learned_positions: bool = False  # GPT-2: a table of positions added to the embedding
    embedding_scale: float = 1.0
    tied_head: bool = False  # the head is the embedding
    experts: MoEConfig | None = None
    eos_token_ids: tuple[int, ...] = ()

    @property
    def memory(self) -> tuple[Rows, ...]:
        """What each layer remembers of a position: what a cache is built for, and what its bytes are a sum over."""
        return (Rows(self.num_kv_heads, self.head_dim, self.head_dim),) * self.num_layers


def expected_tensors(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every weight that a model of this configuration has."""
    h, k, e, d = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.head_dim, c.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"embedding": (c.vocab_size, d)}
    if c.learned_positions:
        shapes["positions"] = (c.max_position, d)
    for i in range(c.num_layers):
        layer = {"q": (h, d), "k": (k, d), "v": (k, d), "o": (d, h), **_mlp_tensors(c)}
        biases = ["q", "k", "v"] * c.qkv_bias + ["o"] * c.o_bias + ["gate", "up", "down"] * c.mlp_bias
        layer |= {f"{name}.bias": (layer[name][0],) for name in biases if name in layer}
        norms = ["attention_norm", "mlp_norm"] + ["post_attention_norm", "post_mlp_norm"] * c.post_norms
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


def _mlp_tensors(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    d, f = c.hidden_size, c.intermediate_size
    if c.experts:
        n, f = c.experts.num_experts, c.experts.expert_size
        return {"router": (n, d), "gate": (n, f, d), "up": (n, f, d), "down": (n, d, f)}
    return {"gate": (f, d), "up": (f, d), "down": (d, f)} if c.gated else {"up": (f, d), "down": (d, f)}


FUSED = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up"}  # canonical name -> the matrix that holds it


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

    Names are layers.3.qkv, .o, .gate_up (.up where there is no gate), .down, .router; embedding and head, or only head
    where the two are one matrix.
    """
    fused = FUSED | ({"up": "gate_up"} if c.gated else {})
    held: dict[str, HeldMatrix] = {}
    for name, shape in expected_tensors(c).items():
        if len(shape) == 1 or name == "positions":
            continue
        *layer, last = name.split(".")
        key = ".".join([*layer, "head" if c.tied_head and last == "embedding" else fused.get(last, last)])
        parts = held[key].parts if key in held else ()
        held[key] = HeldMatrix(key, shape[0] if len(shape) == 3 else 1, shape[-1], (*parts, (name, shape[-2])))
    return held
