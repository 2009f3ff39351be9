"""Checkpoints: folders from which a run goes on bit by bit, and which are models themselves.

    run/checkpoints/step-0000200/   config.json  model.safetensors  tokenizer.json
                                    optimizer.safetensors  state.json
    run/best/                       the same model files, at the lowest validation loss

Each is written beside its place and moved there whole. Nothing in them is ever executed.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from lcm import models
from lcm.errors import FileError
from lcm.files.atomic import recover_folder, write_folder_atomically
from lcm.files.safetensors import open_safetensors, save_safetensors
from lcm.files.weights import open_weights
from lcm.nn import Model
from lcm.text.tokenizer import Tokenizer
from lcm.train.optimizers import Optimizer

FOLDER = "checkpoints"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"


def save(
    run: Path, model: Model, tokenizer: Tokenizer, optimizer: Optimizer, state: dict[str, Any]
) -> Path:
    """Write the checkpoint of `state["step"]`; the ones before it stay whole whatever happens."""
    path = run / FOLDER / f"step-{state['step']:07}"
    path.parent.mkdir(parents=True, exist_ok=True)

    def fill(folder: Path) -> None:
        _fill_model(folder, model, tokenizer)
        save_safetensors(folder / OPTIMIZER, optimizer.state())
        (folder / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    write_folder_atomically(path, fill)
    return path


def save_model(path: Path, model: Model, tokenizer: Tokenizer) -> None:
    """Write the model alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_folder_atomically(path, lambda folder: _fill_model(folder, model, tokenizer))


def _fill_model(folder: Path, model: Model, tokenizer: Tokenizer) -> None:
    ends = {"bos_token_id": tokenizer.start, "eos_token_id": tokenizer.end}
    models.save(model, folder, extra=ends)
    tokenizer.save(folder)


def latest(run: Path) -> Path | None:
    """The checkpoint with the most steps."""
    found = sorted((run / FOLDER).glob("step-*"))
    return recover_folder(found[-1]) if found else None


def restore(path: Path, model: Model, optimizer: Optimizer) -> dict[str, Any]:
    """Fill model and optimiser from a checkpoint; its state. `FileError` where it is damaged."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        step = int(state["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{path / STATE}: cannot be read ({error}); remove {path.name} to go on from the one before"
        ) from None
    models.fill(model, open_weights(path), str(path))
    optimizer.restore(open_safetensors(path / OPTIMIZER), step, str(path / OPTIMIZER))
    return dict(state)


def rotate(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for path in sorted((run / FOLDER).glob("step-*"))[:-keep]:
        shutil.rmtree(path)
