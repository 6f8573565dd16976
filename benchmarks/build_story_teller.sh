#!/usr/bin/env bash
# The story-teller of weights/story-teller made anew: bash benchmarks/build_story_teller.sh WORK OUTPUT
# WORK gets the stories that SmolLM2 writes and the student, OUTPUT is the folder. Each command goes on where it was
# stopped, and what is there is left alone. Bits depend on the machine; the quality is what the last command measures.
# On 2 cores the two files of stories, side by side, take a quarter of an hour, the training as long on one core.
# STORIES=3000 (of each file) and TOKENS=4000000 for more; WRITE='--backend cupy' TRAIN='--backend cupy' on a GPU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" "$(dirname "$2")"
work=$(cd "$1" && pwd)
output=$(cd "$(dirname "$2")" && pwd)/$(basename "$2") # a path: "story-teller" alone is the name of the one that comes along

written() { # SEED
    [ -e "$work/stories$1.jsonl" ] || python "$here/story_teller.py" write "$work/stories$1.jsonl" --seed "$1" \
        --stories "${STORIES:-250}" ${WRITE:--t 1}
}
written 1 &
written 2
wait $!
[ -e "$work/student/config.json" ] ||
    python "$here/story_teller.py" make "$work/student" --text "$work/stories1.jsonl" "$work/stories2.jsonl" \
        --mixed 4000
[ -e "$work/student/trained" ] ||
    python "$here/story_teller.py" train "$work/student" --tokens "${TOKENS:-2000000}" ${TRAIN:--t 1}
[ -e "$output" ] || python -m tinyinfer quantize -m "$work/student/trained" --quantize int4 --symmetric on \
    --quantize-rules 'head int4' -o "$output"
python "$here/story_teller.py" measure "$work/student" --student "$output" ${TRAIN:-}
