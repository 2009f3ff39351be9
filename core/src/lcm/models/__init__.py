"""Models: one file per architecture, named by its `model_type`, and how a folder becomes one.

A model's folder is a Hugging Face one: `config.json`, `model.safetensors` (or shards), `tokenizer.json`.
"""

import dataclasses
import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lcm import formats
from lcm.errors import FileError, LcmError, UsageError
from lcm.files.safetensors import save_safetensors
from lcm.files.weights import open_weights
from lcm.nn import Model

# model_type: the module that defines it, and the name that transformers gives the class.
ARCHITECTURES = {
    "gpt2": ("lcm.models.gpt2", "GPT2LMHeadModel"),
    "llama": ("lcm.models.llama", "LlamaForCausalLM"),
    "mistral": ("lcm.models.llama", "MistralForCausalLM"),
}


def build(values: dict[str, Any]) -> Model:
    """An uninitialised model from the contents of a `config.json`."""
    architecture = _architecture(values)
    model: Model = architecture.MODEL(architecture.configure(values))
    model.model_type = values["model_type"]
    return model


def fresh(values: dict[str, Any], seed: int) -> Model:
    """A model with random parameters."""
    model = build(values)
    model.initialise(np.random.default_rng(seed))
    return model


def load(folder: str | Path) -> Model:
    """The model in a folder, with its weights as f32; `FileError` says what is missing or does not fit."""
    folder = Path(folder)
    values = read_config(folder)
    try:
        model = build(values)
    except LcmError as error:
        raise FileError(f"{folder}: {error}") from None
    fill(model, open_weights(folder), str(folder))
    return model


def fill(model: Model, weights: Any, where: str) -> None:
    """Copy the weights of a checkpoint into the model's parameters, every one exactly once."""
    architecture = _architecture({"model_type": model.model_type})
    left = set(weights.keys())
    for name, parameter in model.parameters().items():
        found = next((n for n in architecture.file_names(name) if n in left), None)
        if found is None:
            raise FileError(f"{where}: the tensor {name!r} is missing; is the download complete?")
        left.remove(found)
        array = architecture.from_file(name, weights[found])
        if array.shape != parameter.shape:
            raise FileError(
                f"{where}: {found!r} is {array.shape} where config.json asks for {parameter.shape}; "
                "are both files of the same model?"
            )
        parameter.data[...] = formats.decode(array, weights.formats[found])
    known = [*architecture.IGNORED, *map(re.escape, _shared_names(model))]
    extra = sorted(n for n in left if not any(re.fullmatch(p, n) for p in known))
    if extra:
        raise FileError(f"{where}: {len(extra)} tensors fit nowhere, such as {extra[0]!r}; "
                        "are config.json and weights of the same model?")  # fmt: skip


def save(
    model: Model, folder: str | Path, *, format: str = "f32", extra: Mapping[str, Any] | None = None
) -> None:
    """Write `config.json` and `model.safetensors` (in f32, f16 or bf16) as other programs read them.

    `extra` goes into `config.json` too: the tokenizer's `bos_token_id` and `eos_token_id`, null if not given,
    since transformers takes a missing one for that of the original model.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(
        folder / "model.safetensors",
        {n: formats.encode(a, format) for n, a in tensors(model).items()},
        formats=dict.fromkeys(model.parameters(), format),
        metadata={"format": "pt"},
    )
    values = {"bos_token_id": None, "eos_token_id": None, **config_json(model), **(extra or {})}
    (folder / "config.json").write_text(json.dumps(values, indent=2))


def tensors(model: Model) -> dict[str, np.ndarray]:
    """The parameters as a checkpoint keeps them."""
    architecture = _architecture({"model_type": model.model_type})
    return {n: architecture.to_file(n, p.data) for n, p in model.parameters().items()}


def config_json(model: Model) -> dict[str, Any]:
    """The model's `config.json`."""
    name = model.model_type
    values: dict[str, Any] = {"model_type": name, "architectures": [ARCHITECTURES[name][1]]}
    return values | dataclasses.asdict(model.config)  # nulls too: left out, a key means its default


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of a folder's `config.json`."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"{folder}: no config.json there; a model's folder has one") from None
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise FileError(f"{path}: no model_type in it; it must name the architecture")
    return values


def _architecture(values: dict[str, Any]) -> Any:
    name = values["model_type"]
    if name not in ARCHITECTURES:
        raise UsageError(f"no architecture {name!r} here; there are: {', '.join(ARCHITECTURES)}")
    return importlib.import_module(ARCHITECTURES[name][0])


def _shared_names(model: Model) -> set[str]:
    return {name for name, _ in model._walk("")} - set(model.parameters())
