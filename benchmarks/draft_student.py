"""A drafter's worth: `python benchmarks/draft_student.py [--draft FOLDER] [--table FILE.jsonl...] [--speed ROUNDS]`.

SmolLM2 answers 32 questions, greedily, and each answer is cut where it begins to repeat itself: behind that place any
drafter that copies is right. Then each drafter guesses every token of the answers from what stands before it: the draft
head, or a draft model; prompt lookup; and with --table a 4-gram table with back-off that counted texts (of `tinyinfer
synthesize`). A place where a drafter has no guess counts as wrong.

--speed decodes the same parts of the answers with and without drafts, in turn, by a quantized target with integer dot
products (--backend numba --quantize int8 --quantize-head int8 --activations int8), and prints each round's ratio of all
seconds. A head of the target that stays in floats (--quantize-head off) costs a second row nearly as much as the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import numpy as np
from draft_head import Values

from tinyinfer import LLM, SamplingParams
from tinyinfer.distillation.texts import reading
from tinyinfer.loading import load
from tinyinfer.loading.draft_heads import HeadFolder, is_head, load_head
from tinyinfer.loading.drafts import open_draft
from tinyinfer.loading.hub import find
from tinyinfer.model.transformer import embed, run_layers
from tinyinfer.sequence import Sequence
from tinyinfer.speculative.base import DraftCost
from tinyinfer.speculative.draft_length import DraftLengths
from tinyinfer.speculative.prompt_lookup import PromptLookup
from tinyinfer.speculative.switches import SHIPPED_DRAFT
from tinyinfer.units import table

QUESTIONS = (
    "What is gravity?", "How do I boil an egg?", "Why is the sky blue?", "Write a short poem about the sea.",
    "What is the difference between a virus and a bacterium?", "Give me three tips for learning a language.",
    "Explain photosynthesis to a child.", "Who wrote Don Quixote?", "How does a bicycle stay upright?",
    "Plan a weekend in Rome for a family.", "What should I pack for a hike in autumn?", "Tell the story of Icarus.",
    "Write an email asking my landlord to repair the heating.", "What makes bread rise?", "How do vaccines work?",
    "Describe the taste of a lemon.", "What are the causes of inflation?", "How can I sleep better?",
    "Write a Python function that adds two numbers.", "What is a black hole?", "Why do leaves change colour?",
    "Name five animals that live in the desert.", "How do I start a small vegetable garden?", "What is democracy?",
    "Tell me a story about a fox and a crow.", "What is the water cycle?", "How do airplanes fly?",
    "Give me a recipe for tomato soup.", "What did the Romans build?", "How do I ask for a pay rise?",
    "What is the difference between weather and climate?", "Explain what a computer network is.",
)  # fmt: skip
REPEATED, PREFIX = 8, 3  # tokens of a repetition; tokens that the table looks at
Guess = Callable[[list[int], list[int]], Seq[int]]  # a prompt and an answer -> a guess for each of its tokens


def answers(llm: LLM, tokens: int) -> list[tuple[list[int], list[int]]]:
    """Prompt and greedy answer of each question, the answer cut where it begins to repeat itself."""
    prompts = [llm.chat_prompt([{"role": "user", "content": question}]) for question in QUESTIONS]
    outputs = llm.generate(prompts, SamplingParams(max_tokens=tokens))
    return [(out.prompt_token_ids, new_part(out.token_ids)) for out in outputs]


def new_part(ids: list[int]) -> list[int]:
    """The tokens before the first repeated run of REPEATED tokens."""
    seen: set[tuple[int, ...]] = set()
    for start in range(len(ids) - REPEATED + 1):
        run = tuple(ids[start : start + REPEATED])
        if run in seen:
            return ids[:start]
        seen.add(run)
    return ids


def of_model(draft: LLM) -> Guess:
    """The draft model's most likely tokens."""
    last = draft.config.vocab_size - 1

    def guess(prompt: list[int], said: list[int]) -> list[int]:
        logits = draft.logits(np.minimum([*prompt, *said], last).tolist())  # (T, V)
        return logits[len(prompt) - 1 : -1].argmax(axis=-1).tolist()

    return guess


def of_head(llm: LLM, name: str) -> Guess:
    """The most likely tokens of a draft head, from the values that the target's cache would hold."""
    opened = open_draft(name, load(llm.path))
    assert isinstance(opened, HeadFolder)
    one, m, ops = load_head(opened, llm.model, llm.ops), llm.model, llm.ops

    def guess(prompt: list[int], said: list[int]) -> list[int]:
        ids, cache = np.array([*prompt, *said]), Values(one.shape.layers)
        batch = reading([ids], [0], m.config.rotation_sets).batch
        run_layers(m, 0, len(m.layers), embed(m, batch, ops), batch, cache, ops)
        values = np.concatenate(cache.kept, axis=1)[len(prompt) - 2 : -1].astype(np.float32)  # (R, all values)
        newest = np.arange(len(prompt) - 1, len(ids) - 1)
        state = one.first(values, ops.embed(ids[newest], newest, m.embedding), ops)  # (R, D)
        return one.logits(state, ops).argmax(axis=-1).tolist()

    return guess


def of_lookup() -> Guess:
    """Prompt lookup's first token; -1 where no ending is found."""
    lookup = PromptLookup(DraftLengths(1, DraftCost(float))).lookup

    def guess(prompt: list[int], said: list[int]) -> list[int]:
        found = (lookup([*prompt, *said[:i]], 1) for i in range(len(said)))
        return [tokens[0][0] if tokens else -1 for tokens in found]

    return guess


def of_table(texts: list[list[int]]) -> Guess:
    """What followed the longest known ending most often, of at most PREFIX tokens."""
    counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for ids in texts:
        for size in range(PREFIX + 1):
            for i in range(size, len(ids)):
                counts[tuple(ids[i - size : i])][ids[i]] += 1
    best = {ending: found.most_common(1)[0][0] for ending, found in counts.items()}

    def guess(prompt: list[int], said: list[int]) -> list[int]:
        ids = [*prompt, *said]
        endings = ([tuple(ids[i - size : i]) for size in range(PREFIX, -1, -1)] for i in range(len(prompt), len(ids)))
        return [next(best[ending] for ending in each if ending in best) for each in endings]

    return guess


def right(guess: Guess, pairs: list[tuple[list[int], list[int]]]) -> float:
    """The share of the answers' tokens that the drafter guesses."""
    return float(np.mean(np.concatenate([np.equal(guess(prompt, said), said) for prompt, said in pairs])))


def speed(model: str, draft: str, rounds: int, tokens: int, switches: dict[str, Any]) -> list[float]:
    """Seconds of all answers without over those with the draft model, of each round."""
    plain = LLM(model, **switches)
    both = plain, LLM(model, speculative="draft", draft_model=draft, **switches)
    asked = [(question, len(said)) for question, (_, said) in zip(QUESTIONS, answers(plain, tokens), strict=True)]
    ratios = []
    for number in range(rounds + 1):  # the first one is not counted: it brings weights and code into memory
        seconds, proposed, accepted = [0.0, 0.0], 0, 0
        for question, length in asked if number else asked[:2]:
            words: list[list[int]] = [[], []]
            for which in (0, 1) if number % 2 else (1, 0):
                seq = timed(both[which], question, length)
                seconds[which] += seq.timing.times[-1] - seq.timing.times[0]
                words[which] = seq.new_tokens
                proposed, accepted = proposed + seq.speculation.proposed, accepted + seq.speculation.accepted
            if words[0] != words[1]:
                raise SystemExit(f"the draft model changed the answer to {question!r}")
        if number:
            ratios.append(seconds[0] / seconds[1])
            print(f"round {number}: {ratios[-1]:.3f}, {accepted} of {proposed} drafts accepted", flush=True)
    return ratios


def timed(llm: LLM, question: str, tokens: int) -> Sequence:
    """The answer to a question, of so many tokens."""
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    [seq] = llm.sequences([llm.chat_prompt([{"role": "user", "content": question}])], params)
    for _ in llm.engine.run([seq]):
        continue
    return seq


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--draft", default=SHIPPED_DRAFT)
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE.jsonl", help="what the 4-gram table counts")
    parser.add_argument("--tokens", type=int, default=160, help="most tokens of an answer")
    parser.add_argument("--speed", type=int, metavar="ROUNDS", help="measure decoding in place of guesses")
    parser.add_argument("--backend", default="numba")
    parser.add_argument("--quantize", default="int8")
    parser.add_argument("--quantize-head", default="int8")
    parser.add_argument("--activations", default="int8")
    parser.add_argument("-t", "--threads", type=int)
    args = parser.parse_args()
    if args.speed:
        names = "backend", "quantize", "quantize_head", "activations", "threads"
        switches = {name: getattr(args, name) for name in names}
        ratios = speed(args.model, args.draft, args.speed, args.tokens, switches)
        print(f"decoding with drafts over without: {statistics.median(ratios):.3f} (median of {len(ratios)} rounds)")
        return
    llm = LLM(args.model)
    pairs = answers(llm, args.tokens)
    drafter = of_head(llm, args.draft) if is_head(find(args.draft)) else of_model(LLM(args.draft))
    guesses = {"the drafter": drafter, "prompt lookup": of_lookup()}
    if args.table:
        lines = [line for file in args.table for line in file.read_text(encoding="utf-8").splitlines()]
        guesses["4-gram table"] = of_table([llm.tokenizer.encode(json.loads(line)["text"]) for line in lines])
    rows = [[name, f"{right(guess, pairs):.3f}"] for name, guess in guesses.items()]
    print(f"{sum(len(said) for _, said in pairs)} tokens of {len(pairs)} answers")
    print(table([["drafter", "guesses that are right"], *rows]))


if __name__ == "__main__":
    main()
