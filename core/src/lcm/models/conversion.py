"""From a model's files to those of another kind or format: one tensor at a time, so that large models fit."""

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lcm import formats, models
from lcm.errors import FileError, UsageError
from lcm.files.gguf_writing import save_gguf
from lcm.files.refusal import brief
from lcm.models.dialects import DIALECTS, Dialect
from lcm.models.gguf import DIVISORS, SCALING, divisors_of, is_norm, pairs, read_config
from lcm.models.recipes import RECIPES, format_for
from lcm.models.scaling import Llama3
from lcm.nn import Model
from lcm.text.tokenizer import Tokenizer

# Numbers that GGUF files have for the recipes (llama.cpp's llama_ftype).
FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q4_k_s": 14, "q4_k_m": 15,
    "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "bf16": 32,
}  # fmt: skip
QUANTIZATION_VERSION = 2
TOKENS = "tokenizer.ggml.tokens"
UNUSED = 5  # a type of tokens
PADDING = {"tokenizer.ggml.token_type": UNUSED, "tokenizer.ggml.scores": -1000.0}
SCALINGS = {"linear": "linear", "yarn": "yarn", "default": "none"}  # what a GGUF file calls them


def to_gguf(
    source: str | Path, out: str | Path, recipe: str, importance: Mapping[str, np.ndarray] | None = None
) -> None:
    """Write the model of a folder or a GGUF file as one GGUF file, in the formats of the recipe.

    `importance` is of `read_importance`: how much the errors of each column of a tensor count.
    """
    source = Path(source)
    if recipe not in RECIPES:
        raise UsageError(f"no format {recipe!r}; there are: {', '.join(RECIPES)}")
    model, weights = models.opened(source)
    name, dialect = _dialect(model)
    tensors = Converted(model, models.matched(model, weights, str(source)), dialect, recipe)
    tensors.heed(importance or {})
    metadata = {
        "general.architecture": name,
        "general.name": source.stem if source.is_file() else source.resolve().name,
        "general.file_type": np.uint32(FILE_TYPES[recipe]),
        "general.quantization_version": np.uint32(QUANTIZATION_VERSION),
        **_keys(model, name, dialect),
        **_tokens(Tokenizer.load(source), model.vocabulary),
    }
    _check(model, metadata, tensors)
    save_gguf(out, tensors, metadata=metadata, formats=tensors.formats, shapes=tensors.shapes)


def to_folder(source: str | Path, out: str | Path, format: str) -> None:
    """Write the model of a GGUF file or a folder as a folder, in f32, f16 or bf16."""
    if format not in ("f32", "f16", "bf16"):
        raise UsageError(f"a model's folder holds f32, f16 or bf16, not {format!r}; name a .gguf file")
    tokenizer = Tokenizer.load(source)
    others = tokenizer.ends - {tokenizer.end}
    end = [tokenizer.end, *sorted(others)] if others else tokenizer.end
    ends = {"bos_token_id": tokenizer.start, "eos_token_id": end}
    models.save(models.load(source), out, format=format, extra=ends)
    tokenizer.save(Path(out))


class Converted(Mapping[str, np.ndarray]):
    """A GGUF file's tensors, each made when it is asked for."""

    def __init__(
        self, model: Model, stored: Mapping[str, models.Stored], dialect: Dialect, recipe: str
    ) -> None:
        self._parts: dict[str, list[str]] = {}  # our names of each: of a stack, its experts'
        for name in stored:
            self._parts.setdefault(dialect.theirs(name), []).append(name)
        self._stored, self._made = stored, _divisors(model)
        parameters = model.parameters()
        self.shapes = {
            theirs: (*([len(ours)] * dialect.is_stack(theirs)), *parameters[ours[0]].shape)
            for theirs, ours in self._parts.items()
        }
        self.shapes |= {name: array.shape for name, array in self._made.items()}
        layers, tied = model.cache_shape[0], "output.weight" not in self._parts
        self.formats = {
            name: format_for(recipe, name, shape, layers=layers, tied=tied)
            for name, shape in self.shapes.items()
        }
        self._dialect, self._heads = dialect, dialect.heads(vars(model.config))
        self._importance: Mapping[str, np.ndarray] = {}

    def heed(self, importance: Mapping[str, np.ndarray]) -> None:
        """How much the errors of each tensor's columns count; `FileError` where it is of another model."""
        for name, weights in importance.items():
            shape = self.shapes.get(name, ())
            if weights.shape[-1:] != shape[-1:] or weights.size != math.prod((*shape[:-2], *shape[-1:])):
                here = f"is {shape}" if shape else "is not there"
                raise FileError(f"the importance file says {weights.shape} of {brief(name)}, which {here} "
                                "here; is it of the same model?")  # fmt: skip
        self._importance = importance

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._made:
            return self._made[name]
        parts, weights = self._parts[name], self._importance.get(name)
        if not self._dialect.is_stack(name):
            return self._part(parts[0], name, weights)
        format = formats.FORMATS[self.formats[name]]
        made = np.empty(format.stored(self.shapes[name]), format.storage)
        each = itertools.repeat(None) if weights is None else weights.reshape(len(parts), -1)
        for i, (ours, columns) in enumerate(zip(parts, each, strict=False)):
            made[i] = self._part(ours, name, columns)
        return made

    def _part(self, ours: str, theirs: str, weights: np.ndarray | None) -> np.ndarray:
        """One of our tensors as it lies in theirs."""
        stored, format = self._stored[ours], self.formats[theirs]
        array = stored.array()
        if stored.format != format:
            array = formats.encode(formats.decode(array, stored.format), format, weights)
        if self._dialect.ones and is_norm(ours):
            array = array + np.float32(1)
        if heads := self._heads.get(ours.rpartition(".")[0].rpartition(".")[2]):
            array = pairs(array, heads)
        return np.ascontiguousarray(array)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def _divisors(model: Model) -> dict[str, np.ndarray]:
    """The tensor that stands for Llama 3's scaling."""
    scaling = getattr(model.config, "rope_scaling", None)
    if not isinstance(scaling, Llama3):
        return {}
    return {DIVISORS: divisors_of(scaling, model.config.rope_theta, model.cache_shape[2])}


def _check(model: Model, metadata: Mapping[str, Any], tensors: Converted) -> None:
    """`FileError` for what the model is and the file would not say."""
    values = read_config(metadata, tensors.shapes, "the new file", tensors.get(DIVISORS))
    read = models.build(values).config
    lost = [
        f"{key}={value!r}"
        for key, value in vars(model.config).items()
        if vars(read).get(key) not in (value, *_same(key, model))
    ]
    if lost:
        raise FileError(f"a GGUF file of a {values['model_type']} cannot say {', '.join(lost)}")


def _same(key: str, model: Model) -> tuple[Any, ...]:
    """What a configuration may say instead of leaving the key out."""
    heads, width = model.cache_shape[1:]
    return {"num_key_value_heads": (heads,), "head_dim": (width,)}.get(key, ())


def _tokens(tokenizer: Tokenizer, vocabulary: int) -> dict[str, Any]:
    """What the file says of the tokenizer, with unused tokens up to the number that the model has."""
    found = tokenizer.gguf_metadata()
    tokens, missing = found[TOKENS], range(len(found[TOKENS]), vocabulary)
    found[TOKENS] = [*tokens, *(f"[PAD{id}]" for id in missing)]
    for key, padding in PADDING.items():
        if key in found:
            found[key] = np.append(found[key], np.full(len(missing), padding, found[key].dtype))
    return found


def _dialect(model: Model) -> tuple[str, Dialect]:
    kind = "llama" if model.model_type == "mistral" else model.model_type
    for name, dialect in DIALECTS.items():
        if dialect.model_type == kind:
            return name, dialect
    known = ", ".join(d.model_type for d in DIALECTS.values())
    raise UsageError(f"no GGUF file can be written of a {kind} here; only of: {known}")


def _keys(model: Model, name: str, dialect: Dialect) -> dict[str, Any]:
    config = model.config
    found = {f"{name}.{theirs}": getattr(config, key, None) for theirs, key in dialect.keys.items()}
    found |= {f"{name}.vocab_size": model.vocabulary, f"{name}.rope.dimension_count": model.cache_shape[2]}
    key_heads = f"{name}.attention.head_count_kv"
    if found.get(key_heads, 0) is None:
        found[key_heads] = model.cache_shape[1]
    return {k: v for k, v in found.items() if v is not None} | _scaling(config, name)


def _scaling(config: Any, name: str) -> dict[str, Any]:
    scaling = getattr(config, "rope_scaling", None)
    if scaling is None or isinstance(scaling, Llama3):  # which tensor DIVISORS says
        return {}
    said: dict[str, Any] = dict(vars(scaling))
    kind = said.get("rope_type")
    if kind not in SCALINGS:
        raise FileError(f"rope_scaling of type {kind!r} cannot be said in a GGUF file here; "
                        f"only: {', '.join(SCALINGS)}")  # fmt: skip
    said["rope_type"] = SCALINGS[kind]
    theirs = {ours: key for key, ours in SCALING.items()} | {"rope_type": "type"}
    prefix = f"{name}.rope.scaling."
    return {prefix + theirs.get(key, key): v for key, v in said.items() if v is not None}
