#!/usr/bin/env bash
# The draft model of weights/smollm2-135m-draft made anew: bash benchmarks/build_draft.sh WORK OUTPUT
# WORK gets the text (SmolLM2's own answers) and what the teacher said of it, OUTPUT is the folder. Each command goes on
# where it was stopped, and what is there is left alone. On 2 cores the text takes some three hours, or a minute on a
# large GPU (BACKEND='--backend cupy --dtype bfloat16 --kv-cache paged --max-num-seqs 256', as it was made); the teacher
# half an hour, the training an hour. Bits depend on the machine; the quality is what benchmarks/draft_student.py measures.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$1 output=$2
mkdir -p "$work"

[ -e "$work/answers.jsonl" ] || python -m tinyinfer synthesize -n 427000 --prompts questions --max-tokens 320 \
    --temperature 0.6 --seed 1 -c 1024 ${BACKEND:-} -o "$work/answers.jsonl"

[ -e "$work/draft" ] || python -m tinyinfer distill --student "$here/build_draft.json" --text "$work/answers.jsonl" \
    --top-k 24 --batch-tokens 1024 --rate 2e-3 --warm-up 100 --decay 0.05 --tokens 2200000 \
    --plot "$work/draft.png" --log "$work/draft.log" -o "$work/draft"

[ -e "$output" ] || python -m tinyinfer quantize -m "$work/draft" --quantize int4 --symmetric on --quantize-rules 'head int4' \
    --vocabulary-of smollm2-135m -o "$output"
