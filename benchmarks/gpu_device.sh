#!/usr/bin/env bash
# Everything that needs a GPU, the shortest first, in at most 9 minutes: for a machine that is lent for minutes.
#     bash benchmarks/gpu_device.sh            parity of every operation, a rehearsal, then the table
# Needs python3 with cupy, numpy, ml_dtypes, safetensors and pytest; torch and transformers for their lines of the table.
# Nothing is installed and nothing is fetched. All output also goes to $OUT (else the present folder): parity.txt,
# gpu.jsonl line by line, and at the end gpu.txt.
set -uo pipefail
cd "$(dirname "$0")/.."
export OUT=${OUT:-$PWD} PYTHONUNBUFFERED=1 PYTHONPATH=$PWD

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv
python3 -c 'import cupy, numpy; print("cupy", cupy.__version__, "numpy", numpy.__version__)'
timeout 120 python3 -m pytest -q -n 0 -x -m gpu tests 2>&1 | tee "$OUT/parity.txt" | tail -15
timeout 60 python3 benchmarks/gpu.py --rehearse --only 'batch 1, int4' --seconds 50 | tail -8
timeout 330 python3 benchmarks/gpu.py --seconds 310
