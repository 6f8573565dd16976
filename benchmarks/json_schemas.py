"""JSON schemas of a public test suite, as forms of an answer: which are refused, and does what is written conform?

    pip download --no-deps --no-binary :all: jsonschema==4.26.0 && tar xzf jsonschema-4.26.0.tar.gz
    python benchmarks/json_schemas.py jsonschema-4.26.0/json/tests/draft2020-12 --temperature 20
    python benchmarks/json_schemas.py --speed --backend numba

The folder is one of JSON-Schema-Test-Suite, which travels in the source of the package `jsonschema`; that package
judges the answers, formats included. (It reads patterns as Python does, not as ECMAScript.) Each schema is asked for
`--draws` times. At temperature 20 a model is as good as random, so that it writes what a model would not; at 1 it
writes what a model would. An answer that `max_tokens` cuts is counted and not judged.

`--speed` compares the time of a guided token with that of a free one, both greedy and in turns: the median of rounds.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from tinyinfer import LLM, SamplingParams
from tinyinfer.errors import SwitchError
from tinyinfer.request import Request

PEOPLE = {
    "type": "array", "minItems": 500, "items": {
        "type": "object", "required": ["name", "age", "tags"], "additionalProperties": False,
        "properties": {
            "name": {"type": "string"}, "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
        },
    },
}  # fmt: skip
PROMPT = "A list of people as JSON, with their names, ages and tags:\n"


def schemas_of(folder: Path) -> list[tuple[str, Any]]:
    """Each schema of the suite's files, with the place where it stands."""
    found = []
    for path in sorted(folder.glob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8")):
            found.append((f"{path.relative_to(folder)}: {case['description']}", case["schema"]))
    return found


def asked(llm: LLM, schemas: list[tuple[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Submits every schema; prints what is refused, what is wrong, and returns the counts."""
    requests: list[tuple[str, Any, Request]] = []
    reasons: Counter[str] = Counter()
    allows_nothing = 0
    for place, schema in schemas:
        if schema is False:
            allows_nothing += 1
            continue
        try:
            for seed in range(args.draws):
                params = SamplingParams(
                    max_tokens=args.max_tokens, temperature=args.temperature, seed=seed, json_schema=schema
                )
                requests.append((place, schema, llm.submit("JSON: ", params)))
        except SwitchError as error:
            reasons[str(error)] += 1
            print(f"refused  {place}: {error}")
    finished = right = 0
    errors: Counter[str] = Counter()
    for place, schema, request in requests:
        try:
            out = request.result()
        except RuntimeError as error:
            errors[str(error)] += 1
            print(f"failed   {place}: {error}")
            continue
        if out.finish_reason != "stop":
            continue
        finished += 1
        if fault := fault_of(out.text, schema):
            print(f"WRONG    {place}: {out.text!r}: {fault}")
        else:
            right += 1
    known = len(schemas) - allows_nothing
    refused = sum(reasons.values())
    return {
        "schemas": known, "refused": refused, "refused_share": round(refused / known, 4), "answers": len(requests),
        "finished": finished, "conform": right, "failed_in_a_step": sum(errors.values()),
    }  # fmt: skip


def fault_of(text: str, schema: Any) -> str:
    """Why a text is no JSON of the schema; "" when it is."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"no JSON: {error}"
    found = Draft202012Validator(schema, format_checker=FormatChecker()).iter_errors(value)
    return next((error.message for error in found), "")


def speed(llm: LLM, rounds: int, tokens: int) -> dict[str, float]:
    """Milliseconds of a free and of a guided token, and how much slower the second is."""
    kinds = {"free": SamplingParams(max_tokens=tokens, ignore_eos=True),
             "guided": SamplingParams(max_tokens=tokens, ignore_eos=True, json_schema=PEOPLE)}  # fmt: skip
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for n in range(rounds + 1):
        for kind, params in kinds.items():
            [out] = llm.generate(PROMPT, params)
            if n:  # the first round compiles, and fills caches
                times[kind].append(1e3 * (out.metrics.tpot_s or 0.0))
    ratio = median(guided / free for free, guided in zip(times["free"], times["guided"], strict=True))
    return {f"{kind}_ms": round(median(some), 3) for kind, some in times.items()} | {"slower": round(ratio - 1, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="tests/draft2020-12 of JSON-Schema-Test-Suite")
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, default=300)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128, help="of each answer of --speed")
    args = parser.parse_args()
    if args.folder is None and not args.speed:
        parser.error("give the suite's folder, or --speed")
    with LLM(args.model, backend=args.backend) as llm:
        if args.folder is not None:
            print(json.dumps(asked(llm, schemas_of(args.folder), args)))
        if args.speed:
            print(json.dumps(speed(llm, args.rounds, args.tokens)))


if __name__ == "__main__":
    main()
