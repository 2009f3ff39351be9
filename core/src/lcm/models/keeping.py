"""How a model that only runs keeps its weights: as they are stored, interleaved for kernels, or as f32."""

import warnings
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import numpy as np

from lcm import formats, settings
from lcm.backend import dispatch
from lcm.errors import LcmWarning, UsageError
from lcm.formats.interleaved import INTERLEAVED
from lcm.models.packing import Matrix, Packed, packed
from lcm.nn import Embedding, Linear, Model
from lcm.ops import linear_int8
from lcm.tensor import Tensor

ACTIVATIONS = ("int8", "f32")
INTERLEAVE = ("on", "off")


def warn_of_unread(formats_of_matrices: Iterable[str]) -> None:
    """Say once which formats no kernel here reads: matrices in these become f32."""
    if unread := sorted(f for f in set(formats_of_matrices) if not _is_read(f)):
        warnings.warn(
            LcmWarning(
                f"no backend here computes with {', '.join(unread)}: such weights take more memory, as f32"
            ),
            stacklevel=2,
        )


def keep(parameter: Tensor, array: np.ndarray, format: str) -> None:
    """Let the parameter be these numbers as they are stored; as f32 where no kernel here reads the format."""
    if array.ndim == 2 and _is_read(format):
        parameter.data, parameter.format = np.ascontiguousarray(array), format
    else:
        parameter.data = formats.decode(array, format)


def settle(model: Model, path: Path) -> None:
    """Choose how each product with weights in blocks is computed, and lay its weights out for it.

    `path` is the folder or GGUF file that they are from.
    """
    if (activations := settings.get("activations")) not in ACTIVATIONS:
        raise UsageError(f"the setting 'activations' must be int8 or f32, not {activations!r}")
    if (interleave := settings.get("interleave")) not in INTERLEAVE:
        raise UsageError(f"the setting 'interleave' must be on or off, not {interleave!r}")
    if activations == "f32":
        return
    layers = [module for module in model.modules() if isinstance(module, Linear)]
    for layer in layers:
        if _is_in_blocks(layer) and dispatch.has_kernel(f"linear_int8__{layer.weight.format}"):
            layer.product = linear_int8
    if interleave == "on":
        _interleave(model, layers, path)


def _interleave(model: Model, layers: list[Linear], path: Path) -> None:
    """Give layers the interleaved form of their weights, one after the other as they are used.

    An embedding that shares its weights with one of them takes them too: they need not be in memory twice.
    """
    numbers: dict[int, int] = {}  # by what a matrix is made of, which may have several uses
    matrices: list[Matrix] = []
    for layer in layers:
        name = _interleaved_format(layer.weight)
        if name and id(layer.weight) not in numbers:
            numbers[id(layer.weight)] = len(matrices)
            matrices.append(Matrix(layer.weight.data, name))
    found = packed(matrices, path)
    if found is None:
        return
    place = {id(layer): numbers.get(id(layer.weight)) for layer in layers}
    for layer in layers:
        if (number := place[id(layer)]) is not None:
            layer.weight = Tensor(found.matrix(number), matrices[number].format)
    for module in model.modules():
        if isinstance(module, Embedding) and (number := numbers.get(id(module.weight))) is not None:
            _embed_by(module, found.matrix(number), matrices[number].format)
        _join([getattr(module, name) for name in module.same_input], place, found)


def _embed_by(embedding: Embedding, array: np.ndarray, format: str) -> None:
    if dispatch.has_kernel(f"embedding__{format}"):
        embedding.weight = Tensor(array, format)


def _join(layers: list[Linear], place: dict[int, int | None], found: Packed) -> None:
    """Join neighbours whose weights lie one behind the other, in one format."""
    for same, run in groupby(layers, lambda layer: (layer.weight.format, layer.product)):
        together = list(run)
        numbers = [place[id(layer)] for layer in together]
        first, last = numbers[0], numbers[-1]
        if first is None or last is None or numbers != [*range(first, last + 1)] or first == last:
            continue
        whole = Linear(0, 0)
        whole.weight, whole.product = Tensor(found.matrix(first, last), same[0]), same[1]
        whole.bias = _biases(together)
        together[0].joined = whole, tuple(layer.weight.shape[0] for layer in together)


def _biases(layers: list[Linear]) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    zeros = (np.zeros(layer.weight.shape[0], np.float32) for layer in layers)
    parts = (
        z if layer.bias is None else layer.bias.data for layer, z in zip(layers, zeros, strict=True)
    )
    return Tensor(np.concatenate(list(parts)))


def _is_read(format: str) -> bool:
    return format == "f32" or dispatch.has_kernel(f"linear__{format}")


def _is_in_blocks(layer: Linear) -> bool:
    return formats.FORMATS[layer.weight.format].numbers > 1


def _interleaved_format(weight: Tensor) -> str:
    """The format that the weight is wanted in; empty if it has to stay as it is."""
    name = next((n for n, i in INTERLEAVED.items() if i.of == weight.format), "")
    fits = name and weight.shape[0] % formats.FORMATS[name].rows == 0
    return name if fits and dispatch.has_kernel(f"linear_int8__{name}") else ""
