"""Makes tests/golden/*.npz with transformers as the oracle: `python tests/make_goldens.py [NAME ...]`, and with
`--smollm2 PATH_TO_GGUF` golden/smollm2.json and golden/smollm2_tokenizer.json from the real model.

Needs the `oracle` extra. Every model is written as a folder by golden.write_hf_folder and read back by transformers
with nothing missing or left over, in both spellings of config.json; so the folders are right by transformers' own
judgement. Seeds are tried in turn until no greedy token and no choice of experts hangs on a rounding error. What is
peculiar to a family is taken out of the model in turn (ABLATIONS), and the logits must move by far more than the
tolerance of the tests: a golden that does not notice a peculiarity proves nothing about it.
"""

from __future__ import annotations

import copy
import json
import re
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from golden import BARE, FAMILIES, GOLDEN_DIR, Golden, checksum, save_golden, write_hf_folder
from golden_configs import ABLATIONS, CONFIGS, NEAR, ORIGINAL, SIZES, TOWER, VOCAB
from safetensors import safe_open
from smollm2_texts import CHATS, PROMPTS, TOKENIZER_TEXTS
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

LENGTH, PROMPT, GREEDY = 41, 17, 28


def merged(old: Any, new: Any) -> Any:
    """A configuration with some fields, however deep, set to something else."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {key: merged(old.get(key), value) for key, value in new.items()}


def as_transformers_writes(name: str) -> Golden:
    """A golden without numbers: config.json, and every tensor's name and shape, as save_pretrained gives them."""
    kind, fields = CONFIGS[name]
    if kind == "gemma3":
        fields = {"text_config": fields, "vision_config": TOWER, "mm_tokens_per_image": 4}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields), dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads(Path(folder, "config.json").read_text())
        with safe_open(Path(folder, "model.safetensors"), "np") as file:
            tensors = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    around: dict[str, Any] = {}
    if kind == "gemma3":
        inside = re.compile(r"(?:model\.)?language_model\.(?:model\.)?")
        towers = {name.removeprefix("model."): shape for name, shape in tensors.items() if not inside.match(name)}
        tensors = {inside.sub("model.", name): shape for name, shape in tensors.items() if inside.match(name)}
        around = {"config": config, "tensors": towers}
        config = {"bos_token_id": 0, "eos_token_id": 2} | config.pop("text_config")
    empty = np.zeros((0, VOCAB), np.float32)
    return Golden(name, config, tensors, 0, 0, np.zeros(0), empty, [], [], omissible(config, around), None, around)


def omissible(config: dict[str, Any], around: dict[str, Any]) -> list[str]:
    """The fields that have the same value when config.json leaves them out, each and all of them.

    A whole config.json says its sizes, a text part nested in another need not.
    """
    said = {"model_type", "architectures"} | (set() if around else SIZES)

    def read(left_out: list[str]) -> dict[str, Any]:
        kept = {key: value for key, value in config.items() if key not in (*left_out, "model_type")}
        with suppress(Exception):  # a default that the other fields contradict
            return AutoConfig.for_model(config["model_type"], **copy.deepcopy(kept)).to_dict()
        return {}

    whole, found = read([]), list[str]()
    for key in config:
        if key not in said and read([*found, key]) == whole:
            found.append(key)
    return found


def load(golden: Golden, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """The golden as a transformers model, read from a folder with no key missing or unexpected."""
    with tempfile.TemporaryDirectory() as folder:
        write_hf_folder(golden, folder, **options)
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True
        )
    info["unexpected_keys"] = [key for key in info["unexpected_keys"] if not key.endswith("attn.masked_bias")]
    wrong = {key: value for key, value in info.items() if value}
    assert not wrong, (golden.name, options, wrong)
    return model.eval()


@torch.inference_mode()
def all_logits(model: Any, tokens: list[int] | np.ndarray) -> np.ndarray:
    return model(torch.tensor(np.asarray(tokens, np.int64)[None]), use_cache=False).logits[0].numpy()


@torch.inference_mode()
def greedy_tokens(model: Any, prompt: list[int], count: int, cached: bool = True) -> tuple[list[int], list[float]]:
    """`count` greedy tokens, never stopping, and by how much each beat the next.

    cached: by transformers' own KV cache; else each step computes the whole text anew.
    """
    text, cache = list(prompt), None
    margins = []
    for _ in range(count):
        out = model(torch.tensor([text[-1:] if cache else text]), past_key_values=cache, use_cache=cached)
        cache = out.past_key_values if cached else None
        best = out.logits[0, -1].topk(2)
        text.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
    return text[len(prompt) :], margins


def expert_margin(model: Any, tokens: list[int]) -> float:
    """The smallest gap between the last expert chosen and the first one left out, over all layers and tokens."""
    gaps = [1.0]

    def look(module: Any, inputs: Any, output: Any) -> None:
        logits = inputs[0].reshape(-1, inputs[0].shape[-1]) @ module.weight.T
        scores = torch.softmax(logits + getattr(module, "bias", 0.0), -1)
        best = scores.sort(descending=True).values
        gaps.append(float((best[:, module.top_k - 1] - best[:, module.top_k]).min()))

    routers = [module for name, module in model.named_modules() if name.endswith(("mlp.gate", "mlp.router"))]
    hooks = [module.register_forward_hook(look) for module in routers]
    all_logits(model, tokens)
    for hook in hooks:
        hook.remove()
    return min(gaps)


def attempt(written: Golden, seed: int) -> Golden | None:
    """The golden of this seed, or None where float32 rounding could change a greedy token or a choice of experts."""
    bare, name = written.name in BARE, written.name
    tokens = np.random.RandomState(seed + 1).randint(3, VOCAB, 19 if bare else LENGTH)
    tokens[0] = 0
    prompt, count = tokens[: 11 if bare else PROMPT].tolist(), 6 if bare else GREEDY
    golden = replace(written, seed=seed, tokens=tokens, prompt=prompt)
    model = load(golden)
    logits = all_logits(model, tokens)
    limit = written.config.get(ORIGINAL, LENGTH)
    greedy, margins = greedy_tokens(model, prompt, count, cached=limit >= LENGTH)
    gap = min(expert_margin(model, tokens.tolist()), expert_margin(model, prompt + greedy))
    largest = float(np.abs(logits).max())
    if min(margins) < 0.003 * largest or gap < 2e-4 or len(set(greedy)) < (count if bare else 12):
        return None
    short = check_lengths(model, golden, logits, greedy, limit) if limit < LENGTH else None
    error = distance(all_logits(model.double(), tokens), logits)
    assert error < 1e-5, f"{name}: float32 itself is {error} off"
    print(f"{name:15s} seed {seed:2d}: margin {min(margins):.4f} of {largest:.1f}, experts' gap {gap:.4f}, "
          f"{len(set(greedy))} different greedy tokens, float32 error {error:.1e}")  # fmt: skip
    crc = checksum(golden.weights())
    return replace(golden, weights_crc=crc, logits=logits, greedy=greedy, short_logits=short)


def check_lengths(model: Any, golden: Golden, logits: np.ndarray, greedy: list[int], limit: int) -> np.ndarray:
    """longrope: the logits of the first `limit` tokens alone; those of more tokens are computed as the whole text's.

    And transformers' own generation, which computes the text anew where it grows longer, gives the greedy tokens.
    """
    short = all_logits(model, golden.tokens[:limit])
    for n in (1, PROMPT, limit - 1):
        assert distance(all_logits(model, golden.tokens[:n]), short[:n]) < 1e-5
    for n in (limit + 1, limit + 2):
        assert distance(all_logits(model, golden.tokens[:n]), logits[:n]) < 1e-5
    assert distance(short, logits[:limit]) > 0.03
    asked = torch.tensor([golden.prompt])
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        seen = torch.ones_like(asked)
        found = model.generate(asked, attention_mask=seen, do_sample=False, max_new_tokens=len(greedy), pad_token_id=0)
    assert found[0, len(golden.prompt) :].tolist() == greedy, "transformers' generate differs at the crossing"
    return short


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, as a share of the largest expected value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def check_variants(golden: Golden) -> None:
    """transformers reads the same model from every spelling that write_hf_folder knows."""
    kind = golden.config["model_type"]
    variants: list[dict[str, Any]] = [{"dialect": 4, "shards": 3}, {"bare": True}]
    if kind not in ("gemma3_text", "olmo3"):  # younger than the spelling `type`, which transformers overlooks there
        variants += [{"dialect": 4, "rope_type_key": "type"}]
    if kind == "gpt2":
        variants += [{"prefix": False, "old_buffers": True, "dialect": 4}]
    if kind == "gpt_neox":
        variants += [{"old_buffers": True, "dialect": 4}]
    for options in variants:
        same = all_logits(load(golden, **options), golden.tokens)
        assert np.array_equal(same, golden.logits), (golden.name, options, np.abs(same - golden.logits).max())


def check_ablations(golden: Golden) -> None:
    """Each peculiarity of the family shows in the logits, far above the tolerance (1e-4) of the tests."""
    for least, table in ((0.003, ABLATIONS), (2e-4, NEAR)):
        for change in table.get(golden.name, ()):
            fields = {key: value for key, value in change.items() if key != "weights"}
            model = load(replace(golden, config=merged(golden.config, fields)))
            for text, value in change.get("weights", {}).items():
                with torch.no_grad():
                    changed = [weight.fill_(value) for name, weight in model.named_parameters() if text in name]
                assert changed, f"{golden.name}: no weight is called {text}"
            moved = distance(all_logits(model, golden.tokens), golden.logits)
            print(f"    {moved:8.4f} {change}")
            assert moved > least, f"{golden.name} does not notice {change}: {moved}"


def make(name: str) -> None:
    """Writes golden/NAME.npz from the first seed that will do."""
    written = as_transformers_writes(name)
    for seed in range(300):
        if golden := attempt(written, seed):
            check_variants(golden)
            check_ablations(golden)
            return save_golden(golden)
    raise SystemExit(f"{name}: no seed will do")


def load_smollm2(path: Path) -> tuple[Any, Any, Tokenizer]:
    """transformers' model in float32 and its tokenizer, both read from the GGUF, and the tokenizer as first published.

    The published one splits digits from everything before them, which transformers does not read from the GGUF
    (`tokenizer.ggml.pre` = smollm; llama.cpp does): they differ for spaces before digits.
    """
    quantized = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    model = AutoModelForCausalLM.from_config(quantized.config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    published = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    digits = pre_tokenizers.Digits(individual_digits=True)
    published.pre_tokenizer = pre_tokenizers.Sequence([digits, published.pre_tokenizer])
    return model.eval(), tokenizer, published


def make_smollm2(path: Path) -> None:
    """Writes golden/smollm2.json (greedy tokens) and golden/smollm2_tokenizer.json (ids of awkward texts)."""
    model, tokenizer, published = load_smollm2(path)
    render = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)
    runs: list[dict[str, Any]] = []
    for prompt in PROMPTS:
        text, asked = prompt, {"text": prompt}
        if not isinstance(prompt, str):
            text, asked = render(prompt), {"messages": prompt}
        ids = tokenizer(text).input_ids
        assert ids == published.encode(text).ids, "a prompt must not depend on the reading of digits"
        greedy, margins = greedy_tokens(model, ids, 32)
        print(f"{len(ids):4d} tokens, margin {min(margins):.4f}: {tokenizer.decode(greedy)!r}")
        runs.append({**asked, "ids": ids, "greedy": greedy, "margins": [round(margin, 4) for margin in margins]})
    texts = []
    for text in TOKENIZER_TEXTS:
        ids, split = tokenizer(text).input_ids, published.encode(text).ids
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        texts.append({"text": text, "ids": ids} | ({} if ids == split else {"split_digits": split}))
    chats = []
    for messages in CHATS:
        for reply in (True, False):
            text = render(messages, add_generation_prompt=reply)
            ids = tokenizer(text).input_ids
            assert ids == published.encode(text).ids
            chats.append({"messages": messages, "add_generation_prompt": reply, "text": text, "ids": ids})
    write_compact("smollm2.json", runs)
    write_compact("smollm2_tokenizer.json", {"texts": texts, "chats": chats})


def write_compact(name: str, value: Any) -> None:
    """Writes JSON, one item a line, in ASCII: some of the texts would upset an editor."""
    lists = value.items() if isinstance(value, dict) else [(None, value)]
    parts = []
    for key, items in lists:
        lines = ",\n".join(json.dumps(item, separators=(",", ":")) for item in items)
        parts.append((f"{json.dumps(key)}:" if key else "") + f"[\n{lines}\n]")
    text = ",\n".join(parts)
    (GOLDEN_DIR / name).write_text(("{" + text + "}" if isinstance(value, dict) else text) + "\n", encoding="ascii")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    assert list(CONFIGS) == FAMILIES + BARE
    if sys.argv[1:2] == ["--smollm2"]:
        make_smollm2(Path(sys.argv[2]))
    else:
        for chosen in sys.argv[1:] or FAMILIES + BARE:
            make(chosen)
