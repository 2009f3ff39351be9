"""Models: one file per architecture, named by its `model_type`, and how a folder becomes one.

A model's folder is a Hugging Face one: `config.json`, `model.safetensors` (or shards), `tokenizer.json`.
Or it is one GGUF file, which has all three in it.
"""

import dataclasses
import importlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lcm import formats, host
from lcm.errors import FileError, LcmError, UsageError
from lcm.files.gguf import open_gguf
from lcm.files.reading import read_json
from lcm.files.refusal import brief
from lcm.files.safetensors import save_safetensors
from lcm.files.sharded import ShardedWeights, TensorFile
from lcm.files.weights import open_weights
from lcm.models import gguf
from lcm.models.keeping import keep, settle, warn_of_unread
from lcm.nn import Model

Weights = TensorFile | ShardedWeights | gguf.GgufWeights

# model_type: the module that defines it, and the name that transformers gives the class.
ARCHITECTURES = {
    "gemma2": ("lcm.models.gemma2", "Gemma2ForCausalLM"),
    "gemma3_text": ("lcm.models.gemma3_text", "Gemma3ForCausalLM"),
    "gpt2": ("lcm.models.gpt2", "GPT2LMHeadModel"),
    "gpt_oss": ("lcm.models.gpt_oss", "GptOssForCausalLM"),
    "granite": ("lcm.models.granite", "GraniteForCausalLM"),
    "llama": ("lcm.models.llama", "LlamaForCausalLM"),
    "mistral": ("lcm.models.llama", "MistralForCausalLM"),
    "phi3": ("lcm.models.phi3", "Phi3ForCausalLM"),
    "qwen2": ("lcm.models.qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("lcm.models.qwen3", "Qwen3ForCausalLM"),
    "qwen3_moe": ("lcm.models.qwen3_moe", "Qwen3MoeForCausalLM"),
    "starcoder2": ("lcm.models.starcoder2", "Starcoder2ForCausalLM"),
}


def build(values: dict[str, Any]) -> Model:
    """A model from the contents of a `config.json`, whose parameters have no numbers yet."""
    architecture = _architecture(values)
    try:
        model: Model = architecture.MODEL(architecture.configure(values))
    except LcmError:
        raise
    except (ArithmeticError, MemoryError, ValueError) as error:  # numpy's, of sizes that no array has
        raise FileError(f"config.json: no {values['model_type']} can have these sizes: {error}") from None
    model.model_type = values["model_type"]
    return model


def fresh(values: dict[str, Any], seed: int) -> Model:
    """A model with random parameters."""
    model = build(values)
    model.initialise(np.random.default_rng(seed))
    return model


def load(path: str | Path, *, as_stored: bool = False) -> Model:
    """The model of a folder or a GGUF file, with its weights as f32; `FileError` says what does not fit.

    `as_stored` is for a model that only runs: its weights stay in their formats, in the mapped file.
    """
    model, weights = opened(path)
    for parameter in () if as_stored else model.parameters().values():
        parameter.data = np.empty(parameter.shape, np.float32)
    fill(model, weights, str(path), as_stored=as_stored)
    if as_stored:
        settle(model, Path(path))
    return model


def opened(path: str | Path) -> tuple[Model, Weights]:
    """The model of a folder or a GGUF file, still empty, and its weights, not yet read."""
    path = Path(path)
    file = open_gguf(path) if path.suffix == ".gguf" else None
    if file is None:
        values = read_config(path)
    else:
        shapes = {name: file.shape(name) for name in file}
        divisors = gguf.divisors_in(file)
        values = gguf.read_config(file.metadata, shapes, str(path), divisors)
    try:
        model = build(values)
    except LcmError as error:
        raise FileError(f"{path}: {error}") from None
    if file is None:
        return model, model.parts(open_weights(path))
    return model, gguf.GgufWeights(file, values, _architecture(values).to_file)


def fill(model: Model, weights: Weights, where: str, *, as_stored: bool = False) -> None:
    """Give the model's parameters the weights of a checkpoint, every one exactly once."""
    parameters, found = model.parameters(), matched(model, weights, where)
    kept = ((stored.format if as_stored else "f32", parameters[n].size) for n, stored in found.items())
    _refuse_what_does_not_fit(where, sum(formats.FORMATS[format].bytes(n) for format, n in kept))
    if as_stored:
        warn_of_unread(s.format for n, s in found.items() if parameters[n].ndim == 2)
    for name, stored in found.items():
        if as_stored:
            keep(parameters[name], stored.array(), stored.format)
        else:
            parameters[name].data[...] = formats.decode(stored.array(), stored.format)


def _refuse_what_does_not_fit(where: str, needed: int) -> None:
    memory = host.current().memory.value
    if memory is not None and needed > memory:
        raise FileError(
            f"{where}: its weights take {needed / 1e9:.2f} GB, and this machine has {memory / 1e9:.2f} GB of "
            "memory; write it in fewer bits (lcm quantize), or take a smaller model"
        )


@dataclass(frozen=True)
class Stored:
    """A parameter in a file of weights: its format there, and how its numbers come from there."""

    format: str
    array: Callable[[], np.ndarray]


def matched(model: Model, weights: Weights, where: str) -> dict[str, Stored]:
    """What the file has for each of the model's parameters; `FileError` if they do not fit each other."""
    architecture = _architecture({"model_type": model.model_type})
    left = set(weights.keys())
    found = {}
    for name, parameter in model.parameters().items():
        theirs = next((n for n in architecture.file_names(name) if n in left), None)
        if theirs is None:
            raise FileError(f"{where}: the tensor {name!r} is missing; is the download complete?")
        left.remove(theirs)
        shape = architecture.from_file(name, np.broadcast_to(np.int8(0), weights.shape(theirs))).shape
        if shape != parameter.shape:
            raise FileError(
                f"{where}: {brief(theirs)} is {shape} where the configuration asks for {parameter.shape}; "
                "are both of the same model?"
            )
        if weights.formats[theirs] not in formats.FORMATS:
            raise FileError(f"{where}: {brief(theirs)} is stored as {weights.formats[theirs]}, which lcm "
                            f"cannot compute with; there are: {', '.join(formats.FORMATS)}")  # fmt: skip
        take = partial(_from_file, architecture, name, weights, theirs)
        found[name] = Stored(weights.formats[theirs], take)
    known = [*architecture.IGNORED, *map(re.escape, _shared_names(model))]
    extra = sorted(n for n in left if not any(re.fullmatch(p, n) for p in known))
    if extra:
        raise FileError(f"{where}: {len(extra)} tensors fit nowhere, such as {brief(extra[0])}; "
                        "are config.json and weights of the same model?")  # fmt: skip
    return found


def _from_file(architecture: Any, name: str, weights: Weights, theirs: str) -> np.ndarray:
    array: np.ndarray = architecture.from_file(name, weights[theirs])
    return array


def save(
    model: Model, folder: str | Path, *, format: str = "f32", extra: Mapping[str, Any] | None = None
) -> None:
    """Write `config.json` and `model.safetensors` (in f32, f16 or bf16) as other programs read them.

    `extra` goes into `config.json` too: the tokenizer's `bos_token_id`, `eos_token_id` and `pad_token_id`,
    null if not given, since transformers takes a missing one for that of the original model.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    encoded = {n: formats.encode(a, format) for n, a in tensors(model).items()}
    save_safetensors(
        folder / "model.safetensors",
        encoded,
        formats=dict.fromkeys(encoded, format),
        metadata={"format": "pt"},
    )
    tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    values = {**tokens, **config_json(model), **(extra or {})}
    (folder / "config.json").write_text(json.dumps(values, indent=2))


def tensors(model: Model) -> Mapping[str, np.ndarray]:
    """The parameters as a checkpoint keeps them."""
    architecture = _architecture({"model_type": model.model_type})
    return model.whole({n: architecture.to_file(n, p.numpy()) for n, p in model.parameters().items()})


def config_json(model: Model) -> dict[str, Any]:
    """The model's `config.json`."""
    name = model.model_type
    values: dict[str, Any] = {"model_type": name, "architectures": [ARCHITECTURES[name][1]]}
    return values | dataclasses.asdict(model.config)  # nulls too: left out, a key means its default


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of a folder's `config.json`."""
    path = folder / "config.json"
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise FileError(f"{folder}: no config.json there; a model's folder has one") from None
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise FileError(f"{path}: no model_type in it; it must name the architecture")
    return values


def _architecture(values: dict[str, Any]) -> Any:
    check_known(values)
    return importlib.import_module(ARCHITECTURES[values["model_type"]][0])


def check_known(values: dict[str, Any]) -> None:
    """`UsageError` unless there is such an architecture here."""
    name = values["model_type"]
    if name not in ARCHITECTURES:
        raise UsageError(f"no architecture {brief(name)} here{gguf.nearest(name, ARCHITECTURES)}; there are: "
                         f"{', '.join(ARCHITECTURES)}")  # fmt: skip


def _shared_names(model: Model) -> set[str]:
    return {name for name, _ in model._walk("")} - set(model.parameters())
