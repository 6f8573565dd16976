"""lm-evaluation-harness against a running server, held to known answers: `python benchmarks/lm_eval_check.py -m MODEL`.

    pip install 'lm_eval[api]'
    python -m tinyinfer serve -m smollm2-135m &
    python benchmarks/lm_eval_check.py -m smollm2-135m --url http://127.0.0.1:8000

The harness's own client (`local-completions`, its tokenizer that of the server) asks for log-likelihoods of
continuations, for those of whole texts, and for answers up to a stop string. The same model, opened here by LLM without
a server, gives the known ones: `score`, `logits` and `generate`. Exit status 1 where one of them differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any
from urllib.request import urlopen

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

from tinyinfer import LLM, SamplingParams

CLOSE = 1e-3  # of a log-likelihood: rows of one batch round unlike those of another
PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " Berlin"),
    ("The sky is", " blue."),
    ("Question: How many legs does a spider have?\nAnswer:", " eight"),
    ("Question: How many legs does a spider have?\nAnswer:", " six"),
    ("Two plus two is", " four"),
    ("Once upon a", " time, there was a naïve café 👩‍🚀"),
]
TEXTS = ["Gravity is the force by which masses attract each other.", "It was the best of times. " * 12]
ASKED = [
    ("The capital of France is", ["."]),
    ("1, 2, 3, 4,", ["8"]),
    ("Once upon a time", ["\n"]),
    ("def add(a, b):", ["\n\n"]),
]
LONGEST = 24


def instances(kind: Any, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    """The harness's requests of one kind."""
    return [Instance(request_type=kind, doc={}, arguments=one, idx=n) for n, one in enumerate(arguments)]


def likelihoods(client: LocalCompletionsAPI, llm: LLM) -> list[tuple[Any, Any, bool]]:
    """Of each pair: what the harness was told, what is known, and whether they agree."""
    rows, found = [], client.loglikelihood(instances("loglikelihood", PAIRS), disable_tqdm=True)
    for pair, told in zip(PAIRS, found, strict=True):
        context, new = client._encode_pair(*pair)
        known = float(llm.score([*context, *new])[-len(new) :].sum())
        best = llm.logits([*context, *new])[len(context) - 1 : -1].argmax(axis=1)  # (n,)
        greedy = bool((best == np.array(new)).all())
        rows.append((told, (known, greedy), abs(told[0] - known) < CLOSE and told[1] == greedy))
    return rows


def rolling(client: LocalCompletionsAPI, llm: LLM) -> list[tuple[Any, Any, bool]]:
    """Of each text: the log-likelihood of all its tokens behind the token that begins a text."""
    asked = instances("loglikelihood_rolling", [(text,) for text in TEXTS])
    told = client.loglikelihood_rolling(asked, disable_tqdm=True)
    known = [float(llm.score([client.prefix_token_id, *client.tok_encode(text)]).sum()) for text in TEXTS]
    return [(one, other, abs(one - other) < CLOSE) for one, other in zip(told, known, strict=True)]


def answers(client: LocalCompletionsAPI, llm: LLM) -> list[tuple[Any, Any, bool]]:
    """Of each prompt: the answer up to a stop string."""
    asked = [(text, {"until": until, "max_gen_toks": LONGEST}) for text, until in ASKED]
    told = client.generate_until(instances("generate_until", asked), disable_tqdm=True)
    prompts = [client.tok_encode(text) for text, _ in ASKED]
    params = [SamplingParams(max_tokens=LONGEST, stop=[*until, str(client.eos_string)]) for _, until in ASKED]
    known = [out.text for out in llm.generate(prompts, params)]
    return [(one, other, one == other) for one, other in zip(told, known, strict=True)]


def main() -> int:
    """Asks, compares and prints; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--kv-cache", default="paged")
    args = parser.parse_args()
    with urlopen(f"{args.url}/v1/models") as page:
        name = json.load(page)["data"][0]["id"]
    client = LocalCompletionsAPI(
        model=name, base_url=f"{args.url}/v1/completions", tokenizer_backend="remote", batch_size=2, num_concurrent=2
    )
    wrong = 0
    with LLM(args.model, kv_cache=args.kv_cache) as llm:
        for compare in (likelihoods, rolling, answers):
            for told, known, agrees in compare(client, llm):
                wrong += not agrees
                mark = "ok" if agrees else "WRONG"
                print(f"{compare.__name__:12} {mark:5} {told!r:60.60} {known!r:.60}", flush=True)
    print(f"{wrong} differ")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
