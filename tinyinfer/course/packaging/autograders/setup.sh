#!/bin/sh
# Builds the place of the grading, once: Python 3.11 or newer, NumPy, the engine. Network is used only for what is missing.
# AUTOGRADER names another folder than /autograder. The students' code will run under a free user id, which needs no name.
set -eu
root=${AUTOGRADER:-/autograder}
source=$root/source

fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
python=
for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if fits "$name"; then python=$(command -v "$name"); break; fi
done
if [ -z "$python" ]; then
    apt-get update
    apt-get install -y python3.11 python3-pip
    python=$(command -v python3.11)
fi

# A wheel without compiled parts is installed by unpacking it.
rm -rf "$root/engine" "$root/packages"
mkdir -p "$root/engine" "$root/packages"
"$python" -m zipfile -e "$source"/tinyinfer-*.whl "$root/engine"
printf '%s\n' "$python" > "$root/engine/python"

# Our own solution must have full marks here; if it has not, what it imports is missing.
assignment=$root/engine/tinyinfer/course/assignments/@NAME@
rehearse() {
    (cd / && PYTHONSAFEPATH=1 PYTHONPATH=$root/engine:$root/packages OPENBLAS_NUM_THREADS=1 \
        "$python" -m tinyinfer.course.packaging.rehearsal "$assignment" "$source/hidden/hidden_@NAME@.py" > /dev/null)
}
if ! rehearse 2> /dev/null; then
    "$python" -m pip install --quiet --no-deps --target "$root/packages" -r "$source/requirements.txt"
    rehearse
fi
