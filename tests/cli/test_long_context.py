"""A model of a long context starts on a laptop: commands in a process that may not have much memory.

The cache's shape is that of Llama 3.2 1B: 16 layers, 8 key heads of 64, 131,072 positions, 8.6 GB for one sequence of
that length. llama.cpp#8817 and #10136, vllm#5847: the memory of the whole context was asked for, whatever was needed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from golden import load_golden, write_hf_folder

POSITIONS, POSITION = 131_072, 16 * 8 * (64 + 64) * 4  # and its bytes
LIMIT = 3_000_000 << 10  # bytes, as `ulimit -v 3000000` says it in kilobytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS has no effect elsewhere")


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model of that shape, with narrow matrices; it has a chat template."""
    golden = load_golden("llama")
    heads = {"num_hidden_layers": 16, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64}
    config = golden.config | heads | {"max_position_embeddings": POSITIONS, "attention_bias": False, "mlp_bias": False}
    hidden, own = config["hidden_size"], ("q_proj", "k_proj", "v_proj")
    tensors = {}
    for i in range(16):
        for name, shape in golden.tensors.items():
            if name.endswith("proj.bias"):
                continue
            if "self_attn" in name:
                shape = (8 * 64, hidden) if any(part in name for part in own) else (hidden, 8 * 64)
            tensors[re.sub(r"layers\.\d+", f"layers.{i}", name)] = shape
    changed = replace(golden, config=config, tensors=tensors)
    return str(write_hf_folder(changed, tmp_path_factory.mktemp("long")))


PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
from tinyinfer.cli import main
sys.exit(main(sys.argv[2:]))
"""


def command(*words: str, stdin: str = "", limit: int = LIMIT) -> subprocess.CompletedProcess[str]:
    """A command in a process that may have so many bytes of memory."""
    return subprocess.run([sys.executable, "-c", PROGRAM, str(limit), *words], input=stdin, capture_output=True,
                          text=True, timeout=120)  # fmt: skip


CACHES = {
    "contiguous": (), "paged": ("--kv-cache", "paged"), "8 bits": ("--kv-bits", "8"),
    "paged, 4 bits": ("--kv-cache", "paged", "--kv-bits", "4"),
    "prefixes": ("--kv-cache", "paged", "--prefix-cache", "on"),
    "drafts": ("--speculative", "prompt-lookup"), "draft model": ("--speculative", "self"),
    "candidates": ("--kv-cache", "paged", "--speculative", "prompt-lookup", "--num-draft-candidates", "3"),
}  # fmt: skip


@pytest.mark.parametrize("switches", CACHES.values(), ids=CACHES)
def test_two_tokens_need_no_more_than_their_own_memory(switches, long):
    """8.6 GB were asked for, 77 for Qwen3-4B-2507's cache, and refused."""
    done = command("generate", "-m", long, "--raw", "-n", "2", *switches, "hi")
    assert (done.returncode, "error" in done.stderr) == (0, False), done.stderr


@pytest.mark.full
def test_bench_reserves_prompt_and_answer(long):
    """-p 4 -g 4: 8 positions, not 131,072. The figures still come."""
    done = command("bench", "-m", long, "-p", "4", "-g", "4", "--json", "-n", "1")
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    assert json.loads(line)["generation_tps"] > 0
    assert json.loads(line)["peak_cache_bytes"] == 8 * POSITION


def test_eval_reserves_its_window(long, tmp_path):
    (tmp_path / "text").write_text("A text of no more than 36 letters.")
    done = command("eval", "-m", long, "--text", str(tmp_path / "text"))
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout


@pytest.mark.parametrize("switches", [(), ("--kv-cache", "paged", "--prefix-cache", "on")], ids=["contiguous", "paged"])
def test_chat_goes_on_in_a_small_memory(switches, long):
    """Two questions; the conversation grows, and nothing else."""
    done = command("chat", "-m", long, "-n", "4", "-q", *switches, stdin="one?\ntwo?\n")
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr


def test_an_answer_without_an_end_begins_all_the_same(long):
    """-n 100000 would need 6.6 GB if it came to its end. It does not begin with them, and ends with what it has."""
    done = command("generate", "-m", long, "--raw", "-q", "-n", "100000", "--stop", "e", "hi")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("switches", "limit", "said", "cures"),
    [
        (("-c", "131072"), LIMIT, "a prompt and its answer of up to 131072 positions need 8.59 GB of KV cache, and the "
         "system does not give them to this process, which may use 3.072 GB in all; give a smaller --max-model-len, "
         "which every sequence reserves, or add --kv-bits=8", [("-c", "1000"), ("-c", "131072", "--kv-bits", "2")]),
        (("-c", "131072", "--kv-bits", "8"), LIMIT * 2 // 3, "131072 positions need 2.55 GB", [("-c", "1000")]),
        (("--kv-cache", "paged", "--num-blocks", "8192"), LIMIT, "--num-blocks=8192; give fewer, or add --kv-bits=8",
         [("--kv-cache", "paged", "--num-blocks", "1000"),
          ("--kv-cache", "paged", "--num-blocks", "8192", "--kv-bits", "8")]),
    ],
    ids=["context", "8 bits", "blocks"],
)  # fmt: skip
def test_what_is_asked_for_in_full_and_does_not_fit_says_what_helps(switches, limit, said, cures, long):
    """The cure was --dtype bfloat16, which the cache ignores. Here each cure that is named is tried."""
    words = ("generate", "-m", long, "--raw", "-n", "2", "hi")
    done = command(*words, *switches, limit=limit)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert said in line
    for cure in cures:
        assert command(*words, *cure, limit=limit).returncode == 0
