"""How a model that only runs keeps its weights: as they are stored, interleaved for kernels, or as f32."""

import warnings
from collections.abc import Iterable

import numpy as np

from lcm import formats, settings
from lcm.backend import dispatch
from lcm.errors import LcmWarning, UsageError
from lcm.formats.interleaved import INTERLEAVED
from lcm.nn import Linear, Model
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


def settle(model: Model) -> None:
    """Choose how each product with weights in blocks is computed, and lay its weights out for it."""
    if (activations := settings.get("activations")) not in ACTIVATIONS:
        raise UsageError(f"the setting 'activations' must be int8 or f32, not {activations!r}")
    if (interleave := settings.get("interleave")) not in INTERLEAVE:
        raise UsageError(f"the setting 'interleave' must be on or off, not {interleave!r}")
    if activations == "f32":
        return
    made: dict[int, Tensor] = {}  # by what it is made of, which may have several uses
    for layer in model.modules():
        if not isinstance(layer, Linear) or formats.FORMATS[layer.weight.format].numbers == 1:
            continue
        if dispatch.has_kernel(f"linear_int8__{layer.weight.format}"):
            key = id(layer.weight)
            made[key] = layer.weight = made.get(key) or _interleaved(layer.weight)
            layer.product = linear_int8


def _is_read(format: str) -> bool:
    return format == "f32" or dispatch.has_kernel(f"linear__{format}")


def _interleaved(weight: Tensor) -> Tensor:
    name = next((n for n, i in INTERLEAVED.items() if i.of == weight.format), "")
    if not name or settings.get("interleave") == "off" or weight.shape[0] % formats.FORMATS[name].rows:
        return weight
    if not dispatch.has_kernel(f"linear_int8__{name}"):
        return weight
    return Tensor(formats.interleave(weight.data, name), name)
