"""Finding a model: by path, by name in the user's folder of models, installed as a package, or on a hub."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from lcm import models, settings
from lcm.errors import FileError, UsageError
from lcm.generate import hub
from lcm.generate.text_model import TextModel
from lcm.packages import metadata
from lcm.text.tokenizer import Tokenizer

GROUP = "lcm.models"  # entry points: a name, and the package that holds the model's files
DEFAULT = "tinycode"


def load_model(name: str | Path = "") -> TextModel:
    """The model of this name or path, ready to complete text; the installed one when no name is given."""
    folder = find_model(str(name))
    with _no_collections():
        model, tokenizer = models.load(folder, as_stored=True), Tokenizer.load(folder)
    _check_vocabulary(folder, tokenizer, model.vocabulary)
    return TextModel(model, tokenizer, folder)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Inside, no garbage is looked for: of hundreds of thousands of words, all are kept."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_vocabulary(folder: Path, tokenizer: Tokenizer, rows: int) -> None:
    """`FileError` where a text may get an id that the embedding lacks; control tokens are in no text."""
    beyond = set(range(rows, tokenizer.vocabulary)) - set(tokenizer.special.values())
    if beyond:
        raise FileError(
            f"{folder}: its tokenizer has the token {min(beyond)}, and its embedding only {rows} rows; "
            "are both of the same model?"
        )


def find_model(name: str = "") -> Path:
    """The folder of a model, or its GGUF file; `UsageError` names what there is.

    Without a name it is the one of the setting `model`, else the installed one.
    """
    name = name or settings.get("model")
    if name.startswith(hub.PREFIX):
        return hub.fetched(name)
    if name and (found := _as_model(Path(name).expanduser())):
        return found
    if name and Path(name).expanduser().is_dir():
        raise FileError(
            f"{name}: no config.json there; a model's folder has one, with its weights beside it"
        )
    known = installed()
    name = name or (DEFAULT if DEFAULT in known or not known else next(iter(known)))
    if name not in known:
        there = ", ".join(known) or "none; pip install 'lcm[tinycode]', or train one: lcm train"
        raise UsageError(
            f"no model {name!r}: neither a folder with a config.json nor a GGUF file; installed: {there}; "
            "one on a hub is called hub:owner/name"
        )
    return known[name]


def installed() -> dict[str, Path]:
    """Every model that can be had by name: those in `models_dir`, then those that packages bring."""
    found: dict[str, Path] = {}
    for point in metadata.entry_points(group=GROUP):
        spec = find_spec(point.value.partition(":")[0])
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if model := _as_model(Path(folder)):
                found[point.name] = model
    if home := settings.get("models_dir"):
        for child in sorted(Path(home).expanduser().glob("*/")):
            if model := _as_model(child):
                found[child.name] = model
    return found


def _as_model(folder: Path) -> Path | None:
    """The folder or GGUF file itself, or for a training run its best model, or its latest."""
    if (folder / "config.json").is_file() or (folder.suffix == ".gguf" and folder.is_file()):
        return folder
    if (folder / "best" / "config.json").is_file():
        return folder / "best"
    checkpoints = sorted(folder.glob("checkpoints/step-*/config.json"))
    return checkpoints[-1].parent if checkpoints else None
