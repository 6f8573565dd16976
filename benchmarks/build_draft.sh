#!/usr/bin/env bash
# The draft head of weights/smollm2-135m-draft made anew: bash benchmarks/build_draft.sh WORK OUTPUT
# WORK gets the text (SmolLM2's own answers) and what SmolLM2 said of it (5 KB a token), OUTPUT is the folder. What
# is there is left alone, and a text goes on where it was stopped. On 2 cores: the text an hour, reading it half an
# hour and learning from it another half on one core. TOKENS=1500000 for more text. On a GPU
# WRITE='--backend cupy --dtype bfloat16 --kv-cache paged --max-num-seqs 256' TRAIN='--backend cupy --batch 1024 --rate 3e-3'.
# Bits depend on the machine; the quality is what benchmarks/draft_student.py measures.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$1 output=$2
mkdir -p "$work"
cpu='--backend numba --quantize int8 --activations int8 --max-num-seqs 32 -t 1'

written() { # SEED
    [ -e "$work/answers$1.jsonl" ] || python -m tinyinfer synthesize -n "${TOKENS:-155000}" --prompts questions \
        --max-tokens 320 --temperature 0.6 --seed "$1" -c 1024 ${WRITE:-$cpu} -o "$work/answers$1.jsonl"
}
written 1 &
written 2
wait $!
[ -e "$output" ] || python "$here/draft_head.py" "$work/answers1.jsonl" "$work/answers2.jsonl" --work "$work" \
    ${TRAIN:--t 1} -o "$output"
