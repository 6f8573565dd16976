"""A draft head: a small network that drafts a model's next tokens from what its KV cache holds of one position.

A model that has just computed a position has thought about more than its next token, and some of that lies in its KV
cache: the values of each layer are the rows that entered it, seen through one matrix. A head takes the values of some
late layers, and the token that was chosen since:

    x = values · Wv + token · Wt          both normalized first; token: its row of the model's embedding
    x = x + MLP(x)
    logits = x · (first rows of the model's head)

That gives the first draft. For the next one the model has computed nothing yet: x itself takes the place of the values,
through a matrix of its own. So a head has no attention and no cache, reads no prompt, and borrows embedding and head
from its model. (Heads on the last hidden state: Medusa, Cai et al. 2024. One that goes on from its own state:
ReDrafter, Cheng et al. 2024; Wertheimer et al. 2024. Features of several layers: EAGLE-3, Li et al. 2025, section 3. A
draft model that reads the target's cache: GliDe, Du et al. 2024.)

Wins: as many accepted drafts as a separate model needs far more text to learn, for a fraction of its bytes, and that
at once after any prompt. Loses: it fits the one model that it was trained beside, and its second draft knows less
than its first.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyinfer.arrays import Array
from tinyinfer.errors import SwitchError
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.mlp import GatedMLP
from tinyinfer.model.weights import Linear, Norm


@dataclass(frozen=True)
class HeadShape:
    """The shape of a head, and of the model that it fits.

    layers: those of the model whose values are read, of value_size numbers a position each. tokens: how many can be
    drafted.
    """

    hidden_size: int
    num_layers: int
    value_size: int
    layers: tuple[int, ...]
    intermediate_size: int
    tokens: int
    norm_eps: float

    @classmethod
    def beside(cls, target: ModelConfig, layers: tuple[int, ...], intermediate_size: int, tokens: int) -> HeadShape:
        """The shape of a head for a target. Raises ValueError where the layers read do not remember alike."""
        sizes = {target.memory[i].heads * target.memory[i].value_size for i in layers}
        if len(sizes) != 1:
            raise ValueError(f"layers {layers} keep values of different sizes; read layers that are alike")
        fixed = target.hidden_size, target.num_layers, sizes.pop()
        return cls(*fixed, layers, intermediate_size, min(tokens, target.vocab_size), target.norm_eps)

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Outputs and inputs of each matrix."""
        d, f = self.hidden_size, self.intermediate_size
        return {
            "values": (d, len(self.layers) * self.value_size), "state": (d, d), "token": (d, d),
            "gate_up": (2 * f, d), "down": (d, f),
        }  # fmt: skip

    @property
    def norms(self) -> dict[str, int]:
        """The length of each norm's weight."""
        d = self.hidden_size
        return {
            "values_norm": len(self.layers) * self.value_size, "state_norm": d, "token_norm": d, "mlp_norm": d,
            "final_norm": d,
        }  # fmt: skip

    def misfit(self, target: ModelConfig) -> str | None:
        """What of a model is another than that of the head; None where the head fits."""
        here = target.hidden_size, target.num_layers
        if here != (self.hidden_size, self.num_layers):
            return f"made for {self.num_layers} layers of width {self.hidden_size}, here are {here[1]} of {here[0]}"
        if any(target.memory[i].heads * target.memory[i].value_size != self.value_size for i in self.layers):
            return f"it reads {self.value_size} values of a layer, and the model has another number"
        return None


@dataclass(frozen=True)
class Normed:
    """A product of normalized rows."""

    norm: Norm
    linear: Linear

    def __call__(self, x: Array, ops: Ops) -> Array:  # (R, M) -> (R, N)
        return ops.linear(ops.norm(x, self.norm), self.linear)


@dataclass(frozen=True)
class DraftHead:
    """The weights of a head. head: the first rows of the model's, of as many tokens as can be drafted."""

    shape: HeadShape
    values: Normed  # (all values of a position) -> (D)
    state: Normed  # (D) -> (D)
    token: Normed  # (D) -> (D)
    mlp_norm: Norm
    mlp: GatedMLP
    final_norm: Norm
    head: Linear  # (D) -> (N)

    def first(self, values: Array, token: Array, ops: Ops) -> Array:  # (R, M), (R, D) -> (R, D)
        """The state behind a token, from the values of the position before it."""
        return self._behind(self.values(values, ops), token, ops)

    def next(self, state: Array, token: Array, ops: Ops) -> Array:  # (R, D), (R, D) -> (R, D)
        """The state behind a token, from the state before it."""
        return self._behind(self.state(state, ops), token, ops)

    def _behind(self, x: Array, token: Array, ops: Ops) -> Array:  # (R, D), (R, D) -> (R, D)
        x = ops.add(x, self.token(token, ops), 1.0)
        return ops.add(x, self.mlp(ops.norm(x, self.mlp_norm), ops), 1.0)

    def logits(self, state: Array, ops: Ops) -> Array:  # (R, D) -> (R, N)
        """The scores of the token behind a state."""
        return ops.linear(ops.norm(state, self.final_norm), self.head)

    @property
    def nbytes(self) -> int:
        """Bytes of weights held in memory, all of which a draft reads but for one of two matrices."""
        linears = self.values.linear, self.state.linear, self.token.linear, self.head
        return sum(linear.nbytes for linear in linears) + self.mlp.nbytes


def no_fit(name: str | None, how: str) -> SwitchError:
    """The refusal of a head that was made for another model."""
    reason = "{field} {value!r} is a draft head, which fits one model only ({how})"
    cure = "name a smaller model of the same family with {draft_model}, or choose another {speculative}"
    return SwitchError("draft_model", name, reason, cure, how=how)
