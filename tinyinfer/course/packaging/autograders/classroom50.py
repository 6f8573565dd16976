"""A custom autograder of Classroom 50: grades @NAME@.py of the checkout in the current folder, writes result.json.

The engine's wheel and requirements.txt lie beside this file. It needs Python 3.11 or newer, and pip where a requirement
is missing.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENGINE, PACKAGES = HERE / "engine", HERE / "packages"


def main() -> int:
    """Unpacks the engine and grades; the exit status is not 0 where the grader itself fails."""
    Path("result.json").unlink(missing_ok=True)  # one that the student has committed
    [wheel] = HERE.glob("tinyinfer-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(ENGINE)
    path = os.pathsep.join([str(ENGINE), str(PACKAGES)])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OPENBLAS_NUM_THREADS": "1"}
    rehearsal = [sys.executable, "-m", "tinyinfer.course.packaging.rehearsal"]
    rehearsal.append(str(ENGINE / "tinyinfer" / "course" / "assignments" / "@NAME@"))
    trial = subprocess.run(rehearsal, env=environment, cwd=HERE, capture_output=True)
    if trial.returncode:  # a requirement is missing
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(PACKAGES)]
        subprocess.run([*pip, "-r", str(HERE / "requirements.txt")], check=True, cwd=HERE)
    grader = [sys.executable, "-m", "tinyinfer.course.packaging.autograder", "classroom50", "@NAME@", os.getcwd()]
    return subprocess.run(grader, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
