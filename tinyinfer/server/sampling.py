"""The fields that completions and chat completions share, and the SamplingParams that they become.

OpenAI's defaults hold where it has a default: temperature 1, and what each endpoint says of the longest answer. All
names that OpenAI lacks are vLLM's. Fields that only say who asks, or what a service may do with the answer, change
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyinfer.sampling_params import SamplingParams
from tinyinfer.server.errors import APIError, as_api_error, wrong
from tinyinfer.server.fields import Lacking, read_fields
from tinyinfer.server.structured import FORM_FIELDS, AskedForm
from tinyinfer.units import show

SAMPLING = {
    "max_tokens": "whole", "temperature": "number", "top_p": "number", "top_k": "whole", "min_p": "number",
    "repetition_penalty": "number", "presence_penalty": "number", "frequency_penalty": "number", "seed": "whole",
    "stop": "texts", "stop_token_ids": "ids", "ignore_eos": "bool", "min_tokens": "whole", "logit_bias": "object",
    "cache_salt": "text", "n": "whole",
}  # fmt: skip
SHARED = {
    **SAMPLING, **FORM_FIELDS, "best_of": "whole", "model": "text", "stream": "bool", "stream_options": "object",
    "return_token_ids": "bool",
}  # fmt: skip
IGNORED = dict.fromkeys(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
     "request_id", "priority", "skip_special_tokens", "spaces_between_special_tokens"),
    "any",
)  # fmt: skip
LACKING = {
    "use_beam_search": Lacking((False,), "tokens are drawn one by one, or taken greedily with temperature=0"),
    "include_stop_str_in_output": Lacking((False,), "the answer ends before a stop string"),
    "truncate_prompt_tokens": Lacking((), "shorten the prompt; /tokenize counts its tokens"),
}
STREAM_OPTIONS = dict.fromkeys(("include_usage", "continuous_usage_stats", "include_obfuscation"), "bool")
MAX_STOPS, MAX_STOP = 64, 256  # each token of an answer is compared with each of them, on the engine's thread
MAX_IDS = 1024  # stop_token_ids, logit_bias


def sampling_params(
    given: Mapping[str, Any], form: AskedForm | None, names: Mapping[str, str], **defaults: Any
) -> SamplingParams:
    """The parameters of the fields that were given. Raises APIError for a value that cannot be.

    form: of the answer. names: see `as_api_error`. defaults: what the endpoint has in the place of SamplingParams' own.
    """
    stops = [given["stop"]] if isinstance(given.get("stop"), str) else given.get("stop", [])
    if len(stops) > MAX_STOPS or any(len(stop) > MAX_STOP for stop in stops):
        raise wrong("stop", f"stop may hold {MAX_STOPS} texts of at most {MAX_STOP} characters each")
    for name in ("stop_token_ids", "logit_bias"):
        if len(given.get(name, [])) > MAX_IDS:
            raise wrong(name, f"{name} may hold at most {MAX_IDS} ids")
    if given.get("best_of") not in (None, 0, given.get("n", 1)):
        message = f"best_of={given['best_of']} must be n or absent: all n answers are given, none of more is chosen"
        raise wrong("best_of", message)
    fields = {"temperature": 1.0, **defaults, **{name: given[name] for name in SAMPLING if name in given}}
    if "logit_bias" in fields:
        fields["logit_bias"] = biases(fields["logit_bias"])
    if form:
        fields[form.field] = form.value
    try:
        return SamplingParams(**fields)
    except ValueError as error:
        raise as_api_error(error, names) from None


def biases(given: Mapping[str, Any]) -> dict[int, Any]:
    """logit_bias by numbers: the keys of a JSON object are texts. Raises APIError."""
    try:
        return {int(token): bias for token, bias in given.items()}
    except ValueError:
        message = f"logit_bias={show(given)} must have token ids as keys, such as {{'42': -100}}"
        raise wrong("logit_bias", message) from None


def stream_options(given: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a stream ends with the usage, and whether each chunk has it. Raises APIError."""
    options = given.get("stream_options", {})
    read, _ = read_fields(options, STREAM_OPTIONS, {}, "stream_options.")
    if "stream_options" in given and not given.get("stream"):
        raise wrong("stream_options", "stream_options are for streams; add stream=true, or leave them out")
    always = read.get("continuous_usage_stats", False)
    return read.get("include_usage", False), always and read.get("include_usage", False)


def check_model(given: Mapping[str, Any], name: str) -> None:
    """Raises APIError, 404, when another model is asked for than the one that is here."""
    if given.get("model", name) != name:
        message = f"there is no model {given['model'][:200]!r} here; this server has {name!r}"
        raise APIError(404, message, "model", "model_not_found")
