"""A checkpoint: all that a run needs to go on, in one file that is whole or absent.

Three arrays (parameters, means, squares), the place in the text, and the losses so far. Beside them stands what the run
was begun with, so that a run of other switches does not go on from it.

Wins: a run of hours may be stopped at any time, and a kill costs the steps since the last checkpoint. Loses: twelve
bytes a parameter, written each time.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tinyinfer.distillation.training import Place, Training
from tinyinfer.errors import ModelError
from tinyinfer.loading.saving import sync
from tinyinfer.loading.whole import whole

KEY = "tinyinfer"  # of the metadata


def save(path: Path, training: Training, about: dict[str, Any]) -> None:
    """Writes the run's state. The checkpoint before is replaced only when the new one is whole. Raises ModelError."""
    p, o, to_host = training.parameters, training.optimizer, training.ops.to_host
    arrays = {"values": to_host(p.values), "means": to_host(o.means), "squares": to_host(o.squares)}
    state = json.dumps({"about": about, "steps": o.steps, "place": asdict(training.place)})
    try:
        with whole(path) as part:
            save_file(arrays, part, {KEY: state})
            sync(part)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        wrong = f"{path}: the checkpoint cannot be written ({reason})"
        raise ModelError(f"{wrong}; make room, and run the same command again") from None


def restore(path: Path, training: Training, about: dict[str, Any]) -> bool:
    """Makes the run what it was at its checkpoint; False where there is none.

    Raises ModelError for a file that is no checkpoint, and for one of a run that was begun with something else.
    """
    if not path.exists():
        return False
    p, o, xp = training.parameters, training.optimizer, training.ops.xp
    try:
        with safe_open(path, "np") as file:
            state = json.loads((file.metadata() or {})[KEY])
            check_same(path, state["about"], about)
            steps, there = state["steps"], state["place"]
            losses, tests = ([(n, loss) for n, loss in there[name]] for name in ("losses", "tests"))
            place = Place(there["tokens"], there["epoch"], there["batch"], losses, tests)
            for name, array in (("values", p.values), ("means", o.means), ("squares", o.squares)):
                array[...] = xp.asarray(file.get_tensor(name))
    except (OSError, SafetensorError, LookupError, ValueError, TypeError, AttributeError) as error:
        wrong = f"{path}: is no checkpoint of this student ({error})"
        raise ModelError(f"{wrong}; remove it, or choose another -o") from None
    training.go_on(steps, place)
    return True


def check_same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises ModelError, naming what differs, for the checkpoint of a run that was begun with something else."""
    other = [f"{key} {found.get(key)!r}, now {wanted[key]!r}" for key in wanted if found.get(key) != wanted[key]]
    if other:
        wrong = f"{path}: the checkpoint is of another run ({'; '.join(other)})"
        raise ModelError(f"{wrong}; give the same flags, or remove the file to begin anew")
