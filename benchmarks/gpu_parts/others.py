"""transformers and torch.compile on the same device, with the same weights and prompts, in bfloat16.

Three ways, each as its documentation shows it: `generate` as it comes; `generate` with a static cache, which
transformers compiles by itself; and a loop of one compiled step over a static cache with CUDA graphs (the way of
gpt-fast), which no engine around it slows down.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from gpu_parts.cases import Case
from gpu_parts.measured import Answer, Run
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.loading.hf_names import LLAMA
from tinyinfer.model.config import ModelConfig


def build(checkpoint: Checkpoint, device: str) -> Any:
    """The checkpoint as transformers' own model, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device(device):
        model = AutoModelForCausalLM.from_config(llama_config(checkpoint.config), dtype=torch.bfloat16)
    modules = {short: module for module, short in LLAMA.items()}
    held = dict(model.named_parameters())
    for name, tensor in checkpoint.tensors.items():
        *layer, last = name.split(".")
        target = held[".".join(["model", *layer, modules[last], "weight"])]
        with torch.no_grad():
            target.copy_(torch.from_numpy(np.array(tensor.numpy())))
    return model.eval()


def llama_config(c: ModelConfig) -> Any:
    """transformers' configuration of a Llama."""
    from transformers import LlamaConfig

    [rope] = {rope for rope in c.rope if rope}
    return LlamaConfig(
        vocab_size=c.vocab_size, hidden_size=c.hidden_size, intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_layers, num_attention_heads=c.num_heads, num_key_value_heads=c.num_kv_heads,
        head_dim=c.head_dim, max_position_embeddings=c.max_position, rms_norm_eps=c.norm_eps, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": rope.theta},
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip


def other_run(case: Case, variant: str, model: Any, device: str) -> Run:
    """Answers the case's prompts once by this variant."""
    import torch

    prompts = torch.tensor(case.prompts(), device=device)
    if variant == "torch.compile, static cache":
        return compiled_run(case, model, prompts)
    static = {"cache_implementation": "static"} if variant == "generate, static cache" else {}

    def generate(new: int) -> Any:
        with torch.no_grad():
            return model.generate(
                prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new, min_new_tokens=new,
                do_sample=False, **static,
            )  # fmt: skip

    def run(new: int) -> Answer:
        first = 0.0 if case.prefill else seconds_of(lambda: generate(1))[0]
        seconds, rows = seconds_of(lambda: generate(new))
        count = case.batch * (case.prompt if case.prefill else new - 1)
        return Answer(seconds - first, count, rows[:, case.prompt :].tolist())

    return run


def compiled_run(case: Case, model: Any, prompts: Any) -> Run:
    """A loop around one compiled step of a static cache; the prompt goes through the model as it is."""
    import torch
    from transformers import StaticCache

    def step(tokens: Any, position: Any, cache: Any) -> Any:
        logits = model(tokens, position_ids=position, past_key_values=cache, use_cache=True).logits
        return logits[:, -1].argmax(-1, keepdim=True)

    compiled = torch.compile(step, mode="reduce-overhead", fullgraph=True)
    cache = StaticCache(config=model.config, max_cache_len=case.prompt + case.new)

    def run(new: int) -> Answer:
        with torch.no_grad():
            cache.reset()
            places = torch.arange(case.prompt, device=prompts.device)[None]
            answer = [step(prompts, places, cache)]
            place = torch.full((1, 1), case.prompt, device=prompts.device)

            def decode() -> None:
                for _ in range(new - 1):
                    answer.append(compiled(answer[-1], place, cache).clone())  # the next replay writes over its result
                    place.add_(1)

            seconds, _ = seconds_of(decode)
        return Answer(seconds, case.batch * (new - 1), torch.cat(answer, dim=1).tolist())

    return run


def seconds_of(work: Any) -> tuple[float, Any]:
    """Seconds until the device has done the work, and its result."""
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    begun = time.perf_counter()
    result = work()
    wait()
    return time.perf_counter() - begun, result
