"""What a caller may give as prompts and parameters: one or many, text or token ids, lists or arrays.

Everything is refused here, in one sentence and before any work, so that the engine meets only what it can run.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from typing import Any, NoReturn, TypeVar

import numpy as np

from tinyinfer.errors import SwitchError
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.text.reasoning import ChatPrompt
from tinyinfer.units import show

Prompt = str | Seq[int]  # text, or token ids
Prompts = Prompt | Seq[Prompt]
Messages = list[dict[str, Any]]  # a conversation: [{"role": "user", "content": "..."}, ...]
Variables = dict[str, Any] | None  # of a chat template
Params = SamplingParams | Seq[SamplingParams] | None
P = TypeVar("P", SamplingParams | None, Params)
FEWER = (
    "the tokenizer knows more tokens than this model; if the model was made to draft, name the model whose tokenizer "
    "it is, and this one as its {draft_model}"
)


def each(prompts: Prompts, params: Params) -> list[tuple[Prompt, SamplingParams]]:
    """Every prompt with its parameters. Raises ValueError for anything else, and for two lists of unequal length."""
    many = [prompts] if isinstance(prompts, str | ChatPrompt) else _list(prompts)
    if many and _is_id(many[0]):
        many = [many]
    if params is None or isinstance(params, SamplingParams):
        params = [params or SamplingParams()] * len(many)
    if not isinstance(params, (list, tuple)) or not all(isinstance(p, SamplingParams) for p in params):
        raise ValueError(f"params={show(params)} are not understood; give a SamplingParams, or a list of them")
    if len(params) != len(many):
        raise ValueError(f"{len(many)} prompts but {len(params)} SamplingParams; give one for all, or one each")
    return list(zip(many, params, strict=True))


def one_of(params: P, sampling_params: P) -> P:
    """The one of the two names that was used. Raises ValueError when both were."""
    if params is not None and sampling_params is not None:
        raise ValueError("params and sampling_params are two names of one argument; give only one of them")
    return sampling_params if params is None else params


def one_text(params: SamplingParams | None) -> SamplingParams | None:
    """The parameters of a stream of text. Raises SwitchError, a ValueError, for those of several answers."""
    if params is not None and params.n > 1:
        reason = "{field}={value} asks for several answers, and a stream of text is one"
        raise SwitchError("n", params.n, reason, "use generate, or submit and its branches")
    return params


def template_variables(given: object) -> dict[str, Any]:
    """The chat template's variables. Raises ValueError for anything but a dictionary of names, or None."""
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        reason = "{field}={value!r} is no dictionary of the chat template's variables"
        raise SwitchError("chat_template_kwargs", given, reason)
    return given


def token_ids(prompt: object) -> list[int]:
    """A list, tuple, range or array of token ids as plain ones. Raises ValueError for anything else."""
    items = _list(prompt)
    if not all(map(_is_id, items)):
        _no_prompt(prompt)
    return [int(token) for token in items]


def check_ids(ids: Iterable[int], vocab_size: int, spelled: int = 0, **fields: Iterable[int]) -> None:
    """Raises ValueError for a token id outside the vocabulary, of a prompt or of a parameter, which is named.

    spelled: how many tokens the tokenizer knows. A student made to draft may know fewer (distillation/objective.py).
    """
    for field, tokens in {"": ids, **fields}.items():
        for token in tokens:
            if not 0 <= token < vocab_size:
                reason = "{field}={value}" if field else "token id {value}"
                cure = FEWER if not field and 0 <= token < spelled else ""
                raise SwitchError(field, token, reason + " is outside the vocabulary of {size}", cure, size=vocab_size)


def _list(prompts: object) -> list[Any]:
    items = prompts.tolist() if isinstance(prompts, np.ndarray) else prompts
    if not isinstance(items, (list, tuple, range)):
        _no_prompt(prompts)
    return list(items)


def _is_id(item: object) -> bool:
    return isinstance(item, (int, np.integer)) and not isinstance(item, bool)


def _no_prompt(prompt: object) -> NoReturn:
    what = " ".join(show(prompt).split())
    raise ValueError(f"{what} is no prompt; give text, or a list of token ids (whole numbers)")
