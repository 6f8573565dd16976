"""What the model is (ModelConfig) and which optimizations are on (EngineConfig): two plain records, nothing else.

ModelConfig describes every supported family by the few ways in which they differ, so that transformer.py is written
once. Loaders fill it in from config.json or GGUF metadata; nothing later asks which file it came from.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from tinyinfer.registry import BACKENDS, CACHES, DTYPES


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
class ModelConfig:
    """The shape of a decoder-only transformer. The letters of the shape signatures stand behind the sizes."""

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


@dataclass(frozen=True)
class EngineConfig:
    """Which optimizations are on. Each field is a switch with a command line flag of the same name (README lists them).

    Raises ValueError, in one sentence that names the cure, for a value or a combination that cannot work.
    """

    kv_cache: str = "contiguous"
    max_model_len: int | None = None  # None: the model's own
    dtype: str = "float32"  # how weights are stored; arithmetic is float32
    backend: str = "numpy"
    threads: int | None = None  # None: all cores

    def __post_init__(self) -> None:
        for name, known in (("kv_cache", CACHES), ("dtype", DTYPES), ("backend", BACKENDS)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(known)}")
        for name in ("max_model_len", "threads"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1")

    @classmethod
    def from_switches(cls, **switches: object) -> EngineConfig:
        """An EngineConfig from keyword arguments; a misspelt switch is refused with the list of those that exist."""
        known = [f.name for f in fields(cls)]
        for name in switches:
            if name not in known:
                raise ValueError(f"there is no switch {name!r}; the switches are {', '.join(known)}")
        return cls(**switches)  # type: ignore[arg-type]
